"""Where the authors' programs depart from their own intent: twins of the mended parts (METHOD section 8).

Only ``derprop_published.py`` and ``corrmatch.py`` of ``configs/_base_/methods`` name them.
"""

from __future__ import annotations

import torch
from mmseg.registry import MODELS
from torch import Tensor

from ..ops import affinity_consistency_loss, entropy_map, interpolated_label_affinity_loss, soft_cross_entropy_map
from .losses.consistency import SoftConsistencyLoss, StrongLoss
from .losses.derivative import LabelAffinityLoss, SmoothnessLoss
from .pseudo_labels import RegionPropagation
from .step import Step, StrongView


@MODELS.register_module()
class UnmixedConsistencyLoss(SoftConsistencyLoss):
    """As :class:`SoftConsistencyLoss`, but the target is not cut-mixed (row 3; CorrMatch's kl as well).

    Inside a box the strong view is compared with the image that the box covers.
    """

    def distances(self, strong: StrongView) -> Tensor:
        logits = strong.target.own.logits
        losses = soft_cross_entropy_map(strong.view.logits, logits)
        return losses - entropy_map(logits) if self.kind == 'kl' else losses


@MODELS.register_module()
class InterpolatedLabelAffinityLoss(LabelAffinityLoss):
    """The label affinity of interpolated class ids, without a gradient (rows 2 and 4).

    :func:`mmseg_derprop.ops.interpolated_label_affinity_loss` says what it computes.
    """

    teaches = frozenset()
    trains = False
    distance = staticmethod(interpolated_label_affinity_loss)


@MODELS.register_module()
class AllPairsAffinityLoss(StrongLoss):
    """As AffinityConsistencyLoss, but over all pairs of positions, those across a box too (row 3)."""

    needs = frozenset({'strong', 'weak', 'embedding'})

    def on_view(self, strong: StrongView, step: Step) -> Tensor:
        e, weak = strong.view.embedding, step.weak.embedding
        return affinity_consistency_loss(e.q, e.k, weak.q, weak.k, strong.view.head.max_order)


@MODELS.register_module()
class ConstantSmoothness(SmoothnessLoss):
    """The second derivative passes a softmax over the L positions before its mean is taken: 1 / L (row 1)."""

    trains = False

    def forward(self, step: Step) -> Tensor:
        q = step.labeled.embedding.q
        return q.new_tensor(1 / q.shape[-1], dtype=torch.float32)


@MODELS.register_module()
class RegionsWithoutLastRow(RegionPropagation):
    """As :class:`RegionPropagation`, but the last position is never drawn (row 6)."""

    def draw_rows(self, positions: int, device: torch.device) -> Tensor:
        return super().draw_rows(max(positions - 1, 1), device)
