"""Propagation and rows of the similarity, against the reference and by their properties."""

from unittest import mock

import pytest
import reference
import torch
from builders import LargestTensor
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_derprop.ops import NORMALIZATIONS, blockwise, derivative, propagate, similarity_metric, similarity_rows

DTYPES = (torch.float32, torch.float64)


def blocks(entries):
    """Row blocks of this many entries; 1 makes every row a block of its own."""
    return mock.patch.dict(blockwise.BLOCK_ENTRIES, cpu=entries)


def draw(batch, classes, length, channels=None, dtype=torch.float32, seed=0):
    """q, k, values and a gradient of the output."""
    generator = torch.Generator().manual_seed(seed)
    channels = classes if channels is None else channels
    shapes = [(batch, c, length) for c in (classes, classes, channels, channels)]
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes]


def value_and_gradients(function, q, k, values, grad, *args):
    inputs = [t.clone().requires_grad_() for t in (q, k, values)]
    out = function(*inputs, *args)
    return out, *torch.autograd.grad(out, inputs, grad.to(out.dtype))


def assert_all_near(found, wanted):
    """By the largest of all: a vanishing gradient is a difference of numbers as large."""
    size = max(float(t.detach().abs().max()) for t in wanted)
    tolerance = 1e-5 if found[0].dtype == torch.float32 else 1e-10
    for have, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(have.double(), want, rtol=0, atol=tolerance * size)


# --- Derivative and metric -----------------------------------------------------------------------


def test_derivative_is_a_difference_of_neighbouring_channels():
    x = torch.tensor([[[1.0], [4.0], [9.0], [16.0]]])
    assert torch.equal(derivative(x, 0), x)
    assert derivative(x).flatten().tolist() == [3, 5, 7]
    assert derivative(x, 2).flatten().tolist() == [2, 2]
    assert derivative(x, 3).flatten().tolist() == [0]


def test_metric_of_three_classes_by_hand():
    """D^T D of three channels is [[1, -1, 0], [-1, 2, -1], [0, -1, 1]]."""
    a, b = 3**-0.5, 2**-0.5
    wanted = torch.tensor([[a + b, -b, 0], [-b, a + 2 * b, -b], [0, -b, a + b]])
    torch.testing.assert_close(similarity_metric(3), wanted)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('classes,max_order', [(2, 0), (2, 1), (5, 0), (5, 1), (5, 3), (21, 2)])
def test_metric_gives_the_similarity(classes, max_order, dtype, assert_near):
    q, k, _, _ = draw(2, classes, 7, dtype=torch.float64)
    metric = similarity_metric(classes, max_order, dtype=dtype)
    assert metric.dtype == dtype
    assert torch.equal(metric, metric.T)
    assert torch.linalg.eigvalsh(metric).min() > 0
    found = (q.mT @ metric.double() @ k).to(dtype)
    assert_near(found, reference.similarity(q, k, max_order))


@pytest.mark.parametrize('max_order', [-1, 3, 4])
def test_impossible_order_is_refused(max_order):
    q, k, values, _ = draw(1, 3, 4)
    calls = (
        lambda: similarity_metric(3, max_order),
        lambda: propagate(q, k, values, max_order),
        lambda: similarity_rows(q, k, torch.tensor([0]), max_order),
    )
    for call in calls:
        with pytest.raises(ValueError, match=rf'{max_order}\b.*3 channels.*0 to 2'):
            call()


# --- Values and gradients of the propagation -----------------------------------------------------


@settings(max_examples=60)
@given(
    batch=st.integers(1, 3),
    classes=st.integers(2, 7),
    grid=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    channels=st.integers(1, 5),
    order=st.integers(0, 3),
    normalize=st.sampled_from(NORMALIZATIONS),
    dtype=st.sampled_from(DTYPES),
    entries=st.sampled_from([1, 50, 10**6]),
    seed=st.integers(0, 2**31),
)
def test_propagation_is_that_of_the_reference(batch, classes, grid, channels, order, normalize, dtype, entries, seed):
    order = min(order, classes - 1)
    tensors = draw(batch, classes, grid[0] * grid[1], channels, dtype, seed)
    # Each difference may double the vectors; large similarities would cost float32 its digits.
    tensors[:2] = [t / 2**order for t in tensors[:2]]
    exact = [t.double() for t in tensors]
    wanted = value_and_gradients(reference.propagate, *exact, order, normalize)
    with blocks(entries):
        found = value_and_gradients(propagate, *tensors, order, normalize)
    assert found[0].dtype == dtype
    assert_all_near(found, wanted)


@pytest.mark.parametrize('normalize', NORMALIZATIONS)
@pytest.mark.parametrize('learns', [(0,), (1,), (2,), (0, 1)])
def test_gradients_reach_only_what_asks_for_them(normalize, learns, assert_near):
    tensors = draw(2, 4, 9, dtype=torch.float64)
    wanted = value_and_gradients(reference.propagate, *tensors, 1, normalize)[1:]
    inputs = [t.clone().requires_grad_(i in learns) for i, t in enumerate(tensors[:3])]
    propagate(*inputs, normalize=normalize).backward(tensors[3])
    for i, tensor in enumerate(inputs):
        if i in learns:
            assert_near(tensor.grad, wanted[i])
        else:
            assert tensor.grad is None


# --- What the normalisations mean ----------------------------------------------------------------


