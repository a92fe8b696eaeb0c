"""The confidence threshold that follows the classes' highest confidences (CorrMatch, DerProp)."""

from __future__ import annotations

import torch
from torch import Tensor


def class_maxima(confidence: Tensor, labels: Tensor, valid: Tensor, num_classes: int) -> Tensor:
    """Highest confidence among the valid pixels of each label.

    Args:
        confidence (Tensor): (N, H, W) above 0.
        labels (Tensor): (N, H, W) int64 within 0 .. num_classes - 1.
        valid (Tensor): (N, H, W) bool.
        num_classes (int): K.

    Returns:
        Tensor: (K,), 0 for a label that no valid pixel has. The maximum over processes of these is all that a
        threshold shared by them needs.
    """
    maxima = confidence.new_zeros(num_classes)
    return maxima.scatter_reduce_(0, labels.flatten(), (confidence * valid).flatten(), 'amax')


def move_threshold(tau: Tensor, maxima: Tensor, momentum: float) -> Tensor:
    """Moves a threshold towards the mean of the maxima of the classes present.

    Args:
        tau (Tensor): Scalar.
        maxima (Tensor): (K,), 0 for absent classes.
        momentum (float): Share of the old threshold in the new one.

    Returns:
        Tensor: Scalar; the old threshold if no class is present.
    """
    present = (maxima > 0).sum()
    mean = maxima.sum() / present.clamp_min(1)
    return torch.where(present > 0, momentum * tau + (1 - momentum) * mean, tau)


def class_sums(confidence: Tensor, labels: Tensor, valid: Tensor, num_classes: int) -> Tensor:
    """Sum of the confidences, and number, of the valid pixels of each label.

    Args:
        confidence (Tensor): (N, H, W).
        labels (Tensor): (N, H, W) int64 within 0 .. num_classes - 1.
        valid (Tensor): (N, H, W) bool.
        num_classes (int): K.

    Returns:
        Tensor: (2, K). Its sum over batches and processes is that of all of them.
    """
    sums = confidence.new_zeros(2, num_classes)
    sums[0].scatter_add_(0, labels.flatten(), (confidence * valid).flatten())
    sums[1].scatter_add_(0, labels.flatten(), valid.flatten().to(confidence.dtype))
    return sums


def move_class_thresholds(tau: Tensor, sums: Tensor, momentum: float) -> Tensor:
    """Moves the threshold of each class towards the mean confidence of its pixels.

    Args:
        tau (Tensor): (K,).
        sums (Tensor): (2, K) of :func:`class_sums`.
        momentum (float): Share of the old thresholds in the new ones.

    Returns:
        Tensor: (K,); that of an absent class stays.
    """
    total, count = sums
    return torch.where(count > 0, momentum * tau + (1 - momentum) * total / count.clamp_min(1), tau)
