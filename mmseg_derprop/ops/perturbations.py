"""CutMix (arXiv 1905.04899), and complementary channels of features (UniMatch V2, arXiv 2410.10777)."""

from __future__ import annotations

import torch
from torch import Tensor


def box_masks(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, H, W) bool, masks of boxes in images of size (H, W).

    Boxes are (N, 4): x1, y1, x2, y2 in pixels, x2 and y2 exclusive; equal corners are an empty box.
    """
    x1, y1, x2, y2 = boxes[:, :, None].unbind(1)
    y, x = (torch.arange(s, device=boxes.device) for s in size)
    return ((y >= y1) & (y < y2))[:, :, None] & ((x >= x1) & (x < x2))[:, None]


def mix(images: Tensor, partners: Tensor, masks: Tensor) -> Tensor:
    """Partners inside the masks (N, H, W), images outside; both are (N, H, W) or (N, C, H, W)."""
    return torch.where(masks if images.ndim == 3 else masks.unsqueeze(1), partners, images)


def complementary_dropout2d(features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Gives two views of the same images complementary halves of each feature's channels, scaled by 2.

    Features are (2 B, C, h, w), or (2 B, C) of tokens, the B first views before the B second ones. Those of equal
    width share their draw, so that a channel is dropped at all depths or at none. Half of the images (rounded down),
    drawn at random, keep all channels in both views.
    """
    batch, device = len(features[0]) // 2, features[0].device
    whole = (torch.rand(batch, device=device).argsort() < batch // 2)[:, None]
    factors: dict[int, Tensor] = {}  # by width
    for width in (feature.shape[1] for feature in features):
        if width not in factors:
            first = torch.where(whole, 1.0, 2.0 * torch.randint(2, (batch, width), device=device))
            factors[width] = torch.cat([first, 2 - first])
    drawn = [factors[feature.shape[1]].to(feature.dtype) for feature in features]
    pairs = zip(features, drawn)
    return tuple(feature * factor.reshape(*factor.shape, *[1] * (feature.ndim - 2)) for feature, factor in pairs)
