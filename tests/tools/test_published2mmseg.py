"""The converter of published weights, on made-up entries of ResNet-50 names and shapes."""

import sys
from functools import partial

import numpy as np
import pytest
import torch
from commands import ROOT, load
from mmseg.registry import MODELS

from mmseg_derprop.utils.config import load_config

CONFIGS = ROOT / 'configs/_base_'
NUM_CLASSES = 7
STATISTICS = ('weight', 'bias', 'running_mean', 'running_var')


@pytest.fixture(scope='module')
def tool():
    return load('model_converters/published2mmseg.py')


def add_conv_bn(shapes, conv, bn, *shape):
    shapes[f'{conv}.weight'] = shape
    shapes.update({f'{bn}.{entry}': shape[:1] for entry in STATISTICS}, **{f'{bn}.num_batches_tracked': ()})


def backbone_shapes():
    """Names and shapes of a deep-stem ResNet-50."""
    conv_bn = partial(add_conv_bn, shapes := {})
    conv_bn('conv1.0', 'conv1.1', 64, 3, 3, 3)
    conv_bn('conv1.3', 'conv1.4', 64, 64, 3, 3)
    conv_bn('conv1.6', 'bn1', 128, 64, 3, 3)
    inputs = 128
    for stage, blocks in enumerate((3, 4, 6, 3), 1):
        width = 32 * 2**stage
        for block in range(blocks):
            name = f'layer{stage}.{block}'
            conv_bn(f'{name}.conv1', f'{name}.bn1', width, inputs, 1, 1)
            conv_bn(f'{name}.conv2', f'{name}.bn2', width, width, 3, 3)
            conv_bn(f'{name}.conv3', f'{name}.bn3', 4 * width, width, 1, 1)
            if block == 0:
                conv_bn(f'{name}.downsample.0', f'{name}.downsample.1', 4 * width, inputs, 1, 1)
            inputs = 4 * width
    return shapes


def network_shapes(with_propagation=True):
    """Names and shapes of a published network; without propagation, of UniMatch's."""
    shapes = {f'backbone.{name}': shape for name, shape in backbone_shapes().items()}
    conv_bn = partial(add_conv_bn, shapes)
    conv_bn('head.b0.0', 'head.b0.1', 256, 2048, 1, 1)
    for i in (1, 2, 3):
        conv_bn(f'head.b{i}.0', f'head.b{i}.1', 256, 2048, 3, 3)
    conv_bn('head.b4.gap.1', 'head.b4.gap.2', 256, 2048, 1, 1)
    conv_bn('head.project.0', 'head.project.1', 256, 1280, 1, 1)
    conv_bn('reduce.0', 'reduce.1', 48, 256, 1, 1)
    conv_bn('fuse.0', 'fuse.1', 256, 304, 3, 3)
    conv_bn('fuse.3', 'fuse.4', 256, 256, 3, 3)
    one_by_one = ['classifier']
    if with_propagation:
        conv_bn('proj.0', 'proj.1', 256, 2048, 3, 3)
        shapes['proj.0.bias'] = (256,)
        one_by_one += ['corr.conv1', 'corr.conv2']
    for name in one_by_one:
        shapes.update({f'{name}.weight': (NUM_CLASSES, 256, 1, 1), f'{name}.bias': (NUM_CLASSES,)})
    return shapes


def fill(shapes):
    """Each entry is constant, and no two entries are equal; nothing of their size is stored."""
    return {name: torch.tensor(float(i)).expand(shape) for i, (name, shape) in enumerate(shapes.items())}


@pytest.fixture
def network():
    return fill(network_shapes())


@pytest.fixture
def convert(tool, monkeypatch, tmp_path):
    """Saves a checkpoint, runs the tool on it and returns what it wrote."""

    def run(checkpoint):
        torch.save(checkpoint, tmp_path / 'in.pth')
        monkeypatch.setattr(
            sys, 'argv', ['published2mmseg.py', str(tmp_path / 'in.pth'), str(tmp_path / 'out.pth'), '--force']
        )
        tool.main()
        return torch.load(tmp_path / 'out.pth', weights_only=True)

    return run


