"""Affinities between positions and the losses on them (DerProp, arXiv 2508.02254).

The affinity of order n compares the positions' class distributions:

    A_n = softmax_c(D^n q)^T softmax_c(D^n k) / sqrt(K - n)                   (N, L, L), within 0 .. 1 / sqrt(K - n)

Losses are means over pairs of positions, averaged over the orders 0 .. max_order. None keeps an L x L tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .blockwise import distance, row_blocks
from .similarity import check_order, derivative, full_precision


def affinity_factors(q: Tensor, k: Tensor, max_order: int = 1) -> Iterator[tuple[Tensor, Tensor, float]]:
    """For each order n: softmax_c(D^n q), softmax_c(D^n k), both (N, K - n, L), and the scale 1 / sqrt(K - n)."""
    check_order(max_order, q.shape[1])
    q, k = full_precision(q, k)
    for order in range(max_order + 1):
        dq, dk = derivative(q, order), derivative(k, order)
        yield dq.softmax(1), dk.softmax(1), 1 / math.sqrt(dq.shape[1])


def affinity_consistency_loss(
    q: Tensor,
    k: Tensor,
    target_q: Tensor,
    target_k: Tensor,
    max_order: int = 1,
    inside: Tensor | None = None,
    keep_inside: bool = True,
) -> Tensor:
    """Mean L1 distance between the affinities of two views, the target fixed.

    Args:
        q, k (Tensor): (N, K, L) of the view that learns.
        target_q, target_k (Tensor): (N, K, L) of the other view; no gradient reaches them.
        max_order (int): Highest order of derivative.
        inside (Tensor, optional): (N, L) bool, the positions inside a CutMix box. Pairs across the border of the
            box belong to different images and are left out. By default every pair counts.
        keep_inside (bool): Whether pairs with both positions inside count.

    Returns:
        Tensor: Scalar; 0 if no pair counts.
    """
    with torch.autocast(q.device.type, enabled=False):
        row_group = column_group = q.new_empty(0)
        pairs = torch.tensor(float(len(q) * q.shape[-1] ** 2), device=q.device)
        if inside is not None:
            # A pair counts if its groups are equal: those of the positions inside differ if they are not to pair.
            row_group, column_group = inside.int(), inside.int() * (1 if keep_inside else 2)
            pairs = count_box_pairs(inside, keep_inside)
        total = q.new_zeros((), dtype=torch.promote_types(q.dtype, torch.float32))
        targets = affinity_factors(target_q.detach(), target_k.detach(), max_order)
        with_grad = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad)
        for (pq, pk, scale), (tq, tk, _) in zip(affinity_factors(q, k, max_order), targets):
            total = total + scale * distance(pq, pk, tq, tk, row_group, column_group, with_grad)[0]
        return total / pairs.clamp_min(1) / (max_order + 1)


def count_box_pairs(inside: Tensor, keep_inside: bool = True) -> Tensor:
    """Number of pairs over which :func:`affinity_consistency_loss` is a mean: scalar, float32."""
    members = inside.sum(1, dtype=torch.float32)
    return (inside.shape[1] - members).square().sum() + (members.square().sum() if keep_inside else 0)


def labels_on_grid(labels: Tensor, grid: tuple[int, int]) -> Tensor:
    """(N, h * w), labels (N, H, W) nearest to the positions of a grid whose corners are the image's corners."""
    y, x = (
        (torch.arange(steps, dtype=torch.float64, device=labels.device) * (size - 1) / max(steps - 1, 1)).round().long()
        for size, steps in zip(labels.shape[-2:], grid)
    )
    return labels[:, y[:, None], x].flatten(1)


def label_affinity_loss(
    q: Tensor, k: Tensor, labels: Tensor, grid: tuple[int, int], ignore_index: int = 255, max_order: int = 1
) -> Tensor:
    """Mean L1 distance of the affinities to 1 / sqrt(K - n) where labels are equal and 0 where they are not.

    No affinity exceeds its target of equal labels, so with a = 1 / sqrt(K - n)
    sum abs(A - target) = sum A - 2 * sum_same A + a * (number of same pairs), and both sums of A factor through
    per-class sums of the distributions: the cost is linear in L.

    Args:
        q, k (Tensor): (N, K, L) with L = h * w.
        labels (Tensor): (N, H, W) int64 within 0 .. K - 1, or ``ignore_index``; ignored positions form no pair.
        grid (tuple[int, int]): (h, w).
        ignore_index (int): The label that does not count.
        max_order (int): Highest order of derivative.

    Returns:
        Tensor: Scalar; 0 if no position is labelled.
    """
    labels = labels_on_grid(labels, grid)
    valid = labels != ignore_index
    with torch.autocast(q.device.type, enabled=False):
        total = q.new_zeros((), dtype=torch.promote_types(q.dtype, torch.float32))
        classes = torch.arange(q.shape[1], device=labels.device)
        member = ((labels.unsqueeze(-1) == classes) & valid.unsqueeze(-1)).to(total.dtype)  # (N, L, K)
        sizes = member.sum(1)
        same_pairs, pairs = sizes.square().sum(), sizes.sum(1).square().sum()
        for pq, pk, scale in affinity_factors(q, k, max_order):
            class_q, class_k = pq @ member, pk @ member  # (N, K - n, K): sums over the positions of each class
            same = (class_q * class_k).sum()
            everything = (class_q.sum(-1) * class_k.sum(-1)).sum()
            total = total + scale * (everything - 2 * same + same_pairs)
        return total / pairs.clamp_min(1) / (max_order + 1)


@torch.no_grad()
def interpolated_label_affinity_loss(
    q: Tensor, k: Tensor, labels: Tensor, grid: tuple[int, int], ignore_index: int = 255, max_order: int = 1
) -> Tensor:
    """The label affinity of the published program, which interpolates label ids and has no gradient.

    Ids are resized bilinearly as numbers; those equal to ``ignore_index`` afterwards become 22, the rest is
    truncated. Equal ids are to have the affinity 1 / sqrt(max - 1) for every order, max the largest id of the
    batch. So the target changes from batch to batch, and ids appear that no pixel has. All pairs count. It is 0 if the
    largest id is 1 or 0, where the published program divides by zero. Arguments are as of :func:`label_affinity_loss`.
    """
    ids = F.interpolate(labels.unsqueeze(1).float(), grid, mode='bilinear', align_corners=True).flatten(1)
    ids = ids.masked_fill(ids == ignore_index, 22).int()
    largest = ids.max()
    with torch.autocast(q.device.type, enabled=False):
        total = q.new_zeros((), dtype=torch.promote_types(q.dtype, torch.float32))
        equal_affinity = (largest - 1).clamp_min(1).to(total.dtype).rsqrt()
        for pq, pk, scale in affinity_factors(q, k, max_order):
            for rows in row_blocks(pq):
                target = equal_affinity * (ids[:, rows, None] == ids[:, None])
                total += (scale * (pq[..., rows].mT @ pk) - target).abs().sum()
        return (total / (ids.numel() * ids.shape[1]) / (max_order + 1)).where(largest > 1, 0.0)


def smoothness_loss(q: Tensor, k: Tensor) -> Tensor:
    """Mean absolute second derivative of q and of k (N, K, L), averaged: scalar, 0 for two classes, which have none."""
    q, k = full_precision(q, k)
    if q.shape[1] <= 2:
        return (q.sum() + k.sum()) * 0
    return (derivative(q, 2).abs().mean() + derivative(k, 2).abs().mean()) / 2
