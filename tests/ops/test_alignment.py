"""Alignment of predicted with labelled classes: worked examples and properties."""

import math

import pytest
import torch

from mmseg_derprop.ops import class_counts, move_class_bias


def test_counts_by_hand():
    labels = torch.tensor([[[0, 2, 2, 255]], [[1, 2, 0, -1]]])
    valid = torch.tensor([[[True, True, True, False]], [[True, False, True, False]]])
    found = class_counts(labels, valid, 4)
    assert found.tolist() == [2, 1, 2, 0] and found.dtype == torch.float32


def test_counts_of_no_pixel():
    labels = torch.full((2, 3, 4), 255)
    assert class_counts(labels, labels != 255, 5).tolist() == [0] * 5
    assert class_counts(labels[:0], labels[:0] != 255, 5).tolist() == [0] * 5


def test_bias_by_hand():
    """Class 0 is predicted half as often as it is labelled, class 1 twice as often."""
    found = move_class_bias(torch.zeros(3), torch.tensor([0.1, 0.4, 0.5]), torch.tensor([0.2, 0.2, 0.5]), 0.5)
    step = 0.5 * math.log(2)
    torch.testing.assert_close(found, torch.tensor([step, -step, 0.0]))


def test_equal_shares_leave_the_bias():
    shares, bias = torch.tensor([0.7, 0.2, 0.1, 0.0]), torch.tensor([0.3, -0.1, 0.2, -0.4])
    torch.testing.assert_close(move_class_bias(bias, shares, shares, 0.1), bias)


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
