"""Tiny segmentors, methods and batches that tests build."""

import copy
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from mmseg_derprop.models.segmentors import decode_heads
from mmseg_derprop.utils.config import load_config

init_default_scope('mmseg')
MMLogger.get_current_instance().setLevel('WARNING')  # initialisation logs every parameter
METHODS = Path(__file__).resolve().parents[1] / 'configs/_base_/methods'
NUM_CLASSES = 5
SIZE = (35, 44)  # the grid of the deep feature is 5 x 6; no pixel lies midway between two positions
CROSS_ENTROPY = dict(type='CrossEntropyLoss', use_sigmoid=False, avg_non_ignore=True)


def segmentor(num_classes=NUM_CLASSES, **changes):
    """Config of a DeepLabV3+ on a very narrow ResNet-18, output stride 8; changes go to its decode head."""
    norm_cfg = dict(type='BN')
    head = dict(
        type='DeepLabV3PlusHead',
        in_channels=[8, 64],
        channels=8,
        c1_channels=4,
        dilations=(2, 3, 4),
        num_classes=num_classes,
        norm_cfg=norm_cfg,
        loss_decode=CROSS_ENTROPY,
    )
    return dict(
        type='EncoderDecoder',
        data_preprocessor=dict(type='SegDataPreProcessor', mean=[120.0, 110, 100], std=[60.0, 50, 40], bgr_to_rgb=True),
        backbone=dict(
            type='ResNetV1c',
            depth=18,
            stem_channels=8,
            base_channels=8,
            strides=(1, 2, 1, 1),
            dilations=(1, 1, 2, 4),
            norm_cfg=norm_cfg,
        ),
        decode_head=dict(head, **changes),
        test_cfg=dict(mode='whole'),
    )


def fcn(in_index, in_channels, num_classes=NUM_CLASSES, **changes):
    """Config of a small FCN head, as auxiliary head or as stage of a cascade."""
    head = dict(type='FCNHead', in_channels=in_channels, in_index=in_index, channels=4, num_convs=1, concat_input=False)
    head |= dict(num_classes=num_classes, norm_cfg=dict(type='BN'), align_corners=True, loss_decode=CROSS_ENTROPY)
    return dict(head, **changes)


def cascade():
    """Config of a cascade of two heads, of which the second reads the first one's logits."""
    config = segmentor()
    second = dict(type='OCRHead', in_channels=64, in_index=3, channels=4, ocr_channels=4, num_classes=NUM_CLASSES)
    second |= dict(norm_cfg=dict(type='BN'), align_corners=True, loss_decode=CROSS_ENTROPY)
    return dict(config, type='CascadeEncoderDecoder', num_stages=2, decode_head=[fcn(2, 32), second])


def method(preset='derprop_paper', options=None):
    """The method of a shipped preset, with a narrow head and few regions.

    Args:
        preset (str): A file of configs/_base_/methods.
        options (dict): Dotted options that are merged into it, as ``--cfg-options`` merges them.
    """
    config = Config(load_config(str(METHODS / f'{preset}.py')).method)
    if 'propagation_head' in config:
        config.propagation_head.channels = 16
        config.pseudo_labels.regions.num = 20
    # Gradients of single terms are looked at; tests/models/test_stages.py has those of the stages.
    config.merge_from_dict({'views.staged_backward': False} | (options or {}))
    return config.to_dict()


def build(preset='derprop_paper', network=None, options=None, seed=0, scale=True):
    """A SemiSegmentor in training mode, initialised by a seed.

    With ``scale`` its classifiers are larger than usual, so that confidences differ.
    """
    torch.manual_seed(seed)
    config = dict(method(preset, options), segmentor=copy.deepcopy(network or segmentor()))
    model = MODELS.build(ConfigDict(config))
    model.init_weights()
    with torch.no_grad():
        for network in (model.student, model.teacher) if scale else ():
            decode_heads(network)[-1].conv_seg.weight *= 200
    return model.train()


def batch(
    num_labeled=2,
    num_unlabeled=2,
    size=SIZE,
    num_classes=NUM_CLASSES,
    ignore_index=255,
    truth=False,
    seed=0,
    num_strong=1,
):
    """Normalised inputs and data samples of all branches.

    Some labels are ``ignore_index``, the last columns of some unlabelled images are padding, boxes differ by image.
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = size

    def images(count):
        coarse = torch.randn(count, 3, 5, 6, generator=generator)
        fine = torch.randn(count, 3, *size, generator=generator)
        return torch.nn.functional.interpolate(coarse, size, mode='bilinear') + 0.3 * fine

    def labels():
        values = torch.randint(num_classes, (1, height // 5 + 1, width // 5 + 1), generator=generator)
        return values.repeat_interleave(5, 1).repeat_interleave(5, 2)[:, :height, :width]

    counts = dict(sup=num_labeled, weak=num_unlabeled, strong=num_unlabeled)
    counts |= dict(weak_mix=num_unlabeled, strong_mix=num_unlabeled)
    if num_strong == 2:
        counts |= dict(strong2=num_unlabeled, strong2_mix=num_unlabeled)
    inputs = {branch: images(count) for branch, count in counts.items()}
    samples = {branch: [SegDataSample() for _ in range(count)] for branch, count in counts.items()}
    for sample in samples['sup']:
        truth_map = labels()
        truth_map[:, :6, :9] = ignore_index
        sample.gt_sem_seg = PixelData(data=truth_map)
    for index in range(num_unlabeled):
        for branch, columns in dict(weak=3 * index, strong=3 * index, weak_mix=4, strong_mix=4).items():
            ignored = torch.zeros(1, *size, dtype=torch.bool)
            ignored[:, :, width - columns :] = True
            samples[branch][index].ignore_map = PixelData(data=ignored)
            box = (4 + index, 3, width // 2 + 3 * index, height // 2 + index)
            samples[branch][index].set_metainfo(dict(cutmix_box=box))
            if truth:
                samples[branch][index].gt_sem_seg = PixelData(data=labels())
        if num_strong == 2:
            samples['strong2'][index].ignore_map = samples['weak'][index].ignore_map
            samples['strong2'][index].set_metainfo(dict(cutmix_box=(1, 8 + index, width // 3, height - 4)))
    return inputs, samples


def evaluation_data(size=SIZE, count=2, seed=0):
    """What a test dataloader gives: uint8 images and their data samples."""
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randint(256, (3, *size), generator=generator, dtype=torch.uint8) for _ in range(count)]
    meta = dict(ori_shape=size, img_shape=size, pad_shape=size, padding_size=[0, 0, 0, 0], img_path='')
    return dict(inputs=images, data_samples=[SegDataSample(metainfo=meta) for _ in images])


class LargestTensor:
    """Notes the bytes of the largest tensor that is allocated in its context, inside operators too."""

    size = 0

    def __enter__(self):
        self.profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True)
        self.profile.__enter__()
        return self

    def __exit__(self, *error):
        self.profile.__exit__(*error)
        self.size = max(event.self_cpu_memory_usage for event in self.profile.events())
