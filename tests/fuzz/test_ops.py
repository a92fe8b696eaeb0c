"""Tensor functions on any shapes and numbers: like direct renderings where these are numbers, and safe where not."""

import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from own_errors import cases, ends_well

from mmseg_derprop import ops
from mmseg_derprop.ops.regions import vote_by_counting, vote_by_masks

SIDE = st.integers(1, 9)
SCALE = st.sampled_from([0.0, 1e-30, 1.0, 30.0, 1e4, 1e18])
EXTREME = st.sampled_from([None, float('nan'), float('inf'), -float('inf'), 3e38, -3e38])


def draw(shape, seed, scale, extreme=None):
    """Numbers of a scale, one of them extreme."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator) * scale
    if extreme is not None:
        values.view(-1)[torch.randint(values.numel(), (1,), generator=generator)] = extreme
    return values


def near(found, wanted):
    torch.testing.assert_close(
        found.double(), wanted.double(), rtol=2e-4, atol=2e-4 * max(1, float(wanted.abs().max()))
    )


@cases(200)
@given(SIDE, SIDE, st.integers(1, 6), st.integers(0, 3), SCALE, EXTREME, st.sampled_from(ops.NORMALIZATIONS), SIDE)
def test_propagate(images, length, channels, order, scale, extreme, normalize, seed):
    q, k, values = (draw((images, channels, length), seed + i, scale) for i in range(3))
    with ends_well('max_order'):
        out = ops.propagate(q, k, values, order, normalize)
        assert out.shape == values.shape
        if scale <= 1:
            near(out, reference.propagate(q.double(), k.double(), values.double(), order, normalize))
        elif scale <= 1e4:
            assert out.isfinite().all()
        spoilt = draw(q.shape, seed, scale, extreme)
        rows = torch.tensor([0, length - 1])
        maps = ops.similarity_rows(spoilt, k, rows, order)
        assert maps.shape == (images, 2, length)
        masks = ops.region_masks(maps.unflatten(2, (1, length)), (3, 5))
        assert masks.dtype == torch.bool and not (masks.all(-1).all(-1)).any()  # the lowest pixel is in none


@cases(150)
@given(SIDE, SIDE, SIDE, SIDE, SIDE, SCALE, EXTREME, SIDE)
def test_region_masks(images, regions, height, width, size, scale, extreme, seed):
    maps = draw((images, regions, height, width), seed, scale, extreme)
    masks = ops.region_masks(maps, (size, size + 1))
    assert masks.shape == (images, regions, size, size + 1)
    for one, of_one in zip(masks.flatten(0, 1), maps.flatten(0, 1)):
        if not of_one.isfinite().all():
            continue
        low, high = of_one.min(), of_one.max()
        if low == high:
            assert not one.any()


@cases(200)
@given(SIDE, SIDE, st.integers(1, 40), st.integers(2, 300), st.floats(0, 1), SIDE)
def test_votes(images, regions, pixels, classes, tau, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (images, pixels), generator=generator)
    confident = torch.rand(images, pixels, generator=generator) < 0.7
    masks = torch.rand(images, regions, pixels, generator=generator) < 0.3
    limit = torch.tensor(tau)
    found, wanted = (f(labels, confident, masks, limit, classes) for f in (vote_by_counting, vote_by_masks))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted))
    new, accepted = found
    assert (accepted | ~confident).all() and new.min() >= 0 and new.max() < classes


@cases(200)
@given(SIDE, SIDE, SIDE, st.integers(1, 5), st.integers(0, 2), SCALE, SIDE, st.integers(0, 255))
def test_affinities(images, height, width, channels, order, scale, seed, ignored):
    length = height * width
    q, k, target_q, target_k = (draw((images, channels, length), seed + i, scale).requires_grad_() for i in range(4))
    labels = torch.randint(channels, (images, 2 * height, 3 * width), generator=torch.Generator().manual_seed(seed))
    labels[:, : ignored % 4] = 255
    inside = torch.rand(images, length, generator=torch.Generator().manual_seed(seed)) < 0.4
    with ends_well('max_order'):
        losses = [
            ops.affinity_consistency_loss(q, k, target_q, target_k, order, inside, bool(seed % 2)),
            ops.label_affinity_loss(q, k, labels, (height, width), 255, order),
            ops.interpolated_label_affinity_loss(q, k, labels, (height, width), 255, order),
        ]
        if scale < 1e10:
            losses.append(ops.smoothness_loss(q, k))
        sum(losses).backward()
        assert all(loss.isfinite() and loss >= -1e-5 for loss in losses), losses
        assert q.grad.isfinite().all() and k.grad.isfinite().all()
        if scale <= 1:
            double = [x.detach().double() for x in (q, k, target_q, target_k)]
            near(losses[0], reference.affinity_consistency_loss(*double, order, inside, bool(seed % 2)))


@cases(100)
@given(SIDE, st.integers(1, 5), EXTREME, st.floats(0, 1), st.floats(0, 1), SIDE)
def test_threshold(size, classes, extreme, tau, momentum, seed):
    logits = draw((2, classes, size, size), seed, 5.0, extreme)
    confidence, labels = logits.softmax(1).max(1)
    valid = confidence.isfinite()
    maxima = ops.class_maxima(confidence.nan_to_num(0), labels, valid, classes)
    moved = ops.move_threshold(torch.tensor(tau), maxima, momentum)
    assert 0 <= moved <= 1 + 1e-6 and ((maxima >= 0) & (maxima <= 1 + 1e-6)).all()


@cases(60)
@given(st.lists(st.tuples(*[st.integers(-5, 12)] * 4), min_size=1, max_size=4), SIDE, SIDE)
def test_boxes(boxes, height, width):
    masks = ops.box_masks(torch.tensor(boxes), (height, width))
    for (x1, y1, x2, y2), mask in zip(boxes, masks):
        wanted = torch.zeros(height, width, dtype=torch.bool)
        for y in range(height):
            for x in range(width):
                wanted[y, x] = x1 <= x < x2 and y1 <= y < y2
        assert torch.equal(mask, wanted)
    mixed = ops.mix(torch.zeros(masks.shape), torch.ones(masks.shape), masks)
    assert torch.equal(mixed.bool(), masks)
