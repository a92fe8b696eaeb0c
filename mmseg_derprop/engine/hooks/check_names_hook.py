"""Keeps lists of any data set within its data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from ...datasets import SemiDataset
from ...datasets.outside import check_names
from ...utils.options import check_flags


@HOOKS.register_module()
class CheckNamesHook(Hook):
    """Refuses lists that name files outside of the data, of MMSegmentation's own data sets too.

    A :class:`SemiDataset` looks itself; if it allows such names, those of its validation data may be so as well.

    Args:
        allow_outside (bool): Whether to allow them.

    Raises:
        ValueError: If ``allow_outside`` is neither True nor False.
        NameLeaves: Before training, validation or a test.
    """

    priority = 'VERY_HIGH'

    def __init__(self, allow_outside: bool = False) -> None:
        check_flags(allow_outside=allow_outside)
        self.allow_outside = allow_outside

    def before_train(self, runner: Runner) -> None:
        """Looks at the training and the validation data."""
        train = runner.train_dataloader.dataset
        self.allow_outside |= getattr(train, 'allow_outside', False)
        self.check(train)
        if runner.val_loop is not None:
            self.check(runner.val_dataloader.dataset)

    def before_test(self, runner: Runner) -> None:
        """Looks at the test data."""
        self.check(runner.test_dataloader.dataset)

    def check(self, dataset: Any) -> None:
        """Looks at a data set, or at those in its wrappers."""
        for part in () if self.allow_outside else plain_parts(dataset):
            check_names(part)


def plain_parts(dataset: Any) -> Iterator[BaseDataset]:
    """The data sets with lists of their own in wrappers."""
    if isinstance(dataset, SemiDataset):
        return
    inner = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    if isinstance(dataset, BaseDataset):
        yield dataset
    else:
        for part in inner:
            if part is not None:
                yield from plain_parts(part)
