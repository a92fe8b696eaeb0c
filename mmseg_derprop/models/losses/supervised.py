"""Losses of the labelled images."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from ...utils.options import check_options
from ..segmentors import auxiliary_heads, decode_heads, has_own_labels, has_own_loss
from ..step import Step
from .base import SemiLoss, Weight
from .pixel import PixelCrossEntropyLoss


@MODELS.register_module()
class SupervisedLoss(SemiLoss):
    """The segmentor's own loss of the labelled images (METHOD section 6, x and x_prop).

    Of its prediction it is the sum over the final decode head, a cascade's earlier heads and the auxiliary heads, each
    with the losses and weights of its config. Of the propagated prediction it is the final head's; for a head whose
    loss takes more than one map of logits it is the cross entropy of the labelled pixels.

    Args:
        on (str): ``'prediction'``, or ``'propagated'``: the prediction propagated by the head.
    """

    @check_options
    def __init__(self, loss_weight: Weight = 1.0, on: Literal['prediction', 'propagated'] = 'prediction') -> None:
        super().__init__(loss_weight)
        self.on = on
        self.needs = frozenset({'embedding'} if on == 'propagated' else {'auxiliary'})
        self.teaches = frozenset({'labeled'})

    def forward(self, step: Step) -> Tensor:
        heads = decode_heads(step.student)
        if self.on == 'propagated':
            return propagated_loss(heads[-1], step)
        losses = []
        for head, output, earlier in zip(heads, step.outputs, [[], *([stage] for stage in step.outputs)]):
            if output is None:
                losses.append(total(head.loss(step.features, *earlier, step.samples, step.student.train_cfg)))
            else:
                losses.append(head_loss(head, output, step.samples))
        for head in auxiliary_heads(step.student):
            if has_own_loss(head):
                losses.append(total(head.loss(step.features, step.samples, step.student.train_cfg)))
            else:
                losses.append(head_loss(head, head(step.features), step.samples))
        return torch.stack(losses).sum()


def propagated_loss(head: BaseDecodeHead, step: Step) -> Tensor:
    """The final head's loss of the labelled images' propagated logits."""
    logits = step.labeled.propagated
    if not isinstance(step.outputs[-1], Tensor):
        return PixelCrossEntropyLoss()(logits, step.labels, ignore_index=step.ignore_index)
    return head_loss(head, logits[:, 1:] - logits[:, :1] if head.out_channels == 1 else logits, step.samples)


def head_loss(head: BaseDecodeHead, output: Any, samples: list[SegDataSample]) -> Tensor:
    """The sum of a decode head's losses for its output, as of its ``loss_by_feat``, without the accuracy.

    MMSegmentation's accuracy selects pixels by a mask, which makes the host wait for the GPU, and ranks all classes.
    A head that has a ``loss_by_feat`` of its own, or samples pixels, is asked itself.
    """
    if has_own_labels(head) or head.sampler is not None:
        return total(head.loss_by_feat(output, samples))
    labels = torch.cat([sample.gt_sem_seg.data for sample in samples])
    if output.shape[-2:] != labels.shape[-2:]:
        output = F.interpolate(output, labels.shape[-2:], mode='bilinear', align_corners=head.align_corners)
    parts = head.loss_decode if isinstance(head.loss_decode, nn.ModuleList) else [head.loss_decode]
    return torch.stack([part(output, labels, ignore_index=head.ignore_index) for part in parts]).sum()


def total(losses: dict[str, Any]) -> Tensor:
    """The sum of a head's losses, as MMEngine takes it: of the entries whose names have "loss" in them, means."""
    terms = [value for name, value in losses.items() if 'loss' in name]
    means = [part.mean() for value in terms for part in (value if isinstance(value, (list, tuple)) else [value])]
    return torch.stack(means).sum()
