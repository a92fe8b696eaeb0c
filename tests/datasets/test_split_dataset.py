"""The training data of a supervised config, split into labelled and unlabelled images."""

import shutil

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, TRANSFORMS
from PIL import Image

from mmseg_derprop.datasets import BrokenData, semi_collate
from mmseg_derprop.datasets.pipelines import crop_size_of, left_out_of, semi_pipelines, transform_name
from mmseg_derprop.datasets.split_dataset import supervised_parts

LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
CROP = dict(type='RandomCrop', crop_size=(32, 48), cat_max_ratio=0.75)
PIPELINE = [
    *LOAD,
    dict(type='RandomResize', scale=(80, 64), ratio_range=(0.3, 1.5), keep_ratio=True),
    CROP,
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='Pad', size=(32, 48)),
    dict(type='PackSegInputs'),
]
LISTS = 'ImageSets/Segmentation'


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmseg')


@pytest.fixture
def plain(shapes):
    """Config of a supervised data set."""
    return dict(
        type='ShapesDataset',
        data_root=str(shapes),
        ann_file=f'{LISTS}/labeled.txt',
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
        pipeline=PIPELINE,
    )


def split(supervised, unlabeled=f'{LISTS}/unlabeled.txt', **options):
    return DATASETS.build(dict(type='SplitDataset', supervised=supervised, unlabeled=unlabeled, **options))


def names(pipeline):
    return [transform_name(transform) for transform in pipeline]


# Pipelines -----------------------------------------------------------------------------------------------------------


def test_geometry_is_kept_and_colours_are_not():
    labeled, unlabeled = semi_pipelines(PIPELINE)
    geometry = ['RandomResize', 'PadToCrop', 'RandomCrop', 'RandomFlip', 'MultiBranch']
    assert names(labeled) == ['LoadImageFromFile', 'LoadAnnotations', *geometry]
    assert names(unlabeled) == ['LoadImageFromFile', 'LoadUnlabeledAnnotations', *geometry]
    assert labeled[2] == unlabeled[2] == PIPELINE[2]
    assert labeled[4] == CROP and unlabeled[4] == dict(type='RandomCrop', crop_size=(32, 48))
    assert crop_size_of(PIPELINE) == (32, 48) and left_out_of(PIPELINE) == ['PhotoMetricDistortion']
    assert PIPELINE[3] is CROP and 'cat_max_ratio' in CROP


def test_a_pipeline_without_geometry_gets_ours():
    labeled, _ = semi_pipelines([*LOAD, dict(type='PackSegInputs')], crop_size=(16, 16))
    assert names(labeled[2:]) == ['RandomRescale', 'PadToCrop', 'RandomCrop', 'RandomFlip', 'MultiBranch']
    with pytest.raises(ValueError, match=r'LoadAnnotations, PackSegInputs\) has no RandomCrop.*crop_size'):
        semi_pipelines([*LOAD, dict(type='PackSegInputs')])


@pytest.mark.parametrize(
    'transform',
    [
        dict(type='Resize', scale=(50, 40), keep_ratio=True),
        dict(type='RandomResize', scale=(60, 60), ratio_range=(0.2, 2.0), keep_ratio=True),
        dict(type='RandomChoiceResize', scales=[40, 90], resize_type='ResizeShortestEdge', max_size=100),
        dict(type='ResizeShortestEdge', scale=30, max_size=60),
        dict(type='RandomRotate', prob=1.0, degree=30),
        dict(type='RandomFlip', prob=1.0),
    ],
    ids=transform_name,
)
def test_what_is_kept_moves_image_and_ignore_map_alike(transform):
    """Pixels that the image does not fill are ignored, those that it fills are not."""
    _, unlabeled = semi_pipelines([*LOAD, transform, CROP])
    assert any(config == transform for config in unlabeled)
    steps = [TRANSFORMS.build(config) for config in unlabeled[1:-1]]
    image = np.full((64, 64, 3), 200, np.uint8)
    for seed in range(100):
        np.random.seed(seed)
        results = dict(img=image, img_shape=(64, 64), ori_shape=(64, 64), seg_fields=[], img_path='a')
        for step in steps:
            results = step(results)
        assert results['img'].shape == (32, 48, 3) and results['ignore_map'].shape == (32, 48)
        filled, ignored = results['img'][..., 0] > 100, (results['ignore_map'] != 0).astype(np.uint8)
        # Along a turned border, interpolation decides.
        border = cv2.dilate(ignored, np.ones((3, 3))) != cv2.erode(ignored, np.ones((3, 3)))
        np.testing.assert_array_equal(filled[~border], ignored[~border] == 0)


# Data sets -----------------------------------------------------------------------------------------------------------


def check_items(dataset, branches=('weak', 'strong')):
    labeled, unlabeled = dataset[0], dataset[dataset.num_labeled]
    assert set(labeled['inputs']) == {'sup'} and set(unlabeled['inputs']) == set(branches)
    for image in (*labeled['inputs'].values(), *unlabeled['inputs'].values()):
        assert image.shape == (3, 32, 48)
    assert 'ignore_map' in unlabeled['data_samples']['weak']


