"""How often each class is predicted, against how often it is labelled (DARS, arXiv 2107.11279)."""

from __future__ import annotations

import torch
from torch import Tensor

FLOOR = 1e-4  # a share below it counts as it, so that a class that never occurs has a logarithm
LIMIT = 2.0  # in logits


def class_counts(labels: Tensor, valid: Tensor, num_classes: int) -> Tensor:
    """(K,) float32, number of the valid pixels (N, H, W) of each label (N, H, W)."""
    counts = torch.zeros(num_classes, device=labels.device)
    return counts.scatter_add_(0, labels.where(valid, 0).flatten(), valid.flatten().float())


def move_class_bias(bias: Tensor, predicted: Tensor, labeled: Tensor, rate: float) -> Tensor:
    """Moves the bias (K,) of each class's logit by ``rate`` times the logarithm of labelled over predicted shares (K,).

    Shares are of pixels. The new bias has mean 0, but within -2 .. 2: a class that is predicted too seldom rises.
    """
    bias = bias + rate * (labeled.clamp_min(FLOOR) / predicted.clamp_min(FLOOR)).log()
    return (bias - bias.mean()).clamp(-LIMIT, LIMIT)
