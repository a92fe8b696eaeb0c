"""Images of any number of channels and any depth, from files that MMSegmentation's loaders read to the views."""

import numpy as np
import pytest
from mmcv.transforms import BaseTransform
from mmengine.registry import init_default_scope
from mmseg.datasets.transforms import loading
from mmseg.registry import DATASETS
from PIL import Image

from mmseg_derprop.datasets import StrongAugment, strong

RANGES = dict(uint8=(0, 255), uint16=(900, 4000), float32=(-0.5, 2.0))
CASES = [(channels, dtype) for channels in (1, 3, 4, 12) for dtype in RANGES]
STEPS = [
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(50, 40), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(32, 48)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]


class Opened:
    """Stands in for what GDAL opens, a raster (C, H, W)."""

    def __init__(self, path):
        self.ReadAsArray = lambda: np.load(path)


class FirstSlice(BaseTransform):
    """A volume (C, Z, Y, X) as an image (Y, X, C)."""

    def transform(self, results):
        image = np.ascontiguousarray(results['img'][:, 0].transpose(1, 2, 0))
        return {**results, 'img': image, 'img_shape': image.shape[:2], 'ori_shape': image.shape[:2]}


RASTER = [dict(type='LoadSingleRSImageFromFile', to_float32=False)]
VOLUME = [dict(type='LoadBiomedicalImageFromFile', decode_backend='numpy', to_float32=False), dict(type=FirstSlice)]


@pytest.mark.parametrize(('channels', 'dtype'), CASES)
@pytest.mark.parametrize('load', [RASTER, VOLUME], ids=['raster', 'volume'])
def test_files_become_views(channels, dtype, load, tmp_path, monkeypatch):
    init_default_scope('mmseg')
    monkeypatch.setattr(loading, 'gdal', type('gdal', (), dict(Open=Opened)))
    low, high = RANGES[dtype]
    image = np.random.default_rng(0).uniform(low, high, (channels, 40, 50)).astype(dtype)
    np.save(tmp_path / 'a.npy', image if load is RASTER else image[:, None])
    Image.fromarray(np.eye(40, 50, dtype=np.uint8)).save(tmp_path / 'a.png')
    supervised = dict(type='BaseSegDataset', data_root=str(tmp_path), metainfo=dict(classes=('wall', 'floor')))
    supervised |= dict(data_prefix=dict(img_path='', seg_map_path=''), img_suffix='.npy', pipeline=[*load, *STEPS])
    split = dict(type='SplitDataset', supervised=supervised, unlabeled='', transforms=dict(FirstSlice='both'))
    dataset = DATASETS.build(split)
    assert (dataset.num_labeled, dataset.num_unlabeled) == (1, 1)
    for item in (dataset[0], dataset[1]):
        for view in item['inputs'].values():
            assert view.shape == (channels, 32, 48)
            assert str(view.dtype) == ('torch.float32' if dtype == 'uint16' else f'torch.{dtype}')
    seen = item['inputs']['weak'][:, ~item['data_samples']['weak'].ignore_map.data[0]]
    assert low <= seen.min() and seen.max() <= high


@pytest.mark.parametrize(('channels', 'dtype'), [*CASES, (0, 'uint8'), (0, 'float32')])
def test_a_strong_view_keeps_shape_depth_and_range(channels, dtype):
    np.random.seed(0)
    img = np.random.uniform(*RANGES[dtype], (40, 50, channels) if channels else (40, 50)).astype(dtype)
    axes = (0, 1) if channels != 3 else None  # channels have ranges of their own where they are no colours
    low, high = (0, 255) if dtype == 'uint8' else (img.min(axes), img.max(axes))
    changed = [StrongAugment()(dict(img=img.copy()))['img'] for _ in range(20)]
    for view in changed:
        assert view.shape == img.shape and view.dtype == img.dtype
        assert (view >= low - 1e-6).all() and (view <= high + 1e-6).all()
    assert sum((view != img).any() for view in changed) > 12
    unchanged = StrongAugment(jitter_prob=0, gray_prob=0, blur_prob=0)(dict(img=img))['img']
    np.testing.assert_allclose(unchanged, img, atol=1e-6)


@pytest.mark.parametrize(('name', 'amount'), dict(brightness=0.7, contrast=0.7, saturation=1.4, hue=0.2).items())
def test_colours_of_any_depth_change_alike(name, amount):
    img, change = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8), getattr(strong, f'adjust_{name}')
    difference = change(img, amount) - 255 * change(np.float32(img / 255), amount)
    assert np.abs(difference).max() < (13 if name == 'hue' else 1.6)
