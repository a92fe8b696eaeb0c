"""Alignment of predicted with labelled classes: worked examples and properties."""

import pytest
import torch

from mmseg_derprop.ops import class_counts, move_class_bias


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
