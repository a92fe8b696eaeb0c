"""Labelled and unlabelled indices in a fixed proportion."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from mmengine.logging import print_log
from mmseg.registry import DATA_SAMPLERS
from torch.utils.data import Sampler

from ..utils.options import NonNegativeInt, PositiveInt, check_options
from ..utils.randomness import SeededIndex

_LABELED, _UNLABELED = 0, 1


@dataclass(frozen=True)
class SamplerPosition:
    """Arithmetic of the stream that :class:`SemiSampler` describes, a group of images each iteration."""

    labeled_images: int
    unlabeled_images: int
    labeled_step: int  # images that all processes together draw in an iteration
    unlabeled_step: int
    iteration: int = 0  # where the stream begins; 0 unless the numbers above have changed since
    labeled: tuple[int, int] = (0, 0)  # number of the pass or epoch there, and images of it drawn before
    unlabeled: tuple[int, int] = (0, 0)

    @property
    def iterations_per_epoch(self) -> int:
        return -(-self.unlabeled_images // self.unlabeled_step)

    def labeled_at(self, iteration: int, offset: int = 0) -> tuple[int, int]:
        """Pass and place in it of a labelled image, the ``offset``-th that all processes draw in an iteration."""
        number, place = self.labeled
        drawn = place + (iteration - self.iteration) * self.labeled_step + offset
        return number + drawn // self.labeled_images, drawn % self.labeled_images

    def unlabeled_at(self, iteration: int, offset: int = 0) -> tuple[int, int]:
        """Epoch and place in it of an unlabelled image; a place behind the last image is the beginning again."""
        epoch, place = self.unlabeled
        iteration -= self.iteration
        rest = -(-(self.unlabeled_images - place) // self.unlabeled_step)
        if iteration >= rest:
            more, iteration = divmod(iteration - rest, self.iterations_per_epoch)
            epoch, place = epoch + 1 + more, 0
        return epoch, place + iteration * self.unlabeled_step + offset

    def moved(self, other: SamplerPosition, iteration: int) -> SamplerPosition:
        """A stream with the numbers of images of ``other``, beginning where this one is before an iteration."""
        sizes = other.labeled_images, other.unlabeled_images
        labeled, unlabeled = (
            (number, place) if place < size else (number + 1, 0)
            for (number, place), size in zip((self.labeled_at(iteration), self.unlabeled_at(iteration)), sizes)
        )
        return SamplerPosition(*sizes, other.labeled_step, other.unlabeled_step, iteration, labeled, unlabeled)


class _Stream(Sampler):
    """Endless stream of indices, of which each depends on the seed and its position alone."""

    def __init__(self, dataset, seed: int | None) -> None:
        self.dataset = dataset
        self.rank, self.world_size = get_dist_info()
        self.seed = sync_random_seed() if seed is None else seed
        self._order = lru_cache(maxsize=4)(self._draw_order)  # two rounds of each kind: a batch may straddle a border
        self._position = 0

    def index(self, position: int) -> int:
        """The dataset index that stands behind ``position`` others in the stream of this process."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[int]:
        """Yields indices without end; a second iterator continues where the first one is."""
        while True:
            self._position += 1
            yield self.index(self._position - 1)

    @check_options
    def skip(self, num_samples: NonNegativeInt) -> None:
        """Moves to an absolute position of the stream of this process, for resuming."""
        self._position = num_samples

    def _draw_order(self, seed: int, kind: int, number: int, size: int) -> np.ndarray:
        """The ``number``-th pass over the images of one kind, (size,) int64."""
        return np.random.default_rng((seed, kind, number)).permutation(size)


