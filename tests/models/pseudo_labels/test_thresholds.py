"""How thresholds move, by hand and against the reference, and what they call confident."""

from dataclasses import replace

import pytest
import reference
import torch
from predictions import K, flat, parts_of, prediction

from mmseg_derprop.models.pseudo_labels import ClassMeanThreshold, FixedThreshold, MaxConfidenceThreshold
from mmseg_derprop.ops import class_maxima, class_sums

MODULE = 'mmseg_derprop.models.pseudo_labels.thresholds'


def updated(threshold, own):
    threshold.update(own, ~own.ignored)
    return threshold


@pytest.mark.parametrize('value', [0.95, 0.1, 0.0])
def test_fixed(value):
    threshold = FixedThreshold(K, value)
    for seed in range(5):
        updated(threshold, prediction(seed))
    assert threshold.value == torch.tensor(value) and not threshold.moves
    own = prediction()
    assert torch.equal(threshold(own), own.confidence >= value)
    assert FixedThreshold(K).value == torch.tensor(0.95)


def test_max_confidence_by_hand():
    """Classes 0 and 2 are present; the best pixel of class 2 and all of class 3 are ignored."""
    own = flat([0.5, 0.6, 0.7, 0.9, 0.99], [0, 0, 2, 2, 3], ignored=(3, 4))
    threshold = updated(MaxConfidenceThreshold(K, init=0.8, momentum=0.9), own)
    torch.testing.assert_close(threshold.value, torch.tensor(0.9 * 0.8 + 0.1 * (0.6 + 0.7) / 2))


def test_class_means_by_hand():
    """Class 0 has the mean 0.6, class 2 that of its only valid pixel; the others are absent."""
    own = flat([0.5, 0.7, 0.7, 0.9, 0.99], [0, 0, 2, 2, 3], ignored=(3, 4))
    threshold = updated(ClassMeanThreshold(K, init=0.8, momentum=0.9), own)
    expected = torch.tensor([0.9 * 0.8 + 0.1 * 0.6, 0.8, 0.9 * 0.8 + 0.1 * 0.7, 0.8])
    torch.testing.assert_close(threshold.classes, expected)
    torch.testing.assert_close(threshold.value, expected.mean())


def test_steps_of_max_confidence_follow_each_other():
    threshold, tau = MaxConfidenceThreshold(K, 0.6, 0.8), torch.tensor(0.6)
    for seed in range(5):
        own = prediction(seed)
        threshold.begin_step()
        updated(threshold, own)
        maxima = reference.class_maxima(own.confidence, own.labels, ~own.ignored, K)
        tau = reference.move_threshold(tau, maxima, 0.8)
        torch.testing.assert_close(threshold.value, tau)


def test_each_pixel_is_judged_by_the_threshold_of_its_class():
    threshold = ClassMeanThreshold(K, init=0.7, momentum=0.0)
    own = flat([0.5, 0.7, 0.9, 0.95, 0.3], [1, 1, 3, 3, 0])
    assert updated(threshold, own)(own).tolist() == [[[False, True, False, True, True]]]


def test_a_class_that_is_never_sure_gives_labels_too():
    """With one threshold the timid class gives none."""
    own = prediction(images=8, scale=1.0, share_ignored=0.0)
    own = replace(own, confidence=torch.where(own.labels == 2, own.confidence * 0.5, own.confidence * 0.1 + 0.9))
    one, each = (
        updated(kind(K, init=0.85, momentum=0.0), own)(own)[own.labels == 2].float().mean()
        for kind in (MaxConfidenceThreshold, ClassMeanThreshold)
    )
    assert one == 0 and 0.3 < each < 0.7


MOVING = pytest.mark.parametrize('kind', [MaxConfidenceThreshold, ClassMeanThreshold])


@MOVING
def test_without_any_class(kind):
    own, threshold = flat([0.5, 0.6], [0, 1], ignored=(0, 1)), kind(K, init=0.123, momentum=0.5)
    for _ in range(3):
        threshold.begin_step()
        updated(threshold, own)
    torch.testing.assert_close(threshold.value, torch.tensor(0.123))


@MOVING
def test_batches_of_one_step_move_as_their_union_and_a_checkpoint_keeps_the_step(kind):
    whole, several = kind(K, 0.6, 0.5), kind(K, 0.6, 0.5)
    for step in range(3):
        own = prediction(step, images=6)
        whole.begin_step()
        several.begin_step()
        updated(whole, own)
        for part in parts_of(own):
            updated(several, part)
            resumed = kind(K, 0.9, 0.5)
            resumed.load_state_dict(several.state_dict())
            several = resumed
        torch.testing.assert_close(several.state_dict(), whole.state_dict())
    assert whole.value != torch.tensor(0.6)


@MOVING
def test_processes_move_as_one_with_all_images(kind, monkeypatch):
    own = prediction(images=6)
    first, *others = parts_of(own)

    def all_reduce(found, op='sum'):
        for part in others:
            of_part = (part.confidence, part.labels, ~part.ignored, K)
            if op == 'max':
                found.copy_(torch.maximum(found, class_maxima(*of_part)))
            else:
                found += class_sums(*of_part)

    whole = updated(kind(K, 0.6, 0.5), own)
    monkeypatch.setattr(f'{MODULE}.all_reduce', all_reduce)
    torch.testing.assert_close(updated(kind(K, 0.6, 0.5), first).value, whole.value)
