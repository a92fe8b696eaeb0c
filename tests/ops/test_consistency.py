"""Consistency losses of pixels against the reference and by hand."""

import reference
import torch

from mmseg_derprop.ops import cross_entropy_map, entropy_map, masked_mean, soft_cross_entropy_map


def draw(size=(6, 7), classes=4):
    """Logits, another's logits, labels, a mask and what is ignored."""
    generator = torch.Generator().manual_seed(0)
    logits, other = 3 * torch.randn(2, 2, classes, *size, generator=generator)
    mask, ignored = torch.rand(2, 2, *size, generator=generator) < 0.5
    labels = torch.randint(classes, (2, *size), generator=generator)
    return logits.requires_grad_(), other, labels, mask & ~ignored, ignored


def losses_of(logits, other, labels, mask, ignored):
    """Cross entropy, that with a distribution, and the divergence from it."""
    soft = soft_cross_entropy_map(logits, other)
    maps = (cross_entropy_map(logits, labels), soft, soft - entropy_map(other))
    return [masked_mean(one, mask, ignored) for one in maps]


def test_masked_means_are_those_of_the_reference(assert_near):
    logits, other, labels, mask, ignored = draw()
    hard, soft, divergence = losses_of(logits, other, labels, mask, ignored)
    assert_near(hard, reference.masked_cross_entropy(logits, labels, mask, ~ignored))
    assert_near(soft, reference.masked_soft_cross_entropy(logits, other, mask, ~ignored))
    assert_near(divergence, reference.masked_divergence(logits, other, mask, ~ignored))


def test_sums_are_divided_by_what_is_not_ignored_not_by_the_mask():
    values = torch.tensor([[[3.0, 5.0, 7.0, 9.0]]])
    mask, ignored = torch.tensor([[[True, False, False, False]]]), torch.tensor([[[False, False, False, True]]])
    assert masked_mean(values, mask, ignored) == 1


def test_nothing_is_chosen_or_nothing_valid():
    logits, other, labels, _, ignored = draw()
    nothing = torch.zeros_like(ignored)
    for everything in (ignored, ~nothing):
        losses = losses_of(logits, other, labels, nothing, everything)
        assert not any(losses)
        assert not torch.autograd.grad(sum(losses), logits)[0].any()


def test_values_outside_the_mask_do_not_matter():
    """Not even those that are not finite."""
    logits, other, labels, mask, ignored = draw()
    spoilt = logits.detach().masked_fill(~mask[:, None], torch.inf)
    assert all(loss.isfinite() for loss in losses_of(spoilt, other, labels, mask, ignored))


def test_target_gets_no_gradient():
    logits, other, _, mask, ignored = draw()
    other.requires_grad_()
    loss = masked_mean(soft_cross_entropy_map(logits, other) - entropy_map(other), mask, ignored)
    grads = torch.autograd.grad(loss, (logits, other), allow_unused=True)
    assert grads[0].any() and grads[1] is None


def test_half_precision_is_computed_in_single():
    logits, other, *rest = draw(size=(40, 40))
    half, other = logits.detach().bfloat16(), other.bfloat16()
    found, wanted = losses_of(half, other, *rest), losses_of(half.float(), other.float(), *rest)
    assert all(f.dtype == torch.float32 and torch.equal(f, w) for f, w in zip(found, wanted, strict=True))
