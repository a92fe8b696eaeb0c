"""Affinity and smoothness losses, against the reference and by their properties."""

from unittest import mock

import pytest
import reference
import torch
from builders import LargestTensor
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_derprop.ops import (
    affinity_consistency_loss,
    blockwise,
    interpolated_label_affinity_loss,
    label_affinity_loss,
    labels_on_grid,
    smoothness_loss,
)

DTYPES = (torch.float32, torch.float64)
LABEL_LOSSES = (label_affinity_loss, interpolated_label_affinity_loss)
# Sides with an even number of positions: no position is halfway between two pixels.
SIDES = st.sampled_from([1, 2, 4, 6, 8])


def blocks(entries):
    """Row blocks of this many entries; 1 makes every row a block of its own."""
    return mock.patch.dict(blockwise.BLOCK_ENTRIES, cpu=entries)


def draw(count, batch, classes, length, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, classes, length)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(count)]


def draw_labels(batch, classes, size, ignored=0.2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (batch, *size), generator=generator)
    return labels.masked_fill(torch.rand(labels.shape, generator=generator) < ignored, 255)


def value_and_gradients(function, q, k, *args, **kwargs):
    q, k = q.clone().requires_grad_(), k.clone().requires_grad_()
    loss = function(q, k, *args, **kwargs)
    return (loss, *torch.autograd.grad(loss, (q, k))) if loss.requires_grad else (loss,)


def compare(function, twin, q, k, *args, **kwargs):
    """A loss and its gradients against the twin's, which computes in float64."""
    exact = [a.double() if torch.is_tensor(a) and a.is_floating_point() else a for a in args]
    wanted = value_and_gradients(twin, q.double(), k.double(), *exact, **kwargs)
    found = value_and_gradients(function, q, k, *args, **kwargs)
    assert len(found) == (1 if function is interpolated_label_affinity_loss else 3)
    assert found[0].dtype == q.dtype
    limit = 1e-5 if q.dtype == torch.float32 else 1e-10
    # Affinities are of the size 1 and gradients of the size 1 / (N L): below that, all is rounding.
    floors = (limit / 10, limit / 10 / (len(q) * q.shape[2]), limit / 10 / (len(q) * q.shape[2]))
    for have, want, floor in zip(found, wanted, floors):
        bound = max(limit * float(want.detach().abs().max()), floor)
        torch.testing.assert_close(have.double(), want, rtol=0, atol=bound)


# --- Consistency of two views --------------------------------------------------------------------


@settings(max_examples=60)
@given(
    batch=st.integers(1, 3),
    classes=st.integers(2, 7),
    length=st.integers(1, 30),
    order=st.integers(0, 3),
    box=st.sampled_from([None, 'some', 'none', 'all']),
    keep_inside=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    entries=st.sampled_from([1, 70, 10**6]),
    seed=st.integers(0, 2**31),
)
def test_consistency_is_that_of_the_reference(batch, classes, length, order, box, keep_inside, dtype, entries, seed):
    tensors = draw(4, batch, classes, length, dtype, seed)
    inside = None
    if box is not None:
        share = {'some': 0.4, 'none': 0.0, 'all': 1.0}[box]
        inside = torch.rand(batch, length, generator=torch.Generator().manual_seed(seed)) < share
    with blocks(entries):
        compare(
            affinity_consistency_loss,
            reference.affinity_consistency_loss,
            *tensors,
            max_order=min(order, classes - 1),
            inside=inside,
            keep_inside=keep_inside,
        )


def test_what_is_across_the_border_of_a_box_does_not_count():
    """Features differ inside the box only, so that pairs outside it agree."""
    q, k, other_q, other_k = draw(4, 1, 4, 10, torch.float64)
    inside = torch.arange(10)[None] < 4
    moved = torch.where(inside[:, None], other_q, q), torch.where(inside[:, None], other_k, k)
    outside_only = affinity_consistency_loss(q, k, *moved, inside=inside, keep_inside=False)
    assert outside_only == 0
    both = affinity_consistency_loss(q, k, *moved, inside=inside)
    within = affinity_consistency_loss(q[..., :4], k[..., :4], other_q[..., :4], other_k[..., :4])
    torch.testing.assert_close(both, within * 16 / (16 + 36))


# --- Labels on the grid --------------------------------------------------------------------------


