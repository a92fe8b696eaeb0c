"""Writes the config that makes an MMSegmentation config learn from unlabelled images too.

    python tools/semi_config.py --base my_config.py --labeled labeled.txt --unlabeled FOLDER_OR_LIST --out semi.py

The base is any config of a segmentor, a file or ``mmseg::path``. The tool looks at its data, builds its model without
weights, says what it found, and writes a few lines, which are meant to be read and edited.
"""

from __future__ import annotations

import argparse
import os.path as osp
import re
import shlex
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.device import get_device
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, MODELS

import mmseg_derprop
from mmseg_derprop.datasets import SplitDataset
from mmseg_derprop.datasets.pipelines import crop_size_of
from mmseg_derprop.datasets.split_dataset import supervised_parts
from mmseg_derprop.models import SemiSegmentor
from mmseg_derprop.models.data_preprocessor import check_crops
from mmseg_derprop.models.decoding import MANY_POSITIONS, decode, deepest, feature_maps, image_channels
from mmseg_derprop.models.segmentors import FAILURES
from mmseg_derprop.models.teacher_student import classes_of
from mmseg_derprop.utils.config import load_config, type_name

BASES = 'mmseg_derprop::_base_'
METHODS = sorted(
    path.stem for path in (Path(mmseg_derprop.__file__).parent / '.mim/configs/_base_/methods').glob('*.py')
)

Shape = tuple[int, int, int]


class Found(NamedTuple):
    """What the base's data and model are.

    ``data`` are the arguments of SplitDataset, ``segmentor`` is an expression that names the segmentor in the config,
    ``classes`` are how many its heads must be given, ``shapes`` (channels, height, width) of each feature, ``index``
    is the feature along which labels propagate, and ``seconds`` about those of an iteration, None if unknown.
    """

    data: dict[str, Any]
    dataset: SplitDataset
    segmentor: str
    classes: int | None
    num_classes: int
    shapes: list[Shape]
    index: int | None
    seconds: float | None


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Make an MMSegmentation config semi-supervised')
    parser.add_argument('--base', required=True, help='config of a segmentor, a file or mmseg::path')
    parser.add_argument('--labeled', required=True, help="list of labelled images as the base's ann_file is written")
    parser.add_argument(
        '--unlabeled',
        required=True,
        nargs='+',
        help='list of unlabelled images in the same folders, or a folder of images; or several of them',
    )
    parser.add_argument('--out', required=True, help='the config to write')
    parser.add_argument(
        '--method', choices=METHODS, default='aligned_teacher', help='how to learn from them (default: %(default)s)'
    )
    parser.add_argument('--crop-size', type=int, nargs=2, metavar=('H', 'W'), help="by default the base's crop")
    parser.add_argument('--transforms', nargs='+', default=[], metavar='NAME=KIND', help='for your own: both, ...')
    parser.add_argument('--force', action='store_true', help='overwrite --out')
    args = parser.parse_args()
    if '::' not in args.base and not osp.isfile(args.base):
        parser.error(f'there is no config {args.base}')
    if not osp.isfile(args.labeled):
        parser.error(f'--labeled {args.labeled} is no file: write a list of the labelled images there, an id a line')
    if missing := [path for path in args.unlabeled if not osp.exists(path)]:
        parser.error(f'--unlabeled {missing[0]} does not exist: give a folder of images, or a list of ids')
    if osp.exists(args.out) and not args.force:
        parser.error(f'{args.out} exists: choose another --out, or overwrite it with --force')
    if not osp.isdir(osp.dirname(osp.abspath(args.out))):
        parser.error(f'the folder of --out {args.out} does not exist: make it')
    return args


