"""Draws what a checkpoint sees in images.

    python tools/image_demo.py IMAGES CONFIG CHECKPOINT [--out-dir DIR] [--opacity 0.5] [--legend] [--side-by-side]
        [--predict-on teacher|student] [--device cuda|cpu] [--batch-size N] [--workers N] [--shard I/N]
        [--resume] [--cfg-options ...]

IMAGES is an image, a folder or a quoted pattern. The pictures have the names of the images, subfolders included.
Configs and checkpoints of plain MMSegmentation work as well.
"""

from __future__ import annotations

import argparse
import os
import os.path as osp

import cv2
import numpy as np
from rich.progress import track

import mmseg_derprop  # noqa: F401  (registers the parts)
from mmseg_derprop.apis.image_files import ImageFile, add_arguments, check_arguments, result_path
from mmseg_derprop.apis.inference import ImageDataset, inference_pipeline, load_segmentor, predict
from mmseg_derprop.utils.config import load_config
from mmseg_derprop.utils.files import write_bytes
from mmseg_derprop.utils.safe_loading import checkpoints_as_data
from mmseg_derprop.visualization.drawing import legend, overlay, paint, to_rgb


def parse_args() -> tuple[argparse.Namespace, list[ImageFile]]:
    parser = argparse.ArgumentParser(description='Draw the predictions of a segmentor over images')
    add_arguments(parser)
    parser.add_argument('--out-dir', default='work_dirs/image_demo', help='folder for the pictures')
    parser.add_argument('--opacity', type=float, default=0.5, help='of the colours, 0 to 1 (default: %(default)s)')
    parser.add_argument('--legend', action='store_true', help='names of the classes that are seen, below the picture')
    parser.add_argument('--bands', type=int, nargs=3, default=(2, 1, 0), help='channels in red, green and blue')
    parser.add_argument('--side-by-side', action='store_true', help='the image beside the picture')
    parser.add_argument('--resume', action='store_true', help='keep the pictures that exist')
    args = parser.parse_args()
    if not 0 <= args.opacity <= 1:
        parser.error(f'--opacity must be from 0 to 1, but is {args.opacity}')
    images = check_arguments(parser, args)
    for image in images:
        out = result_path(args.out_dir, image.name)
        if osp.exists(out) and osp.samefile(out, image.path):
            parser.error(f'{out} would replace the image. Name another --out-dir.')
    images = images[args.shard]
    if args.resume:
        images = [image for image in images if not result_path(args.out_dir, image.name).exists()]
    return args, images


def loaded(dataset: ImageDataset, image: ImageFile) -> np.ndarray:
    results = dict(img_path=image.path)
    for transform in dataset.pipeline.transforms:
        results = transform(results) if 'Load' in type(transform).__name__ else results
    return np.atleast_3d(results['img']).transpose(2, 0, 1)


def draw(image: np.ndarray, labels: np.ndarray, meta: dict, args: argparse.Namespace) -> np.ndarray:
    """The picture of an image (H, W, 3) uint8 RGB and its labels (H, W)."""
    picture = overlay(image, paint(labels, meta['palette']), args.opacity)
    if args.side_by_side:
        picture = np.concatenate([image, picture], axis=1)
    if args.legend:
        seen = np.unique(labels)
        names, colours = ([meta[key][number] for number in seen] for key in ('classes', 'palette'))
        picture = np.concatenate([picture, legend(names, colours, picture.shape[1])])
    return picture


def main() -> None:
    args, images = parse_args()
    try:
        config = load_config(args.config, args.cfg_options)
        dataset = ImageDataset(images, inference_pipeline(config))
        with checkpoints_as_data():
            model, _ = load_segmentor(config, args.checkpoint, args.device, args.predict_on)
        os.makedirs(args.out_dir, exist_ok=True)
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error
    unreadable = []
    results = predict(model, dataset, args.batch_size, args.workers)
    for image, sample, error in track(results, 'predicting', total=len(images)):
        if sample is None:
            unreadable.append(f'{image.path}: {error}')
            continue
        labels = sample.pred_sem_seg.data[0].cpu().numpy()
        picture = draw(to_rgb(loaded(dataset, image), args.bands), labels, model.dataset_meta, args)
        path = result_path(args.out_dir, image.name)
        write_bytes(path, cv2.imencode(path.suffix, picture[..., ::-1])[1].tobytes())
    print(f'{len(images) - len(unreadable)} of {len(images)} pictures in {args.out_dir}')
    if unreadable:
        raise SystemExit('\n'.join(['Could not be loaded:', *unreadable]))


if __name__ == '__main__':
    main()
