"""Whole regions that take the label which their confident pixels agree on (METHOD sections 4 and 5)."""

from __future__ import annotations

import torch
from mmseg.registry import MODELS
from torch import Tensor, nn

from ...ops import propagate_regions, region_masks, similarity_rows
from ...utils.options import PositiveInt, check_options
from ..derprop_head import Embedding


@MODELS.register_module()
class RegionPropagation(nn.Module):
    """Regions by the similarity to randomly drawn positions, and the labels that they take.

    Args:
        num_classes (int): K; the labeller gives it.
        num (int): Regions per image, at least 1.
    """

    @check_options
    def __init__(self, num_classes: int, num: PositiveInt = 128) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num = num

    def draw_rows(self, positions: int, device: torch.device) -> Tensor:
        """(num,) int64, positions whose similarity maps become regions, drawn with replacement."""
        return torch.randint(positions, (self.num,), device=device)

    @torch.no_grad()
    def propose(
        self, embedding: Embedding, size: tuple[int, int], max_order: int, rows: Tensor | None = None
    ) -> Tensor:
        """(N, R, H, W) bool, regions of N images of size (H, W), by the rows (R,) int64; drawn if left out."""
        if rows is None:
            rows = self.draw_rows(embedding.q.shape[-1], embedding.q.device)
        maps = similarity_rows(embedding.q, embedding.k, rows, max_order)
        return region_masks(maps.unflatten(2, embedding.grid), size)

    @torch.no_grad()
    def forward(self, labels: Tensor, confident: Tensor, regions: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
        """New labels and accepted pixels, as :func:`mmseg_derprop.ops.propagate_regions` gives them."""
        return propagate_regions(labels, confident, regions, threshold, self.num_classes)
