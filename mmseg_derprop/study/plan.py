"""What a study file asks for: its runs, their order and their names."""

from __future__ import annotations

import itertools
import os.path as osp
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from ..utils.options import is_number

KEYS = {
    'study': {
        'name', 'bases', 'data', 'settings', 'splits', 'seeds', 'start', 'further', 'methods', 'options', 'matrix',
        'seconds_per_iteration',
    },
    'data': {'labeled', 'semi'},
    'stage': {'method', 'schedule', 'settings'},
    'method': {'config', 'unlabeled_pipeline', 'settings'},
    'split': {'labeled', 'unlabeled'},
    'matrix': {'methods', 'options', 'splits', 'seeds'},
}  # fmt: skip
STAGES = ('start', 'further')


class StudyError(ValueError):
    """A study file, or what it names, is wrong; the message says what to do."""


@dataclass(frozen=True)
class Run:
    """One training run.

    Args:
        name (str): Unique in its study; also the name of its folder.
        stage (str): ``'start'`` or ``'further'``.
        method (str): Key of the study's methods.
        option (str, optional): Key of the study's options.
        split (str): Key of the study's splits.
        seed (int): Of weights, data order and augmentation.
        start (Run, optional): The run that this one goes on from.
    """

    name: str
    stage: str
    method: str
    option: str | None
    split: str
    seed: int
    start: Run | None = None


@dataclass
class Study:
    """A study file that was read and checked. Paths in it are absolute."""

    name: str
    bases: list[str]
    data: dict[str, str]
    splits: dict[str, dict[str, str]]
    seeds: list[int]
    methods: dict[str, dict[str, Any]]
    settings: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds_per_iteration: dict[str, float] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)

    def select(self, pattern: str) -> list[Run]:
        """The runs whose names hold a regular expression, and the starts that they need, in order.

        Raises:
            StudyError: If the expression is no such, or no name holds it.
        """
        try:
            chosen = {run for run in self.runs if re.search(pattern, run.name)}
        except re.error as error:
            raise StudyError(f'{pattern!r} is no regular expression: {error}.') from None
        if not chosen:
            names = ', '.join(run.name for run in self.runs[:6])
            raise StudyError(f'No run of the study has {pattern!r} in its name; names are like {names}.')
        chosen |= {run.start for run in chosen if run.start}
        return [run for run in self.runs if run in chosen]


def load_study(path: str) -> Study:
    """Reads a study file.

    Args:
        path (str): Of the YAML file; docs/study_runner.md describes it.

    Returns:
        Study: With its runs, starts first.

    Raises:
        StudyError: If the file cannot be read, or holds or names something unknown.
    """
    try:
        with open(path) as file:
            raw = yaml.safe_load(file)
    except OSError as error:
        raise StudyError(f'{path} cannot be read: {error.strerror}.') from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, or a date of month 13
        raise StudyError(f'{path} is no YAML: {error}') from None
    _check_keys(raw, 'study', 'the study file')
    for key in ('bases', 'data', 'splits', 'seeds', 'methods'):
        if not raw.get(key):
            raise StudyError(f'The study file has no {key}: docs/study_runner.md shows what it needs.')

    def absolute(name: object) -> str:
        if not isinstance(name, str):
            raise StudyError(f'{name!r} is no path, but bases, data, schedule and config of a study file are.')
        found = osp.normpath(osp.join(osp.dirname(osp.abspath(path)), name))
        if not osp.isfile(found):
            raise StudyError(f'{name} does not exist; paths in a study file count from its folder ({found}).')
        return found

    _check_keys(raw['data'], 'data', 'data')
    name = raw.get('name') or osp.splitext(osp.basename(path))[0]
    if not isinstance(name, str) or name in ('.', '..') or set('/\\\0') & set(name):
        raise StudyError(f'name is {name!r}, but it names a folder in work_dirs: it cannot be a path.')
    study = Study(
        name=name,
        bases=[absolute(base) for base in _list(raw['bases'], 'bases')],
        data={kind: absolute(base) for kind, base in raw['data'].items()},
        splits=raw['splits'],
        seeds=raw['seeds'],
        methods={
            name: {**_mapping(method or {}, f'the method {name}')}
            for name, method in _mapping(raw['methods'], 'methods').items()
        },
        settings=_settings(raw, 'settings'),
        options=_mapping(raw.get('options') or {}, 'options'),
        seconds_per_iteration=_mapping(raw.get('seconds_per_iteration') or {}, 'seconds_per_iteration'),
    )
    for stage in STAGES:
        if stage in raw:
            _check_keys(raw[stage], 'stage', stage)
            study.stages[stage] = {**raw[stage], 'settings': _settings(raw[stage], f'{stage}.settings')}
            if 'schedule' in raw[stage]:
                study.stages[stage]['schedule'] = absolute(raw[stage]['schedule'])
    for name, method in study.methods.items():
        _check_keys(method, 'method', f'the method {name}')
        _settings(method, f'methods.{name}.settings')
        if not isinstance(method.get('unlabeled_pipeline', ''), str):
            raise StudyError(f'The method {name} has unlabeled_pipeline {method["unlabeled_pipeline"]!r}: give a name.')
        if 'config' in method:
            method['config'] = absolute(method['config'])
        kind = 'semi' if 'config' in method else 'labeled'
        if kind not in study.data:
            raise StudyError(f'The method {name} needs data.{kind}, a config of data; the study file has none.')
    _check_values(study)
    study.runs = _runs(study, _list(raw.get('matrix') or [{'methods': list(study.methods)}], 'matrix'))
    return study


