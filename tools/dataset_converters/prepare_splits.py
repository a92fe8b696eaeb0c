"""Gets the field's split lists and writes them as MMSegmentation reads them.

    python tools/dataset_converters/prepare_splits.py voc --out data/VOCdevkit/VOC2012
    python tools/dataset_converters/prepare_splits.py cityscapes --out data/cityscapes [--from UniMatch UniMatch-V2]

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
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

UNIMATCH = 'LiheYoung/UniMatch/0324f3dd4a22128105a5eb135d2586c0bb3cc647'
UNIMATCH_V2 = 'LiheYoung/UniMatch-V2/f6afb4dfca2d9dcbcee2307e97717954ca75c0ba'
KINDS = ('labeled', 'unlabeled')
ATTEMPTS, TIMEOUT, PAUSE = 4, 30, 0.5  # seconds


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
# As sha256sum writes and checks them.
SHA256SUMS = """
8a02aa6a1253178b105bd25b36f0a27daeedf6b3959f399aa47d24783f3a8306  pascal/92/labeled.txt
a3eb5ef8d2ae547f131bfa60b8111d21700d458b545741336633d5aa209254d5  pascal/92/unlabeled.txt
de3f4680391cb15324402dae17ac0919933d0d9004c11a641c924f3f67147f9f  pascal/183/labeled.txt
39aa3fd2997799c57c7d68d1ab342e2ebf53224ab10c1766a9fcd1554afbfd6a  pascal/183/unlabeled.txt
74f6bd1e459a8b46fc204529d70b603769f8a45aef4553df8a5c04b5698e77b7  pascal/366/labeled.txt
591c593546d1dbb65bd4d08ae99fabc1e9958d614c8079c8961422b8b7df7433  pascal/366/unlabeled.txt
02c8ec5b62e27364f5bc91eb95bccf54debaa721e9d31c50c07507aea258fd0f  pascal/732/labeled.txt
8ddf828ec616b551447dc402c2c53eb7d0044697a0b6bacd6190ee843ffbf340  pascal/732/unlabeled.txt
b20486876df309c57c8230e957b2957fff5392ff5cb11f225e8453ed6c50ba3e  pascal/1464/labeled.txt
3ba331d08fee0751486a8be3f9f269f9efc09faa82a32a703bbb7deda4d66544  pascal/1464/unlabeled.txt
0f5e114e6504c8afec6523db91f05503f120d1365cf505e6f4ef99f316d5873b  pascal/1_16/labeled.txt
29b30bf7adb5d39e642c57e3a3f4f26f9d4fb8f145098c430a597ef99160e36f  pascal/1_16/unlabeled.txt
c5ea9bb095158a137e4c1db739b07d54a89af697de24ffd9e576493a4189653f  pascal/1_8/labeled.txt
5246f6e0bec70363a5b898e0d685d37b0afcfab4a71c010e7026555294d9eca9  pascal/1_8/unlabeled.txt
a4573ca0fa8f97c4013dba5f8b233e77a1a8dc7877539b1eb18c8206d37227d0  pascal/1_4/labeled.txt
832ccd3a7971b1ed79e77f606a6736fa58d85f88aaf2eb88c856b27af74c847b  pascal/1_4/unlabeled.txt
a58cf5eda18c8e060c8fef0233b388b488e62e5903076fed90b5bd34cf6735d3  pascal/u2pl_1_16/labeled.txt
4f038ee0eef3dc96863906821f2eb78c430941d9151ad78366fdbcc0b9e3aa8f  pascal/u2pl_1_16/unlabeled.txt
cebe5f2fda695dd72ff3336d6bfef95967c903fe4d404d9827a42c5fbc1dfd8a  pascal/u2pl_1_8/labeled.txt
fc4708a91ce72d15c1bf3515334abcc09d604f83f5110c12a5548af126e6f768  pascal/u2pl_1_8/unlabeled.txt
b740bcf1ac91477ff0df913594ea70a00ced359a007a4050cac487f136470fa4  pascal/u2pl_1_4/labeled.txt
43652ae8048ee32a75df1e27dd56147ad606d65a3721ac056294d6c7fb08ee06  pascal/u2pl_1_4/unlabeled.txt
b11041fef70476fb5564af0ef006a8013622da9cf49c7faf4182f3e26eb32742  cityscapes/1_30/labeled.txt
1b8a9b7bb4f9f6f06a3dffe766efe8b10a14a0137637af1738bbb417a5c85dbe  cityscapes/1_30/unlabeled.txt
64195914dce1231133c7dc611fece213bc3a87fe4e0b73fbd96add7dfa8a2f46  cityscapes/1_16/labeled.txt
7f18e2aefb5e88598910e291a935117daaeef51c6828edeb62f8a6c882be0a79  cityscapes/1_16/unlabeled.txt
97291dfc509a8c90ee94e1c5fd1f7668c21205b995f53b963ac133f0ed96ee8e  cityscapes/1_8/labeled.txt
5d7d33e39a8bda908e12d7f33ecb3299f93a8596fbe3c5e0cc1f2d3f5d358459  cityscapes/1_8/unlabeled.txt
8edd24ae817eed7b49d0a06c95b7bfaf769002c98387e4edeab5e221ab7791c3  cityscapes/1_4/labeled.txt
6fc53258ed2e40f72f4a22b6e20d60a789168fdf6b860033f826e8bee3900e9b  cityscapes/1_4/unlabeled.txt
90d8e29d4d182c3b3def3d1fac02e454868c4ca632f73696bb521aa05e937ee4  cityscapes/1_2/labeled.txt
23d0efaa43a65608b25eb078ed058c53979957e44407d787e3abdda9a795d289  cityscapes/1_2/unlabeled.txt
"""
SHA256 = {path: digest for digest, path in map(str.split, SHA256SUMS.strip().splitlines())}
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


def download(url: str) -> bytes:
    """Fetches a file; tries again where that may help.

    Raises:
        Refused: If the host answers that it has no such file.
        OSError: If the network fails.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
                return response.read()
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code not in (408, 429):
                raise Refused(f'{url}: {error}') from error
            if attempt == ATTEMPTS:
                raise OSError(f'{url}: {error}. Without a network: --from DIR, copies of the repositories') from error
            time.sleep(PAUSE * 2**attempt)
    raise AssertionError('unreachable')


