"""Checks of files, folders and lists before training."""

from __future__ import annotations

import os
import os.path as osp
from collections.abc import Sequence

from mmengine import fileio


def check_files(paths: Sequence[str], what: str, source: str, backend_args: dict | None = None) -> None:
    """Raises FileNotFoundError if files on a local disk do not exist; ``source`` is who names them, such as a list."""
    if not paths or not is_local(paths[0], backend_args):
        return
    # Folder by folder, because a network disk lists files sooner than it finds each.
    folders = {osp.dirname(path) or '.' for path in paths}
    listed = {folder: set(os.listdir(folder)) if osp.isdir(folder) else set() for folder in folders}
    # The file system has the last word, because some ignore case.
    missing = [
        path for path in paths if osp.basename(path) not in listed[osp.dirname(path) or '.'] and not osp.isfile(path)
    ]
    if missing:
        raise FileNotFoundError(
            f'{len(missing)} of {len(paths)} {what} named by {source} do not exist, first {missing[:3]}: the list is '
            'longer than the data, or data_root, data_prefix or a suffix is wrong. Fix the list or the config.'
        )


def check_folder(path: str, what: str, backend_args: dict | None = None) -> None:
    """Raises FileNotFoundError if a folder on a local disk does not exist; '' is the current one."""
    if path and is_local(path, backend_args) and not osp.isdir(path):
        raise FileNotFoundError(
            f'{what} is {path!r}, which is not a folder. Download or link the data there, or change the config.'
        )


def check_list(path: str, what: str, backend_args: dict | None = None) -> None:
    """Raises FileNotFoundError if a list of images does not exist, wherever it is."""
    if not fileio.isfile(path, backend_args=backend_args):
        raise FileNotFoundError(
            f'The list of {what} is {path!r}, which is not a file. Write it, change ann_file, or leave ann_file out to '
            'use all images of the folder.'
        )


def read_list(path: str, what: str, backend_args: dict | None = None) -> list[str]:
    """Lines of a list of images, wherever it is; raises FileNotFoundError if it does not exist."""
    check_list(path, what, backend_args)
    content = fileio.get(path, backend_args=backend_args).decode('utf-8-sig', 'surrogateescape')
    return [line.strip() for line in content.split('\n') if line.strip()]


def is_local(path: str, backend_args: dict | None) -> bool:
    """Whether MMEngine reads a path from a local disk."""
    return isinstance(fileio.get_file_backend(path, backend_args=backend_args), fileio.LocalBackend)
