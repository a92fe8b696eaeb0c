"""The labelled images' loss: a decode head's own losses, those of a cascade's stages and of auxiliary heads."""

import builders
import pytest
import reference
import torch
from builders import SIZE
from mmseg.registry import MODELS
from stepping import build, maps, tapped

from mmseg_derprop.models.losses.supervised import head_loss


@pytest.mark.parametrize('size', [(9, 11), (35, 44)], ids=str)
@pytest.mark.parametrize('sampled', [False, True])
def test_loss_of_a_head_is_the_sum_of_its_own(sampled, size):
    other = dict(type='LovaszLoss', per_image=True) if sampled else dict(type='DiceLoss')
    terms = [dict(type='CrossEntropyLoss'), other, dict(type='CrossEntropyLoss', loss_weight=0.5)]
    sampler = dict(type='OHEMPixelSampler', thresh=0.7, min_kept=9) if sampled else None
    head = MODELS.build(builders.fcn(0, 3, loss_decode=terms, sampler=sampler))
    samples, logits = builders.batch()[1]['sup'], torch.randn(2, builders.NUM_CLASSES, *size)
    losses = head.loss_by_feat(logits, samples)
    assert set(losses) == {'loss_ce', 'loss_lovasz' if sampled else 'loss_dice', 'acc_seg'}
    torch.testing.assert_close(head_loss(head, logits, samples), sum(v for n, v in losses.items() if 'loss' in n))


def test_a_head_with_losses_of_its_own_is_asked():
    stdc = dict(builders.fcn(0, 3), type='STDCHead', boundary_threshold=0.1, num_classes=2, out_channels=1)
    stdc['loss_decode'] = [dict(type='CrossEntropyLoss', use_sigmoid=True), dict(type='DiceLoss')]
    head = MODELS.build(stdc)
    samples, logits = builders.batch(num_classes=2)[1]['sup'], torch.randn(2, 1, 9, 11)
    wanted = sum(value for name, value in head.loss_by_feat(logits, samples).items() if 'loss' in name)
    torch.testing.assert_close(head_loss(head, logits, samples), wanted)


def test_labelled_loss_is_the_decode_heads_own():
    ohem = dict(type='OhemCrossEntropyLoss', min_kept=500, thresh=0.3)
    model = build(network=builders.segmentor(loss_decode=[builders.CROSS_ENTROPY, ohem]))
    inputs, samples = builders.batch()
    losses, tap = tapped(model, inputs, samples)
    z, truth = reference.resize(tap.z[0][:2], SIZE), maps(samples['sup'], 'gt_sem_seg')
    hard = reference.ohem_cross_entropy(z, truth, min_kept=500, threshold=0.3)
    torch.testing.assert_close(losses['seg'], (reference.cross_entropy(z, truth) + hard) / 4)
    assert hard > 1.1 * reference.cross_entropy(z, truth)


@pytest.mark.parametrize('count', [1, 2])
def test_auxiliary_heads_see_labelled_images_and_weigh_as_in_their_config(count):
    """A single one need not be in a list."""
    heads = [builders.fcn(2, 32, loss_decode=dict(builders.CROSS_ENTROPY, loss_weight=0.4)), builders.fcn(1, 16)]
    network = dict(builders.segmentor(), auxiliary_head=heads if count == 2 else heads[0])
    model, seen = build(network=network), []
    auxiliary = model.student.auxiliary_head
    for head in auxiliary if count == 2 else [auxiliary]:
        head.conv_seg.register_forward_hook(lambda _, __, out: seen.append(out))
    inputs, samples = builders.batch(2, 3)
    losses, tap = tapped(model, inputs, samples)
    assert [len(out) for out in seen] == [2] * count
    truth = maps(samples['sup'], 'gt_sem_seg')
    each = [reference.cross_entropy(reference.resize(z, SIZE), truth) for z in (tap.z[0][:2], *seen)]
    torch.testing.assert_close(losses['seg'], sum(w * loss for w, loss in zip((1, 0.4, 1), each)) / 4)
    seen.clear()
    model.losses['seg'].loss_weight = 0.0
    assert 'seg' not in model.loss(inputs, samples) and not seen


def test_cascade():
    """Every stage has its loss; the last one's logits are labelled and propagated."""
    model = build(network=builders.cascade())
    inputs, samples = builders.batch(2, 3)
    first = []
    model.student.decode_head[0].register_forward_hook(lambda _, __, out: first.append(out))
    losses, tap = tapped(model, inputs, samples)
    truth = maps(samples['sup'], 'gt_sem_seg')
    stages = [reference.cross_entropy(reference.resize(z[:2], SIZE), truth) for z in (tap.z[0], first[0])]
    torch.testing.assert_close(losses['seg'], sum(stages) / 4)
    torch.testing.assert_close(tap.step.labeled.logits, reference.resize(tap.z[0][:2], SIZE))
    model.parse_losses(losses)[0].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.student.parameters())