def read_source(path: str, folders: list[Path] | None, base_url: str) -> bytes:
    """A list as published: from one of several folders, or else from the network.

    Raises:
        Refused: If it is absent, or its SHA-256 is not that of the published one.
        OSError: If the network fails.
    """
    if folders:
        places = [place for folder in folders for place in (folder / path, folder / 'splits' / path)]
        contents = {str(place): place.read_bytes() for place in places if place.is_file()}
        if not contents:
            raise Refused(f'{path} is in none of {", ".join(map(str, folders))}, nor in their folders splits')
    else:
        repository = UNIMATCH_V2 if path in UNIMATCH_V2_LISTS else UNIMATCH
        url = f'{base_url}/{repository}/splits/{path}'
        contents = {url: download(url)}
    found = {hashlib.sha256(content).hexdigest(): content for content in contents.values()}
    if SHA256[path] not in found:
        raise Refused(
            f'{" and ".join(contents)} must have the SHA-256 {SHA256[path]} of the published list, but has '
            f'{" and ".join(found)}.'
        )
    return found[SHA256[path]]


def prepare(data: DataSet, root: Path, force: bool, **source) -> tuple[int, int]:
    """Writes what is missing.

    Args:
        data (DataSet): Which lists.
        root (Path): The data set's root.
        force (bool): Whether to overwrite lists that differ from the published ones.
        **source: ``folders`` and ``base_url`` of :func:`read_source`.

    Returns:
        tuple[int, int]: How many lists were written, and how many were there.

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
    parser.add_argument(
        '--from', dest='folders', nargs='+', type=Path, metavar='DIR', help='local copies instead of the network'
    )
    parser.add_argument('--base-url', default='https://raw.githubusercontent.com', help='a mirror of this host')
    parser.add_argument('--force', action='store_true', help='overwrite lists that differ')
    args = parser.parse_args()
    for folder in args.folders or []:
        if not folder.is_dir():
            parser.error(f'--from {folder} must be a folder, a copy of the repository or of its folder splits')
    return args


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