def _list(value: Any, what: str) -> list:
    if not isinstance(value, list):
        raise StudyError(f'{what} is {value!r}, but it must be a list.')
    return value


def _settings(part: dict, what: str) -> dict:
    return _mapping(part.get('settings') or {}, what)


def _mapping(value: Any, what: str) -> dict:
    if not isinstance(value, dict):
        raise StudyError(f'{what} is {value!r}, but it must be a mapping of names.')
    return value


def _check_keys(value: Any, kind: str, what: str) -> None:
    unknown = sorted(set(map(str, _mapping(value, what))) - KEYS[kind])
    if unknown:
        raise StudyError(f'{what} has {", ".join(unknown)}, but it can have {", ".join(sorted(KEYS[kind]))}.')


def _check_values(study: Study) -> None:
    for what, names in (('method', study.methods), ('option', study.options), ('split', study.splits)):
        for name in _mapping(names, f'{what}s'):
            if not isinstance(name, str):
                raise StudyError(f"The {what} {name!r} is no text: quote it ('1_64' is text, 1_64 the number 164).")
            if not re.fullmatch(r'[A-Za-z0-9][A-Za-z0-9.-]*(_[A-Za-z0-9.-]+)*', name):
                raise StudyError(f'The {what} {name!r} names a folder: letters, digits, and . - _ inside are allowed.')
    for name, split in study.splits.items():
        _check_keys(split, 'split', f'the split {name}')
        if not all(isinstance(path, str) for path in split.values()):
            raise StudyError(f'The split {name} has {split!r}, but lists are named by texts.')
    for name, option in study.options.items():
        _mapping(option, f'the option {name}')
    if not all(is_number(seed, 0, whole=True) for seed in _list(study.seeds, 'seeds')):
        raise StudyError(f'seeds is {study.seeds!r}, but it must be a list of integers from 0 on.')
    for name, seconds in study.seconds_per_iteration.items():
        if name not in study.methods or not is_number(seconds) or seconds <= 0:
            raise StudyError(f'seconds_per_iteration.{name} is {seconds!r}: give known methods positive numbers.')
    method = study.stages.get('start', {}).get('method')
    if 'start' in study.stages and method not in list(study.methods):
        raise StudyError(f'start.method is {method!r}, but methods are {", ".join(study.methods)}.')
    if 'method' in study.stages.get('further', {}):
        raise StudyError('further.method has no meaning: the matrix says which methods run.')


def _runs(study: Study, matrix: list[dict]) -> list[Run]:
    further: dict[str, Run] = {}
    starts: dict[str, Run] = {}
    for entry in matrix:
        _check_keys(entry, 'matrix', 'an entry of matrix')
        axes = {
            'methods': (entry.get('methods'), study.methods),
            'options': (entry.get('options', [None]), study.options),
            'splits': (entry.get('splits', list(study.splits)), study.splits),
            'seeds': (entry.get('seeds', study.seeds), study.seeds),
        }
        for axis, (names, known) in axes.items():
            if not isinstance(names, list) or not names:
                raise StudyError(f'An entry of matrix has {axis} = {names!r}, but it needs a list.')
            for name in names:
                if not (name is None and axis == 'options') and name not in list(known):
                    raise StudyError(f'matrix names {name!r}, but {axis} are {", ".join(map(str, known)) or "none"}.')
        chosen = [axes[axis][0] for axis in ('splits', 'seeds', 'methods', 'options')]
        for split, seed, method, option in itertools.product(*chosen):
            start = None
            if 'start' in study.stages:
                name = f'start_{split}_seed{seed}'
                start = starts.setdefault(name, Run(name, 'start', study.stages['start']['method'], None, split, seed))
            name = f'{method}+{option}' if option else method
            name += f'_{split}_seed{seed}'
            further[name] = Run(name, 'further', method, option, split, seed, start)
    clash = sorted(set(further) & set(starts))
    if clash:
        raise StudyError(f'Two runs are called {clash[0]}: give the method "start" another name.')
    return [*starts.values(), *further.values()]
