"""Converts weights of the published networks into a checkpoint of this project.

    python tools/model_converters/published2mmseg.py IN.pth OUT.pth

IN is a checkpoint of DerProp, CorrMatch or UniMatch (DeepLabV3+ on a deep-stem ResNet) or of the ImageNet backbone that
they start from. Of a network, OUT holds the student, the teacher (a copy) and, where IN has it, the head that
propagates; it serves as ``load_from`` of a config over configs/_base_/models/deeplabv3plus_r101.py. Of a backbone, OUT
serves as ``init_cfg=dict(type='Pretrained', checkpoint=OUT)`` of that config's backbone.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pickle
from pathlib import Path

import numpy as np
import torch
from mmengine.model import BaseModule
from mmengine.registry import init_default_scope
from mmseg.models.backbones import ResNet
from mmseg.registry import MODELS
from torch import Tensor

import mmseg_derprop  # noqa: F401  (registers the parts)
from mmseg_derprop.config import load_config

CONFIGS = Path(__file__).resolve().parents[2] / 'configs/_base_'
DEPTHS = {ResNet.arch_settings[depth][1]: depth for depth in (50, 101, 152)}

# Modules of this project (without the part's name) and what the published networks call them.
BACKBONE = {**{f'stem.{i}': f'conv1.{i}' for i in (0, 1, 3, 4, 6)}, 'stem.7': 'bn1'}
LAYERS = {  # each a convolution and its normalisation
    **{f'aspp_modules.{i}': (f'head.b{i}.0', f'head.b{i}.1') for i in range(4)},
    'image_pool.1': ('head.b4.gap.1', 'head.b4.gap.2'),
    'bottleneck': ('head.project.0', 'head.project.1'),
    'c1_bottleneck': ('reduce.0', 'reduce.1'),
    'fuse.0': ('fuse.0', 'fuse.1'),
    'fuse.1': ('fuse.3', 'fuse.4'),
}
DECODE_HEAD = {
    f'{ours}.{kind}': name for ours, pair in LAYERS.items() for kind, name in zip(('conv', 'bn'), pair, strict=True)
}
DECODE_HEAD['conv_seg'] = 'classifier'
PROPAGATION_HEAD = {'conv.conv': 'proj.0', 'conv.bn': 'proj.1', 'conv_q': 'corr.conv1', 'conv_k': 'corr.conv2'}


def published_names(module: BaseModule, names: dict[str, str], prefix: str = '') -> dict[str, tuple[str, torch.Size]]:
    """What the published networks call each entry of a module's state: its own name and its shape."""
    found = {}
    for name, value in module.state_dict().items():
        path, _, entry = name.rpartition('.')
        found[f'{prefix}{names.get(path, path)}.{entry}'] = name, value.shape
    return found


def take(source: dict[str, Tensor], wanted: dict[str, tuple[str, torch.Size]]) -> dict[str, Tensor]:
    """The entries wanted under their names in this project, removed from ``source``.

    Old checkpoints do not count batches; the count, which only an averaging normalisation reads, is 0 then.

    Raises:
        ValueError: If entries are missing or have other shapes.
    """
    taken, problems = {}, []
    for published, (name, shape) in wanted.items():
        value = source.pop(published, None)
        if value is None and published.endswith('num_batches_tracked'):
            value = torch.tensor(0)
        if value is None:
            problems.append(f'{published} is missing')
        elif value.shape != shape:
            problems.append(f'{published} has shape {tuple(value.shape)}, expected is {tuple(shape)}')
        else:
            taken[name] = value
    refuse_if(problems)
    return taken


def refuse_if(problems: list[str]) -> None:
    """Raises ValueError with the first few problems, if there are any."""
    if problems:
        more = f'\n  and {len(problems) - 5} more' if len(problems) > 5 else ''
        raise ValueError('not a network of the published family:\n  ' + '\n  '.join(problems[:5]) + more)


def find_depth(names: list[str], prefix: str) -> int:
    """Depth of the ResNet whose entries are named."""
    blocks = {tuple(name.removeprefix(prefix).split('.')[:2]) for name in names if name.startswith(f'{prefix}layer')}
    counts = tuple(sum(layer == f'layer{i}' for layer, _ in blocks) for i in range(1, 5))
    if counts not in DEPTHS:
        known = ', '.join(f'{blocks} (ResNet-{depth})' for blocks, depth in DEPTHS.items())
        refuse_if([f'the stages of the backbone have {counts} blocks, known are {known}'])
    return DEPTHS[counts]


