"""Perturbation of features by channels (UniMatch V2, arXiv 2410.10777)."""

from __future__ import annotations

import torch
from torch import Tensor


def complementary_dropout2d(features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Gives two views of the same images complementary halves of each feature's channels, scaled by 2.

    Features are (2 B, C, h, w), the B first views before the B second ones. Those of equal width share their draw, so
    that a channel is dropped at all depths or at none. Half of the images (rounded down), drawn at random, keep all
    channels in both views.
    """
    batch, device = len(features[0]) // 2, features[0].device
    whole = (torch.rand(batch, device=device).argsort() < batch // 2)[:, None, None, None]
    factors: dict[int, Tensor] = {}  # by width
    for width in (feature.shape[1] for feature in features):
        if width not in factors:
            first = torch.where(whole, 1.0, 2.0 * torch.randint(2, (batch, width, 1, 1), device=device))
            factors[width] = torch.cat([first, 2 - first])
    return tuple(feature * factors[feature.shape[1]].to(feature.dtype) for feature in features)
