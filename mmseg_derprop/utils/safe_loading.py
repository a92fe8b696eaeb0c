"""Checkpoints are read as data: nothing that they hold is run."""

from __future__ import annotations

import codecs
import functools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch

REFUSED = (
    'it holds more than data ({found}), which can run a program where it is read. If you trust where it comes from, '
    'save its weights alone and use those:\n'
    '    checkpoint = torch.load({path!r}, weights_only=False)\n'
    "    torch.save(dict(state_dict=checkpoint['state_dict']), 'weights.pth')"
)
# What OpenMMLab's and timm's files hold beside weights and nobody here reads: it comes out as an empty dict.
STAND_INS = (
    'builtins.getattr',  # names the methods of histories
    'mmengine.logging.history_buffer.HistoryBuffer',
    'mmengine.config.config.ConfigDict',  # the only one that keeps what it holds, as a dict
    'argparse.Namespace',
)
_torch_load = torch.load


class CheckpointNotRead(ValueError):
    """A checkpoint is damaged, or holds more than data."""


@contextmanager
def checkpoints_as_data() -> Iterator[None]:
    """Within, whoever calls ``torch.load`` gets data or an error: MMEngine's loaders, a backbone that loads its own.

    MMEngine itself reads with pickle, or falls back to it. The text that its ``resume`` runs as a config, and that it
    writes nowhere itself, is left out.

    Raises:
        CheckpointNotRead: Names the file, what it holds and the remedy.
    """

    def load(f: Any, map_location: Any = None, *args: Any, mmap: bool | None = None, **kwargs: Any) -> Any:
        try:
            checkpoint = load_data(f, map_location, mmap)
        except CheckpointNotRead as error:
            raise CheckpointNotRead(f'{f}: {error}') from error
        meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None
        if isinstance(meta, dict):
            meta.pop('config', None)
        return checkpoint

    torch.load = load
    try:
        yield
    finally:
        torch.load = _torch_load


def load_data(file: Any, map_location: Any = 'cpu', mmap: bool | None = None) -> Any:
    """Reads what ``torch.save`` wrote, with ``weights_only``: tensors, numbers, texts, lists and dicts.

    Beside what PyTorch takes for data it knows NumPy's arrays and numbers, and :data:`STAND_INS`, for checkpoints that
    others made with MMEngine. Those of this project need neither.

    Raises:
        OSError: If the file cannot be read.
        CheckpointNotRead: If it is no PyTorch file, or holds something else.
    """
    if _is_program(file):
        raise CheckpointNotRead(REFUSED.format(found='a TorchScript program', path=file))
    # A user's own classes are read as well, but not the real ones that the maintained MMEngine adds.
    before = list(torch.serialization.get_safe_globals())
    ours = set(map(_name, _allowed()))
    try:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals([*_allowed(), *(item for item in before if _name(item) not in ours)])
        return _torch_load(file, map_location=map_location, weights_only=True, mmap=mmap)
    except Exception as error:  # a file of another kind fails in any way
        if isinstance(error, OSError) and error.filename is not None:
            raise
        if found := re.findall(r'GLOBAL (\S+)', str(error)):
            raise CheckpointNotRead(REFUSED.format(found=found[0], path=file)) from error
        raise CheckpointNotRead('it is cut off, or no PyTorch checkpoint, and is not read') from error
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _is_program(file: Any) -> bool:
    """Whether a file is a TorchScript archive, which PyTorch 2.4 loads as such whatever it is asked for."""
    try:
        with ZipFile(file) as archive:
            return any(name.endswith('/constants.pkl') for name in archive.namelist())
    except (BadZipFile, OSError):
        return False
    finally:
        if hasattr(file, 'seek'):
            file.seek(0)


class _StandIn(dict):
    """Takes any arguments and does nothing with them, except for a dict, of which it is a copy."""

    def __init__(self, *args: Any) -> None:
        super().__init__(args[0] if args and isinstance(args[0], dict) else {})


@functools.cache
def _allowed() -> tuple[Any, ...]:
    """What may be in a checkpoint of others; functions under the name by which pickles ask for them."""
    named = [_named('_codecs.encode', codecs.encode)]  # how pickles hold bytes; PyTorch 2.4 does not know it
    functions: list[Any] = [np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]]
    for function in functions:
        for core in ('core', '_core'):  # its name before and since NumPy 2
            named.append(_named(f'numpy.{core}.multiarray.{function.__name__}', function))
    dtypes = {type(np.dtype(code)) for code in '?bhilqBHILQefdFDSU'}  # no objects
    parts = (name.rpartition('.') for name in STAND_INS)
    classes = (type(name, (_StandIn,), {'__module__': module}) for module, _, name in parts)
    return (*named, slice, np.ndarray, np.dtype, *dtypes, *classes)


def _name(item: Any) -> str:
    return item[1] if isinstance(item, tuple) else f'{item.__module__}.{item.__name__}'


def _named(name: str, function: Callable) -> Callable:
    def call(*args: Any) -> Any:
        return function(*args)

    call.__module__, _, call.__qualname__ = name.rpartition('.')
    call.__name__ = call.__qualname__
    return call
