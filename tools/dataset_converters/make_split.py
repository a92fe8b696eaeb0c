"""Draws which images of a data set are labelled; the others are unlabelled.

    python tools/dataset_converters/make_split.py --images photos --num 100 --out splits
    python tools/dataset_converters/make_split.py --list train.txt --labels labels/train --ratio 1/64 1/32 1/8 \\
        --stratify --ignore 11 255 --out splits

Writes OUT/1_64/labeled.txt, OUT/1_64/unlabeled.txt and so on, ids one a line, and OUT/manifest.json: how they were
drawn, their SHA-256 and, with --labels, how many images and pixels have each class. Smaller draws lie within larger
ones. A draw depends on ids and seed only. docs/data.md says what --stratify does.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path

import mmengine
import numpy as np
from PIL import Image

from mmseg_derprop import __version__
from mmseg_derprop.datasets.splits import draw_splits
from mmseg_derprop.utils.files import write_bytes

KINDS = ('labeled', 'unlabeled')


def parse_args(words: Sequence[str] | None = None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(description='Draw labelled and unlabelled images')
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument('--list', type=Path, help='list of the images, an id a line')
    source.add_argument('--images', type=Path, help='folder of the images, with its subfolders')
    parser.add_argument('--img-suffix', default='.jpg', help='suffix of the images; what is before it is the id')
    parser.add_argument('--labels', type=Path, help='folder of the label files')
    parser.add_argument('--seg-map-suffix', default='.png', help='suffix of the label files')
    amount = parser.add_mutually_exclusive_group(required=True)
    amount.add_argument('--ratio', '--ratios', nargs='+', help='labelled share of the images, such as 1/8')
    amount.add_argument('--num', nargs='+', type=int, help='labelled images')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--stratify', action='store_true', help='every class in every draw; needs --labels')
    parser.add_argument('--ignore', nargs='*', type=int, default=[255], help='ids in label files that are no class')
    parser.add_argument('--nproc', type=int, default=os.cpu_count() or 1, help='processes that read label files')
    parser.add_argument('--out', type=Path, required=True, help='folder for the draws')
    parser.add_argument('--force', action='store_true', help='overwrite draws that differ')
    return parser, parser.parse_args(words)


def read_ids(args: argparse.Namespace) -> tuple[list[str], str]:
    """The images' ids and the SHA-256 of where they stand; raises ValueError if there is none."""
    if args.list:
        content = args.list.read_bytes()
        ids = [line.strip() for line in content.decode('utf-8-sig').splitlines() if line.strip()]
        where = str(args.list)
    else:
        if not args.images.is_dir():
            raise ValueError(f'--images must be a folder, but is {args.images}.')
        files = [name.replace(os.sep, '/') for name in mmengine.scandir(str(args.images), recursive=True)]
        ids = sorted(name.removesuffix(args.img_suffix) for name in files if name.endswith(args.img_suffix))
        content = as_lines(ids)
        where = f'{args.images} (its files end in {sorted({Path(name).suffix for name in files})[:8]})'
    if not ids:
        raise ValueError(f'{where} must name at least 1 image, but names 0. Change --list, --images or --img-suffix.')
    return ids, hashlib.sha256(content).hexdigest()


def draw_sizes(args: argparse.Namespace, count: int) -> dict[str, int]:
    """Labelled images of each draw, by its folder's name, ascending; a half is rounded up."""
    if args.num:
        named = {str(number): number for number in args.num}
    else:
        try:
            ratios = {text.replace('/', '_'): Fraction(text) for text in args.ratio}
        except (ValueError, ZeroDivisionError):
            raise ValueError(f'--ratio must be shares such as 1/8 or 0.125, but is {" ".join(args.ratio)}.') from None
        named = {name: int(ratio * count + Fraction(1, 2)) for name, ratio in ratios.items()}
    return dict(sorted(named.items(), key=lambda item: item[1]))


def count_pixels(path: str) -> dict[int, int] | str:
    """Pixels of each id in a label file, or what is wrong with it."""
    try:
        with Image.open(path) as image:
            labels = np.asarray(image)
    except Exception as error:  # each decoder raises its own
        return f'{path}: {error}'
    if labels.ndim != 2:
        return f'{path} must have 1 channel, which holds class ids, but has {labels.shape[2]}'
    ids, counts = np.unique(labels, return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist()))


