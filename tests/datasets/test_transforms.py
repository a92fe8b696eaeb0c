"""Geometry, branches, packing and collating."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.registry import FUNCTIONS
from mmseg.registry import TRANSFORMS
from PIL import Image

from mmseg_derprop.datasets import (
    LoadUnlabeledAnnotations,
    MultiBranch,
    PackSemiInputs,
    PadToCrop,
    RandomCutMixBox,
    RandomRescale,
    StrongAugment,
)
from mmseg_derprop.datasets.transforms import resize_image


@pytest.fixture(autouse=True)
def seed():
    np.random.seed(0)


def image(h=20, w=30):
    """No pixel is black, so that black is padding."""
    img = np.random.randint(1, 256, (h, w, 3), dtype=np.uint8)
    return dict(img=img, img_shape=(h, w), ori_shape=(h, w), seg_fields=[], img_path='a.jpg')


def unlabeled(h=20, w=30):
    return LoadUnlabeledAnnotations()(image(h, w))


@pytest.mark.parametrize('size', [(20, 31), (33, 90), (64, 48), (130, 100)])
def test_resizing_is_that_of_pillow(size):
    """Antialiased where it shrinks; OpenCV's bilinear is off by tens of grey levels on such an image."""
    image = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)
    wanted = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(resize_image(image, size).astype(int) - wanted).max() <= 2
    grey = image[..., 0].astype(np.uint16) * 257
    assert np.abs(resize_image(grey, size) / 257 - wanted[..., 0]).max() <= 2
    assert resize_image(image.astype(np.float32)[..., :1], size).shape == (*size, 1)


def test_labels_are_resized_by_centred_neighbours():
    labels = np.random.default_rng(0).integers(0, 256, (40, 64), np.uint8)
    results = RandomRescale((0.5, 0.5))(dict(img=np.zeros((40, 64, 3), np.uint8), gt=labels, seg_fields=['gt']))
    assert results['gt'].shape == results['img'].shape[:2] == results['img_shape']
    wanted = Image.fromarray(labels).resize(results['gt'].shape[::-1], Image.Resampling.NEAREST)
    np.testing.assert_array_equal(results['gt'], np.asarray(wanted))


def test_rescale_long_side_is_a_uniform_integer():
    sides = []
    for _ in range(3000):
        results = RandomRescale((0.5, 2.0))(unlabeled(4, 10))
        h, w = results['img'].shape[:2]
        assert results['ignore_map'].shape == results['img_shape'] == (h, w)
        assert abs(h - 0.4 * w) <= 0.5
        sides.append(w)
    counts = np.bincount(sides)
    assert (min(sides), max(sides)) == (5, 20)
    # 16 values, 187.5 expected of each, standard deviation 13: five of them.
    assert np.abs(counts[5:] - 187.5).max() < 66


def test_rescale_keeps_labels_and_interpolates_images():
    results = image(8, 8)
    results['img'][:] = np.repeat(np.arange(8, dtype=np.uint8)[None, :, None] * 30, 8, 0)
    results['gt_seg_map'] = np.tile(np.array([0, 255] * 4, np.uint8), (8, 1))
    results['seg_fields'] = ['gt_seg_map']
    results = RandomRescale((2.0, 2.0))(results)
    assert set(np.unique(results['gt_seg_map'])) == {0, 255}
    assert len(np.unique(results['img'])) > 8


def test_pad_marks_exactly_the_padding():
    results = unlabeled(20, 30)
    results['gt_seg_map'] = np.full((20, 30), 3, np.uint8)
    results['seg_fields'].append('gt_seg_map')
    before = results['img'].copy()
    results = PadToCrop((32, 24))(results)
    assert results['img'].shape == (32, 30, 3) and results['img_shape'] == (32, 30)
    for key, inside, padding in (('img', before, 0), ('ignore_map', 0, 1), ('gt_seg_map', 3, 255)):
        assert (results[key][:20] == inside).all() and (results[key][20:] == padding).all()


