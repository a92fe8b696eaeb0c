"""Class-agnostic regions and their labels (DerProp, arXiv 2508.02254; CorrMatch, arXiv 2306.04300)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .similarity import full_precision


@torch.no_grad()
def region_masks(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Regions where a similarity map exceeds the middle of its range.

    Args:
        maps (Tensor): (N, R, h, w) similarity of R chosen positions to all others.
        size (tuple[int, int]): (H, W) of the image.

    Returns:
        Tensor: (N, R, H, W) bool. A constant map is an empty region.
    """
    (maps,) = full_precision(maps)
    masks = torch.empty((*maps.shape[:2], *size), dtype=torch.bool, device=maps.device)
    for mask, image_maps in zip(masks, maps):  # by image: only booleans of the whole batch live at once
        resized = F.interpolate(image_maps[None], size, mode='bilinear', align_corners=True)[0]
        low, high = resized.flatten(1).aminmax(dim=1)
        span = high - low
        # Interpolating a constant map leaves rounding errors. NaN is in no region: no comparison accepts it.
        span = span.masked_fill(span <= 8 * torch.finfo(maps.dtype).eps * high.abs(), torch.nan)
        resized -= low[:, None, None]
        resized /= span[:, None, None]
        torch.gt(resized, 0.5, out=mask)
    return masks


@torch.no_grad()
def propagate_regions(
    labels: Tensor, confident: Tensor, regions: Tensor, tau: Tensor | float, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Gives whole regions the label that their confident pixels agree on.

    Regions act in order, each on the labels that the earlier ones left. A region is skipped if the share of its
    pixels that are confident is below tau; it takes the most frequent label of its confident pixels (the
    smaller id of equals) if more than tau of them have it.

    Args:
        labels (Tensor): (N, H, W) int64 within 0 .. num_classes - 1.
        confident (Tensor): (N, H, W) bool.
        regions (Tensor): (N, R, H, W) bool.
        tau (Tensor | float): Scalar threshold.
        num_classes (int): K.

    Returns:
        tuple[Tensor, Tensor]: The new labels (N, H, W) int64 and the accepted pixels (N, H, W) bool: the
        confident ones and those of the regions that took a label.
    """
    shape, batch = labels.shape, len(labels)
    labels, accepted = labels.flatten(1).clone(), confident.flatten(1).clone()
    regions = regions.flatten(2)
    sizes = regions.sum(-1)
    # One histogram bin for each class and one for pixels that do not vote.
    confident_labels = labels.masked_fill(~accepted, num_classes)
    ones = torch.ones_like(labels, dtype=torch.int32)
    for region, size in zip(regions.unbind(1), sizes.unbind(1)):
        voters = confident_labels.masked_fill(~region, num_classes)
        votes = torch.zeros(batch, num_classes + 1, dtype=torch.int32, device=labels.device)
        votes = votes.scatter_add_(1, voters, ones)[:, :num_classes]
        voting = votes.sum(1)
        winner_votes, winner = votes.max(1)
        # Without votes 0 / 0 is NaN, which fails the comparison.
        takes = (voting / size >= tau) & (winner_votes / voting > tau)
        relabel = region & takes[:, None]
        labels = torch.where(relabel, winner[:, None], labels)
        confident_labels = torch.where(relabel & (confident_labels < num_classes), winner[:, None], confident_labels)
        accepted |= relabel
    return labels.view(shape), accepted.view(shape)
