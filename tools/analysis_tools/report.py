"""A study as one page: tables over seeds, learning curves, the course of the pseudo-labels, pictures.

    python tools/analysis_tools/report.py work_dirs/NAME_OF_THE_STUDY --out work_dirs/report
    python tools/analysis_tools/report.py RUNS --out FOLDER --baseline supervised --images 4 --pixel 240 160 \\
        --cfg-options data_root=data/camvid

RUNS is the folder of a study, or of the JSON files that tools/study.py left for its runs (docs/study_runner.md).
FOLDER gets ``report.html``, which needs no other file, and every figure as PNG. The page says what was left out: files
that are no results, unfinished runs, pictures whose checkpoint is gone. The same results give the same page.

Pictures are drawn on the CPU, of the lowest seed of each method that still has its checkpoint: image, truth,
prediction and, of a method that labels unlabelled images, confidence, pseudo-labels and regions, and how similar the
image's positions are to one pixel, with the derivative's share in the similarity and without. ``--images 0`` draws
none.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import DictAction

import mmseg_derprop  # noqa: F401  (registers the parts)
from mmseg_derprop.report import figures, page, panels, runs
from mmseg_derprop.utils.safe_loading import checkpoints_as_data


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Report on a study')
    parser.add_argument('runs', type=Path, help='folder of a study, or of its results (*.json)')
    parser.add_argument('--out', type=Path, required=True, help='folder for the page and the pictures')
    parser.add_argument(
        '--baseline',
        help='method that the others are compared with (default: the only one that trains a single network)',
    )
    parser.add_argument('--images', type=int, default=3, help='validation images that are drawn of each method')
    parser.add_argument(
        '--pixel',
        nargs=2,
        type=int,
        metavar=('X', 'Y'),
        help='whose similarity map is drawn (default: one inside of an object near the centre of each image)',
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='key=value pairs merged into the configs for the pictures'
    )
    args = parser.parse_args()
    if args.images < 0:
        parser.error(f'--images is {args.images}: give 0 for none, or more')
    if args.pixel and min(args.pixel) < 0:
        parser.error(f'--pixel is {args.pixel[0]} {args.pixel[1]}: both count from 0, from the upper left corner')
    return args


def panels_of(
    setting: runs.Setting, number: int, args: argparse.Namespace, notes: list[str]
) -> Iterator[figures.Picture]:
    """Pictures of each row that still has a checkpoint; of the others, why not."""
    for row_number, row in enumerate(setting.rows, 1):
        finished = [run for _, run in sorted(row.finished.items())]
        run = next((run for run in finished if run.place('checkpoint')), finished[0] if finished else None)
        if run is None:
            continue
        try:
            figure, titles = panels.draw_panels(run, args.images, args.pixel, args.cfg_options)
        except panels.PanelError as error:
            notes.append(f'{setting.title}: no pictures of {row.label}, seed {run.seed}: {error}.')
            continue
        caption = panels.caption(row.label, setting.title, run, titles)
        alt = f'Validation images, {row.label}, {setting.title}: {", ".join(titles)}.'
        yield figures.save(figure, args.out, f'panels_{number}_{row_number}', caption, alt, vector=False)


def main() -> None:
    args = parse_args()
    try:
        found, notes = runs.read_folder(args.runs)
        settings, more = runs.compare(found, args.baseline)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f'report.py: {error}') from error
    notes += more
    args.out.mkdir(parents=True, exist_ok=True)
    looks = figures.styles(settings)
    sections = []
    for number, setting in enumerate(settings, 1):
        pictures = figures.charts(setting, looks, args.out, number)
        if args.images:
            with checkpoints_as_data():
                pictures += panels_of(setting, number, args, notes)
        sections.append(page.Section(setting, pictures))
    studies = sorted({setting.study for setting in settings if setting.study})
    title = 'Study ' + ', '.join(studies) if studies else 'Study'
    path = args.out / 'report.html'
    path.write_text(page.render(title, sections, notes), encoding='utf-8')
    for note in notes:
        print(f'note: {note}')
    print(path)


if __name__ == '__main__':
    main()
