"""Regions and their labels: worked examples, the reference, properties."""

import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_derprop.ops import propagate_regions, region_masks, regions


def members(*regions, length=11):
    """Regions (1, R, 1, length) from the pixels that belong to them."""
    masks = torch.zeros(1, len(regions), 1, length, dtype=torch.bool)
    for mask, pixels in zip(masks[0], regions, strict=True):
        mask[0, list(pixels)] = True
    return masks


# --- Masks ---------------------------------------------------------------------------------------


def test_mask_exceeds_the_middle_of_the_range_strictly():
    maps = torch.tensor([[[[2.0, 4.0, 6.0], [4.25, 3.75, 5.0]]]])
    wanted = [[[[False, False, True], [True, False, True]]]]
    assert region_masks(maps, (2, 3)).tolist() == wanted


def test_range_is_that_of_the_resized_map():
    """Shrinking loses the peak of 9: what is left decides."""
    maps = torch.tensor([[[[0.0, 9.0, 1.0, 9.0, 2.0]]]])
    assert region_masks(maps, (1, 3)).tolist() == [[[[False, False, True]]]]


@pytest.mark.parametrize('value', [0.0, 0.25, 2.0**-60])
def test_constant_map_is_an_empty_region(value):
    maps = torch.full((2, 3, 4, 5), value)
    for size in ((4, 5), (7, 9), (13, 17)):  # halves and quarters: nothing is rounded
        assert not region_masks(maps, size).any()


@settings(max_examples=40)
@given(
    batch=st.integers(1, 3),
    count=st.integers(1, 5),
    grid=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    sharp=st.sampled_from([0.1, 3.0, 100.0]),
    seed=st.integers(0, 2**31),
)
def test_masks_are_those_of_the_reference(batch, count, grid, size, sharp, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = sharp * torch.randn(batch, count, grid[0] * grid[1], generator=generator)
    maps = scores.softmax(2).unflatten(2, grid)
    before = maps.clone()
    found = region_masks(maps, size)
    assert found.dtype == torch.bool
    assert torch.equal(found, reference.region_masks(maps, size))
    assert torch.equal(maps, before)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_masks_of_half_precision_maps_are_computed_in_float32(dtype):
    maps = torch.rand(2, 6, 5, 7).to(dtype)
    wanted = region_masks(maps.float(), (33, 49))
    assert torch.equal(region_masks(maps, (33, 49)), wanted)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(region_masks(maps.float(), (33, 49)), wanted)


# --- Labels --------------------------------------------------------------------------------------


@pytest.mark.parametrize('tau', [0.6, torch.tensor(0.6)])
def test_later_regions_see_what_earlier_ones_wrote(tau):
    labels = torch.tensor([[[0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 3]]])
    confident = torch.tensor([[[1, 1, 1, 1, 0, 1, 0, 1, 1, 0, 0]]]).bool()
    steps = [
        # All four vote, 0 0 0 1: three quarters for 0.
        ((0, 1, 2, 3), [0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 3], ()),
        # 1 2 3 5 vote. Pixel 3 has become 0, so it is 0 0 0 1; before, it was a draw.
        ((1, 2, 3, 5, 6), [0, 0, 0, 0, 1, 0, 0, 2, 2, 2, 3], (6,)),
        # 5 7 8 vote, 0 2 2. Pixel 6 is accepted by now, not confident: it would make a draw.
        ((5, 6, 7, 8), [0, 0, 0, 0, 1, 2, 2, 2, 2, 2, 3], (6,)),
        # Nobody votes.
        ((4, 9), [0, 0, 0, 0, 1, 2, 2, 2, 2, 2, 3], (6,)),
        # One of four votes: too few.
        ((4, 6, 7, 9), [0, 0, 0, 0, 1, 2, 2, 2, 2, 2, 3], (6,)),
        # 0 0 0 2 2: a share of exactly 0.6 does not win.
        ((0, 1, 2, 7, 8), [0, 0, 0, 0, 1, 2, 2, 2, 2, 2, 3], (6,)),
        # Three of five vote: exactly 0.6 is enough to be heard.
        ((0, 1, 2, 4, 9), [0, 0, 0, 0, 0, 2, 2, 2, 2, 0, 3], (4, 6, 9)),
    ]
    regions = members(*(pixels for pixels, _, _ in steps))
    for count, (_, wanted, newly) in enumerate(steps, start=1):
        found, accepted = propagate_regions(labels, confident, regions[:, :count], tau, 4)
        assert found[0, 0].tolist() == wanted, f'after region {count}'
        expected = confident.clone()
        expected[..., list(newly)] = True
        assert torch.equal(accepted, expected), f'after region {count}'


def test_ties_go_to_the_smaller_id():
    labels = torch.tensor([[[5, 3, 5, 3, 0, 4]]])
    confident = torch.tensor([[[1, 1, 1, 1, 0, 1]]]).bool()
    regions = members((0, 1, 2, 3, 4, 5), length=6)
    found, accepted = propagate_regions(labels, confident, regions, 0.3, 6)
    assert found.tolist() == [[[3] * 6]]
    assert accepted.all()


# --- Both ways of counting ------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    batch=st.integers(1, 3),
    count=st.integers(0, 12),
    pixels=st.integers(1, 60),
    classes=st.sampled_from([2, 5, 300]),
    tau=st.sampled_from([0.0, 0.5, 0.6, 0.8, 1.0]),
    seed=st.integers(0, 2**16),
)
def test_both_ways_of_counting_equal_the_reference(batch, count, pixels, classes, tau, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (batch, pixels), generator=generator)
    labels = labels.where(torch.rand(batch, pixels, generator=generator) < 0.2, classes - 1)
    confident = torch.rand(batch, pixels, generator=generator) < 0.9
    masks = torch.rand(batch, count, pixels, generator=generator) < 0.4
    threshold = torch.tensor(tau)
    wanted = reference.propagate_regions(labels, confident, masks, threshold, classes)
    for way in (regions.vote_by_masks, regions.vote_by_counting):
        found = way(labels, confident, masks, threshold, classes)
        assert all(torch.equal(have, want) for have, want in zip(found, wanted, strict=True)), way.__name__
