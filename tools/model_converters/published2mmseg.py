"""Converts weights of the published networks into a checkpoint of this project.

    python tools/model_converters/published2mmseg.py IN.pth OUT.pth

IN is a checkpoint of DerProp, CorrMatch or UniMatch (DeepLabV3+ on a deep-stem ResNet) or of the ImageNet backbone that
they start from. Of a network, OUT holds the student, the teacher (a copy) and, where IN has it, the head that
propagates; it serves as ``load_from`` of a config over configs/_base_/models/deeplabv3plus_r101_deepstem.py. Of a
backbone, OUT serves as ``init_cfg=dict(type='Pretrained', checkpoint=OUT)`` of that config's backbone.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from mmengine.model import BaseModule
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import Tensor

import mmseg_derprop  # noqa: F401  (registers the parts)
from mmseg_derprop.utils.checkpoints import read_checkpoint, state_dict_of, write_checkpoint
from mmseg_derprop.utils.config import load_config

CONFIGS = Path(__file__).resolve().parents[2] / 'configs/_base_'
DEPTHS = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}  # of ResNets, by the blocks of each stage

FAMILY = (
    'Give a checkpoint of DerProp, CorrMatch or UniMatch with a deep-stem ResNet-50, -101 or -152, or the '
    'ImageNet backbone that they start from. Checkpoints of MMSegmentation need no conversion: load_from takes them.'
)

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


def take(
    entries: dict[str, Tensor], wanted: dict[str, tuple[str, torch.Size]], problems: list[str]
) -> dict[str, Tensor]:
    """Takes the entries wanted out of a state dict, under their names in this project; notes what is wrong.

    Old checkpoints do not count batches; the count, which only an averaging normalisation reads, is 0 then.
    """
    taken = {}
    for published, (name, shape) in wanted.items():
        default = torch.tensor(0) if published.endswith('num_batches_tracked') else None
        value = entries.pop(published, default)
        if value is None:
            problems.append(f'{published} is missing')
        elif value.shape != shape:
            problems.append(f'{published} has shape {tuple(value.shape)}, expected is {tuple(shape)}')
        else:
            taken[name] = value
    return taken


def find_depth(names: list[str], prefix: str) -> int:
    """Depth of the ResNet whose entries are named, or of the nearest one."""
    blocks = {tuple(name.removeprefix(prefix).split('.')[:2]) for name in names if name.startswith(f'{prefix}layer')}
    counts = tuple(sum(layer == f'layer{i}' for layer, _ in blocks) for i in range(1, 5))
    if not any(counts):
        has = ', '.join(names[:3]) or 'nothing'
        raise ValueError(f'it has no ResNet ({prefix}layer1 to layer4), but {has}, ...')
    return DEPTHS[min(DEPTHS, key=lambda known: sum(abs(i - j) for i, j in zip(known, counts)))]


def convert(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict]:
    """Converts a state dict; also returns its kind, its depth and its number of classes."""
    entries = {name.removeprefix('module.'): value for name, value in state.items()}
    problems: list[str] = []
    is_network = any(name.startswith('backbone.') for name in entries)
    prefix = 'backbone.' if is_network else ''
    found = dict(kind='network' if is_network else 'backbone', depth=find_depth(list(entries), prefix))
    model = load_config(str(CONFIGS / 'models/deeplabv3plus_r101_deepstem.py')).model
    with torch.device('meta'):
        backbone = MODELS.build({**model.backbone, 'depth': found['depth']})
    parts = take(entries, published_names(backbone, BACKBONE, prefix), problems)
    if is_network:
        parts, found['num_classes'] = convert_heads(entries, model.decode_head, parts, problems)
    else:
        entries.pop('fc.weight', None), entries.pop('fc.bias', None)
    problems += [f'{name} is unknown' for name in entries]
    if problems:
        raise ValueError(f'{len(problems)} entries do not match:\n  ' + '\n  '.join(problems))
    return parts, found


def convert_heads(
    entries: dict[str, Tensor], decode_head: dict, backbone: dict[str, Tensor], problems: list[str]
) -> tuple[dict, int]:
    """Completes a converted backbone to the student, the teacher and the head that propagates; counts the classes."""
    classifier = entries.get('classifier.weight')
    num_classes = len(classifier) if classifier is not None and classifier.ndim else decode_head['num_classes']
    with torch.device('meta'):
        decode_head = MODELS.build({**decode_head, 'num_classes': num_classes})
        method = load_config(str(CONFIGS / 'methods/derprop_published.py')).method
        head_config = {
            **method.propagation_head,
            'num_classes': num_classes,
            'in_channels': decode_head.in_channels[-1],
        }
        propagation_head = MODELS.build(head_config)
    heads = take(entries, published_names(decode_head, DECODE_HEAD), problems)
    network = {f'backbone.{n}': v for n, v in backbone.items()} | {f'decode_head.{n}': v for n, v in heads.items()}
    state = {f'{role}.{name}': value for role in ('student', 'teacher') for name, value in network.items()}
    if any(name.startswith(('proj.', 'corr.')) for name in entries):
        head = take(entries, published_names(propagation_head, PROPAGATION_HEAD), problems)
        state |= {f'propagation_head.{name}': value for name, value in head.items()}
    return state, num_classes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', metavar='IN.pth', help='checkpoint of a published network or ImageNet backbone')
    parser.add_argument('out', metavar='OUT.pth', help='checkpoint to write')
    parser.add_argument('--force', action='store_true', help='overwrite OUT.pth')
    args = parser.parse_args()
    if os.path.exists(args.out) and not args.force:
        parser.error(f'{args.out} exists: choose another place, or overwrite it with --force')
    init_default_scope('mmseg')
    try:
        source = read_checkpoint(args.source)
        state, found = convert(state_dict_of(source))
        write_checkpoint(dict(state_dict=state, meta=dict(source=os.path.basename(args.source), **found)), args.out)
    except OSError as error:
        raise SystemExit(str(error)) from None
    except ValueError as error:
        raise SystemExit(f'{args.source}: {error}\n{FAMILY}') from None
    print(f'{args.out}: {len(state)} entries, ' + ', '.join(f'{key} {value}' for key, value in found.items()))


if __name__ == '__main__':
    main()
