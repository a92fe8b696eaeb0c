"""Checkpoints: plain data, read as such and written whole or not at all."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping, Sequence, Set
from glob import escape, glob
from logging import WARNING
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor

from .files import replacing
from .safe_loading import CheckpointNotRead, load_data

_NO_DATA = object()


def read_checkpoint(path: str, mmap: bool = False) -> dict:
    """Reads a checkpoint onto the CPU; code in it is not run. With ``mmap``, tensors are read when they are looked at.

    Raises:
        OSError: If the file cannot be read.
        CheckpointNotRead: If it is no checkpoint, or holds more than data.
    """
    checkpoint = load_data(path, mmap=mmap)
    if not isinstance(checkpoint, dict):
        raise CheckpointNotRead(f'it holds a {type(checkpoint).__name__}, but a checkpoint is a dict')
    return checkpoint


def state_dict_of(checkpoint: dict) -> dict[str, Tensor]:
    """The state dict in a checkpoint, at its top or under ``model`` or ``state_dict``; ValueError if there is none."""
    for key in ('model', 'state_dict'):
        if isinstance(checkpoint.get(key), dict):
            checkpoint = checkpoint[key]
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in checkpoint.items()):
        raise ValueError('it holds no state dict, neither at its top nor under "model" or "state_dict"')
    return checkpoint


def write_checkpoint(checkpoint: dict, path: str) -> None:
    """Saves a checkpoint, whole or not at all; makes its folder."""
    with replacing(path) as unfinished:
        torch.save(checkpoint, unfinished)


def make_plain(checkpoint: dict) -> None:
    """Makes what MMEngine is about to save plain data, which a bare ``torch.load(path, weights_only=True)`` reads.

    Numbers of NumPy become Python's, arrays tensors, other dicts and sequences dicts, lists and tuples. Histories of
    the log are left out, so that the means of the log begin anew where a run resumes; so is whatever else is no data,
    as the methods that a schedule keeps among its numbers. The weights are as they are.
    """
    hub = checkpoint.get('message_hub')
    if hub is not None:
        hub['log_scalars'] = {}
        hub['resumed_keys'] = {key: kept for key, kept in hub['resumed_keys'].items() if key in hub['runtime_info']}
    checkpoint.update({key: _plain(value) for key, value in checkpoint.items() if key != 'state_dict'})


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _plain(value.tolist()) if value.dtype.kind in 'OSUV' else torch.from_numpy(value.copy())
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, Tensor):
        return value
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        made = {_plain(key): _plain(item) for key, item in value.items()}
        for key, item in zip(made, value.values()):
            if made[key] is _NO_DATA and not callable(item):
                print_log(f'{key} is a {type(item).__name__}, no data: checkpoints do not keep it.', 'current', WARNING)
        return {key: item for key, item in made.items() if item is not _NO_DATA}
    if isinstance(value, (Sequence, Set, deque)) and not isinstance(value, (bytes, bytearray)):
        items = [_plain(item) for item in value]
        if not any(item is _NO_DATA for item in items):
            return tuple(items) if isinstance(value, tuple) else items
    return _NO_DATA


def newest_checkpoint(folder: str) -> tuple[str | None, dict[str, str]]:
    """Finds the checkpoint of most iterations in a folder that a run can resume from; the folder need not exist.

    Their own count decides: files may have been copied, and clocks set. Those without an optimiser, such as the best
    ones, are passed over.

    Returns:
        tuple[str | None, dict[str, str]]: Its path, and of each file that is no whole checkpoint the reason.
    """
    refused, found = {}, []
    for path in glob(os.path.join(escape(folder), '*.pth')):
        try:
            checkpoint = read_checkpoint(path, mmap=True)
            meta = checkpoint.get('meta')
            if 'optimizer' in checkpoint and isinstance(meta, dict) and isinstance(meta.get('iter'), int):
                found.append((meta['iter'], str(meta.get('time', '')), path))
        except (ValueError, OSError) as error:
            refused[path] = str(error)
    for *_, path in sorted(found, reverse=True):
        try:
            check_whole(path)
            return path, refused
        except ValueError as error:
            refused[path] = str(error)
    return None, refused


def check_run(path: str) -> None:
    """Raises CheckpointNotRead, naming the file, unless it is whole and holds all that a run resumes from."""
    try:
        check_whole(path)
        check_state(read_checkpoint(path, mmap=True))
    except ValueError as error:
        raise CheckpointNotRead(f'{path}: {error}') from error


def check_state(checkpoint: dict) -> None:
    """Raises CheckpointNotRead unless a checkpoint holds all that a run resumes from.

    The best ones do not: without an optimiser its state and the learning rate would silently begin anew.
    """
    meta = checkpoint.get('meta')
    lacking = [key for key in ('optimizer', 'message_hub') if key not in checkpoint]
    if not isinstance(meta, dict) or not isinstance(meta.get('iter'), int):
        lacking.append('iteration')
    if lacking:
        raise CheckpointNotRead(
            f'it holds weights, but not all that a run resumes from ({", ".join(lacking)}). To begin a run with its '
            'weights, give --cfg-options load_from=... instead of --resume'
        )


def check_whole(path: str) -> None:
    """Raises ValueError unless all of a file is as it was written, by its check sums."""
    with open(path, 'rb') as content:
        try:
            with ZipFile(content) as file:
                damaged = file.testzip()
        except Exception as error:  # a damaged directory of the archive fails in any way
            raise ValueError(f'it is cut off, or no PyTorch checkpoint ({error})') from error
    if damaged:
        raise ValueError(f'it is damaged in {damaged}')
