"""Evaluates a checkpoint.

python tools/test.py CONFIG CHECKPOINT [--predict-on teacher|student|both] [--mode whole|slide] [--crop-size H W]
    [--stride H W] [--tta] [--json FILE] [--out DIR] [--show-dir DIR] [--work-dir DIR]
    [--cfg-options key=value ...] [--launcher pytorch]

The config's model is a SemiSegmentor or any plain segmentor. Prints a table of the classes of each network.
"""

from __future__ import annotations

import argparse
import json
import os
import os.path as osp

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.runner import Runner

import mmseg_derprop  # noqa: F401  (registers the parts)
from mmseg_derprop.engine import CheckpointMismatch
from mmseg_derprop.utils.config import default_work_dir, load_config, type_name
from mmseg_derprop.utils.safe_loading import CheckpointNotRead, checkpoints_as_data


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Evaluate a segmentor')
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path of the checkpoint')
    parser.add_argument('--predict-on', choices=('teacher', 'student', 'both'), help='networks of a SemiSegmentor')
    parser.add_argument('--mode', choices=('whole', 'slide'), help="whole images or windows (default: the config's)")
    parser.add_argument('--crop-size', type=int, nargs=2, metavar=('H', 'W'), help='window of --mode slide')
    parser.add_argument('--stride', type=int, nargs=2, metavar=('H', 'W'), help='its step (default: 2/3 of it)')
    parser.add_argument('--tta', action='store_true', help="test-time augmentation, the config's tta_pipeline")
    parser.add_argument('--json', help='file for the scores, unrounded, those of each class too')
    parser.add_argument('--out', help='folder for the predicted label maps')
    parser.add_argument('--show-dir', help='folder for pictures of the predictions')
    parser.add_argument('--work-dir', help='where logs and metrics go (default: test, in the work dir of training)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='key=value pairs merged into the config')
    parser.add_argument('--launcher', choices=('none', 'pytorch', 'slurm', 'mpi'), default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if not osp.isfile(args.checkpoint) and '://' not in args.checkpoint:
        parser.error(f'there is no checkpoint {args.checkpoint}')
    if args.show_dir and args.predict_on == 'both':
        parser.error('--show-dir draws the predictions of one network: give --predict-on teacher or student')
    if (args.crop_size or args.stride) and args.mode != 'slide':
        parser.error('--crop-size and --stride are of --mode slide')
    if min((args.crop_size or []) + (args.stride or []), default=1) < 1:
        parser.error(f'--crop-size = {args.crop_size}, --stride = {args.stride}: at least 1 pixel is needed')
    return args


def choose_networks(config: Config, predict_on: str | None) -> list[str]:
    """Sets which networks are asked; returns their names, '' for a plain segmentor."""
    if 'segmentor' not in config.model:
        if predict_on:
            raise SystemExit(f'--predict-on chooses a network of a SemiSegmentor; this model is a {config.model.type}')
        return ['']
    if predict_on == 'both':
        config.test_cfg = dict(type='TeacherStudentTestLoop')
        return ['teacher', 'student']
    config.model.predict_on = predict_on or config.model.get('predict_on', 'teacher')
    return [config.model.predict_on]


def set_mode(config: Config, mode: str, crop_size: list[int] | None, stride: list[int] | None) -> None:
    """Sets the segmentor's test_cfg."""
    segmentor = config.model.get('segmentor', config.model)
    old = segmentor.get('test_cfg') or {}
    segmentor.test_cfg = ConfigDict(mode=mode)
    if mode == 'slide':
        crop_size = crop_size or old.get('crop_size')
        if not crop_size:
            raise SystemExit("--mode slide needs --crop-size H W, which the config's test_cfg does not have")
        stride = stride or old.get('stride') or [max(1, 2 * size // 3) for size in crop_size]
        if any(step > size for step, size in zip(stride, crop_size)):
            raise SystemExit(
                f'--stride {stride} leaves gaps between windows of {crop_size}: it may be as large at most'
            )
        segmentor.test_cfg.update(crop_size=tuple(crop_size), stride=tuple(stride))


def set_metric(config: Config, out: str | None, unrounded: bool) -> None:
    """Sets where the evaluator writes label maps, and whether it keeps unrounded scores."""
    evaluators = config.test_evaluator if isinstance(config.test_evaluator, list) else [config.test_evaluator]
    metric = next((evaluator for evaluator in evaluators if type_name(evaluator).endswith('IoUMetric')), None)
    if metric is None:
        raise SystemExit('--out and --json need an IoUMetric in test_evaluator; it has none')
    if out:
        metric.update(output_dir=out, keep_results=True)
    if unrounded:
        metric.type = 'UnroundedIoUMetric'


def write_tables(runner: Runner, networks: list[str], path: str) -> None:
    """Writes the unrounded scores of each network."""
    evaluators = getattr(runner.test_loop, 'evaluators', {networks[0]: runner.test_loop.evaluator})
    metrics = {name: next(m for m in e.metrics if hasattr(m, 'table')) for name, e in evaluators.items()}
    tables = {name or 'segmentor': metric.table for name, metric in metrics.items()}
    os.makedirs(osp.dirname(osp.abspath(path)), exist_ok=True)
    with open(path, 'w') as file:
        json.dump(tables, file, indent=1, allow_nan=False)


def test(args: argparse.Namespace) -> None:
    """Evaluates as asked for."""
    try:
        config = load_config(args.config, args.cfg_options)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f'{args.config}: {error}') from None
    config.launcher = args.launcher
    # Not the run's own folder, whose config MMEngine would overwrite with that of the test.
    config.work_dir = args.work_dir or osp.join(config.get('work_dir') or default_work_dir(args.config), 'test')
    config.load_from, config.resume = args.checkpoint, False
    networks = choose_networks(config, args.predict_on)
    needed = [f'{network}.' if network else '' for network in networks]
    config.custom_hooks = [*(config.get('custom_hooks') or []), dict(type='StrictLoadHook', needed=needed)]
    if args.mode:
        set_mode(config, args.mode, args.crop_size, args.stride)
    if args.show_dir:
        config.setdefault('default_hooks', {})
        config.setdefault('visualizer', dict(type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')]))
        config.default_hooks.visualization = dict(type='SegVisualizationHook', draw=True, interval=1)
        config.visualizer.save_dir = args.show_dir
    if args.out or args.json:
        set_metric(config, args.out, bool(args.json))
    if args.tta:
        if 'tta_pipeline' not in config or 'tta_model' not in config:
            raise SystemExit('--tta needs tta_pipeline and tta_model in the config (configs/_base_/default_runtime.py)')
        config.test_dataloader.dataset.pipeline = config.tta_pipeline
        config.tta_model.module = config.model
        config.model = ConfigDict(config.tta_model)
    runner = Runner.from_cfg(config)
    try:
        runner.test()
    except CheckpointMismatch as error:
        raise SystemExit(f'{args.checkpoint} does not fit the model of {args.config}. {error}') from None
    if args.json and runner.rank == 0:
        write_tables(runner, networks, args.json)


def main() -> None:
    args = parse_args()
    try:
        with checkpoints_as_data():
            test(args)
    except CheckpointNotRead as error:
        raise SystemExit(str(error)) from None


if __name__ == '__main__':
    main()
