"""Every shipped config: it can be read, its data can lie anywhere, its parts can be built."""

from pathlib import Path

import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.registry import DATASETS, HOOKS, LOOPS, METRICS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS, TRANSFORMS

from mmseg_derprop.config import load_config

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
FILES = sorted(path for path in CONFIGS.glob('*/*.py') if path.parent.name != '_base_')
every_config = pytest.mark.parametrize('path', FILES, ids=lambda path: f'{path.parent.name}/{path.stem}')


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmseg')


def parts(config):
    """All dicts of a config, with their place."""
    stack = [('', config)]
    while stack:
        place, part = stack.pop()
        if isinstance(part, dict):
            yield place, part
        items = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, (list, tuple)) else ()
        stack.extend((f'{place}.{key}', value) for key, value in items)


def heads(model):
    segmentor = model.get('segmentor', model)
    for key in ('decode_head', 'auxiliary_head'):
        found = segmentor.get(key) or []
        yield from found if isinstance(found, (list, tuple)) else [found]


def sources(config):
    """The data sets that a config trains and validates on, without wrappers."""
    train = config.train_dataloader.dataset
    yield from [train.labeled] if 'labeled' in train else [train]
    yield config.val_dataloader.dataset


def test_there_are_configs():
    assert {path.parent.name for path in FILES} >= {'derprop', 'supervised'} and len(FILES) >= 10


@every_config
def test_data_root_reaches_every_part(path):
    old = load_config(str(path)).data_root
    config = load_config(str(path), {'data_root': '/elsewhere'}).to_dict()
    places = {place.split('.')[1] for place, part in parts(config) if part.get('data_root') == '/elsewhere' and place}
    assert {'train_dataloader', 'val_dataloader', 'test_dataloader'} <= places
    assert old not in str(config)


@every_config
def test_the_model_builds(path):
    config = load_config(str(path))
    classes = {len(DATASETS.get(source.type).METAINFO['classes']) for source in sources(config)}
    # CamVid's label files hold one more, void, which it ignores.
    known = classes.pop() - any(source.type == 'CamVidDataset' for source in sources(config))
    assert not classes and (
        config.model.type == 'SemiSegmentor' or next(iter(heads(config.model))).num_classes == known
    )
    for place, part in parts(config.model.to_dict()):
        assert not str(part.get('type', '')).startswith('SyncBN'), place  # raises on a CPU; sync_bn converts
    for _, part in parts(config.model):
        part.pop('init_cfg', None)
    with torch.device('meta'):
        model = MODELS.build(config.model)
    assert model.out_channels == known
    if path.parent.name == 'supervised':
        assert config.val_cfg.type == 'ValLoop'
    else:
        assert config.model.type == 'SemiSegmentor' and config.val_cfg.type == 'TeacherStudentValLoop'
        assert config.optim_wrapper.constructor == 'SemiOptimWrapperConstructor'
        assert any(hook.type == 'PseudoLabelHook' for hook in config.custom_hooks)


@every_config
def test_all_other_parts_exist(path):
    config = load_config(str(path))
    for loader in (config.train_dataloader, config.val_dataloader):
        for place, part in parts(loader.to_dict()):
            if 'pipeline' in place:
                assert part.get('type') is None or TRANSFORMS.get(part['type']), place
    for hook in config.get('custom_hooks', []):
        HOOKS.build(dict(hook))
    assert (
        LOOPS.get(config.val_cfg.type) and LOOPS.get(config.train_cfg.type) and METRICS.get(config.val_evaluator.type)
    )
    name = config.optim_wrapper.get('constructor')
    assert name is None or OPTIM_WRAPPER_CONSTRUCTORS.get(name)
    assert config.default_scope == 'mmseg' and 'mmseg_derprop' in config.custom_imports.imports
    assert config.train_cfg.max_iters >= config.train_cfg.val_interval
    best = config.default_hooks.checkpoint.get('save_best') or []
    for key in [best] if isinstance(best, str) else best:
        assert ('/' in key) == (config.val_cfg.type == 'TeacherStudentValLoop')


@every_config
def test_crops_have_one_size(path):
    config = load_config(str(path))
    sizes = {
        tuple(part[key])
        for place, part in parts(config.train_dataloader.dataset.to_dict())
        for key in ('size', 'crop_size')
        if part.get('type') in ('PadToCrop', 'RandomCrop') and key in part
    }
    segmentor = config.model.get('segmentor', config.model)
    fixed = segmentor.data_preprocessor.get('size')
    assert sizes == {tuple(config.crop_size)} and tuple(fixed or config.crop_size) in sizes
    if config.model.type == 'SemiSegmentor':
        loader = config.train_dataloader
        sampler = loader.sampler
        assert sampler.type == 'SemiSampler' and loader.collate_fn.type == 'semi_collate'
        assert loader.batch_size == sampler.num_labeled + sampler.num_unlabeled
        two = config.model.cutmix_partner == 'second_view'
        assert two == (config.train_dataloader.dataset.unlabeled.pipeline == config.two_view_pipeline)


def test_options_are_merged(shapes):
    options = {
        'data_root': str(shapes),
        'train_dataloader.dataset.unlabeled.data_root': '/other',
        'train_cfg.max_iters': 3,
    }
    config = load_config(str(CONFIGS / 'derprop/tiny_shapes.py'), options)
    assert config.train_cfg.max_iters == 3
    assert config.train_dataloader.dataset.unlabeled.data_root == '/other'
    assert config.train_dataloader.dataset.labeled.data_root == str(shapes)
    loader = Runner.build_dataloader(config.val_dataloader, seed=0)
    assert len(loader.dataset) == 6
