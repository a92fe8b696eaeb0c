"""Derivative similarity and pixel propagation (DerProp, arXiv 2508.02254, section 3).

A head gives every position of an (h, w) grid two vectors of K channels, q and k, with L = h * w. D is the
forward difference along the channels. Two positions are similar where their vectors agree and the
derivatives of their vectors agree:

    S = sum_n (D^n q)^T (D^n k) / sqrt(K - n),   n = 0 .. max_order           (N, L, L)

D is linear, so S = q^T M k with one K x K matrix M, whatever the orders. No tensor of all pairs is kept, see
:mod:`mmseg_derprop.ops.blockwise`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .blockwise import log_sum_exp, spread

NORMALIZATIONS = ('source', 'source_mean', 'target')


def derivative(x: Tensor, order: int = 1) -> Tensor:
    """Forward difference of (N, K, L) along the channels, taken ``order`` times: (N, K - order, L)."""
    return torch.diff(x, n=min(order, x.shape[1]), dim=1)


def similarity_metric(num_classes: int, max_order: int = 1, **factory) -> Tensor:
    """(K, K), the symmetric, positive definite M of S = q^T M k; with max_order 0 S is the plain inner product."""
    check_order(max_order, num_classes)
    identity = torch.eye(num_classes, **factory)
    differences = (identity.diff(n=order, dim=0) for order in range(max_order + 1))
    return sum((d.T @ d / math.sqrt(len(d)) for d in differences), torch.zeros_like(identity))


def check_order(max_order: int, num_classes: int) -> None:
    """Raises ValueError if vectors of K channels have no derivative of that order."""
    if not 0 <= max_order < num_classes:
        raise ValueError(
            f'max_order = {max_order}, but vectors of {num_classes} channels have derivatives of order 0 to '
            f'{num_classes - 1}: choose one of these.'
        )


def full_precision(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Half-precision tensors as float32: sums over thousands of positions need it; others as they are."""
    return tuple(t.float() if t.dtype in (torch.float16, torch.bfloat16) else t for t in tensors)


def _attend(q: Tensor, k: Tensor, values: Tensor) -> Tensor:
    """out_j = sum_i v_i W_ij with W = softmax over i of q_i . k_j: ordinary attention, for which torch has kernels."""
    # The memory-saving kernels want vectors and values of one width, a multiple of 8; zeros change nothing.
    channels = -(-max(q.shape[1], values.shape[1]) // 8) * 8
    query, key, value = (
        F.pad(t, (0, 0, 0, channels - t.shape[1])).mT.unsqueeze(1).contiguous() for t in (k, q, values)
    )
    out = F.scaled_dot_product_attention(query, key, value, scale=1.0)
    return out.squeeze(1).mT[:, : values.shape[1]]


def propagate(q: Tensor, k: Tensor, values: Tensor, max_order: int = 1, normalize: str = 'source') -> Tensor:
    """Propagates values over the grid along the derivative similarity.

    Args:
        q (Tensor): (N, K, L) source vectors.
        k (Tensor): (N, K, L) target vectors.
        values (Tensor): (N, C, L) of the sources; the published method detaches them.
        max_order (int): Highest order of derivative in the similarity.
        normalize (str): With S the similarity of source i and target j,

            - ``'source'`` (published): softmax over j, sum over i. What reaches a target is not a mean: its
              weights sum to anything, more where more sources look at it.
            - ``'source_mean'``: the same, divided by the sum of the weights that reached the target.
            - ``'target'``: softmax over i, as in ordinary attention.

    Returns:
        Tensor: (N, C, L), float32 for half-precision input.

    Raises:
        ValueError: If ``normalize`` or ``max_order`` is out of range.
    """
    if normalize not in NORMALIZATIONS:
        raise ValueError(f'normalize = {normalize!r}; choose one of {", ".join(NORMALIZATIONS)}.')
    with torch.autocast(q.device.type, enabled=False):
        q, k, values = full_precision(q, k, values)
        q = similarity_metric(q.shape[1], max_order, dtype=q.dtype, device=q.device) @ q
        if normalize == 'source':
            return spread(q, k, values)
        if normalize == 'source_mean':
            # P_ij / sum_i P_ij is a softmax over i of log P_ij = S_ij - log sum_j exp S_ij: one channel more.
            q, k = torch.cat([q, -log_sum_exp(q, k)], dim=1), torch.cat([k, torch.ones_like(k[:, :1])], dim=1)
        return _attend(q, k, values)


@torch.no_grad()
def similarity_rows(q: Tensor, k: Tensor, rows: Tensor, max_order: int = 1) -> Tensor:
    """Rows of P, the softmax of S over its last index: how much of a source each position receives.

    ``rows`` (R,) int64, within 0 .. L - 1, are the same for every image; q, k and ``max_order`` are as of
    :func:`propagate`. Returned are (N, R, L), each row of sum 1, float32 for half-precision input.
    """
    with torch.autocast(q.device.type, enabled=False):
        q, k = full_precision(q, k)
        metric = similarity_metric(q.shape[1], max_order, dtype=q.dtype, device=q.device)
        return ((metric @ q[..., rows]).mT @ k).softmax(-1)
