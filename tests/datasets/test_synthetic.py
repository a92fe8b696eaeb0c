"""The embedded data set."""

from __future__ import annotations

import numpy as np
import pytest
from commands import call
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from PIL import Image

from mmseg_derprop.datasets.synthetic import CLASSES, IGNORE, draw_shapes, write_shapes


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('shapes')
    write_shapes(root, labeled=3, unlabeled=4, val=2, size=48)
    return root


def test_an_image_depends_on_seed_split_and_index_only():
    image, label = draw_shapes(0, 'val', 3)
    draw_shapes(0, 'val', 4)
    again, label_again = draw_shapes(0, 'val', 3)
    assert np.array_equal(image, again) and np.array_equal(label, label_again)
    for other in ((1, 'val', 3), (0, 'labeled', 3), (0, 'val', 4)):
        assert not np.array_equal(image, draw_shapes(*other)[0])


def test_every_class_is_frequent_and_colour_tells_nothing():
    samples = [draw_shapes(0, 'unlabeled', index) for index in range(80)]
    images, labels = (np.stack(part) for part in zip(*samples, strict=True))
    share = np.bincount(labels.ravel(), minlength=256) / labels.size
    assert 0.5 < share[0] < 0.85
    assert (share[1 : len(CLASSES)] > 0.015).all()
    assert 0 < share[IGNORE] < 0.08
    means = np.array([images[labels == k].mean(0) for k in range(1, len(CLASSES))])
    spread = images[(labels > 0) & (labels != IGNORE)].std(0)
    assert (np.ptp(means, axis=0) < 0.5 * spread).all()


def test_files(root):
    ids = (root / 'ImageSets/Segmentation/unlabeled.txt').read_text().split()
    assert len(ids) == 4
    assert len(list((root / 'JPEGImages').glob('*.jpg'))) == 9
    image, label = draw_shapes(0, 'unlabeled', 1, 48)
    saved = Image.open(root / f'SegmentationClass/{ids[1]}.png')
    assert saved.mode == 'P' and np.array_equal(np.array(saved), label)
    photo = np.array(Image.open(root / f'JPEGImages/{ids[1]}.jpg')).astype(float)
    assert np.abs(photo - image).mean() < 12


@pytest.mark.parametrize('split', ['labeled', 'val'])
def test_dataset_reads_what_was_written(root, split):
    init_default_scope('mmseg')
    config = dict(type='ShapesDataset', data_root=str(root), ann_file=f'ImageSets/Segmentation/{split}.txt')
    config['data_prefix'] = dict(img_path='JPEGImages', seg_map_path='SegmentationClass')
    config['pipeline'] = [dict(type=name) for name in ('LoadImageFromFile', 'LoadAnnotations', 'PackSegInputs')]
    dataset = DATASETS.build(config)
    assert dataset.metainfo['classes'] == CLASSES
    assert len(dataset.metainfo['palette']) == len(CLASSES)
    for index, sample in enumerate(dataset):
        label = draw_shapes(0, split, index, 48)[1]
        assert sample['inputs'].shape == (3, 48, 48)
        assert np.array_equal(sample['data_samples'].gt_sem_seg.data.numpy()[0], label)


def test_script(tmp_path):
    numbers = ('--labeled', 2, '--unlabeled', 1, '--val', 1, '--seed', 7)
    call('dataset_converters/make_shapes.py', '--out', tmp_path, *numbers)
    saved = Image.open(tmp_path / 'SegmentationClass/labeled_00001.png')
    assert np.array_equal(np.array(saved), draw_shapes(7, 'labeled', 1)[1])
