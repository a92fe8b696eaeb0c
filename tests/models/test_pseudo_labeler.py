"""Predictions, their mixing, the threshold and the labels made of them."""

from dataclasses import fields, replace

import pytest
import reference
import torch

from mmseg_derprop.models import Prediction, PseudoLabeler
from mmseg_derprop.ops import class_sums

K = 4


def prediction(seed=0, images=2, size=(6, 8), scale=3.0, share_ignored=0.2):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(images, K, *size, generator=generator)
    return Prediction.of(logits, torch.rand(images, *size, generator=generator) < share_ignored)


def flat(confidences, labels, ignored=()):
    """One image of one row with these confidences and labels."""
    one_hot = torch.nn.functional.one_hot(torch.tensor(labels), K).T[None, :, None].float()
    mask = torch.zeros(1, 1, len(labels), dtype=torch.bool)
    mask[..., list(ignored)] = True
    return Prediction(one_hot, mask, torch.tensor(confidences)[None, None], torch.tensor(labels)[None, None])


# --- Prediction --------------------------------------------------------------------------------------------------


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


def test_roll_is_the_next_image():
    own = prediction(images=3)
    rolled = own.roll()
    for field in fields(own):
        for index in range(3):
            assert torch.equal(getattr(rolled, field.name)[index], getattr(own, field.name)[(index + 1) % 3])


def test_mix_takes_everything_of_the_partner_inside():
    own, other = prediction(0), prediction(1)
    inside = torch.zeros(2, 6, 8, dtype=torch.bool)
    inside[0, 1:3, 2:7] = True
    mixed = own.mix(other, inside)
    for field in fields(own):
        found, outer, inner = (getattr(p, field.name) for p in (mixed, own, other))
        assert torch.equal(found[1], outer[1])
        assert torch.equal(found[0][..., 1:3, 2:7], inner[0][..., 1:3, 2:7])
        assert torch.equal(found[0][..., 3:, :], outer[0][..., 3:, :])
        assert torch.equal(found[0][..., 1:3, :2], outer[0][..., 1:3, :2])


# --- Threshold ---------------------------------------------------------------------------------------------------


def test_threshold_by_hand():
    """Classes 0 and 2 are present; the best pixel of class 2 and all of class 3 are ignored."""
    own = flat([0.5, 0.6, 0.7, 0.9, 0.99], [0, 0, 2, 2, 3], ignored=(3, 4))
    labeler = PseudoLabeler(K, tau=0.8, momentum=0.9)
    labeler.move_threshold(own, ~own.ignored)
    torch.testing.assert_close(labeler.tau, torch.tensor(0.9 * 0.8 + 0.1 * (0.6 + 0.7) / 2))


def test_threshold_takes_the_own_prediction_where_the_mixed_map_is_valid():
    own, partner = flat([0.5, 0.9, 0.95], [1, 1, 1]), flat([1.0, 1.0, 1.0], [3, 3, 3], ignored=(2,))
    inside = torch.tensor([[[False, True, True]]])
    labeler = PseudoLabeler(K, tau=0.8, momentum=0.0)
    labeler(own, partner, inside)
    assert labeler.tau == torch.tensor(0.9)


def test_threshold_is_moved_before_it_is_used():
    own = flat([0.75, 0.85], [1, 1])
    labeler = PseudoLabeler(K, tau=0.7, momentum=0.0)
    target = labeler(own, own, torch.zeros(1, 1, 2, dtype=torch.bool))
    assert target.confident.tolist() == target.own_confident.tolist() == [[[False, True]]]  # at tau is confident


def test_threshold_without_any_class():
    own = flat([0.5, 0.6], [0, 1], ignored=(0, 1))
    labeler = PseudoLabeler(K, tau=0.123, momentum=0.5)
    for _ in range(3):
        labeler.move_threshold(own, ~own.ignored)
    assert labeler.tau == torch.tensor(0.123)


@pytest.mark.parametrize('tau', [0.95, 0.1, 1 / 3])
def test_momentum_1_is_fixed(tau):
    labeler = PseudoLabeler(K, tau, momentum=1)
    for seed in range(20):
        own = prediction(seed)
        labeler.move_threshold(own, ~own.ignored)
    assert labeler.tau == torch.tensor(tau)


