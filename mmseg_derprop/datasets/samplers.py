"""Labelled and unlabelled indices in a fixed proportion."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from mmseg.registry import DATA_SAMPLERS
from torch.utils.data import Sampler

_LABELED, _UNLABELED = 0, 1


class _Stream(Sampler):
    """Endless stream of indices, of which each depends on the seed and its position alone."""

    def __init__(self, dataset, seed: int | None, shuffle: bool) -> None:
        self.dataset = dataset
        self.rank, self.world_size = get_dist_info()
        self.seed = sync_random_seed() if seed is None else seed
        self.shuffle = shuffle
        # Two rounds of each kind, because a batch may straddle the border between them.
        self._order = lru_cache(maxsize=4)(self._draw_order)
        self._position = 0

    def index(self, position: int) -> int:
        """The dataset index at a position of this process's stream.

        Args:
            position (int): Number of indices before it in the stream of this process.

        Returns:
            int: Index into the dataset.
        """
        raise NotImplementedError

    def __iter__(self) -> Iterator[int]:
        """Yields indices without end; a second iterator goes on where the first one is."""
        while True:
            self._position += 1
            yield self.index(self._position - 1)

    def skip(self, num_samples: int) -> None:
        """Moves to an absolute position of the stream, for resuming.

        Args:
            num_samples (int): Indices that this process has consumed since the start of training.

        Raises:
            ValueError: If ``num_samples`` is negative.
        """
        if num_samples < 0:
            raise ValueError(f'num_samples is {num_samples}, allowed is 0 or more')
        self._position = num_samples

    def set_epoch(self, epoch: int) -> None:
        """Does nothing: the position already says which epoch it is."""

    def _labeled_index(self, iteration: int, slot: int, num_labeled: int, size: int) -> int:
        """The index at a slot of the ``num_labeled`` that a batch has, of ``size`` labelled images."""
        drawn = (iteration * self.world_size + self.rank) * num_labeled + slot
        repeat, place = divmod(drawn, size)
        return int(self._order(self.seed, _LABELED, repeat, size)[place])

    def _draw_order(self, seed: int, kind: int, number: int, size: int) -> np.ndarray:
        """The ``number``-th pass over the images of one kind, (size,) int64."""
        if not self.shuffle:
            return np.arange(size)
        return np.random.default_rng((seed, kind, number)).permutation(size)


@DATA_SAMPLERS.register_module()
class SemiSampler(_Stream):
    """Endless stream of groups: ``num_labeled`` labelled indices, ``num_unlabeled`` unlabelled.

    An epoch is one pass of all processes together over the unlabelled images, in a new order each
    time; its last groups are filled from its beginning, so that every process has the same number
    of whole groups. The labelled list is repeated by permutations of its own that do not notice
    where an epoch ends. Within a permutation the processes' shares are disjoint.

    Which index stands at a position depends on the seed and the position alone, so ``skip`` costs
    nothing and the number of workers changes nothing. The dataloader's ``batch_size`` must be
    ``num_labeled + num_unlabeled``.

    Args:
        dataset (SemiDataset): Labelled images first; its ``num_labeled`` and ``num_unlabeled`` say
            how many.
        num_labeled (int): Labelled images in a batch of one process, at least 1.
        num_unlabeled (int): Unlabelled images in a batch of one process, at least 1.
        seed (int, optional): Seed of the order, the same in all processes. Defaults to a common
            random one.
        shuffle (bool): Whether to draw an order. Defaults to True.

    Raises:
        TypeError: If ``dataset`` does not tell labelled from unlabelled images.
        ValueError: If a number of images is below 1.
    """

    def __init__(
        self,
        dataset,
        num_labeled: int,
        num_unlabeled: int,
        seed: int | None = None,
        shuffle: bool = True,
    ) -> None:
        for name, count in (('num_labeled', num_labeled), ('num_unlabeled', num_unlabeled)):
            if count < 1:
                raise ValueError(
                    f'{name} is {count}, allowed is 1 or more; for training on labelled images '
                    'alone use a plain MMSegmentation data set with LabeledSampler or InfiniteSampler'
                )
            if not hasattr(dataset, name):
                raise TypeError(
                    f'dataset is a {type(dataset).__name__} without {name}; wrap the labelled and '
                    'the unlabelled source in a SemiDataset'
                )
        super().__init__(dataset, seed, shuffle)
        self.num_labeled, self.num_unlabeled = num_labeled, num_unlabeled

    @property
    def batch_size(self) -> int:
        """int: Images in one batch of this process."""
        return self.num_labeled + self.num_unlabeled

    @property
    def iterations_per_epoch(self) -> int:
        """int: Iterations in which all processes together see each unlabelled image."""
        return -(-self.dataset.num_unlabeled // (self.num_unlabeled * self.world_size))

    def index(self, position: int) -> int:
        """The dataset index at a position of this process's stream."""
        iteration, slot = divmod(position, self.batch_size)
        if slot < self.num_labeled:
            return self._labeled_index(iteration, slot, self.num_labeled, self.dataset.num_labeled)
        epoch, iteration = divmod(iteration, self.iterations_per_epoch)
        slot -= self.num_labeled
        place = (iteration * self.world_size + self.rank) * self.num_unlabeled + slot
        order = self._order(self.seed, _UNLABELED, epoch, self.dataset.num_unlabeled)
        return self.dataset.num_labeled + int(order[place % len(order)])

    def __len__(self) -> int:
        """Indices of one epoch of this process: a dataloader's length is the iterations."""
        return self.iterations_per_epoch * self.batch_size


@DATA_SAMPLERS.register_module()
class LabeledSampler(_Stream):
    """The labelled part of a :class:`SemiSampler`'s stream, for training on labelled images alone.

    With the same seed, labelled list and processes, each batch has the labelled images that a SemiSampler's batch of
    the same iteration has: a supervised twin sees what the semi-supervised run sees.

    Args:
        dataset (Dataset): Labelled images.
        num_labeled (int): Images in a batch of one process, at least 1; the dataloader's ``batch_size``.
        seed (int, optional): Seed of the order, the same in all processes. Defaults to a common random one.
        shuffle (bool): Whether to draw an order. Defaults to True.

    Raises:
        ValueError: If ``num_labeled`` is below 1, or the data set is empty.
    """

    def __init__(self, dataset, num_labeled: int, seed: int | None = None, shuffle: bool = True) -> None:
        if num_labeled < 1:
            raise ValueError(f'num_labeled is {num_labeled}, allowed is 1 or more: the batch_size of the dataloader')
        if not len(dataset):
            raise ValueError('the data set holds 0 images, at least 1 is needed; check its ann_file and data_prefix')
        super().__init__(dataset, seed, shuffle)
        self.num_labeled = num_labeled

    def index(self, position: int) -> int:
        """The dataset index at a position of this process's stream."""
        iteration, slot = divmod(position, self.num_labeled)
        return self._labeled_index(iteration, slot, self.num_labeled, len(self.dataset))

    def __len__(self) -> int:
        """Indices of one pass of this process over the data set."""
        return -(-len(self.dataset) // self.world_size)
