"""The confidence threshold that follows the classes' highest confidences (CorrMatch, DerProp)."""

from __future__ import annotations

import torch
from torch import Tensor


def class_maxima(confidence: Tensor, labels: Tensor, valid: Tensor, num_classes: int) -> Tensor:
    """Highest confidence (N, H, W), above 0, among the valid pixels (N, H, W) of each label (N, H, W).

    Returns:
        Tensor: (K,), 0 for a label that no valid pixel has. The maximum over processes of these is all that a
        threshold shared by them needs.
    """
    maxima = confidence.new_zeros(num_classes)
    return maxima.scatter_reduce_(0, labels.flatten(), (confidence * valid).flatten(), 'amax')


def move_threshold(tau: Tensor, maxima: Tensor, momentum: float) -> Tensor:
    """Moves a scalar threshold towards the mean of the maxima (K,) of the classes present; stays if there is none.

    ``momentum`` is the share of the old threshold in the new one.
    """
    present = (maxima > 0).sum()
    mean = maxima.sum() / present.clamp_min(1)
    return torch.where(present > 0, momentum * tau + (1 - momentum) * mean, tau)


def class_sums(confidence: Tensor, labels: Tensor, valid: Tensor, num_classes: int) -> Tensor:
    """(2, K): sum of the confidences, and number, of the valid pixels of each label; arguments as of class_maxima."""
    sums = confidence.new_zeros(2, num_classes)
    sums[0].scatter_add_(0, labels.flatten(), (confidence * valid).flatten())
    sums[1].scatter_add_(0, labels.flatten(), valid.flatten().to(confidence.dtype))
    return sums


def move_class_thresholds(tau: Tensor, sums: Tensor, momentum: float) -> Tensor:
    """Moves the threshold (K,) of each class towards the mean confidence of its pixels; that of an absent class stays.

    ``sums`` (2, K) are of :func:`class_sums`; ``momentum`` is the share of the old thresholds in the new ones.
    """
    total, count = sums
    return torch.where(count > 0, momentum * tau + (1 - momentum) * total / count.clamp_min(1), tau)
