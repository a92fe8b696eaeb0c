"""CutMix boxes and mixtures."""

import pytest
import reference
import torch

from mmseg_derprop.ops import box_masks, mix


def test_masks_by_hand():
    boxes = torch.tensor([[1, 0, 4, 2], [0, 2, 1, 3]])
    assert box_masks(boxes, (3, 5)).int().tolist() == [
        [[0, 1, 1, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]],
        [[0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]],
    ]


@pytest.mark.parametrize('box', [(0, 0, 0, 0), (3, 1, 3, 4), (1, 2, 4, 2), (5, 4, 5, 4)])
def test_empty_boxes(box):
    assert not box_masks(torch.tensor([box]), (4, 5)).any()


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
