"""From a prediction to labels that can be trusted (DerProp, arXiv 2508.02254; CorrMatch, arXiv 2306.04300)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn

from ..ops import (
    class_counts,
    class_maxima,
    class_sums,
    mix,
    move_class_bias,
    move_class_thresholds,
    move_threshold,
    propagate_regions,
)
from ..utils.options import check_flags, is_number


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
    of the same step move it from the same start, by the confidences of all of them.

    One threshold for all classes follows their highest confidences (published). With it a class that the network is
    rarely sure of gives no labels, and its neighbours take its place. A threshold of each class follows the mean
    confidence of the pixels that are predicted as this class, so that about half of them are labels, as in
    class-balanced self-training (arXiv 1810.07911); ``tau``, which regions and the log read, is then the mean over the
    classes.

    A network that learns from its own labels predicts rare classes less and less. Alignment adds a bias to the logits
    that labels are made of, so that each class keeps its share of them: that which it has among the labelled pixels
    (the aim of DARS, arXiv 2107.11279). The bias moves after each batch by ``align`` times the logarithm of labelled
    over predicted share, the former the mean over all batches, the latter a moving one.

    Args:
        tau (float): Initial threshold, within 0 .. 1.
        momentum (float): Of the threshold; 1 keeps it fixed.
        per_class (bool): Whether each class has a threshold of its own.
        align (float): Rate of the alignment, within 0 .. 1; 0 aligns nothing.

    Raises:
        ValueError: If a value is out of range.
    """

    tau: Tensor
    tau_before: Tensor
    step_maxima: Tensor
    class_tau: Tensor
    class_tau_before: Tensor
    step_sums: Tensor
    class_bias: Tensor
    labeled_shares: Tensor
    predicted_shares: Tensor
    aligned_batches: Tensor

    def __init__(
        self,
        num_classes: int,
        tau: float = 0.85,
        momentum: float = 0.999,
        per_class: bool = False,
        align: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value in dict(tau=tau, momentum=momentum, align=align).items():
            if not is_number(value, 0, 1):
                raise ValueError(f'pseudo_labels.{name} = {value!r}, but it must lie within 0 .. 1.')
        self.num_classes = num_classes
        self.momentum = momentum
        self.new_step = True
        self.register_buffer('tau', torch.tensor(float(tau)))
        self.register_buffer('tau_before', torch.tensor(float(tau)))
        self.register_buffer('step_maxima', torch.zeros(num_classes))
        check_flags(**{'pseudo_labels.per_class': per_class})
        self.per_class = per_class
        if per_class:
            self.register_buffer('class_tau', torch.full((num_classes,), float(tau)))
            self.register_buffer('class_tau_before', self.class_tau.clone())
            self.register_buffer('step_sums', torch.zeros(2, num_classes))
        self.align = align
        if align:
            for name in ('class_bias', 'labeled_shares', 'predicted_shares'):
                self.register_buffer(name, torch.zeros(num_classes))
            self.register_buffer('aligned_batches', torch.zeros(()))

    def aligned(self, logits: Tensor) -> Tensor:
        """Logits (N, K, H, W) with the bias of each class."""
        return logits + self.class_bias.to(logits.dtype)[:, None, None] if self.align else logits

    @torch.no_grad()
    def move_alignment(self, prediction: Prediction, truth: Tensor, known: Tensor) -> None:
        """Moves the bias by what is predicted with it, and by labels (M, H, W) where they are ``known``."""
        if not self.align:
            return
        predicted = class_counts(prediction.labels, ~prediction.ignored, self.num_classes)
        counts = torch.stack([predicted, class_counts(truth, known, self.num_classes)])
        all_reduce(counts)
        predicted, labeled = counts / counts.sum(1, keepdim=True).clamp_min(1)
        self.aligned_batches += 1
        self.labeled_shares.lerp_(labeled, 1 / self.aligned_batches)
        self.predicted_shares.lerp_(predicted, (1 / self.aligned_batches).clamp_min(0.05))
        self.class_bias.copy_(move_class_bias(self.class_bias, self.predicted_shares, self.labeled_shares, self.align))

    @torch.no_grad()
    def move_threshold(self, prediction: Prediction, valid: Tensor) -> None:
        """Moves tau by the confidences of each class among the valid pixels of all processes."""
        if self.per_class:
            if self.new_step:
                self.class_tau_before.copy_(self.class_tau)
                self.step_sums.zero_()
            sums = class_sums(prediction.confidence, prediction.labels, valid, self.num_classes)
            all_reduce(sums)
            self.step_sums += sums
            self.class_tau.copy_(move_class_thresholds(self.class_tau_before, self.step_sums, self.momentum))
            self.tau.copy_(self.class_tau.mean())
            return
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
        confident = self.is_confident(mixed)
        labels, accepted = mixed.labels, confident
        if regions is not None:
            regions = regions & ~(inside | mixed.ignored).unsqueeze(1)
            labels, accepted = propagate_regions(labels, confident, regions, self.tau, self.num_classes)
        return PseudoLabels(own, self.is_confident(own), mixed, confident, labels, accepted, regions)

    def is_confident(self, prediction: Prediction) -> Tensor:
        """(N, H, W) bool, where the confidence of a prediction reaches the threshold."""
        tau = self.class_tau[prediction.labels] if self.per_class else self.tau
        return (prediction.confidence >= tau) & ~prediction.ignored
