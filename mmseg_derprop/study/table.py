"""The table of a study: all numbers of its finished runs."""

from __future__ import annotations

import fcntl
import os
import os.path as osp
import platform
import subprocess
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import mmengine
import mmseg
import pandas as pd
import torch

import mmseg_derprop

from ..engine.whole_files import WholeFileBackend
from .logs import COLUMNS
from .plan import StudyError

KEYS = ['run', 'stage', 'method', 'option', 'split', 'seed', 'digest', 'revision', 'machine']
ROOT = osp.dirname(osp.dirname(osp.abspath(mmseg_derprop.__file__)))


class ResultTable:
    """results.csv in a study's folder, which several processes may share.

    Args:
        folder (str): The study's folder.
    """

    def __init__(self, folder: str) -> None:
        self.path = osp.join(folder, 'results.csv')
        self._seen: tuple | None = None
        self._finished = pd.DataFrame(columns=KEYS + COLUMNS)

    def finished(self) -> pd.DataFrame:
        """The lines of metric ``seconds``, of which each finished run has one, with its name as index."""
        if osp.isfile(self.path):
            status = os.stat(self.path)
            seen = status.st_ino, status.st_mtime_ns
            if seen != self._seen:
                table = read_table(self.path)
                self._seen, self._finished = seen, table[table['metric'] == 'seconds']
        return self._finished.set_index('run')

    def replace(self, names: Collection[str], lines: pd.DataFrame | None = None) -> None:
        """Removes runs from the table, and adds lines to it."""
        with hold_lock(f'{self.path}.lock', wait=True):
            parts = [] if lines is None else [lines]
            if osp.isfile(self.path):
                table = read_table(self.path)
                parts.insert(0, table[~table['run'].isin(names)])
            if parts:
                text = pd.concat(parts)[KEYS + COLUMNS].to_csv(index=False, float_format='%.6g')
                WholeFileBackend().put_text(text, self.path)


def read_table(path: str) -> pd.DataFrame:
    """Reads a results.csv.

    Raises:
        StudyError: If it cannot be read or lacks a column.
    """
    numbers = {'seed': int, 'iteration': int, 'value': float}
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, usecols=KEYS + COLUMNS).astype(numbers)
    except (OSError, ValueError) as error:
        raise StudyError(f'{path} must be a results.csv of a study, but is not: {error}') from None


@contextmanager
def hold_lock(path: str, wait: bool = False) -> Iterator[int | None]:
    """Yields the descriptor of a locked file, or None if another process holds the lock and ``wait`` is false.

    A child process that inherits the descriptor holds the lock too.
    """
    os.makedirs(osp.dirname(path), exist_ok=True)
    with open(path, 'a') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            descriptor = file.fileno()
        except BlockingIOError:
            descriptor = None
        yield descriptor


def machine(threads: int) -> str:
    """Versions that count, processor, threads of a run and graphics processor."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f'{platform.machine()}, {threads} threads'
    versions = [f'{package.__name__} {package.__version__}' for package in (torch, mmengine, mmseg, mmseg_derprop)]
    return ', '.join([f'python {platform.python_version()}', *versions, device])


def revision() -> str:
    """Git revision of the package, with ``+changes`` where files differ from it; '' if it is installed."""
    if not osp.exists(osp.join(ROOT, '.git')):
        return ''
    command = ['git', '-C', ROOT, 'describe', '--always', '--exclude=*', '--abbrev=12', '--dirty=+changes']
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()
