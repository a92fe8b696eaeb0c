"""Every shipped config: it can be read, its data can lie anywhere, its parts can be built, its epochs are whole."""

import copy
import functools
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.registry import DATASETS, HOOKS, LOOPS, METRICS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS, TRANSFORMS
from shrink import heads, pipeline_of, sources, without_weights

from mmseg_derprop.datasets import SemiSampler
from mmseg_derprop.utils.config import load_config

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
FILES = sorted(path for path in CONFIGS.glob('*/*.py') if path.parent.name != '_base_')
every_config = pytest.mark.parametrize('path', FILES, ids=lambda path: f'{path.parent.name}/{path.stem}')
IMAGES = {'PascalVOCDataset': 10582, 'CityscapesDataset': 2975, 'CamVidDataset': 367}
LABELED = {
    'PascalVOCDataset': {
        **{'1_16': 92, '1_8': 183, '1_4': 366, '1_2': 732, 'full': 1464},
        **{'blended_1_16': 662, 'blended_1_8': 1323, 'blended_1_4': 2646},
    },
    'CityscapesDataset': {'1_16': 186, '1_8': 372, '1_4': 744, '1_2': 1488},
}
EPOCHS = {'PascalVOCDataset': 80, 'CityscapesDataset': 240}
V2_EPOCHS = {'PascalVOCDataset': 60, 'CityscapesDataset': 180}
BENCHMARKS = [path for path in FILES if path.stem.split('_')[1] in ('voc', 'cityscapes')]
NETWORKS = {}
benchmarks = pytest.mark.parametrize('path', BENCHMARKS, ids=lambda path: f'{path.parent.name}/{path.stem}')


@functools.cache
def _read(path):
    return load_config(str(path))


def read(path):
    """A config as shipped; read once."""
    return copy.deepcopy(_read(path))


def build(config):
    """A config's model on the meta device, without weights; equal ones are built once."""
    list(without_weights(config.model))
    key = str(config.model)
    if key not in NETWORKS:
        linspace = functools.partial(torch.linspace, device='cpu')  # networks read the rates of drop paths
        with pytest.MonkeyPatch.context() as patch, torch.device('meta'):
            patch.setattr(torch, 'linspace', linspace)
            NETWORKS[key] = MODELS.build(config.model)
    return NETWORKS[key]


def crops(part):
    """Crop sizes anywhere in a part of a config."""
    items = part.values() if isinstance(part, dict) else part if isinstance(part, (list, tuple)) else ()
    own = {tuple(part['crop_size'])} if isinstance(part, dict) and 'crop_size' in part else set()
    return own.union(*map(crops, items))


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


def labeled_sources(config):
    return [source for source in sources(config) if source.type != 'UnlabeledDataset']


@every_config
def test_data_root_reaches_every_part(path):
    config = read(path)
    old = config.data_root
    config = load_config(str(path), {'data_root': '/elsewhere'}).to_dict()
    places = {place.split('.')[1] for place, part in parts(config) if part.get('data_root') == '/elsewhere' and place}
    assert {'train_dataloader', 'val_dataloader', 'test_dataloader'} <= places
    assert old not in str(config)


@every_config
def test_the_model_builds(path):
    config = read(path)
    classes = {len(DATASETS.get(source.type).METAINFO['classes']) for source in labeled_sources(config)}
    # CamVid's label files hold one more, void, which it ignores.
    known = classes.pop() - any(source.type == 'CamVidDataset' for source in labeled_sources(config))
    assert not classes and build(config).out_channels == known
    for place, part in parts(config.model.to_dict()):
        assert not str(part.get('type', '')).startswith('SyncBN'), place  # raises on a CPU; sync_bn converts
    if path.parent.name == 'supervised':
        assert {head.num_classes for head in heads(config.model)} == {known}
        assert config.val_cfg.type == 'ValLoop'
    else:
        assert config.model.type == 'SemiSegmentor' and config.val_cfg.type == 'TeacherStudentValLoop'
        assert config.optim_wrapper.constructor == 'SemiOptimWrapperConstructor'


