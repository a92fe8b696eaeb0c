"""What every test shares: one thread, fixed seeds, and ``import reference``."""

import gc
import itertools
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))
from shrink import set_crop  # noqa: E402

torch.set_num_threads(1)
# The same examples in each run; the first call of an operator is slow.
settings.register_profile('steady', deadline=None, derandomize=True)
settings.load_profile('steady')


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope='session')
def assert_near():
    """Compares by the largest magnitude: 1e-5 of it in float32, 1e-10 in float64."""

    def check(found, wanted, tolerance=None):
        tolerance = tolerance or {torch.float32: 1e-5, torch.float64: 1e-10}[found.dtype]
        assert found.shape == wanted.shape
        assert torch.isfinite(found).all()
        found, wanted = found.detach().double(), wanted.detach().double()
        limit = tolerance * wanted.abs().max() if wanted.numel() else 0.0
        torch.testing.assert_close(found, wanted, rtol=0, atol=float(limit))

    return check


ROOT = Path(__file__).resolve().parents[1]
SMALL_SEGMENTOR = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
    ),
    backbone=dict(
        type='ResNet',
        depth=18,
        num_stages=2,
        stem_channels=8,
        base_channels=8,
        strides=(1, 2),
        dilations=(1, 1),
        out_indices=(0, 1),
        norm_cfg=dict(type='BN'),
        norm_eval=False,
    ),
    decode_head=dict(
        type='FCNHead',
        in_channels=16,
        channels=8,
        num_convs=1,
        concat_input=False,
        num_classes=6,
        norm_cfg=dict(type='BN'),
        align_corners=True,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
_runs = itertools.count()


@pytest.fixture(scope='session')
def shapes(tmp_path_factory):
    """Root of the embedded data set: 4 labelled, 12 unlabelled and 6 validation images of 64x64."""
    from mmseg_derprop.datasets import write_shapes

    root = tmp_path_factory.mktemp('shapes')
    write_shapes(root, labeled=4, unlabeled=12, val=6, size=64)
    return root


@pytest.fixture(scope='session')
def quick_runs():
    """Runs in this process spend most of their seconds on formatting configs and on collecting what imports made."""
    import mmengine.config.config as engine
    from yapf.yapflib import yapf_api

    import mmseg_derprop  # noqa: F401

    with pytest.MonkeyPatch.context() as patch:
        for module in (engine, yapf_api):
            patch.setattr(module, 'FormatCode', lambda text, **kwargs: (text, True), raising=False)
        gc.freeze()
        yield
        gc.unfreeze()


@pytest.fixture
def small_segmentor():
    """Config of the network that runs of ``semi_config`` train."""
    return SMALL_SEGMENTOR


@pytest.fixture
def semi_config(shapes, tmp_path, quick_runs):
    """Makes a config of a run of seconds: configs/derprop/tiny_shapes_paper.py, smaller; 3 iterations are an epoch.

    A dict of dotted options is merged into it; ``second_view=True`` takes the published pipeline, ``path`` another
    config and ``segmentor`` another network.
    """
    from mmseg_derprop.utils.config import load_config

    def make(
        options=None,
        path=ROOT / 'configs/derprop/tiny_shapes_paper.py',
        segmentor=SMALL_SEGMENTOR,
        crop=33,
        second_view=False,
    ):
        config = load_config(str(path), {'data_root': str(shapes)})
        if segmentor is not None:
            config.model.segmentor = segmentor
        if second_view:
            config.train_dataloader.dataset.unlabeled.pipeline = config.two_view_pipeline
            config.model.cutmix = dict(partner='second_view', predictor='teacher')
            config.model.losses.affinity_u.inside_box = False
        set_crop(config.train_dataloader, (96, 96), (crop, crop))
        config.merge_from_dict(
            {
                'work_dir': str(tmp_path / 'work'),
                'log_level': 'WARNING',
                # The engine keeps a message hub and a visualizer for each name.
                'experiment_name': (name := f'test_{next(_runs)}'),
                'visualizer.name': name,
                'model.propagation_head.channels': 16,
                'model.pseudo_labels.regions.num': 8,
                'train_cfg.max_iters': 7,
                'train_cfg.val_interval': 1000,
                'default_hooks.checkpoint': None,
                **{
                    f'{loader}_dataloader.{key}': value
                    for loader in ('train', 'val', 'test')
                    for key, value in dict(num_workers=0, persistent_workers=False).items()
                },
                **(options or {}),
            }
        )
        return config

    return make


@pytest.fixture
def make_runner(semi_config):
    """As ``semi_config``, built; without validation unless ``val=True``."""
    from mmengine.runner import Runner

    def make(*args, val=False, **kwargs):
        config = semi_config(*args, **kwargs)
        if not val:
            config.val_dataloader = config.val_cfg = config.val_evaluator = None
            config.test_dataloader = config.test_cfg = config.test_evaluator = None
        return Runner.from_cfg(config)

    return make
