"""Studies: a matrix of runs from one file, each in a process of its own, and one result each."""

from .compose import compose, digest
from .display import Display
from .estimate import Estimates, duration, total
from .job import Job, make_jobs
from .plan import Run, Study, StudyError, load_study
from .result import cores
from .scheduler import Scheduler

__all__ = [
    'Display',
    'Estimates',
    'Job',
    'Run',
    'Scheduler',
    'Study',
    'StudyError',
    'compose',
    'cores',
    'digest',
    'duration',
    'load_study',
    'make_jobs',
    'total',
]
