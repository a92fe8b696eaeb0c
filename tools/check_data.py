"""Reads and decodes every image and label file of a config, and lists all problems in one go.

    python tools/check_data.py CONFIG [--cfg-options ...] [--workers N] [--json FILE]

It goes through the labelled, unlabelled, validation and test images, also of a plain MMSegmentation config, loads each
as its pipeline does, and judges it as training does. Beside the problems it tells what training would do about them,
numbers and sizes of images, each class's share of the pixels, and images that are in two places. The exit status is 0
if there is no problem, and 1 if there is.
"""

from __future__ import annotations

import argparse
import json
import os
import os.path as osp
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from mmengine.config import Config, DictAction
from mmengine.dataset import BaseDataset
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from rich.progress import track
from torch.utils.data import ConcatDataset, DataLoader, Dataset

import mmseg_derprop  # noqa: F401  (registers the parts)
from mmseg_derprop.datasets import Problem, SemiDataset, UnlabeledDataset
from mmseg_derprop.datasets.checks.examine import Examined, examine
from mmseg_derprop.datasets.checks.leaks import image_paths, shared_images
from mmseg_derprop.datasets.semi_dataset import build_labeled, load_labeled
from mmseg_derprop.datasets.split_dataset import supervised_parts
from mmseg_derprop.utils.config import load_config

BATCH = 8
LABELED, UNLABELED, VALIDATION, TEST = 'labelled', 'unlabelled', 'validation', 'test'


class Part(NamedTuple):
    """Data of one kind: its sources, what training does about problems, and what is wrong with the whole."""

    name: str
    sources: Sequence[BaseDataset]
    consequence: str
    problems: list[Problem]
    limit: float = float('inf')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Read all data of a config and list what is wrong with them')
    parser.add_argument('config', help='path of the config')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='key=value pairs merged into the config')
    parser.add_argument(
        '--workers', type=int, default=os.cpu_count() or 1, help='processes that read (default: %(default)s)'
    )
    parser.add_argument('--json', metavar='FILE', help='write the findings there too')
    args = parser.parse_args()
    if args.workers < 0:
        parser.error(f'--workers is {args.workers}, but must be 0 or more')
    if '::' not in args.config and not osp.isfile(args.config):
        parser.error(f'there is no config {args.config}')
    if args.json and not osp.isdir(osp.dirname(osp.abspath(args.json))):
        parser.error(f'the folder of --json {args.json} does not exist: make it')
    return args


def parts_of(config: Config) -> Iterator[Part]:
    """All data of a config, built and with their lists read."""
    plain = 'a run of plain MMSegmentation stops at it, or takes it as it is'
    outside = bool(config.get('allow_outside', False))
    train = (config.get('train_dataloader') or {}).get('dataset')
    semi = False
    if train is not None:
        kind = DATASETS.get(train['type']) if isinstance(train['type'], str) else train['type']
        semi = isinstance(kind, type) and issubclass(kind, SemiDataset)
    if semi:
        yield from semi_parts(config, train)
    elif train is not None:
        yield labeled_part(LABELED, train, plain, outside)
    val = (config.get('val_dataloader') or {}).get('dataset')
    if val is not None:
        consequence = 'training stops, at the latest when it validates' if semi else plain
        yield labeled_part(VALIDATION, val, consequence, outside or (semi and train.get('allow_outside', False)))
    test = (config.get('test_dataloader') or {}).get('dataset')
    if test is not None and test != val:
        yield labeled_part(TEST, test, 'a test stops at it, or takes it as it is', outside)


def semi_parts(config: Config, train: dict) -> Iterator[Part]:
    """The two parts of semi-supervised training data."""
    try:
        dataset = DATASETS.build({**train, 'lazy_init': True})
    except (OSError, ValueError, TypeError, KeyError) as error:
        yield Part(
            LABELED, [], 'training stops', [Problem('train_dataloader', 'data set', f'cannot be built: {error}')]
        )
        return
    hooks = [hook for hook in config.get('custom_hooks') or [] if hook['type'] == 'BrokenFilesHook']
    limit = hooks[0].get('limit', 100) if hooks else float('inf')
    policies = {
        'stop': ('training stops when it meets it, if not before', float('inf')),
        'skip': (f'training takes other images instead (limit: {limit} files)', limit),
    }
    kinds = ((LABELED, dataset.labeled_sources), (UNLABELED, dataset.unlabeled_sources))
    for (name, sources), policy in zip(kinds, (dataset.broken_labeled, dataset.broken_unlabeled)):
        consequence, limit = policies[policy]
        yield loaded(name, sources, consequence, dataset.allow_outside)._replace(limit=limit)


