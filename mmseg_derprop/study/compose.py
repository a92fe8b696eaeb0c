"""The final config of a run, and what tells it from another."""

from __future__ import annotations

import copy
import hashlib
import json
import os.path as osp
import tempfile
from functools import cache
from typing import Any

from mmengine.config import Config, ConfigDict

from ..utils.config import load_config, type_name
from .plan import Method, Run, Study, StudyError

NEEDED = ('model', 'train_dataloader', 'val_dataloader', 'val_evaluator', 'optim_wrapper', 'train_cfg', 'val_cfg')
SEMI_HOOKS = ('PseudoLabelHook', 'BrokenFilesHook')


def compose(study: Study, run: Run, data_root: str | None = None) -> Config:
    """Joins the parts that a study names for a run.

    Bases, data, schedule and method file are joined like the ``_base_`` of a config. Then the study's settings are
    merged, the method file's ``method`` wraps the model, and settings of stage, method and option are merged. The
    config is final but for ``load_from``.

    Raises:
        StudyError: If the parts do not fit, or settings have an unknown key.
    """
    stage, method = study.start if run.stage == 'start' else study.further, study.methods[run.method]
    assert stage is not None
    kind = 'semi' if method.config else 'labeled'
    if kind not in study.data:
        raise StudyError(f'The method {run.method} needs data.{kind}, which the study file does not have.')
    bases = tuple(part for part in (*study.bases, study.data[kind], stage.schedule, method.config) if part)
    config = copy.deepcopy(_join(bases, data_root))
    if missing := [key for key in NEEDED if not isinstance(config.get(key), dict)]:
        raise StudyError(f'{", ".join(bases)} must define {missing[0]}, but do not. Name a base that does.')
    _set_logs(config)
    _merge(config, study.settings, 'settings')
    if method.config:
        _wrap(config, method, study.splits[run.split])
    else:
        _make_supervised(config, study.splits[run.split])
    _merge(config, stage.settings, f'{run.stage}.settings')
    _merge(config, method.settings, f'methods.{run.method}.settings')
    _merge(config, study.options[run.option] if run.option else {}, f'options.{run.option}')
    config.randomness = dict(config.get('randomness') or {}, seed=run.seed)
    return config


@cache
def _join(bases: tuple[str, ...], data_root: str | None) -> Config:
    with tempfile.TemporaryDirectory() as folder:
        path = osp.join(folder, 'joined.py')
        with open(path, 'w') as file:
            file.write(f'_base_ = {list(bases)!r}\n')
        try:
            return load_config(path, {} if data_root is None else {'data_root': data_root})
        except (KeyError, OSError, ValueError) as error:  # KeyError: two bases define the same key
            raise StudyError(f'{", ".join(bases)} cannot be joined: {error}') from error


def _set_logs(config: Config) -> None:
    """Makes a run leave what a study reads: checkpoints, and scalars by iteration with the IoU of each class."""
    hooks = config.setdefault('default_hooks', ConfigDict())
    hooks.logger = dict(hooks.get('logger') or {'type': 'LoggerHook'}, log_metric_by_epoch=False)
    default = dict(interval=config.train_cfg.get('val_interval', 1000), max_keep_ckpts=2)
    # Resumes exactly, saves at a signal, and makes up for a validation that was cut off.
    hooks.checkpoint = dict(hooks.get('checkpoint') or default, type='ExactCheckpointHook', by_epoch=False)
    for option in ('save_best', 'out_dir', 'filename_tmpl'):
        hooks.checkpoint.pop(option, None)
    visualizer = config.setdefault('visualizer', ConfigDict(type='SegLocalVisualizer'))
    known = visualizer.get('vis_backends') or []
    if 'LocalVisBackend' not in map(type_name, known):
        visualizer.vis_backends = [*known, dict(type='LocalVisBackend')]
    config.log_processor = dict(config.get('log_processor') or {}, by_epoch=False)
    if type_name(config.val_evaluator) == 'IoUMetric':
        config.val_evaluator.type = 'UnroundedIoUMetric'


def _wrap(config: Config, method: Method, lists: dict) -> None:
    """Makes the segmentor semi-supervised."""
    if 'method' not in config:
        raise StudyError(f'{method.config} must define `method`, but does not, so it is not a method file.')
    config.model = ConfigDict(segmentor=config.model, **config.pop('method'))
    config.val_cfg.type = 'TeacherStudentValLoop'
    wrapper = config.optim_wrapper
    if wrapper.get('constructor', 'SemiOptimWrapperConstructor') != 'SemiOptimWrapperConstructor':
        wrapper.base_constructor = wrapper.constructor
    wrapper.constructor = 'SemiOptimWrapperConstructor'
    data, pipeline = config.train_dataloader.dataset, method.unlabeled_pipeline
    if pipeline and pipeline not in config:
        known = ', '.join(key for key in config if key.endswith('_pipeline'))
        raise StudyError(f'unlabeled_pipeline must be one of the data config ({known}), but is {pipeline}.')
    if pipeline:
        data.unlabeled.pipeline = config[pipeline]
    for part, ann_file in lists.items():
        data[part].ann_file = ann_file


def _make_supervised(config: Config, lists: dict) -> None:
    """Removes the hooks of semi-supervised runs, and gives labelled images in the order in which SemiSampler does."""
    config.custom_hooks = [hook for hook in config.get('custom_hooks') or [] if type_name(hook) not in SEMI_HOOKS]
    loader = config.train_dataloader
    loader.sampler = ConfigDict(type='LabeledSampler', num_labeled=loader.batch_size)
    if 'labeled' in lists:
        loader.dataset.ann_file = lists['labeled']


def _merge(config: Config, settings: dict[str, Any], what: str) -> None:
    try:
        for key, value in settings.items():
            part: Any = config
            for place in key.split('.')[:-1]:  # merging would make a misspelt one anew, which changes nothing
                part = part[int(place) if isinstance(part, list) else place]
            config.merge_from_dict({key: copy.deepcopy(value)})  # one by one: a nested one would hide dotted ones
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise StudyError(f'{what} must set options that the config has, but do not: {error!r}.') from error


def digest(config: Config, start: str | None = None) -> str:
    """What tells a final config, and that of its start, from others: 16 hexadecimal digits."""
    text = json.dumps([config.to_dict(), start], sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
