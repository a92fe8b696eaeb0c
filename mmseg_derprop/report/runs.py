"""Results of runs, as tools/study.py leaves them, and their statistics over seeds."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..datasets.outside import leaves

METRIC = 'mIoU'


@dataclass(frozen=True)
class Statistic:
    """Mean and spread of the values of some seeds.

    Attributes:
        mean (float): Of the values.
        spread (float | None): Their standard deviation or their mean's standard error; None of a single value.
        count (int): How many values.
    """

    mean: float
    spread: float | None
    count: int


def over_seeds(values: Collection[float]) -> Statistic | None:
    """Mean and standard deviation (of a sample: n - 1); None without values."""
    if not values:
        return None
    return Statistic(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def paired_difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> Statistic | None:
    """Mean, over the seeds that both have, of value minus baseline, and its standard error; None without such seeds."""
    found = over_seeds([values[seed] - baseline[seed] for seed in sorted(values.keys() & baseline.keys())])
    if found is None or found.spread is None:
        return found
    return Statistic(found.mean, found.spread / math.sqrt(found.count), found.count)


@dataclass
class Run:
    """One result file.

    Attributes:
        path (Path): Of the file.
        raw (dict): What it holds.
        label (str): Method and names of its options, ``METHOD+OPTION``; that of a common start says so.
        curves (dict[str, dict[int, float]]): mIoU in percent by network and iteration; the network of a run that has
            only one is ``''``.
        classes (dict[str, dict[str, float]]): IoU in percent by network and class, of the last validation.
        scalars (dict[str, list[tuple[int, float]]]): What the training log held; values that are no numbers are left
            out.
    """

    path: Path
    raw: dict[str, Any]
    label: str
    curves: dict[str, dict[int, float]]
    classes: dict[str, dict[str, float]]
    scalars: dict[str, list[tuple[int, float]]]

    @classmethod
    def read(cls, path: Path) -> Run:
        """Reads a result file.

        Raises:
            ValueError: If the file is no result, and why.
        """
        try:
            raw = json.loads(path.read_text())
        except (ValueError, RecursionError) as error:
            raise ValueError(f'it is no JSON ({error})') from error
        if not isinstance(raw, dict):
            raise ValueError(f'it holds a {type(raw).__name__}, not the result of a run')
        for key, kind in dict(method=str, split=str, seed=int, scores=list).items():
            if not isinstance(raw.get(key), kind):
                raise ValueError(f'{key} is {raw.get(key)!r}, but must be of type {kind.__name__}')
        if not isinstance(raw.get('iterations') or 0, (int, float)):
            raise ValueError(f'iterations is {raw["iterations"]!r}, but must be a number')
        try:
            label = '+'.join([raw['method'], *(raw.get('options') or {})])
            if raw.get('stage') == 'start':
                label = f'{label} (start)'
            curves, classes = _scores(raw['scores'])
            scalars = {
                key.rpartition('train/')[2]: [(int(i), float(v)) for i, v in points if _is_number(v)]
                for key, points in (raw.get('scalars') or {}).items()
            }
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f'its scores, options or scalars cannot be read ({type(error).__name__}: {error})'
            ) from error
        if not any(curves.values()):
            raise ValueError(f'it has no validation with {METRIC}')
        return cls(path, raw, label, curves, classes, scalars)

    @property
    def is_start(self) -> bool:
        """Whether other runs go on from this one."""
        return self.raw.get('stage') == 'start'

    @property
    def setting(self) -> tuple[str, str]:
        """Study and split: runs of one setting are compared."""
        return (str(self.raw.get('study') or ''), self.raw['split'])

    @property
    def seed(self) -> int:
        return self.raw['seed']

    @property
    def last_iteration(self) -> int:
        """Of the last validation that gave all networks a score."""
        return min(map(max, self.curves.values()))

    @property
    def finished(self) -> bool:
        """Whether the last iteration of the training was validated; so taken if the file does not say its number."""
        return self.last_iteration >= (self.raw.get('iterations') or 0)

    def last(self, network: str) -> float:
        curve = self.curves[network]
        return curve[max(curve)]

    def best(self, network: str) -> float:
        return max(self.curves[network].values())

    def place(self, key: str) -> Path | None:
        """Where ``work_dir`` or ``checkpoint`` lies, if it still does; in the file relative to the study's folder.

        A place outside of that folder is none: the config in it is a program.
        """
        given = self.raw.get(key)
        if not isinstance(given, str) or not given:
            return None
        folder = self.path.resolve().parent
        folders = [folder.parent, folder] if folder.name == 'results' else [folder]
        inside = [place / given for place in folders if not leaves(str(place / given), [str(place)])]
        return next((path for path in inside if path.exists()), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _scores(scores: list[dict]) -> tuple[dict[str, dict[int, float]], dict[str, dict[str, float]]]:
    curves: dict[str, dict[int, float]] = {}
    classes: dict[str, dict[str, float]] = {}
    for entry in sorted(scores, key=lambda entry: entry['iteration']):
        for key, value in entry.items():
            network, _, name = key.rpartition('/')
            if name == METRIC and _is_number(value):
                curves.setdefault(network, {})[int(entry['iteration'])] = float(value)
        classes = {
            network: {name: float(value) for name, value in values.items() if _is_number(value)}
            for network, values in (entry.get('classes') or {}).items()
        }
    return curves, classes


@dataclass
class Row:
    """Runs of one method with the same options in one setting, by seed."""

    label: str
    runs: dict[int, Run]

    @property
    def finished(self) -> dict[int, Run]:
        return {seed: run for seed, run in self.runs.items() if run.finished}

    @property
    def is_start(self) -> bool:
        return any(run.is_start for run in self.runs.values())

    @property
    def networks(self) -> list[str]:
        """Networks that the runs scored, the teacher first."""
        return sorted({network for run in self.runs.values() for network in run.curves}, reverse=True)

    def last(self, network: str) -> dict[int, float]:
        """mIoU of the last validation by seed, of finished runs."""
        return {seed: run.last(network) for seed, run in self.finished.items() if network in run.curves}

    def best(self, network: str) -> dict[int, float]:
        """Highest mIoU of any validation by seed, of finished runs."""
        return {seed: run.best(network) for seed, run in self.finished.items() if network in run.curves}

    def of_class(self, network: str, name: str) -> dict[int, float]:
        """IoU of a class at the last validation by seed, of finished runs."""
        found = {seed: run.classes.get(network, {}).get(name) for seed, run in self.finished.items()}
        return {seed: value for seed, value in found.items() if value is not None}


@dataclass
class Setting:
    """What is compared: the rows of one study and split.

    Attributes:
        study (str): Name, '' if unknown.
        split (str): Name.
        rows (list[Row]): The common start first, then the baseline, then by label.
        baseline (Row | None): What the others are compared with.
    """

    study: str
    split: str
    rows: list[Row]
    baseline: Row | None

    @property
    def title(self) -> str:
        return f'split {self.split} of {self.study}' if self.study else f'split {self.split}'

    @property
    def networks(self) -> list[str]:
        """Networks that any method has, the teacher first; ``['']`` if all have a single one."""
        return sorted({n for row in self.rows for n in row.networks if n}, reverse=True) or ['']

    @property
    def runs(self) -> list[Run]:
        return [run for row in self.rows for run in row.runs.values()]

    @property
    def classes(self) -> list[str]:
        """Names of all classes that have a score, in the order of the files."""
        return list(dict.fromkeys(name for run in self.runs for scores in run.classes.values() for name in scores))

    def baseline_network(self, network: str) -> str | None:
        """The baseline's network that a network is compared with: its namesake, or the baseline's first."""
        if self.baseline is None:
            return None
        own = self.baseline.networks
        return network if network in own else own[0]


def read_folder(folder: Path) -> tuple[list[Run], list[str]]:
    """Reads all results of a folder.

    Args:
        folder (Path): Of JSON files, or a study's, which has them in ``results``.

    Returns:
        tuple[list[Run], list[str]]: Runs in the order of their files' names, and notes on those that are no results.

    Raises:
        FileNotFoundError: If the folder has no JSON file.
    """
    inner = folder / 'results'
    paths = sorted((inner if inner.is_dir() else folder).glob('*.json'))
    if not paths:
        raise FileNotFoundError(f'{folder} has no *.json: give the folder of a study, or its results.')
    runs, notes = [], []
    for path in paths:
        try:
            runs.append(Run.read(path))
        except ValueError as error:
            notes.append(f'{path.name} is left out: {error}.')
    return runs, notes


def compare(runs: list[Run], baseline: str | None = None) -> tuple[list[Setting], list[str]]:
    """Groups runs by study and split, method and options.

    Args:
        runs (list[Run]): In any order.
        baseline (str, optional): Label of the row that others are compared with. By default the only one, of those
            that no other run starts from, that has a single network: that learns from labelled images alone.

    Returns:
        tuple[list[Setting], list[str]]: Settings in the order of their names, and notes on what is left out or mixed.

    Raises:
        ValueError: If no run has the label ``baseline``.
    """
    labels = sorted({run.label for run in runs})
    if baseline is not None and baseline not in labels:
        raise ValueError(f'no run is called {baseline}; there are {", ".join(labels)}')
    notes: list[str] = []
    groups: dict[tuple[str, str], dict[str, Row]] = {}
    for run in runs:
        row = groups.setdefault(run.setting, {}).setdefault(run.label, Row(run.label, {}))
        if run.seed in row.runs:
            first = row.runs[run.seed].path.name
            notes.append(f'{run.path.name} is left out: {first} is the same method, split and seed.')
            continue
        row.runs[run.seed] = run
        if not run.finished:
            notes.append(
                f'{run.path.name} is unfinished (validated up to iteration {run.last_iteration} of '
                f'{run.raw["iterations"]}): its curves are drawn thin, and no table counts it.'
            )
    settings = []
    for (study, split), rows in sorted(groups.items()):
        chosen = _baseline(rows, baseline)
        order = sorted(rows.values(), key=lambda row: (not row.is_start, row is not chosen, row.label))
        setting = Setting(study, split, order, chosen)
        settings.append(setting)
        if chosen is None:
            notes.append(f'{setting.title}: no baseline, so no differences. Name a row with --baseline.')
        notes += [f'{setting.title}: {note}' for note in _mixtures(setting)]
    return settings, notes


def _baseline(rows: dict[str, Row], label: str | None) -> Row | None:
    if label is not None:
        return rows.get(label)
    single = [row for row in rows.values() if not row.is_start and row.networks == ['']]
    return single[0] if len(single) == 1 else None


def _mixtures(setting: Setting) -> list[str]:
    """What differs between runs that are compared, and should not."""
    notes = []
    for row in setting.rows:
        lengths = sorted({run.last_iteration for run in row.finished.values()})
        if len(lengths) > 1:
            numbers = ', '.join(map(str, lengths))
            notes.append(f'the seeds of {row.label} ran for different numbers of iterations ({numbers}).')
        if len({json.dumps(run.raw.get('options'), sort_keys=True) for run in row.runs.values()}) > 1:
            notes.append(f'the seeds of {row.label} have different options.')
    for key, name in dict(versions='versions', machine='machines').items():
        kinds = {json.dumps(run.raw.get(key), sort_keys=True) for run in setting.runs}
        if len(kinds) > 1:
            notes.append(f'the runs come from {len(kinds)} different {name}.')
    return notes