@every_config
def test_all_other_parts_exist(path):
    config = read(path)
    for loader in (config.train_dataloader, config.val_dataloader):
        for place, part in parts(loader.to_dict()):
            if 'pipeline' in place:
                assert part.get('type') is None or TRANSFORMS.get(part['type']), place
    hooks = [type(HOOKS.build(dict(hook))).__name__ for hook in config.custom_hooks]
    assert hooks.count('NonFiniteHook') == 1
    assert hooks.count('PseudoLabelHook') == (path.parent.name != 'supervised')
    for registry, part in ((LOOPS, config.val_cfg), (LOOPS, config.train_cfg), (METRICS, config.val_evaluator)):
        assert registry.get(part.type)
    name = config.optim_wrapper.get('constructor')
    assert name is None or OPTIM_WRAPPER_CONSTRUCTORS.get(name)
    assert config.default_scope == 'mmseg' and 'mmseg_derprop' in config.custom_imports.imports
    assert config.train_cfg.max_iters >= config.train_cfg.val_interval
    best = config.default_hooks.checkpoint.get('save_best') or []
    for key in [best] if isinstance(best, str) else best:
        assert ('/' in key) == (config.val_cfg.type == 'TeacherStudentValLoop')


@every_config
def test_crops_have_one_size(path):
    config = read(path)
    sizes = {
        tuple(part[key])
        for place, part in parts(config.train_dataloader.dataset.to_dict())
        for key in ('size', 'crop_size')
        if part.get('type') in ('PadToCrop', 'RandomCrop') and key in part
    }
    segmentor = config.model.get('segmentor', config.model)
    fixed = segmentor.data_preprocessor.get('size')
    if segmentor.test_cfg.mode == 'slide':
        assert tuple(segmentor.test_cfg.crop_size) in sizes and segmentor.test_cfg.stride < segmentor.test_cfg.crop_size
    divisor = (segmentor.data_preprocessor.get('test_cfg') or {}).get('size_divisor', 1)
    assert all(side % divisor == 0 for size in sizes for side in size)
    assert sizes == {tuple(config.crop_size)} and tuple(fixed or config.crop_size) in sizes
    if config.model.type == 'SemiSegmentor':
        loader = config.train_dataloader
        sampler = loader.sampler
        assert sampler.type == 'SemiSampler' and loader.collate_fn.type == 'semi_collate'
        assert loader.batch_size == sampler.num_labeled + sampler.num_unlabeled
        assert loader.dataset.unlabeled.pipeline == config[pipeline_of(config.model)]


