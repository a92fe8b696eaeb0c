"""A study as an array job of Slurm."""

from __future__ import annotations

import shlex
import sys

from .job import Job

SCRIPT = """\
#!/bin/bash
# {runs} runs of {name}. Task I runs run I of --dry-run, after the start that it needs. Submit again to resume.
#   sbatch {path}
# So that no task waits for its start, run the {starts} starts first:
#   sbatch --wait --array=0-{last_start} {path} && sbatch --array={starts}-{last} {path}
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --cpus-per-task={threads}
#SBATCH --output=slurm-%A_%a.log
# Runs save a checkpoint when the time is nearly over.
#SBATCH --signal=B:TERM@120
# Add what your cluster needs:
##SBATCH --partition=gpu
##SBATCH --gres=gpu:1
##SBATCH --time=24:00:00

exec {command} --index "$SLURM_ARRAY_TASK_ID"
"""


def write_script(path: str, name: str, jobs: list[Job], words: list[str], threads: int) -> None:
    """Writes an array script for sbatch.

    Args:
        path (str): Of the script.
        name (str): Of the study.
        jobs (list[Job]): All jobs of the array, starts first.
        words (list[str]): Command line of tools/study.py without ``--slurm``.
        threads (int): Processor threads of a run.
    """
    starts = sum(job.run.stage == 'start' for job in jobs)
    command = shlex.join([sys.executable, *words])
    numbers = dict(runs=len(jobs), last=len(jobs) - 1, starts=starts, last_start=max(starts - 1, 0), threads=threads)
    with open(path, 'w') as file:
        file.write(SCRIPT.format(name=name, path=shlex.quote(path), command=command, **numbers))
