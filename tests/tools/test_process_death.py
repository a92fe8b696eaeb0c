"""One of two processes dies, or hangs, in the middle of an iteration: the run ends, and says so."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 6
PROCESS = '''
"""tools/train.py, in which process 1 ends its part between the forward and the backward pass of iteration 2."""
import os, runpy, signal, sys, time
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmseg.registry import HOOKS

torch.set_num_threads(1)
what, marker = sys.argv.pop(1), Path(sys.argv.pop(1))


@HOOKS.register_module()
class End(Hook):
    def before_train(self, runner):
        if runner.rank == 1:
            runner.model.module.register_forward_hook(lambda *_: self.end(runner))

    def end(self, runner):
        if runner.iter == 1:
            marker.write_text('reached')
            if what == 'dies':
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(1000)


sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name='__main__')
'''


@pytest.fixture
def command(semi_config, tmp_path):
    """Makes the command of a process."""
    script, config = tmp_path / 'process.py', semi_config({'env_cfg.dist_cfg.timeout': TIMEOUT})
    config.custom_hooks.append(dict(type='End'))
    config.val_dataloader = config.val_cfg = config.val_evaluator = None
    config.test_dataloader = config.test_cfg = config.test_evaluator = None
    config.dump(tmp_path / 'config.py')
    script.write_text(PROCESS)
    return lambda what: [
        *(str(script), what, str(tmp_path / 'marker'), str(ROOT / 'tools/train.py'), str(tmp_path / 'config.py')),
        *('--launcher', 'pytorch', '--work-dir', str(tmp_path / 'work')),
    ]


def environment(**changes):
    return {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore', **changes}


def seconds_since(marker):
    return time.time() - marker.stat().st_mtime


def test_a_process_dies(command, tmp_path):
    """Without a launcher that would see it: the other one notices by itself."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    group = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=port, WORLD_SIZE='2')
    running = [
        subprocess.Popen(
            [sys.executable, *command('dies')],
            cwd=tmp_path,
            env=environment(**group, RANK=str(rank), LOCAL_RANK=str(rank)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=120)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert (tmp_path / 'marker').exists(), said
    assert seconds_since(tmp_path / 'marker') < TIMEOUT + 10
    assert running[1].returncode == -9
    assert running[0].returncode == 1 and 'Error' in said[0], said[0][-2000:]


def test_a_process_hangs(command, tmp_path):
    """The other one's time runs out, and the launcher ends both."""
    launch = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
    done = subprocess.run(
        [*launch, *command('hangs')], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=150
    )
    assert (tmp_path / 'marker').exists(), done.stderr[-2000:]
    assert seconds_since(tmp_path / 'marker') < TIMEOUT + 20
    assert done.returncode != 0
    assert f'{1000 * TIMEOUT}ms' in done.stderr or 'imed out' in done.stderr, done.stderr[-3000:]
