"""Terms of the loss, learned from as soon as they can be, so that graphs need not be in memory together.

What strong views teach does not depend on the graphs of the others, which have a third to a half of a step's memory.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .losses import SemiLoss
from .segmentors import frozen_statistics
from .step import Step

if TYPE_CHECKING:
    from .semi_segmentor import SemiSegmentor

VIEWS = ('labeled', 'weak', 'strong')  # in the order of their forward passes


class Terms:
    """The weighted terms of one step, computed view by view.

    A term waits for the last view that it reads. Where no later term has a gradient in the views so far, their graphs
    are freed: see :func:`learn`.
    """

    def __init__(self, model: SemiSegmentor) -> None:
        self.model = model
        self.losses = model.active_losses
        self.found: dict[str, Tensor] = {}
        self.pending: set[str] = set()  # those whose graphs are there
        self.gradients: dict[nn.Parameter, Tensor] = {}  # those of the others

    def compare(self, view: str, step: Step) -> Step:
        """Computes what can be after the forward pass of a view; returns the step, without graphs if they are freed."""
        done = VIEWS[: VIEWS.index(view) + 1]
        waiting = {name: loss for name, loss in self.losses.items() if name not in self.found}
        for name, loss in list(waiting.items()):
            if not loss.needs & set(VIEWS) - set(done):
                self.found[name] = loss.loss_weight * waiting.pop(name)(step)
                self.pending.add(name)
        shared = view == 'labeled' and self.model.has_joint_forward
        later = any(reached(loss) & set(done) for loss in waiting.values())
        # What is computed again in a backward pass must not move the running statistics again.
        again = self.model.views.activation_checkpointing
        if shared or later or not (self.model.views.staged_backward if waiting else again):
            return step
        with frozen_statistics(self.model) if again else nullcontext():
            learn([self.found[name] for name in self.pending], self.model, self.gradients, self.model.loss_scale)
        self.found |= {name: self.found[name].detach() for name in self.pending}
        self.pending = set()
        return step.detach()

    @torch.compiler.disable
    def all(self) -> dict[str, Tensor]:
        """The terms by their names, in the order of the config; one of them gives out all gradients that are known.

        To what follows (accumulation, loss scaling, clipping, the reduction over processes) it is one backward pass.
        """
        terms, known = {name: self.found[name] for name in self.losses}, [*self.gradients.values()]
        if known:
            if self.model.loss_scale is not None:
                torch._foreach_div_(known, self.model.loss_scale)
            carrier = next(name for name in terms if name not in self.pending)
            terms[carrier] = Learned.apply(terms[carrier], known, *self.gradients)
        return terms


def reached(loss: SemiLoss) -> frozenset[str]:
    """The views that the gradient of a term may reach."""
    return frozenset({'labeled'}) | loss.needs if loss.teaches is None else loss.teaches


@torch.compiler.disable
def learn(
    terms: list[Tensor], module: nn.Module, gradients: dict[nn.Parameter, Tensor], scale: Tensor | None = None
) -> None:
    """Adds the gradients of terms, scalars, to those that are known of a module's parameters, and frees their graphs.

    ``scale`` is that of the losses in float16, without which small gradients would be 0 on their way; it stays in them.
    """
    learning = [term for term in terms if term.requires_grad]
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    before = [parameter.grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.grad = gradients.get(parameter)
        if learning:
            with torch.autocast(learning[0].device.type, enabled=False):
                total = torch.stack([term.float() for term in learning]).sum()
                (total if scale is None else total * scale).backward()
        gradients |= {parameter: parameter.grad for parameter in parameters if parameter.grad is not None}
    finally:
        for parameter, gradient in zip(parameters, before):
            parameter.grad = gradient


class Learned(torch.autograd.Function):
    """A scalar whose gradients are known; in the backward pass they are given out, times the one that arrives."""

    @staticmethod
    def forward(ctx: Any, term: Tensor, gradients: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return term.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        known, ctx.gradients = ctx.gradients, None  # in place: a second copy of all would be as large as the network
        torch._foreach_mul_(known, gradient)
        return None, None, *known
