"""The bias of each class's logit, by hand, over batches and over processes."""

import torch
from predictions import K, flat, parts_of, prediction

from mmseg_derprop.models.pseudo_labels import DistributionAlignment


def test_by_hand():
    """First batch: class 1 is predicted twice as often as it is labelled, class 0 half as often; the others never."""
    alignment = DistributionAlignment(K, rate=0.5)
    truth = torch.tensor([[[0, 0, 1, 255]]])
    alignment.update(flat([0.9] * 5, [0, 1, 1, 1, 1], ignored=(3, 4)), truth, truth != 255)
    step = 0.5 * torch.tensor(2.0).log()
    torch.testing.assert_close(alignment.bias, torch.stack([step, -step, step * 0, step * 0]))
    found = alignment(torch.zeros(2, K, 3, 3, dtype=torch.bfloat16))
    assert found.dtype == torch.bfloat16 and torch.equal(found[1, :, 2, 2], alignment.bias.bfloat16())


def test_labelled_shares_are_means_over_batches_and_predicted_ones_follow():
    alignment = DistributionAlignment(K, rate=0.1)
    own = [flat([0.9, 0.9], labels) for labels in ([0, 0], [1, 1])]
    for index in range(100):
        truth = torch.full((1, 1, 2), int(index >= 75))
        alignment.update(own[index >= 50], truth, truth < 2)
    torch.testing.assert_close(alignment.labeled_shares, torch.tensor([0.75, 0.25, 0, 0]))
    assert alignment.predicted_shares[1] > 0.9 and alignment.bias[0] > alignment.bias[1]


def test_processes_have_one_bias_and_a_checkpoint_has_all_of_it(monkeypatch):
    own, truth = prediction(images=4), torch.randint(K, (4, 6, 8), generator=torch.Generator().manual_seed(1))
    truth[0, :3] = 255
    (first, other), (labels, known) = parts_of(own), truth.split(2)
    whole, process, resumed = (DistributionAlignment(K, rate=0.3) for _ in range(3))
    whole.update(own, truth, truth != 255)

    def all_reduce(counts):
        predicted = torch.bincount(other.labels[~other.ignored], minlength=K)
        counts += torch.stack([predicted, torch.bincount(known[known != 255], minlength=K)])

    with monkeypatch.context() as patch:
        patch.setattr('mmseg_derprop.models.pseudo_labels.alignment.all_reduce', all_reduce)
        process.update(first, labels, labels != 255)
    torch.testing.assert_close(process.bias, whole.bias)
    resumed.load_state_dict(whole.state_dict())
    for alignment in (whole, resumed):
        alignment.update(own, truth, truth != 255)
    assert torch.equal(resumed.bias, whole.bias)


def test_a_batch_without_known_labels_moves_nothing_to_nan():
    alignment, truth = DistributionAlignment(K, rate=1.0), torch.full((2, 6, 8), 255)
    alignment.update(prediction(share_ignored=1.1), truth, truth != 255)
    assert alignment.bias.tolist() == [0] * K
