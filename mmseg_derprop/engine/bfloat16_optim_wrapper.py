"""Mixed precision without a loss scale, on any device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from mmengine.optim import OptimWrapper
from mmseg.registry import OPTIM_WRAPPERS
from torch import Tensor, nn


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Runs forward passes under autocast to bfloat16, whose range is float32's, so nothing has to be scaled.

    On a CPU weights are laid out with channels last, and depthwise convolutions are computed in float32: there the
    backward pass of those with a stride or a dilation is several times slower in bfloat16 (docs/benchmarks.md).
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        device = next(model.parameters()).device.type
        if device == 'cpu' and not getattr(self, '_is_prepared', False):
            self._is_prepared = True
            model.to(memory_format=torch.channels_last)
            for module in model.modules():
                if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
                    module.forward = partial(_in_float32, module)  # type: ignore[method-assign]
        with super().optim_context(model), torch.autocast(device, torch.bfloat16):
            yield


def _in_float32(conv: nn.Conv2d, x: Tensor) -> Tensor:
    if not torch.is_autocast_enabled('cpu'):
        return type(conv).forward(conv, x)
    with torch.autocast('cpu', enabled=False):
        out = type(conv).forward(conv, x.to(torch.float32, memory_format=torch.channels_last))
    return out.to(torch.bfloat16)
