"""Semi-supervised training of any segmentor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from mmseg.models import BaseSegmentor
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from ..ops import (
    box_masks,
    complementary_dropout2d,
    count_box_pairs,
    count_label_pairs,
    labels_on_grid,
    mix,
)
from ..utils.options import check_flags, is_number
from .checks import check_choice, check_keys, decode, decode_heads
from .derprop_head import DerPropHead
from .losses import labeled_losses
from .pseudo_labeler import Prediction, PseudoLabeler, PseudoLabels
from .shares import Shares
from .teacher_student import TeacherStudentSegmentor
from .terms import (
    PROPAGATION_TERMS,
    SUP_TERMS,
    UNSUP_TERMS,
    StrongView,
    SupTerms,
    TermOptions,
    UnsupTerms,
    stack_maps,
    weigh,
)
from .view import View

Samples = dict[str, list[SegDataSample]]


@MODELS.register_module()
class SemiSegmentor(TeacherStudentSegmentor):
    """A student segmentor that learns from labelled and unlabelled images, and its teacher.

    The student and the teacher are built from any MMSegmentation segmentor config whose decode head gives logits.
    :meth:`loss` is the method; the teacher moves, and alpha is set, by
    :class:`mmseg_derprop.engine.PseudoLabelHook`. In evaluation it answers as the segmentor that ``predict_on``
    names.

    Branches of a training batch: ``sup`` (labelled images), ``weak`` and ``strong`` (two views of the same
    unlabelled crops), ``strong2`` with a second strong view and, where CutMix takes its boxes from a second weak
    view, ``weak_mix`` and ``strong_mix``.

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
        pseudo_labels (dict): ``tau``, ``momentum``, ``per_class`` and ``align`` of :class:`PseudoLabeler`.
        labels_from (str): Whose prediction of the weak view becomes pseudo-labels: the ``'student'``'s in training
            mode, or the ``'teacher'``'s in evaluation mode; then the student sees weak views only if a term or a
            region reads them.
        num_strong (int): Strong views of each unlabelled image, 1 or 2, each with its own box; the terms on them are
            means over the views.
        complementary_dropout (bool): Whether the two strong views are decoded from complementary halves of each
            feature's channels (UniMatch V2).
        joint_forward (bool): Whether labelled images and the student's weak views share a forward, and so the
            statistics of its batch normalisation; else each have their own.
        strong_statistics (bool): Whether strong views move the running statistics of batch normalisation. They are
            normalised by their own in any case; but evaluation sees images without strong augmentation.
        cutmix_partner (str): ``'batch'``: boxes come from the next image of the process's batch. ``'second_view'``
            (published): from another augmentation of the same image, the branches ``weak_mix`` and ``strong_mix``.
        cutmix_predictor (str): Whose prediction labels the boxes: ``'own'`` (that which labels the partner itself, no
            further forward; only with ``'batch'``), or in evaluation mode the ``'teacher'``'s (published) or the
            ``'student'``'s.
        cutmix_target (bool): Whether the soft targets of ``kl`` and ``soft`` are cut-mixed as the strong view is;
            False is published.
        affinity_pairs (str): Pairs of positions that ``unsup.affinity`` compares: ``'all'`` (published),
            ``'outside'`` the CutMix box, or also those ``'inside'`` it, there with the partner's affinities.
        label_affinity (str): ``'nearest'`` or ``'interpolated'`` (published), see :mod:`mmseg_derprop.ops.affinity`.
        label_affinity_grad (bool): Whether ``sup.affinity`` has a gradient; published it has none.
        smoothness (str): ``'absolute'``, the mean absolute second derivative, or ``'softmax'`` (published): after a
            softmax over the positions its mean is the constant 1 / L.
        perturb_ratio (float): Channel dropout of the perturbed features.
        sync_counts (bool): Whether means over pixels, and over pairs of positions, are over those of all processes;
            else each process has its own mean (published), whatever it has to ignore. Then P processes with N images
            each learn as one with P * N, but for what depends on the batch of a process: batch statistics, CutMix
            partners, region rows, dropout, and losses of the segmentor that are no such means (OHEM, Dice, ...).
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
        labels_from: str = 'student',
        num_strong: int = 1,
        complementary_dropout: bool = False,
        joint_forward: bool = True,
        strong_statistics: bool = True,
        cutmix_partner: str = 'batch',
        cutmix_predictor: str = 'own',
        cutmix_target: bool = True,
        affinity_pairs: str = 'inside',
        label_affinity: str = 'nearest',
        label_affinity_grad: bool = True,
        smoothness: str = 'absolute',
        perturb_ratio: float = 0.5,
        sync_counts: bool = False,
        predict_on: str = 'teacher',
        channels_last: bool = False,
        compile: bool | dict = False,
        data_preprocessor: dict | None = None,
        pretrained: str | None = None,
        train_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        check_choice('cutmix_partner', cutmix_partner, ('batch', 'second_view'))
        check_choice('cutmix_predictor', cutmix_predictor, ('own', 'teacher', 'student'))
        check_choice('labels_from', labels_from, ('student', 'teacher'))
        if not is_number(num_strong, 1, 2, whole=True):
            raise ValueError(f'num_strong = {num_strong!r}: an unlabelled image has 1 or 2 strong views.')
        check_choice('affinity_pairs', affinity_pairs, ('all', 'outside', 'inside'))
        check_choice('label_affinity', label_affinity, ('nearest', 'interpolated'))
        check_choice('smoothness', smoothness, ('absolute', 'softmax'))
        check_flags(
            complementary_dropout=complementary_dropout,
            joint_forward=joint_forward,
            strong_statistics=strong_statistics,
            cutmix_target=cutmix_target,
            label_affinity_grad=label_affinity_grad,
            sync_counts=sync_counts,
            channels_last=channels_last,
        )
        if not isinstance(compile, (bool, dict)):
            raise ValueError(f'compile = {compile!r}, but it must be True, False or the options of torch.compile.')
        check_keys('loss_weight', loss_weight, ('sup', 'unsup'))
        sup, unsup = loss_weight.get('sup', {}), loss_weight.get('unsup', {})
        check_keys('loss_weight.sup', sup, SUP_TERMS)
        check_keys('loss_weight.unsup', unsup, UNSUP_TERMS)
        self.sup_weight: dict[str, float] = {'aux': sup.get('seg', 0.0), **sup}
        self.unsup_weight: dict[str, float] = dict(unsup)
        weights = [*self.sup_weight.values(), *self.unsup_weight.values()]
        if not all(is_number(weight, 0) for weight in weights) or not any(weights):
            raise ValueError(f'loss_weight = {loss_weight}: weights must be numbers of at least 0, and one above 0.')
        if cutmix_partner == 'second_view' and cutmix_predictor == 'own':
            raise ValueError(
                "cutmix_partner='second_view' needs cutmix_predictor='teacher' or 'student': nobody else predicts it."
            )
        if cutmix_partner == 'second_view' and num_strong == 2:
            raise ValueError("num_strong=2 needs cutmix_partner='batch': a second view brings one strong view only.")
        if complementary_dropout and num_strong != 2:
            raise ValueError(f'complementary_dropout needs num_strong=2, but it is {num_strong}.')
        if cutmix_partner == 'second_view' and affinity_pairs == 'inside':
            raise ValueError(
                "affinity_pairs='inside' needs cutmix_partner='batch': the student's affinities of a second view are "
                "not computed. Use affinity_pairs='outside'."
            )
        if not is_number(perturb_ratio, 0, 1) or perturb_ratio == 1:
            raise ValueError(f'perturb_ratio = {perturb_ratio!r}, but it must lie within 0 .. 1, 1 excluded.')

        pseudo_labels = {} if pseudo_labels is None else pseudo_labels
        check_keys('pseudo_labels', pseudo_labels, ('tau', 'momentum', 'per_class', 'align'))

        super().__init__(segmentor, num_classes, predict_on, data_preprocessor, init_cfg)
        only_aux = not any([*self.unsup_weight.values(), *(w for name, w in self.sup_weight.items() if name != 'aux')])
        if only_aux and not self.student.with_auxiliary_head and len(decode_heads(self.student)) == 1:
            raise ValueError(
                f'loss_weight = {loss_weight}: only sup.aux is above 0, but the segmentor has no auxiliary head, so '
                'nothing would be learned. Give sup.seg a weight.'
            )
        self.propagation_head: DerPropHead | None = self._build_head(propagation_head)
        self.pseudo_labeler = PseudoLabeler(self.student.out_channels, **pseudo_labels)

        self.labels_from = labels_from
        self.num_strong = num_strong
        self.complementary_dropout = complementary_dropout
        self.joint_forward = joint_forward
        self.strong_statistics = strong_statistics
        self.cutmix_partner = cutmix_partner
        self.cutmix_predictor = cutmix_predictor
        self.affinity_pairs = affinity_pairs
        self.perturb_ratio = perturb_ratio
        self.sync_counts = sync_counts
        self.term_options = TermOptions(
            cutmix_target, affinity_pairs, label_affinity, label_affinity_grad, smoothness, self.ignore_index
        )

        if channels_last:
            self.to(memory_format=torch.channels_last)
        if compile is not False:
            self.compile_networks(**({} if compile is True else compile))

        self.alpha = 0.0
        self.head_alone = False
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
        if not isinstance(config, Mapping) or 'type' not in config:
            raise ValueError(f"propagation_head = {config!r}, but it must be a config: dict(type='DerPropHead', ...).")
        config, channels = dict(config), self.feature_channels
        index = config.get('in_index', -1)
        if not is_number(index, -len(channels), len(channels) - 1, whole=True):
            raise ValueError(
                f'propagation_head.in_index = {index!r}, but the segmentor gives {len(channels)} features, of '
                f'{channels} channels: choose 0 to {len(channels) - 1}, or -1 for the last.'
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
        size = (ignored.shape[1], ignored.shape[2])
        boxes = [box_masks(stack_boxes(data_samples[name], ignored.device), size) for name in self.strong_branches]

        # Predict.
        perturb = bool(self.unsup_weight.get('fp'))
        if self.sees_weak and not self.joint_forward:
            labeled, features, stages = self.see(inputs['sup'])
            weak, *_ = self.see(inputs['weak'], perturb)
        else:
            images = torch.cat([inputs['sup'], inputs['weak']]) if self.sees_weak else inputs['sup']
            views, features, stages = self.see(images, perturb)
            labeled, weak = views[:num_labeled], views[num_labeled:]

        # Mix and label.
        from_teacher = self.labels_from == 'teacher'
        logits = self.logits_of(self.teacher, inputs['weak']) if from_teacher else weak.logits.detach()
        own = self.predict_weak(logits, weak, ignored)
        truth = stack_maps(data_samples['sup'], 'gt_sem_seg')
        self.pseudo_labeler.move_alignment(own, truth, truth != self.ignore_index)
        partner, partner_images = self.find_partner(inputs, data_samples, own)
        regions = self.find_regions(weak)
        targets = [self.pseudo_labeler(own, partner, box, regions, move=box is boxes[0]) for box in boxes]

        # Predict the strong views.
        mixed = [mix(inputs[n], other, inside) for n, other, inside in zip(self.strong_branches, partner_images, boxes)]
        embed = any(self.unsup_weight.get(term) for term in PROPAGATION_TERMS)
        with nullcontext() if self.strong_statistics else kept_statistics(self):
            views, *_ = self.see(torch.cat(mixed), embed=embed, complementary=self.complementary_dropout)
        strong = [views[index * len(own.labels) : (index + 1) * len(own.labels)] for index in range(self.num_strong)]

        # Compare.
        features, stages = (tuple(part[:num_labeled] for part in parts) for parts in (features, stages))
        shares = self.find_shares(labeled, data_samples['sup'], targets, boxes)
        losses = self.auxiliary_losses(features, stages, data_samples['sup'], shares)
        losses |= self.sup_losses(labeled, data_samples['sup'], shares)
        losses |= self.unsup_losses(labeled, weak, [*map(StrongView, strong, targets, boxes)], shares)
        self.record(data_samples, targets[0], boxes[0])
        if self.step_observer is not None:
            step = dict(inputs=inputs, partner_images=partner_images[0], inside=boxes[0], target=targets[0])
            self.step_observer(step)
        return losses

    @property
    def strong_branches(self) -> tuple[str, ...]:
        """Branches of the strong views."""
        return ('strong', 'strong2')[: self.num_strong]

    @property
    def branches(self) -> tuple[str, ...]:
        """Branches that a training batch must have."""
        second = ('weak_mix', 'strong_mix') if self.cutmix_partner == 'second_view' else ()
        return ('sup', 'weak', *self.strong_branches, *second)

    @property
    def sees_weak(self) -> bool:
        """Whether the student sees weak views: it labels them, or something reads what it sees there."""
        head = self.propagation_head
        read = any(self.unsup_weight.get(term) for term in {'fp', *PROPAGATION_TERMS})
        return self.labels_from == 'student' or read or (head is not None and bool(head.num_regions or self.alpha > 0))

    def see(
        self, images: Tensor, perturb: bool = False, embed: bool = True, complementary: bool = False
    ) -> tuple[View, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Predicts images.

        Args:
            images (Tensor): (N, 3, H, W).
            perturb (bool): Whether to predict also from features with channels dropped, decoded in the same pass
                (UniMatch, arXiv 2208.09910).
            embed (bool): Whether the propagation head is needed.
            complementary (bool): Whether the two halves of the images are decoded from complementary channels.

        Returns:
            tuple[View, tuple[Tensor, ...], tuple[Tensor, ...]]: The view, the features, and the logits of a
            cascade's earlier decode heads.
        """
        features = tuple(self.student.extract_feat(images))
        decoded = features
        if perturb:
            decoded = tuple(torch.cat([f, F.dropout2d(f, self.perturb_ratio)]) for f in features)
        if complementary:
            decoded = complementary_dropout2d(features)
        *stages, last = decode(self.student, decoded)
        logits, *perturbed = last.split(len(images))
        logits = F.interpolate(logits, images.shape[-2:], mode='bilinear', align_corners=self.align_corners)
        head = self.propagation_head
        embedding = None
        if head is not None and embed:
            embedding = head(tuple(f.detach() for f in features) if self.head_alone else features)
        view = View(logits, perturbed[0] if perturbed else None, embedding, head, self.align_corners)
        return view, features, tuple(stages)

    def predict_weak(self, logits: Tensor, weak: View, ignored: Tensor) -> Prediction:
        """p_w: logits of the weak views, and alpha of those that propagation gives, aligned."""
        # Not under no_grad: the view keeps its propagated logits, and a loss will want their gradient.
        if self.alpha > 0 and self.propagation_head is not None and not self.head_alone:
            logits = torch.lerp(logits, weak.propagated.detach().to(logits.dtype), self.alpha)
        return Prediction.of(self.pseudo_labeler.aligned(logits), ignored)

    @torch.no_grad()
    def find_partner(
        self, inputs: dict[str, Tensor], data_samples: Samples, own: Prediction
    ) -> tuple[Prediction, list[Tensor]]:
        """What fills the CutMix boxes: the partners' predictions and, for each strong view, theirs."""
        predictor = self.teacher if self.cutmix_predictor == 'teacher' else self.student
        if self.cutmix_partner == 'second_view':
            ignored = stack_maps(data_samples['weak_mix'], 'ignore_map').bool()
            logits = self.pseudo_labeler.aligned(self.logits_of(predictor, inputs['weak_mix']))
            return Prediction.of(logits, ignored), [inputs['strong_mix']]
        if self.cutmix_predictor != 'own':
            logits = self.pseudo_labeler.aligned(self.logits_of(predictor, inputs['weak']))
            own = Prediction.of(logits, own.ignored)
        return own.roll(), [inputs[name].roll(-1, 0) for name in self.strong_branches]

    @torch.no_grad()
    def logits_of(self, segmentor: BaseSegmentor, images: Tensor) -> Tensor:
        """Logits (N, K, H, W) of student or teacher in evaluation mode."""
        with evaluating(segmentor):
            logits = decode(segmentor, segmentor.extract_feat(images))[-1]
        return F.interpolate(logits, images.shape[-2:], mode='bilinear', align_corners=self.align_corners)

    def find_regions(self, weak: View) -> Tensor | None:
        """Regions (N, R, H, W) of the weak views."""
        if self.propagation_head is None or not self.propagation_head.num_regions or self.head_alone:
            return None
        return self.propagation_head.regions(weak.embedding, weak.size)

    def find_shares(
        self, labeled: View, samples: list[SegDataSample], targets: list[PseudoLabels], boxes: list[Tensor]
    ) -> Shares:
        """This process's shares of the means that the losses are."""
        if not self.sync_counts:
            return Shares.equal(self.num_strong)
        labels = stack_maps(samples, 'gt_sem_seg')
        label_pairs, box_pairs = labels.new_ones(()), [labels.new_ones(())] * self.num_strong
        if self.propagation_head is not None:
            grid = labeled.embedding.grid
            label_pairs = count_label_pairs(labels, grid, self.ignore_index)
            if self.affinity_pairs != 'all':
                keep_inside = self.affinity_pairs == 'inside'
                box_pairs = [count_box_pairs(labels_on_grid(box, grid), keep_inside) for box in boxes]
        own, mixed = (~targets[0].own.ignored).sum(), [(~target.mixed.ignored).sum() for target in targets]
        return Shares.of((labels != self.ignore_index).sum(), label_pairs, own, mixed, box_pairs)

    def auxiliary_losses(
        self,
        features: tuple[Tensor, ...],
        stages: tuple[Tensor, ...],
        samples: list[SegDataSample],
        shares: Shares,
    ) -> dict[str, Tensor]:
        """Losses of the segmentor's auxiliary heads and earlier decode stages, on labelled images only."""
        weight = self.sup_weight['aux']
        if not weight:
            return {}
        parts = {}
        if self.student.with_auxiliary_head:
            heads: Any = self.student.auxiliary_head
            for index, head in enumerate(heads if isinstance(heads, nn.ModuleList) else [heads]):
                parts[f'aux_{index}'] = labeled_losses(head, head(features), samples, shares.labeled)
        for index, (head, logits) in enumerate(zip(decode_heads(self.student), stages)):
            parts[f'stage_{index}'] = labeled_losses(head, logits, samples, shares.labeled)
        return {f'sup.{part}.{name}': weight * loss for part, terms in parts.items() for name, loss in terms.items()}

    def sup_losses(self, labeled: View, samples: list[SegDataSample], shares: Shares) -> dict[str, Tensor]:
        """Losses of the labelled images."""
        head = decode_heads(self.student)[-1]
        return weigh('sup', self.sup_weight, SupTerms(self.term_options, head, labeled, samples, shares))

    def unsup_losses(self, labeled: View, weak: View, strong: list[StrongView], shares: Shares) -> dict[str, Tensor]:
        """Losses of the unlabelled images; ``smooth`` takes the labelled ones too."""
        return weigh('unsup', self.unsup_weight, UnsupTerms(self.term_options, labeled, weak, strong, shares))

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


@contextmanager
def kept_statistics(module: nn.Module) -> Iterator[None]:
    """While it lasts, forward passes leave the running statistics of batch normalisation as they are."""
    momenta = {part: part.momentum for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)}
    for part in momenta:
        part.momentum = 0.0
    try:
        yield
    finally:
        for part, momentum in momenta.items():
            part.momentum = momentum


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """While it lasts, a module is in evaluation mode; afterwards each of its parts is in that which it was in."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def stack_boxes(samples: list[SegDataSample], device: torch.device) -> Tensor:
    """(N, 4) int64, the samples' CutMix boxes."""
    return torch.tensor([sample.metainfo['cutmix_box'] for sample in samples]).to(device, non_blocking=True)