def convert(source: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict]:
    """Converts a state dict.

    Args:
        source (dict[str, Tensor]): Of a published network or of its ImageNet backbone.

    Returns:
        tuple[dict[str, Tensor], dict]: The state dict of this project, and what was found: the kind, the depth and the
        number of classes.

    Raises:
        ValueError: If any entry does not match by name and shape.
    """
    source = {name.removeprefix('module.'): value for name, value in source.items()}
    is_network = any(name.startswith('backbone.') for name in source)
    prefix = 'backbone.' if is_network else ''
    found = dict(kind='network' if is_network else 'backbone', depth=find_depth(list(source), prefix))
    model = load_config(str(CONFIGS / 'models/deeplabv3plus_r101.py')).model
    with torch.device('meta'):
        backbone = MODELS.build({**model.backbone, 'depth': found['depth']})
    parts = take(source, published_names(backbone, BACKBONE, prefix))
    if is_network:
        parts, found['num_classes'] = convert_heads(source, model.decode_head, parts)
    else:
        source.pop('fc.weight', None), source.pop('fc.bias', None)
    refuse_if([f'{name} is unknown' for name in source])
    return parts, found


def convert_heads(source: dict[str, Tensor], decode_head: dict, backbone: dict[str, Tensor]) -> tuple[dict, int]:
    """Completes a converted backbone to the student, the teacher and the head that propagates; counts the classes."""
    if 'classifier.weight' not in source:
        refuse_if(['classifier.weight is missing'])
    num_classes = len(source['classifier.weight'])
    with torch.device('meta'):
        decode_head = MODELS.build({**decode_head, 'num_classes': num_classes})
        method = load_config(str(CONFIGS / 'methods/derprop_published.py')).method
        head_config = {
            **method.propagation_head,
            'num_classes': num_classes,
            'in_channels': decode_head.in_channels[-1],
        }
        propagation_head = MODELS.build(head_config)
    heads = take(source, published_names(decode_head, DECODE_HEAD))
    network = {f'backbone.{n}': v for n, v in backbone.items()} | {f'decode_head.{n}': v for n, v in heads.items()}
    state = {f'{role}.{name}': value for role in ('student', 'teacher') for name, value in network.items()}
    if any(name.startswith(('proj.', 'corr.')) for name in source):
        head = take(source, published_names(propagation_head, PROPAGATION_HEAD))
        state |= {f'propagation_head.{name}': value for name, value in head.items()}
    return state, num_classes


def numpy_numbers() -> contextlib.AbstractContextManager:
    """Lets torch.load read NumPy numbers: training scripts save scores beside the weights."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = [np.dtype, *(type(np.dtype(t)) for t in ('float32', 'float64'))]
    if torch.__version__ < '2.6':  # cannot be told the names that other versions of NumPy have for them
        torch.serialization.add_safe_globals([scalar, *kinds])
        return contextlib.nullcontext()
    names = [(scalar, f'numpy.{core}.multiarray.scalar') for core in ('core', '_core')]
    return torch.serialization.safe_globals([*names, *kinds])


def read(path: str) -> dict[str, Tensor]:
    """The state dict of a checkpoint; it may be nested, as ``model`` or ``state_dict``.

    Raises:
        ValueError: If the file holds anything but tensors, numbers and texts.
    """
    try:
        with numpy_numbers():
            checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f'it holds more than weights, and is not read: {error}') from error
    for key in ('model', 'state_dict'):
        if isinstance(checkpoint, dict) and isinstance(checkpoint.get(key), dict):
            checkpoint = checkpoint[key]
    if not isinstance(checkpoint, dict) or not all(isinstance(value, Tensor) for value in checkpoint.values()):
        raise ValueError('it holds no state dict, neither at its top nor under "model" or "state_dict"')
    return checkpoint


def write(checkpoint: dict, path: str) -> None:
    """Saves a checkpoint, whole or not at all."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    unfinished = f'{path}.{os.getpid()}.tmp'
    try:
        torch.save(checkpoint, unfinished)
        os.replace(unfinished, path)
    finally:
        if os.path.exists(unfinished):
            os.remove(unfinished)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', metavar='IN.pth', help='checkpoint of a published network or ImageNet backbone')
    parser.add_argument('out', metavar='OUT.pth', help='checkpoint to write')
    args = parser.parse_args()
    init_default_scope('mmseg')
    try:
        state, found = convert(read(args.source))
    except (ValueError, OSError) as error:
        raise SystemExit(f'{args.source}: {error}') from None
    write(dict(state_dict=state, meta=dict(source=os.path.basename(args.source), **found)), args.out)
    print(f'{args.out}: {len(state)} entries, ' + ', '.join(f'{key} {value}' for key, value in found.items()))


if __name__ == '__main__':
    main()