def test_steps_follow_each_other():
    labeler, tau = PseudoLabeler(K, 0.6, 0.8), torch.tensor(0.6)
    for seed in range(5):
        own = prediction(seed)
        labeler.move_threshold(own, ~own.ignored)
        maxima = reference.class_maxima(own.confidence, own.labels, ~own.ignored, K)
        tau = reference.move_threshold(tau, maxima, 0.8)
        torch.testing.assert_close(labeler.tau, tau)


def test_batches_of_one_step_move_as_their_union():
    whole, parts = PseudoLabeler(K, 0.6, 0.5), PseudoLabeler(K, 0.6, 0.5)
    for step in range(3):
        own = prediction(step, images=6)
        whole.move_threshold(own, ~own.ignored)
        for first in (0, 2, 4):
            part = Prediction(*(value[first : first + 2] for value in vars(own).values()))
            parts.new_step = first == 0
            parts.move_threshold(part, ~part.ignored)
        torch.testing.assert_close(parts.tau, whole.tau, rtol=0, atol=0)


def test_state_in_the_midst_of_a_step_is_kept():
    first, second = prediction(0), prediction(1)
    labeler, resumed = PseudoLabeler(K, 0.6, 0.5), PseudoLabeler(K, 0.9, 0.5)
    labeler.move_threshold(first, ~first.ignored)
    resumed.load_state_dict(labeler.state_dict())
    for each in (labeler, resumed):
        each.new_step = False
        each.move_threshold(second, ~second.ignored)
    assert labeler.tau == resumed.tau


def test_threshold_of_all_processes(monkeypatch):
    """The maxima are combined over processes; then each moves alike."""
    other = torch.tensor([0.0, 0.9, 0.0, 0.2])

    def all_reduce(maxima, op):
        assert op == 'max' and maxima.shape == (K,)
        maxima.copy_(torch.maximum(maxima, other))

    monkeypatch.setattr('mmseg_derprop.models.pseudo_labeler.all_reduce', all_reduce)
    own = flat([0.5, 0.6], [0, 1])
    labeler = PseudoLabeler(K, tau=0.8, momentum=0.0)
    labeler.move_threshold(own, ~own.ignored)
    torch.testing.assert_close(labeler.tau, torch.tensor((0.5 + 0.9 + 0.2) / 3))


# --- A threshold of each class -----------------------------------------------------------------------------------


def test_class_thresholds_by_hand():
    """Class 0 has the mean 0.6, class 2 that of its only valid pixel; the others are absent."""
    own = flat([0.5, 0.7, 0.7, 0.9, 0.99], [0, 0, 2, 2, 3], ignored=(3, 4))
    labeler = PseudoLabeler(K, tau=0.8, momentum=0.9, per_class=True)
    labeler.move_threshold(own, ~own.ignored)
    expected = torch.tensor([0.9 * 0.8 + 0.1 * 0.6, 0.8, 0.9 * 0.8 + 0.1 * 0.7, 0.8])
    torch.testing.assert_close(labeler.class_tau, expected)
    torch.testing.assert_close(labeler.tau, expected.mean())


def test_each_pixel_is_judged_by_the_threshold_of_its_class():
    own = flat([0.5, 0.7, 0.9, 0.95, 0.3], [1, 1, 3, 3, 0])
    labeler = PseudoLabeler(K, tau=0.7, momentum=0.0, per_class=True)
    target = labeler(own, own, torch.zeros(1, 1, 5, dtype=torch.bool))
    assert target.confident.tolist() == target.own_confident.tolist() == [[[False, True, False, True, True]]]


