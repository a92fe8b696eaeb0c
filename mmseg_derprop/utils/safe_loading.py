"""Checkpoints of others: read as data, so that nothing which they hold is run."""

from __future__ import annotations

import argparse
import functools
import os
import os.path as osp
import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.optim import OneCycleParamScheduler
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as engine

LOADERS: dict[tuple[str, ...], Callable] = {
    ('http://', 'https://'): engine.load_from_http,
    ('modelzoo://', 'torchvision://'): engine.load_from_torchvision,
    ('open-mmlab://', 'openmmlab://'): engine.load_from_openmmlab,
    ('mmcls://',): engine.load_from_mmcls,
    ('pavi://',): engine.load_from_pavi,
    (r'(\S+\:)?s3://', r'(\S+\:)?petrel://'): engine.load_from_ceph,
}
# PyTorch's own switches; the first holds even where a program asks torch.load for everything.
FORCE, FORCE_NOT = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD', 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'
REFUSED = (
    'it holds more than data ({}), which can run a program on this machine, and is not read. If you trust where it '
    'comes from, --trust-checkpoint reads it all the same.'
)
_trusted: ContextVar[bool] = ContextVar('trusted', default=False)


class CheckpointNotRead(ValueError):
    """A checkpoint is damaged, or holds more than data."""


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """Adds the option of all tools that read checkpoints."""
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='also read checkpoints that hold more than data, which runs what they hold',
    )


@contextmanager
def checkpoints_as_data(trust: bool = False) -> Iterator[None]:
    """Refuses checkpoints that hold more than data, whoever reads them: this package, MMEngine, a backbone of its own.

    Within, MMEngine's loaders are replaced, and PyTorch reads with ``weights_only`` whatever it is asked for.

    Args:
        trust (bool): Whether to read such checkpoints all the same, which may run what they hold.

    Raises:
        CheckpointNotRead: Names the file, what it holds and the remedy.
    """
    before = {name: os.environ.get(name) for name in (FORCE, FORCE_NOT)}
    token = _trusted.set(trust)
    try:
        if not trust:
            os.environ[FORCE] = '1'
            os.environ.pop(FORCE_NOT, None)
        CheckpointLoader.register_scheme('', load_from_local, force=True)
        for prefixes, loader in LOADERS.items():
            CheckpointLoader.register_scheme(prefixes, loader if trust else _naming(loader), force=True)
        with _engine_types():
            yield
    except pickle.UnpicklingError as error:  # read by neither MMEngine nor this package
        raise CheckpointNotRead(f'A checkpoint that the config names: {_reason(error)}') from error
    finally:
        CheckpointLoader.register_scheme('', engine.load_from_local, force=True)
        for prefixes, loader in LOADERS.items():
            CheckpointLoader.register_scheme(prefixes, loader, force=True)
        _trusted.reset(token)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def load_data(path: str, map_location: Any = 'cpu', mmap: bool = False) -> Any:
    """Reads what ``torch.save`` wrote; nothing in it is run, unless within a trusting :func:`checkpoints_as_data`.

    Args:
        path (str): Of a file.
        map_location (Any): As of ``torch.load``.
        mmap (bool): Whether tensors are only read when they are looked at.

    Returns:
        Any: What the file holds: tensors, numbers, texts, NumPy's arrays, the engine's histories, lists and dicts.

    Raises:
        OSError: If the file cannot be read.
        CheckpointNotRead: If it is no PyTorch file, or holds something else.
    """
    if not _trusted.get() and is_program(path):
        raise CheckpointNotRead(REFUSED.format('a TorchScript program'))
    try:
        with _engine_types():
            return torch.load(path, map_location=map_location, weights_only=not _trusted.get(), mmap=mmap)
    except OSError:
        raise
    except Exception as error:  # a file of another kind fails in any way
        raise CheckpointNotRead(_reason(error, path)) from error


def is_program(path: str) -> bool:
    """Whether a file is a TorchScript archive, which PyTorch 2.4 loads as such whatever it is asked for."""
    try:
        with ZipFile(path) as file:
            return any(name.endswith('/constants.pkl') for name in file.namelist())
    except (BadZipFile, OSError):
        return False


