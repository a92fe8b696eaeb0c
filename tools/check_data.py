"""Reads and decodes every image and label file of a config, and lists all problems.

    python tools/check_data.py CONFIG [--cfg-options ...] [--workers N]

It loads each image as its pipeline does, also of a plain MMSegmentation config, and judges it as training does. Beside
the problems it tells what training would do about them, numbers and sizes of images, each class's share of the pixels,
and images that are in two places. The exit status is 1 if there is a problem.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import cv2
import numpy as np
from mmengine.config import Config, DictAction
from mmengine.dataset import BaseDataset
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from PIL import Image
from rich.progress import track
from torch.utils.data import ConcatDataset, DataLoader, Dataset

import mmseg_derprop  # noqa: F401  (registers the parts)
from mmseg_derprop.datasets import Problem, SemiDataset, UnlabeledDataset
from mmseg_derprop.datasets.checks.examine import Examined, examine
from mmseg_derprop.datasets.checks.labels import CONVERTER, absent_classes
from mmseg_derprop.datasets.checks.leaks import image_paths, shared_images
from mmseg_derprop.datasets.semi_dataset import build_labeled, list_labeled
from mmseg_derprop.datasets.split_dataset import supervised_parts
from mmseg_derprop.utils.config import load_config

PALETTE = 'palette in another order'
LABELED, UNLABELED, VALIDATION, TEST = 'labelled', 'unlabelled', 'validation', 'test'


class Part(NamedTuple):
    """Data of one kind: its loaded sources, what a run does at a problem, and problems of the lists."""

    name: str
    sources: list[BaseDataset]
    consequence: str
    problems: list[Problem]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Read all data of a config and list what is wrong with them')
    parser.add_argument('config', help='path of the config')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='key=value pairs merged into the config')
    parser.add_argument('--workers', type=int, default=os.cpu_count(), help='processes that read')
    return parser.parse_args()


def parts_of(config: Config) -> Iterator[Part]:
    """All data of a config, with their lists read."""
    train, val, test = ((config.get(f'{kind}_dataloader') or {}).get('dataset') for kind in ('train', 'val', 'test'))
    kind = train and (DATASETS.get(train['type']) if isinstance(train['type'], str) else train['type'])
    if isinstance(kind, type) and issubclass(kind, SemiDataset):
        yield from semi_parts(train)
        train = None
    for name, dataset in {LABELED: train, VALIDATION: val, TEST: test if test != val else None}.items():
        if dataset is not None:
            yield loaded(name, supervised_parts(dataset), 'stops, or takes the file as it is')


def semi_parts(train: dict) -> Iterator[Part]:
    """The two parts of semi-supervised training data."""
    try:
        dataset = DATASETS.build({**train, 'lazy_init': True})
    except (OSError, ValueError, TypeError, KeyError) as error:
        yield Part(LABELED, [], 'stops', [Problem('train_dataloader', 'data set', f'cannot be built: {error}')])
        return
    says = dict(stop='stops', skip='takes other images instead, up to the limit of BrokenFilesHook')
    yield loaded(LABELED, dataset.labeled_sources, says[dataset.broken_labeled])
    yield loaded(UNLABELED, dataset.unlabeled_sources, says[dataset.broken_unlabeled])


def loaded(name: str, sources: Sequence[dict | BaseDataset], consequence: str) -> Part:
    """Reads the lists of sources."""
    part = Part(name, [], consequence, [])
    for source in sources:
        try:
            if isinstance(source, UnlabeledDataset):
                source.check_listed = False  # so that all missing files are listed
                source.full_init()
            else:
                source = build_labeled(source, name)
                list_labeled(source, name)
            part.sources.append(source)
        except (OSError, ValueError, TypeError, KeyError) as error:
            part.problems.append(Problem(f'{name} data', 'data set', f'cannot be used: {error}'))
    return part


class Examination(Dataset):
    """What is found of each sample of a source."""

    def __init__(self, source: BaseDataset) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Examined:
        return examine(self.source, index)


def report(part: Part, workers: int) -> list[Problem]:
    """Examines all samples of a part; prints what it has, and returns its problems."""
    problems, sizes, counts = list(part.problems), set(), np.zeros(256, np.int64)
    useless = []
    samples = ConcatDataset([Examination(source) for source in part.sources]) if part.sources else []
    options = dict(num_workers=workers, multiprocessing_context='fork') if workers else {}
    loader = DataLoader(samples, 8, collate_fn=list, worker_init_fn=lambda _: cv2.setNumThreads(0), **options)
    for found in chain.from_iterable(track(loader, f'{part.name:<10}')):
        problems += [found.problem] if found.problem else []
        useless += [str(found.label_problem)] if found.label_problem else []
        if found.size is not None:
            sizes.add(tuple(found.size))
        if found.counts is not None:
            counts += found.counts
    text = f'{part.name:<10}  {sum(map(len, part.sources))} images'
    if sizes:
        ordered = sorted(sizes, key=np.prod)
        text += f', {ordered[0][0]}x{ordered[0][1]} to {ordered[-1][0]}x{ordered[-1][1]} (height x width)'
    print(text)
    classes = (part.sources[0].metainfo.get('classes') if part.sources else None) or ()
    if part.name != UNLABELED and counts.any():
        shares = dict(zip(classes, counts / counts.sum()))
        print(*(f'{name} {share:.2%},' for name, share in shares.items()), f'ignored {1 - sum(shares.values()):.2%}')
        absent = absent_classes(counts, classes, getattr(part.sources[0], 'ignore_index', 255))
        if absent and part.name == LABELED:
            problems.append(absent)
        problems += palette_problems(part.sources)
    if useless:
        print(f'Note: {len(useless)} label files of {part.name} images cannot be used; only the log would need them:')
        print('', *dict.fromkeys(useless), sep='\n  ')
    return list(dict.fromkeys(problems))


def palette_problems(sources: Sequence[BaseDataset]) -> Iterator[Problem]:
    """Palette images that have a colour under another id than an earlier one has."""
    seen: dict[tuple, tuple[int, str]] = {}
    paths = [source.get_data_info(index).get('seg_map_path') for source in sources for index in range(len(source))]
    for path in filter(None, paths):
        with contextlib.suppress(OSError, ValueError), Image.open(path) as image:  # unreadable ones are told elsewhere
            palette = [tuple(colour) for colour in np.reshape(image.getpalette() or [], (-1, 3)).tolist()]
            used = [number for _, number in image.getcolors(256)] if image.mode == 'P' else []
            for colour, number in ((palette[number], number) for number in used if number < len(palette)):
                other, where = seen.setdefault(colour, (number, path))
                if other != number and palette.count(colour) == 1:
                    cause = f'must have each colour under one id, but has {number} for the {other} of {where}'
                    yield Problem(path, PALETTE, f'{cause}. Give each colour its own by {CONVERTER}')
                    break


def overlaps(parts: Sequence[Part]) -> list[Problem]:
    """Images that must not be in two parts; prints notes about others."""
    paths = {part.name: [path for source in part.sources for path in image_paths(source)] for part in parts}
    problems = []
    for held_out in (VALIDATION, TEST):
        for kind in (LABELED, UNLABELED):
            cause = f'is a {held_out} image and a training image ({kind}). Take it out of one of the lists or folders'
            for path in shared_images(paths.get(held_out, ()), paths.get(kind, ())):
                problems.append(Problem(path, f'{held_out} image in training', cause))
    if twice := shared_images(paths.get(LABELED, ()), paths.get(UNLABELED, ())):
        print(f'Note: {len(twice)} of the labelled images are also among the unlabelled ones. This is allowed.')
    for name, listed in paths.items():
        if again := len(listed) - len(set(listed)):
            print(f'Note: {again} {name} images are listed more than once.')
    return problems


def list_problems(name: str, consequence: str, problems: Sequence[Problem]) -> None:
    """Prints problems by kind."""
    for kind, count in Counter(problem.kind for problem in problems).items():
        # What lists name must exist, whatever happens at files that cannot be used.
        stops = kind == 'missing' and (name == UNLABELED or consequence == 'stops')
        stops = stops or kind in ('data set', 'class without labels')
        consequence = 'takes the ids as they are' if kind == PALETTE else consequence
        print(f'\n{name}, {kind}: {count}. A run {"stops before it begins" if stops else consequence}.')
        for problem in problems:
            if problem.kind == kind:
                print(f'  {problem}')


def main() -> None:
    args = parse_args()
    try:
        config = load_config(args.config, args.cfg_options)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f'{args.config}: {error}') from None
    init_default_scope(config.get('default_scope', 'mmseg'))
    parts = list(parts_of(config))
    if not parts:
        raise SystemExit(f'{args.config} must have a dataloader for training, validation or test, but has none.')
    found = [(part.name, part.consequence, report(part, args.workers)) for part in parts]
    found.append(('lists', 'stops before it begins, unless leaks of PseudoLabelHook allows it', overlaps(parts)))
    for name, consequence, problems in found:
        list_problems(name, consequence, problems)
    count = sum(len(problems) for _, _, problems in found)
    print(f'\nProblems: {count}' if count else 'No problem.')
    if count:
        sys.exit(1)


if __name__ == '__main__':
    main()
