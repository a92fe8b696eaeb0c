"""Makes shipped configs small: narrow networks, small crops, generated data."""

import inspect
from pathlib import Path

import numpy as np
import torch
from PIL import Image

# Narrower backbones by type, those that repeat their layers most also shallower. Others run as they are.
NARROW = {
    'ResNetV1c': dict(stem_channels=8, base_channels=8),
    'MixVisionTransformer': dict(embed_dims=8, num_layers=[1, 2, 2, 1]),
    'SwinTransformer': dict(embed_dims=12),
    'mmpretrain.ConvNeXt': dict(arch=dict(depths=[1, 1, 3, 1], channels=[8, 12, 16, 24])),
    'mmpretrain.VisionTransformer': dict(
        arch=dict(embed_dims=16, num_layers=12, num_heads=2, feedforward_channels=32), img_size=56
    ),
}


def set_crop(part, old, new):
    """Replaces a crop size wherever a part of a config has it."""
    if isinstance(part, dict):
        for key, value in part.items():
            if key in ('size', 'crop_size') and tuple(value or ()) == old:
                part[key] = new
            else:
                set_crop(value, old, new)
    elif isinstance(part, (list, tuple)):
        for value in part:
            set_crop(value, old, new)


def heads(segmentor):
    """Configs of all heads of a segmentor's config."""
    for key in ('decode_head', 'auxiliary_head'):
        found = segmentor.get(key) or []
        yield from found if isinstance(found, (list, tuple)) else [found]


def narrow(segmentor):
    """Narrows a segmentor's config; its heads read the channels that its features then have."""
    from mmseg.registry import MODELS

    segmentor.backbone.update(NARROW.get(segmentor.backbone.type, {}))
    with torch.no_grad():
        channels = [feature.shape[1] for feature in MODELS.build(segmentor.backbone)(torch.zeros(1, 3, 64, 64))]
    if 'embed_dim' in (segmentor.get('neck') or {}):
        segmentor.neck.embed_dim = channels[-1]
    for head in heads(segmentor):
        index = head.get('in_index', -1)
        several = isinstance(index, (list, tuple))
        head.update(in_channels=[channels[i] for i in index] if several else channels[index], channels=16)
        if 'embed_dims' in head:
            head.update(embed_dims=channels[-1], post_process_channels=[8, 8, 16, 16])
        if 'c1_in_channels' in head:
            head.c1_in_channels = channels[0]
        if 'c1_channels' in head:
            head.c1_channels = 8


def without_weights(part):
    """Removes what downloads or reads weights, and yields what it removed."""
    if isinstance(part, dict):
        if isinstance(part.get('init_cfg'), dict) and part['init_cfg'].get('type') == 'Pretrained':
            yield part.pop('init_cfg')
        for value in part.values():
            yield from without_weights(value)
    elif isinstance(part, (list, tuple)):
        for value in part:
            yield from without_weights(value)


def sources(config):
    """The data sets that a config trains and validates on."""
    train = config.train_dataloader.dataset
    yield from (train.labeled, train.unlabeled) if 'labeled' in train else (train,)
    yield config.val_dataloader.dataset


def pipeline_of(model):
    """The name that data configs give to the unlabelled pipeline which a SemiSegmentor's config needs."""
    if model.get('cutmix', {}).get('partner') == 'second_view':
        return 'two_view_pipeline'
    return 'two_strong_pipeline' if model.get('views', {}).get('num_strong') == 2 else 'unlabeled_pipeline'


def default_of(kind, name):
    """The default of an argument that a class, or the nearest of those it derives from, names."""
    parameters = (inspect.signature(base.__init__).parameters for base in kind.__mro__)
    return next(found[name].default for found in parameters if name in found)


def write_data(config, images=4, size=(48, 64)):
    """Writes random images and labels, and the lists of their ids, where each data set of a config looks for them."""
    from mmseg.registry import DATASETS

    rng = np.random.default_rng(0)
    classes = len(DATASETS.get(config.val_dataloader.dataset.type).METAINFO['classes'])
    for number, source in enumerate(sources(config)):
        kind = DATASETS.get(source.type)
        suffix, label_suffix = (source.get(k, default_of(kind, k)) for k in ('img_suffix', 'seg_map_suffix'))
        root = Path(source.data_root)
        ids = [f'town/{number}_{i}' for i in range(images)]
        if source.get('ann_file'):
            (root / source.ann_file).parent.mkdir(parents=True, exist_ok=True)
            (root / source.ann_file).write_text('\n'.join(ids))
        for name in ids:
            image = rng.integers(0, 256, (*size, 3), np.uint8)
            label = rng.integers(0, classes, (size[0] // 8, size[1] // 8), np.uint8).repeat(8, 0).repeat(8, 1)
            label[:3] = 255
            files = {'img_path': (suffix, image), 'seg_map_path': (label_suffix, label)}
            for kind, (end, array) in files.items():
                end = end if isinstance(end, str) else end[0]
                path = root / source.data_prefix[kind] / (name + end)
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)


def shrink(config, narrower=True):
    """Makes a config small: its crops, its batches, its propagation head and, unless told otherwise, its network."""
    segmentor = config.model.get('segmentor', config.model)
    list(without_weights(config.model))
    if segmentor.backbone.type.startswith('ResNet'):
        segmentor.backbone.zero_init_residual = False  # untrained, its residual branches would have no gradient
    if narrower:
        narrow(segmentor)
    if config.model.get('propagation_head') and narrower:
        config.model.propagation_head.channels = 16
    if config.model.get('pseudo_labels', {}).get('regions'):
        config.model.pseudo_labels.regions.num = 8
    side = 56 if (segmentor.data_preprocessor.get('test_cfg') or {}).get('size_divisor') == 14 else 33
    for part in (config.train_dataloader, config.model):
        set_crop(part, tuple(config.crop_size), (side, side))
    if segmentor.test_cfg.mode == 'slide':
        segmentor.test_cfg.stride = (side * 2 // 3, side * 2 // 3)
    loader = config.train_dataloader
    loader.batch_size = 2
    if 'num_labeled' in loader.sampler:
        loader.batch_size = 4
        loader.sampler.update(num_labeled=2, num_unlabeled=2)
    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
