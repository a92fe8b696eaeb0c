"""Checks of files, folders and lists before training."""

from __future__ import annotations

import os
import os.path as osp
from array import array
from collections.abc import Sequence

import numpy as np
from mmengine import fileio

# Up to this many files of one folder are looked up one by one; for more the folder is listed once.
_FEW = 1000


def check_files(paths: Sequence[str], what: str, source: str, backend_args: dict | None = None) -> None:
    """Checks that files exist, where they lie on a local disk.

    Remote storage is left alone: a request for each file would take longer than the failure it
    prevents.

    Args:
        paths (Sequence[str]): Files to look for.
        what (str): What they are, e.g. ``'labelled images'``.
        source (str): Who names them, e.g. the path of a list.
        backend_args (dict, optional): MMEngine's file backend. Defaults to the one that the path
            implies.

    Raises:
        FileNotFoundError: If some do not exist; names how many and the first three.
    """
    if not paths or not is_local(paths[0], backend_args):
        return
    missing = missing_files(paths)
    if missing:
        raise FileNotFoundError(
            f'{len(missing)} of {len(paths)} {what} named by {source} do not exist, first '
            f'{missing[:3]}: the list is longer than the data, or data_root, data_prefix or a '
            'suffix is wrong; mend the list or the config'
        )


def check_folder(path: str, what: str, backend_args: dict | None = None) -> None:
    """Checks that a folder exists, where it lies on a local disk.

    Args:
        path (str): The folder; '' is the current one.
        what (str): What it is, e.g. ``'data_root of the labelled images'``.
        backend_args (dict, optional): MMEngine's file backend. Defaults to the one that the path
            implies.

    Raises:
        FileNotFoundError: If it does not exist.
    """
    if path and is_local(path, backend_args) and not osp.isdir(path):
        raise FileNotFoundError(
            f'{what} is {path!r}, which is no folder; download or link the data there, or change the config'
        )


def check_list(path: str, what: str, backend_args: dict | None = None) -> None:
    """Checks that a list of images exists, wherever it lies.

    Args:
        path (str): The list.
        what (str): What it lists, e.g. ``'labelled images'``.
        backend_args (dict, optional): MMEngine's file backend. Defaults to the one that the path
            implies.

    Raises:
        FileNotFoundError: If it does not exist.
    """
    if not fileio.isfile(path, backend_args=backend_args):
        raise FileNotFoundError(
            f'the list of {what} is {path!r}, which is no file; write it, change ann_file, or '
            'leave ann_file out to use all images of the folder'
        )


def is_local(path: str, backend_args: dict | None) -> bool:
    """Whether MMEngine reads a path from a local disk."""
    backend = fileio.get_file_backend(path, backend_args=backend_args)
    return isinstance(backend, fileio.LocalBackend)


def missing_files(paths: Sequence[str]) -> list[str]:
    """Those of some local files that do not exist.

    Millions cost one listing of each of their folders, 24 bytes a file, and no request for a file that is there.

    Args:
        paths (Sequence[str]): Local files.

    Returns:
        list[str]: In the order of ``paths``.
    """
    folders: dict[str, array] = {}
    for index, path in enumerate(paths):
        folders.setdefault(osp.dirname(path), array('q')).append(index)
    absent: list[int] = []
    for folder, members in folders.items():
        suspects = np.asarray(members)
        if len(members) > _FEW and osp.isdir(folder or '.'):
            names = (hash(osp.basename(paths[index])) for index in members)
            wanted = np.fromiter(names, np.int64, len(members))
            with os.scandir(folder or '.') as entries:
                found = np.fromiter((hash(entry.name) for entry in entries if entry.is_file()), np.int64)
            suspects = suspects[~np.isin(wanted, found)]
        # Also has the last word on file systems that do not tell case.
        absent += [int(index) for index in suspects if not osp.isfile(paths[index])]
    return [paths[index] for index in sorted(absent)]
