"""Label files in colours, of another size, with ids outside the classes."""

import numpy as np
import pytest
from mmengine.registry import init_default_scope
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image

from mmseg_derprop.datasets import CheckLabels, SemiDataset
from mmseg_derprop.datasets.checks import examine
from mmseg_derprop.datasets.checks.labels import absent_classes

CLASSES = dict(classes=('x', 'y', 'z'))
SIZE = (12, 8)


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmseg')


def save(path, array, **kwargs):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(array).save(path, **kwargs)


@pytest.fixture
def root(tmp_path):
    """Four labelled images of 8x12 with the ids 0, 1, 2 and 255; one unlabelled."""
    values = np.resize(np.array([0, 1, 2, 255], np.uint8), SIZE[::-1])
    for i in range(4):
        save(tmp_path / f'images/{i}.png', np.zeros((*SIZE[::-1], 3), np.uint8))
        save(tmp_path / f'labels/{i}.png', values)
    save(tmp_path / 'others/0.png', np.zeros((*SIZE[::-1], 3), np.uint8))
    return tmp_path


def build(root, load=('LoadImageFromFile', 'LoadAnnotations'), **changes):
    pipeline = [dict(type=name) for name in load]
    labeled = dict(type='BaseSegDataset', data_root=str(root), img_suffix='.png', metainfo=CLASSES, pipeline=pipeline)
    labeled['data_prefix'] = dict(img_path='images', seg_map_path='labels')
    unlabeled = dict(type='UnlabeledDataset', data_root=str(root), data_prefix=dict(img_path='others'))
    return SemiDataset(labeled | changes, unlabeled)


def test_good_labels_pass_unchanged(root):
    dataset = build(root)
    plain = BaseSegDataset(
        data_root=str(root),
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        img_suffix='.png',
        metainfo=CLASSES,
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
    )
    for i in range(4):
        assert (dataset[i]['gt_seg_map'] == plain[i]['gt_seg_map']).all()
    # A source that is built already is checked, once.
    for _ in range(2):
        SemiDataset(plain, build(root).datasets[1])
    assert sum(isinstance(transform, CheckLabels) for transform in plain.pipeline.transforms) == 1


def test_a_turned_photo_fits_the_labels_of_what_is_seen(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    (root / 'images/1.png').unlink()
    Image.new('RGB', SIZE[::-1]).save(root / 'images/1.png', 'JPEG', exif=exif)
    dataset = build(root)
    assert dataset[1]['img'].shape[:2] == dataset[1]['gt_seg_map'].shape == SIZE[::-1]
    Image.new('RGB', SIZE).save(root / 'images/1.png', 'JPEG', exif=exif)
    with pytest.raises(ValueError, match='labels/1.png.*must be 12x8.*is 8x12'):
        build(root)


@pytest.mark.parametrize(
    ('ids', 'changes', 'words'),
    [
        ([0, 3, 7], {}, [r'\[3, 7\]', '66.7%', '0 to 2, the 3 classes, and 255 for']),
        ([1, 3], dict(reduce_zero_label=True), None),
        ([1, 4], dict(reduce_zero_label=True), [r'\[3\]']),
        ([0, 11], dict(ignore_index=11), None),
        ([0, 12], dict(ignore_index=11), [r'\[12\]', '11 and 255 for']),
        (list(range(3, 15)), {}, [r'\[3, 4, 5, 6, 7, 8, 9, 10\] and more']),
        ([0, 200], dict(metainfo=None), None),
    ],
)
def test_ids_outside_the_classes(root, ids, changes, words):
    save(root / 'labels/2.png', np.resize(np.array(ids, np.uint8), SIZE[::-1]))
    if words is None:
        assert build(root, **changes)[2]['gt_seg_map'].shape == SIZE[::-1]
        return
    with pytest.raises(ValueError) as caught:
        build(root, **changes)
    for word in ['labels/2.png, the labels of .*images/2.png, must have ids', 'reduce_zero_label', *words]:
        caught.match(word)


def test_sizes_are_compared_as_loaded(root, monkeypatch):
    """Where headers cannot tell, and before a transform makes sizes equal."""
    save(root / 'labels/0.png', np.zeros((4, 6), np.uint8))
    monkeypatch.setattr(examine, 'is_local', lambda *args: False)
    dataset = build(root, load=('LoadImageFromFile', 'LoadAnnotations', 'RandomRescale'))
    with pytest.raises(ValueError, match='labels/0.png.*must be 8x12.*is 4x6'):
        dataset[0]
    good = dataset[1]
    assert good['gt_seg_map'].shape == good['img'].shape[:2]


def test_own_loaders_of_labels_are_left_alone(root):
    class FromColours(LoadAnnotations):
        def transform(self, results):
            colours = np.array(Image.open(results['seg_map_path']))
            results['gt_seg_map'] = colours[..., 0] // 100
            results['seg_fields'].append('gt_seg_map')
            return results

    for i in range(4):
        save(root / f'labels/{i}.png', np.full((*SIZE[::-1], 3), 100, np.uint8))
    dataset = build(root, pipeline=[dict(type='LoadImageFromFile'), FromColours()])
    assert (dataset[0]['gt_seg_map'] == 1).all()
    save(root / 'labels/0.png', np.zeros((4, 6, 3), np.uint8))
    with pytest.raises(ValueError, match='is 4x6'):
        dataset[0]


@pytest.mark.parametrize(
    ('ids', 'classes', 'words'),
    [
        ([0, 255], ['wall', 'door'], ['no pixel of door', '50.0% of the pixels are 255', 'convert_masks.py']),
        ([0, 1, 255], ['wall', 'door'], None),
        ([0, 2], ['wall', 'door', 'roof'], ['no pixel of door, of which', 'absent_classes']),
        ([1, 2], ['void', 'door', 'roof'], None),  # 0 is the ignored id
    ],
)
def test_a_class_that_no_label_has(root, ids, classes, words):
    for i in range(4):
        save(root / f'labels/{i}.png', np.resize(np.array(ids, np.uint8), SIZE[::-1]))
    dataset = build(root, metainfo=dict(classes=classes))
    assert dataset.label_counts[ids].tolist() == [4 * SIZE[0] * SIZE[1] / len(ids)] * len(ids)
    problem = absent_classes(dataset.label_counts, classes, 0 if classes[0] == 'void' else 255)
    assert (problem is None) == (words is None)
    assert all(word in str(problem) for word in words or [])
