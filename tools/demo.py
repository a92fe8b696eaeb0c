"""Shows what DerProp is for, in minutes and without a download.

    python tools/demo.py [--work-dir work_dirs/demo] [--seeds 0] [--cfg-options key=value ...]

Draws the embedded data set (few labelled, many unlabelled images) and trains a small network on the labelled images.
From there, for the same number of steps, the supervised baseline continues with the labelled images alone, and DerProp
with all of them. Evaluates both on held-out images, prints their mIoU and leaves pictures.
"""

from __future__ import annotations

import argparse
import glob
import json
import os.path as osp
import statistics

import cv2
import numpy as np
from mmengine.config import DictAction
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner

from mmseg_derprop.datasets import write_shapes
from mmseg_derprop.engine import PseudoLabelVisualizationHook
from mmseg_derprop.utils.config import load_config
from mmseg_derprop.utils.safe_loading import checkpoints_as_data
from mmseg_derprop.visualization.drawing import paint, panel

CONFIGS = osp.join(osp.dirname(osp.abspath(__file__)), '..', 'configs')
START = osp.join(CONFIGS, 'supervised', 'tiny_shapes.py')
BASELINE = osp.join(CONFIGS, 'supervised', 'tiny_shapes_further.py')
DERPROP = osp.join(CONFIGS, 'derprop', 'tiny_shapes_paper.py')
NUM_LABELED, NUM_UNLABELED, NUM_VAL = 24, 400, 100
NUM_PICTURES = 6


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train and compare on the embedded data set')
    parser.add_argument('--work-dir', default='work_dirs/demo')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0], help='each draws its own data and trains both')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='key=value pairs merged into both configs')
    return parser.parse_args()


def train(config_path: str, work_dir: str, options: dict) -> tuple[Runner, dict[str, float]]:
    """Trains a config and returns its runner and the metrics of its last validation."""
    config = load_config(config_path, options)
    config.work_dir = work_dir
    config.experiment_name = work_dir.replace('/', '_')
    config.train_cfg.val_interval = config.train_cfg.max_iters
    runner = Runner.from_cfg(config)
    if config.model.type == 'SemiSegmentor':
        runner.register_hook(PseudoLabelVisualizationHook(interval=max(1, runner.max_iters // 2), max_images=4))
    runner.train()
    scores = {name: values.current() for name, values in runner.message_hub.log_scalars.items()}
    return runner, {name[4:]: value for name, value in scores.items() if name.startswith('val/')}


def predict(runner: Runner, sample: dict) -> np.ndarray:
    """Label map (H, W) of a sample of the validation set."""
    return runner.model.eval().test_step(pseudo_collate([sample]))[0].pred_sem_seg.data[0].cpu().numpy()


def draw_predictions(baseline: Runner, derprop: Runner, path: str) -> None:
    """A row for each of some validation images: image, truth, both predictions."""
    dataset = baseline.val_dataloader.dataset
    palette = dataset.metainfo['palette']
    rows = []
    for index in range(min(NUM_PICTURES, len(dataset))):
        sample = dataset[index]
        image = np.ascontiguousarray(sample['inputs'].numpy().transpose(1, 2, 0)[..., ::-1])
        truth = sample['data_samples'].gt_sem_seg.data[0].numpy()
        rows.append(
            [
                ('image', image),
                ('truth', paint(truth, palette)),
                ('supervised baseline', paint(predict(baseline, sample), palette)),
                ('DerProp', paint(predict(derprop, sample), palette)),
            ]
        )
    cv2.imwrite(path, panel(rows)[..., ::-1])


def run_seed(work_dir: str, seed: int, options: dict) -> dict[str, float]:
    """Draws the data, trains both, draws pictures; returns the mIoUs."""
    data_root = osp.join(work_dir, 'data')
    write_shapes(data_root, NUM_LABELED, NUM_UNLABELED, NUM_VAL, seed=seed)
    options = {**options, 'data_root': data_root, 'randomness.seed': seed}
    start, _ = train(START, osp.join(work_dir, 'start'), options)
    options['load_from'] = osp.join(start.work_dir, f'iter_{start.max_iters}.pth')
    baseline, baseline_metrics = train(BASELINE, osp.join(work_dir, 'supervised'), options)
    derprop, derprop_metrics = train(DERPROP, osp.join(work_dir, 'derprop'), options)
    draw_predictions(baseline, derprop, osp.join(work_dir, 'predictions.png'))
    return {
        'supervised baseline': float(baseline_metrics['mIoU']),
        'DerProp, student': float(derprop_metrics['student/mIoU']),
        'DerProp, teacher': float(derprop_metrics['teacher/mIoU']),
    }


def main() -> None:
    args = parse_args()
    with checkpoints_as_data():
        scores = [run_seed(osp.join(args.work_dir, f'seed_{s}'), s, dict(args.cfg_options or {})) for s in args.seeds]
    with open(osp.join(args.work_dir, 'scores.json'), 'w') as file:
        json.dump(dict(zip(map(str, args.seeds), scores)), file, indent=1)
    print(f'\n{NUM_LABELED} labelled and {NUM_UNLABELED} unlabelled images; mIoU on {NUM_VAL} others:\n')
    for name in scores[0]:
        values = [score[name] for score in scores]
        each = '' if len(values) == 1 else f'   seeds: {", ".join(f"{v:.1f}" for v in values)}'
        print(f'  {name:<22}{statistics.mean(values):6.1f}{each}')
    folder = osp.join(args.work_dir, f'seed_{args.seeds[-1]}')
    print(f'\npictures: {osp.join(folder, "predictions.png")}')
    for path in sorted(glob.glob(osp.join(folder, 'derprop', '*', 'vis_data', 'vis_image', 'pseudo_labels*'))):
        print(f'          {path}')


if __name__ == '__main__':
    main()
