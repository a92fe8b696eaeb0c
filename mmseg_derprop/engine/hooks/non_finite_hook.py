"""Stops a run, or skips a step, whose losses or gradients are no numbers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from torch import Tensor, nn

from ...utils.options import Bounds, check_options
from ..batches import samples_of

LISTED = 5  # names in a message


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Watches losses and gradients for NaN and infinity, and names the terms, or parameters, and the images.

    Losses are judged before a loss scale, gradients without it, by the norm of each parameter's: where they overflow
    in float16 while the losses are finite, the scaler skips the step as always, and this hook does not see them. All
    processes decide alike, whichever of them has the loss; gradients are the same in all.

    Args:
        action (str): ``'stop'``: the run ends, before teacher, log or checkpoint take anything from the step; what
            was found is read where the engine has waited for the step anyway. ``'skip'``: parameters and optimiser
            stay as they are, and running statistics, threshold and every other buffer go back to what they were
            before the iteration; this copies them in each iteration, and waits for the device before each optimiser
            step. With gradient accumulation the whole optimiser step is skipped.
        limit (int): Iterations of a run, resumed ones included, that may be skipped; one more stops it. The message
            hub, which checkpoints carry, counts them as ``non_finite_iters``.

    Raises:
        ValueError: If an option is unknown or out of range.
        FloatingPointError: In training, if a loss or a gradient is not finite.
    """

    # Behind the engine's own look at the losses, before whatever uses what the step left.
    priority = 'HIGH'

    @check_options
    def __init__(self, action: Literal['stop', 'skip'] = 'stop', limit: Annotated[int, Bounds(0)] = 10) -> None:
        self.action = action
        self.limit = limit
        self.losses: dict[str, Tensor] = {}
        self.bad: Tensor | None = None
        self.spoilt = False
        self.parameters: list = []  # of which the optimiser has gradients
        self.norms: Tensor | None = None
        self.images: list[str] = []
        self.kept: list[tuple[Tensor, Tensor]] = []

    def before_train(self, runner: Runner) -> None:
        """Registers the observers."""
        self.model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self.handles = [
            self.model.register_forward_hook(self.watch),
            runner.optim_wrapper.optimizer.register_step_pre_hook(self.before_step),
        ]

    def after_train(self, runner: Runner) -> None:
        """Removes them."""
        for handle in self.handles:
            handle.remove()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Keeps what a forward pass changes, and which images the step has seen."""
        self.norms = None
        if runner.optim_wrapper.should_update():  # between two iterations: whether the last one ended a step
            self.images = []
        self.images += image_paths(data_batch)
        if self.action == 'skip':
            training = (module for module in self.model.modules() if module.training)
            self.kept = [(buffer, buffer.clone()) for module in training for buffer in module.buffers(recurse=False)]

    def watch(self, module: nn.Module, args: tuple, output: Any) -> None:
        """Judges the losses of a forward pass, without waiting for them."""
        if module.training and isinstance(output, dict):
            flat = {k: sum(x.mean() for x in v) if isinstance(v, list) else v.mean() for k, v in output.items()}
            self.losses = {name: value.detach() for name, value in flat.items()}
            self.bad = (~torch.stack([value.float() for value in self.losses.values()]).isfinite()).any().int()
            all_reduce(self.bad, 'max')

    @torch.no_grad()
    def before_step(self, optimizer: torch.optim.Optimizer, *args) -> None:
        """Judges the gradients, without waiting for them; where the step is to be skipped, drops them."""
        parameters = [p for group in optimizer.param_groups for p in group['params']]
        self.parameters = [p for p in parameters if p.grad is not None and p.numel()]
        # With a fused optimiser the loss scale is still in them, and the optimiser itself leaves out the step.
        scaled = getattr(optimizer, 'found_inf', None) is not None
        if self.parameters and not scaled and not self.spoilt:
            norms = torch._foreach_norm([p.grad for p in self.parameters])
            self.norms = torch.stack([norm.to(norms[0].device, torch.float32) for norm in norms])
        if self.action == 'skip' and (self.spoilt or self.found()):
            optimizer.zero_grad(set_to_none=True)  # so the optimiser moves nothing

    def found(self) -> str:
        """What is not finite, losses or gradients; waits for the device."""
        if self.bad is not None and self.bad.item():
            return 'losses'
        return 'gradients' if self.norms is not None and not self.norms.isfinite().all().item() else ''

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Says what is not finite, and stops or goes on."""
        what = self.found()
        self.spoilt = (self.spoilt or bool(what)) and not runner.optim_wrapper.should_update()
        if not what:
            return
        described = self.describe_losses(data_batch) if what == 'losses' else self.describe_gradients()
        message = f'Iteration {runner.iter + 1} has {what} that are not finite. {described}'
        if self.action == 'stop':
            raise FloatingPointError(
                f"{message}. To leave such steps out, set action='skip' of NonFiniteHook in custom_hooks."
            )
        with torch.no_grad():
            for buffer, before in self.kept:
                buffer.copy_(before)
        count = runner.message_hub.runtime_info.get('non_finite_iters', 0) + 1
        runner.message_hub.update_info('non_finite_iters', count)
        if count > self.limit:
            raise FloatingPointError(
                f'{message}. {count} iterations would be skipped, but the limit of NonFiniteHook is {self.limit}.'
            )
        runner.logger.warning(f'{message}. It is skipped ({count} of at most {self.limit}).')

    def describe_losses(self, data_batch: dict | None) -> str:
        """The terms that are not finite and the images, of all processes that have such terms."""
        terms = {name: value.item() for name, value in self.losses.items() if not value.isfinite()}
        reports = all_gather_object((terms, image_paths(data_batch)))
        lines = []
        for rank, (terms, images) in enumerate(reports):
            if terms:
                where = f'Process {rank}: ' if len(reports) > 1 else ''
                values = ', '.join(f'{name} = {value}' for name, value in terms.items())
                lines.append(f'{where}{values}; images: {", ".join(images)}')
        return '. '.join(lines)

    def describe_gradients(self) -> str:
        """The parameters whose gradients are not finite, and the images of the step in all processes."""
        assert self.norms is not None
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        finite = zip(self.parameters, self.norms.isfinite().tolist())
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
