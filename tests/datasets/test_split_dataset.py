"""The training data of a supervised config, split into labelled and unlabelled images."""

import shutil

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import Resize
from mmengine.registry import init_default_scope
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS, TRANSFORMS
from PIL import Image

from mmseg_derprop.datasets.pipelines import crop_size_of, semi_pipelines
from mmseg_derprop.datasets.split_dataset import _find, supervised_parts
from mmseg_derprop.utils.config import type_name

LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
CROP = dict(type='RandomCrop', crop_size=(32, 48), cat_max_ratio=0.75)
PIPELINE = [
    *LOAD,
    dict(type='RandomResize', scale=(80, 64), ratio_range=(0.3, 1.5), keep_ratio=True),
    CROP,
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='Pad', size=(48, 32)),
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
    return [type_name(transform) for transform in pipeline]


# Pipelines -----------------------------------------------------------------------------------------------------------


def test_the_pipeline_is_kept_in_its_order():
    """Colours that change at random are the strong view's; what concerns labels is not done without them."""
    clahe, pack = dict(type='CLAHE'), dict(type='PackSegInputs', meta_keys=('img_path',))
    labeled, unlabeled = semi_pipelines([*LOAD, clahe, *PIPELINE[2:-1], dict(type='GenerateEdge'), pack])
    middle = ['CLAHE', 'RandomResize', 'RandomCrop', 'RandomFlip']
    photo = ['PhotoMetricDistortion']
    assert names(labeled[2:]) == [*middle, *photo, 'Pad', 'GenerateEdge', 'PadToCrop', 'MultiBranch']
    load = ['LoadImageFromFile', 'LoadUnlabeledAnnotations']
    assert names(unlabeled) == [*load, *middle, 'PadWithIgnoreMap', 'PadToCrop', 'MultiBranch']
    assert labeled[:5] == [*LOAD, clahe, *PIPELINE[2:4]]
    assert unlabeled[3] == PIPELINE[2] and unlabeled[4] == dict(type='RandomCrop', crop_size=(32, 48))
    views = unlabeled[-1]
    assert names(views['weak']) == ['PackSemiInputs'] and views['weak'][0]['meta_keys'] == ('img_path',)
    assert names(views['strong']) == [*photo, 'StrongAugment', 'RandomCutMixBox', 'PackSemiInputs']
    assert crop_size_of(PIPELINE) == (32, 48) and 'cat_max_ratio' in CROP


def test_a_preprocessing_that_validation_has_is_trained_with(plain):
    enhance = [*LOAD, dict(type='CLAHE', clip_limit=40.0)]
    dataset = split(dict(plain, pipeline=[*enhance, dict(type='RandomCrop', crop_size=(64, 64))]))
    validation = DATASETS.build(dict(plain, pipeline=[*enhance, dict(type='PackSegInputs')]))
    assert torch.equal(dataset[0]['inputs']['sup'], validation[0]['inputs'])


@pytest.mark.parametrize(
    ('steps', 'crop_size', 'size'),
    [
        ([CROP], (16, 20), (16, 20)),
        ([CROP, dict(type='Resize', scale=(24, 16))], None, (16, 24)),
        ([CROP, dict(type='Resize', scale=(24, 16))], (8, 12), (8, 12)),
        ([CROP, dict(type='Pad', size=(64, 64))], None, (64, 64)),
        ([dict(type='Resize', scale=(24, 16))], None, (16, 24)),
        ([dict(type='Resize', scale=(24, 16), keep_ratio=True)], (16, 24), (16, 24)),
        ([CROP, dict(type='RandomResize', scale=(60, 60), ratio_range=(0.5, 2.0))], (40, 40), (40, 40)),
        ([], (16, 16), (16, 16)),
    ],
)
def test_images_end_in_the_size_that_the_pipeline_gives(steps, crop_size, size, plain):
    dataset = split(dict(plain, pipeline=[*LOAD, *steps, dict(type='PackSegInputs')]), crop_size=crop_size)
    for item in (dataset[0], dataset[dataset.num_labeled]):
        assert {tuple(image.shape[1:]) for image in item['inputs'].values()} == {size}


def test_a_crop_that_is_resized_is_not_padded(plain):
    """The order counts: the whole image, resized first, would leave most of the crop empty."""
    steps = [dict(type='RandomCrop', crop_size=(64, 64)), dict(type='Resize', scale=(32, 32))]
    dataset = split(dict(plain, pipeline=[*LOAD, *steps]))
    assert not dataset[dataset.num_labeled]['data_samples']['weak'].ignore_map.data.any()


@pytest.mark.parametrize(
    ('steps', 'crop_size', 'words'),
    [
        ([], None, r'LoadAnnotations\) does not end in images of one size.*crop_size'),
        ([CROP, dict(type='RandomResize', scale=(9, 9))], None, 'RandomResize.* does not end in images of one size'),
        ([CROP, dict(type='Resize', scale=(24, 16))], (32, 48), r'crop_size must be at most \(16, 24\).*Resize'),
        ([CROP, dict(type='RandomRotFlip')], None, "has RandomRotFlip.*RandomRotFlip='both'.*'drop'"),
        ([CROP, dict(type=Resize, scale=9)], None, 'has Resize'),
    ],
)
def test_what_cannot_be_kept_is_refused(steps, crop_size, words):
    with pytest.raises(ValueError, match=words):
        semi_pipelines([*LOAD, *steps], crop_size)


