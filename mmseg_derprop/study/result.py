"""What a run left in its folder, and the JSON that a study makes of it."""

from __future__ import annotations

import glob
import json
import math
import os
import os.path as osp
import platform
import re
import subprocess
from contextlib import suppress
from typing import Any

import mmcv
import mmengine
import mmseg
import torch

import mmseg_derprop

from ..utils.checkpoints import check_whole
from ..utils.options import is_number

MAX_POINTS = 200
ROOT = osp.dirname(osp.dirname(osp.abspath(mmseg_derprop.__file__)))
_NO_METRIC = {'data_time', 'time', 'memory', 'step', 'iter', 'epoch'}


def read_log(work_dir: str) -> tuple[list[dict[str, Any]], dict[str, list[list]]]:
    """Scores and scalars of a run, joined over its attempts.

    What an attempt logged after the iteration from which a later one went on does not count.

    Args:
        work_dir (str): Of tools/train.py.

    Returns:
        tuple: The ``scores`` and the ``scalars`` of docs/study_runner.md.
    """
    training: dict[int, dict] = {}
    scores: dict[int, dict] = {}
    for path in sorted(glob.glob(osp.join(glob.escape(work_dir), '*', 'vis_data', 'scalars.json'))):
        entries = log_entries(path)
        # A validation that was cut off comes first, of the iterations before.
        first = min((entry['step'] for entry in entries if 'iter' in entry), default=math.inf)
        training = {step: entry for step, entry in training.items() if step < first}
        scores = {step: entry for step, entry in scores.items() if step < first}
        validations = [entry for entry in entries if 'iter' not in entry]
        metrics = [{k: _number(v) for k, v in entry.items() if k not in _NO_METRIC} for entry in validations]
        for entry, values, classes in zip(validations, metrics, _class_scores(path, metrics)):
            scores[entry['step']] = {'iteration': entry['step'], **values, **({'classes': classes} if classes else {})}
        training |= {entry['step']: entry for entry in entries if 'iter' in entry}
    scalars: dict[str, list[list]] = {}
    for step in sorted(training):
        for key, value in training[step].items():
            if key not in _NO_METRIC:
                scalars.setdefault(key, []).append([step, _number(value)])
    return [scores[step] for step in sorted(scores)], {key: _thin(points) for key, points in scalars.items()}


def last_iteration(work_dir: str) -> int:
    """The newest iteration that the newest attempt logged; 0 if there is none."""
    paths = sorted(glob.glob(osp.join(glob.escape(work_dir), '*', 'vis_data', 'scalars.json')))
    return max((entry['step'] for entry in log_entries(paths[-1], tail=8192)), default=0) if paths else 0


def find_checkpoint(work_dir: str) -> tuple[int, str | None]:
    """The newest whole checkpoint of a run, by the iterations in its name.

    Args:
        work_dir (str): Of tools/train.py.

    Returns:
        tuple: Its iterations and its path; 0 and None if there is none.
    """
    found = {}
    for path in glob.glob(osp.join(glob.escape(work_dir), 'iter_*.pth')):
        if match := re.fullmatch(r'iter_(\d+)\.pth', osp.basename(path)):
            found[int(match[1])] = path
    for iteration in sorted(found, reverse=True):
        with suppress(ValueError):
            check_whole(found[iteration])
            return iteration, found[iteration]
    return 0, None


def summary(scores: list[dict[str, Any]]) -> tuple[dict, dict]:
    """Last and best value of each metric of ``read_log``'s scores, with their iterations."""
    last: dict[str, dict] = {}
    best: dict[str, dict] = {}
    for entry in scores:
        for metric, value in entry.items():
            if metric in ('iteration', 'classes') or value is None:
                continue
            last[metric] = {'value': value, 'iteration': entry['iteration']}
            if metric not in best or value > best[metric]['value']:
                best[metric] = last[metric]
    return last, best


