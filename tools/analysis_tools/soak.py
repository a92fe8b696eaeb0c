"""Trains long and watches what a long run must not lose: memory, open files, threads, the time of a step.

    python tools/analysis_tools/soak.py [CONFIG] [--iterations 20000] [--samples 100] [--out FILE] [--cfg-options ...]

The config runs through MMEngine's runner as in tools/train.py, with its loader workers, validation and checkpoints. At
regular intervals the main process and its workers are measured, from /proc, so this needs Linux:

    memory     MiB resident in the main process
    workers    the same of its workers, summed
    files      open files of all
    threads    of all
    cpu_ms     the main process's processor time an iteration; other work on the machine changes it by some percent
    wall_ms    the duration of an iteration; of both times the median, so validation and checkpoints do not show

The first quarter is warm-up. The last quarter is compared with the second; the exit status is 1 where memory, files
or threads grew by the limit or more, or processor time by its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from pathlib import Path
from statistics import median

from mmengine.config import DictAction
from mmengine.hooks import Hook
from mmengine.runner import Runner

import mmseg_derprop  # noqa: F401  (registers the parts)
from mmseg_derprop.config import load_config
from mmseg_derprop.trust import CheckpointNotRead, add_trust_option, checkpoints_as_data

STEADY = ('memory', 'workers', 'files', 'threads')
PAGE = os.sysconf('SC_PAGE_SIZE')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train long, and fail where the process grows')
    default = Path(__file__).with_name('soak_config.py')
    parser.add_argument('config', nargs='?', default=default, help='path of the config (default: a tiny one)')
    parser.add_argument('--iterations', type=int, default=20_000)
    parser.add_argument('--samples', type=int, default=100, help='measurements in the run')
    parser.add_argument('--limit', type=float, default=1.0, help='growth of memory, files and threads, in percent')
    parser.add_argument('--time-limit', type=float, default=5.0, help='growth of processor time, in percent')
    parser.add_argument('--work-dir', default='work_dirs/soak')
    parser.add_argument('--out', help='file for the measurements, a JSON line each')
    add_trust_option(parser)
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='key=value pairs merged into the config')
    args = parser.parse_args()
    if not Path('/proc/self/statm').exists():
        parser.error('there is no /proc/self/statm: this tool needs Linux')
    if args.samples < 8 or args.iterations < args.samples:
        parser.error(
            f'--samples {args.samples} --iterations {args.iterations}: take at least 8 samples and an iteration each'
        )
    return args


def measure() -> dict[str, float]:
    """What this process and its workers hold."""
    processes = [Path('/proc', str(pid)) for pid in (os.getpid(), *(p.pid for p in multiprocessing.active_children()))]
    memory = [int((p / 'statm').read_text().split()[1]) * PAGE / 2**20 for p in processes]
    return {
        'memory': memory[0],
        'workers': sum(memory[1:]),
        'files': sum(len(os.listdir(p / 'fd')) for p in processes),
        'threads': sum(len(os.listdir(p / 'task')) for p in processes),
    }


class SoakHook(Hook):
    """Measures at regular intervals.

    Args:
        interval (int): Iterations between two measurements.
        out (str, optional): File for them.
    """

    priority = 'LOWEST'

    def __init__(self, interval: int, out: str | None = None) -> None:
        self.interval = interval
        self.out = out
        self.samples: list[dict[str, float]] = []
        self.begin_interval()

    def begin_interval(self) -> None:
        self.durations: list[float] = []
        self.cpu: list[float] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        # Loading comes before this: what is timed are the step and all hooks but this one.
        self.start = time.perf_counter(), time.process_time()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        self.durations.append(time.perf_counter() - self.start[0])
        self.cpu.append(time.process_time() - self.start[1])
        if len(self.durations) < self.interval:
            return
        times = {'cpu_ms': 1000 * median(self.cpu), 'wall_ms': 1000 * median(self.durations)}
        self.samples.append({'iteration': batch_idx + 1, **measure(), **times})
        if self.out:
            with open(self.out, 'a') as file:
                file.write(json.dumps(self.samples[-1]) + '\n')
        self.begin_interval()


def growth(samples: list[dict[str, float]], name: str) -> tuple[float, float]:
    """Medians of the second and the last quarter of the samples."""
    quarter = len(samples) // 4
    values = [sample[name] for sample in samples]
    return median(values[quarter : 2 * quarter]), median(values[-quarter:])


def main() -> None:
    args = parse_args()
    config = load_config(str(args.config), args.cfg_options)
    config.work_dir = args.work_dir
    config.train_cfg.max_iters = args.iterations
    if args.out:
        Path(args.out).write_text('')
    runner = Runner.from_cfg(config)
    soak = SoakHook(args.iterations // args.samples, args.out)
    runner.register_hook(soak)
    try:
        with checkpoints_as_data(args.trust_checkpoint):
            runner.train()
    except CheckpointNotRead as error:
        raise SystemExit(str(error)) from None

    grown = []
    print(f'{"":9}{"before":>10}{"after":>10}{"growth":>9}   (medians of the second and the last quarter)')
    for name in (*STEADY, 'cpu_ms', 'wall_ms'):
        before, after = growth(soak.samples, name)
        percent = 100 * (after / before - 1) if before else 0.0
        print(f'{name:9}{before:10.2f}{after:10.2f}{percent:8.2f}%')
        limit = args.limit if name in STEADY else args.time_limit
        if name != 'wall_ms' and percent >= limit:
            grown.append(f'{name} grew by {percent:.2f} %, the limit is {limit} %')
    if grown:
        sys.exit('; '.join(grown))


if __name__ == '__main__':
    main()
