"""Runs jobs, several at once, until all are finished or it is told to stop."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Collection
from datetime import timedelta

import pandas as pd
from rich.console import Console

from .job import Job, stop
from .plan import Study
from .results import join_tables, lock_file, read_log, read_tables

POLL_SECONDS = 0.3
SHOW_SECONDS, LINE_SECONDS = 3.0, 60.0  # between two states in a terminal, and elsewhere


class Scheduler:
    """Runs the jobs of a study, starts first; others may work on the same folder, each run is taken by one of them.

    Jobs have so many processor threads each. After the time limit in seconds they save and end; no other is started.
    The joined table is without the ``outdated`` runs.
    """

    def __init__(
        self,
        study: Study,
        jobs: list[Job],
        folder: str,
        at_once: int,
        threads: int,
        time_limit: float,
        outdated: Collection[str] = (),
    ) -> None:
        self.study, self.folder, self.at_once, self.threads = study, folder, at_once, threads
        self.outdated = outdated
        self.end = time.monotonic() + time_limit
        self.total = len(jobs)
        self.waiting = list(jobs)
        self.running: list[Job] = []
        self.failed: list[str] = []
        self.signal = 0
        self.next_show = 0.0
        self.console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self.status = self.console.status('')

    def run(self) -> int:
        """Works until nothing is left to do.

        Returns 0 if all runs are finished, 1 if some failed, 3 if the time limit left some, 128 plus a signal's number.
        """

        def note(number: int, frame: object) -> None:
            self.signal = number

        old = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            join_tables(self.folder, self.outdated)  # an earlier call may have been killed before it did
            with self.status:
                while (self.waiting or self.running) and not self.signal and time.monotonic() < self.end:
                    self._begin()
                    self._show()
                    time.sleep(POLL_SECONDS)
                    self._collect()
        finally:
            stop([job.process for job in self.running])
            self._collect(stopping=True)  # what ended by itself in the last moment counts
            for number, handler in old.items():
                signal.signal(number, handler)
        return self._report()

    def _say(self, text: str) -> None:
        self.console.print(f'{time.strftime("%H:%M:%S")}  {text}')

    def _begin(self) -> None:
        """Starts what can be started."""
        for job in list(self.waiting):
            if job.finished:
                self.waiting.remove(job)
            elif job.start and job.start.name in self.failed:
                self.waiting.remove(job)
                self._fail(job, f'was not run, because {job.start.name} failed')
            elif len(self.running) < self.at_once and (job.start is None or job.start.finished):
                lock = lock_file(f'{job.work_dir}.lock')
                if lock is None:
                    continue
                # Another process may have finished it just now, or have been killed before it wrote the results.
                if job.finished or self._finish(job):
                    lock.close()
                    continue
                self._say(f'{job.name} runs from iteration {job.done()} to {job.max_iters}')
                job.launch(lock, self.threads)
                self.waiting.remove(job)
                self.running.append(job)

    def _collect(self, stopping: bool = False) -> None:
        """Writes results of runs that ended, and notes failures."""
        for job in [job for job in self.running if job.process.poll() is not None]:
            self.running.remove(job)
            if not self._finish(job):
                if stopping:
                    self.waiting.append(job)
                else:
                    code = job.process.returncode
                    self._fail(job, f'ended with {code} before its last checkpoint and validation\n{job.tail()}')
            job.lock.close()

    def _finish(self, job: Job) -> bool:
        """Writes the results of a run if it has reached its end."""
        lines = job.finish(self.threads)
        if lines is None:
            return False
        join_tables(self.folder, self.outdated)
        last = lines[(lines['metric'] == 'mIoU') & (lines['iteration'] == job.max_iters)]
        scores = [f'{network} mIoU {value:.1f}'.strip() for network, value in zip(last['network'], last['value'])]
        self._say(f'{job.name} finished in {duration(job.seconds())}: {", ".join(scores)}')
        return True

    def _fail(self, job: Job, why: str) -> None:
        self.failed.append(job.name)
        self._say(f'{job.name} failed: {why}')

    def _show(self) -> None:
        """Shows iterations and the time left, now and then."""
        if time.monotonic() < self.next_show:
            return
        self.next_show = time.monotonic() + (SHOW_SECONDS if self.console.is_terminal else LINE_SECONDS)
        done = {job: max([job.done(), *(line['step'] for line in read_log(job.work_dir))]) for job in self.running}
        done |= {job: job.done() for job in self.waiting}
        table = read_tables(self.folder)
        left = total([estimate(self.study, table, job, number) for job, number in done.items()], self.at_once)
        finished = self.total - len(done) - len(self.failed)
        runs = [f'{job.name} {done[job]}/{job.max_iters}' for job in self.running]
        text = '; '.join([f'{finished} of {self.total} runs finished, {left} left', *runs])
        if self.console.is_terminal:
            self.status.update(text)
        else:
            self._say(text)

    def _report(self) -> int:
        left = len(self.waiting)
        self._say(f'{self.total - left - len(self.failed)} of {self.total} runs are finished')
        if self.failed:
            self._say(f'failed: {", ".join(self.failed)}')
        if left:
            why = signal.Signals(self.signal).name if self.signal else 'the time limit'
            self._say(f'stopped by {why}; {left} runs are left, the same command resumes them')
        if self.signal:
            return 128 + self.signal
        return 1 if self.failed else 3 if left else 0


def estimate(study: Study, table: pd.DataFrame, job: Job, done: int) -> float:
    """Seconds of a job's other iterations, from finished runs of the method, else from the study file; or NaN."""
    runs = table[(table['metric'] == 'seconds') & (table['method'] == job.run.method)]
    known = study.seconds_per_iteration.get(job.run.method, math.nan)
    return (job.max_iters - done) * (float((runs['value'] / runs['iteration']).mean()) if len(runs) else known)


def total(seconds: list[float], at_once: int) -> str:
    """Time of parallel runs as a text, which says whether parts are unknown."""
    known = [part for part in seconds if not math.isnan(part)]
    if seconds and not known:
        return '?'
    return 'more than ' * (len(known) < len(seconds)) + duration(max([sum(known) / at_once, *known]))


def duration(seconds: float) -> str:
    """As 1:02:03, or ? if unknown."""
    return '?' if math.isnan(seconds) else str(timedelta(seconds=round(seconds)))
