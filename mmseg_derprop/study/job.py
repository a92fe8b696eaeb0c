"""A run in its folder: what it left there, its lock, its process."""

from __future__ import annotations

import fcntl
import glob
import json
import os
import os.path as osp
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config

from .compose import compose, digest, missing_data
from .plan import Run, Study, StudyError
from .result import find_checkpoint, machine, read_log, summary, versions, write_json

TRAIN = osp.join(osp.dirname(osp.abspath(__file__)), '..', '..', 'tools', 'train.py')


@dataclass
class Job:
    """A run of a study, and its place in the study's folder.

    Args:
        study (Study): The study.
        run (Run): The run.
        folder (str): The study's folder.
        config (Config): The run's final config but for ``load_from``.
        start (Job, optional): The job that makes the checkpoint from which this one goes on.
        script (str): What trains: tools/train.py, or what takes its arguments.
    """

    study: Study
    run: Run
    folder: str
    config: Config
    start: Job | None = None
    script: str = osp.normpath(TRAIN)

    def __post_init__(self) -> None:
        self.name = self.run.name
        self.work_dir = osp.join(self.folder, 'runs', self.name)
        # Not in the work dir, where the engine writes a config of this name with load_from changed by a resumption.
        self.config_path = osp.join(self.folder, 'configs', f'{self.name}.py')
        self.result_path = osp.join(self.folder, 'results', f'{self.name}.json')
        self.digest: str = digest(self.config, self.start.digest if self.start else None)
        self.max_iters: int = self.config.train_cfg.max_iters
        self.checkpoint = osp.join(self.work_dir, f'iter_{self.max_iters}.pth')

    @property
    def finished(self) -> bool:
        """Whether the run's result is there."""
        return osp.isfile(self.result_path)

    @property
    def other_digest(self) -> str | None:
        """The digest of another configuration that left a result or began to train here, if there is one."""
        found = None
        if self.finished:
            found = self.result()['config_digest']
        else:
            with suppress(FileNotFoundError), open(osp.join(self.work_dir, 'digest')) as file:
                found = file.read().strip()
        return found if found and found != self.digest else None

    def result(self) -> dict[str, Any]:
        """The result of a finished run.

        Raises:
            StudyError: If the file is damaged.
        """
        with open(self.result_path) as file:
            text = file.read()
        try:
            return {'config_digest': None, 'seconds': 0.0, **json.loads(text)}
        except (ValueError, TypeError):
            raise StudyError(f'{self.result_path} is no result of a study: remove it, or use --rerun.') from None

    @property
    def done(self) -> int:
        """Iterations that need not be trained again."""
        return self.max_iters if self.finished else find_checkpoint(self.work_dir)[0]

    @property
    def complete(self) -> bool:
        """Whether training is done, though the result may not be written yet."""
        scores, _ = read_log(self.work_dir)
        scored = bool(scores) and scores[-1]['iteration'] == self.max_iters
        return scored and find_checkpoint(self.work_dir)[0] == self.max_iters

    def missing_data(self) -> list[str]:
        """Paths of data that do not exist."""
        return missing_data(self.config)

    def lock(self) -> int | None:
        """Takes the run for this process and what it starts.

        The child inherits the lock, so nobody else takes the run while it trains, even if this process is gone.

        Returns:
            int | None: A descriptor to close, or None if another process has the run.
        """
        os.makedirs(osp.join(self.folder, 'runs'), exist_ok=True)
        descriptor = os.open(f'{self.work_dir}.lock', os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def clear(self) -> None:
        """Removes all that the run left.

        Raises:
            StudyError: If another process is running it.
        """
        lock = self.lock()
        if lock is None:
            raise StudyError(f'{self.name} is being run by another process: end that first.')
        with suppress(FileNotFoundError):
            os.remove(self.result_path)
        if osp.isdir(self.work_dir):
            shutil.rmtree(self.work_dir)
        os.close(lock)

    def command(self, threads: int) -> str:
        """The shell line that trains the run from its beginning."""
        words = ['python', osp.relpath(self.script), self.config_path, '--work-dir', self.work_dir]
        return f'OMP_NUM_THREADS={threads} MKL_NUM_THREADS={threads} {shlex.join(words)}'

    def launch(self, lock: int, threads: int) -> subprocess.Popen:
        """Starts or goes on with training, in a process group of its own."""
        os.makedirs(self.work_dir, exist_ok=True)
        config = self.config
        if self.start:
            config.load_from = self.start.checkpoint
        with open(osp.join(self.work_dir, 'digest'), 'w') as file:
            file.write(self.digest)
        os.makedirs(osp.dirname(self.config_path), exist_ok=True)
        config.dump(self.config_path)
        words = [sys.executable, self.script, self.config_path, '--work-dir', self.work_dir]
        _, checkpoint = find_checkpoint(self.work_dir)
        if checkpoint:
            words += ['--resume', checkpoint]
        with open(self._console(len(self._consoles()) + 1), 'w') as log:
            log.write(f'# {time.time():.1f} {shlex.join(words)}\n')
            log.flush()
            return subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, 'OMP_NUM_THREADS': str(threads), 'MKL_NUM_THREADS': str(threads)},
                pass_fds=[lock],
                start_new_session=True,
            )

    def collect(self, threads: int) -> dict[str, Any]:
        """Writes the run's result, and removes checkpoints before the last one."""
        scores, scalars = read_log(self.work_dir)
        last, best = summary(scores)
        option = self.run.option
        result = {
            'name': self.name,
            'study': self.study.name,
            'stage': self.run.stage,
            'method': self.run.method,
            'split': self.run.split,
            'seed': self.run.seed,
            'options': {option: self.study.options[option]} if option else {},
            'start': self.start and self.start.name,
            'config_digest': self.digest,
            'command': self.command(threads),
            'versions': versions(),
            'machine': machine(threads),
            'seconds': round(self.seconds(), 1),
            'iterations': self.max_iters,
            'scores': scores,
            'last': last,
            'best': best,
            'scalars': scalars,
            'work_dir': osp.relpath(self.work_dir, self.folder),
            'checkpoint': osp.relpath(self.checkpoint, self.folder),
        }
        write_json(self.result_path, result)
        for path in glob.glob(osp.join(glob.escape(self.work_dir), 'iter_*.pth')):
            if path != self.checkpoint:
                os.remove(path)
        return result

    def seconds(self) -> float:
        """Of all attempts, from their start to the last line that they wrote."""
        total = 0.0
        for path in self._consoles():
            with open(path, errors='replace') as log:
                if begun := re.match(r'# ([\d.]+) ', log.readline()):
                    total += max(0.0, osp.getmtime(path) - float(begun[1]))
        return total

    def tail(self, lines: int = 15) -> str:
        """The end of the newest console log, and where it is."""
        path = self._consoles()[-1]
        with open(path, errors='replace') as log:
            return ''.join([f'    {line}' for line in log.readlines()[-lines:]]) + f'    (all of it: {path})'

    def _console(self, number: int) -> str:
        return osp.join(self.work_dir, f'console_{number:03}.log')

    def _consoles(self) -> list[str]:
        return sorted(glob.glob(osp.join(glob.escape(self.work_dir), 'console_*.log')))


