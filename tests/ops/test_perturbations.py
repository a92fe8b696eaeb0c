"""CutMix boxes and mixtures, and complementary channels of two views."""

import pytest
import reference
import torch

from mmseg_derprop.ops import box_masks, complementary_dropout2d, mix


def test_masks_by_hand():
    boxes = torch.tensor([[1, 0, 4, 2], [0, 2, 1, 3], [3, 1, 3, 3], [1, 2, 4, 2]])
    assert box_masks(boxes, (3, 5)).int().tolist() == [
        [[0, 1, 1, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]],
        [[0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]],
        *[[[0] * 5] * 3] * 2,  # empty boxes
    ]


@pytest.mark.parametrize('channels', [(), (1,), (3,)])
@pytest.mark.parametrize('dtype', [torch.int64, torch.float32, torch.bool])
def test_partner_inside_and_image_outside(channels, dtype):
    images, partners = (torch.randint(2, (2, *channels, 6, 7)).to(dtype) for _ in 'ip')
    masks = box_masks(torch.tensor([[1, 2, 5, 4], [0, 0, 0, 0]]), (6, 7))
    before = images.clone(), partners.clone()
    found = mix(images, partners, masks)
    wanted = images.clone()
    wanted[0, ..., 2:4, 1:5] = partners[0, ..., 2:4, 1:5]
    assert found.dtype == dtype
    assert torch.equal(found, wanted)
    assert torch.equal(found, reference.mix(images, partners, masks))
    assert torch.equal(images, before[0]) and torch.equal(partners, before[1])


def factors(batch, channels=(6, 64), dtype=torch.float32):
    """What two views of a batch are multiplied with: (B, C) each, for each feature."""
    features = tuple(torch.ones(2 * batch, count, 3, 2, dtype=dtype) for count in channels)
    dropped = complementary_dropout2d(features)
    for feature, out in zip(features, dropped, strict=True):
        assert out.shape == feature.shape and out.dtype == dtype
        assert torch.equal(out.amin((2, 3)), out.amax((2, 3)))  # whole channels
    return [out[..., 0, 0].chunk(2) for out in dropped]


@pytest.mark.parametrize('batch', [1, 2, 3, 8])
def test_views_are_complementary(batch):
    for first, second in factors(batch):
        assert torch.equal(first + second, torch.full_like(first, 2))
        whole = (first == 1).all(1)
        assert whole.sum() == batch // 2
        assert ((first == 0) | (first == 2))[~whole].all()


def test_features_of_one_width_share_their_draw():
    """As the four features of a plain vision transformer do; of another width only the whole images are the same."""
    one, other, two, three = (first for first, _ in factors(8, (64, 6, 64, 64)))
    assert torch.equal(one, two) and torch.equal(one, three)
    assert torch.equal((one == 1).all(1), (other == 1).all(1))
    assert not torch.equal(one[:, :6], other)


def test_tokens_are_dropped_with_the_feature_of_their_width():
    feature, tokens = complementary_dropout2d((torch.ones(8, 16, 3, 2), torch.ones(8, 16)))
    assert torch.equal(tokens, feature[..., 0, 0])


def test_halves_are_drawn_by_image_and_channel():
    torch.manual_seed(0)
    draws = torch.stack([factors(2, (64,))[0][0] for _ in range(200)])
    dropped = draws[(draws != 1).all(2)]  # one of the two images each time
    assert len(dropped) == 200
    assert abs(dropped.mean() - 1) < 0.05
    assert ((dropped.mean(0) - 1).abs() < 0.35).all()
    assert len({tuple(row) for row in dropped.tolist()}) == 200


def test_every_image_can_stay_whole():
    torch.manual_seed(0)
    counts = sum((factors(4, (32,))[0][0] == 1).all(1).int() for _ in range(100))
    assert counts.sum() == 200 and counts.min() > 25


def test_half_precision_and_gradient():
    feature = torch.randn(4, 8, 2, 2, dtype=torch.bfloat16, requires_grad=True)
    (out,) = complementary_dropout2d((feature,))
    out.sum().backward()
    assert out.dtype == torch.bfloat16
    assert torch.equal(feature.grad * feature, out)
