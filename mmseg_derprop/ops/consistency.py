"""Consistency losses between a prediction and pseudo-labels.

Means are over the pixels that are not ignored, however few of them the mask leaves.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor, ignored: Tensor) -> Tensor:
    """Sum over a mask, divided by the number of pixels that are not ignored.

    Args:
        values (Tensor): (N, H, W).
        mask (Tensor): (N, H, W) bool.
        ignored (Tensor): (N, H, W) bool.

    Returns:
        Tensor: Scalar; 0 where the mask is empty.
    """
    return values.where(mask, 0.0).sum() / (~ignored).sum().clamp_min(1)


def cross_entropy_map(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of each pixel, in float32.

    Args:
        logits (Tensor): (N, K, H, W).
        labels (Tensor): (N, H, W) int64 within 0 .. K - 1.

    Returns:
        Tensor: (N, H, W).
    """
    return F.cross_entropy(logits.float(), labels, reduction='none')


def soft_cross_entropy_map(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of each pixel with the distribution of other logits, in float32.

    Args:
        logits (Tensor): (N, K, H, W).
        target (Tensor): (N, K, H, W) logits of the target; no gradient reaches them.

    Returns:
        Tensor: (N, H, W), -sum_c p_c log s_c with p the softmax of the target and s that of the logits.
    """
    return -(target.detach().float().softmax(1) * logits.float().log_softmax(1)).sum(1)


def entropy_map(logits: Tensor) -> Tensor:
    """Entropy of each pixel's distribution, in float32 and without gradient: (N, H, W) of logits (N, K, H, W)."""
    log_probability = logits.detach().float().log_softmax(1)
    return -(log_probability.exp() * log_probability).sum(1)
