"""What does not fit is found out before training, and finding out moves nothing."""

import sys

import builders
import pytest
import torch
from mmengine.model import BaseModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS

from mmseg_derprop.models.decoding import Reading, decode, probe
from mmseg_derprop.models.segmentors import build_segmentor, decode_heads, evaluating, frozen_statistics


class TupleHead(BaseDecodeHead):
    """Gives classes and masks, as mask classifiers do."""

    def forward(self, inputs):
        return self._transform_inputs(inputs), None


class MaskHead(BaseModule):
    """Wants labels beside the features, as Mask2FormerHead does."""

    num_classes = out_channels = builders.NUM_CLASSES
    align_corners = False

    def forward(self, x, batch_data_samples):
        return [], []


class VectorHead(BaseDecodeHead):
    """Classifies the image."""

    def forward(self, inputs):
        return self.conv_seg(self._transform_inputs(inputs)).mean((2, 3))


@pytest.fixture
def odd_head():
    """Swaps the decode head of a plain segmentor."""

    def swap(head):
        network = MODELS.build(builders.segmentor())
        kwargs = dict(in_channels=64, channels=64, num_classes=5, in_index=3)
        network.decode_head = head(**kwargs) if issubclass(head, BaseDecodeHead) else head()
        return network

    return swap


@pytest.mark.parametrize('head', [TupleHead, MaskHead, VectorHead])
def test_head_without_logits(odd_head, head):
    with pytest.raises(TypeError) as caught:
        probe(odd_head(head))
    message = str(caught.value)
    assert all(word in message for word in (head.__name__, '(N, K, H, W)', 'logits', 'FCNHead')), message


