"""Batch normalisation that stays as a checkpoint has it."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from torch.nn.modules.batchnorm import _BatchNorm


@HOOKS.register_module()
class FreezeNormHook(Hook):
    """Lets batch normalisation use its running statistics in training, and keep them.

    For training that goes on from a checkpoint: the statistics of a few crops, of strong views and of perturbed
    features neither normalise the others nor enter what evaluation uses. Weights and biases of the layers still learn.
    It works for any model of a runner, a supervised twin too.

    Args:
        exclude (Sequence[str]): Parts of the model that are left alone, because they start from nothing.

    Raises:
        ValueError: If ``exclude`` is a text; before training, if the model has no batch normalisation outside of these
            parts.
    """

    def __init__(self, exclude: Sequence[str] = ('propagation_head',)) -> None:
        if isinstance(exclude, str):
            raise ValueError(f'exclude = {exclude!r}, but it must be a list of names of parts.')
        self.exclude = tuple(exclude)

    def before_train(self, runner: Runner) -> None:
        """Finds the layers."""
        self.layers = [
            layer
            for name, layer in runner.model.named_modules()
            if isinstance(layer, _BatchNorm) and not set(self.exclude) & set(name.split('.'))
        ]
        if not self.layers:
            raise ValueError(
                f'FreezeNormHook finds no batch normalisation outside of {", ".join(self.exclude)}: leave it out.'
            )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Validation and the start of training put layers into training mode."""
        for layer in self.layers:
            layer.eval()
