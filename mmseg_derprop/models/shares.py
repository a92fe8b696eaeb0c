"""Means over the pixels of all processes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor

Factor = Tensor | float


@dataclass
class Shares:
    """Factors that make means over a process's own pixels its shares of means over the pixels of all processes.

    A process's share is its sum divided by the mean number of pixels of a process. Distributed training averages
    gradients over processes, and the average of the shares is the mean over the pixels of all. Without a sum over
    processes every factor is 1.

    Attributes:
        labeled (Factor): Of means over the labelled pixels that are not ignored.
        label_pairs (Factor): Over pairs of labelled positions.
        own (Factor): Over the pixels of the weak views that are not ignored.
        mixed (list[Factor]): For each strong view, over the pixels of its cut-mixed images that are not ignored.
        box_pairs (list[Factor]): For each strong view, over the pairs of positions that its affinities compare.
    """

    labeled: Factor
    label_pairs: Factor
    own: Factor
    mixed: list[Factor]
    box_pairs: list[Factor]

    @classmethod
    def equal(cls, num_strong: int) -> Shares:
        """Every process has the same share."""
        return cls(1.0, 1.0, 1.0, [1.0] * num_strong, [1.0] * num_strong)

    @classmethod
    @torch.no_grad()
    def of(
        cls, labeled: Tensor, label_pairs: Tensor, own: Tensor, mixed: list[Tensor], box_pairs: list[Tensor]
    ) -> Shares:
        """By this process's numbers, scalars; one sum over processes for all of them."""
        counts = torch.stack([count.float() for count in (labeled, label_pairs, own, *mixed, *box_pairs)])
        total = counts.clone()
        all_reduce(total)
        first, second, third, *views = (counts * get_world_size() / total.clamp_min(1)).unbind()
        return cls(first, second, third, views[: len(mixed)], views[len(mixed) :])