@DATA_SAMPLERS.register_module()
class SemiSampler(_Stream):
    """Endless stream of groups: ``num_labeled`` labelled indices, ``num_unlabeled`` unlabelled.

    An epoch is one pass of all processes together over the unlabelled images, in a new order each time; its last
    groups are filled from its beginning. The labelled list is repeated by permutations of its own that do not notice
    where an epoch ends. Processes share the groups of one stream, so half as many with twice the images each draw the
    same. Which index stands at a position depends on the seed and the position alone, and each is a
    :class:`SeededIndex`: its augmentation follows from seed, epoch and index.

    Args:
        dataset (SemiDataset): Labelled images first; its ``num_labeled`` and ``num_unlabeled`` say how many.
        num_labeled, num_unlabeled (int): Images of each kind in a batch of one process; the dataloader's
            ``batch_size`` must be their sum.
        seed (int, optional): Seed of the order, the same in all processes. Defaults to a common random one.
    """

    @check_options
    def __init__(
        self, dataset, num_labeled: PositiveInt, num_unlabeled: PositiveInt, seed: NonNegativeInt | None = None
    ) -> None:
        if not hasattr(dataset, 'num_unlabeled'):
            raise TypeError(
                f'The dataset of a SemiSampler must be a SemiDataset, but is a {type(dataset).__name__}. Wrap the '
                'labelled and the unlabelled source in one.'
            )
        super().__init__(dataset, seed)
        self.num_labeled, self.num_unlabeled = num_labeled, num_unlabeled
        steps = num_labeled * self.world_size, num_unlabeled * self.world_size
        self.stream = SamplerPosition(dataset.num_labeled, dataset.num_unlabeled, *steps)

    @property
    def batch_size(self) -> int:
        return self.num_labeled + self.num_unlabeled

    @property
    def iterations_per_epoch(self) -> int:
        return self.stream.iterations_per_epoch

    def epoch(self, iteration: int) -> int:
        """The epoch, counted from 0, that an iteration belongs to."""
        return self.stream.unlabeled_at(iteration)[0]

    def index(self, position: int) -> SeededIndex:
        iteration, slot = divmod(position, self.batch_size)
        if slot < self.num_labeled:
            number, place = self.stream.labeled_at(iteration, self.rank * self.num_labeled + slot)
            index = int(self._order(self.seed, _LABELED, number, self.dataset.num_labeled)[place])
            return SeededIndex(index, self.seed, (number, 0))
        slot -= self.num_labeled
        number, place = self.stream.unlabeled_at(iteration, self.rank * self.num_unlabeled + slot)
        order = self._order(self.seed, _UNLABELED, number, self.dataset.num_unlabeled)
        again, place = divmod(place, len(order))
        return SeededIndex(self.dataset.num_labeled + int(order[place]), self.seed, (number, again))

    def __len__(self) -> int:
        """Indices of an epoch of this process."""
        return self.iterations_per_epoch * self.batch_size

    def state_dict(self) -> dict:
        """What a resumed run needs: seed and stream, the same in all processes and all iterations."""
        batch = (self.num_labeled, self.num_unlabeled)
        return dict(seed=self.seed, processes=self.world_size, batch=batch, stream=asdict(self.stream))

    def load_state_dict(self, state: dict, iteration: int) -> None:
        """Resumes before an iteration of a run with this state; warns if numbers of processes or images differ."""
        old, new = SamplerPosition(**state['stream']), self.stream
        self.seed = state['seed']
        self.stream = old.moved(new, iteration)
        self.skip(iteration * self.batch_size)
        now = (self.world_size, self.num_labeled, self.num_unlabeled, new.labeled_images, new.unlabeled_images)
        then = (state['processes'], *state['batch'], old.labeled_images, old.unlabeled_images)
        if then != now:
            words = '{} processes with {} labelled and {} unlabelled images a batch, of {} and {} images'
            message = (
                f'The checkpoint is of {words.format(*then)}; this run has {words.format(*now)}. It resumes at '
                f'epoch {self.epoch(iteration)}, after {self.stream.unlabeled[1]} of its unlabelled images, but will '
                'not end as the old one would have.'
            )
            print_log(message, logger='current', level=logging.WARNING)


@DATA_SAMPLERS.register_module()
class LabeledSampler(_Stream):
    """The labelled part of a :class:`SemiSampler`'s stream, for training on labelled images alone.

    With the same seed, labelled list and processes, each batch has the labelled images that a SemiSampler's batch of
    the same iteration has: a supervised baseline sees what the semi-supervised run sees.

    Args:
        num_labeled (int): Images in a batch of one process, at least 1; the dataloader's ``batch_size``.
        seed (int, optional): As in :class:`SemiSampler`.
    """

    @check_options
    def __init__(self, dataset, num_labeled: PositiveInt, seed: NonNegativeInt | None = None) -> None:
        super().__init__(dataset, seed)
        self.num_labeled = num_labeled

    def index(self, position: int) -> int:
        iteration, slot = divmod(position, self.num_labeled)
        drawn = (iteration * self.world_size + self.rank) * self.num_labeled + slot
        repeat, place = divmod(drawn, len(self.dataset))
        return int(self._order(self.seed, _LABELED, repeat, len(self.dataset))[place])

    def __len__(self) -> int:
        """Indices of one pass of this process over the data set."""
        return -(-len(self.dataset) // self.world_size)
