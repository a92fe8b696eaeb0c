"""Randomness that follows from where it is used, not from what was drawn before."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from mmengine.runner import set_random_seed

_STEP, _SAMPLE, _LOADING, _OTHERS = range(4)


class SeededIndex(int):
    """Index of a sample that knows what its augmentation follows from; elsewhere it is a plain integer.

    Args:
        index (int): Into the data set.
        seed (int): Of the run, at least 0.
        draw (tuple[int, ...]): What else tells this draw from all others, such as the epoch; integers of at least 0.
    """

    seed: int
    draw: tuple[int, ...]

    def __new__(cls, index: int, seed: int, draw: tuple[int, ...]) -> SeededIndex:
        self = super().__new__(cls, index)
        self.seed, self.draw = seed, draw
        return self

    def __getnewargs__(self) -> tuple:
        return int(self), self.seed, self.draw

    def seed_generators(self) -> None:
        """Seeds the CPU generators of Python, NumPy and torch for this sample."""
        words = _words(self.seed, _SAMPLE, int(self), *self.draw)
        random.seed(words.tobytes())
        np.random.seed(words)
        torch.default_generator.manual_seed(int(words[:2].view(np.uint64)[0]))

    def others(self, population: range, number: int) -> list[SeededIndex]:
        """Up to ``number`` of the population to take in place of this one, one after the other, as it alone decides."""
        generator = np.random.default_rng(_words(self.seed, _OTHERS, int(self), *self.draw))
        places = generator.choice(len(population), min(number + 1, len(population)), replace=False)
        indices = [population[place] for place in places.tolist() if population[place] != self]
        return [SeededIndex(index, self.seed, (*self.draw, int(self))) for index in indices[:number]]


def seed_step(seed: int, rank: int, iteration: int, loading: bool = False) -> None:
    """Seeds Python, NumPy and torch on all devices for a step, or for loading its batch if samples know no seed."""
    set_random_seed(int(_words(seed, _LOADING if loading else _STEP, rank, iteration)[0]))


@contextmanager
def preserve_rng_state() -> Iterator[None]:
    """Puts the CPU generators of Python, NumPy and torch back at its end."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])


def _words(seed: int, *key: int) -> np.ndarray:
    return np.random.SeedSequence(seed, spawn_key=key).generate_state(8)
