"""Losses against the reference and by hand."""

import builders
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmseg.registry import MODELS

from mmseg_derprop.models import OhemCrossEntropyLoss, PixelCrossEntropyLoss
from mmseg_derprop.models.losses import hard_loss, labeled_losses, soft_losses


def batch(seed=0, classes=4, size=(6, 7), ignore_index=255):
    """Logits, another's logits, labels with some ignored, two masks and what is ignored."""
    generator = torch.Generator().manual_seed(seed)
    logits, other = torch.randn(2, 2, classes, *size, generator=generator) * 3
    labels = torch.randint(classes, (2, *size), generator=generator)
    masks = torch.rand(3, 2, *size, generator=generator) < 0.5
    return logits.requires_grad_(), other, labels, masks[0], masks[1], masks[2]


# --- On pseudo-labels --------------------------------------------------------------------------------------------


def test_masked_losses(assert_near):
    logits, other, labels, one, two, ignored = batch()
    one, two = one & ~ignored, two & ~ignored
    assert_near(hard_loss(logits, labels, one, ignored), reference.masked_cross_entropy(logits, labels, one, ~ignored))
    divergence, entropy = soft_losses(logits, other, one, two, ignored)
    assert_near(divergence, reference.masked_divergence(logits, other, one, ~ignored))
    assert_near(entropy, reference.masked_soft_cross_entropy(logits, other, two, ~ignored))


def test_sums_are_divided_by_what_is_not_ignored_not_by_the_mask():
    logits = torch.zeros(1, 2, 1, 4)  # each pixel has the loss log 2
    labels = torch.zeros(1, 1, 4, dtype=torch.long)
    mask, ignored = torch.tensor([[[True, False, False, False]]]), torch.tensor([[[False, False, False, True]]])
    wanted = torch.tensor(2.0).log() / 3
    torch.testing.assert_close(hard_loss(logits, labels, mask, ignored), wanted)
    torch.testing.assert_close(soft_losses(logits, logits, mask, mask, ignored)[1], wanted)


def test_nothing_is_chosen():
    logits, other, labels, _, _, ignored = batch()
    nothing = torch.zeros_like(ignored)
    for everything in (ignored, ~nothing):
        losses = soft_losses(logits, other, nothing, nothing, everything)
        losses += (hard_loss(logits, labels, nothing, everything),)
        assert all(loss == 0 for loss in losses)
        (grad,) = torch.autograd.grad(sum(losses), logits)
        assert not grad.any()


def test_values_outside_the_mask_do_not_matter():
    """Not even those that are not finite."""
    logits, other, labels, one, _, ignored = batch()
    with torch.no_grad():
        logits.masked_fill_(~one[:, None], torch.inf)
    assert hard_loss(logits, labels, one, ignored).isfinite()
    assert all(loss.isfinite() for loss in soft_losses(logits, other, one, one, ignored))


def test_target_gets_no_gradient():
    logits, other, _, one, two, ignored = batch()
    other.requires_grad_()
    grads = torch.autograd.grad(sum(soft_losses(logits, other, one, two, ignored)), (logits, other), allow_unused=True)
    assert grads[0].any() and grads[1] is None


def test_half_precision_is_summed_in_single():
    logits, other, labels, one, two, ignored = batch(size=(80, 80))
    half, other = logits.detach().bfloat16(), other.bfloat16()
    found, wanted = (
        (hard_loss(z, labels, one, ignored), *soft_losses(z, target, one, two, ignored))
        for z, target in ((half, other), (half.float(), other.float()))
    )
    assert all(f.dtype == torch.float32 and torch.equal(f, w) for f, w in zip(found, wanted, strict=True))


# --- OHEM --------------------------------------------------------------------------------------------------------


@given(
    st.integers(0, 2**31 - 1),
    st.sampled_from([1, 5, 40, 83, 84, 85, 200]),
    st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    st.sampled_from([0.0, 0.4, 1.0]),
)
def test_ohem_is_the_reference(seed, min_kept, thresh, share):
    logits, _, labels, *_ = batch(seed)
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