def read_base(path: str) -> Config:
    """Reads a config and checks that it trains a segmentor by iterations."""
    package = path.partition('::')[0]
    if '::' in path and package not in MODULE2PACKAGE:
        raise SystemExit(f'{path}: there is no package {package} with configs; use mmseg::path or a file')
    try:
        config = load_config(path)
    except FileNotFoundError as error:
        raise SystemExit(f'{path}: {error}') from None
    if has_classes(dict(config.items())):  # MMEngine's pure Python style, which no other can inherit
        config = Config(Config.fromstring(config.pretty_text, '.py').to_dict())
    needed = ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper')
    missing = [key for key in needed if not config.get(key)]
    if missing:
        raise SystemExit(f'{path} has no {", ".join(missing)}: give a whole config, one that trains by itself')
    if 'method' in config or type_name(config.model) == 'SemiSegmentor':
        raise SystemExit(f'{path} is semi-supervised already, or has a key "method": give a plain config')
    loop = config.train_cfg
    by_iteration = type_name(loop).endswith('IterBasedTrainLoop') if 'type' in loop else not loop.get('by_epoch', True)
    if not by_iteration:
        raise SystemExit(
            f'{path} counts epochs (train_cfg), but a batch of labelled and unlabelled images belongs to no common '
            "epoch. Set there train_cfg=dict(type='IterBasedTrainLoop', max_iters=..., val_interval=...), "
            'by_epoch=False in param_scheduler, log_processor and default_hooks.checkpoint, and '
            'log_metric_by_epoch=False in default_hooks.logger.'
        )
    return config


def has_classes(part: Any) -> bool:
    """Whether a config names classes by themselves."""
    if isinstance(part, dict):
        return any(map(has_classes, part.values()))
    return any(map(has_classes, part)) if isinstance(part, (list, tuple)) else isinstance(part, type)


def build_data(config: Config, args: argparse.Namespace) -> tuple[dict, SplitDataset]:
    """The training data: what the config says of them, and the data set."""
    parts = supervised_parts(config.train_dataloader.dataset)
    roots = {part.get('data_root') for part in parts}
    root = roots.pop() if len(roots) == 1 else ''
    size = args.crop_size or crop_size_of(parts[0].get('pipeline') or [])
    size = size or (config.model.get('data_preprocessor') or {}).get('size')
    if size is None:
        raise SystemExit(f'{args.base} has no RandomCrop that would tell the crop size: give --crop-size H W')
    unlabeled = [relative(path, root) for path in args.unlabeled]
    settings = dict(
        labeled=relative(args.labeled, root),
        unlabeled=unlabeled[0] if len(unlabeled) == 1 else unlabeled,
        crop_size=tuple(size),
    )
    if args.transforms:
        settings['transforms'] = dict(entry.partition('=')[::2] for entry in args.transforms)
    try:
        supervised = config.train_dataloader.dataset
        return settings, DATASETS.build(dict(type='SplitDataset', supervised=supervised, **settings))
    except (FileNotFoundError, ValueError, TypeError, KeyError) as error:
        raise SystemExit(f'{args.base}: {error}') from None


def relative(path: str, root: str | None) -> str:
    """A path as a data set takes it that has this data_root."""
    if root is None:
        return path
    path, root = osp.abspath(path), osp.abspath(root) if root else ''
    return osp.relpath(path, root) if root and path.startswith(root + osp.sep) else path


def classes_to_set(config: Config, dataset: SplitDataset) -> int | None:
    """How many classes the heads must be given, None if they have as many as the data."""
    classes = dataset.metainfo.get('classes')
    found = classes_of(config.model.get('decode_head'))
    return len(classes) if classes and found not in (None, len(classes)) else None


def resize_padding(config: Config, args: argparse.Namespace, crop_size: tuple[int, int]) -> str:
    """Fits the size to which the base's data_preprocessor pads to a crop size that was asked for.

    Changes the config, and returns what names the segmentor in the config that is written.
    """
    preprocessor = config.model.get('data_preprocessor') or {}
    if not args.crop_size or preprocessor.get('size') in (None, crop_size):
        return '_base_.model'
    preprocessor['size'] = crop_size
    return f'dict(_base_.model, data_preprocessor=dict(_base_.model.data_preprocessor, size={crop_size}))'


def build_model(
    config: Config, method: str, classes: int | None, crop_size: tuple, name: str
) -> tuple[SemiSegmentor, list[Shape]]:
    """The semi-supervised model, and (channels, height, width) of each feature of a crop.

    It has no weights and, where its operators allow it, takes no memory.
    """
    method = load_config(f'{BASES}/methods/{method}.py').method
    settings = dict(method, segmentor=without_weights(config.model.to_dict()), num_classes=classes)
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
    raise SystemExit(f'{name}: {reason}')