@benchmarks
def test_the_benchmarks_splits_and_epochs(path, monkeypatch):
    config = read(path)
    train, semi = config.train_dataloader, config.model.type == 'SemiSegmentor'
    labeled = train.dataset.labeled if semi else train.dataset
    folder, kind = Path(labeled.ann_file).parent, labeled.type
    assert Path(labeled.ann_file).name == 'labeled.txt'
    _, data, *names = path.stem.split('_')
    split = '_'.join(part.replace('-', '_') for part in names if part not in ('1gpu', 'published'))
    assert folder.name == split and kind == {'voc': 'PascalVOCDataset', 'cityscapes': 'CityscapesDataset'}[data]
    if data == 'voc':
        labels = 'SegmentationClassAug' if 'blended' in split else 'SegmentationClass'
        assert labeled.data_prefix.seg_map_path == labels
    else:
        segmentor = config.model.get('segmentor', config.model)
        loss = segmentor.decode_head.loss_decode
        assert (loss.type, loss.thresh, loss.min_kept // 100_000) in [('OhemCrossEntropyLoss', 0.7, n) for n in (1, 2)]
        assert segmentor.test_cfg.mode == 'slide'
    if semi:
        assert train.dataset.unlabeled.ann_file == str(folder / 'unlabeled.txt')
    gpus, rest = divmod(config.auto_scale_lr.base_batch_size, train.batch_size)
    assert (gpus, rest) == (1 if '1gpu' in path.stem else 4, 0) and not config.auto_scale_lr.enable
    # Labelled and unlabelled images of a GPU: as many; a supervised baseline sees the labelled ones.
    per_gpu = train.sampler.num_unlabeled if semi else train.batch_size
    assert train.batch_size == (2 if semi else 1) * per_gpu
    assert path.parent.name != 'derprop' or per_gpu == {'voc': 4, 'cityscapes': 2}[data]
    monkeypatch.setattr('mmseg_derprop.datasets.samplers.get_dist_info', lambda: (0, gpus))
    count = LABELED[kind][split]
    images = SimpleNamespace(num_labeled=count, num_unlabeled=IMAGES[kind] - count)
    own = path.stem.startswith('dinov2') and path.parent.name == 'unimatch_v2'
    epochs = (V2_EPOCHS if own else EPOCHS)[kind]
    epoch = SemiSampler(images, per_gpu, per_gpu, seed=0).iterations_per_epoch
    assert config.epoch_length == epoch and config.train_cfg.max_iters == epochs * epoch
    assert config.train_cfg.val_interval == config.default_hooks.checkpoint.interval
    assert (
        config.train_cfg.val_interval % epoch == 0 and config.train_cfg.max_iters % config.train_cfg.val_interval == 0
    )
    header = path.read_text().partition('_base_')[0]
    assert f'{count:,}' in header or f'r101_{data}_{names[0]}' in header or '1gpu' in path.stem
    backbone = config.model.get('segmentor', config.model).backbone
    assert backbone.init_cfg.type == 'Pretrained'
    downloaded = backbone.init_cfg.checkpoint.startswith(('open-mmlab://', 'https://mmassets.onedl.ai/'))
    assert downloaded != ('deepstem' in path.stem)


@pytest.mark.parametrize('path', [path for path in FILES if '1gpu' in path.stem], ids=lambda path: path.stem)
def test_one_gpu_has_a_scaled_learning_rate(path):
    config, published = read(path), read(path.with_stem(path.stem.removesuffix('_1gpu')))
    ratio = published.auto_scale_lr.base_batch_size / config.auto_scale_lr.base_batch_size
    assert ratio == 4 and config.optim_wrapper.optimizer.lr * ratio == published.optim_wrapper.optimizer.lr
    assert config.train_cfg.max_iters / published.train_cfg.max_iters == pytest.approx(ratio, rel=0.01)


@pytest.mark.parametrize(
    'path', [path for path in FILES if read(path).optim_wrapper.get('base_constructor')], ids=lambda path: path.stem
)
def test_layer_wise_rates(path):
    """The student's backbone learns the slower the nearer to the image; heads have the full rate."""
    config = read(path)
    model = build(config)
    groups = build_optim_wrapper(model, config.optim_wrapper).optimizer.param_groups
    rates = {id(p): group['lr'] for group in groups for p in group['params']}
    full = config.optim_wrapper.optimizer.lr
    trained = {key: rates[id(p)] for key, p in model.named_parameters() if not key.startswith('teacher.')}
    stem = 'patch_embed' if 'dinov2' in path.stem else 'downsample_layers.0'
    steps = 'layers' if 'dinov2' in path.stem else 'stages'
    assert len(trained) == len(rates)
    assert all(rate == full for key, rate in trained.items() if 'head' in key.split('.')[0] or '_head.' in key)
    order = [f'student.backbone.{stem}.'] + [f'student.backbone.{steps}.{i}.' for i in range(12)]
    found = [{rate for key, rate in trained.items() if key.startswith(prefix)} for prefix in order]
    found = [rate for rates in found if rates for (rate,) in [rates]]
    assert len(found) == (13 if 'dinov2' in path.stem else 5)
    assert all(low < high for low, high in zip(found, found[1:])) and 0 < found[0] < found[-1] < full


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


@every_config
def test_all_pipelines_that_a_method_may_choose_have_the_crop(path):
    config = read(path)
    for name in {name for name in config if name.endswith('_pipeline')} - {'train_pipeline'}:  # that is a base's
        assert crops(config[name]) <= {tuple(config.get('crop_size') or ())}, name