def test_sources_are_spread_not_averaged():
    """Two sources that both look at position 0 only: it receives their sum, or their mean."""
    q = 50 * torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    k = 50 * torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    values = torch.tensor([[[3.0, 5.0]]])
    found = {name: propagate(q, k, values, max_order=0, normalize=name).flatten() for name in NORMALIZATIONS}
    torch.testing.assert_close(found['source'], torch.tensor([8.0, 0.0]))
    torch.testing.assert_close(found['source_mean'][0], torch.tensor(4.0))
    torch.testing.assert_close(found['target'], torch.tensor([4.0, 4.0]))


@pytest.mark.parametrize('normalize', ['source_mean', 'target'])
def test_means_keep_a_constant_and_the_range(normalize, assert_near):
    q, k, values, _ = draw(2, 5, 30, dtype=torch.float64)
    found = propagate(3 * q, 3 * k, values, normalize=normalize)
    assert (found.amax(2) <= values.amax(2)).all()
    assert (found.amin(2) >= values.amin(2)).all()
    ones = torch.ones_like(values)
    assert_near(propagate(q, k, ones, normalize=normalize), ones)


# --- Precision and memory ------------------------------------------------------------------------


@pytest.mark.parametrize('normalize', NORMALIZATIONS)
@pytest.mark.parametrize('scale', [100.0, 1e4])
def test_extreme_logits_stay_finite(normalize, scale):
    """Rows that are one-hot: some targets are reached by nothing at all."""
    q, k, values, grad = draw(2, 5, 30)
    signs = [t.sign() * scale for t in (q, k)]
    smooth = [t * scale**0.5 for t in (q, k)]
    for vectors in (signs, smooth):
        for data in (values, values * 1e4):
            found = value_and_gradients(propagate, *vectors, data, grad, 1, normalize)
            assert all(torch.isfinite(t).all() for t in found)


@pytest.mark.parametrize('normalize', NORMALIZATIONS)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(normalize, dtype):
    tensors = draw(2, 4, 25, dtype=dtype)
    found = value_and_gradients(propagate, *tensors, 1, normalize)
    wanted = value_and_gradients(propagate, *(t.float() for t in tensors), 1, normalize)
    assert found[0].dtype == torch.float32
    assert torch.equal(found[0], wanted[0])
    for have, want in zip(found[1:], wanted[1:], strict=True):
        assert have.dtype == dtype
        assert torch.equal(have, want.to(dtype))


@pytest.mark.parametrize('normalize', NORMALIZATIONS)
def test_autocast_changes_nothing(normalize):
    tensors = draw(2, 4, 25)
    wanted = value_and_gradients(propagate, *tensors, 1, normalize)
    inputs = [t.clone().requires_grad_() for t in tensors[:3]]
    with torch.autocast('cpu', torch.bfloat16):
        out = propagate(*inputs, normalize=normalize)
    found = (out, *torch.autograd.grad(out, inputs, tensors[3]))
    for have, want in zip(found, wanted, strict=True):
        assert have.dtype == torch.float32
        assert torch.equal(have, want)


@pytest.mark.parametrize('normalize', NORMALIZATIONS)
def test_no_tensor_of_all_pairs_is_formed(normalize):
    length, block = 65 * 65, 2**18
    inputs = [t.requires_grad_() for t in draw(1, 4, length)[:3]]
    with blocks(block), LargestTensor() as largest:
        propagate(*inputs, normalize=normalize).sum().backward()
    assert largest.size <= 4 * block < 4 * length**2
    if normalize != 'target':
        assert largest.size > 2 * block, 'the blocks are smaller than allowed'


# --- Rows ----------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(
    batch=st.integers(1, 3),
    classes=st.integers(2, 6),
    length=st.integers(1, 30),
    count=st.integers(0, 40),
    order=st.integers(0, 3),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**31),
)
def test_rows_are_those_of_the_reference(batch, classes, length, count, order, dtype, seed, assert_near):
    order = min(order, classes - 1)
    q, k, _, _ = draw(batch, classes, length, dtype=dtype, seed=seed)
    rows = torch.randint(length, (count,), generator=torch.Generator().manual_seed(seed))
    found = similarity_rows(q, k, rows, order)
    wanted = reference.spread(reference.similarity(q.double(), k.double(), order))[:, rows]
    assert found.dtype == dtype
    assert_near(found, wanted)


def test_rows_sum_to_one_and_carry_no_gradient():
    q, k = (10 * t for t in draw(2, 5, 30)[:2])
    found = similarity_rows(q.requires_grad_(), k.requires_grad_(), torch.tensor([29, 0, 0]))
    assert not found.requires_grad
    torch.testing.assert_close(found.sum(2), torch.ones(2, 3))
    assert torch.equal(found[:, 1], found[:, 2])


# --- torch.compile -------------------------------------------------------------------------------


@pytest.mark.parametrize('normalize', NORMALIZATIONS)
def test_compiled_without_a_graph_break(normalize):
    q, k, values, grad = draw(2, 4, 30)
    compiled = torch.compile(propagate, fullgraph=True, backend='aot_eager')
    found = value_and_gradients(compiled, q, k, values, grad, 1, normalize)
    wanted = value_and_gradients(propagate, q, k, values, grad, 1, normalize)
    assert_all_near(found, [t.double() for t in wanted])
