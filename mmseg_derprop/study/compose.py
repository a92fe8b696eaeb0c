"""The final config of a run, and what tells it from another."""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import os.path as osp
import tempfile
from collections.abc import Iterable
from functools import cache
from typing import Any

import mmseg.registry
from mmengine.config import Config, ConfigDict
from mmengine.registry import Registry, init_default_scope
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from ..utils.config import load_config
from .plan import Run, Study, StudyError


def compose(study: Study, run: Run, data_root: str | None = None) -> Config:
    """Joins the parts that a study names for a run.

    Bases, data, schedule and method file are joined as the ``_base_`` of a config; the study's settings are merged into
    it; a method file's ``method`` wraps the model; then follow the settings of stage, method and option.

    Args:
        study (Study): The study.
        run (Run): One of its runs.
        data_root (str, optional): Where the data lie, if not where the data config says.

    Returns:
        Config: Final but for ``load_from``.

    Raises:
        StudyError: If the parts do not fit, or settings have an unknown key.
    """
    stage, method = study.stages.get(run.stage, {}), study.methods[run.method]
    semi = 'config' in method
    bases = [*study.bases, study.data['semi' if semi else 'labeled']]
    bases += [part for part in (stage.get('schedule'), method.get('config')) if part]
    config = copy.deepcopy(_join(tuple(bases), data_root))
    for key in ('model', 'train_dataloader', 'val_dataloader', 'optim_wrapper', 'train_cfg', 'val_cfg'):
        if not isinstance(config.get(key), dict):
            raise StudyError(f'{", ".join(bases)} define no {key}: name a base, data config or schedule that does.')
    _prepare(config)
    _merge(config, study.settings, 'settings')
    data = config.train_dataloader.dataset
    lists = study.splits[run.split]
    if semi:
        if 'method' not in config:
            raise StudyError(f'{method["config"]} defines no `method`, so it is no method file.')
        config.model = ConfigDict(segmentor=config.model, **config.pop('method'))
        config.val_cfg.type = 'TeacherStudentValLoop'
        wrapper = config.optim_wrapper
        if wrapper.get('constructor', 'SemiOptimWrapperConstructor') != 'SemiOptimWrapperConstructor':
            wrapper.base_constructor = wrapper.constructor
        wrapper.constructor = 'SemiOptimWrapperConstructor'
        if 'unlabeled_pipeline' in method:
            data.unlabeled.pipeline = _pipeline(config, method['unlabeled_pipeline'])
        data.labeled.ann_file = lists.get('labeled', data.labeled.ann_file)
        data.unlabeled.ann_file = lists.get('unlabeled', data.unlabeled.ann_file)
    else:
        # The order in which SemiSampler gives labelled images.
        config.train_dataloader.sampler = ConfigDict(
            type='LabeledSampler', num_labeled=config.train_dataloader.batch_size
        )
        data.ann_file = lists.get('labeled', data.ann_file)
    _merge(config, stage.get('settings') or {}, f'{run.stage}.settings')
    _merge(config, method.get('settings') or {}, f'methods.{run.method}.settings')
    if run.option:
        _merge(config, study.options[run.option], f'options.{run.option}')
    config.randomness = dict(config.get('randomness') or {}, seed=run.seed)
    return config


