"""Writes the config that makes an MMSegmentation config learn from unlabelled images too.

    python tools/semi_config.py --base my_config.py --unlabeled FOLDER_OR_LIST --out semi.py [--labeled labeled.txt]
        [--method NAME] [--crop-size H W] [--force]

The base is any config of a segmentor, a file or ``mmseg::path``. The tool looks at its data, builds its model without
weights, says what it found, and writes a few lines, which are meant to be read and edited.
"""

from __future__ import annotations

import argparse
import os.path as osp
import shlex
import sys
from pathlib import Path

from mmseg_derprop.apis.semi_config import SemiConfig, add_arguments, make_semi_config
from mmseg_derprop.datasets.pipelines import left_out_of
from mmseg_derprop.datasets.split_dataset import supervised_parts

# Above, propagation takes longer than a network of usual size: its time grows with the square of the positions.
MANY_POSITIONS = 128 * 128


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Make an MMSegmentation config semi-supervised')
    parser.add_argument('--base', required=True, help='config of a segmentor, a file or mmseg::path')
    parser.add_argument('--out', required=True, help='the config to write')
    parser.add_argument('--force', action='store_true', help='overwrite --out')
    add_arguments(parser, required=True)
    args = parser.parse_args()
    if osp.exists(args.out) and not args.force:
        parser.error(f'{args.out} exists: choose another --out, or overwrite it with --force')
    if not osp.isdir(osp.dirname(osp.abspath(args.out))):
        parser.error(f'the folder of --out {args.out} does not exist: make it')
    return args


def report(found: SemiConfig, args: argparse.Namespace) -> None:
    """Prints what was found."""
    (height, width), count = found.data['crop_size'], found.count
    dropped = left_out_of(supervised_parts(found.config.train_dataloader.dataset)[0].get('pipeline') or [])
    print(f'method      {found.method}')
    print(f'labelled    {found.dataset.num_labeled} images of {args.labeled or args.base}')
    print(f'unlabelled  {found.dataset.num_unlabeled} images of {", ".join(args.unlabeled)}')
    print(f'batch       {count} labelled and {count} unlabelled images in a process')
    print(f'crop        {height}x{width}' + (f', without {", ".join(dropped)}' if dropped else ''))
    print(f'training    {found.length}')
    print(f'classes     {found.num_classes}' + (', which the heads are given' if found.classes else ''))
    for number, (channels, rows, columns) in enumerate(found.shapes):
        chosen = '  <- labels propagate here' if number == found.index else ''
        print(f'feature {number}   {channels} channels, {rows}x{columns} positions{chosen}')
    if found.index is not None and found.shapes[found.index][1] * found.shapes[found.index][2] > MANY_POSITIONS:
        print('            A fine grid: time grows with the square of its positions. A coarser feature is faster.')


def main() -> None:
    args = parse_args()
    try:
        found = make_semi_config(args.base, args.unlabeled, args.labeled, args.method, args.crop_size)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    report(found, args)
    text = found.text(args.out)
    Path(args.out).write_text(text)
    tools = osp.dirname(osp.abspath(__file__))
    tools = min(tools, osp.relpath(tools), key=len)
    programs = [['python', osp.join(tools, name)] for name in ('analysis_tools/browse_dataset.py', 'train.py')]
    if sys.argv[0].startswith('mmseg-derprop '):
        programs = [['mmseg-derprop', 'browse'], ['mmseg-derprop', 'train']]
    print(f'\nwrote {args.out}:\n\n{text}\nNext:')
    for program in programs:
        print(f'  {shlex.join([*program, args.out])}')


if __name__ == '__main__':
    main()
