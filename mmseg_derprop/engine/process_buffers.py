"""Buffers that each process has of its own, as the running statistics of normalisation that is not synchronised."""

from __future__ import annotations

import torch
from mmengine.dist import gather_object, get_rank
from torch import Tensor, nn

from .hooks.strict_load_hook import CheckpointMismatch

Buffers = dict[str, Tensor]


def gather_buffers(model: nn.Module, group: torch.distributed.ProcessGroup | None) -> list[Buffers] | None:
    """Collects what a checkpoint, which is the first process's, does not know of the others.

    Args:
        model (nn.Module): Wrapped or not.
        group (ProcessGroup, optional): Of all processes, on CPUs; None where there is one.

    Returns:
        list[dict[str, Tensor]] | None: In the first process, for each process those buffers by name, on the CPU,
        that differ from the first one's; None in all others.
    """
    own = {name: buffer.detach().cpu() for name, buffer in model.named_buffers()}
    found = gather_object(own, group=group)
    if found is None:
        return None
    return [{name: value for name, value in each.items() if not torch.equal(value, own[name])} for each in found]


@torch.no_grad()
def load_buffers(model: nn.Module, gathered: list[Buffers]) -> None:
    """Gives a model this process's buffers.

    Args:
        model (nn.Module): Wrapped as the model that they were gathered from; it has the first process's.
        gathered (list[dict[str, Tensor]]): As :func:`gather_buffers` gives them.

    Raises:
        CheckpointMismatch: If they are no buffers of this model.
    """
    buffers, found = dict(model.named_buffers()), gathered[get_rank()]
    if not isinstance(found, dict):
        raise CheckpointMismatch(f'Its process_buffers hold a {type(found).__name__}, but must hold a dict.')
    for name, value in found.items():
        if name not in buffers or not isinstance(value, Tensor) or value.shape != buffers[name].shape:
            raise CheckpointMismatch(f'Its process_buffers hold {name!r}, which is no such buffer of the model.')
        buffers[name].copy_(value)
