"""The config that makes an MMSegmentation config learn from unlabelled images too."""

from __future__ import annotations

import argparse
import os.path as osp
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, MODELS

from ..datasets import SplitDataset
from ..datasets.pipelines import crop_size_of
from ..datasets.split_dataset import supervised_parts
from ..models import SemiSegmentor
from ..models.data_preprocessor import check_crops
from ..models.decoding import deepest, feature_maps, image_channels
from ..models.teacher_student import classes_of
from ..utils.config import load_config, type_name
from ..utils.files import write_text
from .iterations import counts_epochs, in_iterations

BASES = 'mmseg_derprop::_base_'
FOLDER = Path(__file__).resolve().parents[1] / '.mim/configs/_base_/methods'
METHODS = sorted(path.stem for path in FOLDER.glob('*.py'))
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class SemiConfig:
    """What was chosen for a base.

    ``config`` is the base, without a file name if it was in pure Python style, ``schedule`` what
    :func:`in_iterations` changes in it, ``data`` are the arguments of SplitDataset, ``segmentor`` is an expression that
    names the segmentor in the config, ``classes`` are how many its heads must be given, ``model`` has no weights,
    ``shapes`` (channels, height, width) of each feature, and ``index`` is the feature along which labels propagate.
    """

    base: str
    method: str
    config: Config
    schedule: dict[str, Any]
    data: dict[str, Any]
    dataset: SplitDataset
    segmentor: str
    classes: int | None
    model: SemiSegmentor
    shapes: list[Shape]
    index: int | None

    @property
    def count(self) -> int:
        """Labelled images in a batch, and unlabelled ones: as many as the base has; CutMix needs two."""
        return max(2, self.config.train_dataloader.get('batch_size', 2))

    @property
    def iterations(self) -> int:
        """How many training takes."""
        return self.schedule.get('train_cfg', self.config.train_cfg)['max_iters']

    @property
    def length(self) -> str:
        """How long training takes, and what that was in epochs."""
        epochs = f' in place of {self.config.train_cfg.max_epochs} epochs' if self.schedule else ''
        return f'{self.iterations} iterations{epochs}'

    def summary(self) -> str:
        """Two lines: what it learns from, and how."""
        length = f', {self.length}' if self.schedule else ''
        images = f'{self.dataset.num_labeled} labelled and {self.dataset.num_unlabeled} unlabelled images'
        height, width = self.data['crop_size']
        return (
            f'{self.base} learns from {images} with the method {self.method}.\n'
            f'Batches of {self.count} + {self.count} images, crops of {height}x{width}{length}.'
        )

    def named_base(self, out: str) -> str | None:
        """Where a base in pure Python style is written again with names beside the file ``out``."""
        return f'{osp.splitext(out)[0]}_base.py' if self.config.filename is None else None

    def write(self, out: str) -> str:
        """Writes the config, and its base again if need be; returns its lines."""
        text, named = self.text(out), self.named_base(out)
        if named:
            write_text(named, self.config.pretty_text)
        write_text(out, text)
        return text

    def text(self, out: str) -> str:
        """The lines of the config, as they must be in the file ``out``."""
        base = self.named_base(out) or self.base
        base = base if '::' in base else osp.relpath(base, osp.dirname(osp.abspath(out)))
        constructor = self.config.optim_wrapper.get('constructor')
        base_constructor = f', base_constructor={constructor!r}' if constructor else ''
        classes = f', num_classes={self.classes}' if self.classes else ''
        ours = [] if 'semi_hooks' in self.config else [f"    '{BASES}/semi_hooks.py',"]  # a base may be of this package
        own_hooks = '*_base_.custom_hooks, ' if ours and self.config.get('custom_hooks') else ''
        channels = ', '.join(str(shape[0]) for shape in self.shapes)
        head = f"model['propagation_head'].update(in_index={self.index})  # of features of {channels} channels"
        lines = [
            # The import tells mmengine where this package's configs lie, whatever tool reads the config.
            "_base_ = __import__('mmseg_derprop') and [",
            f'    {base!r},',
            f"    '{BASES}/methods/{self.method}.py',",
            *ours,
            ']',
            f'model = dict(_base_.method, _delete_=True, segmentor={self.segmentor}{classes})',
            *([] if self.index is None else [head]),
            'train_dataloader = dict(',
            '    _base_.train_dataloader,',
            '    _delete_=True,',
            f'    batch_size={2 * self.count},',
            f"    sampler=dict(type='SemiSampler', num_labeled={self.count}, num_unlabeled={self.count}),",
            "    collate_fn=dict(type='semi_collate'),",
            '    dataset=dict(',
            "        type='SplitDataset',",
            '        supervised=_base_.train_dataloader.dataset,',
            *(f'        {key}={value!r},' for key, value in self.data.items()),
            '    ),',
            ')',
            f"optim_wrapper = dict(constructor='SemiOptimWrapperConstructor'{base_constructor})",
            *self._schedule_lines(),
            *(["val_cfg = dict(type='TeacherStudentValLoop')"] if self.config.get('val_cfg') else []),
            f'default_hooks = dict({self._hooks()})',
            f'custom_hooks = [{own_hooks}*_base_.semi_hooks]',
            *(['log_processor = dict(by_epoch=False)'] if self.schedule else []),
        ]
        return '\n'.join(lines) + '\n'

    def _schedule_lines(self) -> list[str]:
        if not self.schedule:
            return []
        schedulers = [f'    dict({_arguments(one)}),' for one in self.schedule['param_scheduler']]
        return [
            f'train_cfg = dict(_delete_=True, {_arguments(self.schedule["train_cfg"])})  # {self.length}',
            *(['param_scheduler = [', *schedulers, ']'] if schedulers else []),
        ]

    def _hooks(self) -> str:
        """The base's checkpoint hook resumes exactly."""
        base = self.config.get('default_hooks', {}).get('checkpoint', {})
        settings: dict[str, Any] = {'type': 'ExactCheckpointHook'}
        if not isinstance(base, dict):  # MMEngine joins no dict to the None of a hook that is switched off
            base, settings['_delete_'] = {}, True
        if base.get('by_epoch') is not False:
            settings['by_epoch'] = False
        hooks = f'checkpoint=dict({_arguments(settings | self.schedule.get("checkpoint", {}))})'
        return hooks + (f', logger=dict({_arguments(self.schedule["logger"])})' if self.schedule else '')


