"""Predictions, their mixing, and the labels made of them."""

from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
import reference
import torch
from predictions import K, flat, prediction

from mmseg_derprop.models import Prediction, PseudoLabeler


def fixed(value):
    return dict(type='FixedThreshold', value=value)


def test_prediction_reads_off_the_softmax():
    logits = torch.tensor([[0.1, 0.2, 0.6, 0.1]]).log().view(1, 4, 1, 1).requires_grad_()
    found = Prediction.of(logits, torch.zeros(1, 1, 1, dtype=torch.bool))
    torch.testing.assert_close(found.confidence, torch.tensor([[[0.6]]]))
    assert found.labels.tolist() == [[[2]]] and found.labels.dtype == torch.int64
    assert not found.logits.requires_grad and not found.confidence.requires_grad


def test_confidence_of_half_precision_is_single():
    logits = 5 * torch.randn(2, K, 4, 4).bfloat16()
    found = Prediction.of(logits, torch.zeros(2, 4, 4, dtype=torch.bool))
    assert torch.equal(found.confidence, logits.float().softmax(1).max(1).values)


def test_mix_takes_everything_of_the_partner_inside():
    own, inside = prediction(images=3), torch.zeros(3, 6, 8, dtype=torch.bool)
    inside[0, 1:3, 2:7] = True
    mixed = own.mix(own[torch.tensor([2, 0, 1])], inside)
    for field in fields(own):
        found, before = (getattr(p, field.name) for p in (mixed, own))
        assert torch.equal(found[1:], before[1:])
        assert torch.equal(found[0][..., 1:3, 2:7], before[2][..., 1:3, 2:7])
        assert torch.equal(found[0][..., 3:, :], before[0][..., 3:, :])
        assert torch.equal(found[0][..., 1:3, :2], before[0][..., 1:3, :2])


def test_what_is_labelled_is_propagated_and_then_aligned():
    labeler = PseudoLabeler(K, alpha=0.25, alignment=dict(type='DistributionAlignment'))
    labeler.alignment.bias += torch.tensor([0.5, 0, 0, -0.5])
    logits, propagated = torch.randn(2, 1, K, 3, 3).requires_grad_()
    ignored = torch.zeros(1, 3, 3, dtype=torch.bool)
    bias = labeler.alignment.bias[:, None, None]
    found = labeler.predict(logits, ignored, SimpleNamespace(propagated=propagated))
    torch.testing.assert_close(found.logits, (0.75 * logits + 0.25 * propagated + bias).detach())
    assert torch.equal(labeler.predict(logits, ignored).logits, logits.detach() + bias)
    plain = PseudoLabeler(K)
    assert torch.equal(plain.predict(logits, ignored).logits, logits)
    assert list(plain.state_dict()) == ['threshold.value']


@pytest.mark.parametrize('alpha,shares', [('linear', [0, 0.25, 0.75]), (0.3, [0.3] * 3)])
def test_alpha_by_epochs(alpha, shares):
    labeler = PseudoLabeler(K, alpha=alpha)
    assert labeler.alpha == shares[0]
    for epoch, share in zip((0, 1, 3), shares):
        labeler.begin_epoch(epoch, 4)
        assert labeler.alpha == share and labeler.reads_head == (share > 0)


def test_threshold_takes_the_own_prediction_where_the_mixed_map_is_valid_and_moves_before_it_is_used():
    own = flat([0.5, 0.75, 0.85, 0.95], [1, 1, 1, 1])
    partner = flat([1.0] * 4, [3] * 4, ignored=(3,))
    labeler = PseudoLabeler(K, threshold=dict(type='MaxConfidenceThreshold', init=0.7, momentum=0.0))
    target = labeler(own, partner, torch.tensor([[[False, False, False, True]]]))
    assert labeler.threshold.value == torch.tensor(0.85)
    assert target.confident.tolist() == [[[False, False, True, False]]]  # at the threshold is confident
    assert target.own_confident.tolist() == [[[False, False, True, True]]]
    labeler(flat([0.1], [1]), flat([0.1], [1]), torch.zeros(1, 1, 1, dtype=torch.bool), update=False)
    assert labeler.threshold.value == torch.tensor(0.85)


def step(regions=True):
    own, partner = prediction(3), prediction(4)
    # Large plain areas, so that regions agree.
    own = replace(own, labels=own.labels.where(own.labels == 3, 1))
    inside = torch.zeros(2, 6, 8, dtype=torch.bool)
    inside[:, 2:4, 3:6] = True
    areas = torch.zeros(2, 5, 6, 8, dtype=torch.bool)
    areas[:, 0, :3] = areas[:, 1, :, 5:] = areas[:, 2, 2:5] = areas[0, 3] = areas[1, 4, 4:, :3] = True
    labeler = PseudoLabeler(K, threshold=fixed(0.55), regions=dict(type='RegionPropagation', num=5))
    return own, inside, areas, labeler(own, partner, inside, areas if regions else None)


def test_confident_pixels():
    own, _, _, target = step()
    assert torch.equal(target.confident, (target.mixed.confidence >= 0.55) & ~target.mixed.ignored)
    assert torch.equal(target.own_confident, (own.confidence >= 0.55) & ~own.ignored)
    assert target.own is own and not torch.equal(target.confident, target.own_confident)


def test_regions_lose_the_box_and_what_is_ignored_and_relabel_the_rest():
    _, inside, areas, target = step()
    assert torch.equal(target.regions, areas & ~(inside | target.mixed.ignored)[:, None])
    assert areas[:, 0, :3].all() and areas[:, 2, 2:5].all()  # those given are left as they were
    wanted = reference.propagate_regions(target.mixed.labels, target.confident, target.regions, 0.55, K)
    assert torch.equal(target.labels, wanted[0]) and torch.equal(target.accepted, wanted[1])
    changed = target.labels != target.mixed.labels
    assert changed.any() and not (changed & (inside | target.mixed.ignored)).any()
    assert (target.accepted & ~target.confident).any() and not (target.accepted & target.mixed.ignored).any()


def test_without_regions():
    target = step(regions=False)[-1]
    assert target.regions is None
    assert torch.equal(target.labels, target.mixed.labels) and torch.equal(target.accepted, target.confident)
