"""Losses on the vectors of the propagation head and their derivatives (METHOD section 6: affinity, smooth)."""

from __future__ import annotations

from typing import Literal

import torch
from mmseg.registry import MODELS
from torch import Tensor

from ...ops import affinity_consistency_loss, label_affinity_loss, smoothness_loss
from ...utils.options import check_options
from ..step import Step, StrongView
from .base import SemiLoss, Weight
from .consistency import StrongLoss


@MODELS.register_module()
class LabelAffinityLoss(SemiLoss):
    """Mean L1 distance of the labelled images' affinities from those of their labels.

    :func:`mmseg_derprop.ops.label_affinity_loss` has the formula.
    """

    needs = frozenset({'embedding'})
    teaches = frozenset({'labeled'})
    distance = staticmethod(label_affinity_loss)

    def forward(self, step: Step) -> Tensor:
        e, order = step.labeled.embedding, step.labeled.head.max_order
        return self.distance(e.q, e.k, step.labels, e.grid, step.ignore_index, order)


@MODELS.register_module()
class AffinityConsistencyLoss(StrongLoss):
    """Mean L1 distance of a strong view's affinities from the weak view's, which are fixed.

    Pairs of positions across the border of the CutMix box belong to different images and are left out.

    Args:
        inside_box (bool): Whether pairs inside the box count, with the affinities of the image that fills it; needs
            ``cutmix.partner`` to be an image of the batch.
    """

    needs = frozenset({'strong', 'weak', 'embedding'})

    @check_options
    def __init__(self, loss_weight: Weight = 1.0, inside_box: bool = True) -> None:
        super().__init__(loss_weight)
        self.inside_box = inside_box
        self.needs = self.needs | {'partner'} if inside_box else self.needs

    def on_view(self, strong: StrongView, step: Step) -> Tensor:
        e, box, order = strong.view.embedding, strong.box_on_grid, strong.view.head.max_order
        q, k = step.weak.embedding.q.detach(), step.weak.embedding.k.detach()
        if self.inside_box:
            q, k = (t[strong.partner].where(box[:, None], t) for t in (q, k))
        return affinity_consistency_loss(e.q, e.k, q, k, order, box, keep_inside=self.inside_box)


@MODELS.register_module()
class SmoothnessLoss(SemiLoss):
    """Mean absolute second derivative of q and k.

    Args:
        on (str): Of ``'labeled'`` images, ``'weak'`` or ``'strong'`` views, then the mean over them.
    """

    @check_options
    def __init__(self, loss_weight: Weight = 1.0, on: Literal['labeled', 'weak', 'strong'] = 'labeled') -> None:
        super().__init__(loss_weight)
        self.on = on
        self.needs = frozenset({'embedding', on} - {'labeled'})
        self.teaches = frozenset({on})

    def forward(self, step: Step) -> Tensor:
        views = [strong.view for strong in step.strong] if self.on == 'strong' else [getattr(step, self.on)]
        return torch.stack([smoothness_loss(view.embedding.q, view.embedding.k) for view in views]).mean()
