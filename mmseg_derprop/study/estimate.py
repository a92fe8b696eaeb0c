"""How long runs take, from what earlier ones took."""

from __future__ import annotations

from collections.abc import Iterable

from .job import Job


class Estimates:
    """Seconds of jobs, by the seconds per iteration of finished ones.

    The same stage, method and option count first, then the same method and option, then the same method, then what
    the study file says.

    Args:
        jobs (Iterable[Job]): All jobs of a study.
    """

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._measured: dict[tuple, list[float]] = {}
        for job in jobs:
            if job.finished:
                self.add(job, job.result()['seconds'] / job.max_iters)

    def add(self, job: Job, seconds_per_iteration: float) -> None:
        """Takes a measurement into account."""
        for key in self._keys(job):
            self._measured.setdefault(key, []).append(seconds_per_iteration)

    def seconds(self, job: Job, iterations: int) -> float | None:
        """Of so many iterations of a job; None if unknown."""
        for key in self._keys(job):
            if key in self._measured:
                values = self._measured[key]
                return iterations * sum(values) / len(values)
        given = job.study.seconds_per_iteration.get(job.run.method)
        return None if given is None else iterations * given

    @staticmethod
    def _keys(job: Job) -> list[tuple]:
        run = job.run
        return [(run.stage, run.method, run.option), (run.method, run.option), (run.method,)]


def total(parts: Iterable[float | None], jobs: int) -> str:
    """A sum of seconds over parallel jobs, as text that says where parts are unknown."""
    parts = list(parts)
    known = [part for part in parts if part is not None]
    if not known:
        return 'unknown' if parts else '0s'
    text = duration(max(sum(known) / jobs, max(known)))
    return text if len(known) == len(parts) else f'at least {text}'


def duration(seconds: float | None) -> str:
    """``1h02m``, ``5m07s``, ``12s``, or ``?``."""
    if seconds is None:
        return '?'
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f'{hours}h{minutes:02}m'
    return f'{minutes}m{rest:02}s' if minutes else f'{rest}s'