def test_a_class_that_is_never_sure_gives_labels_too():
    """With one threshold the timid class gives none."""
    own = prediction(images=8, scale=1.0, share_ignored=0.0)
    own = replace(own, confidence=torch.where(own.labels == 2, own.confidence * 0.5, own.confidence * 0.1 + 0.9))
    shares = []
    for per_class in (False, True):
        labeler = PseudoLabeler(K, tau=0.85, momentum=0.0, per_class=per_class)
        labeler.move_threshold(own, ~own.ignored)
        timid = labeler.is_confident(own)[own.labels == 2]
        shares.append(timid.float().mean())
    assert shares[0] == 0 and 0.3 < shares[1] < 0.7


def test_class_thresholds_of_a_step_and_of_processes(monkeypatch):
    """Batches of a step, and processes, count as one batch of all their pixels; a resumed step goes on."""
    own = prediction(images=6)
    parts = [Prediction(*(value[first : first + 2] for value in vars(own).values())) for first in (0, 2, 4)]
    whole, several, processes = (PseudoLabeler(K, 0.6, 0.5, per_class=True) for _ in range(3))
    whole.move_threshold(own, ~own.ignored)
    for index, part in enumerate(parts):
        several.new_step = index == 0
        several.move_threshold(part, ~part.ignored)
        resumed = PseudoLabeler(K, 0.9, 0.5, per_class=True)
        resumed.load_state_dict(several.state_dict())
        several = resumed
    torch.testing.assert_close(several.class_tau, whole.class_tau)

    def all_reduce(sums):
        for part in parts[1:]:
            sums += class_sums(part.confidence, part.labels, ~part.ignored, K)

    monkeypatch.setattr('mmseg_derprop.models.pseudo_labeler.all_reduce', all_reduce)
    processes.move_threshold(parts[0], ~parts[0].ignored)
    torch.testing.assert_close(processes.class_tau, whole.class_tau)


@pytest.mark.parametrize('bad', [dict(tau=-0.1), dict(tau=1.1), dict(momentum=-0.1), dict(momentum=2)], ids=str)
def test_options_out_of_range(bad):
    ((name, value),) = bad.items()
    with pytest.raises(ValueError, match=f'{name} = {value}.*0 .. 1'):
        PseudoLabeler(K, **bad)


# --- Labels ------------------------------------------------------------------------------------------------------


def step(regions=True, tau=0.55):
    own, partner = prediction(3), prediction(4)
    # Large plain areas, so that regions agree.
    own = replace(own, labels=own.labels.where(own.labels == 3, 1))
    inside = torch.zeros(2, 6, 8, dtype=torch.bool)
    inside[:, 2:4, 3:6] = True
    areas = torch.zeros(2, 5, 6, 8, dtype=torch.bool)
    areas[:, 0, :3] = areas[:, 1, :, 5:] = areas[:, 2, 2:5] = areas[0, 3] = areas[1, 4, 4:, :3] = True
    labeler = PseudoLabeler(K, tau, momentum=1)
    return own, partner, inside, areas, labeler(own, partner, inside, areas if regions else None)


def test_confident_pixels():
    own, _, _, _, target = step()
    assert torch.equal(target.confident, (target.mixed.confidence >= 0.55) & ~target.mixed.ignored)
    assert torch.equal(target.own_confident, (own.confidence >= 0.55) & ~own.ignored)
    assert target.own is own
    assert not torch.equal(target.confident, target.own_confident)


def test_regions_lose_the_box_and_what_is_ignored():
    _, _, inside, areas, target = step()
    for r in range(areas.shape[1]):
        assert torch.equal(target.regions[:, r], areas[:, r] & ~inside & ~target.mixed.ignored)


def test_regions_relabel_outside_the_box_only():
    _, _, inside, _, target = step()
    wanted = reference.propagate_regions(target.mixed.labels, target.confident, target.regions, 0.55, K)
    assert torch.equal(target.labels, wanted[0]) and torch.equal(target.accepted, wanted[1])
    changed = target.labels != target.mixed.labels
    assert changed.any() and not (changed & (inside | target.mixed.ignored)).any()
    assert (target.accepted & ~target.confident).any()
    assert not (target.accepted & target.mixed.ignored).any()


def test_regions_given_are_left_as_they_were():
    _, _, _, areas, _ = step()
    assert areas[:, 0, :3].all() and areas[:, 2, 2:5].all()


