"""The study file: what it may hold, and the runs that it asks for."""

from __future__ import annotations

import itertools
import os.path as osp
import re
import reprlib
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator


class StudyError(ValueError):
    """A study file, or what it names, is wrong; the message says what to do."""


def _resolve(path: str, info: ValidationInfo) -> str:
    """Paths count from the study file's folder; ``package::path`` is a config that a package carries."""
    return path if '::' in path else osp.normpath(osp.join((info.context or {})['folder'], path))


# Names become parts of file names.
Name = Annotated[str, Field(pattern=r'^[A-Za-z0-9][A-Za-z0-9.-]*(_[A-Za-z0-9.-]+)*$')]
ConfigPath = Annotated[str, AfterValidator(_resolve)]
Seed = Annotated[int, Field(ge=0)]
Settings = dict[str, Any]
AnyStudy = TypeVar('AnyStudy', bound='StudyFile')


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra='forbid')


class Stage(_Part):
    """What all runs of a stage have in common."""

    schedule: ConfigPath | None = None
    settings: Settings = {}


class Start(Stage):
    """The stage that makes the checkpoints from which the others continue."""

    method: str = ''


class Method(_Part):
    """A method file whose ``method`` wraps the network; without one, supervised training."""

    config: ConfigPath | None = None
    unlabeled_pipeline: str | None = None
    settings: Settings = {}


class Entry(_Part):
    """All combinations of these; None for splits and seeds stands for all."""

    methods: list[str] = Field(min_length=1)
    options: list[str | None] = Field(default=[None], min_length=1)
    splits: list[str] | None = None
    seeds: list[Seed] | None = None


@dataclass(frozen=True)
class Run:
    """One training run; ``start`` is the run whose checkpoint it continues from."""

    name: str
    stage: str
    method: str
    option: str | None
    split: str
    seed: int
    start: Run | None = None


class StudyFile(_Part):
    """What a study file may hold; docs/study_runner.md describes the keys."""

    base: ConfigPath | None = Field(None, alias='_base_')
    bases: list[ConfigPath] = []
    data: dict[Literal['labeled', 'semi'], ConfigPath] = {}
    splits: dict[Name, dict[Literal['labeled', 'unlabeled'], str]] = {}
    seeds: list[Seed] = []
    methods: dict[Name, Method] = {}
    settings: Settings = {}
    start: Start | None = None
    further: Stage = Stage()
    options: dict[Name, Settings] = {}
    matrix: list[Entry] | None = Field(None, min_length=1)
    seconds_per_iteration: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = {}


class Study(StudyFile):
    """A study file with what it inherits, which together have all that is needed."""

    @model_validator(mode='after')
    def _check_names(self) -> Study:
        needed = {key: getattr(self, key) for key in ('bases', 'data', 'splits', 'seeds', 'methods')}
        needed['start.method'] = self.start is None or self.start.method
        if missing := [key for key, value in needed.items() if not value]:
            raise ValueError(f'{", ".join(missing)} must be given, here or by a _base_')
        if 'start' in self.methods:
            raise ValueError('a method is called start, as the runs that others continue from: give it another name')
        entries = [*(self.matrix or []), Entry(methods=[*self.methods, *self.seconds_per_iteration])]
        entries += [Entry(methods=[self.start.method])] if self.start else []
        for entry, axis in itertools.product(entries, ('methods', 'options', 'splits', 'seeds')):
            known = [None, *getattr(self, axis)]
            if unknown := [name for name in getattr(entry, axis) or [] if name not in known]:
                raise ValueError(f'{axis} has no {unknown[0]!r}, but only {", ".join(map(str, known[1:]))}')
        return self

    @property
    def runs(self) -> list[Run]:
        """All runs, starts first."""
        runs: dict[str, Run] = {}
        for entry in self.matrix or [Entry(methods=list(self.methods))]:
            splits, seeds = entry.splits or list(self.splits), entry.seeds or self.seeds
            for split, seed, method, option in itertools.product(splits, seeds, entry.methods, entry.options):
                suffix, start = f'_{split}_seed{seed}', None
                if self.start:
                    start = Run(f'start{suffix}', 'start', self.start.method, None, split, seed)
                    runs[start.name] = start
                name = (f'{method}+{option}' if option else method) + suffix
                run = Run(name, 'further', method, option, split, seed, start)
                if runs.setdefault(name, run) != run:
                    raise StudyError(f'Two runs would be called {name}: rename one of the methods, options or splits.')
        return sorted(runs.values(), key=lambda run: run.stage != 'start')

    def select(self, pattern: str = '', index: int | None = None) -> list[Run]:
        """Runs whose names match a regular expression, or one of these by its index, each behind its start."""
        try:
            chosen = [run for run in self.runs if re.search(pattern, run.name)]
        except re.error as error:
            raise StudyError(f'--only must be a regular expression, but {pattern!r} is none: {error}.') from None
        starts = {run.start for run in chosen}
        found = [run for run in self.runs if run in chosen or run in starts]
        if not found:
            raise StudyError(f'--only matches no run: {pattern!r}. Names are like {self.runs[-1].name}.')
        if index is None:
            return found
        if not 0 <= index < len(found):
            raise StudyError(f'--index must be from 0 to {len(found) - 1}, but is {index}.')
        return [run for run in (found[index].start, found[index]) if run]


def load_study(path: str) -> Study:
    """Reads and checks a study file; ``mmseg_derprop::studies/NAME.yaml`` is one of this package.

    Raises StudyError if it cannot be read, or with each key that is wrong and its value.
    """
    return _check(Study, _read(path, []), f'{path}, with what it inherits,')


def _read(path: str, heirs: list[str]) -> dict[str, Any]:
    """The content of a file over that of its ``_base_``, with absolute paths."""
    if path.startswith('mmseg_derprop::'):
        path = osp.join(osp.dirname(__file__), '..', '.mim', 'configs', path.partition('::')[2])
    path = osp.abspath(path)
    if path in heirs:
        raise StudyError(f'{path} inherits from itself: {" < ".join([path, *reversed(heirs)])}. Name another _base_.')
    try:
        with open(path, encoding='utf-8') as file:
            content = yaml.safe_load(file)
    except (OSError, yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, or a date of month 13
        heir = f', the _base_ of {heirs[-1]},' if heirs else ''
        raise StudyError(f'{path}{heir} must be a YAML file, but cannot be read: {error}') from None
    part = _check(StudyFile, content or {}, path, osp.dirname(path))
    own = part.model_dump(exclude_unset=True, exclude={'base'})
    return _merge(_read(part.base, [*heirs, path]), own) if part.base else own


def _merge(base: Any, own: Any) -> Any:
    """Dicts over dicts, unless they say ``_delete_``; what the heir has comes last, as settings are merged in order."""
    if not (isinstance(base, dict) and isinstance(own, dict)) or own.get('_delete_'):
        return own
    kept = {key: value for key, value in base.items() if key not in own}
    return {**kept, **{key: _merge(base.get(key), value) for key, value in own.items()}}


def _check(kind: type[AnyStudy], content: Any, what: str, folder: str = '') -> AnyStudy:
    try:
        return kind.model_validate(content, context={'folder': folder})
    except ValidationError as error:
        wrong = [f'{what} is wrong; docs/study_runner.md lists what it may hold.']
        for e in error.errors():
            given = f'{".".join(map(str, e["loc"]))} is {reprlib.repr(e["input"])}: ' if e['loc'] else ''
            wrong.append(f'{given}{e["msg"].removeprefix("Value error, ")}.')
        raise StudyError('\n  '.join(wrong)) from None
