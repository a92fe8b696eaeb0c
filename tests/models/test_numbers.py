"""Batches and thresholds at their ends: losses and gradients stay finite."""

import builders
import pytest
import torch

PRESETS = ('derprop', 'derprop_paper', 'derprop_published', 'fixmatch', 'unimatch_v2')


def finite_step(model, inputs, samples):
    losses = model.loss(inputs, samples)
    assert all(value.isfinite() for value in losses.values()), losses
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert model.pseudo_labeler.tau.isfinite()
    return losses


@pytest.mark.parametrize('label', [0, 4])
@pytest.mark.parametrize('preset', PRESETS)
def test_labelled_images_of_one_class(preset, label):
    inputs, samples = builders.batch(num_strong=2)
    for sample in samples['sup']:
        sample.gt_sem_seg.data[:] = label
    assert finite_step(builders.build(preset), inputs, samples)['sup.loss_seg'] > 0


@pytest.mark.parametrize('preset', PRESETS)
def test_everything_is_ignored(preset):
    inputs, samples = builders.batch(num_strong=2)
    for sample in samples['sup']:
        sample.gt_sem_seg.data[:] = 255
    for sample in [sample for branch in samples if branch != 'sup' for sample in samples[branch]]:
        sample.ignore_map.data[:] = True
    losses = finite_step(builders.build(preset), inputs, samples)
    unlike = {'sup.loss_affinity', 'unsup.loss_affinity', 'unsup.loss_smooth'}  # published: every pair counts
    assert all(value == 0 for name, value in losses.items() if name not in unlike)


@pytest.mark.parametrize('momentum', [0.0, 1.0])
@pytest.mark.parametrize('tau', [0.0, 1.0])
@pytest.mark.parametrize('preset', PRESETS)
def test_the_ends_of_the_threshold(preset, tau, momentum):
    model = builders.build(preset, pseudo_labels=dict(tau=tau, momentum=momentum))
    inputs, samples = builders.batch(num_strong=2)
    finite_step(model, inputs, samples)
    if momentum == 1.0:
        assert model.pseudo_labeler.tau == tau
        assert model.statistics['confident'] == 1 - tau
    else:
        assert 0 < model.pseudo_labeler.tau < 1


def test_no_confident_pixel_for_two_epochs(make_runner):
    options = {'model.pseudo_labels': dict(tau=1.0, momentum=1.0), 'custom_hooks.0.interval': 1}
    runner = make_runner(options)
    start = {name: value.clone() for name, value in runner.model.student.state_dict().items()}
    runner.train()
    assert len(runner.train_dataloader) == 3 and runner.iter == 7
    scalars = {name: history.data[0] for name, history in runner.message_hub.log_scalars.items()}
    assert len(scalars['train/confident']) == 7 and not scalars['train/confident'].any()
    assert not scalars['train/unsup.loss_kl'].any() and (scalars['train/sup.loss_seg'] > 0).all()
    for network in (runner.model.student, runner.model.teacher):
        state = network.state_dict()
        assert all(value.isfinite().all() for value in state.values())
        assert any(not torch.equal(state[name], start[name]) for name in start)