def test_labels_on_grid_by_hand():
    labels = torch.arange(5 * 9).view(1, 5, 9)
    assert labels_on_grid(labels, (2, 3)).tolist() == [[0, 4, 8, 36, 40, 44]]
    assert labels_on_grid(labels, (3, 2)).tolist() == [[0, 8, 18, 26, 36, 44]]
    assert torch.equal(labels_on_grid(labels, (5, 9)), labels.flatten(1))


@settings(max_examples=30)
@given(h=SIDES, w=SIDES, height=st.integers(1, 40), width=st.integers(1, 40))
def test_labels_on_grid_are_those_of_the_reference(h, w, height, width):
    labels = torch.arange(2 * height * width).view(2, height, width)
    wanted = reference.nearest_labels(labels, (h, w))
    assert torch.equal(labels_on_grid(labels, (h, w)), wanted)


# --- Affinity and labels -------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    batch=st.integers(1, 3),
    classes=st.integers(2, 7),
    grid=st.tuples(SIDES, SIDES),
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    ignored=st.sampled_from([0.0, 0.3, 1.0]),
    order=st.integers(0, 3),
    dtype=st.sampled_from(DTYPES),
    entries=st.sampled_from([1, 70, 10**6]),
    published=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_label_affinity_is_that_of_the_reference(
    batch, classes, grid, size, ignored, order, dtype, entries, published, seed
):
    q, k = draw(2, batch, classes, grid[0] * grid[1], dtype, seed)
    labels = draw_labels(batch, classes, size, ignored, seed)
    name = 'interpolated_label_affinity_loss' if published else 'label_affinity_loss'
    function = LABEL_LOSSES[published]
    with blocks(entries):
        twin = getattr(reference, name)
        compare(function, twin, q, k, labels, grid, max_order=min(order, classes - 1))


def test_mended_label_affinity_by_hand():
    """Two positions of different classes that agree with certainty; a third is ignored."""
    logits = torch.tensor([[[50.0, 50.0, -50.0], [0.0, 0.0, 0.0]]])
    labels = torch.tensor([[[0, 1, 255]]])
    loss = label_affinity_loss(logits, logits, labels, (1, 3), max_order=0)
    torch.testing.assert_close(loss, torch.tensor(2 / 4 * 2**-0.5))
    # The derivatives have one channel, so that their affinity is 1 for every pair.
    loss = label_affinity_loss(logits, logits, labels, (1, 3), max_order=1)
    torch.testing.assert_close(loss, torch.tensor((2 / 4 * 2**-0.5 + 2 / 4 * 1) / 2))


def test_ignored_positions_form_no_pair():
    labels = draw_labels(1, 4, (4, 6), ignored=0.3)
    q, k = draw(2, 1, 4, 24, torch.float64)
    loss, *gradients = value_and_gradients(label_affinity_loss, q, k, labels, (4, 6))
    ignored = (labels == 255).flatten(1)[:, None].expand_as(q)
    assert ignored.any()
    for gradient, tensor in zip(gradients, (q, k), strict=True):
        assert (gradient[ignored] == 0).all()
        assert (gradient[~ignored] != 0).all()
        tensor[ignored] = 7.0
    torch.testing.assert_close(label_affinity_loss(q, k, labels, (4, 6)), loss)


def test_published_scale_depends_on_the_largest_id():
    """One class everywhere is to have 1 / sqrt(max - 1), whatever K; where ignored, max is 22."""
    logits = torch.zeros(1, 5, 4)
    for label, largest in ((2, 2), (4, 4), (255, 22)):
        labels = torch.full((1, 3, 3), label)
        loss = interpolated_label_affinity_loss(logits, logits, labels, (2, 2), max_order=0)
        wanted = abs((largest - 1) ** -0.5 - 1 / 5 / 5**0.5)
        torch.testing.assert_close(loss, torch.tensor(wanted))


def test_published_ids_are_interpolated():
    """Ids 0 and 4 at the ends make 2 in the middle: three ids, no pair of equals."""
    logits = torch.zeros(1, 5, 3)
    labels = torch.tensor([[[0, 4]]])
    loss = interpolated_label_affinity_loss(logits, logits, labels, (1, 3), max_order=0)
    low, high = 1 / 5 / 5**0.5, 3**-0.5
    torch.testing.assert_close(loss, torch.tensor((6 * low + 3 * (high - low)) / 9))