def _arguments(options: dict) -> str:
    return ', '.join(f'{key}={value!r}' for key, value in options.items())


def make_semi_config(
    base: str,
    unlabeled: Sequence[str],
    labeled: str | None = None,
    method: str | None = None,
    crop_size: Sequence[int] | None = None,
    transforms: Sequence[str] = (),
    options: dict | None = None,
) -> SemiConfig:
    """Looks at a base's data, and builds its model without weights.

    The base is the config of a segmentor, a file or ``mmseg::path``, into which the options are merged. The other
    arguments are those of the command line, which :func:`add_arguments` describes.

    Raises:
        ValueError: If the base, its data or the paths cannot be used; the message says what to do.
    """
    if labeled is not None and not osp.isfile(labeled):
        raise ValueError(f'--labeled must be a list of the labelled images, an id a line, but {labeled} is no file.')
    if missing := [path for path in unlabeled if not osp.exists(path)]:
        raise ValueError(f'--unlabeled must be a folder of images or a list of ids, but {missing[0]} does not exist.')
    config, method = read_base(base, options), method or 'aligned_teacher'
    init_default_scope(config.get('default_scope') or 'mmseg')
    try:
        schedule, loader = {}, config.train_dataloader
        if counts_epochs(config):
            schedule = in_iterations(config, ceil(len(DATASETS.build(loader.dataset)) / loader.get('batch_size', 1)))
        own = dict(transforms=dict(entry.partition('=')[::2] for entry in transforms)) if transforms else {}
        data, dataset = _build_data(config, unlabeled, labeled, crop_size, own)
        known, found = dataset.metainfo.get('classes'), classes_of(config.model.get('decode_head'))
        classes = len(known) if known and found not in (None, len(known)) else None  # to give to the heads
        segmentor = _resize_padding(config, crop_size)
        model, shapes = _build_model(config, method, classes, data['crop_size'])
        if model.branches[1:] != ('weak', 'strong'):
            data['branches'] = model.branches[1:]
        index = None if model.propagation_head is None else deepest(shapes)
        return SemiConfig(base, method, config, schedule, data, dataset, segmentor, classes, model, shapes, index)
    except (OSError, ValueError) as error:
        raise ValueError(f'{base}: {error}') from error
    except (AttributeError, IndexError, KeyError, TypeError) as error:  # parts of any kind
        raise ValueError(f'{base} is no config of a segmentor: {type(error).__name__}: {error}') from error


def add_arguments(parser: argparse._ActionsContainer, required: bool) -> None:
    """Adds the options of a tool that makes a config semi-supervised, ``--unlabeled`` among them."""
    parser.add_argument('--labeled', help="labelled images, a list like the base's ann_file (default: all of them)")
    unlabeled = 'list of unlabelled images in the same folders, or a folder of images; or several of them'
    parser.add_argument('--unlabeled', required=required, nargs='+', help=unlabeled)
    parser.add_argument('--method', choices=METHODS, help='how to learn from them (default: aligned_teacher)')
    parser.add_argument('--crop-size', type=int, nargs=2, metavar=('H', 'W'), help="by default the base's crop")
    parser.add_argument('--transforms', nargs='+', default=[], metavar='NAME=KIND', help='for your own: both, ...')


