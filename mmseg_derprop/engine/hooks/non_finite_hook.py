"""Stops a run whose losses or gradients are no numbers."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from torch import Tensor, nn

from ..batches import samples_of
from .strict_load_hook import unwrap

LISTED = 5  # names in a message


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Raises FloatingPointError at a loss or gradient that is not finite; names terms, or parameters, and images.

    It does so before teacher, log or checkpoint take anything from the step, and waits for the device no more than the
    engine. Gradients are judged by the norm of each parameter's; an overflow in float16 that the loss scaler sees is
    the scaler's own matter. All processes decide alike.
    """

    priority = 'HIGH'  # behind the engine's own look at the losses, before whatever uses what the step left

    def __init__(self) -> None:
        self.losses: dict[str, Tensor] = {}
        self.bad: Tensor | None = None
        self.parameters: list = []  # of which the optimiser has gradients
        self.norms: Tensor | None = None
        self.images: list[str] = []

    def before_train(self, runner: Runner) -> None:
        self.model = unwrap(runner.model)
        self.model.register_forward_hook(self.watch)
        runner.optim_wrapper.optimizer.register_step_pre_hook(self.before_step)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Notes which images the step has seen."""
        self.norms = None
        if runner.optim_wrapper.should_update():  # between two iterations: whether the last one ended a step
            self.images = []
        self.images += image_paths(data_batch)

    def watch(self, module: nn.Module, args: tuple, output: Any) -> None:
        """Judges the losses of a forward pass, without waiting for them."""
        if module.training and isinstance(output, dict):
            flat = {k: sum(x.mean() for x in v) if isinstance(v, list) else v.mean() for k, v in output.items()}
            self.losses = {name: value.detach() for name, value in flat.items()}
            self.bad = (~torch.stack([value.float() for value in self.losses.values()]).isfinite()).any().int()
            all_reduce(self.bad, 'max')

    @torch.no_grad()
    def before_step(self, optimizer: torch.optim.Optimizer, *args) -> None:
        """Judges the gradients, without waiting for them."""
        parameters = [p for group in optimizer.param_groups for p in group['params']]
        self.parameters = [p for p in parameters if p.grad is not None and p.numel()]
        # With a fused optimiser the loss scale is still in them, and the optimiser itself leaves out the step.
        if self.parameters and getattr(optimizer, 'found_inf', None) is None:
            norms = torch._foreach_norm([p.grad for p in self.parameters])
            self.norms = torch.stack([norm.to(norms[0].device, torch.float32) for norm in norms])

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs=None) -> None:
        if self.bad is not None and self.bad.item():
            what, described = 'losses', self.describe_losses(data_batch)
        elif self.norms is not None and not self.norms.isfinite().all().item():
            what, described = 'gradients', self.describe_gradients(self.norms)
        else:
            return
        raise FloatingPointError(f'Iteration {runner.iter + 1} has {what} that are not finite. {described}')

    def describe_losses(self, data_batch: dict | None) -> str:
        """The terms that are not finite and the images, of all processes that have such terms."""
        terms = [f'{name} = {value.item()}' for name, value in self.losses.items() if not value.isfinite()]
        reports = all_gather_object((terms, image_paths(data_batch)))
        return '. '.join(
            f'{f"Process {rank}: " if len(reports) > 1 else ""}{", ".join(terms)}; images: {", ".join(images)}'
            for rank, (terms, images) in enumerate(reports)
            if terms
        )

    def describe_gradients(self, norms: Tensor) -> str:
        """The parameters whose gradients are not finite, and the images of the step in all processes."""
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        finite = zip(self.parameters, norms.isfinite().tolist())
        bad = [names.get(parameter, '(not of the model)') for parameter, is_finite in finite if not is_finite]
        more = f' and {len(bad) - LISTED} more' if len(bad) > LISTED else ''
        images = [path for paths in all_gather_object(self.images) for path in paths]
        return (
            f'All losses are. Gradients of {len(bad)} of {len(self.parameters)} parameters: '
            f'{", ".join(bad[:LISTED])}{more}; images: {", ".join(images)}'
        )


def image_paths(data_batch: dict | None) -> list[str]:
    """Paths of the images of a batch, of all its branches, each once."""
    return list(dict.fromkeys(str(sample.get('img_path', '(no img_path)')) for sample in samples_of(data_batch)))