def versions() -> dict[str, str | None]:
    """Of the packages that count, and the revision of this repository."""
    packages = dict(torch=torch, mmengine=mmengine, mmcv=mmcv, mmseg=mmseg, mmseg_derprop=mmseg_derprop)
    found = {name: str(package.__version__) for name, package in packages.items()}
    return {'python': platform.python_version(), **found, 'git': _revision()}


def machine(threads: int) -> dict[str, Any]:
    """Processor, cores that may be used, threads of a run and graphics processor."""
    cpu = platform.processor() or platform.machine()
    if osp.isfile('/proc/cpuinfo'):
        with open('/proc/cpuinfo') as file:
            names = re.findall(r'^model name\s*:\s*(.*)$', file.read(), re.MULTILINE)
        cpu = names[0] if names else cpu
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {'cpu': cpu, 'cores': cores(), 'threads': threads, 'gpu': gpu}


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def write_json(path: str, content: dict) -> None:
    """Writes a file that is whole or not there, whatever happens."""
    os.makedirs(osp.dirname(path), exist_ok=True)
    part = f'{path}.{os.getpid()}.part'
    with open(part, 'w') as file:
        json.dump(content, file, indent=1, allow_nan=False)
        file.write('\n')
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def log_entries(path: str, tail: int | None = None) -> list[dict[str, Any]]:
    """Lines of a log that are whole, with what in them is a number.

    Args:
        path (str): Of a ``scalars.json``.
        tail (int, optional): Bytes of its end that are read; all by default.

    Returns:
        list[dict[str, Any]]: Each with an integer ``step``.
    """
    with open(path, 'rb') as file:
        if tail is not None:
            file.seek(max(0, osp.getsize(path) - tail))
        lines = file.read().splitlines()
    entries = []
    for line in lines:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):  # cut off by a kill, or by the tail; or damaged
            continue
        if isinstance(entry, dict) and is_number(entry.get('step'), 0, whole=True):
            entries.append({key: value for key, value in entry.items() if type(value) in (int, float)})
    return entries


def _class_scores(path: str, metrics: list[dict]) -> list[dict]:
    """IoUs by network and class of each validation of an attempt, from the tables in its text log."""
    networks = list(dict.fromkeys(key.rpartition('/')[0] for entry in metrics for key in entry))
    folder = osp.dirname(osp.dirname(path))
    log = osp.join(folder, f'{osp.basename(folder)}.log')
    nothing: list[dict] = [{} for _ in metrics]
    if not metrics or not osp.isfile(log):
        return nothing
    with open(log, errors='replace') as file:
        tables = re.findall(r'per class results:\n.*\n((?:[+|].*[+|]\n)+)', file.read())
    if len(tables) < len(metrics) * len(networks):
        return nothing
    read = [_table(table) for table in tables]
    parts = (zip(networks, read[i * len(networks) :]) for i in range(len(metrics)))
    return [{network: table for network, table in part if table} for part in parts]


def _table(text: str) -> dict[str, float | None]:
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in text.split('\n') if line[:1] == '|']
    if not rows or 'IoU' not in rows[0]:
        return {}
    column = rows[0].index('IoU')
    try:
        return {row[0]: _number(float(row[column])) for row in rows[1:]}
    except (ValueError, IndexError):  # damaged
        return {}


def _number(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return float(f'{value:.6g}') if math.isfinite(value) else None


def _thin(points: list[list]) -> list[list]:
    """Evenly chosen points, the first and the last among them."""
    if len(points) <= MAX_POINTS:
        return points
    return [points[round(i * (len(points) - 1) / (MAX_POINTS - 1))] for i in range(MAX_POINTS)]


def _revision() -> str | None:
    def git(*arguments: str) -> str:
        command = ['git', '-C', ROOT, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if osp.realpath(git('rev-parse', '--show-toplevel')) != osp.realpath(ROOT):
            return None
        return git('rev-parse', 'HEAD') + ('+changes' if git('status', '--porcelain', '--untracked-files=no') else '')
    except (OSError, subprocess.CalledProcessError):
        return None
