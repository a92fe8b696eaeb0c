"""Mixed precision without a loss scale, on any device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmseg.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Runs forward passes under autocast to bfloat16, whose range is float32's, so nothing has to be scaled.

    MMEngine's AmpOptimWrapper scales the loss, as float16 needs, and refuses a machine without accelerator.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """The context of a forward pass."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, torch.bfloat16):
            yield
