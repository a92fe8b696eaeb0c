"""Writes a plain segmentor as an ONNX model, and compares their predictions.

    python tools/model_converters/export_onnx.py CONFIG CHECKPOINT OUT.onnx --size H W [--dynamic]
        [--cfg-options key=value ...]

CONFIG and CHECKPOINT are a plain MMSegmentation model's, as export_segmentor.py writes them. The ONNX model has

    image    (N, C, H, W) in the order of channels that MMSegmentation loads: BGR, as of cv2.imread, and uint8 if C is
             3; float32 otherwise
    labels   (N, H, W) int64
    logits   (N, K, H, W) float32

and normalises the image itself. It predicts whole images; sliding windows and resizing are the caller's. N, H and W are
1 and --size, or free with --dynamic. onnxruntime's labels are compared with MMSegmentation's, on noise: they may differ
only where the two largest logits are equal but for rounding.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import warnings

import torch
import torch.nn.functional as F
from mmengine.config import DictAction
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import Tensor, nn

import mmseg_derprop  # noqa: F401  (registers the parts)
from mmseg_derprop.engine.hooks.strict_load_hook import CheckpointMismatch, check_fit
from mmseg_derprop.models.decoding import image_channels
from mmseg_derprop.utils.checkpoints import read_checkpoint, state_dict_of
from mmseg_derprop.utils.config import load_config
from mmseg_derprop.utils.files import replacing
from mmseg_derprop.utils.safe_loading import checkpoints_as_data

OPSET = 18
TIE = 1e-5  # of the largest logit
FIXED = (
    'Some networks compute with the size of the image while they are exported: they need a fixed --size, no --dynamic.'
)


class Predictor(nn.Module):
    """From loaded images to labels, as MMSegmentation predicts whole images."""

    def __init__(self, segmentor: BaseModel, preprocessing: dict) -> None:
        super().__init__()
        self.segmentor = segmentor
        swapped = preprocessing.get('bgr_to_rgb') or preprocessing.get('rgb_to_bgr')
        self.channels = image_channels(segmentor)
        self.dtype = torch.uint8 if self.channels == 3 else torch.float32
        self.order = [2, 1, 0] if swapped else list(range(self.channels))
        for name, default in dict(mean=0.0, std=1.0).items():
            values = preprocessing.get(name) or [default]
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Labels (N, H, W) and logits (N, K, H, W) of images (N, C, H, W)."""
        inputs = (image.float()[:, self.order] - self.mean) / self.std
        logits = self.segmentor(inputs, mode='tensor')
        corners = self.segmentor.align_corners
        logits = F.interpolate(logits, size=image.shape[-2:], mode='bilinear', align_corners=corners)
        return logits.argmax(1), logits


def load_predictor(args: argparse.Namespace) -> tuple[Predictor, list[str]]:
    """The model in evaluation mode and its classes."""
    config = load_config(args.config, args.cfg_options)
    if 'segmentor' in config.model:
        raise ValueError('it is a SemiSegmentor: write a plain model of it with export_segmentor.py first.')
    if config.model.get('test_cfg', {}).get('mode') == 'slide':
        print('The config predicts in sliding windows; the ONNX model predicts what it is given as a whole.')
    config.model.test_cfg = dict(mode='whole')
    checkpoint = read_checkpoint(args.checkpoint)
    segmentor = MODELS.build(config.model)
    check_fit(segmentor, state_dict_of(checkpoint), needed=[''])
    preprocessing = config.model.data_preprocessor
    padding = preprocessing.get('test_cfg') or {}
    least, divisor = padding.get('size') or args.size, padding.get('size_divisor') or 1
    if any(size < low or size % divisor for size, low in zip(args.size, least)):
        raise ValueError(f'its data_preprocessor pads images to {dict(padding)}: give a --size that needs no padding.')
    classes = checkpoint.get('meta', {}).get('dataset_meta', {}).get('classes', [])
    return Predictor(revert_sync_batchnorm(segmentor), preprocessing).eval(), list(classes)


