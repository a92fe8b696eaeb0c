"""Studies: a matrix of runs from one file, each in a process of its own, one table of results and a page.

Needs the extra ``study``: pandas, pydantic, jinja2, rich, matplotlib and pyyaml.
"""

from .compose import compose, digest
from .job import Job, make_jobs
from .plan import Run, Study, StudyError, load_study
from .scheduler import Scheduler, duration, estimate, total
from .tables import Tables, read_results

__all__ = [
    'Job',
    'Run',
    'Scheduler',
    'Study',
    'StudyError',
    'Tables',
    'compose',
    'digest',
    'duration',
    'estimate',
    'load_study',
    'make_jobs',
    'read_results',
    'total',
]
