"""Draws what a config trains on, before it trains.

    python tools/analysis_tools/browse_dataset.py CONFIG [--out-dir DIR] [--number N] [--cfg-options ...]

A picture a batch: labelled crops with their labels, and for each unlabelled image every branch, the CutMix box, the
strong view as the student will see it (its box filled by the partner, or by a labelled image), and what is ignored.
The classes' colours stand below.
"""

from __future__ import annotations

import argparse
import os.path as osp

import cv2
import mmengine
import numpy as np
from mmengine.config import DictAction
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, set_random_seed
from rich.progress import track

import mmseg_derprop  # noqa: F401  (registers the parts)
from mmseg_derprop.models.parts import CutMixOptions
from mmseg_derprop.utils.config import load_config
from mmseg_derprop.visualization.drawing import legend, outline, overlay, paint, panel, to_rgb


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Draw the training data of a config')
    parser.add_argument('config', help='path of the config')
    parser.add_argument('--out-dir', default='work_dirs/browse', help='folder for the pictures')
    parser.add_argument('--number', type=int, default=4, help='how many batches')
    parser.add_argument('--bands', type=int, nargs=3, default=(2, 1, 0), help='channels in red, green and blue')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='key=value pairs merged into the config')
    return parser.parse_args()


def draw_labeled(image, sample, palette) -> list[tuple[str, np.ndarray]]:
    labels = sample.gt_sem_seg.data[0].numpy()
    name = osp.basename(sample.img_path)
    return [(f'sup {name}', image), ('labels (white: ignored)', overlay(image, paint(labels, palette)))]


def draw_unlabeled(inputs, samples, index, filling, palette) -> list[tuple[str, np.ndarray]]:
    ignored = samples['weak'][index].ignore_map.data[0].numpy().astype(bool)
    pictures = [(f'weak {osp.basename(samples["weak"][index].img_path)}', inputs['weak'][index])]
    x1, y1, x2, y2 = samples['strong'][index].cutmix_box
    box = np.zeros(ignored.shape, bool)
    box[y1:y2, x1:x2] = True
    strong = inputs['strong'][index]
    pictures.append(('strong, CutMix box', outline(strong, box)))
    pictures += [(name, inputs[name][index]) for name in ('weak_mix', 'strong_mix') if name in inputs]
    pictures.append(('what the student sees', np.where(box[..., None], filling, strong)))
    pictures.append(('ignored (white)', np.repeat(np.uint8(255) * ignored[..., None], 3, axis=2)))
    if 'gt_sem_seg' in samples['weak'][index]:
        labels = samples['weak'][index].gt_sem_seg.data[0].numpy()
        pictures.append(('truth, for the log only', paint(labels, palette)))
    return pictures


def main() -> None:
    args = parse_args()
    config = load_config(args.config, args.cfg_options)
    init_default_scope(config.get('default_scope', 'mmseg'))
    set_random_seed(args.seed)
    settings = dict(config.train_dataloader, num_workers=0, persistent_workers=False)
    if dict(settings.get('collate_fn', {})).get('type') != 'semi_collate':
        raise SystemExit(
            f'{args.config} has no labelled and unlabelled branches (train_dataloader.collate_fn is not semi_collate); '
            "for a plain MMSegmentation config use that project's browse_dataset.py."
        )
    cutmix = CutMixOptions(**config.model.get('cutmix') or {})
    loader = Runner.build_dataloader(settings, seed=args.seed)
    palette = loader.dataset.metainfo['palette']
    mmengine.mkdir_or_exist(args.out_dir)
    for number, batch in zip(track(range(args.number), 'drawing'), loader):
        samples = batch['data_samples']
        # Each branch as pictures.
        inputs = {name: [to_rgb(i.numpy(), args.bands) for i in images] for name, images in batch['inputs'].items()}
        rows = [draw_labeled(i, s, palette) for i, s in zip(inputs['sup'], samples['sup'])]
        fillings = inputs.get('strong_mix') or [
            inputs['strong'][i] for i in cutmix.partner_of(len(inputs['weak']), 'cpu')
        ]
        for index, filling in enumerate(fillings):
            rows.append(draw_unlabeled(inputs, samples, index, filling, palette))
        path = osp.join(args.out_dir, f'batch_{number}.png')
        sheet = panel(rows)
        names = legend(loader.dataset.metainfo['classes'], palette, sheet.shape[1])
        cv2.imwrite(path, np.concatenate([sheet, names])[..., ::-1])
        print(path)


if __name__ == '__main__':
    main()
