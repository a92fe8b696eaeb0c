"""What is predicted for unlabelled images, and what is believed of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...ops import mix


@dataclass(frozen=True)
class Prediction:
    """A prediction of a batch of unlabelled images.

    Attributes:
        logits (Tensor): (N, K, H, W), no gradient.
        ignored (Tensor): (N, H, W) bool, padding.
        confidence (Tensor): (N, H, W), the highest probability.
        labels (Tensor): (N, H, W) int64, its class.
    """

    logits: Tensor
    ignored: Tensor
    confidence: Tensor
    labels: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, logits: Tensor, ignored: Tensor) -> Prediction:
        """Reads confidence and labels off logits (N, K, H, W); the softmax is taken in float32."""
        confidence, labels = logits.float().softmax(1).max(1)
        return cls(logits.detach(), ignored, confidence, labels)

    def __getitem__(self, images: Tensor) -> Prediction:
        """The prediction of these images, (M,) int64."""
        return Prediction(*(value[images] for value in vars(self).values()))

    def mix(self, partner: Prediction, box: Tensor) -> Prediction:
        """The partner's prediction inside the boxes (N, H, W)."""
        pairs = zip(vars(self).values(), vars(partner).values())
        return Prediction(*(mix(own, other, box) for own, other in pairs))


@dataclass(frozen=True)
class PseudoLabels:
    """Pseudo-labels of a batch of unlabelled images.

    Attributes:
        own (Prediction): Of the weak view.
        own_confident (Tensor): (N, H, W) bool.
        mixed (Prediction): The same, cut-mixed as the strong view is.
        confident (Tensor): (N, H, W) bool, of the mixed prediction.
        labels (Tensor): (N, H, W) int64, the mixed labels after region propagation.
        accepted (Tensor): (N, H, W) bool: confident, or in a region that took a label.
        regions (Tensor | None): (N, R, H, W) bool.
    """

    own: Prediction
    own_confident: Tensor
    mixed: Prediction
    confident: Tensor
    labels: Tensor
    accepted: Tensor
    regions: Tensor | None = None
