"""Runs a study: methods, splits, seeds and options of one file, each run in a process of its own.

    python tools/study.py configs/studies/camvid_cpu.yaml [--data-root data/camvid] [--dry-run]
        [--jobs 2] [--threads 1] [--only REGEX] [--index I] [--time-limit MINUTES] [--rerun]

The same command resumes what was interrupted, and skips what is finished. docs/study_runner.md describes the file and
the results. Exit status: 0 all runs are finished, 1 some failed, 2 wrong input, 3 the time limit left some.
"""

from __future__ import annotations

import argparse
import math
import os
import os.path as osp
import shutil
import sys

import pandas as pd

from mmseg_derprop.study.job import Job, make_jobs
from mmseg_derprop.study.plan import Study, StudyError, load_study
from mmseg_derprop.study.results import lock_file, read_tables
from mmseg_derprop.study.scheduler import Scheduler, duration, estimate, total


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Run a study')
    parser.add_argument('study', help='path of the YAML file')
    parser.add_argument('--work-dir', help="the study's folder (default: work_dirs/<name of the file>)")
    parser.add_argument('--data-root', help='where the data are, if not where the data config says')
    parser.add_argument('--jobs', type=int, default=1, help='runs at the same time (default: 1)')
    parser.add_argument('--threads', type=int, help='processor threads of a run (default: cores / jobs)')
    parser.add_argument('--only', metavar='REGEX', default='', help='runs whose names match, and the starts they need')
    parser.add_argument('--index', type=int, help='one of these runs by its place in the plan, from 0, and its start')
    parser.add_argument('--time-limit', type=float, metavar='MINUTES', help='then runs save and end; call again')
    parser.add_argument('--dry-run', action='store_true', help='print the plan and the estimated time')
    parser.add_argument('--rerun', action='store_true', help='replace runs of another configuration')
    args = parser.parse_args()
    for name in ('jobs', 'threads', 'time_limit'):
        value = getattr(args, name)
        if value is not None and not value > 0:
            parser.error(f'--{name.replace("_", "-")} must be above 0, but is {value}')
    args.threads = args.threads or max(1, (os.cpu_count() or 1) // args.jobs)
    args.parser = parser
    return args


def print_plan(study: Study, jobs: list[Job], table: pd.DataFrame, at_once: int) -> None:
    """Prints a line for each run: its iterations, the time that it still needs, its state."""
    width, times = max(len(job.name) for job in jobs), []
    for job in jobs:
        done = 0 if job.is_stale() else job.max_iters if job.finished else job.done()
        state = 'finished' if done == job.max_iters else f'{done} iterations done' if done else 'to do'
        state = 'of another configuration' if job.is_stale() else state
        times.append(estimate(study, table, job, done) if done < job.max_iters else 0.0)
        print(f'{job.name:<{width}}  {job.max_iters:>7} iterations  {duration(times[-1]):>8} left  {state}')
    print(f'{len(jobs)} runs; time left with {at_once} at once: {total(times, at_once)}')


def remove(job: Job) -> None:
    """Removes a run of another configuration, unless it is being trained or another process has replaced it by now."""
    lock = lock_file(f'{job.work_dir}.lock')
    if job.is_stale():
        if lock is None:
            raise StudyError(f'{job.name} cannot be replaced while another process trains it: stop that one, or wait.')
        shutil.rmtree(job.work_dir)
    if lock:
        lock.close()


def main() -> int:
    args = parse_args()
    try:
        study = load_study(args.study)
        folder = args.work_dir or osp.join('work_dirs', osp.splitext(osp.basename(args.study))[0])
        chosen = study.select(args.only, args.index)
        every = make_jobs(study, study.runs, folder, args.data_root)
        jobs = [job for job in every if job.run in chosen]
        missing = sorted({path for job in jobs if not job.finished for path in job.missing_lists()})
        if args.dry_run:
            print_plan(study, jobs, read_tables(folder), args.jobs)
            print(end=''.join(f'{path} is missing\n' for path in missing))
            return 0
        if missing:
            raise StudyError(
                f'Lists of images are missing: {", ".join(missing)}. Correct the splits of the study file, or say by '
                '--data-root where the data are.'
            )
        stale = [job for job in jobs if job.is_stale()]
        if stale and not args.rerun:
            raise StudyError(
                f'Runs of another configuration are in {folder} ({", ".join(job.name for job in stale)}): the study '
                'file or a config that it names has changed. Choose another --work-dir, or replace them with --rerun.'
            )
        for job in stale:
            remove(job)
        if outdated := [job.name for job in every if job.is_stale()]:
            print(f'results.csv is without runs of another configuration: {", ".join(outdated)}', file=sys.stderr)
        limit = 60 * (args.time_limit or math.inf)
        return Scheduler(study, jobs, folder, args.jobs, args.threads, limit, outdated).run()
    except StudyError as error:
        args.parser.error(str(error))


if __name__ == '__main__':
    sys.exit(main())
