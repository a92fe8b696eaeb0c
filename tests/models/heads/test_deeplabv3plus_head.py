"""The decoder's structure, and its output rendered in plain torch."""

import pytest
import torch
import torch.nn.functional as F

from mmseg_derprop.models import DeepLabV3PlusHead

SMALL = dict(in_channels=[6, 10], channels=8, c1_channels=4, dilations=(2, 3), num_classes=5, norm_cfg=dict(type='BN'))


def build(**changes):
    loss = dict(type='CrossEntropyLoss', use_sigmoid=False, avg_non_ignore=True)
    return DeepLabV3PlusHead(**dict(dict(loss_decode=loss, in_index=[0, 1], **SMALL), **changes))


def features(images=2):
    return (torch.randn(images, 6, 12, 17), torch.randn(images, 10, 6, 9))


def stir(head):
    for name, entry in head.state_dict().items():
        if name.endswith(('running_var', 'bn.weight')):
            entry.uniform_(0.5, 2)
        elif name.endswith(('running_mean', 'bias')):
            entry.uniform_(-1, 1)
    return head


def rendered(state, shallow, deep, dilations, align_corners):
    """Written out from the entries of the head's state."""

    def layer(name, x, **conv):
        x = F.conv2d(x, state[f'{name}.conv.weight'], **conv)
        norm = [state[f'{name}.bn.{entry}'] for entry in ('running_mean', 'running_var', 'weight', 'bias')]
        return F.batch_norm(x, *norm).relu()

    def resize(x, like):
        return F.interpolate(x, like.shape[2:], mode='bilinear', align_corners=align_corners)

    branches = [layer('aspp_modules.0', deep)]
    for index, d in enumerate(dilations, 1):
        branches.append(layer(f'aspp_modules.{index}', deep, padding=d, dilation=d))
    pooled = layer('image_pool.1', deep.mean((2, 3), keepdim=True))
    branches.append(pooled.expand(-1, -1, *deep.shape[2:]))
    context = layer('bottleneck', torch.cat(branches, 1))
    x = torch.cat([layer('c1_bottleneck', shallow), resize(context, shallow)], 1)
    x = layer('fuse.1', layer('fuse.0', x, padding=1), padding=1)
    return F.conv2d(x, state['conv_seg.weight'], state['conv_seg.bias'])


@pytest.mark.parametrize('align_corners', [True, False])
@pytest.mark.parametrize('dilations', [(2, 3), (2, 4, 6)], ids=str)
def test_output_in_plain_torch(align_corners, dilations):
    head = stir(build(align_corners=align_corners, dilations=dilations)).eval()
    shallow, deep = features()
    found = head((shallow, deep))
    assert found.shape == (2, 5, 12, 17)
    torch.testing.assert_close(found, rendered(head.state_dict(), shallow, deep, dilations, align_corners))


def test_published_shapes():
    head = build(in_channels=[256, 2048], channels=256, c1_channels=48, dilations=(12, 24, 36), num_classes=21)
    shapes = {name: tuple(p.shape) for name, p in head.named_parameters() if p.ndim == 4}
    assert shapes == {
        'aspp_modules.0.conv.weight': (256, 2048, 1, 1),
        'aspp_modules.1.conv.weight': (256, 2048, 3, 3),
        'aspp_modules.2.conv.weight': (256, 2048, 3, 3),
        'aspp_modules.3.conv.weight': (256, 2048, 3, 3),
        'image_pool.1.conv.weight': (256, 2048, 1, 1),
        'bottleneck.conv.weight': (256, 5 * 256, 1, 1),
        'c1_bottleneck.conv.weight': (48, 256, 1, 1),
        'fuse.0.conv.weight': (256, 256 + 48, 3, 3),
        'fuse.1.conv.weight': (256, 256, 3, 3),
        'conv_seg.weight': (21, 256, 1, 1),
    }
    assert [m.conv.dilation for m in list(head.aspp_modules)[1:]] == [(12, 12), (24, 24), (36, 36)]
    assert not any(name.endswith('conv.bias') for name in head.state_dict())


def test_defaults_are_the_published_ones():
    head = DeepLabV3PlusHead(in_channels=[6, 10], channels=8, num_classes=5)
    assert head.align_corners is True and head.dropout is None and head.in_index == [0, 3]
    assert head.c1_bottleneck.conv.out_channels == 48
    assert [m.conv.dilation[0] for m in list(head.aspp_modules)[1:]] == [12, 24, 36]


def test_reads_the_features_of_its_indices():
    head = build(in_index=[1, 3]).eval()
    shallow, deep = features()
    other = build(in_index=[0, 1]).eval()
    other.load_state_dict(head.state_dict())
    assert torch.equal(head([None, shallow, None, deep]), other([shallow, deep]))
