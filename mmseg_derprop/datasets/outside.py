"""Names in lists that lead out of the data."""

from __future__ import annotations

import os
import os.path as osp
from collections.abc import Iterable
from typing import Any

from mmengine import fileio
from mmengine.dataset import BaseDataset


class NameLeaves(ValueError):
    """A list names a file outside of the data."""


def leaves(path: str, folders: Iterable[str]) -> bool:
    """Whether a path lies in none of some folders.

    Its text decides, so a link within a folder may lead anywhere.

    Args:
        path (str): Absolute or relative, local or remote.
        folders (Iterable[str]): The same; '' is the current one.
    """
    if '://' in path and not any('://' in folder for folder in folders):
        return True
    path = osp.abspath(path)
    return not any(path.startswith(osp.join(osp.abspath(folder), '')) for folder in folders)


def own_folders(dataset: BaseDataset) -> list[str]:
    """The data root of a data set, and the folders that its config names."""
    folders = [dataset.data_root, *dataset.data_prefix.values()]
    return [folder for folder in folders if isinstance(folder, str) and folder] or ['']


def refuse(source: str, name: str, folders: list[str]) -> None:
    """Raises NameLeaves for a name in a list.

    Args:
        source (str): Of the name, e.g. ``'train.txt, line 3'``.
        name (str): As it stands there.
        folders (list[str]): Where it had to lead.
    """
    raise NameLeaves(
        f'{source}: {name!r} leads out of {folders[0] or os.curdir}, which names in lists must not. Mend the list; or, '
        'if it shall name files elsewhere, set allow_outside=True (docs/data.md).'
    )


def check_names(dataset: BaseDataset) -> None:
    """Checks that a data set's files lie in its data root, or in the folders that its config names.

    Args:
        dataset (BaseDataset): Loaded.

    Raises:
        NameLeaves: If one does not; names the list, the line and the name.
    """
    folders = own_folders(dataset)
    beginnings = tuple(osp.join(folder, '') for folder in folders)
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        for key in ('img_path', 'seg_map_path'):
            path = info.get(key)
            if not isinstance(path, str) or ('..' not in path and path.startswith(beginnings)):
                continue
            if leaves(path, folders):
                refuse(*_where(dataset, path, index), folders)


def _where(dataset: BaseDataset, path: str, index: int) -> tuple[str, str]:
    """The list and the line that name a file, and the name; of a list of another kind the entry and the path."""
    ann_file = dataset.ann_file
    backend_args = getattr(dataset, 'backend_args', None)
    if ann_file and fileio.isfile(ann_file, backend_args=backend_args):
        suffixes = ('', getattr(dataset, 'img_suffix', ''), getattr(dataset, 'seg_map_suffix', ''))
        text = fileio.get_text(ann_file, backend_args=backend_args)
        for number, line in enumerate(text.splitlines(), 1):
            name = line.strip()
            paths = {osp.join(folder, name + end) for folder in _folders(dataset) for end in suffixes}
            if name and path in paths:
                return f'{ann_file}, line {number}', name
    return f'{ann_file or type(dataset).__name__}, entry {index}', path


def _folders(dataset: Any) -> list[str]:
    return [folder for folder in dataset.data_prefix.values() if isinstance(folder, str)]
