"""From a prediction to labels that can be trusted (DerProp, arXiv 2508.02254; CorrMatch, arXiv 2306.04300)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn

from ..ops import class_maxima, mix, move_threshold, propagate_regions
from ..options import is_number


@dataclass
class Prediction:
    """What is believed of a batch of unlabelled images.

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

    def roll(self) -> Prediction:
        """The prediction of each image's neighbour in the batch."""
        return Prediction(*(t.roll(-1, 0) for t in (self.logits, self.ignored, self.confidence, self.labels)))

    def mix(self, partner: Prediction, inside: Tensor) -> Prediction:
        """The partner's prediction inside the boxes (N, H, W)."""
        pairs = zip(vars(self).values(), vars(partner).values())
        return Prediction(*(mix(own, other, inside) for own, other in pairs))


@dataclass
class PseudoLabels:
    """Labels of a batch of unlabelled images.

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
    regions: Tensor | None


class PseudoLabeler(nn.Module):
    """Keeps the confidence threshold and labels unlabelled images by it.

    The threshold moves once per optimiser step: ``new_step`` says whether the next batch begins one, and batches
    of the same step move it from the same start, by the highest confidences of all of them.

    Args:
        tau (float): Initial threshold, within 0 .. 1.
        momentum (float): Of the threshold; 1 keeps it fixed.

    Raises:
        ValueError: If a value is out of range.
    """

    tau: Tensor
    tau_before: Tensor
    step_maxima: Tensor

    def __init__(self, num_classes: int, tau: float = 0.85, momentum: float = 0.999) -> None:
        super().__init__()
        for name, value in dict(tau=tau, momentum=momentum).items():
            if not is_number(value, 0, 1):
                raise ValueError(f'pseudo_labels.{name} = {value!r}, but it must lie within 0 .. 1.')
        self.num_classes = num_classes
        self.momentum = momentum
        self.new_step = True
        self.register_buffer('tau', torch.tensor(float(tau)))
        self.register_buffer('tau_before', torch.tensor(float(tau)))
        self.register_buffer('step_maxima', torch.zeros(num_classes))

    @torch.no_grad()
    def move_threshold(self, prediction: Prediction, valid: Tensor) -> None:
        """Moves tau by the highest confidence of each class among the valid pixels of all processes."""
        if self.new_step:
            self.tau_before.copy_(self.tau)
            self.step_maxima.zero_()
        maxima = class_maxima(prediction.confidence, prediction.labels, valid, self.num_classes)
        all_reduce(maxima, 'max')
        torch.maximum(self.step_maxima, maxima, out=self.step_maxima)
        self.tau.copy_(move_threshold(self.tau_before, self.step_maxima, self.momentum))

    @torch.no_grad()
    def forward(
        self,
        own: Prediction,
        partner: Prediction,
        inside: Tensor,
        regions: Tensor | None = None,
        move: bool = True,
    ) -> PseudoLabels:
        """Labels a batch of N images.

        Args:
            own (Prediction): Of the weak views.
            partner (Prediction): Of the images that the boxes come from.
            inside (Tensor): (N, H, W) bool, the boxes.
            regions (Tensor, optional): (N, R, H, W) bool, of the weak views.
            move (bool): Whether the threshold moves first; a second strong view of the same images leaves it.
        """
        mixed = own.mix(partner, inside)
        if move:
            self.move_threshold(own, ~mixed.ignored)
        confident = (mixed.confidence >= self.tau) & ~mixed.ignored
        labels, accepted = mixed.labels, confident
        if regions is not None:
            regions = regions & ~(inside | mixed.ignored).unsqueeze(1)
            labels, accepted = propagate_regions(labels, confident, regions, self.tau, self.num_classes)
        own_confident = (own.confidence >= self.tau) & ~own.ignored
        return PseudoLabels(own, own_confident, mixed, confident, labels, accepted, regions)
