"""The confidence threshold: worked examples, the reference, properties."""

import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_derprop.ops import class_maxima, move_threshold


def test_maxima_by_hand():
    confidence = torch.tensor([[[0.9, 0.5, 0.4]], [[0.7, 0.8, 0.99]]])
    labels = torch.tensor([[[0, 0, 2]], [[2, 0, 3]]])
    valid = torch.tensor([[[False, True, True]], [[True, True, False]]])
    found = class_maxima(confidence, labels, valid, 4)
    assert torch.equal(found, torch.tensor([0.8, 0.0, 0.7, 0.0]))


@settings(max_examples=40)
@given(
    batch=st.integers(1, 3),
    classes=st.integers(2, 22),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    share=st.sampled_from([0.0, 0.1, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**31),
)
def test_maxima_are_those_of_the_reference(batch, classes, size, share, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, *size)
    confidence = torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype) + 0.01
    labels = torch.randint(classes, shape, generator=generator)
    valid = torch.rand(shape, generator=generator) < share
    found = class_maxima(confidence, labels, valid, classes)
    wanted = reference.class_maxima(confidence, labels, valid, classes)
    assert found.dtype == dtype
    assert torch.equal(found, wanted)
    tau = torch.tensor(0.85, dtype=dtype)
    torch.testing.assert_close(move_threshold(tau, found, 0.999), reference.move_threshold(tau, wanted, 0.999))


@pytest.mark.parametrize('tau', [0.0, 0.85, 1.0])
def test_threshold_stays_if_no_class_is_present(tau):
    tau = torch.tensor(tau)
    confidence, labels = torch.rand(2, 3, 4), torch.zeros(2, 3, 4, dtype=torch.int64)
    maxima = class_maxima(confidence, labels, torch.zeros(2, 3, 4, dtype=torch.bool), 5)
    assert torch.equal(maxima, torch.zeros(5))
    assert torch.equal(move_threshold(tau, maxima, 0.999), tau)


def test_threshold_moves_towards_the_mean_of_the_classes_present():
    maxima = torch.tensor([0.9, 0.0, 0.5, 0.0])
    found = move_threshold(torch.tensor(0.6), maxima, 0.75)
    torch.testing.assert_close(found, torch.tensor(0.75 * 0.6 + 0.25 * 0.7))
    assert found.shape == ()
    torch.testing.assert_close(move_threshold(torch.tensor(0.6), maxima, 0.0), torch.tensor(0.7))