def load_from_local(filename: str, map_location: Any = None) -> Any:
    """Stands for MMEngine's loader of local files."""
    path = osp.expanduser(filename)
    if not osp.isfile(path):
        raise FileNotFoundError(f'{filename} can not be found.')
    try:
        return _without_program(load_data(path, map_location))
    except CheckpointNotRead as error:
        raise CheckpointNotRead(f'{filename}: {error}') from error


def _without_program(checkpoint: Any) -> Any:
    """Takes out the text that MMEngine's ``resume`` runs as a config, and that it writes nowhere itself."""
    meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None
    if isinstance(meta, dict) and not _trusted.get():
        meta.pop('config', None)
    return checkpoint


def _naming(loader: Callable) -> Callable:
    """A loader whose refusals name the file, and that leaves no program to run."""

    @functools.wraps(loader)
    def load(filename: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return _without_program(loader(filename, *args, **kwargs))
        except pickle.UnpicklingError as error:
            raise CheckpointNotRead(f'{filename}: {_reason(error)}') from error

    return load


def _reason(error: Exception, path: str | None = None) -> str:
    """Why PyTorch refused a file."""
    text = str(error)
    found = re.findall(r'GLOBAL (\S+)', text)[:1]  # the first one; PyTorch's own message advises to run it
    if path is not None:
        try:
            with _engine_types():
                found = torch.serialization.get_unsafe_globals_in_checkpoint(path) or found
        except Exception:  # another kind of file, or an old PyTorch
            pass
    if not found and (path is None or is_zipfile(path)) and isinstance(error, pickle.UnpicklingError):
        found = re.findall(r'WeightsUnpickler error:\s*(.+)', text)[:1] or [text.splitlines()[0]]
    if not found:
        return 'it is cut off, or no PyTorch checkpoint, and is not read'
    return REFUSED.format(', '.join(sorted(found)))


@contextmanager
def _engine_types() -> Iterator[None]:
    """Lets PyTorch read what MMEngine saves beside the weights."""
    known = set(torch.serialization.get_safe_globals())
    missing = [item for item in _allowed() if item not in known]  # the context would take out what was there before
    if torch.__version__ < '2.5':  # has no context for it
        torch.serialization.add_safe_globals(missing)
        yield
    else:
        with torch.serialization.safe_globals(missing):
            yield


@functools.cache
def _allowed() -> tuple[Any, ...]:
    """Histories of scalars, schedules, configs, and NumPy's arrays and numbers of all kinds but objects."""
    functions: list[Any] = [np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]]
    named = [_named('builtins', 'getattr', _method), _named('_codecs', 'encode', _bytes)]
    for function in functions:
        for core in ('core', '_core'):  # its name before and since NumPy 2
            named.append(_named(f'numpy.{core}.multiarray', function.__name__, function))
    dtypes = {type(np.dtype(code)) for code in '?bhilqBHILQefdgFDGSU'}
    plain = (slice, np.ndarray, np.dtype, ConfigDict, argparse.Namespace, HistoryBuffer, OneCycleParamScheduler)
    return (*named, *plain, *dtypes)


def _named(module: str, name: str, function: Callable) -> Callable:
    """A function under the name by which pickles ask for it; old PyTorch knows no function by another name."""

    def call(*args: Any) -> Any:
        return function(*args)

    call.__module__, call.__name__, call.__qualname__ = module, name, name
    return call


def _bytes(text: str, encoding: str) -> bytes:
    """How pickles hold the bytes of an array; PyTorch 2.4 does not know it."""
    if encoding != 'latin1':
        raise pickle.UnpicklingError(f'bytes in the encoding {encoding}')
    return text.encode(encoding)


def _method(owner: object, name: str) -> object:
    """Histories and schedules name methods of their own; nothing else may be looked up."""
    if owner not in (HistoryBuffer, OneCycleParamScheduler) or name.startswith('__'):
        raise pickle.UnpicklingError(f'attribute {name} of {owner!r}')
    return getattr(owner, name)