def weak_geometry(size=24):
    return [
        RandomRescale((0.5, 2.0)),
        PadToCrop(size),
        TRANSFORMS.build(dict(type='RandomCrop', crop_size=(size, size))),
        TRANSFORMS.build(dict(type='RandomFlip', prob=0.5)),
    ]


@settings(max_examples=25)
@given(st.tuples(st.integers(1, 40), st.integers(1, 40)), st.integers(1, 33), st.integers(0, 99))
def test_images_of_any_size_give_crops_of_one(size, crop, seed):
    np.random.seed(seed)
    strong = [StrongAugment(), RandomCutMixBox(area=(0.02, 0.2), aspect=(0.1, 10)), PackSemiInputs()]
    pipeline = [*weak_geometry(crop), MultiBranch(weak=[PackSemiInputs()], strong=strong)]
    packed = MultiBranch(view=pipeline)(unlabeled(*size))
    assert all(image.shape == (3, crop, crop) and image.dtype == torch.uint8 for image in packed['inputs'].values())
    x1, y1, x2, y2 = packed['data_samples']['strong'].cutmix_box
    assert 0 <= x1 <= x2 <= crop and 0 <= y1 <= y2 <= crop


def test_ignore_map_follows_crop_and_flip():
    """The image has no black pixel, and bilinear resizing makes none, so black is the padding."""
    shares, flips = [], 0
    for _ in range(100):
        results = unlabeled()
        for transform in weak_geometry():
            results = transform(results)
        assert results['img'].shape == (24, 24, 3)
        assert ((results['img'] == 0).all(-1) == results['ignore_map']).all()
        shares.append(results['ignore_map'].mean())
        flips += bool(results['flip'])
    assert min(shares) == 0
    assert max(shares) > 0.3
    assert 25 < flips < 75


def darken(results):
    results['img'] //= 2
    results['seg_fields'].append('changed')
    return results


def views():
    inner = MultiBranch(weak=[PackSemiInputs()], strong=[darken, PackSemiInputs()])
    mixed = MultiBranch(weak_mix=[PackSemiInputs()], strong_mix=[darken, PackSemiInputs()])
    return MultiBranch(view=[*weak_geometry(), inner], mix=[*weak_geometry(), mixed])


def test_nested_branches_share_their_weak_crop():
    results = unlabeled()
    before = results['img'].copy()
    packed = views()(results)
    assert list(packed['inputs']) == ['weak', 'strong', 'weak_mix', 'strong_mix']
    assert list(packed['data_samples']) == list(packed['inputs'])
    inputs, samples = packed['inputs'], packed['data_samples']
    for weak, strong in (('weak', 'strong'), ('weak_mix', 'strong_mix')):
        assert inputs[weak].shape == (3, 24, 24)
        assert torch.equal(inputs[weak] // 2, inputs[strong])
        ignored = samples[weak].ignore_map.data
        assert ignored.shape == (1, 24, 24)
        assert ignored.dtype == torch.bool
        assert torch.equal(ignored, samples[strong].ignore_map.data)
        assert torch.equal(ignored[0], (inputs[weak] == 0).all(0))
    assert not torch.equal(inputs['weak'], inputs['weak_mix'])
    # What was loaded is nobody's to change.
    assert (results['img'] == before).all()
    assert results['seg_fields'] == ['ignore_map']


def test_collate_lists_by_branch():
    sup = MultiBranch(sup=[PackSemiInputs()])
    items = [sup(image()), sup(image(8, 8)), views()(unlabeled()), views()(unlabeled())]
    batch = FUNCTIONS.get('semi_collate')(items)
    assert list(batch['inputs']) == ['sup', 'weak', 'strong', 'weak_mix', 'strong_mix']
    assert all(len(branch) == 2 for kind in batch.values() for branch in kind.values())
    assert batch['inputs']['sup'][1] is items[1]['inputs']['sup']
    assert batch['data_samples']['strong'][1] is items[3]['data_samples']['strong']


def test_errors():
    with pytest.raises(ValueError, match="'weak'.*PackSemiInputs"):
        MultiBranch(weak=[darken])(unlabeled())
