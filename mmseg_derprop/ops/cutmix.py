"""CutMix (arXiv 1905.04899): a box of an image is replaced by its partner's."""

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