def labeled_part(name: str, dataset: dict, consequence: str, outside: bool) -> Part:
    """Images with labels, of one data set or of those inside wrappers."""
    try:
        return loaded(name, [build_labeled(part, name) for part in supervised_parts(dataset)], consequence, outside)
    except (OSError, ValueError, TypeError, KeyError) as error:
        return Part(name, [], consequence, [Problem(f'{name} data', 'data set', f'cannot be built: {error}')])


def loaded(name: str, sources: Sequence[BaseDataset], consequence: str, outside: bool) -> Part:
    """Reads the lists of sources."""
    good, problems = [], []
    for source in sources:
        try:
            if isinstance(source, UnlabeledDataset):
                source.full_init(check_listed=False)
            else:
                load_labeled(source, name, check=False, allow_outside=outside)
        except (OSError, ValueError) as error:
            problems.append(Problem(f'{name} data', 'data set', f'cannot be used: {error}'))
        else:
            good.append(source)
    return Part(name, good, consequence, problems)


class Examination(Dataset):
    """The samples of a source, each with its path and what is found of it."""

    def __init__(self, source: BaseDataset) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Examined:
        return examine(self.source, index)


def read(part: Part, workers: int) -> dict:
    """Examines all samples of a part; returns its findings, ready for JSON."""
    problems, sizes, counts = list(part.problems), Counter(), np.zeros(256, np.int64)
    for found in examined(part, workers) if part.sources else ():
        problems += found.problems
        if found.size is not None:
            sizes[tuple(map(int, found.size))] += 1
        if found.counts is not None:
            counts += found.counts
    consequence = part.consequence
    if len({problem.path for problem in problems}) > part.limit:
        consequence = f'training stops when it has met more than {part.limit} of them, the limit of BrokenFilesHook'
    ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    classes = (part.sources[0].metainfo.get('classes') if part.sources else None) or ()
    labels = {} if part.name == UNLABELED else dict(zip(classes, (counts / max(counts.sum(), 1)).tolist()))
    return dict(
        part=part.name,
        images=sum(map(len, part.sources)),
        smallest=ordered[0] if ordered else None,
        largest=ordered[-1] if ordered else None,
        class_shares=labels,
        ignored_share=1 - sum(labels.values()) if labels and counts.any() else None,
        problems=[entry(problem, consequence, part.name == UNLABELED) for problem in dict.fromkeys(problems)],
    )


def examined(part: Part, workers: int) -> Iterator[Examined]:
    """What is found of each sample of a part, with a progress bar."""
    dataset = ConcatDataset([Examination(source) for source in part.sources])
    settings = dict(num_workers=workers, collate_fn=list, worker_init_fn=one_thread)
    batches = DataLoader(dataset, BATCH, multiprocessing_context='fork' if workers else None, **settings)
    done = 0
    try:
        for batch in track(batches, f'{part.name:<10}'):
            yield from batch
            done += len(batch)
    except RuntimeError as error:
        if 'DataLoader worker' not in str(error):
            raise
        paths = [path for source in part.sources for path in image_paths(source)][done : done + BATCH]
        raise SystemExit(
            f'A process that reads images died at one of these: {", ".join(paths)}. Memory may be too small for it '
            f'(try a smaller --workers), or the file crashes the decoder. {error}'
        ) from None


def one_thread(worker: int) -> None:
    """Processes are enough."""
    cv2.setNumThreads(0)


def entry(problem: Problem, training: str, unlabeled: bool = False) -> dict:
    """A problem, ready for JSON."""
    # Files that a list of unlabelled images names must exist, whatever follows those that cannot be used.
    missing = problem.kind == 'missing' and (unlabeled or training.startswith('training stops'))
    if problem.kind == 'data set' or missing:
        training = 'training stops before its first iteration'
    return dict(problem._asdict(), text=str(problem), training=training)


