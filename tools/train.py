"""Trains a config.

python tools/train.py configs/derprop/r101_voc_1-4.py [--work-dir DIR] [--resume [CHECKPOINT]] [--amp [bfloat16]]
    [--log-to tensorboard wandb mlflow] [--cfg-options data_root=data/voc ...] [--launcher pytorch]
python tools/train.py BASE_CONFIG --unlabeled FOLDER_OR_LIST [--labeled LIST] [--method NAME] [--crop-size H W] ...

With --unlabeled it makes the config of a plain segmentor semi-supervised, as tools/semi_config.py does, and trains it.
"""

from __future__ import annotations

import argparse
import errno
import importlib.util
import logging
import os
import os.path as osp
import sys
from datetime import timedelta

import torch
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.device import get_device
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

import mmseg_derprop  # noqa: F401  (registers the parts)
from mmseg_derprop.apis.semi_config import add_arguments, make_semi_config
from mmseg_derprop.datasets import BrokenData
from mmseg_derprop.datasets.checks.broken import SettingError
from mmseg_derprop.engine import CheckpointMismatch, CheckpointNotWritten
from mmseg_derprop.utils.checkpoints import check_run, newest_checkpoint
from mmseg_derprop.utils.config import default_work_dir, load_config
from mmseg_derprop.utils.files import FolderInUse
from mmseg_derprop.utils.safe_loading import CheckpointNotRead, checkpoints_as_data

# What a user can mend: one message says how, no traceback.
TOLD = (BrokenData, SettingError, CheckpointNotRead, FolderInUse)
NOT_WRITTEN = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST),
)
# By the names of their packages.
LOGS = dict(tensorboard='TensorboardVisBackend', wandb='WandbVisBackend', mlflow='MLflowVisBackend')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train a segmentor')
    parser.add_argument('config', help='path of the config')
    parser.add_argument('--work-dir', help="for logs and checkpoints (default: work_dirs/FOLDER/NAME, the config's)")
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='resume from a checkpoint; without a path, from the newest whole one in the work dir, if there is one',
    )
    parser.add_argument(
        '--amp',
        nargs='?',
        const='float16',
        choices=('float16', 'bfloat16'),
        help='automatic mixed precision: float16 (without a value; needs an accelerator) or bfloat16',
    )
    parser.add_argument('--log-to', nargs='+', default=[], choices=LOGS, help='log there too, scalars and pictures')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='key=value pairs merged into the config')
    parser.add_argument('--launcher', choices=('none', 'pytorch', 'slurm', 'mpi'), default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)  # given by torch.distributed.launch
    add_arguments(parser.add_argument_group('make a plain config semi-supervised'), required=False)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if args.amp == 'float16' and get_device() == 'cpu':
        parser.error('--amp is float16, which needs an accelerator, and this machine has none: use --amp bfloat16')
    if args.resume not in (None, 'auto') and '://' not in args.resume and not osp.isfile(args.resume):
        parser.error(f'there is no checkpoint {args.resume}')
    if missing := [name for name in args.log_to if importlib.util.find_spec(name) is None]:
        parser.error(f'--log-to {missing[0]} needs its package: pip install {missing[0]}')
    if not args.unlabeled and (args.labeled or args.method or args.crop_size or args.transforms):
        parser.error(
            '--labeled, --method, --crop-size and --transforms make a config semi-supervised: give --unlabeled too'
        )
    return args


def make_semi_supervised(args: argparse.Namespace) -> None:
    """Replaces the config by its semi-supervised version, which it writes into the work dir."""
    options = {key: value for key, value in (args.cfg_options or {}).items() if key == 'data_root'}
    chosen = args.unlabeled, args.labeled, args.method, args.crop_size, args.transforms
    try:
        found = make_semi_config(args.config, *chosen, options)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    name = f'{osp.splitext(osp.basename(args.config))[0]}_{found.method}'
    args.work_dir = args.work_dir or osp.join('work_dirs', name)
    args.config = osp.join(args.work_dir, f'{name}.py')
    found.write(args.config)
    if os.environ.get('RANK', '0') == '0':
        print(f'{found.summary()}\nConfig: {args.config}', file=sys.stderr)


def checkpoint_folder(config: Config) -> str:
    """Where the run writes its checkpoints: the work dir, or one of its name in the hook's ``out_dir``."""
    out_dir = ((config.get('default_hooks') or {}).get('checkpoint') or {}).get('out_dir')
    own = out_dir and out_dir != config.work_dir
    return osp.join(out_dir, osp.basename(config.work_dir.rstrip(osp.sep))) if own else config.work_dir


