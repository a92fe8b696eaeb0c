"""Sums over all pairs of positions of an image, and their gradients, without a tensor of all pairs.

Rows of the (L, L) matrix q^T k are formed in blocks, and for the gradient once more. The loops are registered as
operators, so torch.compile sees one call where it would unroll hundreds of blocks.
"""

# Postponed annotations would hide the operators' types from torch 2.4.
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.library import custom_op

# Entries of a row block. On a CPU a block should stay in the cache; a GPU wants few, large launches.
BLOCK_ENTRIES = {'cpu': 2**18, 'cuda': 2**25}


def blocks(count: int, entries: int, device: torch.device) -> Iterator[slice]:
    """Slices of ``count`` things of so many ``entries`` each that keep to ``BLOCK_ENTRIES``."""
    step = max(1, BLOCK_ENTRIES.get(device.type, BLOCK_ENTRIES['cuda']) // max(entries, 1))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def row_blocks(q: Tensor) -> Iterator[slice]:
    """Slices of the rows of q^T k, (N, L, L)."""
    return blocks(q.shape[2], q.shape[0] * q.shape[2], q.device)


@custom_op('mmseg_derprop::spread', mutates_args=())
def spread(q: Tensor, k: Tensor, values: Tensor) -> Tensor:
    """(N, C, L), out_j = sum_i v_i P_ij, P the softmax over j of q_i . k_j; q, k are (N, K, L), values (N, C, L)."""
    out = torch.zeros_like(values)
    for rows in row_blocks(q):
        weights = (q[..., rows].mT @ k).softmax(-1)
        out.baddbmm_(values[..., rows], weights)
    return out


@custom_op('mmseg_derprop::spread_backward', mutates_args=())
def spread_backward(q: Tensor, k: Tensor, values: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`spread` for q, k and values, from that of its output, (N, C, L)."""
    grad_q, grad_k, grad_values = torch.empty_like(q), torch.zeros_like(k), torch.empty_like(values)
    for rows in row_blocks(q):
        weights = (q[..., rows].mT @ k).softmax(-1)
        grad_values[..., rows] = grad @ weights.mT
        # Gradient of a softmax: P * (dP - sum_j P dP), and the sum is that of v_i . dv_i.
        grad_scores = values[..., rows].mT @ grad
        grad_scores -= torch.linalg.vecdot(values[..., rows], grad_values[..., rows], dim=1).unsqueeze(-1)
        grad_scores *= weights
        grad_q[..., rows] = k @ grad_scores.mT
        grad_k.baddbmm_(q[..., rows], grad_scores)
    return grad_q, grad_k, grad_values


@custom_op('mmseg_derprop::log_sum_exp', mutates_args=())
def log_sum_exp(q: Tensor, k: Tensor) -> Tensor:
    """log sum_j exp(q_i . k_j) for each i: (N, 1, L) of q, k (N, K, L)."""
    out = torch.empty_like(q[:, :1])
    for rows in row_blocks(q):
        out[:, 0, rows] = (q[..., rows].mT @ k).logsumexp(-1)
    return out


@custom_op('mmseg_derprop::log_sum_exp_backward', mutates_args=())
def log_sum_exp_backward(q: Tensor, k: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`log_sum_exp` for q and k, from that of its output, (N, 1, L)."""
    grad_q, grad_k = torch.empty_like(q), torch.zeros_like(k)
    for rows in row_blocks(q):
        weights = (q[..., rows].mT @ k).softmax(-1)
        grad_q[..., rows] = (k @ weights.mT) * grad[..., rows]
        grad_k.baddbmm_(q[..., rows] * grad[..., rows], weights)
    return grad_q, grad_k


@custom_op('mmseg_derprop::distance', mutates_args=())
def distance(
    q: Tensor, k: Tensor, target_q: Tensor, target_k: Tensor, row_group: Tensor, column_group: Tensor, with_grad: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of abs(q_i . k_j - t_i . s_j) over pairs i, j of equal groups (N, L); both groups empty: over all pairs.

    t and s, (N, C, L), are fixed. The gradients for q and k, (N, K, L), come with it (0 without ``with_grad``): that of
    an absolute value is a sign, so it is finished here, where each block exists.
    """
    total, grad_q, grad_k = q.new_zeros(()), torch.zeros_like(q), torch.zeros_like(k)
    for rows in row_blocks(q):
        difference, target = q[..., rows].mT @ k, target_q[..., rows].mT @ target_k
        difference -= target
        if row_group.numel():
            difference *= row_group[:, rows, None] == column_group[:, None]
        total += difference.abs().sum()
        if with_grad:
            sign = difference.sign_()
            grad_q[..., rows] = k @ sign.mT
            grad_k.baddbmm_(q[..., rows], sign)
    return total, grad_q, grad_k


# --- For torch: shapes, and the gradients' operators ------------------------------------------------------------------


def _like_inputs(q: Tensor, *others) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(t) for t in (q, *others[:-1]))


spread.register_fake(lambda q, k, values: torch.empty_like(values))
spread_backward.register_fake(_like_inputs)
log_sum_exp.register_fake(lambda q, k: torch.empty_like(q[:, :1]))
log_sum_exp_backward.register_fake(_like_inputs)
distance.register_fake(lambda q, k, *_: (q.new_empty(()), torch.empty_like(q), torch.empty_like(k)))


def _save_inputs(ctx, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _save_gradients(ctx, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _gradient(backward: Callable, ctx, grad: Tensor) -> tuple[Tensor, ...]:
    with torch.autocast(grad.device.type, enabled=False):  # the backward pass may be started inside one
        return backward(*ctx.saved_tensors, grad)


def _distance_gradient(ctx, grad: Tensor, *_) -> tuple[Tensor | None, ...]:
    grad_q, grad_k = ctx.saved_tensors
    return grad * grad_q, grad * grad_k, *[None] * 5


spread.register_autograd(partial(_gradient, spread_backward), setup_context=_save_inputs)
log_sum_exp.register_autograd(partial(_gradient, log_sum_exp_backward), setup_context=_save_inputs)
distance.register_autograd(_distance_gradient, setup_context=_save_gradients)