@pytest.mark.parametrize(
    ('kind', 'counts'), [('both', [1, 1, 0]), ('labeled', [1, 0, 0]), ('strong', [1, 0, 1]), ('drop', [0, 0, 0])]
)
def test_an_option_says_what_a_transform_is_for(kind, counts):
    labeled, unlabeled = semi_pipelines([*LOAD, dict(type='Own'), CROP], transforms=dict(Own=kind))
    assert [names(part).count('Own') for part in (labeled, unlabeled, unlabeled[-1]['strong'])] == counts


@pytest.mark.parametrize(
    'transform',
    [
        dict(type='Resize', scale=(50, 40), keep_ratio=True),
        dict(type='RandomResize', scale=(60, 60), ratio_range=(0.2, 2.0), keep_ratio=True),
        dict(type='RandomChoiceResize', scales=[40, 90], resize_type='ResizeShortestEdge', max_size=100),
        dict(type='ResizeShortestEdge', scale=30, max_size=60),
        dict(type='RandomRotate', prob=1.0, degree=30),
        dict(type='RandomRotate', prob=1.0, degree=30, seg_pad_val=0),
        dict(type='Pad', size=(70, 90), pad_val=dict(img=0, seg=0)),
        dict(type='RandomFlip', prob=1.0),
    ],
    ids=type_name,
)
def test_what_is_kept_moves_image_and_ignore_map_alike(transform):
    """Pixels that the image does not fill are ignored, those that it fills are not."""
    _, unlabeled = semi_pipelines([*LOAD, transform, CROP])
    assert type_name(transform) in {name.replace('WithIgnoreMap', '') for name in names(unlabeled)}
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


# The list of labelled images ------------------------------------------------------------------------------------------


def labeled_paths(dataset):
    return [dataset.get_data_info(index)['img_path'] for index in range(dataset.num_labeled)]


def write_list(folder, *lines):
    (folder / 'list.txt').write_text(''.join(f'{line}\n' for line in lines))
    return str(folder / 'list.txt')


def test_the_list_chooses_among_what_is_loaded(plain, shapes, tmp_path):
    ids = (shapes / f'{LISTS}/labeled.txt').read_text().split()
    images = [f'{shapes}/JPEGImages/{name}.jpg' for name in ids]
    for lines in (ids[2:0:-1], [f'{ids[2]}.jpg', f'JPEGImages/{ids[1]}'], images[2:0:-1]):
        dataset = split(plain, labeled=write_list(tmp_path, *lines))
        assert dataset.num_labeled == 2 and labeled_paths(dataset) == images[2:0:-1]
    assert dataset[0]['data_samples']['sup'].img_path == images[2]


def test_parts_of_a_concatenation_serve_what_they_have(plain, shapes, tmp_path):
    parts = [dict(plain, ann_file=f'{LISTS}/{name}.txt') for name in ('val', 'labeled')]
    both = dict(type='ConcatDataset', datasets=parts)
    ids = [(shapes / part['ann_file']).read_text().split()[1] for part in parts]
    images = [f'{shapes}/JPEGImages/{name}.jpg' for name in ids]
    assert labeled_paths(split(both, labeled=write_list(tmp_path, *ids[::-1]))) == images
    assert split(both).num_labeled == 6 + 4
    assert split(both, labeled=f'{LISTS}/labeled.txt').num_labeled == 4


def test_a_class_that_finds_its_own_files(plain, shapes, tmp_path):
    class BySplit(BaseSegDataset):
        METAINFO = dict(classes=DATASETS.get('ShapesDataset').METAINFO['classes'])

        def __init__(self, part, data_root, pipeline, lazy_init):
            prefix = dict(img_path='JPEGImages', seg_map_path='SegmentationClass')
            super().__init__(f'{LISTS}/{part}.txt', data_root=data_root, data_prefix=prefix, pipeline=pipeline)

    own = dict(type=BySplit, part='labeled', data_root=str(shapes), pipeline=PIPELINE)
    name = (shapes / f'{LISTS}/labeled.txt').read_text().split()[1]
    dataset = split(own, labeled=write_list(tmp_path, name))
    assert labeled_paths(dataset) == [f'{shapes}/JPEGImages/{name}.jpg'] and dataset.num_unlabeled == 12


@pytest.mark.parametrize(
    ('lines', 'words'),
    [
        ([], r'ShapesDataset\) load, but 0 of its 0 lines'),
        (['labeled_00001', 'nobody', 'labeled_0000'], r"but 2 of its 3 lines.*first \['nobody', 'labeled_0000'\]"),
    ],
)
def test_lines_that_name_no_loaded_image(plain, tmp_path, lines, words):
    with pytest.raises(ValueError, match=words):
        split(plain, labeled=write_list(tmp_path, *lines))


def test_a_line_that_several_images_fit():
    class Source(list):
        img_suffix, data_root, data_prefix = '_x.png', '', dict(img_path='/data')

        def get_data_info(self, index):
            return dict(img_path=self[index])

    source = Source(['/data/a/1_x.png', '/data/b/1_x.png', '/data/b/2_x.png', '/data/2_x.png'])
    assert _find(['a/1', 'b/1_x.png', '2', 'x/1'], source) == {'a/1': 0, 'b/1_x.png': 1, '2': 3}
    with pytest.raises(ValueError, match="'1' must be one, but is /data/a/1 and /data/b/1.*Write its path"):
        _find(['1'], source)


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
