"""The converter of EfficientNet-Lite, on timm's own network with random weights under the other program's names."""

import re

import pytest
import torch
from commands import call
from mmseg.models.backbones.timm_backbone import TIMMBackbone

timm = pytest.importorskip('timm', reason='timm is not installed')
TOOL = 'model_converters/efficientnet_lite2timm.py'
SEPARABLE = dict(conv_dw='_depthwise_conv', bn1='_bn1', conv_pw='_project_conv', bn2='_bn2')
INVERTED = dict(
    conv_pw='_expand_conv', bn1='_bn0', conv_dw='_depthwise_conv', bn2='_bn1', conv_pwl='_project_conv', bn3='_bn2'
)
TOP = {'conv_stem': '_conv_stem', 'bn1': '_bn0', 'conv_head': '_conv_head', 'bn2': '_bn1', 'classifier': '_fc'}


@pytest.fixture(scope='module')
def published():
    """(names of efficientnet_lite_pytorch, timm's network)"""
    torch.manual_seed(0)
    network = timm.create_model('tf_efficientnet_lite0', pretrained=False)
    for name, value in network.state_dict().items():
        if 'running' in name:
            value.uniform_(0.5, 1.5)
    places = [f'blocks.{s}.{i}' for s, stage in enumerate(network.blocks) for i in range(len(stage))]
    entries = {}
    for name, value in network.state_dict().items():
        if name.endswith('num_batches_tracked'):
            continue
        path, _, entry = name.rpartition('.')
        if inside := re.fullmatch(r'(blocks\.(\d)\.\d)\.(\w+)', path):
            names = SEPARABLE if inside[2] == '0' else INVERTED
            path = f'_blocks.{places.index(inside[1])}.{names[inside[3]]}'
        else:
            path = TOP[path]
        entries[f'{path}.{entry}'] = value
    return entries, network.eval()


def test_features_agree(published, tmp_path, capsys):
    entries, network = published
    torch.save(entries, tmp_path / 'in.pth')
    call(TOOL, tmp_path / 'in.pth', tmp_path / 'out.pth')
    backbone = TIMMBackbone(
        'tf_efficientnet_lite0',
        pretrained=False,
        out_indices=(4,),
        init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'out.pth')),
    )
    backbone.init_weights()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = network.blocks(network.bn1(network.conv_stem(x)))
        torch.testing.assert_close(backbone.eval()(x)[0], expected)
    with pytest.raises(SystemExit):
        call(TOOL, tmp_path / 'in.pth', tmp_path / 'out.pth')
    assert 'exists' in capsys.readouterr().err
