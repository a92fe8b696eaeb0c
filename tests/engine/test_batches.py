"""Batches from any iteration on, with either engine."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
from torch.utils.data import DataLoader

from mmseg_derprop.datasets import LabeledSampler, SemiSampler
from mmseg_derprop.engine.batches import Batches


class Images:
    """Remembers what was read."""

    num_labeled, num_unlabeled = 5, 17

    def __init__(self):
        self.read = []

    def __getitem__(self, index):
        self.read.append(int(index))
        return int(index)


class SkippingIterator:
    """As the maintained engine's: begins late, skips by the sampler."""

    def skip_iter(self, num_iters):
        raise AssertionError('the sampler knows its place')


@pytest.fixture(params=['onedl', 'openmmlab'])
def batches(request):
    """Makes a loop's batches, and what the engine does with them before its first iteration."""

    def make(iteration):
        images = Images()
        sampler = SemiSampler(images, 2, 3, seed=7)
        loader = DataLoader(images, batch_size=5, sampler=sampler, collate_fn=list)
        # The original engine begins to draw before it knows that it resumes.
        source = SkippingIterator() if request.param == 'onedl' else iter(loader)
        if request.param == 'openmmlab':
            next(iter(sampler))
        sampler.skip(iteration * sampler.batch_size)
        loop = SimpleNamespace(dataloader=loader, dataloader_iterator=source, iter=iteration)
        made = Batches(loop, 0)
        if request.param == 'onedl' and iteration:
            made.skip_iter(iteration)
        for _ in range(iteration if request.param == 'openmmlab' else 0):
            next(made)
        return made, images

    return make


def test_begins_at_an_iteration(batches):
    made, _ = batches(0)
    whole = [next(made) for _ in range(8)]
    made, images = batches(5)
    assert [next(made) for _ in range(3)] == whole[5:]
    assert len(images.read) == 3 * 5


def test_a_million_iterations_are_skipped_at_once(batches):
    start = time.perf_counter()
    made, images = batches(10**6)
    next(made)
    assert time.perf_counter() - start < 5 and len(images.read) == 5


def test_seeds_by_iteration(batches):
    drawn = []
    for iteration in (3, 4, 3):
        made, _ = batches(iteration)
        next(made)
        drawn.append(np.random.rand())
    assert drawn[0] == drawn[2] != drawn[1]


def test_labelled_images_alone_are_those_of_the_semi_supervised_batches():
    """Also where workers of the original engine have drawn from the sampler before."""
    images = list(range(7))
    sampler = LabeledSampler(images, 2, seed=7)
    loader = DataLoader(images, batch_size=2, sampler=sampler, collate_fn=list)
    next(iter(sampler))
    made = Batches(SimpleNamespace(dataloader=loader, dataloader_iterator=iter(loader), iter=0), 0)
    assert [*next(made), *next(made)] == [sampler.index(place) for place in range(4)]
