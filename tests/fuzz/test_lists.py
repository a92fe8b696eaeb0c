"""Lists of images of any bytes, folders of any names, and what draws splits of them."""

import functools
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmseg.registry import DATASETS
from own_errors import cases, ends_well, folder
from PIL import Image

from mmseg_derprop.datasets import check_leaks, semi_collate

NAMES = ['a', 'b', 'part/c', 'é', 'with space', 'd.e']
LINES = st.sampled_from(
    [*NAMES, *(f'{name}.png' for name in NAMES), '', ' ', '\t', '# a', '..', '../a', '/a', '/etc/passwd', '~', '.']
    + ['a\0b', '\0', 'a' * 300, 'A.PNG', 'a b', 'a,b', '\u2028', '\ufeff', '\x0c', 'a\rb', '\\', '*', '$(x)', "'"]
)
ENDS = st.sampled_from(['\n', '\n', '\r\n', '\n\n', '\r', '\0'])
LISTS = st.builds(
    lambda lines, end, start, last: start + end.join(lines).encode() + last,
    st.lists(LINES | st.sampled_from(NAMES) | st.text(max_size=5), max_size=6),
    ENDS,
    st.sampled_from([b'', b'', b'', b'', b'\xef\xbb\xbf', b'\xff\xfe']),
    st.sampled_from([b'', b'\n', b'', b'\n', b'', b'\xe9', b'\r']),
) | st.binary(max_size=40)
RIGHT = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True).map(lambda x: '\n'.join(x).encode())
LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
CROP = dict(type='RandomCrop', crop_size=(8, 8))


@functools.cache
def root():
    """Images and label files of some names."""
    place = Path(tempfile.mkdtemp(prefix='fuzz_lists_'))
    for name in NAMES:
        for kind, mode in dict(images='RGB', labels='L').items():
            path = place / kind / f'{name}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new(mode, (9, 7)).save(path)
    return place


@pytest.fixture(scope='module', autouse=True)
def _removed():
    yield
    import shutil

    shutil.rmtree(root())


def supervised(ann_file):
    return dict(
        type='BaseSegDataset',
        metainfo=dict(classes=('x', 'y')),
        ann_file=str(ann_file),
        data_root=str(root()),
        img_suffix='.png',
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        pipeline=[*LOAD, CROP],
    )


@cases(250)
@given(RIGHT | LISTS, RIGHT, st.booleans())
def test_lists_of_a_data_set(labeled, unlabeled, swapped):
    if swapped:
        labeled, unlabeled = unlabeled, labeled
    with folder() as place:
        for name, content in dict(labeled=labeled, unlabeled=unlabeled).items():
            (place / f'{name}.txt').write_bytes(content)
        lists = {name: str(place / f'{name}.txt') for name in ('labeled', 'unlabeled')}
        with ends_well('labeled.txt'):
            dataset = DATASETS.build(
                dict(type='SplitDataset', supervised=supervised('none'), crop_size=(8, 8), **lists)
            )
            assert 'sup' in dataset[0]['inputs'] and 'weak' in dataset[dataset.num_labeled]['inputs']
            check_leaks(dataset, dataset, 'warn')


DATA_OPTIONS = dict(
    labeled=st.sampled_from(['', 'l.txt', 'images', '..', 'no.txt', '\0', 3, None]),
    unlabeled=st.sampled_from(['images', 'l.txt', 'labels', 'no', '', '..', [], ['images', 'l.txt'], {}, 3, None])
    | st.fixed_dictionaries({}, optional=dict(
        ann_file=st.sampled_from(['', 'l.txt', 'no.txt', 3]),
        data_root=st.sampled_from(['', 'no', None, 3]),
        data_prefix=st.sampled_from([{}, dict(img_path='no'), dict(img_path=3), 'images', None]),
        img_suffix=st.sampled_from(['.png', '.jpg', ('.png', '.jpg'), (), '', 3, None]),
        indices=st.sampled_from([0, 1, -1, 99, [0], [], [99], 'a', 0.5, None]),
        pipeline=st.sampled_from([[], None, LOAD]),
        metainfo=st.sampled_from([None, {}, dict(classes=('x', 'y')), dict(classes=('z',)), 3]),
    )),
    crop_size=st.sampled_from([(8, 8), (1, 1), (0, 8), (-1, 8), 8, (8,), (8, 8, 8), 'ab', 1.5, (1.5, 2), None]),
    branches=st.sampled_from([('weak', 'strong'), ('weak',), (), ('weak', 'weak'), 'weak', ['strong2'], 3, [3], None]),
    lazy_init=st.sampled_from([False, True, 'a']),
)  # fmt: skip


@cases(250)
@given(
    st.lists(st.sampled_from(sorted(DATA_OPTIONS)), max_size=2, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: DATA_OPTIONS[name] for name in names})
    )
)
def test_options_of_a_data_set(changes):
    (root() / 'l.txt').write_text('a\nb\n')
    inner = list(changes['unlabeled']) if isinstance(changes.get('unlabeled'), dict) else []
    config = dict(type='SplitDataset', supervised=supervised('l.txt'), unlabeled='images', labeled='l.txt') | changes
    with ends_well(*changes, *inner, 'pipeline', 'images', 'l.txt', 'no', 'classes'):
        dataset = DATASETS.build(config)
        dataset.full_init()
        batch = semi_collate([dataset[0], dataset[dataset.num_labeled]])['inputs']
        assert len({view.shape[-2:] for views in batch.values() for view in views}) == 1
