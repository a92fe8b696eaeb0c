"""Images that a user names on the command line, and the other arguments of inference."""

from __future__ import annotations

import argparse
import glob
import os
import os.path as osp
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine import fileio
from mmengine.config import DictAction

from ..datasets.unlabeled import IMAGE_SUFFIXES


class ImageFile(NamedTuple):
    """Where an image lies, and the same from the folder on that was asked for, with its suffix."""

    path: str
    name: str


def find_images(source: str) -> list[ImageFile]:
    """Images of a folder and its subfolders, of a pattern of :mod:`glob`, or one image; sorted by name.

    Raises:
        FileNotFoundError: If there is no such file or no image is found.
    """
    if osp.isfile(source):
        return [ImageFile(source, osp.basename(source))]
    if osp.isdir(source):
        root, names = source, fileio.list_dir_or_file(source, list_dir=False, recursive=True)
    elif glob.has_magic(source):
        fixed = source[: min(source.find(c) for c in '*?[' if c in source)]
        root = osp.dirname(fixed)
        names = (osp.relpath(path, root or '.') for path in glob.glob(source, recursive=True) if osp.isfile(path))
    else:
        raise FileNotFoundError(f'{source!r} must be an image, a folder or a quoted pattern, but there is none.')
    names = sorted(name for name in names if name.lower().endswith(IMAGE_SUFFIXES))
    if not names:
        raise FileNotFoundError(f'{source!r} must have an image, a file that ends in {", ".join(IMAGE_SUFFIXES)}.')
    return [ImageFile(osp.join(root, name), name) for name in names]


def result_path(folder: str | os.PathLike, name: str) -> Path:
    """Where the result of an image belongs in a folder; ``name`` is the image's, from its own folder on.

    Raises:
        ValueError: If the name leads out of the folder, as those of a pattern with ``..`` do.
    """
    path = Path(osp.abspath(osp.join(folder, name)))
    if not path.is_relative_to(osp.abspath(folder)):
        raise ValueError(f'{name} leads out of {folder}, where its result must be. Begin the pattern with its folder.')
    return path


def shard(text: str) -> slice:
    """The part I/N of a list, every Nth element from the Ith on; an error of argparse if it is no such part."""
    index, _, count = text.partition('/')
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise argparse.ArgumentTypeError(f'must be I/N with I from 1 to N, such as 1/4, but is {text}')
    return slice(int(index) - 1, None, int(count))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that tools for inference share."""
    parser.add_argument('images', help='an image, a folder (subfolders too) or a quoted pattern such as "x/**/*.jpg"')
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path of the checkpoint')
    parser.add_argument('--predict-on', choices=('teacher', 'student'), help='which network of a SemiSegmentor')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu', help='default: %(default)s')
    parser.add_argument('--batch-size', type=int, default=1, help='images of one size that are predicted together')
    parser.add_argument('--workers', type=int, default=2, help='processes that load images (default: %(default)s)')
    parser.add_argument('--shard', type=shard, default='1/1', metavar='I/N', help='the Ith of N parts of the images')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='key=value pairs merged into the config')


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> list[ImageFile]:
    """Ends with a message unless the shared arguments can be used; returns the images."""
    if args.batch_size < 1:
        parser.error(f'--batch-size must be at least 1, but is {args.batch_size}')
    for what in ('config', 'checkpoint'):
        path = getattr(args, what)
        if not osp.isfile(path) and '://' not in path:
            parser.error(f'there is no {what} {path}')
    try:
        torch.empty(1, device=args.device)
        images = find_images(args.images)
        for image in images:
            result_path(args.out_dir, image.name)
    except (FileNotFoundError, ValueError, RuntimeError, AssertionError) as error:  # the last two: no such device
        parser.error(str(error).splitlines()[0])
    if Path(args.out_dir).resolve().is_relative_to(Path(args.images).resolve()) and osp.isdir(args.images):
        parser.error(f'--out-dir {args.out_dir} must be outside of {args.images}, but is inside. Name another.')
    return images