def test_network_loads_strictly_into_student_teacher_and_head(convert, network):
    checkpoint = convert(network)
    assert checkpoint['meta'] == dict(source='in.pth', kind='network', depth=50, num_classes=NUM_CLASSES)
    segmentor = load_config(str(CONFIGS / 'models/deeplabv3plus_r101_deepstem.py')).model
    segmentor.backbone.depth = 50
    segmentor.decode_head.num_classes = NUM_CLASSES
    model = MODELS.build(dict(segmentor=segmentor, **load_config(str(CONFIGS / 'methods/derprop.py')).method))
    missing, unexpected = model.load_state_dict(checkpoint['state_dict'], strict=False)
    assert not unexpected and all(name.startswith('pseudo_labeler.') for name in missing)

    for ours, theirs in {
        'backbone.stem.3.weight': 'backbone.conv1.3.weight',
        'backbone.stem.7.running_var': 'backbone.bn1.running_var',
        'backbone.layer3.5.bn3.bias': 'backbone.layer3.5.bn3.bias',
        'decode_head.aspp_modules.3.conv.weight': 'head.b3.0.weight',
        'decode_head.image_pool.1.bn.bias': 'head.b4.gap.2.bias',
        'decode_head.bottleneck.conv.weight': 'head.project.0.weight',
        'decode_head.c1_bottleneck.bn.weight': 'reduce.1.weight',
        'decode_head.fuse.1.bn.running_mean': 'fuse.4.running_mean',
        'decode_head.conv_seg.bias': 'classifier.bias',
    }.items():
        for role in (model.student, model.teacher):
            assert torch.equal(role.state_dict()[ours], network[theirs])
    head = model.propagation_head.state_dict()
    assert torch.equal(head['conv.conv.bias'], network['proj.0.bias'])
    assert torch.equal(head['conv_q.weight'], network['corr.conv1.weight'])
    assert torch.equal(head['conv_k.weight'], network['corr.conv2.weight'])


@pytest.mark.parametrize('nest', [None, 'model', 'state_dict'])
def test_prefix_nesting_and_scores(convert, network, nest):
    wanted = convert(network)['state_dict']
    wrapped = {f'module.{name}': value for name, value in network.items()}
    if nest is not None:
        wrapped = {nest: wrapped, 'epoch': 3, 'previous_best': np.float64(70.5)}
    found = convert(wrapped)['state_dict']
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_network_without_propagation_head(convert):
    state = convert(fill(network_shapes(with_propagation=False)))['state_dict']
    assert {name.partition('.')[0] for name in state} == {'student', 'teacher'}


def test_backbone_serves_as_init_cfg(convert, tmp_path):
    source = fill(backbone_shapes() | {'fc.weight': (1000, 2048), 'fc.bias': (1000,)})
    source = {name: value for name, value in source.items() if not name.endswith('num_batches_tracked')}  # old torch
    assert convert(source)['meta']['kind'] == 'backbone'
    config = load_config(str(CONFIGS / 'models/deeplabv3plus_r101_deepstem.py')).model.backbone
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'out.pth'))
    backbone = MODELS.build({**config, 'depth': 50, 'init_cfg': init_cfg})
    backbone.init_weights()
    state = backbone.state_dict()
    assert torch.equal(state['stem.7.weight'], source['bn1.weight'])
    assert torch.equal(state['layer4.2.conv3.weight'], source['layer4.2.conv3.weight'])
    assert len(state) == len(torch.load(tmp_path / 'out.pth', weights_only=True)['state_dict'])


def drop(name):
    return lambda source: source.pop(name)


def put(name, *shape):
    return lambda source: source.update({name: torch.zeros(shape)})


@pytest.mark.parametrize(
    'damage, message',
    [
        (drop('backbone.layer2.1.conv2.weight'), 'backbone.layer2.1.conv2.weight is missing'),
        (drop('corr.conv2.bias'), 'corr.conv2.bias is missing'),
        (put('auxiliary.weight', 3), 'auxiliary.weight is unknown'),
        (put('fuse.3.weight', 256, 256, 1, 1), r'fuse.3.weight has shape \(256, 256, 1, 1\), expected is'),
        (put('corr.conv1.weight', 9, 256, 1, 1), r'corr.conv1.weight has shape \(9, 256, 1, 1\)'),
        (dict.clear, 'no ResNet'),
    ],
)
def test_refuses_what_does_not_match_and_writes_nothing(convert, network, tmp_path, damage, message):
    damage(network)
    with pytest.raises(SystemExit, match=message):
        convert(network)
    assert [path.name for path in tmp_path.iterdir()] == ['in.pth']
