"""A run in its folder, and its process."""

from __future__ import annotations

import glob
import os
import os.path as osp
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

import pandas as pd
from mmengine.config import Config

from ..utils.files import write_text
from .compose import compose, digest
from .plan import Run, Study
from .results import ROOT, machine, read_scores, revision, write_table

TRAIN = osp.join(ROOT, 'mmseg_derprop', '.mim', 'tools', 'train.py')
PATIENCE = 30.0  # seconds until a run that was asked to end is killed; an iteration may have to end first


@dataclass(eq=False)
class Job:
    """A run with its config, final but for ``load_from``, in the study's folder, from ``start`` on."""

    run: Run
    config: Config
    digest: str
    folder: str
    start: Job | None = None

    def __post_init__(self) -> None:
        self.name = self.run.name
        self.work_dir = osp.join(self.folder, 'runs', self.name)
        self.max_iters: int = self.config.train_cfg.max_iters
        self.checkpoint = osp.join(self.work_dir, f'iter_{self.max_iters}.pth')
        self.results = osp.join(self.work_dir, 'results.csv')

    @property
    def finished(self) -> bool:
        """Whether its results are written."""
        return osp.isfile(self.results)

    def done(self) -> int:
        """Iterations of the newest checkpoint; 0 if there is none."""
        return max((iteration_of(path) or 0 for path in self._files('iter_*.pth')), default=0)

    def is_stale(self) -> bool:
        """Whether another configuration has begun to train here."""
        with suppress(FileNotFoundError), open(osp.join(self.work_dir, 'digest')) as file:
            return file.read() != self.digest
        return False

    def missing_lists(self) -> list[str]:
        """Paths of its lists of images that do not exist; remote ones are not looked for."""
        train, val = (self.config[f'{stage}_dataloader'].dataset for stage in ('train', 'val'))
        parts = [part for part in (val, train, train.get('labeled'), train.get('unlabeled')) if isinstance(part, dict)]
        paths = [osp.join(part.get('data_root') or '', part['ann_file']) for part in parts if part.get('ann_file')]
        return [path for path in paths if '://' not in path and not osp.exists(path)]

    def launch(self, lock: IO, threads: int) -> None:
        """Starts or resumes training, in a process group of its own that inherits the lock."""
        config = osp.join(self.folder, 'configs', f'{self.name}.py')
        if self.start:
            self.config.load_from = self.start.checkpoint
        write_text(config, self.config.pretty_text)
        write_text(osp.join(self.work_dir, 'digest'), self.digest)
        command = [sys.executable, TRAIN, config, '--work-dir', self.work_dir, '--resume']
        environment = os.environ | dict.fromkeys(('OMP_NUM_THREADS', 'MKL_NUM_THREADS'), str(threads))
        self.lock = lock
        with open(osp.join(self.work_dir, f'console_{time.time():.1f}.log'), 'w') as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, pass_fds=[lock.fileno()], start_new_session=True
            )

    def finish(self, threads: int) -> pd.DataFrame | None:
        """Writes and returns its results, or None if it has not reached its last iteration and validation."""
        scores = read_scores(self.work_dir)
        validated = scores.loc[~scores['metric'].str.startswith('train/'), 'iteration'].max()
        if validated != self.max_iters or not osp.isfile(self.checkpoint):
            return None
        for path in self._files('iter_*.pth'):
            if iteration_of(path) not in (None, self.max_iters):
                os.remove(path)
        seconds = dict(network='', metric='seconds', iteration=self.max_iters, value=self.seconds())
        run = self.run
        keys: dict = dict(run=run.name, stage=run.stage, method=run.method, option=run.option or '', split=run.split)
        keys |= dict(seed=run.seed, digest=self.digest, revision=revision(), machine=machine(threads))
        table = pd.concat([scores, pd.DataFrame([seconds])]).assign(**keys)
        write_table(table, self.results)
        return table

    def seconds(self) -> float:
        """Of all attempts, each from the time in its log's name to its last line."""
        return sum(max(0.0, osp.getmtime(p) - float(osp.basename(p)[8:-4])) for p in self._files('console_*.log'))

    def tail(self, lines: int = 15) -> str:
        """The end of the newest console log, and where it is."""
        path = self._files('console_*.log')[-1]
        with open(path, errors='replace') as log:
            return ''.join([*log.readlines()[-lines:], f'(all of it: {path})'])

    def _files(self, pattern: str) -> list[str]:
        return sorted(glob.glob(osp.join(glob.escape(self.work_dir), pattern)))


def iteration_of(path: str) -> int | None:
    """The iteration of a run's checkpoint, None of another file, such as the model exported from one."""
    found = re.fullmatch(r'iter_(\d+)\.pth', osp.basename(path))
    return int(found[1]) if found else None


def make_jobs(study: Study, runs: list[Run], folder: str, data_root: str | None = None) -> list[Job]:
    """Composes the configs of runs, each behind its start."""
    jobs: dict[str, Job] = {}
    for run in runs:
        start = jobs[run.start.name] if run.start else None
        # Where the data are does not count.
        mark = digest(compose(study, run), start.digest if start else None)
        jobs[run.name] = Job(run, compose(study, run, data_root), mark, folder, start)
    return list(jobs.values())


def stop(processes: list[subprocess.Popen]) -> None:
    """Asks processes to save a checkpoint and end; kills what is left of them and their children after PATIENCE."""
    for process in processes:
        process.terminate()
    end = time.monotonic() + PATIENCE
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, end - time.monotonic()))
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