def read_labels(args: argparse.Namespace, ids: Sequence[str]) -> tuple[list[int], np.ndarray]:
    """Classes and how many pixels of each an image has, (N, K); raises ValueError if files cannot be read."""
    paths = [str(args.labels / f'{name}{args.seg_map_suffix}') for name in ids]
    track: partial = partial(mmengine.track_progress, file=sys.stderr)
    if args.nproc > 1:
        track = partial(mmengine.track_parallel_progress, nproc=args.nproc, chunksize=8, file=sys.stderr)
    found = track(count_pixels, paths)
    wrong = [item for item in found if isinstance(item, str)]
    if wrong:
        raise ValueError(f'{len(wrong)} of {len(ids)} label files cannot be used, first: ' + '; '.join(wrong[:3]))
    classes = sorted({key for item in found for key in item} - set(args.ignore))
    return classes, np.array([[item.get(key, 0) for key in classes] for item in found], np.int64).reshape(len(ids), -1)


def as_lines(ids: Sequence[str]) -> bytes:
    return ''.join(f'{name}\n' for name in ids).encode(errors='surrogateescape')  # names of files are bytes


def describe(classes: list[int], pixels: np.ndarray, chosen: np.ndarray) -> dict:
    """Images and pixels of each class, of all and of the labelled ones."""
    part = pixels[chosen]
    rows = zip(classes, (pixels > 0).sum(0), (part > 0).sum(0), pixels.sum(0), part.sum(0))
    keys = ('images', 'labeled_images', 'pixels', 'labeled_pixels')
    return {str(number): dict(zip(keys, map(int, values))) for number, *values in rows}


def write_all(files: dict[Path, bytes], force: bool) -> bool:
    """Writes all files, or none if some exist with other content; returns whether there was anything to write."""
    new = {path: content for path, content in files.items() if not path.exists() or path.read_bytes() != content}
    differ = [str(path) for path in new if path.exists()]
    if differ and not force:
        raise FileExistsError(
            f'{len(differ)} files exist and differ from this draw, first {differ[:3]}. Choose another --out, or '
            'overwrite them with --force.'
        )
    for path, content in new.items():
        write_bytes(path, content)
    return bool(new)


def make_split(args: argparse.Namespace) -> None:
    """Draws, writes and says what it has drawn."""
    ids, digest = read_ids(args)
    sizes = draw_sizes(args, len(ids))
    classes, pixels = read_labels(args, ids) if args.labels else ([], np.zeros((len(ids), 0), np.int64))
    draws = draw_splits(ids, list(sizes.values()), args.seed, pixels > 0 if args.stratify else None)
    source = dict(path=str(args.list or args.images), images=len(ids), sha256=digest)
    manifest = dict(version=__version__, seed=args.seed, stratify=args.stratify, ignore=args.ignore, source=source)
    manifest['splits'] = {}
    files = {}
    for (name, size), draw in zip(sizes.items(), draws):
        chosen = np.zeros(len(ids), bool)
        chosen[draw] = True
        lists = {kind: as_lines([i for i, c in zip(ids, chosen) if c == (kind == 'labeled')]) for kind in KINDS}
        files |= {args.out / name / f'{kind}.txt': content for kind, content in lists.items()}
        entry = dict(ratio=name.replace('_', '/')) if args.ratio else {}
        entry |= dict(labeled=size, unlabeled=len(ids) - size)
        entry |= {f'{kind}_sha256': hashlib.sha256(content).hexdigest() for kind, content in lists.items()}
        manifest['splits'][name] = entry | dict(classes=describe(classes, pixels, chosen))
    files[args.out / 'manifest.json'] = f'{json.dumps(manifest, indent=1)}\n'.encode()
    written = write_all(files, args.force)
    for name, draw in zip(sizes, draws):
        absent = [number for number, seen in zip(classes, (pixels[draw] > 0).any(0)) if not seen]
        note = f'; no labelled image has the classes {absent}' if absent else ''
        print(f'{args.out / name}: {len(draw)} labelled, {len(ids) - len(draw)} unlabelled images{note}')
    if not written:
        print('all of it was there already')


def main() -> None:
    parser, args = parse_args()
    if args.stratify and not args.labels:
        parser.error('--stratify needs --labels, the folder of the label files')
    try:
        make_split(args)
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error


if __name__ == '__main__':
    main()
