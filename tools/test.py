"""Evaluates a checkpoint.

python tools/test.py CONFIG CHECKPOINT [--predict-on teacher|student] [--tta] [--out DIR] [--show-dir DIR]
    [--work-dir DIR] [--cfg-options key=value ...] [--launcher pytorch]
"""

from __future__ import annotations

import argparse
import os
import os.path as osp

from mmengine.config import ConfigDict, DictAction
from mmengine.runner import Runner

import mmseg_derprop  # noqa: F401  (registers the parts)
from mmseg_derprop.config import load_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Evaluate a segmentor')
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path of the checkpoint')
    parser.add_argument('--predict-on', choices=('teacher', 'student'), help='which network of a SemiSegmentor')
    parser.add_argument('--tta', action='store_true', help="test-time augmentation, the config's tta_pipeline")
    parser.add_argument('--out', help='folder for the predicted label maps')
    parser.add_argument('--show-dir', help='folder for pictures of the predictions')
    parser.add_argument('--work-dir', help='where logs and metrics go (default: work_dirs/<name of the config>)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='key=value pairs merged into the config')
    parser.add_argument('--launcher', choices=('none', 'pytorch', 'slurm', 'mpi'), default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if not osp.isfile(args.checkpoint) and '://' not in args.checkpoint:
        parser.error(f'there is no checkpoint {args.checkpoint}')
    return args


def main() -> None:
    args = parse_args()
    config = load_config(args.config, args.cfg_options)
    config.launcher = args.launcher
    name = osp.splitext(osp.basename(args.config))[0]
    config.work_dir = args.work_dir or config.get('work_dir') or osp.join('work_dirs', name)
    config.load_from, config.resume = args.checkpoint, False
    if args.predict_on:
        if config.model.type != 'SemiSegmentor':
            raise SystemExit(f'--predict-on chooses a network of a SemiSegmentor; this model is a {config.model.type}')
        config.model.predict_on = args.predict_on
    if args.show_dir:
        config.default_hooks.visualization = dict(type='SegVisualizationHook', draw=True, interval=1)
        config.visualizer.save_dir = args.show_dir
    if args.out:
        config.test_evaluator.update(output_dir=args.out, keep_results=True)
    if args.tta:
        config.test_dataloader.dataset.pipeline = config.tta_pipeline
        config.tta_model.module = config.model
        config.model = ConfigDict(config.tta_model)
    Runner.from_cfg(config).test()


if __name__ == '__main__':
    main()
