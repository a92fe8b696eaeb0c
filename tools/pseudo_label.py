"""Labels images with a checkpoint, where it is confident.

    python tools/pseudo_label.py IMAGES CONFIG CHECKPOINT --out-dir DIR [--threshold 0.95 | --threshold-from-checkpoint]
        [--ignore 255] [--confidence] [--tta] [--predict-on teacher|student] [--device cuda|cpu] [--batch-size N]
        [--workers N] [--shard I/N] [--cfg-options ...]

IMAGES is an image, a folder or a quoted pattern. DIR gets labels/ (8-bit PNG of class ids at the image's own size, with
palette, --ignore where the confidence is below the threshold), images.csv (a line an image: share of labelled pixels,
each class's share of all pixels), images.txt (MMSegmentation's ann_file) and, on demand, confidence/ (16-bit PNG,
confidence times 65535). After an interruption the same command resumes. docs/inference.md shows how to train on the
result. Configs and checkpoints of plain MMSegmentation work as well.
"""

from __future__ import annotations

import argparse
import hashlib
import os.path as osp

import numpy as np
from mmengine.config import Config
from mmengine.model import BaseModel
from rich.progress import track

import mmseg_derprop  # noqa: F401  (registers the parts)
from mmseg_derprop.apis.image_files import ImageFile, add_arguments, check_arguments
from mmseg_derprop.apis.inference import (
    ImageDataset,
    MeanProbabilityTTA,
    confidence,
    inference_pipeline,
    load_segmentor,
    predict,
)
from mmseg_derprop.apis.label_folder import LabelFolder
from mmseg_derprop.utils.config import load_config
from mmseg_derprop.utils.safe_loading import checkpoints_as_data


def parse_args() -> tuple[argparse.Namespace, list[ImageFile]]:
    parser = argparse.ArgumentParser(description='Label images where a segmentor is confident')
    add_arguments(parser)
    parser.add_argument('--out-dir', required=True, help='folder for label maps and table')
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument('--threshold', type=float, default=0.95, help='least confidence (default: %(default)s)')
    limit.add_argument('--threshold-from-checkpoint', action='store_true', help='that of the end of training')
    parser.add_argument('--ignore', type=int, default=255, help='id of pixels without label (default: %(default)s)')
    parser.add_argument('--confidence', action='store_true', help='write the confidence too')
    parser.add_argument('--tta', action='store_true', help="test-time augmentation, the config's tta_pipeline")
    args = parser.parse_args()
    if not 0 <= args.threshold <= 1:
        parser.error(f'--threshold must be from 0 to 1, but is {args.threshold}')
    images = check_arguments(parser, args)
    stems: dict[str, str] = {}
    for image in images:
        stem = osp.splitext(image.name)[0]
        if [stem] != stem.strip().splitlines() or [image.name] != image.name.strip().splitlines():
            parser.error(f'{image.name!r} cannot stand in images.txt, which has a name a line. Rename it.')
        other = stems.setdefault(stem, image.name)
        if other != image.name:
            parser.error(
                f'{other} and {image.name} would share a label map. Give a pattern that matches one of them, and an '
                '--out-dir for each, or rename one.'
            )
    return args, images


def checkpoint_threshold(loaded: dict, path: str) -> float:
    """The threshold in a checkpoint of a SemiSegmentor that has a single one."""
    value = loaded.get('state_dict', loaded).get('pseudo_labeler.threshold.value')
    if value is None or value.numel() != 1 or not value > 0:
        found = 'one of 0, by which every pixel is labelled' if value is not None and value.numel() == 1 else 'none'
        raise ValueError(
            f'{path} must hold one threshold above 0 (pseudo_labeler.threshold.value) for this option, but holds '
            f'{found}. Give --threshold.'
        )
    return float(value)


def label_settings(args: argparse.Namespace, config: Config, model: BaseModel, pipeline: list) -> dict:
    """What decides about labels; when it differs, labels of two runs must not be mixed."""
    checkpoint = args.checkpoint
    if osp.isfile(checkpoint):
        with open(checkpoint, 'rb') as file:
            checkpoint = hashlib.sha256(file.read()).hexdigest()
    return dict(
        images=osp.abspath(args.images),
        threshold=args.threshold,
        ignore=args.ignore,
        confidence=args.confidence,
        tta=args.tta,
        predict_on=getattr(model, 'predict_on', None),
        checkpoint=checkpoint,
        config=hashlib.sha256(repr((config.model, pipeline)).encode()).hexdigest(),
        classes=model.dataset_meta['classes'],
    )


def summary(folder: LabelFolder, images: list[ImageFile]) -> str:
    """Writes the tables; returns the shares of all finished images, as text."""
    shares = np.array([*folder.write_tables([image.name for image in images]).values()])
    if not len(shares):
        return 'No image is labelled.'
    lines = [
        f'{len(shares)} images, {shares.any(1).sum()} with a label. Threshold {folder.threshold:.4g}: '
        f'{shares.sum(1).mean():.1%} of the pixels have one.'
    ]
    width = max(map(len, folder.classes))
    return '\n'.join(lines + [f'  {name:<{width}} {share:7.2%}' for name, share in zip(folder.classes, shares.mean(0))])


def main() -> None:
    args, images = parse_args()
    try:
        config = load_config(args.config, args.cfg_options)
        pipeline = inference_pipeline(config, args.tta)
        with checkpoints_as_data():
            model, loaded = load_segmentor(config, args.checkpoint, args.device, args.predict_on)
        if args.tta and model.out_channels == 1:
            raise ValueError('--tta needs an output channel for each class, but this network has a single one.')
        if args.threshold_from_checkpoint:
            args.threshold = checkpoint_threshold(loaded, args.checkpoint)
        settings = label_settings(args, config, model, pipeline)
        options = dict(threshold=args.threshold, ignore=args.ignore, part=f'_{args.shard.start}_{args.shard.step}')
        folder = LabelFolder(args.out_dir, settings, **model.dataset_meta, **options)
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error
    own = images[args.shard]
    todo = [image for image in own if not folder.label_path(image.name).exists()]
    if len(todo) < len(own):
        print(f'{len(own) - len(todo)} of {len(own)} images are labelled already')
    network = MeanProbabilityTTA(model) if args.tta else model
    results = predict(network, ImageDataset(todo, pipeline), args.batch_size, args.workers)
    unreadable = []
    for image, sample, error in track(results, 'labelling', total=len(todo)):
        if sample is None:
            unreadable.append(f'{image.path}: {error}')
            continue
        labels, certainty = sample.pred_sem_seg.data[0].cpu().numpy(), confidence(sample).cpu().numpy()
        folder.add(image.name, labels, certainty, args.confidence)
    left = sum(not folder.label_path(image.name).exists() for image in images)
    if left and len(own) < len(images):
        print(f'{left} of {len(images)} images have no labels yet. The last shard writes the tables.')
    else:
        print(summary(folder, images))
    if unreadable:
        raise SystemExit('\n'.join(['Could not be loaded:', *unreadable]))


if __name__ == '__main__':
    main()
