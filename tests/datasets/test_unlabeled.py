"""Unlabelled sources of many images: memory, subsets, storage, absent files."""

import copy
import gc
import io
import os
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmengine import fileio
from mmengine.dataset import ConcatDataset
from mmengine.fileio import BaseStorageBackend
from mmseg.registry import DATASETS
from PIL import Image
from torch.utils.data import DataLoader

from mmseg_derprop.datasets import LoadUnlabeledAnnotations, SemiDataset, UnlabeledDataset, check_files
from mmseg_derprop.datasets.checks import files
from mmseg_derprop.datasets.checks.files import missing_files
from mmseg_derprop.datasets.names import Names

MANY = 100_000
STORE = {}


class MemoryBackend(BaseStorageBackend):
    """Storage that is no disk: paths such as ``memory://bucket/images/a.png``."""

    def get(self, filepath):
        return STORE[str(filepath)]

    def get_text(self, filepath, encoding='utf-8'):
        return STORE[str(filepath)].decode(encoding)

    def isfile(self, filepath):
        return str(filepath) in STORE

    exists = isfile

    def list_dir_or_file(self, dir_path, list_dir=True, list_file=True, suffix=None, recursive=False):
        start = str(dir_path).rstrip('/') + '/'
        return (path.removeprefix(start) for path in STORE if path.startswith(start))


fileio.register_backend('memory', MemoryBackend, force=True, prefixes='memory')


@pytest.fixture
def store():
    for i in range(3):
        buffer = io.BytesIO()
        Image.new('RGB', (6, 4), (i, 0, 0)).save(buffer, 'PNG')
        STORE[f'memory://bucket/images/{i}/frame.png'] = buffer.getvalue()
    STORE['memory://bucket/list.txt'] = b'\xef\xbb\xbf2/frame\r\n0/frame\r\n'
    yield STORE
    STORE.clear()


def many(tmp_path, count=MANY):
    names = (f'part{i % 7}/frame_{i:07d}' for i in range(count))
    (tmp_path / 'list.txt').write_text('\n'.join(names))
    # No local disk, so that only the list is there.
    return dict(ann_file=str(tmp_path / 'list.txt'), data_prefix=dict(img_path='https://nowhere.invalid/images'))


@given(st.lists(st.text(st.characters(exclude_characters='\0', exclude_categories=['Cs']))))
def test_names_are_a_sequence_of_strings(wanted):
    names = Names.pack(iter(wanted))
    assert list(names) == wanted and len(names) == len(wanted)
    assert names[1:] == wanted[1:] and names[::-2] == wanted[::-2]
    assert [names[i - len(wanted)] for i in range(len(wanted))] == wanted
    for index in (len(wanted), -len(wanted) - 1):
        with pytest.raises(IndexError, match=f'{len(wanted)} names'):
            names[index]


def test_a_name_of_any_bytes(tmp_path):
    name = os.fsdecode(b'caf\xe9.png')
    assert list(Names.pack([name])) == [name]


def test_many_entries_cost_few_bytes(tmp_path):
    config = many(tmp_path)
    gc.collect()
    tracemalloc.start()
    try:
        dataset = UnlabeledDataset(**config)
        live, peak = tracemalloc.get_traced_memory()
        blocks = len(tracemalloc.take_snapshot().traces)
    finally:
        tracemalloc.stop()
    assert len(dataset) == MANY
    # A name of 23 bytes and where it ends; in the peak also the list file.
    assert live / MANY < 40
    assert peak / MANY < 100
    assert blocks < MANY / 20
    assert len(pickle.dumps(dataset)) / MANY < 40


def test_entries_of_many(tmp_path):
    dataset = UnlabeledDataset(**many(tmp_path, 1000))
    prefix = 'https://nowhere.invalid/images/part5/frame_0000999'
    for index in (999, -1):
        info = dataset.get_data_info(index)
        assert info['img_path'] == f'{prefix}.jpg' and info['sample_idx'] == 999
        assert info['seg_fields'] == [] and 'seg_map_path' not in info
    info['seg_fields'].append('gt_seg_map')
    assert dataset.get_data_info(999)['seg_fields'] == []
    assert dataset.get_data_info(-1000)['sample_idx'] == 0
    with pytest.raises(IndexError, match='1000'):
        dataset.get_data_info(1000)
    assert dataset.load_data_list()[999] == dataset.get_data_info(999)
    assert dataset.image_paths()[999] == f'{prefix}.jpg'


@pytest.mark.parametrize('indices', [3, -3, 0, 20, -20, 10, -10, [7, 1, 1]])
def test_subsets_are_those_of_a_list(tmp_path, indices):
    config = many(tmp_path, 10)
    whole = UnlabeledDataset(**config)
    paths = list(whole.image_paths())
    wanted = [paths[i] for i in indices] if isinstance(indices, list) else None
    if wanted is None:
        wanted = paths[:indices] if indices >= 0 else paths[indices:]
    chosen = UnlabeledDataset(**config, indices=indices)
    assert [chosen.get_data_info(i)['img_path'] for i in range(len(chosen))] == wanted
    if isinstance(indices, list):
        subset = whole.get_subset(indices)
        assert list(subset.image_paths()) == wanted and len(whole) == 10


