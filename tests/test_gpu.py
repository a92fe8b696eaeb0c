"""What only a GPU can show; skipped elsewhere. tools/gpu_check.sh runs these and the benchmark."""

import builders
import pytest
import torch
from mmengine.runner import Runner

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no GPU')]
PRESETS = ('derprop', 'derprop_published', 'aligned_teacher', 'corrmatch', 'unimatch_v2')


def on_gpu(model, batch):
    inputs, samples = batch
    samples = {branch: [sample.to('cuda') for sample in each] for branch, each in samples.items()}
    return model.cuda(), ({branch: images.cuda() for branch, images in inputs.items()}, samples)


def build(preset):
    """What is drawn at random differs between devices, so nothing is."""
    options = {'views.staged_backward': True, 'views.perturb_ratio': 0.0}
    model = builders.build(preset, options=options)
    if model.propagation_head is not None:
        model.propagation_head.dropout.p = 0.0
        model.begin_iteration(model.propagation_head.warmup)
    if model.pseudo_labeler.regions is not None:
        model.pseudo_labeler.regions.draw_rows = lambda positions, device: torch.arange(20, device=device) % positions
    return model


@pytest.mark.parametrize('preset', ['derprop', 'derprop_published', 'corrmatch'])
def test_a_step_is_that_of_the_cpu(preset):
    losses = []
    for device in ('cpu', 'cuda'):
        model, batch = build(preset).double(), builders.batch(2, 2)
        batch = ({branch: images.double() for branch, images in batch[0].items()}, batch[1])
        if device == 'cuda':
            model, batch = on_gpu(model, batch)
        losses.append(model.loss(*batch))
    for name, wanted in losses[0].items():
        torch.testing.assert_close(losses[1][name].cpu(), wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('preset', PRESETS)
def test_a_step_waits_for_nothing(preset):
    """Neither forward nor backward nor the teacher's update read a number back."""
    model = builders.build(preset, options={'views.staged_backward': True})
    model.begin_iteration(1000)
    model, batch = on_gpu(model, builders.batch(num_strong=model.views.num_strong))
    for mode in ('default', 'error'):  # the first step initialises libraries
        torch.cuda.set_sync_debug_mode(mode)
        try:
            model.parse_losses(model.loss(*batch))[0].backward()
            model.follow_student('step', 3)
        finally:
            torch.cuda.set_sync_debug_mode('default')


@pytest.mark.parametrize('precision', ['float32', 'float16', 'bfloat16'])
def test_a_run(precision, semi_config):
    """Staged gradients pass the loss scaler of float16."""
    made = semi_config({'train_cfg.max_iters': 6})
    if precision != 'float32':
        wrapper = dict(float16='AmpOptimWrapper', bfloat16='BFloat16OptimWrapper')[precision]
        made.optim_wrapper.type = wrapper
    before = Runner.from_cfg(made)
    start = {name: value.clone() for name, value in before.model.student.named_parameters()}
    before.train()
    moved = [(value != start[name].to(value.device)).any() for name, value in before.model.student.named_parameters()]
    assert all(value.isfinite().all() for value in before.model.parameters())
    assert sum(map(bool, moved)) > len(moved) / 2
