"""Thresholds and alignment of classes: worked examples, the reference, properties."""

import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_derprop.ops import class_counts, class_maxima, move_class_bias, move_threshold


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


def test_counts_by_hand():
    labels = torch.tensor([[[0, 2, 2, 255]], [[1, 2, 0, -1]]])
    valid = torch.tensor([[[True, True, True, False]], [[True, False, True, False]]])
    found = class_counts(labels, valid, 4)
    assert found.tolist() == [2, 1, 2, 0] and found.dtype == torch.float32


@pytest.mark.parametrize('predicted, labeled', [([1.0, 0.0], [0.0, 1.0]), ([0.0, 0.0], [0.0, 0.0])])
def test_bias_stays_finite_and_within_its_limit(predicted, labeled):
    bias = torch.zeros(2)
    for _ in range(100):
        bias = move_class_bias(bias, torch.tensor(predicted), torch.tensor(labeled), 1.0)
    assert bias.isfinite().all() and bias.abs().max() <= 2


def test_a_biased_prediction_regains_the_shares():
    """Logits that favour class 0 are predicted in the labelled shares after some steps."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20_000, 4, generator=generator) + torch.tensor([1.5, 0.0, 0.0, -0.5])
    labeled, bias = torch.tensor([0.4, 0.3, 0.2, 0.1]), torch.zeros(4)

    def shares(bias):
        return class_counts((logits + bias).argmax(1)[None, None], torch.ones(1, 1, 20_000, dtype=bool), 4) / 20_000

    assert (shares(bias) - labeled).abs().max() > 0.2
    for _ in range(100):
        bias = move_class_bias(bias, shares(bias), labeled, 0.1)
    assert (shares(bias) - labeled).abs().max() < 0.01
