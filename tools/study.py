"""Runs a study: methods, splits, seeds and options of one file, each run in a process of its own.

    python tools/study.py configs/studies/camvid_cpu.yaml [--data-root data/camvid] [--dry-run]
        [--jobs 2] [--threads 1] [--only REGEX] [--time-limit 8m] [--rerun]

The same command goes on after an interruption, and skips what is finished. docs/study_runner.md describes the file and
the results. Exit status: 0 all runs are finished, 1 some failed, 2 wrong input, 3 the time limit left some.
"""

from __future__ import annotations

import argparse
import os.path as osp
import re
import sys

from mmseg_derprop.study import (
    Display,
    Estimates,
    Job,
    Scheduler,
    StudyError,
    cores,
    duration,
    load_study,
    make_jobs,
    total,
)

UNITS = {'': 1, 's': 1, 'm': 60, 'h': 3600}


def seconds(text: str) -> float:
    """Of a time as 90, 90s, 8m or 1.5h."""
    match = re.fullmatch(r'(\d+(?:\.\d+)?)([smh]?)', text)
    if not match or not float(match[1]):
        raise argparse.ArgumentTypeError(f'{text!r} is no time: write 90s, 8m or 1.5h')
    return float(match[1]) * UNITS[match[2]]


def positive(text: str) -> int:
    """An integer from 1 on."""
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f'{text!r} is no number from 1 on')
    return int(text)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Run a study')
    parser.add_argument('study', help='path of the YAML file')
    parser.add_argument('--work-dir', help="the study's folder (default: work_dirs/<name of the study>)")
    parser.add_argument('--data-root', help='where the data lie, if not where the data config says')
    parser.add_argument('--jobs', type=positive, default=1, help='runs at the same time (default: 1)')
    parser.add_argument('--threads', type=positive, help='processor threads of a run (default: cores / jobs)')
    parser.add_argument('--only', metavar='REGEX', help='runs whose names hold this, and the starts that they need')
    parser.add_argument('--time-limit', type=seconds, help='stop after 90s, 8m or 1.5h; the next call goes on')
    parser.add_argument('--dry-run', action='store_true', help='print the plan and the estimated time')
    parser.add_argument('--rerun', action='store_true', help='replace runs of another configuration')
    args = parser.parse_args()
    args.threads = args.threads or max(1, cores() // args.jobs)
    args.parser = parser
    return args


def print_plan(jobs: list[Job], at_once: int) -> None:
    """A line for each run: its iterations, its state, the time that it still needs."""
    estimates = Estimates(jobs)
    width = max(len(job.name) for job in jobs)
    print(f'{"run":<{width}}  {"iterations":>10}  {"time left":>9}  state')
    left = []
    for job in jobs:
        done = 0 if job.other_digest else job.done
        left.append(estimates.seconds(job, job.max_iters - done) if done < job.max_iters else 0.0)
        state = 'finished' if job.finished else f'{done} iterations done' if done else 'to do'
        if job.other_digest:
            state = 'of another configuration'
        print(f'{job.name:<{width}}  {job.max_iters:>10}  {duration(left[-1]):>9}  {state}')
    finished = sum(job.finished and not job.other_digest for job in jobs)
    print(f'{len(jobs)} runs, {finished} finished; time left with {at_once} at once: {total(left, at_once)}')


def check(jobs: list[Job], rerun: bool) -> None:
    """Refuses, or with ``rerun`` removes, what another configuration left; and looks for the data."""
    stale = [job for job in jobs if job.other_digest]
    if stale and not rerun:
        names = ', '.join(job.name for job in stale[:6]) + (f' and {len(stale) - 6} more' if len(stale) > 6 else '')
        raise StudyError(
            f'Results or checkpoints of {names} belong to another configuration: the study file, or a config that it '
            'names, has changed. Take another --work-dir, or replace them with --rerun.'
        )
    for job in jobs:
        start = job.start
        if start and start not in stale and start.finished and not job.finished and not osp.isfile(start.checkpoint):
            raise StudyError(
                f'{job.name} goes on from {start.checkpoint}, which is gone: put it back, or remove '
                f'{start.result_path} to train it again.'
            )
    missing = sorted({path for job in jobs if not job.finished for path in job.missing_data()})
    if missing:
        raise StudyError(f'Data are missing: {", ".join(missing[:6])}. Name their place with --data-root.')
    for job in stale:
        job.clear()


def main() -> int:
    args = parse_args()
    try:
        study = load_study(args.study)
        folder = args.work_dir or osp.join('work_dirs', study.name)
        runs = study.select(args.only or '')
        jobs = make_jobs(study, runs, folder, args.data_root)
        if args.dry_run:
            print_plan(jobs, args.jobs)
            return 0
        check(jobs, args.rerun)
        with Display(len(jobs)) as display:
            return Scheduler(jobs, args.jobs, args.threads, display, args.time_limit).run()
    except StudyError as error:
        args.parser.error(str(error))


if __name__ == '__main__':
    sys.exit(main())
