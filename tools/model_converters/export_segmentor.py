"""Writes the trained teacher or student as a plain MMSegmentation model.

    python tools/model_converters/export_segmentor.py CHECKPOINT [--weights teacher|student] [--config CONFIG]
        [--out PATH] [--cfg-options key=value ...] [--force]

PATH.py and PATH.pth (by default the checkpoint's name with _teacher or _student) are a config and a checkpoint that
MMSegmentation uses without this package: init_model, MMSegInferencer, tools/test.py. Where the network or the data set
is a part of this package, a copy of the file that defines it comes along. The config of the run is the file beside the
checkpoint, unless --config names one; its model.predict_on says which network, unless --weights does.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mmseg
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope
from mmseg import registry

import mmseg_derprop
from mmseg_derprop.engine.hooks.strict_load_hook import CheckpointMismatch, check_fit
from mmseg_derprop.models import plain_config
from mmseg_derprop.utils.checkpoints import read_checkpoint, state_dict_of, write_checkpoint
from mmseg_derprop.utils.config import load_config
from mmseg_derprop.utils.files import write_text
from mmseg_derprop.utils.safe_loading import checkpoints_as_data

# What an evaluation reads of a run's config, besides the model, the data and the loops.
KEPT = ('data_root', 'env_cfg', 'tta_model', 'tta_pipeline', 'visualizer', 'vis_backends', 'log_processor', 'log_level')
IMPORTED = ('torch', 'mmcv', 'mmengine', 'mmseg')  # by MMSegmentation itself
REGISTRIES = (registry.MODELS, registry.DATASETS, registry.TRANSFORMS, registry.METRICS, registry.VISUALIZERS)
BESIDE = """import sys

sys.path.append('{{ fileDirname }}')  # what custom_imports names lies beside this file
"""


def find_config(checkpoint: str, path: str | None, options: dict | None) -> Config:
    """The config of the run: a file that is named, or the one that MMEngine wrote beside the checkpoint.

    The text of a config inside a checkpoint is not read: of others it could name anything.

    Raises:
        ValueError: If there is none, or its model is no SemiSegmentor.
    """
    found = Path(checkpoint).parent.glob('*.py')  # those of exported models have their weights beside them
    beside = sorted(p for p in found if not p.name.startswith('exported_') and not p.with_suffix('.pth').exists())
    if path is None and len(beside) != 1:
        found = f'{len(beside)} of them are' if beside else 'none is'
        raise ValueError(f'The config of its run must lie beside it, but {found} there. Name it with --config.')
    config = load_config(path or str(beside[0]), options)
    if 'segmentor' not in config.model:
        raise ValueError(
            f'{path or beside[0]} must be the config of a semi-supervised run, but its model is a plain '
            f'{config.model.get("type")}, which needs no export.'
        )
    return config


def take_weights(checkpoint: dict, weights: str, aligned: bool) -> dict[str, Any]:
    """The entries of one network under their plain names; ``aligned``, the classifier has the alignment's bias."""
    state = {name.removeprefix('module.'): value for name, value in state_dict_of(checkpoint).items()}
    taken = {name.removeprefix(f'{weights}.'): state[name] for name in state if name.startswith(f'{weights}.')}
    if not taken:
        raise ValueError(f'it is of no SemiSegmentor: it holds no {weights}, but {", ".join(list(state)[:3])}, ...')
    if aligned:
        stages = [re.match(r'decode_head\.(\d+\.)?', name) for name in taken]
        name = f'{[stage.group() for stage in stages if stage][-1]}conv_seg.bias'
        if missing := [entry for entry in (name, 'pseudo_labeler.alignment.bias') if entry not in (taken | state)]:
            raise ValueError(
                f'its config gives predictions a bias for each class, but it holds no {missing[0]}. For a model '
                'without that bias: --cfg-options model.pseudo_labels.alignment.predict=False'
            )
        bias = state['pseudo_labeler.alignment.bias']
        taken[name] = taken[name] + (bias if len(bias) == len(taken[name]) else bias[1:] - bias[:1])  # of one channel
    return taken