def without_weights(part: Any) -> Any:
    """A model's config without what would load weights."""
    if isinstance(part, dict):
        kept = {key: without_weights(value) for key, value in part.items() if key != 'init_cfg'}
        switch = part.get('pretrained')  # a path, or as timm has it whether to load
        return kept | ({'pretrained': False if isinstance(switch, bool) else None} if 'pretrained' in part else {})
    return [without_weights(value) for value in part] if isinstance(part, list) else part


def config_text(config: Config, args: argparse.Namespace, found: Found) -> str:
    """The lines of the semi-supervised config."""
    base = args.base if '::' in args.base else osp.relpath(args.base, osp.dirname(osp.abspath(args.out)))
    if config.filename is None:
        base = named_base(args)
    constructor = config.optim_wrapper.get('constructor')
    base_constructor = f', base_constructor={constructor!r}' if constructor else ''
    count = images_of_a_kind(config)
    classes = f', num_classes={found.classes}' if found.classes else ''
    channels = ', '.join(str(shape[0]) for shape in found.shapes)
    head = f"model['propagation_head'].update(in_index={found.index})  # of features of {channels} channels"
    own_hooks = '*_base_.custom_hooks, ' if config.get('custom_hooks') else ''
    lines = [
        # The import tells mmengine where this package's configs lie, whatever tool reads the config.
        "_base_ = __import__('mmseg_derprop') and [",
        f'    {base!r},',
        f"    '{BASES}/methods/{args.method}.py',",
        f"    '{BASES}/semi_hooks.py',",
        ']',
        f'model = dict(_base_.method, _delete_=True, segmentor={found.segmentor}{classes})',
        *([] if found.index is None else [head]),
        'train_dataloader = dict(',
        '    _base_.train_dataloader,',
        '    _delete_=True,',
        f'    batch_size={2 * count},',
        f"    sampler=dict(type='SemiSampler', num_labeled={count}, num_unlabeled={count}),",
        "    collate_fn=dict(type='semi_collate'),",
        '    dataset=dict(',
        "        type='SplitDataset',",
        '        supervised=_base_.train_dataloader.dataset,',
        *(f'        {key}={value!r},' for key, value in found.data.items()),
        '    ),',
        ')',
        f"optim_wrapper = dict(constructor='SemiOptimWrapperConstructor'{base_constructor})",
        *(["val_cfg = dict(type='TeacherStudentValLoop')"] if config.get('val_cfg') else []),
        f"default_hooks = dict(checkpoint=dict(type='ExactCheckpointHook'{checkpoint_settings(config)}))",
        f'custom_hooks = [{own_hooks}*_base_.semi_hooks]',
        'log_processor = _base_.semi_log',
    ]
    return '\n'.join(lines) + '\n'


def named_base(args: argparse.Namespace) -> str:
    """File name of a base in pure Python style, written again with names."""
    return f'{osp.splitext(osp.basename(args.out))[0]}_base.py'


def checkpoint_settings(config: Config) -> str:
    """What changes in the base's checkpoint hook, beside that it resumes exactly."""
    base = config.get('default_hooks', {}).get('checkpoint', {})
    if not isinstance(base, dict):  # MMEngine joins no dict to the None of a hook that is switched off
        return ', _delete_=True, by_epoch=False'
    return '' if base.get('by_epoch') is False else ', by_epoch=False'


def images_of_a_kind(config: Config) -> int:
    """Labelled images in a batch, and unlabelled ones: as many as the base has; CutMix needs two."""
    return max(2, config.train_dataloader.get('batch_size', 2))


def look(config: Config, args: argparse.Namespace) -> Found:
    """Builds data and model."""
    data, dataset = build_data(config, args)
    classes = classes_to_set(config, dataset)
    segmentor = resize_padding(config, args, data['crop_size'])
    model, shapes = build_model(config, args.method, classes, data['crop_size'], args.base)
    if model.branches[1:] != ('weak', 'strong'):
        data['branches'] = model.branches[1:]
    index = None if model.propagation_head is None else deepest(shapes)
    seconds = time_of_iteration(model, data['crop_size'], images_of_a_kind(config))
    return Found(data, dataset, segmentor, classes, model.num_classes, shapes, index, seconds)


