"""Randomness that follows from where it is used."""

import pickle
import random

import numpy as np
import torch

from mmseg_derprop.utils.randomness import SeededIndex, preserve_rng_state, seed_step


def draw():
    return random.random(), np.random.rand(), torch.rand(()).item()


def of(index):
    with preserve_rng_state():
        index.seed_generators()
        return draw()


def test_a_sample_draws_what_its_index_says():
    base = of(SeededIndex(3, 0, (1, 0)))
    assert of(SeededIndex(3, 0, (1, 0))) == base
    others = [of(SeededIndex(*key)) for key in ((4, 0, (1, 0)), (3, 1, (1, 0)), (3, 0, (2, 0)), (3, 0, (1, 1)))]
    for other in others:
        assert all(a != b for a, b in zip(other, base))
    assert len(set(others)) == 4


def test_the_process_goes_on_as_if_nothing_had_been_drawn():
    seed_step(0, 0, 0)
    wanted = draw()
    seed_step(0, 0, 0)
    of(SeededIndex(3, 0, (1, 0)))
    assert draw() == wanted


def test_a_step_draws_what_seed_rank_and_iteration_say():
    def step(*key):
        seed_step(*key)
        return draw()

    assert step(1, 2, 3) == step(1, 2, 3)
    drawn = [step(*key) for key in ((1, 2, 3), (0, 2, 3), (1, 0, 3), (1, 2, 0), (1, 3, 2))]
    assert len(set(drawn)) == 5


def test_an_index_is_a_number_that_travels_to_workers():
    index = pickle.loads(pickle.dumps(SeededIndex(3, 7, (1, 0))))
    assert (index, index.seed, index.draw) == (3, 7, (1, 0))
    assert [5, 6, 7, 8][index] == 8 and index - 1 == 2 and f'{index}' == '3'
    assert of(index) == of(SeededIndex(3, 7, (1, 0)))
