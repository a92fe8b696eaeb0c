"""Trains long and watches what a long run must not lose: memory, open files, threads, the time of a step.

    python tools/analysis_tools/soak.py [CONFIG] [--iterations 20000] [--samples 100] [--out FILE] [--cfg-options ...]

The config runs through MMEngine's runner as in tools/train.py, with its loader workers, validation and checkpoints. At
regular intervals the main process and its workers are measured, from /proc, so this needs Linux:

    memory     MiB resident in the main process
    workers    the same of its workers, summed
    files      open files of all
    threads    of all
    cpu_ms     the main process's processor time an iteration, of all its threads
    wall_ms    the duration of an iteration; of both times the median, so validation and checkpoints do not show
    yardstick  the processor time, in ms, of a fixed piece of work in a process of its own that does nothing else
    relative   cpu_ms / yardstick: other work on the machine, which shares its caches, slows down both

The first quarter is warm-up. The last quarter is compared with the second; the exit status is 1 where memory, files
or threads grew by the limit or more, or the relative time by its own. Beside the growth stands its standard error, from
how much the measurements of a quarter scatter: a drift below some two of them is not seen.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from math import hypot, inf
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median, pstdev

import torch
from mmengine.config import DictAction
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

import mmseg_derprop  # noqa: F401  (registers the parts)
from mmseg_derprop.utils.config import load_config
from mmseg_derprop.utils.safe_loading import CheckpointNotRead, add_trust_option, checkpoints_as_data

STEADY = ('memory', 'workers', 'files', 'threads')
TIMES = ('cpu_ms', 'wall_ms', 'yardstick', 'relative')
PAGE = os.sysconf('SC_PAGE_SIZE')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train long, and fail where the process grows')
    default = Path(__file__).with_name('soak_config.py')
    parser.add_argument('config', nargs='?', default=default, help='path of the config (default: a tiny one)')
    parser.add_argument('--iterations', type=int, default=20_000)
    parser.add_argument('--samples', type=int, default=100, help='measurements in the run')
    parser.add_argument('--limit', type=float, default=1.0, help='growth of memory, files and threads, in percent')
    parser.add_argument('--time-limit', type=float, default=5.0, help='growth of the relative time, in percent')
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


def measure(workers: list[int]) -> dict[str, float]:
    """What this process and its workers hold."""
    processes = [Path('/proc', str(pid)) for pid in (os.getpid(), *workers)]
    memory = [int((p / 'statm').read_text().split()[1]) * PAGE / 2**20 for p in processes]
    return {
        'memory': memory[0],
        'workers': sum(memory[1:]),
        'files': sum(len(os.listdir(p / 'fd')) for p in processes),
        'threads': sum(len(os.listdir(p / 'task')) for p in processes),
    }


class Yardstick:
    """Tells how long a fixed piece of work takes just now, in a process that does not grow with this one."""

    def __init__(self) -> None:
        context = multiprocessing.get_context('fork')
        self.pipe, end = context.Pipe()
        self.process = context.Process(target=self.work, args=(end, self.pipe), daemon=True)
        self.process.start()
        end.close()

    def measure(self) -> float:
        """Milliseconds of processor time."""
        self.pipe.send(None)
        return self.pipe.recv()

    @staticmethod
    def work(pipe: Connection, other: Connection) -> None:
        other.close()  # so that this process notices when the other one is killed
        torch.set_num_threads(1)
        network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3))
        images = torch.rand(4, 3, 33, 33)
        while True:
            try:
                pipe.recv()
            except EOFError:
                return
            start = time.process_time()
            for _ in range(3):
                network(images).square().mean().backward()
            pipe.send(1000 * (time.process_time() - start))


class SoakHook(Hook):
    """Measures at regular intervals.

    Args:
        interval (int): Iterations between two measurements.
        yardstick (Yardstick): Asked in every third iteration.
        out (str, optional): File for them.
    """

    priority = 'LOWEST'

    def __init__(self, interval: int, yardstick: Yardstick, out: str | None = None) -> None:
        self.interval = interval
        self.yardstick = yardstick
        self.out = out
        self.samples: list[dict[str, float]] = []
        self.begin_interval()

    def begin_interval(self) -> None:
        self.durations: list[float] = []
        self.cpu: list[float] = []
        self.yard: list[float] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        # Loading comes before this: what is timed are the step and all hooks but this one.
        self.start = time.perf_counter(), time.process_time()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        self.durations.append(time.perf_counter() - self.start[0])
        self.cpu.append(time.process_time() - self.start[1])
        if len(self.cpu) % 3 == 1:
            self.yard.append(self.yardstick.measure())
        if len(self.durations) < self.interval:
            return
        cpu, wall, yard = 1000 * median(self.cpu), 1000 * median(self.durations), median(self.yard)
        times = {'cpu_ms': cpu, 'wall_ms': wall, 'yardstick': yard, 'relative': cpu / yard}
        workers = [p.pid for p in multiprocessing.active_children() if p.pid not in (None, self.yardstick.process.pid)]
        self.samples.append({'iteration': batch_idx + 1, **measure(workers), **times})
        if self.out:
            with open(self.out, 'a') as file:
                file.write(json.dumps(self.samples[-1]) + '\n')
        self.begin_interval()


def growth(samples: list[dict[str, float]], name: str) -> tuple[float, float, float]:
    """Medians of the second and the last quarter of the samples; the standard error of their growth, in percent."""
    quarter = len(samples) // 4
    values = [sample[name] for sample in samples]
    parts = values[quarter : 2 * quarter], values[-quarter:]
    before, after = map(median, parts)
    # A median of n normal values scatters 1.25 times as much as their mean.
    errors = [125 * pstdev(part) / quarter**0.5 / (median(part) or 1) for part in parts]
    return before, after, hypot(*errors)


def judge(samples: list[dict[str, float]], limits: dict[str, float]) -> list[str]:
    """Prints a table; tells what grew by its limit, in percent, or more."""
    grown = []
    print(f'{"":9}{"before":>10}{"after":>10}{"growth":>9}   (medians of the second and last quarter; +- its error)')
    for name in (*STEADY, *TIMES):
        before, after, error = growth(samples, name)
        percent = 100 * (after / before - 1) if before else 0.0
        print(f'{name:9}{before:10.2f}{after:10.2f}{percent:8.2f}% +-{error:5.2f}')
        if percent >= limits.get(name, inf):
            grown.append(f'{name} grew by {percent:.2f} %, the limit is {limits[name]} %')
    return grown


def main() -> None:
    args = parse_args()
    config = load_config(str(args.config), args.cfg_options)
    config.work_dir = args.work_dir
    config.train_cfg.max_iters = args.iterations
    if args.out:
        Path(args.out).write_text('')
    yardstick = Yardstick()
    try:
        runner = Runner.from_cfg(config)
        soak = SoakHook(args.iterations // args.samples, yardstick, args.out)
        runner.register_hook(soak)
        with checkpoints_as_data(args.trust_checkpoint):
            runner.train()
    except CheckpointNotRead as error:
        raise SystemExit(str(error)) from None
    finally:
        yardstick.process.terminate()
    grown = judge(soak.samples, dict.fromkeys(STEADY, args.limit) | {'relative': args.time_limit})
    if grown:
        sys.exit('; '.join(grown))


if __name__ == '__main__':
    main()
