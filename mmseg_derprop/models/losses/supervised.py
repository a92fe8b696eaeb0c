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
from ..segmentors import decode_heads
from ..step import Step
from .base import SemiLoss, Weight


@MODELS.register_module()
class SupervisedLoss(SemiLoss):
    """The segmentor's own loss of the labelled images (METHOD section 6, x and x_prop).

    Of its prediction it is the sum over the final decode head, a cascade's earlier heads and the auxiliary heads, each
    with the losses and weights of its config; of the propagated prediction it is the final head's.

    Args:
        on (str): ``'prediction'``, or ``'propagated'``: the prediction propagated by the head.
    """

    @check_options
    def __init__(self, loss_weight: Weight = 1.0, on: Literal['prediction', 'propagated'] = 'prediction') -> None:
        super().__init__(loss_weight)
        self.on = on
        self.needs = frozenset({'embedding'} if on == 'propagated' else ())
        self.teaches = frozenset({'labeled'})

    def forward(self, step: Step) -> Tensor:
        *earlier, final = decode_heads(step.student)
        if self.on == 'propagated':
            return head_loss(final, step.labeled.propagated, step.samples)
        outputs = [(final, step.labeled.logits), *zip(earlier, step.stages)]
        if step.student.with_auxiliary_head:
            auxiliary: Any = step.student.auxiliary_head
            heads = list(auxiliary) if isinstance(auxiliary, nn.ModuleList) else [auxiliary]
            outputs += [(head, head(step.features)) for head in heads]
        return torch.stack([head_loss(head, logits, step.samples) for head, logits in outputs]).sum()


def head_loss(head: BaseDecodeHead, logits: Tensor, samples: list[SegDataSample]) -> Tensor:
    """The sum of a decode head's losses for its output (N, K, h, w), as of its ``loss_by_feat``, without the accuracy.

    MMSegmentation's accuracy selects pixels by a mask, which makes the host wait for the GPU, and ranks all classes.
    A head that has a ``loss_by_feat`` of its own, or samples pixels, is asked itself.
    """
    if type(head).loss_by_feat is not BaseDecodeHead.loss_by_feat or head.sampler is not None:
        losses = [value for name, value in head.loss_by_feat(logits, samples).items() if 'loss' in name]
        return torch.stack(losses).sum()
    labels = torch.cat([sample.gt_sem_seg.data for sample in samples])
    if logits.shape[-2:] != labels.shape[-2:]:
        logits = F.interpolate(logits, labels.shape[-2:], mode='bilinear', align_corners=head.align_corners)
    parts = head.loss_decode if isinstance(head.loss_decode, nn.ModuleList) else [head.loss_decode]
    return torch.stack([part(logits, labels, ignore_index=head.ignore_index) for part in parts]).sum()