def find_checkpoint(folder: str) -> str | None:
    """The newest whole checkpoint of a run; others are set aside, so that the run does not write over them."""
    path, refused = newest_checkpoint(folder)
    reasons = ''.join(f'\n  {name}: {reason}' for name, reason in refused.items())
    if refused and path is None:
        raise CheckpointNotRead(
            f'No checkpoint in {folder} can be resumed from:{reasons}\nMove them to begin anew, or name another '
            '--work-dir.'
        )
    if os.environ.get('RANK', '0') == '0':
        for name in refused:
            os.replace(name, f'{name}.refused')
        if refused:
            print(f'WARNING: set aside as *.refused:{reasons}', file=sys.stderr)
        print(f'Resuming from {path}' if path else f'No checkpoint in {folder}: training begins.', file=sys.stderr)
    return path


def log_backend(name: str, work_dir: str) -> dict:
    """Config of the backend that ``--log-to`` names; MLflow's is the server of its environment, or a local database."""
    if name != 'mlflow':
        return dict(type=LOGS[name])
    if server := os.environ.get('MLFLOW_TRACKING_URI'):
        return dict(type=LOGS[name], tracking_uri=server)
    # MLflow refuses the plain folder that is mmengine's default, and has the experiment Default in the current one.
    folder, run = osp.split(osp.abspath(work_dir))
    places = dict(tracking_uri=f'sqlite:///{folder}/mlflow.db', artifact_location=f'file://{folder}/mlruns')
    return dict(type=LOGS[name], exp_name=run, **places)


def train(args: argparse.Namespace) -> None:
    """Trains as asked for."""
    if args.unlabeled:
        make_semi_supervised(args)
    try:
        config = load_config(args.config, args.cfg_options)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f'{args.config}: {error}') from None
    config.launcher = args.launcher
    config.work_dir = args.work_dir or config.get('work_dir') or default_work_dir(args.config)
    if args.amp == 'float16':
        config.optim_wrapper.type = 'AmpOptimWrapper'
        config.optim_wrapper.setdefault('loss_scale', 'dynamic')
    elif args.amp == 'bfloat16':
        config.optim_wrapper.type = 'BFloat16OptimWrapper'
    if args.log_to:
        visualizer = config.setdefault('visualizer', ConfigDict(type='SegLocalVisualizer'))
        known = visualizer.get('vis_backends') or [dict(type='LocalVisBackend')]
        visualizer.vis_backends = [*known, *(log_backend(name, config.work_dir) for name in args.log_to)]
    checkpoint = find_checkpoint(checkpoint_folder(config)) if args.resume == 'auto' else args.resume
    if checkpoint is not None and '://' not in checkpoint:
        check_run(checkpoint)
    if checkpoint is not None:  # a first start with --resume keeps its load_from
        config.resume, config.load_from = True, checkpoint
    if args.launcher == 'pytorch' and not torch.cuda.is_available():
        # mmengine's launcher would call for a CUDA device.
        timeout = config.get('env_cfg', {}).get('dist_cfg', {}).get('timeout')  # seconds, as the engine takes it
        torch.distributed.init_process_group('gloo', timeout=None if timeout is None else timedelta(seconds=timeout))
        # The user's own settings are kept; with device_ids=None DDP takes the CPU.
        own = dict(config.get('model_wrapper_cfg') or dict(type='MMDistributedDataParallel', broadcast_buffers=False))
        own.setdefault('find_unused_parameters', config.get('find_unused_parameters', False))
        config.model_wrapper_cfg = dict(own, device_ids=None)
    try:
        runner = RUNNERS.build(config) if 'runner_type' in config else Runner.from_cfg(config)
    except (TypeError, ValueError) as error:  # an option, of any part
        raise SystemExit(f'{args.config}: {error}') from error
    try:
        runner.train()
    except CheckpointMismatch as error:
        raise SystemExit(f'{config.load_from} does not fit the model of {args.config}. {error}') from None


def main() -> None:
    args = parse_args()
    logging.raiseExceptions = False  # on a full disk a traceback for each line; what must be written ends the run
    try:
        with checkpoints_as_data():
            train(args)
    except (*TOLD, FloatingPointError, FileNotFoundError, ConnectionError) as error:
        raise SystemExit(str(error)) from None
    except CheckpointNotWritten as error:
        raise SystemExit(error.strerror) from None
    except OSError as error:  # of a config or a log
        if error.errno not in NOT_WRITTEN:
            raise
        place = error.filename or 'A file of the work dir'
        raise SystemExit(
            f'{place} could not be written: {error.strerror}. Make room, or name another --work-dir. Checkpoints '
            'are as they were: --resume goes on from them'
        ) from None


if __name__ == '__main__':
    main()
