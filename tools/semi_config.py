"""Writes the config that makes an MMSegmentation config learn from unlabelled images too.

    python tools/semi_config.py --base my_config.py --unlabeled FOLDER_OR_LIST --out semi.py [--labeled labeled.txt]
        [--method NAME] [--crop-size H W] [--transforms NAME=KIND ...] [--force]

The base is any config of a segmentor, a file or ``mmseg::path``. The tool looks at its data, builds its model without
weights, says what it found, and writes a few lines, which are meant to be read and edited.
"""

from __future__ import annotations

import argparse
import os.path as osp
import re
import shlex
import sys
import time

import torch
from mmengine.device import get_device

from mmseg_derprop.apis.semi_config import SemiConfig, add_arguments, make_semi_config
from mmseg_derprop.models import SemiSegmentor
from mmseg_derprop.models.decoding import MANY_POSITIONS, decode, image_channels
from mmseg_derprop.models.segmentors import FAILURES
from mmseg_derprop.utils.config import default_work_dir


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


def time_of_iteration(model: SemiSegmentor, size: tuple[int, int], count: int) -> float | None:
    """Seconds that the networks take on this machine, from a pass over two images; without loading and propagation."""
    device = torch.device(get_device())
    try:
        student = model.student.to_empty(device=device).train()
        for tensor in (*student.parameters(), *student.buffers()):
            tensor.data.zero_()
        start = time.perf_counter()
        features = student.extract_feat(torch.zeros(2, image_channels(student), *size, device=device))
        heads = decode(student, features, model.probed.readings, size)
        sum(head.logits.sum() for head in heads).backward()
        if device.type == 'cuda':
            torch.cuda.synchronize()
    except FAILURES:  # a network that keeps more than parameters and buffers
        return None
    views = 1 + model.needs_weak_forward + len(model.strong_branches) + (model.pseudo_labeler.source == 'teacher') / 3
    return (time.perf_counter() - start) / 2 * count * views


def report(found: SemiConfig, args: argparse.Namespace) -> None:
    """Prints what was found."""
    (height, width), count = found.data['crop_size'], found.count
    print(f'method      {found.method}')
    print(f'labelled    {found.dataset.num_labeled} images of {args.labeled or args.base}')
    print(f'unlabelled  {found.dataset.num_unlabeled} images of {", ".join(args.unlabeled)}')
    print(f'batch       {count} labelled and {count} unlabelled images in a process')
    print(f'crop        {height}x{width}')
    print(f'training    {found.length}')
    if (seconds := time_of_iteration(found.model, (height, width), count)) is not None:
        total = f'{seconds * found.iterations / 3600:.1f} hours for {found.iterations} iterations'
        print(f'time        about {seconds:.2g} seconds an iteration on {get_device()}, {total}, without loading')
    for url in sorted(set(re.findall(r'[\w-]+://[^\s\'"]+', str(found.config.model)))):
        print(f'weights     {url}, fetched when training begins; without a network name a file in the base')
    print(f'classes     {found.model.num_classes}' + (', which the heads are given' if found.classes else ''))
    for number, (channels, rows, columns) in enumerate(found.shapes):
        chosen = '  <- labels propagate here' if number == found.index else ''
        print(f'feature {number}   {channels} channels, {rows}x{columns} positions{chosen}')
    if found.index is not None and found.shapes[found.index][1] * found.shapes[found.index][2] > MANY_POSITIONS:
        print('            A fine grid: time grows with the square of its positions. A coarser feature is faster.')


def main() -> None:
    args = parse_args()
    try:
        found = make_semi_config(args.base, args.unlabeled, args.labeled, args.method, args.crop_size, args.transforms)
        report(found, args)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    if named := found.named_base(args.out):
        if osp.exists(named) and not args.force:
            raise SystemExit(f'{named} exists: choose another --out, or overwrite it with --force')
        print(f'base        {named}, which names the classes of {args.base}')
    text = found.write(args.out)
    print(f'\nwrote {args.out}:\n\n{text}\nNext, of which the third makes the weights to start from:')
    last = f'epoch_{found.config.train_cfg.max_epochs}' if found.schedule else f'iter_{found.iterations}'
    print_commands(args.base, args.out, last)


def print_commands(base: str, out: str, last: str) -> None:
    """Prints what to run next. Pseudo-labels of an untrained network are useless, so the plain config comes first."""
    tools = osp.dirname(osp.abspath(__file__))
    tools = min(tools, osp.relpath(tools), key=len)
    installed = sys.argv[0].startswith('mmseg-derprop ')
    start = osp.join(default_work_dir(base), f'{last}.pth')
    for command, script, *arguments in (
        ('check-data', 'check_data.py', out),
        ('browse', 'analysis_tools/browse_dataset.py', out),
        ('train', 'train.py', base),
        ('train', 'train.py', out, '--cfg-options', f'load_from={start}'),
    ):
        program = ['mmseg-derprop', command] if installed else ['python', osp.join(tools, script)]
        print(f'  {shlex.join([*program, *arguments])}')


if __name__ == '__main__':
    main()
