"""A run in its folder, and its process."""

from __future__ import annotations

import glob
import os
import os.path as osp
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass

import pandas as pd
from mmengine.config import Config

from .compose import compose, digest
from .logs import read_scores
from .plan import Run, Study
from .table import ROOT, machine, revision

TRAIN = osp.join(ROOT, 'mmseg_derprop', '.mim', 'tools', 'train.py')
PATIENCE = 30.0  # seconds until a run that was asked to end is killed; an iteration may have to end first


@dataclass
class Job:
    """A run of a study, and its place in the study's folder.

    Args:
        run (Run): The run.
        config (Config): Its final config but for ``load_from``.
        folder (str): The study's folder.
        start (Job, optional): The job from whose checkpoint this one continues.
    """

    run: Run
    config: Config
    folder: str
    start: Job | None = None

    def __post_init__(self) -> None:
        self.name = self.run.name
        self.work_dir = osp.join(self.folder, 'runs', self.name)
        self.lock_path = f'{self.work_dir}.lock'
        self.digest: str = digest(self.config, self.start.digest if self.start else None)
        self.max_iters: int = self.config.train_cfg.max_iters
        self.checkpoint = osp.join(self.work_dir, f'iter_{self.max_iters}.pth')

    def done(self) -> int:
        """Iterations of the newest checkpoint; 0 if there is none."""
        return max((int(path.rpartition('_')[2][:-4]) for path in self._files('iter_[0-9]*.pth')), default=0)

    def begun_digest(self) -> str:
        """Digest of the configuration that began to train here; '' if none did."""
        with suppress(FileNotFoundError), open(osp.join(self.work_dir, 'digest')) as file:
            return file.read()
        return ''

    def launch(self, lock: int, threads: int) -> subprocess.Popen:
        """Starts or resumes training, in a process group of its own that inherits the lock."""
        config_path = osp.join(self.folder, 'configs', f'{self.name}.py')
        os.makedirs(self.work_dir, exist_ok=True)
        os.makedirs(osp.dirname(config_path), exist_ok=True)
        if self.start:
            self.config.load_from = self.start.checkpoint
        self.config.dump(config_path)
        with open(osp.join(self.work_dir, 'digest'), 'w') as file:
            file.write(self.digest)
        with open(osp.join(self.work_dir, f'console_{time.time():.1f}.log'), 'w') as log:
            return subprocess.Popen(
                [sys.executable, TRAIN, config_path, '--work-dir', self.work_dir, '--resume'],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, 'OMP_NUM_THREADS': str(threads), 'MKL_NUM_THREADS': str(threads)},
                pass_fds=[lock],
                start_new_session=True,
            )

    def collect(self, threads: int) -> pd.DataFrame | None:
        """Lines for the table, or None if the run has not reached its last iteration and validation."""
        scores = read_scores(self.work_dir)
        validated = scores.loc[~scores['metric'].str.startswith('train/'), 'iteration'].max()
        if validated != self.max_iters or not osp.isfile(self.checkpoint):
            return None
        for path in self._files('iter_[0-9]*.pth'):
            if path != self.checkpoint:
                os.remove(path)
        run = self.run
        seconds = dict(network='', metric='seconds', iteration=self.max_iters, value=self.seconds())
        return pd.concat([scores, pd.DataFrame([seconds])]).assign(
            run=run.name,
            stage=run.stage,
            method=run.method,
            option=run.option or '',
            split=run.split,
            seed=run.seed,
            digest=self.digest,
            revision=revision(),
            machine=machine(threads),
        )

    def seconds(self) -> float:
        """Of all attempts, each from the time in its log's name to its last line."""
        return sum(max(0.0, osp.getmtime(p) - float(osp.basename(p)[8:-4])) for p in self._files('console_*.log'))

    def tail(self, lines: int = 15) -> str:
        """The end of the newest console log, and where it is."""
        path = self._files('console_*.log')[-1]
        with open(path, errors='replace') as log:
            return ''.join([f'    {line}' for line in log.readlines()[-lines:]]) + f'    (all of it: {path})'

    def clear(self) -> None:
        """Removes all that the run left in its folder."""
        shutil.rmtree(self.work_dir, ignore_errors=True)

    def _files(self, pattern: str) -> list[str]:
        return sorted(glob.glob(osp.join(glob.escape(self.work_dir), pattern)))


def make_jobs(study: Study, runs: list[Run], folder: str, data_root: str | None = None) -> list[Job]:
    """Composes the configs of runs, each behind its start.

    Raises:
        StudyError: If the study's parts do not fit.
    """
    jobs: dict[str, Job] = {}
    for run in runs:
        start = jobs[run.start.name] if run.start else None
        jobs[run.name] = Job(run, compose(study, run, data_root), folder, start)
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
