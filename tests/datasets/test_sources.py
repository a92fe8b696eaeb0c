"""Unlabelled sources, the joined data set and CamVid."""

import random

import numpy as np
import pytest
import torch
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import DATASETS
from PIL import Image

from mmseg_derprop.datasets import CamVidDataset, LoadUnlabeledAnnotations, SemiDataset, UnlabeledDataset
from mmseg_derprop.utils.randomness import SeededIndex

CLASSES = ('ground', 'thing')


def draw(path, mode='RGB', value=0, size=(12, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


@pytest.fixture
def root(tmp_path):
    """Labelled a0..a2 with labels, unlabelled u0..u3, of which u0 has a label file."""
    for i in range(3):
        draw(tmp_path / f'images/a{i}.jpg')
        draw(tmp_path / f'labels/a{i}.png', 'L', 1)
    for i in range(4):
        draw(tmp_path / f'images/u{i}.jpg')
    draw(tmp_path / 'labels/u0.png', 'L', 2)
    (tmp_path / 'labeled.txt').write_text('a0\na1\na2\n')
    (tmp_path / 'unlabeled.txt').write_text('u0\nu1\nu2\nu3\n')
    return tmp_path


def labeled(root, **changes):
    config = dict(type='BaseSegDataset', data_root=str(root), ann_file='labeled.txt')
    config |= dict(data_prefix=dict(img_path='images', seg_map_path='labels'), metainfo=dict(classes=CLASSES))
    return config | changes


def unlabeled(root, **changes):
    config = dict(type='UnlabeledDataset', data_root=str(root), data_prefix=dict(img_path='images'))
    return config | dict(ann_file='unlabeled.txt') | changes


def names(dataset):
    return [dataset.get_data_info(i)['img_path'].rsplit('/', 1)[1] for i in range(len(dataset))]


def test_list_adds_the_suffix_only_where_none_is(root):
    draw(root / 'images/extra.png')
    draw(root / 'images/frame.0001.jpg')
    (root / 'unlabeled.txt').write_text('u1\n\nextra.png\r\nframe.0001\nu0.jpg\n')
    dataset = DATASETS.build(unlabeled(root, img_suffix='.jpg'))
    assert names(dataset) == ['u1.jpg', 'extra.png', 'frame.0001.jpg', 'u0.jpg']
    assert 'seg_map_path' not in dataset.get_data_info(0)


def test_folder_is_read_with_its_subfolders_and_all_suffixes(tmp_path):
    for name in ('b.PNG', 'sub/deep/a.jpeg', 'c.tif'):
        draw(tmp_path / name)
    (tmp_path / 'notes.txt').write_text('no image')
    dataset = UnlabeledDataset(data_root=str(tmp_path), data_prefix=dict(img_path='', seg_map_path='labels'))
    assert names(dataset) == ['b.PNG', 'c.tif', 'a.jpeg']
    assert dataset.get_data_info(2)['seg_map_path'] == str(tmp_path / 'labels/sub/deep/a.png')
    only = UnlabeledDataset(data_prefix=dict(img_path=str(tmp_path)), img_suffix='.tif')
    assert names(only) == ['c.tif']


@pytest.mark.parametrize(
    ('changes', 'error', 'words'),
    [
        (dict(data_root='/nowhere'), FileNotFoundError, '/nowhere'),
        (dict(data_prefix=dict(img_path='photos')), FileNotFoundError, 'photos.*config'),
        (dict(ann_file='none.txt'), FileNotFoundError, 'none.txt.*ann_file'),
        (dict(ann_file='empty.txt'), ValueError, 'empty.txt.*at least 1'),
        (dict(ann_file='', img_suffix='.bmp'), ValueError, 'images.*.bmp'),
        (dict(ann_file='long.txt'), FileNotFoundError, '4 of 5.*long.txt.*x0.*x2'),
    ],
)
def test_unlabeled_sources_fail_before_training(root, changes, error, words):
    (root / 'empty.txt').write_text('\n')
    (root / 'long.txt').write_text('u0\nx0\nx1\nx2\nx3\n')
    with pytest.raises(error, match=words):
        DATASETS.build(unlabeled(root, **changes))


def test_semi_dataset_holds_labelled_images_first(root):
    twice = [unlabeled(root), unlabeled(root, ann_file='', img_suffix='.jpg')]
    dataset = SemiDataset(labeled(root), twice)
    assert (dataset.num_labeled, dataset.num_unlabeled, len(dataset)) == (3, 4 + 7, 14)
    assert names(dataset)[:7] == ['a0.jpg', 'a1.jpg', 'a2.jpg', 'u0.jpg', 'u1.jpg', 'u2.jpg', 'u3.jpg']
    assert dataset.metainfo['classes'] == CLASSES
    assert 'img_path' in dataset[13]
    several = SemiDataset([labeled(root), labeled(root)], unlabeled(root))
    assert several.num_labeled == 6


def test_augmentation_follows_from_a_seeded_index_alone(root):
    """And the process's generators are as they were; a plain index draws from them."""

    def three_numbers(results):
        return random.random(), np.random.rand(), torch.rand(()).item()

    dataset = SemiDataset(labeled(root, pipeline=[three_numbers]), unlabeled(root, pipeline=[three_numbers]))
    index = SeededIndex(4, 0, (2, 0))
    wanted = dataset[index]
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert dataset[index] == wanted != dataset[SeededIndex(4, 0, (3, 0))]
    assert state == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert dataset[4] != dataset[4] != wanted


@pytest.mark.parametrize(
    ('changes', 'error', 'words'),
    [
        (dict(data_root='/nowhere'), FileNotFoundError, '/nowhere'),
        (dict(ann_file='none.txt'), FileNotFoundError, 'none.txt'),
        (dict(ann_file='long.txt'), FileNotFoundError, '4 of 5 labelled images.*long.txt.*b0.*b2.*longer than'),
        (dict(ann_file='unlabeled.txt'), FileNotFoundError, '3 of 4 label files.*unlabeled.txt.*labels/u1.png'),
        (dict(ann_file='empty.txt'), ValueError, 'empty.txt must name at least 1 labelled image'),
        (dict(ann_file='', img_suffix='.bmp'), ValueError, 'must name at least 1 labelled image'),
        (dict(metainfo=dict(classes=('sky',))), ValueError, "'sky'.*metainfo"),
    ],
)
def test_semi_dataset_names_what_is_wrong_with_labels(root, changes, error, words):
    (root / 'empty.txt').write_text('')
    (root / 'long.txt').write_text('a0\nb0\nb1\nb2\nb3\n')
    own_classes = unlabeled(root, metainfo=dict(classes=CLASSES))
    with pytest.raises(error, match=words):
        SemiDataset(labeled(root, **changes), own_classes)


def test_statistics_labels_follow_the_labelled_label_map(root):
    """Raw id 2 is class 0 once the first class is dropped and the order turned."""

    @DATASETS.register_module(force=True)
    class ThreeClasses(BaseSegDataset):
        METAINFO = dict(classes=('x', 'y', 'z'), palette=[[0] * 3, [1] * 3, [2] * 3])

    source = labeled(root, type='ThreeClasses', metainfo=dict(classes=('z', 'y')))
    pipeline = [dict(type='LoadImageFromFile'), LoadUnlabeledAnnotations()]
    images = unlabeled(root, data_prefix=dict(img_path='images', seg_map_path='labels'), pipeline=pipeline)
    dataset = SemiDataset(source, images)
    assert (dataset[3]['gt_seg_map'] == 0).all()
    assert 'gt_seg_map' not in dataset[4]
    assert all(
        item['ignore_map'].shape == (8, 12) and not item['ignore_map'].any() for item in (dataset[3], dataset[4])
    )


def test_camvid_ignores_void(tmp_path):
    draw(tmp_path / 'images/a.jpg')
    (tmp_path / 'labels').mkdir()
    Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).save(tmp_path / 'labels/a.png')
    pipeline = [dict(type='LoadImageFromFile'), LoadAnnotations()]
    prefix = dict(img_path='images', seg_map_path='labels')
    dataset = CamVidDataset(data_root=str(tmp_path), data_prefix=prefix, pipeline=pipeline)
    assert dataset[0]['gt_seg_map'].ravel().tolist() == [*range(11), 255]
    assert len(dataset.metainfo['classes']) == len(dataset.metainfo['palette']) == 11
    assert dataset.metainfo['palette'][3] == [128, 64, 128] and 'void' not in dataset.metainfo['classes']