@pytest.mark.parametrize('function', LABEL_LOSSES)
@pytest.mark.parametrize('label', [0, 1, 255])
def test_degenerate_labels_are_finite(function, label):
    """Nothing labelled is no loss; so is, for the published scale, a largest id of 0 or 1."""
    q, k = draw(2, 2, 4, 6)
    labels = torch.full((2, 5, 7), label)
    found = value_and_gradients(function, q, k, labels, (2, 3))
    assert all(torch.isfinite(t).all() for t in found)
    nothing = label == 255 if function is label_affinity_loss else label < 2
    assert (found[0] == 0) == nothing
    assert all((g == 0).all() == nothing for g in found[1:])


# --- Smoothness ----------------------------------------------------------------------------------


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('classes', [3, 8])
def test_smoothness_is_that_of_the_reference(classes, dtype):
    q, k = draw(2, 3, classes, 11, dtype)
    compare(smoothness_loss, reference.smoothness_loss, q, k)


def test_two_classes_have_no_second_derivative():
    found = value_and_gradients(smoothness_loss, *draw(2, 3, 2, 11))
    assert all((t == 0).all() for t in found)


def test_smoothness_by_hand():
    straight = torch.tensor([[[1.0], [3.0], [5.0], [7.0]]])
    bent = torch.tensor([[[0.0], [1.0], [4.0], [3.0]]])  # second differences 2 and -4
    assert smoothness_loss(straight, straight) == 0
    assert smoothness_loss(straight, bent) == 1.5
    assert smoothness_loss(bent, straight) == 1.5


# --- Precision and memory, of all losses ---------------------------------------------------------

GRID, SIZE = (4, 6), (13, 16)
INSIDE = torch.arange(24).expand(2, 24) % 5 == 0


def consistency(q, k):
    return affinity_consistency_loss(q, k, q.roll(1, 2), k.roll(1, 1))


def boxed_consistency(q, k):
    return affinity_consistency_loss(q, k, q.roll(1, 2), k.roll(1, 1), inside=INSIDE)


def mended_labels(q, k):
    return label_affinity_loss(q, k, draw_labels(2, 4, SIZE), GRID)


def published_labels(q, k):
    return interpolated_label_affinity_loss(q, k, draw_labels(2, 4, SIZE), GRID)


LOSSES = (consistency, boxed_consistency, mended_labels, published_labels, smoothness_loss)


@pytest.mark.parametrize('loss', LOSSES)
def test_extreme_logits_stay_finite(loss):
    q, k = (1e4 * t.sign() for t in draw(2, 2, 4, 24))
    assert all(torch.isfinite(t).all() for t in value_and_gradients(loss, q, k))


@pytest.mark.parametrize('loss', LOSSES)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss, dtype):
    q, k = draw(2, 2, 4, 24, dtype)
    found = value_and_gradients(loss, q, k)
    wanted = value_and_gradients(loss, q.float(), k.float())
    assert found[0].dtype == torch.float32
    assert torch.equal(found[0], wanted[0])
    for have, want in zip(found[1:], wanted[1:], strict=True):
        # The orders' gradients are summed in the dtype of the input.
        assert have.dtype == dtype
        torch.testing.assert_close(have.float(), want, rtol=0.02, atol=float(want.abs().max()) / 50)


@pytest.mark.parametrize('loss', LOSSES)
def test_autocast_changes_nothing(loss):
    q, k = (t.requires_grad_() for t in draw(2, 2, 4, 24))
    wanted = value_and_gradients(loss, q, k)
    with torch.autocast('cpu', torch.bfloat16):
        out = loss(q, k)
    found = (out, *torch.autograd.grad(out, (q, k))) if out.requires_grad else (out,)
    assert all(torch.equal(have, want) for have, want in zip(found, wanted, strict=True))


@pytest.mark.parametrize('name', ['consistency', 'boxed', 'mended', 'published'])
def test_no_tensor_of_all_pairs_is_formed(name):
    grid, block = (41, 41), 2**15
    q, k, *target = (t.requires_grad_() for t in draw(4, 1, 4, 41 * 41))
    labels = draw_labels(1, 4, (81, 81))
    inside = torch.arange(41 * 41)[None] % 41 < 13
    with blocks(block), LargestTensor() as largest:
        if name == 'mended':
            loss = label_affinity_loss(q, k, labels, grid)
        elif name == 'published':
            loss = interpolated_label_affinity_loss(q, k, labels, grid)
        else:
            box = inside if name == 'boxed' else None
            loss = affinity_consistency_loss(q, k, *target, inside=box)
        if name != 'published':
            loss.backward()
    assert largest.size <= 4 * block < 4 * (41 * 41) ** 2
    if name == 'mended':
        assert largest.size <= 2 * q.nbytes, 'linear in the number of positions'
