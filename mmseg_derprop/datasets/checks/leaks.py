"""Validation images among the training images."""

from __future__ import annotations

import logging
import os.path as osp
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from mmengine.logging import print_log


def check_leaks(train: Any, val: Any | None, leaks: str = 'error') -> None:
    """Looks for validation images among the training images, and logs how many labelled ones are also unlabelled.

    The latter is allowed. Images are compared by their real paths, and none is loaded. A copy is another image.
    With ``leaks='error'`` validation images among those of ``train``, a SemiDataset, raise ValueError, with ``'warn'``
    they are logged.
    """

    def unlabeled() -> Iterator[str]:
        return islice(image_paths(train), train.num_labeled, None)

    labeled = list(islice(image_paths(train), train.num_labeled))
    if twice := shared_images(labeled, unlabeled()):
        number = f'{len(twice)} of the {len(labeled)}'
        print_log(f'{number} labelled images are also among the unlabelled ones. This is allowed.', logger='current')
    held_out = list(image_paths(val)) if val is not None else []
    for kind, paths in dict(labelled=labeled, unlabelled=unlabeled()).items():
        if not (found := shared_images(held_out, paths)):
            continue
        message = (
            f'{len(found)} of {len(held_out)} validation images are among the {kind} images, first {found[:3]}: their '
            'scores say nothing about other images. Take them out of the training lists or folders, or accept them '
            "with leaks='warn' of the PseudoLabelHook."
        )
        if leaks == 'error':
            raise ValueError(message)
        print_log(message, logger='current', level=logging.WARNING)


def image_paths(dataset: Any) -> Iterator[str]:
    """The images of a data set; data sets without MMEngine's ``get_data_info`` tell none."""
    if hasattr(dataset, 'get_data_info'):
        for index in range(len(dataset)):
            if path := dataset.get_data_info(index).get('img_path'):
                yield path


def shared_images(few: Iterable[str], many: Iterable[str]) -> list[str]:
    """Those of a few images that are among many; the disk is asked only about those with the name of one of the few."""
    few = list(few)
    names = {osp.basename(path) for path in few}
    suspects = {osp.realpath(path) for path in many if osp.basename(path) in names}
    return [path for path in few if osp.realpath(path) in suspects]