def time_of_iteration(model: SemiSegmentor, size: tuple[int, int], count: int) -> float | None:
    """Seconds that the networks take on this machine, from a pass over two images; without loading and propagation."""
    device = torch.device(get_device())
    try:
        student = model.student.to_empty(device=device).train()
        for tensor in (*student.parameters(), *student.buffers()):
            tensor.data.zero_()
        start = time.perf_counter()
        features = student.extract_feat(torch.zeros(2, image_channels(student), *size, device=device))
        heads = decode(student, features, model.probed.readings, size)
        sum(head.logits.sum() for head in heads).backward()
        if device.type == 'cuda':
            torch.cuda.synchronize()
    except FAILURES:  # a network that keeps more than parameters and buffers
        return None
    views = 1 + model.needs_weak_forward + len(model.strong_branches) + (model.pseudo_labeler.source == 'teacher') / 3
    return (time.perf_counter() - start) / 2 * count * views


def report(config: Config, args: argparse.Namespace, found: Found) -> None:
    """Prints what was found."""
    (height, width), count = found.data['crop_size'], images_of_a_kind(config)
    print(f'method      {args.method}')
    print(f'labelled    {found.dataset.num_labeled} images of {args.labeled}')
    print(f'unlabelled  {found.dataset.num_unlabeled} images of {", ".join(args.unlabeled)}')
    print(f'batch       {count} labelled and {count} unlabelled images in a process')
    print(f'crop        {height}x{width}')
    if found.seconds is not None:
        iterations = config.train_cfg.get('max_iters', 0)
        total = f'{found.seconds * iterations / 3600:.1f} hours for {iterations} iterations'
        print(f'time        about {found.seconds:.2g} seconds an iteration on {get_device()}, {total}, without loading')
    for url in sorted(set(re.findall(r'[\w-]+://[^\s\'"]+', str(config.model)))):
        print(f'weights     {url}, fetched when training begins; without a network name a file in the base')
    print(f'classes     {found.num_classes}' + (', which the heads are given' if found.classes else ''))
    for number, (channels, rows, columns) in enumerate(found.shapes):
        chosen = '  <- labels propagate here' if number == found.index else ''
        print(f'feature {number}   {channels} channels, {rows}x{columns} positions{chosen}')
    if found.index is not None and found.shapes[found.index][1] * found.shapes[found.index][2] > MANY_POSITIONS:
        print('            A fine grid: time grows with the square of its positions. A coarser feature is faster.')


def main() -> None:
    args = parse_args()
    config = read_base(args.base)
    init_default_scope(config.get('default_scope') or 'mmseg')
    try:
        found = look(config, args)
        text = config_text(config, args, found)
        report(config, args, found)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:  # parts of any kind
        raise SystemExit(f'{args.base} is no config of a segmentor: {type(error).__name__}: {error}') from error
    if config.filename is None:
        path = osp.join(osp.dirname(args.out), named_base(args))
        if osp.exists(path) and not args.force:
            raise SystemExit(f'{path} exists: choose another --out, or overwrite it with --force')
        config.dump(path)
        print(f'base        {path}, which names the classes of {args.base}')
    Path(args.out).write_text(text)
    print(f'\nwrote {args.out}:\n\n{text}\nNext, of which the third makes the weights to start from:')
    print_commands(args.base, args.out, config.train_cfg.get('max_iters', 'N'))


def print_commands(base: str, out: str, iterations: int | str) -> None:
    """Prints what to run next. Pseudo-labels of an untrained network are useless, so the plain config comes first."""
    tools = osp.dirname(osp.abspath(__file__))
    tools = min(tools, osp.relpath(tools), key=len)
    start = f'work_dirs/{osp.splitext(osp.basename(base))[0]}/iter_{iterations}.pth'
    for tool, *arguments in (
        ('check_data.py', out),
        ('analysis_tools/browse_dataset.py', out),
        ('train.py', base),
        ('train.py', out, '--cfg-options', f'load_from={start}'),
    ):
        print(f'  {shlex.join(["python", osp.join(tools, tool), *arguments])}')


if __name__ == '__main__':
    main()
