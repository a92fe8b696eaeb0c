"""Class-agnostic regions and their labels (DerProp, arXiv 2508.02254; CorrMatch, arXiv 2306.04300)."""

# Postponed annotations would hide the operator's types from torch 2.4.
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.library import custom_op

from .blockwise import blocks
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
    shape = (*maps.shape[:2], *size)
    (maps,) = full_precision(maps.flatten(0, 1))
    masks = torch.empty(len(maps), *size, dtype=torch.bool, device=maps.device)
    for some in blocks(len(maps), size[0] * size[1], maps.device):
        resized = F.interpolate(maps[None, some], size, mode='bilinear', align_corners=True)[0]
        low, high = resized.flatten(1).aminmax(dim=1)
        span = high - low
        # Interpolating a constant map leaves rounding errors. NaN is in no region: no comparison accepts it.
        span = span.masked_fill(span <= 8 * torch.finfo(maps.dtype).eps * high.abs(), torch.nan)
        resized -= low[:, None, None]
        resized /= span[:, None, None]
        masks[some] = resized > 0.5
    return masks.view(shape)


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
    tau = torch.as_tensor(tau, dtype=torch.float32, device=labels.device)
    new_labels, accepted = vote(labels.flatten(1), confident.flatten(1), regions.flatten(2), tau, num_classes)
    return new_labels.view_as(labels), accepted.view_as(labels)


def vote_by_masks(
    labels: Tensor, confident: Tensor, regions: Tensor, tau: Tensor, num_classes: int
) -> tuple[Tensor, Tensor]:
    """:func:`propagate_regions` of flattened images, without waiting for the device."""
    labels, accepted = labels.clone(), confident.clone()
    classes = torch.arange(num_classes, device=labels.device)[:, None]
    for region in regions.unbind(1):
        sample = region & confident
        votes = ((labels.unsqueeze(1) == classes) & sample.unsqueeze(1)).sum(2, dtype=torch.int32)
        winner_votes, winner = votes.max(1)
        voters = votes.sum(1)
        # Without voters 0 / 0 is NaN, which fails the comparison.
        takes = (voters / region.sum(1) >= tau) & (winner_votes / voters > tau)
        relabel = region & takes[:, None]
        labels = torch.where(relabel, winner[:, None], labels)
        accepted |= relabel
    return labels, accepted


def vote_by_counting(
    labels: Tensor, confident: Tensor, regions: Tensor, tau: Tensor, num_classes: int
) -> tuple[Tensor, Tensor]:
    """The same on a CPU, where asking costs nothing and NumPy is several times faster than torch with bytes."""
    threshold = tau.numpy()
    new_labels = labels.numpy().astype(np.min_scalar_type(num_classes))
    accepted = confident.numpy().copy()
    images = zip(new_labels, accepted, confident.numpy(), regions.numpy(), strict=True)
    for image, own_accepted, own_confident, own_regions in images:
        for mask in own_regions:
            # A region touches few rows of its image: nothing before its first and after its last pixel is read.
            part = slice(int(mask.argmax()), mask.tobytes().rfind(1) + 1)
            region = mask[part]
            sample = region & own_confident[part]
            voters, pixels = np.float32(np.count_nonzero(sample)), np.float32(np.count_nonzero(region))
            if voters == 0 or voters / pixels < threshold:
                continue
            # Comparing bytes is ten times faster than counting classes, so a few pixels guess the winner first.
            own = image[part]
            winner = np.bincount(own[::64][sample[::64]], minlength=1).argmax()
            votes = np.float32(np.count_nonzero((own == winner) & sample))
            if max(votes, voters - votes) / voters <= threshold:
                continue  # neither the guess nor all other classes together have enough
            if votes <= voters / 2:  # not the majority, so perhaps not the winner
                counts = np.bincount(own[sample], minlength=num_classes)
                winner = counts.argmax()
                votes = np.float32(counts[winner])
            if votes / voters > threshold:
                own[region] = winner
                own_accepted[part] |= region
    return torch.from_numpy(new_labels).to(labels.dtype), torch.from_numpy(accepted)


# An operator, so that torch.compile sees one call where it would unroll a loop over all regions.
vote = custom_op('mmseg_derprop::vote', vote_by_masks, mutates_args=())
vote.register_kernel('cpu', vote_by_counting)
vote.register_fake(lambda labels, confident, *_: (torch.empty_like(labels), torch.empty_like(confident)))
