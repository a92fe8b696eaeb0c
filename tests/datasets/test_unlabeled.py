"""Unlabelled sources of many images: memory, subsets, storage, absent files."""

import io
import pickle

import pytest
from mmengine import fileio
from mmengine.fileio import BaseStorageBackend
from PIL import Image

from mmseg_derprop.datasets import LoadUnlabeledAnnotations, UnlabeledDataset

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


def many(tmp_path, count):
    names = (f'part{i % 7}/frame_{i:07d}' for i in range(count))
    (tmp_path / 'list.txt').write_text('\n'.join(names))
    # No local disk, so that only the list is there.
    return dict(ann_file=str(tmp_path / 'list.txt'), data_prefix=dict(img_path='https://nowhere.invalid/images'))


def test_many_images_cost_few_bytes(tmp_path):
    count = 20_000
    dataset = UnlabeledDataset(**many(tmp_path, count))
    assert len(dataset) == count and len(pickle.dumps(dataset)) / count < 110
    info = dataset.get_data_info(-1)
    assert info['img_path'] == f'https://nowhere.invalid/images/part{(count - 1) % 7}/frame_{count - 1:07d}.jpg'
    assert info['sample_idx'] == count - 1 and info['seg_fields'] == [] and 'seg_map_path' not in info
    info['seg_fields'].append('gt_seg_map')
    assert dataset.get_data_info(count - 1)['seg_fields'] == []


@pytest.mark.parametrize(('ann_file', 'backend_args'), [('', None), ('list.txt', dict(backend='memory'))])
def test_other_storage(store, ann_file, backend_args):
    load = dict(type='LoadImageFromFile', backend_args=backend_args)
    dataset = UnlabeledDataset(
        ann_file=ann_file and f'memory://bucket/{ann_file}',
        img_suffix='.png',
        data_prefix=dict(img_path='memory://bucket/images', seg_map_path='memory://bucket/labels'),
        pipeline=[load, LoadUnlabeledAnnotations(backend_args=backend_args)],
        backend_args=backend_args,
    )
    assert [int(item['img'][0, 0, 2]) for item in dataset] == ([2, 0] if ann_file else [0, 1, 2])
    wanted = ValueError if ann_file == '' else FileNotFoundError
    with pytest.raises(wanted, match='memory://'):
        UnlabeledDataset(
            ann_file=ann_file and 'memory://other/list.txt',
            data_prefix=dict(img_path='memory://other'),
            backend_args=backend_args,
        )