def read_base(path: str, options: dict | None = None) -> Config:
    """Reads a config and checks that it is whole and trains a plain segmentor.

    Raises:
        ValueError: If it does not.
    """
    package = path.partition('::')[0]
    if '::' in path and package not in MODULE2PACKAGE:
        raise ValueError(f'{path}: there is no package {package} with configs; use mmseg::path or a file')
    try:
        config = load_config(path, options)
    except FileNotFoundError as error:
        raise ValueError(f'{path}: {error}') from None
    if _has_classes(dict(config.items())):  # MMEngine's pure Python style, which no other can inherit
        config = Config(Config.fromstring(config.pretty_text, '.py').to_dict())
    needed = ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper')
    if missing := [key for key in needed if not config.get(key)]:
        raise ValueError(f'{path} has no {", ".join(missing)}: give a whole config, one that trains by itself')
    if 'method' in config or type_name(config.model) == 'SemiSegmentor':
        text = 'must be the config of a plain segmentor, but is semi-supervised already, or has a key "method"'
        raise ValueError(f'{path} {text}. Train it as it is.')
    return config


def _has_classes(part: Any) -> bool:
    """Whether a config names classes by themselves."""
    if isinstance(part, dict):
        return any(map(_has_classes, part.values()))
    return any(map(_has_classes, part)) if isinstance(part, (list, tuple)) else isinstance(part, type)


def _build_data(
    config: Config, unlabeled: Sequence[str], labeled: str | None, crop_size: Sequence[int] | None, own: dict
) -> tuple[dict, SplitDataset]:
    """The training data: what the config says of them, and the data set."""
    parts = supervised_parts(config.train_dataloader.dataset)
    roots = {part.get('data_root') for part in parts}
    root = roots.pop() if len(roots) == 1 else ''
    size = crop_size or crop_size_of(parts[0].get('pipeline') or [])
    size = size or (config.model.get('data_preprocessor') or {}).get('size')
    if size is None:
        raise ValueError('there is no RandomCrop that would tell the crop size: give --crop-size H W')
    others = [_relative(path, root) for path in unlabeled]
    settings: dict[str, Any] = {} if labeled is None else dict(labeled=_relative(labeled, root))
    settings |= dict(unlabeled=others[0] if len(others) == 1 else others, crop_size=tuple(size), **own)
    supervised = config.train_dataloader.dataset
    return settings, DATASETS.build(dict(type='SplitDataset', supervised=supervised, **settings))


def _relative(path: str, root: str | None) -> str:
    """A path as a data set takes it that has this data_root."""
    path = osp.abspath(path)
    return osp.relpath(path, root) if root and Path(path).is_relative_to(osp.abspath(root)) else path


def _resize_padding(config: Config, crop_size: Sequence[int] | None) -> str:
    """Fits the size to which the base's data_preprocessor pads to a crop size that was asked for.

    Changes the config, and returns what names the segmentor in the config that is written.
    """
    preprocessor = config.model.get('data_preprocessor') or {}
    if not crop_size or preprocessor.get('size') in (None, tuple(crop_size)):
        return '_base_.model'
    size = preprocessor['size'] = tuple(crop_size)
    return f'dict(_base_.model, data_preprocessor=dict(_base_.model.data_preprocessor, size={size}))'


def _build_model(
    config: Config, method: str, classes: int | None, crop_size: tuple[int, int]
) -> tuple[SemiSegmentor, list[Shape]]:
    """The semi-supervised model, and (channels, height, width) of each feature of a crop.

    It has no weights and, where its operators allow it, takes no memory.
    """
    parts = load_config(f'{BASES}/methods/{method}.py').method
    settings = dict(parts, segmentor=_without_weights(config.model.to_dict()), num_classes=classes)
    if 'data_preprocessor' in config:
        settings['data_preprocessor'] = config.data_preprocessor
    for device in ('meta', 'cpu'):
        try:
            with torch.device(device), torch.no_grad():
                model = MODELS.build(settings)
                check_crops({'crops': [crop_size]}, model.data_preprocessor.base)
                image = torch.zeros(1, image_channels(model.student), *crop_size)
                features = revert_sync_batchnorm(model.student).eval().extract_feat(image)
                return model, [(f.shape[1], f.shape[2], f.shape[3]) for f in feature_maps(features)]
        except (TypeError, ValueError, RuntimeError, KeyError, AssertionError) as error:
            reason = error
    raise ValueError(reason)


def _without_weights(part: Any) -> Any:
    """A model's config without what would load weights."""
    if isinstance(part, dict):
        kept = {key: _without_weights(value) for key, value in part.items() if key != 'init_cfg'}
        switch = part.get('pretrained')  # a path, or as timm has it whether to load
        return kept | ({'pretrained': False if isinstance(switch, bool) else None} if 'pretrained' in part else {})
    return [_without_weights(value) for value in part] if isinstance(part, list) else part
