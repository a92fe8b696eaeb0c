"""Perturbation of features by channels (UniMatch V2, arXiv 2410.10777)."""

from __future__ import annotations

import torch
from torch import Tensor


def complementary_dropout2d(features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Gives two views of the same images complementary halves of each feature's channels, scaled by 2.

    Half of the images (rounded down), drawn at random, keep all channels in both views.

    Args:
        features (tuple[Tensor, ...]): (2 B, C, h, w) each, the B first views before the B second ones.

    Returns:
        tuple[Tensor, ...]: Of the same shapes.
    """
    batch, device = len(features[0]) // 2, features[0].device
    whole = (torch.rand(batch, device=device).argsort() < batch // 2)[:, None, None, None]
    dropped = []
    for feature in features:
        keep = torch.randint(2, (batch, feature.shape[1], 1, 1), device=device).to(feature.dtype)
        first = torch.where(whole, 1, 2 * keep)
        dropped.append(feature * torch.cat([first, 2 - first]))
    return tuple(dropped)