def overlaps(config: Config, parts: Sequence[Part]) -> tuple[list[dict], list[str]]:
    """Images that are in two parts: those that must not be, as problems, and notes about others."""
    paths = {part.name: [path for source in part.sources for path in image_paths(source)] for part in parts}
    hooks = [hook for hook in config.get('custom_hooks') or [] if hook['type'] == 'PseudoLabelHook']
    leaks = hooks[0].get('leaks', 'error') if hooks else 'ignore'
    says = dict(error='training stops before its first iteration', warn='training warns of it')
    problems, notes = [], []
    for held_out in (VALIDATION, TEST):
        training = (
            says.get(leaks, 'training does not look for it') if held_out == VALIDATION else 'nothing looks for it'
        )
        for kind in (LABELED, UNLABELED):
            for path in shared_images(paths.get(held_out, ()), paths.get(kind, ())):
                cause = (
                    f'is a {held_out} image and a training image ({kind}): take it out of one of the lists or folders'
                )
                problems.append(entry(Problem(path, f'{held_out} image in training', cause), training))
    if twice := shared_images(paths.get(LABELED, ()), paths.get(UNLABELED, ())):
        notes.append(f'{len(twice)} of the labelled images are among the unlabelled ones, too; this is allowed.')
    for name, listed in paths.items():
        if again := len(listed) - len(set(listed)):
            notes.append(f'{again} {name} images are listed more than once.')
    return problems, notes


def describe(found: dict) -> str:
    """Numbers, sizes and classes of a part, as text."""
    sizes = [f'{size[0]}x{size[1]}' for size in (found['smallest'], found['largest']) if size]
    text = f'{found["part"]:<10}  {found["images"]} images' + (
        f', {" to ".join(dict.fromkeys(sizes))}' if sizes else ''
    )
    shares = ', '.join(f'{name} {share:.2%}' for name, share in found['class_shares'].items())
    if found['ignored_share'] is not None:
        text += f'\n{"":<12}{shares}, ignored {found["ignored_share"]:.2%}'
    return text


def grouped(problems: Sequence[dict], part: str) -> str:
    """The problems of a part, by kind, as text."""
    groups: dict[tuple[str, str], list[str]] = {}
    for problem in problems:
        groups.setdefault((problem['kind'], problem['training']), []).append(problem['text'])
    return '\n'.join(
        '\n  '.join([f'\n{part}, {kind}: {len(texts)}. Then {training}.', *texts])
        for (kind, training), texts in groups.items()
    )


def main() -> None:
    args = parse_args()
    try:
        config = load_config(args.config, args.cfg_options)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f'{args.config}: {error}') from None
    init_default_scope(config.get('default_scope', 'mmseg'))
    parts = list(parts_of(config))
    if not parts:
        raise SystemExit(
            f'{args.config} has no train_dataloader, val_dataloader or test_dataloader: give a whole config'
        )
    findings = [read(part, args.workers) for part in parts]
    twice, notes = overlaps(config, parts)
    absent = [
        name for found in findings if found['part'] == LABELED for name, n in found['class_shares'].items() if not n
    ]
    if absent:
        notes.append(f'No labelled pixel has the class {", ".join(absent)}: nothing will be learned of it.')
    print('\nSizes are height x width, of the smallest and the largest image by area.')
    print('\n'.join(map(describe, findings)))
    for note in notes:
        print(f'Note: {note}')
    for found in findings:
        if found['problems']:
            print(grouped(found['problems'], found['part']))
    if twice:
        print(grouped(twice, 'lists'))
    problems = [problem for found in findings for problem in found['problems']] + twice
    if args.json:
        with open(args.json, 'w') as file:
            json.dump(dict(parts=findings, overlaps=twice, notes=notes), file, indent=2)
    if problems:
        print(f'\nProblems: {len(problems)}')
        for training, number in Counter(problem['training'] for problem in problems).most_common():
            print(f'{number:>6}  {training}')
        sys.exit(1)
    print('No problem.')


if __name__ == '__main__':
    main()
