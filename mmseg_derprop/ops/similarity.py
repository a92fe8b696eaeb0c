"""Derivative similarity and pixel propagation (DerProp, arXiv 2508.02254, section 3).

A head gives every position of an (h, w) grid two vectors of K channels, q and k, with L = h * w. D is the
forward difference along the channels. Two positions are similar where their vectors agree and the
derivatives of their vectors agree:

    S = sum_n (D^n q)^T (D^n k) / sqrt(K - n),   n = 0 .. max_order           (N, L, L)

D is linear, so S = q^T M k with one K x K matrix M, whatever the orders. No function of this module keeps an
L x L tensor: rows are formed in blocks and formed again in the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Entries of a row block. On a CPU a block should stay in the cache; a GPU wants few, large launches.
BLOCK_ENTRIES = {'cpu': 2**18, 'cuda': 2**25}

NORMALIZATIONS = ('source', 'source_mean', 'target')


def derivative(x: Tensor, order: int = 1) -> Tensor:
    """Forward difference along the channels.

    Args:
        x (Tensor): (N, K, L).
        order (int): How often the difference is taken; 0 returns x.

    Returns:
        Tensor: (N, K - order, L), empty along the channels where K <= order.
    """
    return torch.diff(x, n=min(order, x.shape[1]), dim=1)


def similarity_metric(num_classes: int, max_order: int = 1, **factory) -> Tensor:
    """The matrix M of S = q^T M k.

    Args:
        num_classes (int): K.
        max_order (int): Highest order of derivative; 0 is the plain inner product.
        **factory: dtype and device of the result.

    Returns:
        Tensor: (K, K), symmetric and positive definite.

    Raises:
        ValueError: If ``max_order`` is not within 0 .. K - 1.
    """
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


def row_blocks(batch: int, length: int, device: torch.device) -> Iterator[slice]:
    """Slices of rows such that a (batch, rows, length) block keeps to ``BLOCK_ENTRIES``."""
    rows = max(1, BLOCK_ENTRIES.get(device.type, BLOCK_ENTRIES['cuda']) // (batch * length))
    return (slice(start, min(start + rows, length)) for start in range(0, length, rows))


def full_precision(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Half-precision tensors as float32: sums over thousands of positions need it; others as they are."""
    return tuple(t.float() if t.dtype in (torch.float16, torch.bfloat16) else t for t in tensors)


class _Propagate(torch.autograd.Function):
    """out_j = sum_i v_i P_ij with P = softmax over j of q_i . k_j; see :func:`propagate`."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, values: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, values)
        out = torch.zeros_like(values)
        for rows in row_blocks(len(q), q.shape[-1], q.device):
            weights = (q[..., rows].mT @ k).softmax(-1)
            out.baddbmm_(values[..., rows], weights)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        q, k, values = ctx.saved_tensors
        grad_q, grad_k, grad_values = torch.empty_like(q), torch.zeros_like(k), None
        if ctx.needs_input_grad[2]:
            grad_values = torch.empty_like(values)
        with torch.autocast(q.device.type, enabled=False):  # the backward pass may be started inside one
            for rows in row_blocks(len(q), q.shape[-1], q.device):
                weights = (q[..., rows].mT @ k).softmax(-1)
                if grad_values is not None:
                    grad_values[..., rows] = grad @ weights.mT
                # Gradient of a softmax: P * (dP - sum_j P dP).
                grad_scores = values[..., rows].mT @ grad
                grad_scores -= torch.linalg.vecdot(weights, grad_scores).unsqueeze(-1)
                grad_scores *= weights
                grad_q[..., rows] = k @ grad_scores.mT
                grad_k.baddbmm_(q[..., rows], grad_scores)
        return grad_q, grad_k, grad_values


class _LogSumExp(torch.autograd.Function):
    """log sum_j exp(q_i . k_j) for each i, (N, 1, L)."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor) -> Tensor:
        out = torch.empty_like(q[:, :1])
        for rows in row_blocks(len(q), q.shape[-1], q.device):
            out[:, 0, rows] = (q[..., rows].mT @ k).logsumexp(-1)
        ctx.save_for_backward(q, k, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        q, k, out = ctx.saved_tensors
        grad_q, grad_k = torch.empty_like(q), torch.zeros_like(k)
        with torch.autocast(q.device.type, enabled=False):
            for rows in row_blocks(len(q), q.shape[-1], q.device):
                weights = (q[..., rows].mT @ k - out[..., rows].mT).exp_()
                grad_q[..., rows] = (k @ weights.mT) * grad[..., rows]
                grad_k.baddbmm_(q[..., rows] * grad[..., rows], weights)
        return grad_q, grad_k


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
            return _Propagate.apply(q, k, values)
        if normalize == 'source_mean':
            # P_ij / sum_i P_ij is a softmax over i of log P_ij = S_ij - log sum_j exp S_ij: one channel more.
            q, k = torch.cat([q, -_LogSumExp.apply(q, k)], dim=1), torch.cat([k, torch.ones_like(k[:, :1])], dim=1)
        return _attend(q, k, values)


@torch.no_grad()
def similarity_rows(q: Tensor, k: Tensor, rows: Tensor, max_order: int = 1) -> Tensor:
    """Rows of P, the softmax of S over its last index: how much of a source each position receives.

    Args:
        q (Tensor): (N, K, L).
        k (Tensor): (N, K, L).
        rows (Tensor): (R,) int64 indices within 0 .. L - 1, the same for every image.
        max_order (int): Highest order of derivative in the similarity.

    Returns:
        Tensor: (N, R, L), each row sums to 1, float32 for half-precision input.
    """
    with torch.autocast(q.device.type, enabled=False):
        q, k = full_precision(q, k)
        metric = similarity_metric(q.shape[1], max_order, dtype=q.dtype, device=q.device)
        return ((metric @ q[..., rows]).mT @ k).softmax(-1)
