"""Losses of predictions with pseudo-labels (METHOD section 6: kl, soft, fp, prop; section 12: s)."""

from __future__ import annotations

from typing import Literal

import torch
from mmseg.registry import MODELS
from torch import Tensor

from ...ops import cross_entropy_map, masked_mean
from ...utils.options import check_options
from ..pseudo_labels import PseudoLabels
from ..step import Step, StrongView
from .base import SemiLoss, Weight


class StrongLoss(SemiLoss):
    """A term on the strong views, the mean over them; subclasses compute it on one."""

    needs = teaches = frozenset({'strong'})

    def forward(self, step: Step) -> Tensor:
        return torch.stack([self.on_view(strong, step) for strong in step.strong]).mean()

    def on_view(self, strong: StrongView, step: Step) -> Tensor:
        """The term on one strong view, a scalar."""
        raise TypeError(f'{type(self).__name__} must define on_view(strong, step).')


@MODELS.register_module()
class HardConsistencyLoss(StrongLoss):
    """Cross entropy of the strong view with the pseudo-labels, on accepted pixels (FixMatch, arXiv 2001.07685)."""

    def on_view(self, strong: StrongView, step: Step) -> Tensor:
        return strong_loss(strong.view.logits, strong.target)


@MODELS.register_module()
class SoftConsistencyLoss(StrongLoss):
    """Distance of the strong view from the probabilities of the cut-mixed weak prediction.

    Args:
        kind (str): ``'kl'``: KL(target || prediction) on confident pixels (CorrMatch, arXiv 2306.04300); ``'soft'``:
            cross entropy with the target on accepted pixels (DerProp).
    """

    @check_options
    def __init__(self, loss_weight: Weight = 1.0, kind: Literal['kl', 'soft'] = 'kl') -> None:
        super().__init__(loss_weight)
        self.kind = kind

    def on_view(self, strong: StrongView, step: Step) -> Tensor:
        target = strong.target
        chosen = target.confident if self.kind == 'kl' else target.accepted
        return masked_mean(self.distances(strong), chosen, target.mixed.ignored)

    def distances(self, strong: StrongView) -> Tensor:
        """(N, H, W), the distance of each pixel."""
        return strong.divergence if self.kind == 'kl' else strong.soft_cross_entropy


@MODELS.register_module()
class PerturbedConsistencyLoss(SemiLoss):
    """Cross entropy of what is decoded from perturbed features of the weak view (UniMatch, arXiv 2208.09910).

    The labels are the weak view's own, on its confident pixels.
    """

    needs = frozenset({'weak', 'perturbed'})
    teaches = frozenset({'weak'})

    def forward(self, step: Step) -> Tensor:
        return weak_loss(step.weak.perturbed, step)


@MODELS.register_module()
class PropagatedConsistencyLoss(SemiLoss):
    """Cross entropy of the propagated prediction with the pseudo-labels.

    Args:
        on (str): ``'strong'``: of the strong views, the mean over them, on accepted pixels; ``'weak'``: of the weak
            view, with its own labels on its confident pixels.
    """

    @check_options
    def __init__(self, loss_weight: Weight = 1.0, on: Literal['strong', 'weak'] = 'strong') -> None:
        super().__init__(loss_weight)
        self.on = on
        self.needs = frozenset({on, 'embedding'})
        self.teaches = frozenset({on})

    def forward(self, step: Step) -> Tensor:
        if self.on == 'weak':
            return weak_loss(step.weak.propagated, step)
        return torch.stack([strong_loss(strong.view.propagated, strong.target) for strong in step.strong]).mean()


def strong_loss(logits: Tensor, target: PseudoLabels) -> Tensor:
    """Cross entropy of logits (N, K, H, W) with the pseudo-labels, on accepted pixels."""
    return masked_mean(cross_entropy_map(logits, target.labels), target.accepted, target.mixed.ignored)


def weak_loss(logits: Tensor, step: Step) -> Tensor:
    """Cross entropy of logits (N, K, H, W) with the weak view's own labels, on its confident pixels."""
    own = step.target.own
    return masked_mean(cross_entropy_map(logits, own.labels), step.target.own_confident, own.ignored)
