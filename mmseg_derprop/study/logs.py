"""Scores and training curves of a run, from its scalars.json."""

from __future__ import annotations

import glob
import json
import math
import os.path as osp
from contextlib import suppress

import numpy as np
import pandas as pd

COLUMNS = ['network', 'metric', 'iteration', 'value']
POINTS = 50  # of each training curve
NO_METRIC = ('data_time', 'time', 'memory', 'step', 'iter', 'epoch')


def read_scores(work_dir: str) -> pd.DataFrame:
    """Validation scores and training curves of a run, joined over its attempts.

    What an attempt logged after the iteration from which a later one resumed does not count.

    Args:
        work_dir (str): Of tools/train.py.

    Returns:
        pd.DataFrame: Columns network ('' if there is only one), metric, iteration and value. Metrics of training are
        called ``train/...``; each of their values is the mean over one of 50 intervals.
    """
    training: dict[int, dict] = {}
    scores: dict[int, dict] = {}
    for entries in _read_attempts(work_dir):
        # A validation that was cut off comes first, of the iterations before.
        first = min((entry['step'] for entry in entries if 'iter' in entry), default=math.inf)
        for kept in (training, scores):
            for step in [step for step in kept if step >= first]:
                del kept[step]
        for entry in entries:
            (training if 'iter' in entry else scores)[entry['step']] = entry
    tables = []
    if scores:
        long = _long(pd.DataFrame(scores.values()))
        long[['network', 'metric']] = long['metric'].str.extract(r'^(?:(teacher|student)/)?(.*)$').fillna('')
        tables.append(long)
    if training:
        curves = pd.DataFrame(training.values())
        interval = curves['step'].max() / POINTS
        ends = (np.ceil(curves['step'] / interval) * interval).round().astype(int)
        long = _long(curves.groupby(ends).mean().drop(columns='step').reset_index())
        tables.append(long.assign(metric='train/' + long['metric']))
    return pd.concat(tables)[COLUMNS] if tables else pd.DataFrame(columns=COLUMNS)


def _long(wide: pd.DataFrame) -> pd.DataFrame:
    """A line for each number of a table that has a column for each metric."""
    metrics = [name for name in wide if name not in NO_METRIC]
    long = wide.melt('step', metrics, 'metric').rename(columns={'step': 'iteration'}).dropna()
    return long.assign(network='').sort_values('iteration', kind='stable')


def last_iteration(work_dir: str) -> int:
    """The last iteration that the newest attempt logged; 0 if there is none."""
    return max((entry['step'] for entries in _read_attempts(work_dir)[-1:] for entry in entries), default=0)


def _read_attempts(work_dir: str) -> list[list[dict]]:
    """Lines of the log of each attempt that are whole and have a step; what is not a number is left out."""
    attempts = []
    for path in sorted(glob.glob(osp.join(glob.escape(work_dir), '*', 'vis_data', 'scalars.json'))):
        entries: list[dict] = []
        with open(path, 'rb') as file:
            for line in file:
                with suppress(ValueError, AttributeError, RecursionError):  # cut off by a kill, or damaged
                    entry = {key: value for key, value in json.loads(line).items() if type(value) in (int, float)}
                    if isinstance(entry.get('step'), int):
                        entries.append(entry)
        attempts.append(entries)
    return attempts
