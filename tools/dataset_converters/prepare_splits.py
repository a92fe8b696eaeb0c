"""Gets the field's split lists and writes them as MMSegmentation reads them.

    python tools/dataset_converters/prepare_splits.py voc --out data/VOCdevkit/VOC2012
    python tools/dataset_converters/prepare_splits.py cityscapes --out data/cityscapes [--from UniMatch/splits]

The lists are those of github.com/LiheYoung/UniMatch and, Cityscapes 1_2, of github.com/LiheYoung/UniMatch-V2 (both
MIT), at pinned commits: a line is `image label`. What comes out has an id a line:

    voc         ImageSets/Semi/{1_16,1_8,1_4,1_2,full}        "classic": 92 .. 1,464 of the finely labelled 1,464
                ImageSets/Semi/{blended,u2pl}_{1_16,1_8,1_4}  662, 1,323 and 2,646 of 10,582; CPS's and U2PL's draws
    cityscapes  splits/{1_30,1_16,1_8,1_4,1_2}                100, 186, 372, 744 and 1,488 of 2,975

each labeled.txt and unlabeled.txt. Every list is compared with its known SHA-256, those that are there already, too.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import sys
import urllib.request
from pathlib import Path
from typing import NamedTuple

UNIMATCH = 'LiheYoung/UniMatch/0324f3dd4a22128105a5eb135d2586c0bb3cc647'
UNIMATCH_V2 = 'LiheYoung/UniMatch-V2/f6afb4dfca2d9dcbcee2307e97717954ca75c0ba'
BASE_URL = 'https://raw.githubusercontent.com'
KINDS = ('labeled', 'unlabeled')


class DataSet(NamedTuple):
    source: str
    out: str
    line: str
    images: str
    splits: dict[str, str]  # our names, and the source's


class Refused(OSError):
    """A list that is absent or not the published one; the others are worth a look."""


UNIMATCH_V2_LISTS = ('cityscapes/1_2/labeled.txt', 'cityscapes/1_2/unlabeled.txt')
CLASSIC = {'1_16': '92', '1_8': '183', '1_4': '366', '1_2': '732', 'full': '1464'}
BLENDED = {'blended_1_16': '1_16', 'blended_1_8': '1_8', 'blended_1_4': '1_4'}
U2PL = {name: name for name in ('u2pl_1_16', 'u2pl_1_8', 'u2pl_1_4')}
SUMS = Path(__file__).with_name('published_splits.sha256')  # as sha256sum writes and checks them
SHA256 = {path: digest for digest, path in map(str.split, SUMS.read_text().splitlines())}
DATA_SETS = {
    'voc': DataSet(
        source='pascal',
        out='ImageSets/Semi',
        line='JPEGImages/{0}.jpg SegmentationClass/{0}.png',
        images='JPEGImages',
        splits=CLASSIC | BLENDED | U2PL,
    ),
    'cityscapes': DataSet(
        source='cityscapes',
        out='splits',
        line='leftImg8bit/train/{0}_leftImg8bit.png gtFine/train/{0}_gtFine_labelTrainIds.png',
        images='leftImg8bit/train',
        splits={name: name for name in ('1_30', '1_16', '1_8', '1_4', '1_2')},
    ),
}


def digests(ids: list[str], line: str) -> set[str]:
    """SHA-256 of the source's list that ids stem from, without and with a newline at its end."""
    text = '\n'.join(map(line.format, ids)).encode()
    return {hashlib.sha256(text + end).hexdigest() for end in (b'', b'\n')}


def read_ids(content: bytes, data: DataSet) -> list[str]:
    """Ids of a source's list whose digest is known to be right."""
    before, after = data.line.split()[0].split('{0}')
    return [line.split()[0].removeprefix(before).removesuffix(after) for line in content.decode().splitlines()]


def read_source(path: str, folders: list[Path] | None, base_url: str) -> bytes:
    """A list as published, from one of several folders, or else from the network.

    Raises OSError if it cannot be had, and Refused if it is absent in the folders or not the published one.
    """
    if folders:
        contents = {str(f / path): (f / path).read_bytes() for f in folders if (f / path).is_file()}
        if not contents:
            raise Refused(f'{path} is in none of {", ".join(map(str, folders))}')
    else:
        repository = UNIMATCH_V2 if path in UNIMATCH_V2_LISTS else UNIMATCH
        url = f'{base_url}/{repository}/splits/{path}'
        try:
            with urllib.request.urlopen(url, timeout=30) as response:
                contents = {url: response.read()}
        except (OSError, http.client.HTTPException) as error:
            raise OSError(f'{url}: {error}. Try again, or without a network: --from DIR, a copy of it') from error
    found = {hashlib.sha256(content).hexdigest(): content for content in contents.values()}
    if SHA256[path] not in found:
        raise Refused(
            f'{" and ".join(contents)} must have the SHA-256 {SHA256[path]} of the published list, but has '
            f'{" and ".join(found)}.'
        )
    return found[SHA256[path]]


def prepare(data: DataSet, root: Path, force: bool, **source) -> tuple[int, int]:
    """Writes the lists that are missing, or with ``force`` differ; ``source`` goes to :func:`read_source`.

    Returns how many were written, and how many were there.

    Raises:
        OSError: If lists differ, cannot be had, or are not the published ones; then nothing has been written.
    """
    missing, foreign, there = [], [], 0
    for split, source_split in data.splits.items():
        for kind in KINDS:
            path, name = root / data.out / split / f'{kind}.txt', f'{data.source}/{source_split}/{kind}.txt'
            if not path.exists():
                missing.append((path, name))
            elif SHA256[name] in digests(path.read_text(errors='replace').splitlines(), data.line):
                there += 1
            else:
                foreign.append((path, name))
    if foreign and not force:
        raise FileExistsError(
            f'{len(foreign)} lists exist and differ from the published ones, first '
            f'{[str(path) for path, _ in foreign[:3]]}. Move them away, or overwrite them with --force.'
        )
    lists, errors = {}, []
    for path, name in missing + foreign:
        try:
            lists[path] = read_ids(read_source(name, **source), data)
        except Refused as error:
            errors.append(str(error))
    if errors:
        raise OSError('\n  '.join([f'{len(errors)} lists could not be had, nothing was written:', *errors]))
    for path, ids in lists.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(''.join(f'{name}\n' for name in ids))
    return len(lists), there


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Get the field's split lists, checked by their SHA-256")
    parser.add_argument('data', choices=DATA_SETS, help='which data set')
    parser.add_argument('--out', type=Path, required=True, help="the data set's root, e.g. data/VOCdevkit/VOC2012")
    parser.add_argument('--from', dest='folders', nargs='+', type=Path, metavar='DIR', help='local folders splits')
    parser.add_argument('--base-url', default=BASE_URL, help='a mirror of this host')
    parser.add_argument('--force', action='store_true', help='overwrite lists that differ')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    data = DATA_SETS[args.data]
    try:
        written, there = prepare(data, args.out, args.force, folders=args.folders, base_url=args.base_url.rstrip('/'))
    except OSError as error:
        raise SystemExit(str(error)) from error
    print(f'{args.out / data.out}: {len(data.splits)} splits, {written} lists written, {there} there already')
    if not (args.out / data.images).is_dir():
        print(f'note: {args.out} has no {data.images} yet; docs/data.md says how to get the images', file=sys.stderr)


if __name__ == '__main__':
    main()
