"""Semi-supervised training of any segmentor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from ..ops import (
    affinity_consistency_loss,
    box_masks,
    interpolated_label_affinity_loss,
    label_affinity_loss,
    labels_on_grid,
    mix,
    smoothness_loss,
)
from .checks import check_choice, check_keys, decode, decode_heads
from .derprop_head import DerPropHead
from .losses import hard_loss, labeled_losses, soft_losses
from .pseudo_labeler import Prediction, PseudoLabeler, PseudoLabels
from .teacher_student import TeacherStudentSegmentor
from .view import View

Samples = dict[str, list[SegDataSample]]

SUP_TERMS = ('seg', 'prop', 'affinity', 'aux')
UNSUP_TERMS = ('hard', 'kl', 'soft', 'fp', 'prop', 'affinity', 'smooth')
PROPAGATION_TERMS = {'prop', 'affinity', 'smooth'}


@MODELS.register_module()
class SemiSegmentor(TeacherStudentSegmentor):
    """A student segmentor that learns from labelled and unlabelled images, and its teacher.

    The student and the teacher are built from any MMSegmentation segmentor config whose decode head gives logits.
    :meth:`loss` is the method; the teacher moves, and alpha is set, by
    :class:`mmseg_derprop.engine.PseudoLabelHook`. In evaluation it answers as the segmentor that ``predict_on``
    names.

    Branches of a training batch: ``sup`` (labelled images), ``weak`` and ``strong`` (two views of the same
    unlabelled crops) and, where CutMix takes its boxes from a second view, ``weak_mix`` and ``strong_mix``.

    Args:
        segmentor (dict): Config of the segmentor.
        num_classes (int, optional): Number of classes, for all heads of the segmentor; by default as in its config.
        propagation_head (dict, optional): Config of the head that propagates; its ``in_channels`` and
            ``num_classes`` are taken from the segmentor. Without one nothing is propagated.
        loss_weight (dict): ``sup`` and ``unsup``, each a dict of weights by term; a term without a weight, or with
            0, is not computed. sup: ``seg`` (the segmentor's own loss), ``prop`` (the same of the propagated
            prediction), ``affinity``, ``aux`` (its auxiliary heads; by default as ``seg``). unsup: ``hard``
            (cross entropy with the pseudo-labels), ``kl``, ``soft``, ``fp`` (feature perturbation), ``prop``,
            ``affinity``, ``smooth``.
        pseudo_labels (dict): ``tau`` and ``momentum`` of :class:`PseudoLabeler`.
        cutmix_partner (str): ``'batch'``: boxes come from the next image of the process's batch. ``'second_view'``
            (published): from another augmentation of the same image, the branches ``weak_mix`` and ``strong_mix``.
        cutmix_predictor (str): Whose prediction labels the boxes: ``'student'`` (its own of the weak view, no
            further forward; only with ``'batch'``) or ``'teacher'`` (published; in evaluation mode).
        cutmix_target (bool): Whether the soft targets of ``kl`` and ``soft`` are cut-mixed as the strong view is;
            False is published.
        affinity_pairs (str): Pairs of positions that ``unsup.affinity`` compares: ``'all'`` (published),
            ``'outside'`` the CutMix box, or also those ``'inside'`` it, there with the partner's affinities.
        label_affinity (str): ``'nearest'`` or ``'interpolated'`` (published), see :mod:`mmseg_derprop.ops.affinity`.
        label_affinity_grad (bool): Whether ``sup.affinity`` has a gradient; published it has none.
        smoothness (str): ``'absolute'``, the mean absolute second derivative, or ``'softmax'`` (published): after a
            softmax over the positions its mean is the constant 1 / L.
        perturb_ratio (float): Channel dropout of the perturbed features.
        predict_on (str): ``'teacher'`` or ``'student'``, which of them evaluation asks.
        channels_last (bool): Whether weights, and so the maps of all networks, lie in memory with channels last.
        compile (bool | dict): Whether student and head are compiled, or the options of ``torch.compile``.
        data_preprocessor (dict, optional): Given by the runner if the config has one at its top level; it serves a
            segmentor that has none of its own.
        pretrained, train_cfg: Given by ``mmseg.apis.init_model``; the segmentor's own config has them.

    Raises:
        ValueError: If an option or a term is unknown, options exclude each other, or the numbers of classes of
            head and segmentor differ.
        TypeError: If the segmentor's decode head gives no logits.
    """

    def __init__(
        self,
        segmentor: dict,
        loss_weight: dict,
        num_classes: int | None = None,
        propagation_head: dict | None = None,
        pseudo_labels: dict | None = None,
        cutmix_partner: str = 'batch',
        cutmix_predictor: str = 'student',
        cutmix_target: bool = True,
        affinity_pairs: str = 'inside',
        label_affinity: str = 'nearest',
        label_affinity_grad: bool = True,
        smoothness: str = 'absolute',
        perturb_ratio: float = 0.5,
        predict_on: str = 'teacher',
        channels_last: bool = False,
        compile: bool | dict = False,
        data_preprocessor: dict | None = None,
        pretrained: str | None = None,
        train_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        check_choice('cutmix_partner', cutmix_partner, ('batch', 'second_view'))
        check_choice('cutmix_predictor', cutmix_predictor, ('student', 'teacher'))
        check_choice('affinity_pairs', affinity_pairs, ('all', 'outside', 'inside'))
        check_choice('label_affinity', label_affinity, ('nearest', 'interpolated'))
        check_choice('smoothness', smoothness, ('absolute', 'softmax'))
        check_keys('loss_weight', loss_weight, ('sup', 'unsup'))
        sup = loss_weight.get('sup', {})
        self.sup_weight: dict[str, float] = {'aux': sup.get('seg', 0.0), **sup}
        self.unsup_weight: dict[str, float] = dict(loss_weight.get('unsup', {}))
        check_keys('loss_weight.sup', self.sup_weight, SUP_TERMS)
        check_keys('loss_weight.unsup', self.unsup_weight, UNSUP_TERMS)
        weights = [*self.sup_weight.values(), *self.unsup_weight.values()]
        if not all(isinstance(weight, (int, float)) and weight >= 0 for weight in weights) or not any(weights):
            raise ValueError(f'loss_weight = {loss_weight}: weights must be numbers of at least 0, and one above 0.')
        if cutmix_partner == 'second_view' and cutmix_predictor == 'student':
            raise ValueError(
                "cutmix_partner='second_view' needs cutmix_predictor='teacher': the student does not see that view."
            )
        if cutmix_partner == 'second_view' and affinity_pairs == 'inside':
            raise ValueError(
                "affinity_pairs='inside' needs cutmix_partner='batch': the student's affinities of a second view are "
                "not computed. Use affinity_pairs='outside'."
            )
        if not 0 <= perturb_ratio < 1:
            raise ValueError(f'perturb_ratio = {perturb_ratio}, but it must lie within 0 .. 1, 1 excluded.')

        super().__init__(segmentor, num_classes, predict_on, data_preprocessor, init_cfg)
        self.propagation_head: DerPropHead | None = self._build_head(propagation_head)
        pseudo_labels = pseudo_labels or {}
        check_keys('pseudo_labels', pseudo_labels, ('tau', 'momentum'))
        self.pseudo_labeler = PseudoLabeler(self.student.out_channels, **pseudo_labels)

        self.cutmix_partner = cutmix_partner
        self.cutmix_predictor = cutmix_predictor
        self.cutmix_target = cutmix_target
        self.affinity_pairs = affinity_pairs
        self.label_affinity = label_affinity
        self.label_affinity_grad = label_affinity_grad
        self.smoothness = smoothness
        self.perturb_ratio = perturb_ratio

        if channels_last:
            self.to(memory_format=torch.channels_last)
        if compile is not False:
            self.compile_networks(**({} if compile is True else compile))

        self.alpha = 0.0
        self.statistics: dict[str, Tensor] = {}
        self.step_observer: Callable[[dict], None] | None = None

    def _build_head(self, config: dict | None) -> DerPropHead | None:
        if config is None:
            wanted = {
                f'{group}.{term}'
                for group, weights in dict(sup=self.sup_weight, unsup=self.unsup_weight).items()
                for term in PROPAGATION_TERMS
                if weights.get(term)
            }
            if wanted:
                raise ValueError(
                    f'loss_weight has {", ".join(sorted(wanted))}, which need a propagation_head: give one, or drop '
                    'these terms.'
                )
            return None
        config, channels = dict(config), self.feature_channels
        index = config.get('in_index', -1)
        if not -len(channels) <= index < len(channels):
            raise ValueError(
                f'propagation_head.in_index = {index}, but the segmentor gives {len(channels)} features, of {channels} '
                f'channels: choose 0 to {len(channels) - 1}, or -1 for the last.'
            )
        for key, actual in dict(in_channels=channels[index], num_classes=self.student.out_channels).items():
            given = config.setdefault(key, actual)
            if given != actual:
                raise ValueError(
                    f'propagation_head.{key} = {given}, but the segmentor has {actual}: leave {key} out, it is found.'
                )
        return MODELS.build(config)

    def compile_networks(self, **options) -> None:
        """Compiles the student's parts and the propagation head in place; names in checkpoints stay.

        Args:
            **options: Of ``torch.compile``.
        """
        for part in (*self.student.children(), self.propagation_head):
            if isinstance(part, nn.Module) and part is not self.student.data_preprocessor:
                for module in part if isinstance(part, nn.ModuleList) else [part]:
                    module.compile(**options)

    def loss(self, inputs: dict[str, Tensor], data_samples: Samples) -> dict[str, Tensor]:
        """The method: predict, mix, label, predict again, compare.

        Args:
            inputs (dict[str, Tensor]): (N, 3, H, W) by branch; labelled and unlabelled images may differ in number.
            data_samples (dict[str, list[SegDataSample]]): By branch. ``sup`` has ``gt_sem_seg``, ``weak`` has
                ``ignore_map``, ``strong`` has ``cutmix_box``.

        Returns:
            dict[str, Tensor]: Weighted losses, ``sup.loss_*`` and ``unsup.loss_*``.
        """
        num_labeled = len(inputs['sup'])
        if self.ignore_index != 255:
            for sample in data_samples['sup']:  # MMSegmentation writes 255 for padding and unmapped labels
                sample.gt_sem_seg.data.masked_fill_(sample.gt_sem_seg.data == 255, self.ignore_index)
        ignored = stack_maps(data_samples['weak'], 'ignore_map').bool()
        inside = box_masks(stack_boxes(data_samples['strong'], ignored.device), (ignored.shape[1], ignored.shape[2]))

        # Predict. Labelled images and weak views share a forward, and so the statistics of its normalisation.
        perturb = bool(self.unsup_weight.get('fp'))
        views, features, stages = self.see(torch.cat([inputs['sup'], inputs['weak']]), perturb)
        labeled, weak = views[:num_labeled], views[num_labeled:]

        # Mix and label.
        own = self.predict_weak(weak, ignored)
        partner, partner_images = self.find_partner(inputs, data_samples, own)
        regions = self.find_regions(weak)
        target = self.pseudo_labeler(own, partner, inside, regions)

        # Predict the strong views.
        embed = any(self.unsup_weight.get(term) for term in PROPAGATION_TERMS)
        strong, *_ = self.see(mix(inputs['strong'], partner_images, inside), embed=embed)

        # Compare.
        features, stages = (tuple(part[:num_labeled] for part in parts) for parts in (features, stages))
        losses = self.auxiliary_losses(features, stages, data_samples['sup'])
        losses |= self.sup_losses(labeled, data_samples['sup'])
        losses |= self.unsup_losses(labeled, weak, strong, target, inside)
        self.record(data_samples, target, inside)
        if self.step_observer is not None:
            self.step_observer(dict(inputs=inputs, partner_images=partner_images, inside=inside, target=target))
        return losses

    def see(
        self, images: Tensor, perturb: bool = False, embed: bool = True
    ) -> tuple[View, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Predicts images.

        Args:
            images (Tensor): (N, 3, H, W).
            perturb (bool): Whether to predict also from features with channels dropped, decoded in the same pass
                (UniMatch, arXiv 2208.09910).
            embed (bool): Whether the propagation head is needed.

        Returns:
            tuple[View, tuple[Tensor, ...], tuple[Tensor, ...]]: The view, the features, and the logits of a
            cascade's earlier decode heads.
        """
        features = tuple(self.student.extract_feat(images))
        decoded = features
        if perturb:
            decoded = tuple(torch.cat([f, F.dropout2d(f, self.perturb_ratio)]) for f in features)
        *stages, last = decode(self.student, decoded)
        logits, *perturbed = last.split(len(images))
        logits = F.interpolate(logits, images.shape[-2:], mode='bilinear', align_corners=self.align_corners)
        head = self.propagation_head
        embedding = head(features) if head is not None and embed else None
        view = View(logits, perturbed[0] if perturbed else None, embedding, head, self.align_corners)
        return view, features, tuple(stages)

    def predict_weak(self, weak: View, ignored: Tensor) -> Prediction:
        """p_w: the weak view's logits, and alpha of the propagated ones."""
        # Not under no_grad: the view keeps its propagated logits, and a loss will want their gradient.
        logits = weak.logits.detach()
        if self.alpha > 0 and self.propagation_head is not None:
            logits = torch.lerp(logits, weak.propagated.detach().to(logits.dtype), self.alpha)
        return Prediction.of(logits, ignored)

    @torch.no_grad()
    def find_partner(
        self, inputs: dict[str, Tensor], data_samples: Samples, own: Prediction
    ) -> tuple[Prediction, Tensor]:
        """What fills the CutMix boxes: the partners' predictions and their strong views."""
        if self.cutmix_partner == 'second_view':
            ignored = stack_maps(data_samples['weak_mix'], 'ignore_map').bool()
            return Prediction.of(self.teacher_logits(inputs['weak_mix']), ignored), inputs['strong_mix']
        if self.cutmix_predictor == 'teacher':
            own = Prediction.of(self.teacher_logits(inputs['weak']), own.ignored)
        return own.roll(), inputs['strong'].roll(-1, 0)

    @torch.no_grad()
    def teacher_logits(self, images: Tensor) -> Tensor:
        """Logits (N, K, H, W) of the teacher in evaluation mode."""
        logits = decode(self.teacher, self.teacher.extract_feat(images))[-1]
        return F.interpolate(logits, images.shape[-2:], mode='bilinear', align_corners=self.align_corners)

    def find_regions(self, weak: View) -> Tensor | None:
        """Regions (N, R, H, W) of the weak views."""
        if self.propagation_head is None or not self.propagation_head.num_regions:
            return None
        return self.propagation_head.regions(weak.embedding, weak.size)

    def auxiliary_losses(
        self, features: tuple[Tensor, ...], stages: tuple[Tensor, ...], samples: list[SegDataSample]
    ) -> dict[str, Tensor]:
        """Losses of the segmentor's auxiliary heads and earlier decode stages, on labelled images only."""
        weight = self.sup_weight['aux']
        if not weight:
            return {}
        parts = {}
        if self.student.with_auxiliary_head:
            heads: Any = self.student.auxiliary_head
            for index, head in enumerate(heads if isinstance(heads, nn.ModuleList) else [heads]):
                parts[f'aux_{index}'] = labeled_losses(head, head(features), samples)
        for index, (head, logits) in enumerate(zip(decode_heads(self.student), stages)):
            parts[f'stage_{index}'] = labeled_losses(head, logits, samples)
        return {f'sup.{part}.{name}': weight * loss for part, terms in parts.items() for name, loss in terms.items()}

    def sup_losses(self, labeled: View, samples: list[SegDataSample]) -> dict[str, Tensor]:
        """Losses of the labelled images."""

        def seg(logits: Tensor) -> Tensor:
            return torch.stack([*labeled_losses(decode_heads(self.student)[-1], logits, samples).values()]).sum()

        def affinity() -> Tensor:
            e, order = labeled.embedding, labeled.head.max_order
            q, k = (e.q, e.k) if self.label_affinity_grad else (e.q.detach(), e.k.detach())
            loss = label_affinity_loss if self.label_affinity == 'nearest' else interpolated_label_affinity_loss
            labels = stack_maps(samples, 'gt_sem_seg')
            return loss(q, k, labels, e.grid, self.ignore_index, order)

        terms = {
            'seg': lambda: seg(labeled.logits),
            'prop': lambda: seg(labeled.propagated),
            'affinity': affinity,
        }
        return self.weigh('sup', self.sup_weight, terms)

    def unsup_losses(
        self, labeled: View, weak: View, strong: View, target: PseudoLabels, inside: Tensor
    ) -> dict[str, Tensor]:
        """Losses of the unlabelled images; ``smooth`` takes the labelled ones too."""
        own, mixed = target.own, target.mixed

        def prop() -> Tensor:
            on_strong = hard_loss(strong.propagated, target.labels, target.accepted, mixed.ignored)
            on_weak = hard_loss(weak.propagated, own.labels, target.own_confident, own.ignored)
            return (on_strong + on_weak) / 2

        def affinity() -> Tensor:
            s, w = strong.embedding, weak.embedding
            target_q, target_k = w.q.detach(), w.k.detach()
            box = None if self.affinity_pairs == 'all' else labels_on_grid(inside, s.grid)
            if box is not None and self.affinity_pairs == 'inside':
                target_q, target_k = (t.roll(-1, 0).where(box[:, None], t) for t in (target_q, target_k))
            return affinity_consistency_loss(
                s.q, s.k, target_q, target_k, strong.head.max_order, box, keep_inside=self.affinity_pairs == 'inside'
            )

        def smooth() -> Tensor:
            x, w = labeled.embedding, weak.embedding
            first = self.smoothness_of(torch.cat([x.q, w.q]), torch.cat([x.k, w.k]))
            return first + self.smoothness_of(strong.embedding.q, strong.embedding.k)

        soft_target = (mixed if self.cutmix_target else own).logits
        terms: dict[str, Callable[[], Tensor]] = {
            'hard': lambda: hard_loss(strong.logits, target.labels, target.accepted, mixed.ignored),
            'fp': lambda: hard_loss(weak.perturbed, own.labels, target.own_confident, own.ignored),
            'prop': prop,
            'affinity': affinity,
            'smooth': smooth,
        }
        if self.unsup_weight.get('kl') or self.unsup_weight.get('soft'):
            kl, soft = soft_losses(strong.logits, soft_target, target.confident, target.accepted, mixed.ignored)
            terms |= {'kl': lambda: kl, 'soft': lambda: soft}
        return self.weigh('unsup', self.unsup_weight, terms)

    def smoothness_of(self, q: Tensor, k: Tensor) -> Tensor:
        """Size of the second derivative of vectors (N, K, L), in the way that ``smoothness`` names."""
        if self.smoothness == 'softmax':
            return q.new_tensor(1 / q.shape[-1], dtype=torch.float32)  # the mean over L positions of what sums to 1
        return smoothness_loss(q, k)

    @staticmethod
    def weigh(group: str, weights: dict, terms: dict[str, Callable[[], Tensor]]) -> dict[str, Tensor]:
        """The terms that have a weight, each under its key of the log."""
        return {f'{group}.loss_{name}': weights[name] * term() for name, term in terms.items() if weights.get(name)}

    @torch.no_grad()
    def record(self, data_samples: Samples, target: PseudoLabels, inside: Tensor) -> None:
        """Keeps scalars of the step, on its device, for the log."""
        valid = ~target.mixed.ignored
        pixels = valid.sum().clamp_min(1)
        self.statistics = {
            'tau': self.pseudo_labeler.tau.clone(),
            'confident': target.confident.sum() / pixels,
            'accepted': target.accepted.sum() / pixels,
            'region_changes': (target.labels != target.mixed.labels).sum() / pixels,
        }
        mix_branch = 'weak_mix' if self.cutmix_partner == 'second_view' else 'weak'
        if all('gt_sem_seg' in sample for sample in data_samples['weak']):
            truth, partner = (stack_maps(data_samples[branch], 'gt_sem_seg') for branch in ('weak', mix_branch))
            truth = mix(truth, partner.roll(-1, 0) if mix_branch == 'weak' else partner, inside)
            known = valid & (truth != self.ignore_index)
            for key, labels, mask in (
                ('accuracy_confident', target.mixed.labels, target.confident),
                ('accuracy_accepted', target.labels, target.accepted),
            ):
                mask = mask & known
                self.statistics[key] = ((labels == truth) & mask).sum() / mask.sum()  # NaN: nothing to judge


def stack_maps(samples: list[SegDataSample], field: str) -> Tensor:
    """(N, H, W) of a field of samples, each (1, H, W)."""
    return torch.stack([getattr(sample, field).data[0] for sample in samples])


def stack_boxes(samples: list[SegDataSample], device: torch.device) -> Tensor:
    """(N, 4) int64, the samples' CutMix boxes."""
    return torch.tensor([sample.metainfo['cutmix_box'] for sample in samples]).to(device, non_blocking=True)
