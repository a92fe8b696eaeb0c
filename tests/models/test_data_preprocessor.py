"""Each branch is normalised as the segmentor wants it; crops that would differ are refused."""

import copy

import pytest
import torch
from builders import evaluation_data
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from mmseg_derprop.models import SemiDataPreprocessor

BASE = dict(type='SegDataPreProcessor', mean=[1.0, 20, 30], std=[2.0, 4, 8], bgr_to_rgb=True, pad_val=0)


def training_data(**sizes):
    """Two images of each branch, of the sizes given."""
    inputs = {b: [torch.randint(256, (3, *size), dtype=torch.uint8) for _ in range(2)] for b, size in sizes.items()}
    samples = {b: [SegDataSample() for _ in images] for b, images in inputs.items()}
    for sample, image in zip(samples.get('sup', []), inputs.get('sup', []), strict=True):
        sample.gt_sem_seg = PixelData(data=torch.zeros(1, *image.shape[1:], dtype=torch.long))
    return dict(inputs=inputs, data_samples=samples)


def by_hand(images):
    mean, std = (torch.tensor(BASE[key]).view(3, 1, 1) for key in ('mean', 'std'))
    return torch.stack([(image.flip(0).float() - mean) / std for image in images])


@pytest.mark.parametrize('size', [None, (33, 47), (20, 20)])
@pytest.mark.parametrize('as_module', [False, True])
def test_each_branch_as_the_segmentor_would(size, as_module):
    config = dict(BASE, size=size)
    preprocessor = SemiDataPreprocessor(MODELS.build(config) if as_module else config)
    for _ in range(2):
        data = training_data(sup=(33, 47), weak=(33, 47), strong=(33, 47))
        found = preprocessor(copy.deepcopy(data), training=True)
        assert set(found) == {'inputs', 'data_samples'}
        for branch, images in data['inputs'].items():
            torch.testing.assert_close(found['inputs'][branch], by_hand(images))
            assert len(found['data_samples'][branch]) == 2
        assert [s.gt_sem_seg.shape for s in found['data_samples']['sup']] == [(33, 47)] * 2


@pytest.mark.parametrize('training', [False, True])
def test_other_data_pass_through(training):
    data = evaluation_data()
    for sample in data['data_samples']:
        sample.gt_sem_seg = PixelData(data=torch.zeros(1, 35, 44, dtype=torch.long))
    found = SemiDataPreprocessor(dict(BASE, size=(48, 48)))(copy.deepcopy(data), training)
    wanted = MODELS.build(dict(BASE, size=(48, 48)))(copy.deepcopy(data), training)
    assert torch.equal(found['inputs'], wanted['inputs'])
    assert found['inputs'].shape[2:] == ((48, 48) if training else (35, 44))


def test_evaluation_after_training():
    """The size that training found out pads nothing in evaluation."""
    preprocessor = SemiDataPreprocessor(BASE)
    preprocessor(training_data(sup=(64, 64), weak=(64, 64)), training=True)
    data = evaluation_data()
    torch.testing.assert_close(preprocessor(copy.deepcopy(data))['inputs'], by_hand(data['inputs']))


@pytest.mark.parametrize('sizes', [dict(sup=(32, 32), weak=(32, 40)), dict(sup=(32, 32), strong=(40, 32))], ids=str)
@pytest.mark.parametrize('size', [None, (64, 64)])
def test_branches_of_different_sizes(sizes, size):
    with pytest.raises(ValueError, match='crop size') as caught:
        SemiDataPreprocessor(dict(BASE, size=size))(training_data(**sizes), training=True)
    assert all(str(s) in str(caught.value) for s in sizes.values()) and 'sup' in str(caught.value)


@pytest.mark.parametrize('size', [(48, 32), (32, 48)])
def test_padding_is_refused(size):
    with pytest.raises(ValueError, match='32x32') as caught:
        SemiDataPreprocessor(dict(BASE, size=size))(training_data(sup=(32, 32), weak=(32, 32)), training=True)
    assert str(size) in str(caught.value) and 'pad' in str(caught.value) and 'Set its size' in str(caught.value)


def test_padding_to_a_multiple_is_refused():
    config = dict(BASE, size_divisor=32)
    SemiDataPreprocessor(config)(training_data(sup=(64, 32), weak=(64, 32)), training=True)
    with pytest.raises(ValueError, match='33x64') as caught:
        SemiDataPreprocessor(config)(training_data(sup=(33, 64), weak=(33, 64)), training=True)
    assert '32' in str(caught.value) and 'size_divisor' in str(caught.value)
