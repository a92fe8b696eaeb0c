"""Runs jobs, several at once, until all are finished or it is told to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from types import FrameType

from .display import Display
from .estimate import Estimates, duration, total
from .job import Job, kill_group, stop
from .result import last_iteration

POLL_SECONDS = 0.2
LOCK_SECONDS = 2.0  # between two looks at runs that another process has
FINISHED, FAILED, LEFT = 0, 1, 3


@dataclass
class _Running:
    job: Job
    lock: int
    process: subprocess.Popen
    begun: float
    first: int  # iteration


class Scheduler:
    """Runs the jobs of a study, starts before what goes on from them.

    Another scheduler may work on the same folder, on this machine: each run is taken by one of them.

    Args:
        jobs (list[Job]): Jobs, starts first.
        at_once (int): How many run at the same time.
        threads (int): Processor threads of each.
        display (Display): Where progress goes.
        time_limit (float, optional): Seconds after which running jobs save and end, and no other is started.
    """

    def __init__(
        self, jobs: list[Job], at_once: int, threads: int, display: Display, time_limit: float | None = None
    ) -> None:
        self._end = None if time_limit is None else time.monotonic() + time_limit
        self._at_once, self._threads, self._display = at_once, threads, display
        self._estimates = Estimates(jobs)
        self._total = len(jobs)
        self._waiting = [job for job in jobs if not job.finished]
        self._done = {job.name: job.done for job in self._waiting}
        self._running: list[_Running] = []
        self._failed: dict[str, str] = {}
        self._left: list[Job] = []  # stopped
        self._elsewhere: dict[str, float] = {}  # when to look again
        self._signal = 0

    def run(self) -> int:
        """Works until nothing is left to do.

        Returns:
            int: 0 if all runs are finished, 1 if some failed, 3 if the time limit left some, 128 and the signal's
            number after a signal.
        """
        old = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            while (self._waiting or self._running) and not self._signal and not self._late():
                self._begin()
                time.sleep(POLL_SECONDS)
                self._end_those_that_ended()
                self._show()
        finally:
            stop([running.process for running in self._running])
            # What ended by itself in the last moment counts.
            self._end_those_that_ended(stopping=True)
            for number, handler in old.items():
                signal.signal(number, handler)
        return self._report()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = number

    def _late(self) -> bool:
        return self._end is not None and time.monotonic() >= self._end

    def _begin(self) -> None:
        """Starts what can be started."""
        for job in list(self._waiting):
            if len(self._running) >= self._at_once:
                return
            if job.start and job.start.name in self._failed:
                self._waiting.remove(job)
                self._failed[job.name] = f'was not run, because {job.start.name} failed'
                self._display.say(f'{job.name} {self._failed[job.name]}')
            elif (job.start is None or job.start.finished) and time.monotonic() >= self._elsewhere.get(job.name, 0.0):
                lock = job.lock()
                if lock is not None:
                    self._waiting.remove(job)
                    self._take(job, lock)
                    continue
                if job.name not in self._elsewhere:
                    self._display.say(f'{job.name} is being run by another process')
                self._elsewhere[job.name] = time.monotonic() + LOCK_SECONDS

    def _take(self, job: Job, lock: int) -> None:
        """Starts a job that nobody else has, unless it is done meanwhile."""
        if not job.finished and job.complete:  # killed between the end of training and the result
            job.collect(self._threads)
        if job.finished:
            os.close(lock)
            self._display.say(f'{job.name} is finished')
            return
        first = job.done
        process = job.launch(lock, self._threads)
        self._running.append(_Running(job, lock, process, time.monotonic(), first))
        self._display.say(f'{job.name} {f"goes on from iteration {first} of" if first else "begins:"} {job.max_iters}')

    def _end_those_that_ended(self, stopping: bool = False) -> None:
        """Writes results, and notes failures."""
        for running in [running for running in self._running if running.process.poll() is not None]:
            job, code = running.job, running.process.returncode
            self._running.remove(running)
            kill_group(running.process)
            if (code == 0 or stopping) and job.complete:
                result = job.collect(self._threads)
                self._estimates.add(job, result['seconds'] / job.max_iters)
                scores = ', '.join(f'{k} {v["value"]:.1f}' for k, v in result['last'].items() if k.endswith('mIoU'))
                self._display.say(f'{job.name} finished in {duration(result["seconds"])}: {scores or "no scores"}')
            elif stopping:
                self._left.append(job)
            else:
                why = f'ended with {code}' if code else f'left no checkpoint and scores of iteration {job.max_iters}'
                self._failed[job.name] = why
                self._display.say(f'{job.name} failed: {why}\n{job.tail()}')
            os.close(running.lock)

    def _show(self) -> None:
        bars, parts = [], []
        for running in self._running:
            job = running.job
            iteration = max(running.first, last_iteration(job.work_dir))
            left, seconds = job.max_iters - iteration, time.monotonic() - running.begun
            known = self._estimates.seconds(job, left)
            if known is None and iteration > running.first:
                known = left * seconds / (iteration - running.first)
            bars.append((job.name, iteration, job.max_iters))
            parts.append(known)
        parts += [self._estimates.seconds(job, job.max_iters - self._done[job.name]) for job in self._waiting]
        finished = self._total - len(self._waiting) - len(self._running) - len(self._failed)
        self._display.update(finished, bars, total(parts, self._at_once))

    def _report(self) -> int:
        left = self._waiting + self._left
        finished = self._total - len(left) - len(self._failed)
        self._display.say(f'{finished} of {self._total} runs are finished')
        for name, why in self._failed.items():
            self._display.say(f'failed: {name}, {why}')
        if left:
            why = signal.Signals(self._signal).name if self._signal else 'time limit'
            self._display.say(f'stopped by {why}; {len(left)} runs are left, the same command goes on with them')
        if self._signal:
            return 128 + self._signal
        return FAILED if self._failed else LEFT if left else FINISHED