def make_jobs(study: Study, runs: list[Run], folder: str, data_root: str | None = None, **kwargs: Any) -> list[Job]:
    """Composes the configs of runs.

    Args:
        study (Study): The study.
        runs (list[Run]): Some of its runs, each behind its start.
        folder (str): The study's folder.
        data_root (str, optional): Where the data lie, if not where the data config says.
        **kwargs: Of :class:`Job`.

    Returns:
        list[Job]: One for each run.

    Raises:
        StudyError: If the study's parts do not fit.
    """
    jobs: dict[str, Job] = {}
    for run in runs:
        start = jobs[run.start.name] if run.start else None
        jobs[run.name] = Job(study, run, folder, compose(study, run, data_root), start, **kwargs)
    return list(jobs.values())


def stop(processes: list[subprocess.Popen], patience: float = 30.0) -> None:
    """Asks processes to save a checkpoint and end; what is left of them after some seconds is killed.

    Args:
        processes (list): Each the first of a group of its own.
        patience (float): Seconds; an iteration or a validation may have to end first.
    """
    for process in processes:
        process.terminate()
    end = time.monotonic() + patience
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, end - time.monotonic()))
        kill_group(process)
        process.wait()


def kill_group(process: subprocess.Popen) -> None:
    """Kills a process and all that it started, whatever is left of them."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
