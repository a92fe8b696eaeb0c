"""Checkpoints, read without running what they hold, and written whole or not at all."""

from __future__ import annotations

import os
from glob import escape, glob
from zipfile import ZipFile

import torch
from torch import Tensor

from .safe_loading import CheckpointNotRead, load_data


def read_checkpoint(path: str, mmap: bool = False) -> dict:
    """Reads a checkpoint onto the CPU; code in it is not run.

    Args:
        path (str): Of a file.
        mmap (bool): Whether tensors are only read when they are looked at.

    Returns:
        dict: What the file holds.

    Raises:
        OSError: If the file cannot be read.
        CheckpointNotRead: If it is no checkpoint, or holds more than data.
    """
    checkpoint = load_data(path, mmap=mmap)
    if not isinstance(checkpoint, dict):
        raise CheckpointNotRead(f'it holds a {type(checkpoint).__name__}, but a checkpoint is a dict')
    return checkpoint


def state_dict_of(checkpoint: dict) -> dict[str, Tensor]:
    """The state dict in a checkpoint, at its top or under ``model`` or ``state_dict``.

    Raises:
        ValueError: If there is none.
    """
    for key in ('model', 'state_dict'):
        if isinstance(checkpoint.get(key), dict):
            checkpoint = checkpoint[key]
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in checkpoint.items()):
        raise ValueError('it holds no state dict, neither at its top nor under "model" or "state_dict"')
    return checkpoint


def write_checkpoint(checkpoint: dict, path: str) -> None:
    """Saves a checkpoint, whole or not at all; makes its folder."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    unfinished = f'{path}.{os.getpid()}.tmp'
    try:
        torch.save(checkpoint, unfinished)
        os.replace(unfinished, path)
    finally:
        if os.path.exists(unfinished):
            os.remove(unfinished)


def newest_checkpoint(folder: str) -> tuple[str | None, dict[str, str]]:
    """Finds the newest checkpoint in a folder that a run can go on from.

    Checkpoints themselves tell when they were written; their files may have been copied. Those without an optimiser,
    such as the best ones, are passed over.

    Args:
        folder (str): Of a run; it need not exist.

    Returns:
        tuple[str | None, dict[str, str]]: Its path, and of each file that is no whole checkpoint the reason.
    """
    refused, found = {}, []
    for path in glob(os.path.join(escape(folder), '*.pth')):
        try:
            checkpoint = read_checkpoint(path, mmap=True)
            meta = checkpoint.get('meta')
            if 'optimizer' in checkpoint and isinstance(meta, dict) and isinstance(meta.get('iter'), int):
                found.append((str(meta.get('time', '')), meta['iter'], path))
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
    """Raises CheckpointNotRead unless a file is a checkpoint of a run, which the run can go on from."""
    try:
        checkpoint = read_checkpoint(path, mmap=True)
    except CheckpointNotRead as error:
        raise CheckpointNotRead(f'{path}: {error}') from error
    lacking = [part for part in ('meta', 'message_hub') if not isinstance(checkpoint.get(part), dict)]
    if lacking or not isinstance(checkpoint['meta'].get('iter'), int):
        raise CheckpointNotRead(
            f'{path} holds weights, but not what a run goes on from ({", ".join(lacking) or "the iteration"}): to '
            'begin a run with them, give --cfg-options load_from=... instead of --resume'
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
