"""Cross entropy and OHEM of decode heads, against the reference, MMSegmentation's, and by hand."""

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmseg.registry import MODELS

from mmseg_derprop.models import OhemCrossEntropyLoss, PixelCrossEntropyLoss


def batch(seed=0, classes=4, size=(6, 7)):
    """Logits (2, K, H, W) and labels."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, classes, *size, generator=generator)
    return logits.requires_grad_(), torch.randint(classes, (2, *size), generator=generator)


@given(
    st.integers(0, 2**31 - 1),
    st.sampled_from([1, 5, 40, 83, 84, 85, 200]),
    st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    st.sampled_from([0.0, 0.4, 1.0]),
)
def test_ohem_is_the_reference(seed, min_kept, thresh, share):
    logits, labels = batch(seed)
    labels[torch.rand(labels.shape) < share] = 255
    wanted = reference.ohem_cross_entropy(logits, labels, min_kept, thresh)
    found = OhemCrossEntropyLoss(thresh, min_kept)(logits, labels)
    torch.testing.assert_close(found, wanted)
    grads = [torch.autograd.grad(loss, logits)[0] for loss in (found, wanted)]
    torch.testing.assert_close(*grads)


def logits_of(*probabilities):
    """Logits (1, 2, 1, W) that give class 0 these probabilities."""
    p = torch.tensor(probabilities)
    return torch.stack([p, 1 - p]).log()[None, :, None]


@pytest.mark.parametrize(
    'min_kept,kept',
    [
        (1, (0.2, 0.5)),  # all up to the threshold
        (3, (0.2, 0.5, 0.8, 0.8, 0.8)),  # the third hardest is easier than the threshold; ties come along
        (6, (0.2, 0.5, 0.8, 0.8, 0.8, 0.9)),  # as many as are valid
        (7, (0.2, 0.5, 0.8, 0.8, 0.8, 0.9)),  # fewer are valid
        (100, (0.2, 0.5, 0.8, 0.8, 0.8, 0.9)),  # than there are pixels
    ],
)
def test_ohem_by_hand(min_kept, kept):
    logits = logits_of(0.8, 0.2, 0.5, 0.01, 0.8, 0.8, 0.9)
    labels = torch.tensor([[[0, 0, 0, 11, 0, 0, 0]]])
    found = OhemCrossEntropyLoss(0.7, min_kept, loss_weight=3.0)(logits, labels, ignore_index=11)
    torch.testing.assert_close(found, -3 * torch.tensor(kept).log().mean())


def test_ohem_weights():
    logits, labels = logits_of(0.25, 0.5), torch.zeros(1, 1, 2, dtype=torch.long)
    found = OhemCrossEntropyLoss(1.0, 1)(logits, labels, weight=torch.tensor([[[2.0, 0.0]]]))
    torch.testing.assert_close(found, torch.tensor(4.0).log() * 2 / 2)


@pytest.mark.parametrize('share', [0.0, 0.4, 1.0])
@pytest.mark.parametrize('ignore_index', [255, 0])
def test_pixel_cross_entropy_is_mmsegs(share, ignore_index):
    logits, labels = batch(3)
    labels[torch.rand(labels.shape) < share] = ignore_index
    theirs = MODELS.build(dict(type='mmseg.CrossEntropyLoss', avg_non_ignore=True, loss_weight=0.4))
    ours = PixelCrossEntropyLoss(loss_weight=0.4)
    found, wanted = (loss(logits, labels, ignore_index=ignore_index) for loss in (ours, theirs))
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (found, wanted)))
    assert (found == 0) == (share == 1)


def test_pixel_cross_entropy_weights():
    logits, labels = logits_of(0.25, 0.5), torch.zeros(1, 1, 2, dtype=torch.long)
    found = PixelCrossEntropyLoss()(logits, labels, weight=torch.tensor([[[2.0, 0.0]]]))
    torch.testing.assert_close(found, torch.tensor(4.0).log() * 2 / 2)