def plain_run(config: Config) -> dict[str, Any]:
    """What MMSegmentation needs to evaluate the segmentor of a semi-supervised run."""
    preprocessor = config.model.get('data_preprocessor') or config.get('data_preprocessor')
    segmentor = plain_config(config.model.segmentor, config.model.get('num_classes'), preprocessor)
    plain: dict[str, Any] = {'default_scope': 'mmseg', 'model': for_inference(segmentor)}
    plain |= {key: config[key] for key in KEPT if key in config}
    for stage in ('val', 'test'):
        data = {key: config.get(key) for key in (f'{stage}_dataloader', f'{stage}_evaluator')}
        plain |= data | {f'{stage}_cfg': dict(type=f'{stage.title()}Loop') if all(data.values()) else None}
    # inference_model reads it at the top level.
    dataset = (plain['test_dataloader'] or {}).get('dataset', {})
    plain['test_pipeline'] = dataset.get('pipeline', config.get('test_pipeline'))
    plain['default_hooks'] = dict(
        timer=dict(type='IterTimerHook'),
        logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
        visualization=dict(type='SegVisualizationHook'),
    )
    return plain


def for_inference(part: Any) -> Any:
    """A model's config that loads no pretrained weights, and with a stock loss where this package defines it."""
    if isinstance(part, (list, tuple)):
        return [for_inference(item) for item in part]
    if not isinstance(part, dict):
        return part
    if module_of(part.get('type')).startswith('mmseg_derprop.models.losses'):
        return dict(type='CrossEntropyLoss', avg_non_ignore=True, loss_weight=part.get('loss_weight', 1.0))
    loads = isinstance(part.get('init_cfg'), dict) and 'checkpoint' in part['init_cfg']
    dropped = {'pretrained', 'init_cfg'} if loads else {'pretrained'}
    return {key: for_inference(value) for key, value in part.items() if key not in dropped}


def module_of(name: Any) -> str:
    """The module that defines what a config names as a type; empty if none is known."""
    found = (part.get(name) if isinstance(name, str) else name for part in REGISTRIES)
    return next((part.__module__ for part in found if part is not None), '')


def types_in(part: Any) -> Iterator[Any]:
    """All types that a config names."""
    if isinstance(part, dict):
        yield part.get('type')
        part = list(part.values())
    if isinstance(part, (list, tuple)):
        for item in part:
            yield from types_in(item)


def bring_parts(plain: dict) -> tuple[list[str], dict[str, str]]:
    """What a config must import: the names of modules, and the text of those that this package defines."""
    modules = {module_of(name) for name in types_in(plain)} - {''}
    copies = {}
    for module in sorted(modules):
        package, _, name = module.partition('.')
        if module.startswith('exported_'):  # of a model that this process has loaded
            copies[module] = Path(inspect.getfile(sys.modules[module])).read_text()
        if package != 'mmseg_derprop':
            continue
        text = Path(inspect.getfile(sys.modules[module])).read_text()
        if re.search(r'^\s*(from|import) (\.|mmseg_derprop)', text, re.MULTILINE):
            raise ValueError(f'its config has parts of {module}, which MMSegmentation cannot use: replace them.')
        origin = f'# Copied from {module} of mmseg_derprop {mmseg_derprop.__version__} (Apache-2.0).\n'
        text = text.replace('.register_module()', '.register_module(force=True)')  # where this package is loaded too
        copies[f'exported_{name.rpartition(".")[2]}'] = origin + text
    others = {m for m in modules if m.partition('.')[0] not in (*IMPORTED, 'mmseg_derprop')}
    return sorted({*others, *copies}), copies


