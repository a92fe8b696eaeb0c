"""Consistency losses between a prediction and pseudo-labels.

Means are over the pixels that are not ignored, however few of them the mask leaves.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor, ignored: Tensor) -> Tensor:
    """Sum of values (N, H, W) over a mask, divided by the number of pixels that are not ignored; a scalar."""
    return values.where(mask, 0.0).sum() / (~ignored).sum().clamp_min(1)


def cross_entropy_map(logits: Tensor, labels: Tensor) -> Tensor:
    """(N, H, W) in float32, cross entropy of logits (N, K, H, W) with labels (N, H, W) within 0 .. K - 1."""
    return F.cross_entropy(logits.float(), labels, reduction='none')


def soft_cross_entropy_map(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of logits (N, K, H, W) with the distribution of a target's logits (N, K, H, W).

    Returns:
        Tensor: (N, H, W) in float32, -sum_c p_c log s_c with p the softmax of the target, which gets no gradient, and s
        that of the logits.
    """
    return -(target.detach().float().softmax(1) * logits.float().log_softmax(1)).sum(1)


def entropy_map(logits: Tensor) -> Tensor:
    """Entropy of each pixel's distribution, in float32 and without gradient: (N, H, W) of logits (N, K, H, W)."""
    log_probability = logits.detach().float().log_softmax(1)
    return -(log_probability.exp() * log_probability).sum(1)
