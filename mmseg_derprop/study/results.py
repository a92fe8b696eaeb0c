"""Scores of a run from its logs, and the table of a study's finished runs."""

from __future__ import annotations

import fcntl
import glob
import json
import os
import os.path as osp
import platform
import subprocess
from collections.abc import Collection
from contextlib import suppress
from typing import IO

import numpy as np
import pandas as pd
import torch

import mmseg_derprop

from ..utils.files import write_text
from .plan import StudyError

KEYS = ['run', 'stage', 'method', 'option', 'split', 'seed', 'digest', 'revision', 'machine']
COLUMNS = ['network', 'metric', 'iteration', 'value']
POINTS = 50  # of each training curve
NO_METRIC = ('data_time', 'time', 'memory', 'step', 'iter', 'epoch', 'iteration', 'training')
ROOT = osp.dirname(osp.dirname(osp.abspath(mmseg_derprop.__file__)))


def read_scores(work_dir: str) -> pd.DataFrame:
    """Validation scores and training curves of a run; what a later attempt did again counts once.

    Returns:
        pd.DataFrame: Columns network ('' if there is only one), metric, iteration and value. Metrics of training are
        called ``train/...``; each of their values is the mean over one of 50 intervals.
    """
    entries = read_log(work_dir)
    if not entries:
        return pd.DataFrame(columns=COLUMNS)
    log = pd.DataFrame(entries).assign(training=['iter' in entry for entry in entries])
    log = log.drop_duplicates(['step', 'training'], keep='last').sort_values('step')
    interval = log['step'].max() / POINTS
    ends = (np.ceil(log['step'] / interval) * interval).round().astype(int)
    log['iteration'] = log['step'].mask(log['training'], ends)
    metrics = [name for name in log if name not in NO_METRIC]
    long = log.melt(['iteration', 'training'], metrics, 'metric').dropna()
    long['metric'] = long['metric'].mask(long['training'], 'train/' + long['metric'])
    long[['network', 'metric']] = long['metric'].str.extract(r'^(?:(teacher|student)/)?(.*)$').fillna('')
    if (long['network'] != '').any():  # without a name the validation repeats the scores of the one that predicts
        long = long[long['training'] | (long['network'] != '')]
    return long.groupby(COLUMNS[:3], sort=False)['value'].mean().reset_index()


def read_log(work_dir: str) -> list[dict]:
    """The numbers in each line that an attempt has logged, that of an iteration."""
    entries = []
    for path in sorted(glob.glob(osp.join(glob.escape(work_dir), '*', 'vis_data', 'scalars.json'))):
        with open(path, errors='replace') as file:
            for line in file:
                with suppress(ValueError):  # cut off by a kill
                    entries.append({k: v for k, v in json.loads(line).items() if type(v) in (int, float)})
    return [entry for entry in entries if 'step' in entry]


def read_table(path: str) -> pd.DataFrame:
    """Reads a results.csv; raises StudyError if it is none."""
    numbers = {'seed': int, 'iteration': int, 'value': float}
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, usecols=KEYS + COLUMNS).astype(numbers)
    except (OSError, ValueError) as error:
        raise StudyError(f'{path} must be a results.csv of a study, but is not: {error}') from None


def read_tables(folder: str) -> pd.DataFrame:
    """The tables of all finished runs in a study's folder, joined."""
    paths = sorted(glob.glob(osp.join(glob.escape(folder), 'runs', '*', 'results.csv')))
    return pd.concat(map(read_table, paths)) if paths else pd.DataFrame(columns=KEYS + COLUMNS)


def write_table(table: pd.DataFrame, path: str) -> None:
    """Writes a results.csv, whole or not at all."""
    write_text(path, table[KEYS + COLUMNS].to_csv(index=False, float_format='%.6g'))


def join_tables(folder: str, outdated: Collection[str] = ()) -> None:
    """Writes the results.csv of a study's folder, without runs of another configuration."""
    with lock_file(osp.join(folder, 'results.lock'), wait=True):  # type: ignore[union-attr]
        table = read_tables(folder)
        write_table(table[~table['run'].isin(outdated)], osp.join(folder, 'results.csv'))


def lock_file(path: str, wait: bool = False) -> IO | None:
    """Opens and locks a file, until it is closed here and in child processes; None if another process has it."""
    os.makedirs(osp.dirname(path), exist_ok=True)
    file = open(path, 'a')  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        file.close()
        return None
    return file


def machine(threads: int) -> str:
    """Versions of torch and this package, and the graphics processor, or the processor and threads of a run."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f'{platform.machine()}, {threads} threads'
    return f'torch {torch.__version__}, mmseg_derprop {mmseg_derprop.__version__}, {device}'


def revision() -> str:
    """Git revision of the package, with ``+changes`` where files differ from it; '' if it is installed."""
    if not osp.exists(osp.join(ROOT, '.git')):
        return ''
    command = ['git', '-C', ROOT, 'describe', '--always', '--exclude=*', '--abbrev=12', '--dirty=+changes']
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()
