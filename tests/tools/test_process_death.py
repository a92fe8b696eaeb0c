"""One of two processes dies, or hangs, in the middle of an iteration: the other one ends, and says so."""

import multiprocessing
import os
import runpy
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
from mmengine.hooks import Hook
from mmseg.registry import HOOKS

TRAIN = Path(__file__).resolve().parents[2] / 'tools/train.py'
TIMEOUT = 4


@HOOKS.register_module(force=True)
class End(Hook):
    """Ends process 1's part between the forward and the backward pass of iteration 2."""

    def __init__(self, what):
        self.what = what

    def before_train(self, runner):
        if runner.rank == 1:
            runner.model.module.register_forward_hook(lambda *_: self.end(runner))

    def end(self, runner):
        if runner.iter < 1:
            return
        Path(runner.work_dir, 'marker').touch()
        if self.what == 'dies':
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(1000)


def train(rank, port, config, work_dir):
    """tools/train.py as a launcher would start it, in a process that has imported everything."""
    with open(f'{work_dir}.{rank}.log', 'w') as log:
        os.dup2(log.fileno(), 1), os.dup2(log.fileno(), 2)
    sys.stdout, sys.stderr = (os.fdopen(number, 'w', buffering=1) for number in (1, 2))
    group = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=port, WORLD_SIZE='2', RANK=str(rank), LOCAL_RANK=str(rank))
    os.environ.update(group)
    sys.argv = [str(TRAIN), config, '--launcher', 'pytorch', '--work-dir', work_dir]
    runpy.run_path(str(TRAIN), run_name='__main__')


@pytest.mark.parametrize('what', ['dies', 'hangs'])
def test_a_process(what, semi_config, tmp_path):
    config, work_dir = semi_config({'env_cfg.dist_cfg.timeout': TIMEOUT}), str(tmp_path / 'work')
    config.custom_hooks.append(dict(type='End', what=what))
    config.val_dataloader = config.val_cfg = config.val_evaluator = None
    config.test_dataloader = config.test_cfg = config.test_evaluator = None
    config.dump(tmp_path / 'config.py')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    context = multiprocessing.get_context('fork')
    arguments = (port, str(tmp_path / 'config.py'), work_dir)
    processes = [context.Process(target=train, args=(rank, *arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    try:
        processes[0].join(90)
        said = Path(f'{work_dir}.0.log').read_text()
        waited = time.time() - Path(work_dir, 'marker').stat().st_mtime
        assert processes[0].exitcode == 1 and 'Error' in said, said[-2000:]
        assert waited < TIMEOUT + 10
        if what == 'hangs':
            assert processes[1].is_alive() and (f'{1000 * TIMEOUT}ms' in said or 'imed out' in said), said[-3000:]
    finally:
        for process in processes:
            process.kill()
            process.join()