def write(predictor: Predictor, classes: list[str], args: argparse.Namespace, path: str) -> None:
    """Exports, and adds the names of the classes."""
    import onnx

    image = torch.zeros(1, predictor.channels, *args.size, dtype=predictor.dtype)
    options = dict(input_names=['image'], output_names=['labels', 'logits'], opset_version=OPSET)
    if torch.__version__ < '2.9':  # the other exporter was not ready
        axes = dict(image={0: 'N', 2: 'H', 3: 'W'}, labels={0: 'N', 1: 'H', 2: 'W'}, logits={0: 'N', 2: 'H', 3: 'W'})
        options |= dict(dynamic_axes=axes if args.dynamic else None)
    else:
        shapes = (dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC),)
        options |= dict(dynamo=True, dynamic_shapes=shapes if args.dynamic else None, external_data=False)
    with warnings.catch_warnings(), open(os.devnull, 'w') as nowhere, contextlib.redirect_stdout(nowhere):
        warnings.simplefilter('ignore')
        torch.onnx.export(predictor, (image,), path, **options)
    model = onnx.load(path)
    onnx.helper.set_model_props(model, dict(classes=json.dumps(classes), channels='BGR' * (predictor.channels == 3)))
    onnx.save(model, path)


@torch.no_grad()
def compare(predictor: Predictor, path: str, size: tuple[int, int], batch: int) -> str:
    """Labels of onnxruntime and of MMSegmentation on noise.

    Raises:
        ValueError: If they differ where there is no tie.
    """
    import onnxruntime

    shape, generator = (batch, predictor.channels, *size), torch.Generator().manual_seed(0)
    image = torch.randint(256, shape, generator=generator).to(predictor.dtype)
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    try:
        found = torch.from_numpy(session.run(['labels'], {'image': image.numpy()})[0])
    except Exception as error:  # onnxruntime's errors share no class
        raise ValueError(f'onnxruntime cannot predict {tuple(image.shape)}: {error}\n{FIXED}') from error
    samples = predictor.segmentor.test_step(dict(inputs=list(image)))
    labels = torch.cat([sample.pred_sem_seg.data for sample in samples])
    logits = torch.stack([sample.seg_logits.data for sample in samples])
    first, second = logits.topk(2, dim=1).values.unbind(1)
    differ, tie = found != labels, first - second <= TIE * logits.abs().max()
    if (differ & ~tie).any():
        wrong = f'{int((differ & ~tie).sum())} of {differ.numel()}'
        raise ValueError(f'onnxruntime gives other labels at {wrong} pixels of {tuple(image.shape)}. {FIXED}')
    return f'{batch}x{predictor.channels}x{size[0]}x{size[1]}: {int(differ.sum())} of {differ.numel()} labels differ'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='of a plain segmentor')
    parser.add_argument('checkpoint', help='of it')
    parser.add_argument('out', metavar='OUT.onnx')
    parser.add_argument('--size', type=int, nargs=2, required=True, metavar=('H', 'W'), help='of the image')
    parser.add_argument('--dynamic', action='store_true', help='any size and number of images')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='key=value pairs merged into the config')
    args = parser.parse_args()
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise SystemExit(f'{error}: pip install onnx onnxruntime onnxscript') from None
    init_default_scope('mmseg')
    sizes = [(1, *args.size)] + ([(2, args.size[0] + 32, 2 * args.size[1])] if args.dynamic else [])
    try:
        with checkpoints_as_data():
            predictor, classes = load_predictor(args)
        with replacing(args.out) as unfinished:
            write(predictor, classes, args, unfinished)
            for batch, *size in sizes:
                print(compare(predictor, unfinished, size, batch))
    except CheckpointMismatch as error:
        raise SystemExit(f'{args.checkpoint} does not fit {args.config}. {error}') from None
    except torch.onnx.errors.OnnxExporterError as error:
        raise SystemExit(f'{args.config}: PyTorch cannot export this network: {error}\n{FIXED}') from None
    except (ValueError, OSError) as error:
        raise SystemExit(f'{args.checkpoint}: {error}') from None
    print(args.out)


if __name__ == '__main__':
    main()