def test_lists_of_the_same_folders(plain):
    dataset = split(plain)
    assert (dataset.num_labeled, dataset.num_unlabeled) == (4, 12)
    check_items(dataset)
    assert 'gt_sem_seg' in dataset[4]['data_samples']['weak']  # labels lie there too: for statistics
    assert dataset.metainfo['classes'] == DATASETS.get('ShapesDataset').METAINFO['classes']


def test_a_folder_of_images(plain, tmp_path, shapes):
    for index, path in enumerate(sorted((shapes / 'JPEGImages').glob('*'))[:3]):
        shutil.copy(path, tmp_path / f'{index}.jpg')
    dataset = split(plain, str(tmp_path))
    assert dataset.num_unlabeled == 3
    check_items(dataset)
    assert 'gt_sem_seg' not in dataset[4]['data_samples']['weak']
    again = split(plain, dict(data_prefix=dict(img_path=str(tmp_path)), indices=2))
    assert again.num_unlabeled == 2


@pytest.mark.parametrize('branches', [('weak', 'strong', 'strong2'), ('weak', 'strong', 'weak_mix', 'strong_mix')])
def test_the_branches_that_a_model_reads(plain, branches):
    dataset = split(plain, branches=branches)
    check_items(dataset, branches)
    samples = dataset[4]['data_samples']
    assert [name for name in branches if 'cutmix_box' in samples[name].metainfo] == [n for n in branches if 's' in n]


def test_the_pipeline_of_a_wrapper_follows_that_of_its_data_set(plain):
    inner = dict(plain, pipeline=PIPELINE[:2])
    (part,) = supervised_parts(dict(type='MultiImageMixDataset', dataset=inner, pipeline=PIPELINE[2:]))
    assert part == plain


def test_a_concatenation(plain, shapes, tmp_path):
    other = dict(plain, data_prefix=dict(img_path='JPEGImages', seg_map_path='nowhere'))
    both = dict(type='ConcatDataset', datasets=[other, plain])
    dataset = split(both, labeled=f'{LISTS}/labeled.txt')
    assert dataset.num_labeled == 4
    assert split(dict(both, datasets=[plain, dict(plain, ann_file=f'{LISTS}/val.txt')])).num_labeled == 4 + 6
    with pytest.raises(FileNotFoundError, match=r'(?s)None of the 2 .*datasets\[0\].*datasets\[1\]'):
        split(dict(both, datasets=[other, other]), labeled=f'{LISTS}/labeled.txt')


@pytest.mark.parametrize('policy', ['stop', 'skip'])
def test_a_part_with_a_broken_label_is_chosen_all_the_same(policy, plain, shapes, tmp_path):
    root = tmp_path / 'shapes'
    shutil.copytree(shapes, root)
    (root / 'SegmentationClass/labeled_00001.png').write_bytes(b'')
    broken = dict(plain, data_root=str(root))
    both = dict(type='ConcatDataset', datasets=[dict(plain, data_prefix=dict(img_path='nowhere')), broken])
    options = dict(labeled=str(root / f'{LISTS}/labeled.txt'), broken_labeled=policy, lazy_init=True)
    dataset = split(both, **options)  # so that tools/check_data.py lists everything
    if policy == 'stop':
        with pytest.raises(BrokenData, match='1 of 4 labelled images or their label files'):
            dataset.full_init()
    else:
        dataset.full_init()
        assert dataset.num_labeled == 4


def test_what_the_labels_mean_is_kept(tmp_path):
    """reduce_zero_label and suffixes of the supervised data set hold for unlabelled images too."""
    for folder in ('images', 'labels'):
        (tmp_path / folder).mkdir()
    for name, label in dict(a=1, b=2).items():
        Image.fromarray(np.full((40, 50, 3), 90, np.uint8)).save(tmp_path / f'images/{name}_image.png')
        Image.fromarray(np.full((40, 50), label, np.uint8)).save(tmp_path / f'labels/{name}_label.png')
        (tmp_path / f'{name}.txt').write_text(name)
    plain = dict(
        type='BaseSegDataset',
        data_root=str(tmp_path),
        metainfo=dict(classes=('wall', 'floor')),
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        img_suffix='_image.png',
        seg_map_suffix='_label.png',
        reduce_zero_label=True,
        pipeline=[LOAD[0], dict(type='LoadAnnotations', reduce_zero_label=True), CROP],
    )
    dataset = split(plain, 'b.txt', labeled='a.txt')
    assert dataset[0]['data_samples']['sup'].gt_sem_seg.data.unique().tolist() == [0]
    labels = dataset[1]['data_samples']['weak'].gt_sem_seg.data
    assert set(labels.unique().tolist()) <= {1, 255}
    assert dataset.metainfo['classes'] == ('wall', 'floor')


# Options and lists of other kinds -------------------------------------------------------------------------------------


def test_a_list_that_is_no_utf_8(plain, tmp_path):
    (tmp_path / 'list.txt').write_bytes(b'caf\xe9\n')
    with pytest.raises(ValueError, match='list.txt, the list of labelled images, cannot be read.*utf-8'):
        split(plain, labeled=str(tmp_path / 'list.txt'))


@pytest.mark.parametrize('item', [dict(img=0), dict(inputs=torch.zeros(3, 2, 2)), None])
def test_a_pipeline_without_branches(item):
    with pytest.raises(ValueError, match='must give inputs by branch.*MultiBranch'):
        semi_collate([item])
