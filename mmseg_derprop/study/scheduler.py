"""Runs jobs, several at once, until all are finished or it is told to stop."""

from __future__ import annotations

import signal
import statistics
import subprocess
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from .job import Job, kill_group, stop
from .logs import last_iteration
from .plan import Run, Study
from .tables import Tables, hold_lock

POLL_SECONDS = 0.3
LINE_SECONDS = 60.0  # between two lines of progress where there is no terminal
FINISHED, FAILED, LEFT = 0, 1, 3


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen
    lock: ExitStack
    begun: float
    first: int  # iteration


class Scheduler:
    """Runs the jobs of a study, each after its start.

    Other schedulers may work on the same folder: each run is taken by one of them.

    Args:
        study (Study): The study.
        jobs (list[Job]): Its jobs, starts first.
        tables (Tables): Where results go.
        at_once (int): How many run at the same time.
        threads (int): Processor threads of each.
        time_limit (float, optional): Seconds after which running jobs save and end, and no other is started.
    """

    def __init__(
        self, study: Study, jobs: list[Job], tables: Tables, at_once: int, threads: int, time_limit: float | None = None
    ) -> None:
        self.study, self.tables, self.at_once, self.threads = study, tables, at_once, threads
        self.end = float('inf') if time_limit is None else time.monotonic() + time_limit
        self.total = len(jobs)
        self.waiting = list(jobs)
        self.running: list[_Running] = []
        self.failed: dict[str, str] = {}
        self.stopped: list[Job] = []
        self.elsewhere: set[str] = set()
        self.signal = 0
        self.console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        columns = TextColumn('{task.description}', markup=False), BarColumn(), MofNCompleteColumn()
        self.progress = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self.next_line = time.monotonic() + LINE_SECONDS

    def run(self) -> int:
        """Works until nothing is left to do.

        Returns:
            int: 0 if all runs are finished, 1 if some failed, 3 if the time limit left some, 128 plus the signal's
            number after a signal.
        """
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        old = {
            number: signal.signal(number, lambda received, _: setattr(self, 'signal', received)) for number in numbers
        }
        try:
            with self.progress:
                while (self.waiting or self.running) and not self.signal and time.monotonic() < self.end:
                    self._begin()
                    self._show()
                    time.sleep(POLL_SECONDS)
                    self._collect()
        finally:
            stop([running.process for running in self.running])
            self._collect(stopping=True)  # what ended by itself in the last moment counts
            for number, handler in old.items():
                signal.signal(number, handler)
        return self._report()

    def say(self, text: str) -> None:
        self.progress.console.print(f'{time.strftime("%H:%M:%S")}  {text}')

    def _begin(self) -> None:
        """Starts what can be started."""
        finished = self.tables.runs()
        for job in list(self.waiting):
            if job.name in finished:
                self.waiting.remove(job)
            elif job.start and job.start.name in self.failed:
                self.waiting.remove(job)
                self._fail(job, f'was not run, because {job.start.name} failed')
            elif len(self.running) < self.at_once and (job.start is None or job.start.name in finished):
                lock = ExitStack()
                descriptor = lock.enter_context(hold_lock(job.lock_path))
                if descriptor is not None:
                    self.waiting.remove(job)
                    self._launch(job, descriptor, lock)
                elif job.name not in self.elsewhere:
                    self.elsewhere.add(job.name)
                    self.say(f'{job.name} is being run by another process')

    def _launch(self, job: Job, descriptor: int, lock: ExitStack) -> None:
        if job.name in self.tables.runs():  # by another process, just now
            lock.close()
        elif self._finish(job):  # killed between the end of training and the result
            lock.close()
        else:
            first, begun = job.done(), time.monotonic()
            self.running.append(_Running(job, job.launch(descriptor, self.threads), lock, begun, first))
            self.say(f'{job.name} {"resumes from" if first else "begins at"} iteration {first} of {job.max_iters}')

    def _finish(self, job: Job) -> bool:
        """Writes the results of a run if it has reached its end."""
        collected = job.collect(self.threads)
        if collected is None:
            return False
        record, scores = collected
        self.tables.add(record, scores)
        last = scores[(scores['metric'] == 'mIoU') & (scores['iteration'] == job.max_iters)]
        values = ', '.join(f'{f"{n} " if n else ""}mIoU {v:.1f}' for n, v in zip(last['network'], last['value']))
        self.say(f'{job.name} finished in {duration(record["seconds"])}: {values or "no mIoU"}')
        return True

    def _collect(self, stopping: bool = False) -> None:
        """Writes results of runs that ended, and notes failures."""
        for running in [running for running in self.running if running.process.poll() is not None]:
            job, code = running.job, running.process.returncode
            self.running.remove(running)
            kill_group(running.process)
            if (code == 0 or stopping) and self._finish(job):
                pass
            elif stopping:
                self.stopped.append(job)
            else:
                why = f'ended with {code}' if code else f'left no checkpoint and scores of iteration {job.max_iters}'
                self._fail(job, f'{why}\n{job.tail()}')
            running.lock.close()

    def _fail(self, job: Job, why: str) -> None:
        self.failed[job.name] = why.partition('\n')[0]
        self.say(f'{job.name} failed: {why}')

    def _show(self) -> None:
        """Shows iterations and the time left."""
        records, parts, lines = self.tables.runs(), [], {}
        for running in self.running:
            job = running.job
            iteration = max(running.first, last_iteration(job.work_dir))
            lines[job.name] = iteration, job.max_iters
            left, seconds = job.max_iters - iteration, time.monotonic() - running.begun
            known = estimate(self.study, records, job.run, left)
            if known is None and iteration > running.first:
                known = left * seconds / (iteration - running.first)
            parts.append(known)
        parts += [estimate(self.study, records, job.run, job.max_iters - job.done()) for job in self.waiting]
        finished = self.total - len(self.waiting) - len(self.running) - len(self.failed)
        text = f'{finished} of {self.total} runs finished, {total(parts, self.at_once)} left'
        for task in self.progress.task_ids:
            self.progress.remove_task(task)
        self.progress.add_task(text, total=self.total, completed=finished)
        for name, (iteration, last) in lines.items():
            self.progress.add_task(name, total=last, completed=iteration)
        if self.progress.disable and time.monotonic() >= self.next_line:
            self.next_line = time.monotonic() + LINE_SECONDS
            each = ', '.join(f'{name} {iteration}/{last}' for name, (iteration, last) in lines.items())
            self.say(f'{text}; {each or "waiting"}')

    def _report(self) -> int:
        left = self.waiting + self.stopped
        self.say(f'{self.total - len(left) - len(self.failed)} of {self.total} runs are finished')
        for name, why in self.failed.items():
            self.say(f'failed: {name} {why}')
        if left:
            why = signal.Signals(self.signal).name if self.signal else 'the time limit'
            self.say(f'stopped by {why}; {len(left)} runs are left, the same command resumes them')
        if self.signal:
            return 128 + self.signal
        return FAILED if self.failed else LEFT if left else FINISHED


def estimate(study: Study, records: dict[str, dict[str, Any]], run: Run, iterations: int) -> float | None:
    """Seconds of so many iterations of a run, from finished runs that are like it, else from the study file."""
    for keys in (('stage', 'method', 'option'), ('method', 'option'), ('method',)):
        like = [r for r in records.values() if all(r[key] == (getattr(run, key) or '') for key in keys)]
        if like:
            return iterations * statistics.fmean(r['seconds'] / r['iterations'] for r in like)
    given = study.seconds_per_iteration.get(run.method)
    return None if given is None else iterations * given


def total(parts: Iterable[float | None], at_once: int) -> str:
    """Seconds of parallel runs as a text, which says where some are unknown."""
    parts = list(parts)
    known = [part for part in parts if part is not None]
    if not known:
        return '?' if parts else '0s'
    text = duration(max(sum(known) / at_once, *known))
    return text if len(known) == len(parts) else f'at least {text}'


def duration(seconds: float | None) -> str:
    """``1h02m``, ``5m07s``, ``12s``, or ``?``."""
    if seconds is None:
        return '?'
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}h{minutes:02}m' if hours else f'{minutes}m{rest:02}s' if minutes else f'{rest}s'
