"""How sure a network is of each class, and how often it predicts it: what thresholds and alignment follow."""

from __future__ import annotations

import torch
from torch import Tensor

FLOOR = 1e-4  # a share below it counts as it, so that a class that never occurs has a logarithm
LIMIT = 2.0  # in logits


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


def class_counts(labels: Tensor, valid: Tensor, num_classes: int) -> Tensor:
    """(K,) float32, number of the valid pixels (N, H, W) of each label (N, H, W)."""
    counts = torch.zeros(num_classes, device=labels.device)
    return counts.scatter_add_(0, labels.where(valid, 0).flatten(), valid.flatten().float())


def move_class_bias(bias: Tensor, predicted: Tensor, labeled: Tensor, rate: float) -> Tensor:
    """Moves the bias (K,) of each class's logit by ``rate`` times the logarithm of labelled over predicted shares (K,).

    Shares are of pixels. The new bias has mean 0, but within -2 .. 2: a class that is predicted too seldom rises (the
    aim of DARS, arXiv 2107.11279).
    """
    bias = bias + rate * (labeled.clamp_min(FLOOR) / predicted.clamp_min(FLOOR)).log()
    return (bias - bias.mean()).clamp(-LIMIT, LIMIT)
