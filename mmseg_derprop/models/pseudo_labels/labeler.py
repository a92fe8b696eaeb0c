"""From a prediction to pseudo-labels (DerProp, arXiv 2508.02254; CorrMatch, arXiv 2306.04300; METHOD section 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from ...utils.options import Share, check_options
from ..parts import Part, build_part
from .alignment import DistributionAlignment
from .prediction import Prediction, PseudoLabels
from .regions import RegionPropagation
from .thresholds import Threshold

if TYPE_CHECKING:
    from ..step import View


class PseudoLabeler(nn.Module):
    """Labels unlabelled images; its parts are registered modules, which get ``num_classes`` from it.

    Args:
        num_classes (int): K.
        source (str): Whose prediction of the weak view is labelled: the ``'student'``'s in training mode, or the EMA
            ``'teacher'``'s in evaluation mode.
        alpha (float | str): Share of the propagated prediction, within 0 .. 1, or ``'linear'``: epoch / epochs.
        threshold (dict): Config of a :class:`Threshold`.
        alignment (dict, optional): Config of a distribution alignment.
        regions (dict, optional): Config of region propagation.
    """

    moved_options = {
        'tau': 'pseudo_labels.threshold.value (FixedThreshold) or .init (MaxConfidenceThreshold)',
        'momentum': 'pseudo_labels.threshold.momentum',
        'per_class': "pseudo_labels.threshold.type='ClassMeanThreshold'",
        'align': 'pseudo_labels.alignment.rate',
    }

    @check_options
    def __init__(
        self,
        num_classes: int,
        source: Literal['student', 'teacher'] = 'student',
        alpha: Share | Literal['linear'] = 0.0,
        threshold: dict | None = None,
        alignment: dict | None = None,
        regions: dict | None = None,
    ) -> None:
        super().__init__()
        self.source = source
        self.alpha_schedule = alpha
        self.alpha = 0.0 if alpha == 'linear' else float(alpha)

        def build(name: str, config: dict, kind: type[Part]) -> Part:
            return build_part(f'model.pseudo_labels.{name}', config, kind, num_classes=num_classes)

        self.threshold = build('threshold', threshold or dict(type='FixedThreshold'), Threshold)
        self.alignment = None if alignment is None else build('alignment', alignment, DistributionAlignment)
        self.regions = None if regions is None else build('regions', regions, RegionPropagation)

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Sets alpha; epochs count from 0."""
        if self.alpha_schedule == 'linear':
            self.alpha = epoch / epochs

    @property
    def reads_head(self) -> bool:
        """Whether labels depend on the propagation head now."""
        return self.alpha > 0 or self.regions is not None

    def predict(self, logits: Tensor, ignored: Tensor, view: View | None = None) -> Prediction:
        """The prediction that is labelled: aligned, and mixed with the propagated one.

        ``logits`` (N, K, H, W) are of weak views, ``ignored`` (N, H, W) is padding; without a view none is propagated.
        """
        # Not under no_grad: the view keeps its propagated logits, and a loss will want their gradient.
        logits = logits.detach()
        if self.alpha > 0 and view is not None:
            logits = torch.lerp(logits, view.propagated.detach().to(logits.dtype), self.alpha)
        return Prediction.of(logits if self.alignment is None else self.alignment(logits), ignored)

    @torch.no_grad()
    def forward(
        self, own: Prediction, partner: Prediction, box: Tensor, regions: Tensor | None = None, update: bool = True
    ) -> PseudoLabels:
        """Labels N images whose boxes (N, H, W) show partners; ``regions`` (N, R, H, W) are of the weak views.

        ``update`` moves the threshold first; a second strong view of the same images leaves it.
        """
        mixed = own.mix(partner, box)
        if update:
            self.threshold.update(own, ~mixed.ignored)
        own_confident, confident = (self.threshold(p) & ~p.ignored for p in (own, mixed))
        labels, accepted = mixed.labels, confident
        if regions is not None and self.regions is not None:
            regions = regions & ~(box | mixed.ignored).unsqueeze(1)
            labels, accepted = self.regions(labels, confident, regions, self.threshold.value)
        return PseudoLabels(own, own_confident, mixed, confident, labels, accepted, regions)
