"""Batches of a training run, from any iteration on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.dist import get_rank
from mmengine.runner import IterBasedTrainLoop, Runner

from ..datasets import LabeledSampler, SemiSampler
from ..utils.randomness import seed_step


def iteration_loop(runner: Runner) -> IterBasedTrainLoop:
    """The training loop of a runner; raises TypeError unless it counts iterations."""
    loop = runner.train_loop
    if not isinstance(loop, IterBasedTrainLoop):
        raise TypeError(
            f'train_cfg must make an IterBasedTrainLoop, but makes a {type(loop).__name__}: the method counts '
            "iterations, and its sampler has no end. Set train_cfg=dict(type='IterBasedTrainLoop', max_iters=...)."
        )
    return loop


class Batches:
    """What the engine's loop takes its batches from, in place of its own iterator.

    With each batch all generators are seeded from the run's seed, rank and iteration. A resumed run begins at once
    where a :class:`SemiSampler` is: MMEngine 0.10 would read all earlier batches again. Other samplers are the
    engine's own matter.
    """

    def __init__(self, loop: IterBasedTrainLoop, seed: int) -> None:
        self.loop, self.seed = loop, seed
        self.waiting = False
        self._engines = loop.dataloader_iterator
        self._knows_place = isinstance(loop.dataloader.sampler, SemiSampler)
        self._source: Iterator | None = None
        # The original engine skips batches by taking them.
        self._to_skip = 0 if hasattr(self._engines, 'skip_iter') else loop.iter
        if isinstance(loop.dataloader.sampler, LabeledSampler):
            loop.dataloader.sampler.skip(0)  # the original engine's workers have drawn from it already
        # A new one: by now the original engine's has workers, which have not learned to leave signals.
        self._engines = None if self._knows_place else type(self._engines)(loop.dataloader)

    def __iter__(self) -> Batches:
        return self

    def skip_iter(self, num_iters: int) -> None:
        """Passes over the batches of earlier iterations; called by the engine."""
        if not self._knows_place:
            self._engines.skip_iter(num_iters)

    def __next__(self) -> Any:
        if self._to_skip:
            self._to_skip -= 1
            return None if self._knows_place else next(self._engines)
        place = self.seed, get_rank(), self.loop.iter
        if self._source is None:
            self._source = iter(self.loop.dataloader) if self._knows_place else self._engines
        if not self._knows_place:
            seed_step(*place, loading=True)
        self.waiting = True
        try:
            batch = next(self._source)
        finally:
            self.waiting = False
        seed_step(*place)  # last: a loader that begins draws from the generators
        return batch


def samples_of(batch: dict | None) -> list:
    """The data samples of a batch, of all its branches."""
    samples = (batch or {}).get('data_samples', [])
    return [sample for branch in samples.values() for sample in branch] if isinstance(samples, dict) else list(samples)
