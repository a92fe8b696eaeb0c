"""The tables of a study: results.csv with all numbers, runs.json with how each finished run was made."""

from __future__ import annotations

import fcntl
import json
import os
import os.path as osp
import subprocess
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import mmcv
import mmseg
import pandas as pd
from mmengine.utils.dl_utils import collect_env

import mmseg_derprop

from ..engine.whole_files import WholeFileBackend
from .logs import COLUMNS
from .plan import StudyError

KEYS = ['run', 'stage', 'method', 'option', 'split', 'seed', 'revision']
ROOT = osp.dirname(osp.dirname(osp.abspath(mmseg_derprop.__file__)))


class Tables:
    """Results of a study's finished runs. Several processes may share the folder.

    Args:
        folder (str): The study's folder.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def runs(self) -> dict[str, dict[str, Any]]:
        """Reads runs.json: of each finished run its keys, digest, iterations, seconds, command and environment."""
        path = osp.join(self.folder, 'runs.json')
        try:
            with open(path, encoding='utf-8') as file:
                return dict(json.load(file))
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError) as error:
            raise StudyError(
                f'{path} is damaged ({error}). Remove it, and the study runs from its beginning.'
            ) from None

    def add(self, record: dict[str, Any], scores: pd.DataFrame) -> None:
        """Adds a finished run, or replaces it.

        Args:
            record (dict): For runs.json; includes KEYS.
            scores (pd.DataFrame): Returned by ``read_scores``.
        """
        seconds = pd.DataFrame([['', 'seconds', record['iterations'], record['seconds']]], columns=COLUMNS)
        lines = pd.concat([scores, seconds]).assign(**{key: record[key] for key in KEYS})
        self._replace([record['run']], lines[KEYS + COLUMNS], {record['run']: record})

    def remove(self, names: Collection[str]) -> None:
        """Removes runs."""
        self._replace(names, pd.DataFrame(columns=KEYS + COLUMNS), {})

    def _replace(self, names: Collection[str], lines: pd.DataFrame, records: dict[str, dict]) -> None:
        path = osp.join(self.folder, 'results.csv')
        with hold_lock(osp.join(self.folder, 'tables.lock'), wait=True):
            if osp.isfile(path):
                old = read_results(path)
                lines = pd.concat([old[~old['run'].isin(names)], lines])
            runs = {name: run for name, run in self.runs().items() if name not in names} | records
            WholeFileBackend().put_text(lines.to_csv(index=False, float_format='%.6g'), path)
            # Last, because a run that is in here is finished.
            WholeFileBackend().put_text(json.dumps(runs, indent=1), osp.join(self.folder, 'runs.json'))


def read_results(path: str) -> pd.DataFrame:
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

    A child that inherits the descriptor holds the lock too.
    """
    os.makedirs(osp.dirname(path), exist_ok=True)
    with open(path, 'a') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            descriptor = file.fileno()
        except BlockingIOError:
            descriptor = None
        yield descriptor


@cache
def environment() -> dict[str, str]:
    """Versions of what counts, and the machine."""
    found = {key: str(value) for key, value in collect_env().items() if key != 'PyTorch compiling details'}
    return found | {package.__name__: str(package.__version__) for package in (mmcv, mmseg, mmseg_derprop)}


def revision() -> str:
    """Git revision of the package, with ``+changes`` where files differ from it; '' if it is installed."""
    command = ['git', '-C', ROOT, 'describe', '--always', '--exclude=*', '--abbrev=40', '--dirty=+changes']
    if not osp.exists(osp.join(ROOT, '.git')):
        return ''
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()
