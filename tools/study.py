"""Runs a study: methods, splits, seeds and options of one file, each run in a process of its own.

    python tools/study.py configs/studies/camvid_cpu.yaml [--data-root data/camvid] [--dry-run]
        [--jobs 2] [--threads 1] [--only REGEX] [--index I] [--time-limit 8m] [--rerun] [--slurm FILE]

The same command resumes what was interrupted, and skips what is finished. docs/study_runner.md describes the file and
the results. Exit status: 0 all runs are finished, 1 some failed, 2 wrong input, 3 the time limit left some.
"""

from __future__ import annotations

import argparse
import os
import os.path as osp
import re
import sys

from mmseg_derprop.study import (
    Job,
    Scheduler,
    Study,
    StudyError,
    Tables,
    duration,
    estimate,
    load_study,
    make_jobs,
    total,
)
from mmseg_derprop.study.slurm import write_script


def seconds(text: str) -> float:
    """Of a time as 90, 90s, 8m or 1.5h."""
    match = re.fullmatch(r'(\d+(?:\.\d+)?)([smh]?)', text)
    if not match or not float(match[1]):
        raise argparse.ArgumentTypeError(f'must be a time such as 90s, 8m or 1.5h, but is {text!r}')
    return float(match[1]) * {'m': 60, 'h': 3600}.get(match[2], 1)


def positive(text: str) -> int:
    """An integer of at least 1."""
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f'must be an integer of at least 1, but is {text!r}')
    return int(text)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Run a study')
    parser.add_argument('study', help='path of the YAML file')
    parser.add_argument('--work-dir', help="the study's folder (default: work_dirs/<name of the study>)")
    parser.add_argument('--data-root', help='where the data are, if not where the data config says')
    parser.add_argument('--jobs', type=positive, default=1, help='runs at the same time (default: 1)')
    parser.add_argument('--threads', type=positive, help='processor threads of a run (default: cores / jobs)')
    parser.add_argument('--only', metavar='REGEX', default='', help='runs whose names match, and the starts they need')
    parser.add_argument('--index', type=int, help='one of these runs by its place in the plan, from 0, and its start')
    parser.add_argument('--time-limit', type=seconds, help='stop after 90s, 8m or 1.5h; the next call resumes')
    parser.add_argument('--dry-run', action='store_true', help='print the plan and the estimated time')
    parser.add_argument('--rerun', action='store_true', help='replace runs of another configuration')
    parser.add_argument('--slurm', metavar='FILE', help='write an array script for sbatch instead of running')
    args = parser.parse_args()
    args.threads = args.threads or max(1, (os.cpu_count() or 1) // args.jobs)
    args.parser = parser
    return args


def print_plan(study: Study, jobs: list[Job], tables: Tables, at_once: int) -> None:
    """A line for each run: its iterations, the time that it still needs, its state."""
    records, width, times = tables.runs(), max(len(job.name) for job in jobs), []
    for job in jobs:
        known = records.get(job.name, {}).get('digest') or job.begun_digest()
        done = job.max_iters if job.name in records else job.done()
        state = 'finished' if job.name in records else f'{done} iterations done' if done else 'to do'
        if known not in (None, job.digest):
            done, state = 0, 'of another configuration'
        times.append(estimate(study, records, job.run, job.max_iters - done) if done < job.max_iters else 0.0)
        print(f'{job.name:<{width}}  {job.max_iters:>7} iterations  {duration(times[-1]):>7} left  {state}')
    print(f'{len(jobs)} runs; time left with {at_once} at once: {total(times, at_once)}')


def refuse_or_remove(jobs: list[Job], tables: Tables, rerun: bool) -> None:
    """Refuses, or with ``rerun`` removes, what another configuration left."""
    records = tables.runs()
    stale = [j for j in jobs if (records.get(j.name, {}).get('digest') or j.begun_digest()) not in (None, j.digest)]
    if stale and not rerun:
        raise StudyError(
            f'Runs of another configuration are in the folder ({", ".join(job.name for job in stale)}): the study '
            'file or a config that it names has changed. Choose another --work-dir, or replace them with --rerun.'
        )
    for job in stale:
        job.clear()
    if stale:
        tables.remove([job.name for job in stale])


def main() -> int:
    args = parse_args()
    try:
        study = load_study(args.study)
        folder = args.work_dir or osp.join('work_dirs', study.name)
        jobs, tables = make_jobs(study, study.select(args.only, args.index), folder, args.data_root), Tables(folder)
        if args.dry_run:
            print_plan(study, jobs, tables, args.jobs)
            return 0
        if args.slurm:
            arguments = [osp.abspath(__file__), args.study, '--work-dir', folder, '--threads', str(args.threads)]
            arguments += [
                word
                for name in ('only', 'data_root')
                if (value := getattr(args, name))
                for word in (f'--{name.replace("_", "-")}', value)
            ]
            write_script(args.slurm, study.name, jobs, arguments, args.threads)
            return 0
        refuse_or_remove(jobs, tables, args.rerun)
        return Scheduler(study, jobs, tables, args.jobs, args.threads, args.time_limit).run()
    except StudyError as error:
        args.parser.error(str(error))


if __name__ == '__main__':
    sys.exit(main())