def dataset_meta(checkpoint: dict, plain: dict) -> dict:
    """Classes and palette: the checkpoint's, or those of the data set that the config evaluates on."""
    meta = checkpoint.get('meta', {}).get('dataset_meta')
    if not isinstance(meta, dict) or not meta:
        dataset = (plain['test_dataloader'] or {}).get('dataset', {})
        meta = {
            **getattr(registry.DATASETS.get(dataset['type']) if 'type' in dataset else None, 'METAINFO', {}),
            **dataset.get('metainfo', {}),
        }
        if len(meta.get('classes', ())) != plain['model']['decode_head']['num_classes']:
            return {}
    return {'dataset_meta': {key: meta[key] for key in ('classes', 'palette') if key in meta}}


def export(args: argparse.Namespace) -> list[Path]:
    """Writes what ``args`` ask for; returns the paths.

    Raises:
        ValueError: If the checkpoint or its config does not allow it, or files exist.
        OSError: If files cannot be read or written.
    """
    source = read_checkpoint(args.checkpoint)
    source['meta'] = source['meta'] if isinstance(source.get('meta'), dict) else {}
    config = find_config(args.checkpoint, args.config, args.cfg_options)
    args.weights = args.weights or config.model.get('predict_on', 'teacher')
    alignment = (config.model.get('pseudo_labels') or {}).get('alignment') or {}
    state = take_weights(source, args.weights, alignment.get('predict', False))
    plain = plain_run(config)
    imports, copies = bring_parts(plain)
    classes = dataset_meta(source, plain)
    check_fit(registry.MODELS.build(plain['model']), state, needed=[''])
    if imports:
        plain['custom_imports'] = dict(imports=imports, allow_failed_imports=False)
    text = Config(plain).pretty_text

    out = Path(args.out or f'{args.checkpoint.removesuffix(".pth")}_{args.weights}')
    files = {out.with_name(f'{name}.py'): copy for name, copy in copies.items()}
    title = f'# {args.weights.title()} of {ascii(Path(args.checkpoint).name)[1:-1]}, a plain MMSegmentation model.\n'
    files[out.with_name(f'{out.name}.py')] = title + (BESIDE if copies else '') + text
    weights = out.with_name(f'{out.name}.pth')
    existing = [p for p in (*files, weights) if p.exists() and (p == weights or p.read_text() != files[p])]
    if existing and not args.force:
        raise ValueError(f'{", ".join(map(str, existing))} exist: give another --out, or --force.')
    origin = dict(
        weights=args.weights,
        checkpoint=Path(args.checkpoint).name,
        sha256=hashlib.sha256(Path(args.checkpoint).read_bytes()).hexdigest(),
        iter=source.get('meta', {}).get('iter'),
    )
    versions = dict(mmseg_version=mmseg.__version__, mmseg_derprop_version=mmseg_derprop.__version__)
    meta = {**classes, **versions, 'cfg': text, 'exported_from': origin}
    write_checkpoint(dict(meta=meta, state_dict=state), str(weights))
    for path, content in files.items():
        write_text(path, content)
    return [*files, weights]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', help='of a SemiSegmentor')
    parser.add_argument('--weights', choices=('teacher', 'student'), help='default: which the config evaluates')
    parser.add_argument('--config', help='of the run (default: the config beside the checkpoint)')
    parser.add_argument('--out', metavar='PATH', help='what to write, without suffix')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='key=value pairs merged into the config')
    parser.add_argument('--force', action='store_true', help='overwrite files')
    args = parser.parse_args()
    init_default_scope('mmseg')
    try:
        with checkpoints_as_data():
            paths = export(args)
    except CheckpointMismatch as error:
        raise SystemExit(f'{args.checkpoint} does not fit its config: {error}') from None
    except ValueError as error:
        raise SystemExit(f'{args.checkpoint}: {error}') from None
    except OSError as error:
        raise SystemExit(str(error)) from None
    print('\n'.join(map(str, paths)))


if __name__ == '__main__':
    main()