def test_without_regions():
    _, _, _, _, target = step(regions=False)
    assert target.regions is None
    assert torch.equal(target.labels, target.mixed.labels) and torch.equal(target.accepted, target.confident)


# --- Alignment ---------------------------------------------------------------------------------------------------


def test_without_alignment_logits_and_state_stay_as_they_are():
    labeler, own = PseudoLabeler(K), prediction()
    assert labeler.aligned(own.logits) is own.logits
    labeler.move_alignment(own, own.labels, ~own.ignored)
    assert not [name for name in labeler.state_dict() if 'share' in name or 'bias' in name]


def test_alignment_by_hand():
    """First batch: class 1 is predicted twice as often as it is labelled, class 0 half as often; the others never."""
    own = flat([0.9] * 5, [0, 1, 1, 1, 1], ignored=(3, 4))
    truth = torch.tensor([[[0, 0, 1, 255]]])
    labeler = PseudoLabeler(K, align=0.5)
    labeler.move_alignment(own, truth, truth != 255)
    step = 0.5 * torch.tensor(2.0).log()
    torch.testing.assert_close(labeler.class_bias, torch.stack([step, -step, step * 0, step * 0]))
    logits = torch.zeros(2, K, 3, 3, dtype=torch.bfloat16)
    found = labeler.aligned(logits)
    assert found.dtype == torch.bfloat16 and torch.equal(found[1, :, 2, 2], labeler.class_bias.bfloat16())


def test_labelled_shares_are_means_over_batches_and_predicted_ones_follow():
    labeler = PseudoLabeler(2, align=0.1)
    own = [flat([0.9, 0.9], labels) for labels in ([0, 0], [1, 1])]
    own = [replace(p, logits=p.logits[:, :2]) for p in own]
    for index in range(100):
        truth = torch.full((1, 1, 2), int(index >= 75))
        labeler.move_alignment(own[index >= 50], truth, truth < 2)
    torch.testing.assert_close(labeler.labeled_shares, torch.tensor([0.75, 0.25]))
    assert labeler.predicted_shares[1] > 0.9 and labeler.class_bias[0] > 0


def test_alignment_of_processes_and_of_a_resumed_run(monkeypatch):
    """Processes share counts, so all have the same bias; a checkpoint has all of it."""
    own, truth = prediction(images=4), torch.randint(K, (4, 6, 8), generator=torch.Generator().manual_seed(1))
    truth[0, :3] = 255
    halves = [
        (Prediction(*(value[part] for value in vars(own).values())), truth[part]) for part in (slice(2), slice(2, 4))
    ]
    whole, process = PseudoLabeler(K, align=0.3), PseudoLabeler(K, align=0.3)
    whole.move_alignment(own, truth, truth != 255)

    def all_reduce(counts):
        other, labels = halves[1]
        known = labels[labels != 255].flatten()
        counts += torch.stack(
            [torch.bincount(other.labels[~other.ignored], minlength=K), torch.bincount(known, minlength=K)]
        )

    monkeypatch.setattr('mmseg_derprop.models.pseudo_labeler.all_reduce', all_reduce)
    process.move_alignment(halves[0][0], halves[0][1], halves[0][1] != 255)
    torch.testing.assert_close(process.class_bias, whole.class_bias)
    monkeypatch.undo()
    resumed = PseudoLabeler(K, align=0.3)
    resumed.load_state_dict(whole.state_dict())
    for labeler in (whole, resumed):
        labeler.move_alignment(own, truth, truth != 255)
    assert torch.equal(resumed.class_bias, whole.class_bias)


def test_a_batch_without_known_labels_moves_nothing_to_nan():
    labeler, own = PseudoLabeler(K, align=1.0), prediction(share_ignored=1.1)
    truth = torch.full((2, 6, 8), 255)
    labeler.move_alignment(own, truth, truth != 255)
    assert labeler.class_bias.tolist() == [0] * K


def test_alignment_out_of_range():
    with pytest.raises(ValueError, match=r'pseudo_labels.align = 1.5'):
        PseudoLabeler(K, align=1.5)
