"""Semi-supervised training of any segmentor."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from mmseg.models import BaseSegmentor
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

from ..ops import box_masks, mix
from ..utils.options import check_options
from . import decoding
from .checks import MOVED_OPTIONS, build_losses, check_model
from .derprop_head import DerPropHead
from .losses import SemiLoss
from .parts import CutMixOptions, ViewOptions, build_part
from .pseudo_labels import Prediction, PseudoLabeler
from .segmentors import checkpoint_activations, frozen_statistics
from .stages import Terms
from .statistics import stack_boxes, stack_labels, stack_maps, step_statistics
from .step import Step, StrongView, View
from .teacher_student import TeacherStudentSegmentor

Inputs = dict[str, Tensor]
Samples = dict[str, list[SegDataSample]]


class Forward(NamedTuple):
    """What the student makes of images: a view, the features, and what each decode head gave for its loss."""

    view: View
    features: Any
    outputs: list[Any]


@MODELS.register_module()
class SemiSegmentor(TeacherStudentSegmentor):
    """A student segmentor that learns from labelled and unlabelled images, and its EMA teacher.

    Both are built from any MMSegmentation segmentor config whose decode head gives logits. :meth:`loss` is the method;
    :class:`mmseg_derprop.engine.PseudoLabelHook` tells the model where training is. In evaluation it answers as the
    segmentor that ``predict_on`` names.

    Branches of a training batch: ``sup`` (labelled images), ``weak`` and ``strong`` (two views of the same unlabelled
    crops), ``strong2`` with a second strong view; where CutMix takes its boxes from a second view, also ``weak_mix``,
    ``strong_mix`` and ``strong2_mix``.

    Args:
        segmentor (dict): Config of the segmentor.
        losses (dict[str, dict]): Configs of the terms of the loss by their names in the log, see :class:`SemiLoss`.
        num_classes (int, optional): Number of classes, for all heads of the segmentor; by default as in its config.
        propagation_head (dict, optional): Config of the head that propagates. Without one nothing is propagated.
        pseudo_labels (dict, optional): Options of :class:`PseudoLabeler`.
        cutmix (dict, optional): :class:`CutMixOptions`.
        views (dict, optional): :class:`ViewOptions`.
        teacher (dict, optional): :class:`TeacherOptions`.
        predict_on (str): ``'teacher'`` or ``'student'``, which of them evaluation asks.
        channels_last (bool): Whether weights, and so the maps of all networks, lie in memory with channels last.
        data_preprocessor (dict, optional): Given by the runner if the config has one at its top level; it serves a
            segmentor that has none of its own.
        pretrained, train_cfg: Given by ``mmseg.apis.init_model``; the segmentor's own config has them.

    Raises:
        ValueError: If an option, a part or a loss is unknown, options exclude each other, a loss needs what the config
            does not give, or nothing would be learned.
        TypeError: If the segmentor's decode head gives no logits.
    """

    moved_options = MOVED_OPTIONS

    @check_options
    def __init__(
        self,
        segmentor: dict,
        losses: dict,
        num_classes: int | None = None,
        propagation_head: dict | None = None,
        pseudo_labels: dict | None = None,
        cutmix: dict | None = None,
        views: dict | None = None,
        teacher: dict | None = None,
        predict_on: Literal['teacher', 'student'] = 'teacher',
        channels_last: bool = False,
        data_preprocessor: dict | None = None,
        pretrained: str | None = None,
        train_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(segmentor, num_classes, teacher, predict_on, data_preprocessor, init_cfg)
        self.cutmix = CutMixOptions(**(cutmix or {}))
        self.views = ViewOptions(**(views or {}))
        self.pseudo_labeler = PseudoLabeler(num_classes=self.student.num_classes, **(pseudo_labels or {}))
        self.propagation_head = self._build_head(propagation_head)
        self.losses = build_losses(losses)
        check_model(self)
        if self.views.activation_checkpointing:
            checkpoint_activations(self.student.backbone)
        if channels_last:
            self.to(memory_format=torch.channels_last)
        self.statistics: dict[str, Tensor] = {}
        self.loss_scale: Tensor | None = None  # in float16; the hook tells
        self.step_observer: Callable[[Step], None] | None = None

    def loss(self, inputs: Inputs, data_samples: Samples) -> dict[str, Tensor]:
        """The method: predict, label, mix, predict, compare.

        ``inputs`` are (N, C, H, W) by branch; labelled and unlabelled images may differ in number. Samples of ``sup``
        have ``gt_sem_seg``, of ``weak`` ``ignore_map``, of strong branches ``cutmix_box``. Returned are the weighted
        terms of the loss, by the keys of ``losses``.
        """
        partner, terms = self.predict_partner(inputs), Terms(self)
        step = self.predict_clean(inputs, data_samples['sup'])
        step = terms.compare('labeled', step)
        if self.needs_labels:
            step = self.predict_weak(inputs, step)
            own = self.label(inputs, data_samples, step)
            mixed = self.mix(inputs, data_samples, step, own, partner)
            step = terms.compare('weak', replace(step, maybe_target=mixed[0]['target']))
            step = self.predict_strong(step, mixed)
            step = terms.compare('strong', step)
            self.statistics = step_statistics(self, step, data_samples)
        if self.step_observer is not None:
            self.step_observer(step)
        return terms.all()

    def predict_partner(self, inputs: Inputs) -> Tensor | None:
        """(N, K, H, W) logits of what fills the CutMix boxes, before running statistics move; None if not needed."""
        if self.cutmix.predictor == 'own' or 'strong' not in self.needs:
            return None
        branch = 'weak_mix' if self.cutmix.partner == 'second_view' else 'weak'
        return self.logits_of(self.teacher if self.cutmix.predictor == 'teacher' else self.student, inputs[branch])

    def predict_clean(self, inputs: Inputs, samples: list[SegDataSample]) -> Step:
        """The student's predictions of labelled images and, with a joint forward, weak views."""
        count, perturb = len(inputs['sup']), 'perturbed' in self.needs
        weak: View | None = None
        if self.has_joint_forward:
            both = self.forward_view(torch.cat([inputs['sup'], inputs['weak']]), self.embeds_clean, perturb)
            clean = Forward(both.view[:count], *decoding.map_tensors(lambda tensor: tensor[:count], both[1:]))
            weak = both.view[count:]
        else:
            clean = self.forward_view(inputs['sup'], self.embeds_clean)
        labels = stack_labels(samples, self.ignore_index)
        return Step(self.student, samples, labels, self.ignore_index, *clean, weak)

    def predict_weak(self, inputs: Inputs, step: Step) -> Step:
        """The step with the student's prediction of the weak views, if something reads it and it is not there yet."""
        if step.maybe_weak is not None or not self.needs_weak_forward:
            return step
        forward = self.forward_view(inputs['weak'], self.embeds_clean, 'perturbed' in self.needs)
        return replace(step, maybe_weak=forward.view)

    def label(self, inputs: Inputs, data_samples: Samples, step: Step) -> Prediction:
        """The prediction of the weak views that becomes their labels."""
        from_teacher = self.pseudo_labeler.source == 'teacher'
        logits = self.logits_of(self.teacher, inputs['weak']) if from_teacher else step.weak.logits
        ignored = stack_maps(data_samples['weak'], 'ignore_map').bool()
        own = self.pseudo_labeler.predict(logits, ignored, step.maybe_weak if self.trusts_head else None)
        if self.pseudo_labeler.alignment is not None:
            self.pseudo_labeler.alignment.update(own, step.labels, step.labels != self.ignore_index)
        return own

    def mix(
        self, inputs: Inputs, data_samples: Samples, step: Step, own: Prediction, partner_logits: Tensor | None
    ) -> list[dict[str, Any]]:
        """For each strong view its cut-mixed images and pseudo-labels: arguments of StrongView, without the view."""
        index = self.cutmix.partner_of(len(own.labels), own.labels.device)
        partner = own
        if partner_logits is not None:
            ignored = own.ignored if index is not None else stack_maps(data_samples['weak_mix'], 'ignore_map').bool()
            partner = self.pseudo_labeler.predict(partner_logits, ignored)
        regions, size = None, (own.labels.shape[-2], own.labels.shape[-1])
        if self.pseudo_labeler.regions is not None and self.trusts_head:
            weak = step.weak
            regions = self.pseudo_labeler.regions.propose(weak.embedding, size, weak.head.max_order)
        mixed: list[dict[str, Any]] = []
        for branch in self.strong_branches:
            box = box_masks(stack_boxes(data_samples[branch], own.labels.device), size)
            other = inputs[f'{branch}_mix'] if index is None else inputs[branch][index]
            prediction = partner if index is None else partner[index]
            target = self.pseudo_labeler(own, prediction, box, regions, not mixed)
            mixed.append(dict(target=target, box=box, images=mix(inputs[branch], other, box), partner=index))
        return mixed

    def predict_strong(self, step: Step, mixed: list[dict[str, Any]]) -> Step:
        """The step with the student's predictions of the strong views, where a loss reads them."""
        if 'strong' not in self.needs:
            return step
        embed = any({'strong', 'embedding'} <= loss.needs for loss in self.active_losses.values())
        with nullcontext() if self.views.update_bn_on_strong else frozen_statistics(self):
            images = torch.cat([part['images'] for part in mixed])
            view = self.forward_view(images, embed, complementary=self.views.complementary_dropout).view
        count = len(step.target.labels)
        views = [view[number * count : (number + 1) * count] for number in range(len(mixed))]
        return replace(step, strong=tuple(StrongView(view, **part) for view, part in zip(views, mixed)))

    def parse_losses(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The total and what is logged; every entry is a term, whatever its name."""
        total = torch.stack([*losses.values()]).sum()
        return total, dict(loss=total, **losses)

    def forward_view(
        self, images: Tensor, embed: bool = False, perturb: bool = False, complementary: bool = False
    ) -> Forward:
        """The student's forward of images (N, C, H, W).

        ``embed`` asks the propagation head too. ``perturb`` also decodes, in the same pass, features with channels
        dropped (UniMatch, arXiv 2208.09910). ``complementary`` drops complementary channels of the two halves.
        """
        student, size = self.student, (images.shape[2], images.shape[3])
        features = student.extract_feat(images) if embed or not complementary else None
        decoded = decoding.extract_complementary(student, images) if complementary else features
        if perturb:
            decoded = decoding.with_dropped_channels(decoded, self.views.perturb_ratio)
        heads = decoding.decode(student, decoded, self.probed.readings, size)
        logits, *perturbed = heads[-1].logits.split(len(images))
        logits = F.interpolate(logits, size, mode='bilinear', align_corners=self.align_corners)
        resized = logits if heads[-1].output is heads[-1].logits else heads[-1].output
        outputs = [*(head.output for head in heads[:-1]), resized]
        head = self.propagation_head
        embedding = head(decoding.feature_maps(features)) if embed and head is not None else None
        view = View(logits, perturbed[0] if perturbed else None, embedding, head, self.align_corners)
        return Forward(view, features, outputs)

    @torch.no_grad()
    def logits_of(self, segmentor: BaseSegmentor, images: Tensor) -> Tensor:
        """Logits (N, K, H, W) of student or teacher in evaluation mode, as it predicts by itself."""
        return decoding.predict_logits(segmentor, images, self.probed.readings[-1])

    def predict(self, inputs: Tensor, data_samples: list[SegDataSample] | None = None) -> list[SegDataSample]:
        """As MMSegmentation's segmentors predict, with the alignment's bias if it is for evaluation too."""
        if self.prediction_bias is None:
            return self.evaluated.predict(inputs, data_samples)
        metas = [sample.metainfo for sample in data_samples or []]
        metas = metas or decoding.image_metas(len(inputs), (inputs.shape[2], inputs.shape[3]))
        return self.evaluated.postprocess_result(self.inference(inputs, metas), data_samples)

    def inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Logits (N, K, H, W) of the evaluated network, with the same bias."""
        logits, bias = self.evaluated.inference(inputs, batch_img_metas), self.prediction_bias
        return logits if bias is None else self.probed.readings[-1].biased(logits, bias)

    def begin_iteration(self, iteration: int) -> None:
        """Ends the head's warm-up when it is time; iterations count from 0."""
        if self.propagation_head is not None:
            self.propagation_head.warming_up = iteration < self.propagation_head.warmup

    @property
    def active_losses(self) -> dict[str, SemiLoss]:
        return {name: loss for name, loss in self.losses.items() if loss.loss_weight}  # type: ignore[misc]

    @property
    def needs(self) -> frozenset[str]:
        return frozenset().union(*(loss.needs for loss in self.active_losses.values()))

    @property
    def needs_labels(self) -> bool:
        """Whether any term reads unlabelled images."""
        return bool(self.needs & {'weak', 'strong'})

    @property
    def needs_weak_forward(self) -> bool:
        """Whether the student predicts weak views: it labels them, or something reads what it predicts."""
        labels = self.pseudo_labeler.source == 'student' or self.pseudo_labeler.reads_head
        return 'weak' in self.needs or (self.needs_labels and labels)

    @property
    def has_joint_forward(self) -> bool:
        return self.needs_weak_forward and self.views.joint_forward

    @property
    def embeds_clean(self) -> bool:
        """Whether the propagation head sees labelled images and weak views."""
        return self.propagation_head is not None and ('embedding' in self.needs or self.pseudo_labeler.reads_head)

    @property
    def trusts_head(self) -> bool:
        """Whether pseudo-labels may depend on the propagation head."""
        return self.propagation_head is not None and not self.propagation_head.warming_up

    @property
    def prediction_bias(self) -> Tensor | None:
        """(K,), the alignment's bias, where evaluation's predictions have it as pseudo-labels have."""
        alignment = self.pseudo_labeler.alignment
        return None if alignment is None or not alignment.predict else alignment.bias

    @property
    def strong_branches(self) -> tuple[str, ...]:
        return ('strong', 'strong2')[: self.views.num_strong]

    @property
    def branches(self) -> tuple[str, ...]:
        """Branches that a training batch must have."""
        second = ('weak_mix', *(f'{name}_mix' for name in self.strong_branches))
        return ('sup', 'weak', *self.strong_branches, *(second if self.cutmix.partner == 'second_view' else ()))

    def _build_head(self, config: dict | None) -> DerPropHead | None:
        if config is None:
            return None
        channels = [shape[0] for shape in self.probed.shapes]
        index = config.get('in_index', decoding.deepest(self.probed.shapes))
        if index not in range(-len(channels), len(channels)):
            raise ValueError(
                f'model.propagation_head.in_index must be from 0 to {len(channels) - 1}, or -1 for the last, but is '
                f'{index!r}: the segmentor gives {len(channels)} features, of {channels} channels.'
            )
        given = dict(in_index=index, in_channels=channels[index], num_classes=self.student.num_classes)
        return build_part('model.propagation_head', config, DerPropHead, **given)
