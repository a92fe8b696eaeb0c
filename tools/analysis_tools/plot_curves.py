"""Validation curves of several runs: a table of the last and best value, and a picture.

    python tools/analysis_tools/plot_curves.py NAME=WORK_DIR ... --out curves.png [--metric mIoU]

A run of a SemiSegmentor gives two curves, of its teacher and of its student. Of several starts in one work dir (a
resumed run) the values are joined by iteration.
"""

from __future__ import annotations

import argparse
import glob
import os.path as osp

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt

from mmseg_derprop.study.result import log_entries


def read_curves(work_dir: str, metric: str) -> dict[str, dict[int, float]]:
    """Values of a metric by iteration, of each network of a run ('' if there is only one).

    Raises:
        FileNotFoundError: If the run left no scalars.
    """
    files = sorted(glob.glob(osp.join(work_dir, '*', 'vis_data', 'scalars.json')))
    if not files:
        raise FileNotFoundError(f'{work_dir} has no */vis_data/scalars.json: give the work dir of a run.')
    curves: dict[str, dict[int, float]] = {}
    for file in files:
        iteration = 0  # of the last training entry: a validation entry's step may count epochs
        for entry in log_entries(file):
            iteration = entry.get('iter', iteration)
            for key, value in entry.items():
                network, _, name = key.rpartition('/')
                if name == metric:
                    curves.setdefault(network, {})[iteration] = value
    return curves


def main() -> None:
    parser = argparse.ArgumentParser(description='Compare validation curves')
    parser.add_argument('runs', nargs='+', help='NAME=WORK_DIR')
    parser.add_argument('--out', required=True, help='path of the picture')
    parser.add_argument('--metric', default='mIoU')
    args = parser.parse_args()
    plt.rcParams['text.parse_math'] = False  # names are no formulas
    figure, axes = plt.subplots(figsize=(7, 4))
    print(f'| run | last {args.metric} | best {args.metric} | at iteration |\n|---|---|---|---|')
    for run in args.runs:
        name, separator, work_dir = run.partition('=')
        if not separator:
            parser.error(f'{run}: write NAME=WORK_DIR')
        for network, curve in read_curves(work_dir, args.metric).items():
            label = f'{name}, {network}' if network else name
            steps = sorted(curve)
            best = max(steps, key=curve.__getitem__)
            print(f'| {label} | {curve[steps[-1]]:.1f} | {curve[best]:.1f} | {best} |')
            axes.plot(steps, [curve[s] for s in steps], '--' if network == 'teacher' else '-', marker='.', label=label)
    axes.set(xlabel='iteration', ylabel=args.metric)
    axes.grid(alpha=0.3)
    axes.legend(fontsize='small')
    figure.savefig(args.out, dpi=120, bbox_inches='tight')


if __name__ == '__main__':
    main()