def digest(config: Config, start: str | None = None) -> str:
    """What tells a final config from another: 16 hexadecimal digits.

    Args:
        config (Config): As ``compose`` gives it; where its data lie does not count.
        start (str, optional): Digest of the run that it goes on from.

    Returns:
        str: Equal for equal configs.
    """
    values = config.to_dict()
    root = values.pop('data_root', None)
    values.pop('load_from', None)

    def plain(part: Any) -> Any:
        if isinstance(part, dict):
            return {str(k): None if k == 'data_root' and v == root else plain(v) for k, v in part.items()}
        return [plain(v) for v in part] if isinstance(part, (list, tuple)) else part

    text = json.dumps([plain(values), start], sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def missing_data(config: Config) -> list[str]:
    """Folders and lists that the data sets of a config name and that do not exist."""
    train = config.train_dataloader.dataset
    sources = [train.labeled, train.unlabeled] if 'labeled' in train else [train]
    found = []
    for source in [*sources, config.val_dataloader.dataset]:
        root, lists = source.get('data_root') or '', source.get('ann_file') or ''
        if root and not osp.isdir(root):
            found.append(root)
        elif lists and not osp.exists(osp.join(root, lists)):
            found.append(osp.join(root, lists))
    return list(dict.fromkeys(found))


@cache
def _join(bases: tuple[str, ...], data_root: str | None) -> Config:
    with tempfile.TemporaryDirectory() as folder:
        path = osp.join(folder, 'joined.py')
        with open(path, 'w') as file:
            file.write(f'_base_ = {list(bases)!r}\n')
        try:
            return load_config(path, {} if data_root is None else {'data_root': data_root})
        except KeyError as error:  # two bases define the same key
            raise StudyError(f'{", ".join(bases)} cannot be joined: {error}') from error


def _prepare(config: Config) -> None:
    """Makes a run leave what a study reads: checkpoints, and a log of scalars by iteration."""
    if config.train_cfg.get('type') != 'IterBasedTrainLoop':
        raise StudyError(f'train_cfg.type is {config.train_cfg.get("type")}, but a study needs IterBasedTrainLoop.')
    hooks = config.setdefault('default_hooks', ConfigDict())
    hooks.logger = dict(hooks.get('logger') or {'type': 'LoggerHook'}, log_metric_by_epoch=False)
    default = dict(interval=config.train_cfg.get('val_interval', 1000), max_keep_ckpts=1)
    # Goes on exactly, saves at a signal, and makes up for a validation that was cut off.
    hooks.checkpoint = dict(hooks.get('checkpoint') or default, type='ExactCheckpointHook', by_epoch=False)
    hooks.checkpoint.pop('save_best', None)
    config.log_processor = dict(config.get('log_processor') or {}, by_epoch=False)


def _pipeline(config: Config, name: str) -> list:
    if name not in config:
        known = ', '.join(key for key in config if key.endswith('_pipeline'))
        raise StudyError(f'unlabeled_pipeline is {name}, but the data config has {known}.')
    return config[name]


def _merge(config: Config, settings: dict[str, Any], what: str) -> None:
    for key in settings:
        _check_setting(config, str(key), what)
    try:
        config.merge_from_dict(copy.deepcopy(settings))
    except (TypeError, KeyError) as error:  # a value of another kind than the config's
        raise StudyError(f'{what} cannot be merged into the config: {error}') from error


def _check_setting(config: Config, key: str, what: str) -> None:
    """A misspelt key would be merged silently and change nothing."""
    *places, last = key.split('.')
    part: Any = config
    for place in places:
        if isinstance(part, (list, tuple)) and place.isdigit() and int(place) < len(part):
            part = part[int(place)]
        elif isinstance(part, dict | Config) and place in part:
            part = part[place]
        else:
            raise StudyError(f'{what} sets {key}, but the config has no {place}: {_names(part)}.')
    if isinstance(part, (list, tuple)):
        if not last.isdigit() or int(last) >= len(part):
            raise StudyError(f'{what} sets {key}, but the list has the places 0 to {len(part) - 1}.')
    elif not isinstance(part, dict | Config):
        raise StudyError(f'{what} sets {key}, but {".".join(places)} is {part!r}, which holds nothing.')
    elif last not in part:
        known = _accepted(key, part)
        if known is not None and last not in known:
            raise StudyError(f'{what} sets {key}, which nothing reads: {_names(part, known)}.')


def _names(part: Any, more: Iterable[str] = ()) -> str:
    if not isinstance(part, dict | Config):
        return f'it is {part!r} there'
    return f'known are {", ".join(sorted({*map(str, part), *more}))}'


def _accepted(key: str, part: dict) -> set[str] | None:
    """Keys that a part may have besides those it has; None if any, or if that cannot be known."""
    place = key.rpartition('.')[0]
    readers = {'': Runner, 'randomness': Runner.set_randomness}
    readers |= {f'{name}_dataloader': DataLoader for name in ('train', 'val', 'test')}
    if place in readers:
        return _parameters(readers[place])
    if 'type' not in part:
        return None
    init_default_scope('mmseg')
    registries = [value for value in vars(mmseg.registry).values() if isinstance(value, Registry)]
    found = next((cls for registry in registries if (cls := registry.get(part['type'])) is not None), None)
    known = _parameters(found) if inspect.isclass(found) else None
    if known is not None and place == 'optim_wrapper':
        known |= {'constructor', 'base_constructor', 'paramwise_cfg'}
    return known


def _parameters(reader: Any) -> set[str] | None:
    """Arguments of a function, or of a class and of those bases that it hands its keywords on to."""
    known: set[str] = set()
    chain = (
        [vars(c)['__init__'] for c in reader.__mro__ if '__init__' in vars(c)] if inspect.isclass(reader) else [reader]
    )
    for function in chain:
        parameters = inspect.signature(function).parameters
        known |= set(parameters)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return known
    return None
