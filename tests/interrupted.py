"""Runs in processes of their own that are killed or stopped, and resume from what their folder holds."""

import copy
import itertools
import multiprocessing
import os
import signal
import socket
import sys
import time
from functools import partial
from pathlib import Path

import torch
from mmengine.config import ConfigDict
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from mmseg_derprop.utils.checkpoints import newest_checkpoint, read_checkpoint

ITERATIONS = 10
_names = itertools.count()


@HOOKS.register_module()
class Touch(Hook):
    """Tells the other process how far this one is, and may kill this one."""

    def __init__(self, kill_in_validation=None, wait_in_validation=None):
        self.kill_in_validation = kill_in_validation
        self.wait_in_validation = wait_in_validation

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        Path(runner.work_dir, 'reached').write_text(str(batch_idx))

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if self.kill_in_validation == runner.iter:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.wait_in_validation == runner.iter:
            Path(runner.work_dir, 'validates').touch()
            time.sleep(60)

    def after_train(self, runner):
        torch.save(runner.model.state_dict(), f'{runner.work_dir}/end.{get_rank()}')


class Run:
    """A run in a forked process, which has imported everything; it resumes from what its folder holds."""

    def __init__(self, config, folder, prepare=lambda: None, rank=0):
        self.folder = Path(folder)
        config = copy.deepcopy(config)
        config.work_dir = str(folder)
        config.experiment_name = config.visualizer.name = f'exact_{next(_names)}'
        self.log = Path(f'{folder}.{rank}.log')
        (self.folder / 'reached').unlink(missing_ok=True)
        self.process = multiprocessing.get_context('fork').Process(target=self._train, args=(config, prepare))
        self.process.start()

    def _train(self, config, prepare):
        os.setsid()
        with open(self.log, 'w') as file:
            os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = (os.fdopen(number, 'w', buffering=1) for number in (1, 2))
        path, _ = newest_checkpoint(config.work_dir)
        if path:
            config.resume, config.load_from = True, path
        prepare()
        Runner.from_cfg(config).train()

    def end(self):
        """Its exit status."""
        self.process.join(120)
        return self.process.exitcode

    def succeeds(self):
        assert self.end() == 0, self.log.read_text()[-3000:]
        return self

    def wait_for(self, iteration):
        """Until it is in an iteration."""
        path, end = self.folder / 'reached', time.monotonic() + 60
        while not (path.exists() and int(path.read_text() or -1) >= iteration):
            assert self.process.is_alive() and time.monotonic() < end, self.log.read_text()[-3000:]
            time.sleep(0.005)
        return self

    def wait_for_validation(self):
        while not (self.folder / 'validates').exists():
            assert self.process.is_alive(), self.log.read_text()[-3000:]
            time.sleep(0.005)
        return self

    def begins(self):
        """Until it trains, or has ended."""
        while self.process.is_alive() and not (self.folder / 'reached').exists():
            time.sleep(0.005)

    def kill(self, after):
        """Kills it after seconds, unless it ends before; returns whether."""
        self.process.join(after)
        killed = self.process.exitcode is None
        if killed:
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()  # with a limit it would wait for the workers too, which notice within 5 seconds
        return killed

    def left(self):
        """Its processes that are still there."""
        found = []
        for path in Path('/proc').glob('[0-9]*/stat'):
            try:
                state, _, group = path.read_text().rsplit(')', 1)[1].split()[:3]
            except OSError:
                continue
            if int(group) == self.process.pid and state != 'Z':
                found.append(path.parent.name)
        return found

    def saved(self):
        return sorted(path.name for path in self.folder.glob('*.pth'))


class Group:
    """A run of several processes on gloo."""

    def __init__(self, config, folder, processes=2):
        config = copy.deepcopy(config)
        config.launcher = 'pytorch'
        # As the engine wraps a model, but for the device.
        unused = config.get('find_unused_parameters', False)
        wrapper = dict(type='MMDistributedDataParallel', broadcast_buffers=False, find_unused_parameters=unused)
        config.model_wrapper_cfg = ConfigDict(wrapper, device_ids=None)
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            port = str(free.getsockname()[1])
        self.runs = [Run(config, folder, partial(join, port, rank, processes), rank) for rank in range(processes)]

    def kill(self, after):
        """Kills all processes after seconds, unless the first ends before; returns whether."""
        self.runs[0].process.join(after)
        killed = self.runs[0].process.exitcode is None
        if killed:
            for run in self.runs:
                os.killpg(run.process.pid, signal.SIGKILL)
        for run in self.runs:
            run.process.join()
        return killed

    def succeeds(self):
        for run in self.runs:
            run.succeeds()
        return self.runs[0]


def join(port, rank, processes):
    """Makes this process one of several; the engine's launcher would set a CUDA device first."""
    os.environ.update(
        MASTER_ADDR='127.0.0.1', MASTER_PORT=port, WORLD_SIZE=str(processes), RANK=str(rank), LOCAL_RANK=str(rank)
    )
    torch.distributed.init_process_group('gloo')


def assert_same(found, wanted, name=''):
    """Bit for bit, through dicts and lists."""
    if isinstance(wanted, torch.Tensor):
        assert torch.equal(found, wanted), name
    elif isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), name
        for key in wanted:
            assert_same(found[key], wanted[key], f'{name}.{key}')
    elif isinstance(wanted, (list, tuple)):
        assert len(found) == len(wanted), name
        for index, pair in enumerate(zip(found, wanted)):
            assert_same(*pair, f'{name}[{index}]')
    else:
        assert found == wanted, name


def assert_same_end(folder, other, iteration=ITERATIONS):
    found, wanted = (read_checkpoint(str(f / f'iter_{iteration}.pth')) for f in (folder, other))
    for key in ('state_dict', 'optimizer', 'param_schedulers'):
        assert_same(found[key], wanted[key], key)
    for key in ('pseudo_label_epoch', 'teacher_steps', 'best_score'):
        assert_same(*(c['message_hub']['runtime_info'].get(key) for c in (found, wanted)), key)