@pytest.mark.parametrize('channels', [1, 4, 12])
def test_images_of_any_number_of_channels(channels):
    network = builders.segmentor()
    network['backbone']['in_channels'] = channels
    network['data_preprocessor'] = dict(type='SegDataPreProcessor')
    assert builders.build(network=network).probed.shapes


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('config', [builders.segmentor, builders.cascade])
def test_probe_moves_nothing(config, training):
    network = MODELS.build(config()).train(training)
    network.backbone.layer1.eval()
    modes = [m.training for m in network.modules()]
    before = {name: entry.clone() for name, entry in network.state_dict().items()}
    torch.manual_seed(11)
    wanted = torch.rand(3)
    torch.manual_seed(11)
    probe(network)
    assert torch.equal(torch.rand(3), wanted)
    assert [m.training for m in network.modules()] == modes
    assert all(torch.equal(entry, before[name]) for name, entry in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


class FixedSize(BaseModule):
    """A backbone of one image size."""

    def __init__(self, size=(48, 80)):
        super().__init__()
        self.size = size
        self.conv = torch.nn.Conv2d(3, 64, 8, stride=8)

    def forward(self, images):
        assert images.shape[2:] == self.size
        return (self.conv(images),)


def test_network_of_fixed_image_size():
    network = MODELS.build(dict(builders.segmentor(), decode_head=builders.fcn(0, 64)))
    network.backbone = FixedSize()
    with pytest.raises(ValueError, match='64x64'):
        probe(network)
    network.data_preprocessor.size = (48, 80)
    assert probe(network).shapes == [(64, 6, 10)]


def test_decode_gives_all_stages():
    network = MODELS.build(builders.cascade()).eval()
    images = builders.batch()[0]['sup']
    features = network.extract_feat(images)
    first, second = network.decode_head
    stages = [stage.logits for stage in decode(network, features, [Reading()] * 2, builders.SIZE)]
    assert torch.equal(stages[0], first(features)) and torch.equal(stages[1], second(features, stages[0]))
    assert decode_heads(network) == [first, second]


def test_modes_come_back_even_after_an_error():
    network = MODELS.build(builders.segmentor()).train()
    network.backbone.layer1.eval()
    modes = [m.training for m in network.modules()]
    told = []
    network.backbone.layer2.train = lambda mode=True: told.append(mode)  # as LeViT's attention, which prepares itself
    with pytest.raises(RuntimeError), evaluating(network):
        assert not any(m.training for m in network.modules()) and told == [False]
        raise RuntimeError
    assert [m.training for m in network.modules()] == modes


def test_running_statistics_stay_while_batches_are_normalised_by_their_own():
    norm, images = torch.nn.BatchNorm2d(3, momentum=None).train(), 5 + torch.randn(4, 3, 6, 7)
    with pytest.raises(RuntimeError), frozen_statistics(norm):
        assert norm(images).mean().abs() < 1e-5
        raise RuntimeError
    assert not norm.running_mean.any() and norm.momentum is None


def test_heads_must_agree():
    for wrong, name in ((dict(num_classes=21), 'num_classes'), (dict(ignore_index=0), 'ignore_index')):
        network = builders.segmentor() | dict(auxiliary_head=builders.fcn(2, 32, **wrong))
        with pytest.raises(ValueError, match=f'FCNHead has {name} = {wrong[name]}'):
            probe(MODELS.build(network))


def test_a_single_class():
    sigmoid = dict(type='CrossEntropyLoss', use_sigmoid=True)
    network = builders.segmentor(num_classes=1, out_channels=1, threshold=0.3, loss_decode=sigmoid)
    with pytest.raises(ValueError, match='num_classes of DeepLabV3PlusHead must be at least 2, but is 1'):
        probe(MODELS.build(network))
    network = builders.segmentor(num_classes=2, out_channels=1, threshold=0.3)
    with pytest.raises(ValueError, match='out_channels of DeepLabV3PlusHead must be 2 with CrossEntropyLoss, .* is 1.'):
        probe(MODELS.build(network))


def test_class_weights_of_another_number():
    network = builders.segmentor(loss_decode=dict(type='CrossEntropyLoss', class_weight=[1.0, 2.0]))
    with pytest.raises(ValueError, match='class_weight of CrossEntropyLoss in DeepLabV3PlusHead must have 5 .* has 2'):
        probe(MODELS.build(network))


@pytest.mark.parametrize('index', [None, 1])
def test_labels_propagate_along_the_deepest_feature(index):
    """Of a UNet that is the first; the last is as fine as the image."""
    norm = dict(type='BN')
    unet = dict(type='UNet', base_channels=4, num_stages=2, strides=(1, 1), norm_cfg=norm, act_cfg=dict(type='ReLU'))
    unet |= dict(enc_num_convs=(1, 1), dec_num_convs=(1,), downsamples=(True,))
    unet |= dict(enc_dilations=(1, 1), dec_dilations=(1,))
    network = dict(builders.segmentor(), backbone=unet, decode_head=builders.fcn(1, 4))
    options = {} if index is None else {'propagation_head.in_index': index}
    head = builders.build(network=network, options=options).propagation_head
    assert (head.in_index, head.in_channels) == ((0, 8) if index is None else (1, 4))


HEAD = dict(channels=4, num_classes=5)


@pytest.mark.parametrize(
    'head, missing',
    [
        (dict(type='PSAHead', in_channels=64, in_index=3, mask_size=(9, 9)), 'PSAMask'),
        (dict(type='PointHead', in_channels=[64], in_index=[3]), 'point_sample'),
        (dict(type='MaskFormerHead', in_channels=[64], pixel_decoder=dict(type='nowhere.Decoder')), 'parts of nowhere'),
    ],
)
def test_a_part_that_is_not_installed_is_named(head, missing, monkeypatch):
    for name, operator in dict(psa_head='PSAMask', point_head='point_sample').items():
        monkeypatch.setattr(sys.modules[f'mmseg.models.decode_heads.{name}'], operator, None)
    with pytest.raises(ValueError, match=f'model.segmentor cannot be built: .*{missing}'):
        build_segmentor(dict(builders.segmentor(), decode_head=dict(HEAD, **head)))