@pytest.mark.parametrize('min_kept', [1, 2, 3, 10])
def test_ohem_of_nothing_labelled(min_kept):
    logits = logits_of(0.5, 0.6).requires_grad_()
    loss = OhemCrossEntropyLoss(min_kept=min_kept)(logits, torch.full((1, 1, 2), 255))
    assert loss == 0
    assert not torch.autograd.grad(loss, logits)[0].any()


def test_ohem_counts_pixels_of_the_batch():
    """Not of each image: the second image has none of the hardest."""
    logits = torch.cat([logits_of(0.1, 0.2, 0.3), logits_of(0.8, 0.8, 0.8)])
    found = OhemCrossEntropyLoss(0.0, min_kept=2)(logits, torch.zeros(2, 1, 3, dtype=torch.long))
    torch.testing.assert_close(found, -torch.tensor([0.1, 0.2]).log().mean())


def test_ohem_ignores_class_0_where_asked():
    logits, _, labels, *_ = batch()
    as_usual = labels.masked_fill(labels == 0, 255)
    loss = OhemCrossEntropyLoss(0.5, 10)
    assert torch.equal(loss(logits, labels, ignore_index=0), loss(logits, as_usual))


def test_ohem_weights():
    logits, labels = logits_of(0.25, 0.5), torch.zeros(1, 1, 2, dtype=torch.long)
    found = OhemCrossEntropyLoss(1.0, 1)(logits, labels, weight=torch.tensor([[[2.0, 0.0]]]))
    torch.testing.assert_close(found, torch.tensor(4.0).log() * 2 / 2)


@pytest.mark.parametrize('bad', [dict(thresh=-0.1), dict(thresh=1.1), dict(min_kept=0)], ids=str)
def test_ohem_options_out_of_range(bad):
    ((name, value),) = bad.items()
    with pytest.raises(ValueError, match=f'{name} = {value}') as caught:
        OhemCrossEntropyLoss(**bad)
    assert '0 .. 1' in str(caught.value) and 'at least 1' in str(caught.value)


# --- Losses of decode heads --------------------------------------------------------------------------------------


@pytest.mark.parametrize('share', [0.0, 0.4, 1.0])
@pytest.mark.parametrize('ignore_index', [255, 0])
def test_pixel_cross_entropy_is_mmsegs(share, ignore_index):
    logits, _, labels, *_ = batch(3)
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


@pytest.mark.parametrize('size', [(9, 11), (35, 44)], ids=str)
@pytest.mark.parametrize('sampled', [False, True])
def test_losses_of_a_head_are_its_own(sampled, size):
    other = dict(type='LovaszLoss', per_image=True) if sampled else dict(type='DiceLoss')
    terms = [dict(type='CrossEntropyLoss'), other, dict(type='CrossEntropyLoss', loss_weight=0.5)]
    sampler = dict(type='OHEMPixelSampler', thresh=0.7, min_kept=9) if sampled else None
    head = MODELS.build(builders.fcn(0, 3, loss_decode=terms, sampler=sampler))
    samples = builders.batch()[1]['sup']
    logits = torch.randn(2, builders.NUM_CLASSES, *size)
    wanted = {name: value for name, value in head.loss_by_feat(logits, samples).items() if 'loss' in name}
    found = labeled_losses(head, logits, samples)
    assert list(found) == list(wanted) == ['loss_ce', 'loss_lovasz' if sampled else 'loss_dice']
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name])


def test_a_head_with_losses_of_its_own_is_asked():
    stdc = dict(builders.fcn(0, 3), type='STDCHead', boundary_threshold=0.1, num_classes=2, out_channels=1)
    stdc['loss_decode'] = [dict(type='CrossEntropyLoss', use_sigmoid=True), dict(type='DiceLoss')]
    head = MODELS.build(stdc)
    samples = builders.batch(num_classes=2)[1]['sup']
    logits = torch.randn(2, 1, 9, 11)
    found = labeled_losses(head, logits, samples)
    wanted = head.loss_by_feat(logits, samples)
    assert found and all(torch.equal(found[name], wanted[name]) for name in found)