def test_copies_and_joins(tmp_path):
    dataset = UnlabeledDataset(**many(tmp_path, 10), serialize_data=False)
    twice = ConcatDataset([dataset, pickle.loads(pickle.dumps(copy.deepcopy(dataset)))])
    assert len(twice) == 20
    assert twice.get_data_info(13)['img_path'] == dataset.get_data_info(3)['img_path']
    lazy = UnlabeledDataset(**many(tmp_path, 10), lazy_init=True)
    assert len(lazy) == 10


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('backend_args', [None, dict(backend='memory')])
@pytest.mark.parametrize('ann_file', ['', 'list.txt'])
def test_other_storage(store, ann_file, backend_args, workers):
    load = dict(type='LoadImageFromFile', backend_args=backend_args)
    dataset = UnlabeledDataset(
        ann_file=ann_file and f'memory://bucket/{ann_file}',
        img_suffix='.png',
        data_prefix=dict(img_path='memory://bucket/images', seg_map_path='memory://bucket/labels'),
        pipeline=[load, LoadUnlabeledAnnotations(backend_args=backend_args)],
        backend_args=backend_args,
    )
    loader = DataLoader(dataset, num_workers=workers, collate_fn=lambda items: items[0])
    reds = [int(item['img'][0, 0, 2]) for item in loader]
    assert reds == ([2, 0] if ann_file else [0, 1, 2])
    wanted = ValueError if ann_file == '' else FileNotFoundError
    with pytest.raises(wanted, match='memory://'):
        UnlabeledDataset(
            ann_file=ann_file and 'memory://other/list.txt',
            data_prefix=dict(img_path='memory://other'),
            backend_args=backend_args,
        )


@pytest.mark.parametrize('few', [0, 1000])
def test_missing_files(tmp_path, monkeypatch, few):
    monkeypatch.setattr(files, '_FEW', few)
    for name in ('a/1.jpg', 'a/2.jpg', 'b/1.jpg', 'top.jpg'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / 'a/folder.jpg').mkdir()
    (tmp_path / 'a/link.jpg').symlink_to(tmp_path / 'b/1.jpg')
    (tmp_path / 'a/broken.jpg').symlink_to(tmp_path / 'b/none.jpg')
    names = 'b/2.jpg a/1.jpg a/folder.jpg gone/1.jpg a/link.jpg b/1.jpg a/broken.jpg a/2.jpg top.jpg b/../top.jpg'
    paths = [str(tmp_path / name) if '..' not in name else f'{tmp_path}/{name}' for name in names.split()]
    monkeypatch.chdir(tmp_path)
    assert missing_files([*paths, 'top.jpg', 'low.jpg']) == [paths[i] for i in (0, 2, 3, 6)] + ['low.jpg']
    with pytest.raises(FileNotFoundError, match=r'4 of 10 images named by x.*b/2.jpg.*gone/1.jpg'):
        check_files(paths, 'images', 'x')


def test_many_files_are_listed_not_asked_for(tmp_path, monkeypatch):
    count = 3000
    for i in range(count):
        (tmp_path / f'{i}.jpg').touch()
    asked = []
    isfile = os.path.isfile
    monkeypatch.setattr(os.path, 'isfile', lambda path: asked.append(path) or isfile(path))
    paths = [str(tmp_path / f'{i}.jpg') for i in range(count + 2)]
    assert missing_files(paths) == paths[count:]
    assert len(asked) == 2


def test_several_sources(tmp_path):
    for name in ('images/a.png', 'one/b.png', 'two/deep/c.png', 'two/d.jpg'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / name)
    (tmp_path / 'list.txt').write_text('b\n')
    labeled = dict(
        type='BaseSegDataset',
        data_root=str(tmp_path),
        data_prefix=dict(img_path='images'),
        img_suffix='.png',
        metainfo=dict(classes=('x', 'y')),
    )
    sources = [
        dict(type='UnlabeledDataset', data_root=str(tmp_path), data_prefix=dict(img_path='two')),
        dict(
            type='UnlabeledDataset',
            data_root=str(tmp_path),
            data_prefix=dict(img_path='one'),
            ann_file='list.txt',
            img_suffix='.png',
        ),
    ]
    dataset = DATASETS.build(dict(type='SemiDataset', labeled=labeled, unlabeled=sources))
    assert isinstance(dataset, SemiDataset) and dataset.num_unlabeled == 3
    paths = [dataset.get_data_info(i)['img_path'] for i in range(1, 4)]
    assert [path.removeprefix(f'{tmp_path}/') for path in paths] == ['two/d.jpg', 'two/deep/c.png', 'one/b.png']
