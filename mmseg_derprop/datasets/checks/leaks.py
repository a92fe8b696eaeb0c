"""Images that are where they must not be."""

from __future__ import annotations

import logging
import os.path as osp
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import islice
from typing import Any

from mmengine.logging import print_log
from torch.utils.data import ConcatDataset

from ..unlabeled import UnlabeledDataset


def check_leaks(train: Any, val: Any | None, leaks: str = 'error') -> None:
    """Looks for validation images among the training images, and logs how many labelled ones are unlabelled, too.

    The latter is allowed. Images are compared by their real paths, and none is loaded. A link under another name and
    a copy are other images here.

    Args:
        train (SemiDataset): The training data; others with its ``num_labeled`` do as well.
        val (Dataset, optional): The validation data, if there are any.
        leaks (str): ``'error'`` or ``'warn'``.

    Raises:
        ValueError: If validation images are among the training images and ``leaks`` is ``'error'``; names how many and
            the first three.
    """

    def unlabeled() -> Iterator[str]:
        return islice(image_paths(train), train.num_labeled, None)

    labeled = list(islice(image_paths(train), train.num_labeled))
    if twice := shared_images(labeled, unlabeled()):
        print_log(
            f'{len(twice)} of the {len(labeled)} labelled images are among the unlabelled ones, too; this is allowed.',
            logger='current',
        )
    held_out = list(image_paths(val)) if val is not None else []
    among = {
        kind: shared_images(held_out, paths) for kind, paths in dict(labelled=labeled, unlabelled=unlabeled()).items()
    }
    if not any(among.values()):
        return
    counts = ' and '.join(f'{len(paths)} are among the {kind} images' for kind, paths in among.items() if paths)
    first = next(paths[:3] for paths in among.values() if paths)
    message = (
        f'Of {len(held_out)} validation images {counts}, first {first}: scores on images that the network has seen say '
        'nothing about others. Take them out of the training lists or folders; to go on regardless, set leaks='
        "'warn' of the PseudoLabelHook."
    )
    if leaks == 'error':
        raise ValueError(message)
    print_log(message, logger='current', level=logging.WARNING)


def image_paths(dataset: Any) -> Iterator[str]:
    """The images of a data set, of joined ones one after the other.

    Args:
        dataset (Dataset): With MMEngine's ``get_data_info``; of others nothing is known.

    Yields:
        str: Paths as the data set names them.
    """
    if isinstance(dataset, ConcatDataset):
        for part in dataset.datasets:
            yield from image_paths(part)
    elif isinstance(dataset, UnlabeledDataset):
        yield from dataset.image_paths()
    elif hasattr(dataset, 'get_data_info'):
        for index in range(len(dataset)):
            if path := dataset.get_data_info(index).get('img_path'):
                yield path


def shared_images(few: Iterable[str], many: Iterable[str]) -> list[str]:
    """Those of some images that are among others.

    Args:
        few (Iterable[str]): Paths that are held in memory.
        many (Iterable[str]): Paths that are looked at one by one; the disk is asked only about those that have the
            file name of one of the few.

    Returns:
        list[str]: As ``few`` has them, in its order.
    """
    few = list(few)
    real = _real_path()
    names = {osp.basename(path) for path in few}
    suspects = {real(path) for path in many if osp.basename(path) in names}
    return [path for path in few if real(path) in suspects] if suspects else []


def _real_path() -> Callable[[str], str]:
    """Resolves links, those of a folder once; leaves paths of other storage as they are."""
    real_folder = lru_cache(maxsize=None)(osp.realpath)

    def real(path: str) -> str:
        if '://' in path:
            return path
        folder, name = osp.split(path)
        path = osp.join(real_folder(folder), name)
        return osp.realpath(path) if osp.islink(path) else path

    return real
