"""Gradients are those of one backward pass, and graphs are gone before the next forward."""

import copy

import builders
import pytest
import torch
from mmengine.model import BaseModule
from mmengine.optim import OptimWrapper

from mmseg_derprop.models import SemiLoss
from mmseg_derprop.models.segmentors import checkpoint_activations
from mmseg_derprop.models.stages import learn

PRESETS = sorted(path.stem for path in builders.METHODS.glob('*.py'))
LOW = {'pseudo_labels.threshold': dict(type='FixedThreshold', value=0.3, _delete_=True)}


def build(preset, staged, options=None):
    model = builders.build(preset, options=LOW | {'views.staged_backward': staged} | (options or {}))
    model.begin_iteration(1000)
    model.pseudo_labeler.alpha = 0.3 if model.pseudo_labeler.alpha_schedule else 0
    return model


def step(model):
    """Terms, gradients and buffers of a step."""
    torch.manual_seed(1)
    losses = model.loss(*builders.batch(2, 3, num_strong=model.views.num_strong))
    model.parse_losses(losses)[0].backward()
    return losses, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, dict(model.named_buffers())


@pytest.mark.parametrize('scale', [None, 2.0**12])
@pytest.mark.parametrize('preset', PRESETS)
def test_gradients_are_those_of_one_backward_pass(preset, scale, assert_near):
    found, wanted = build(preset, True), build(preset, False)
    found.loss_scale = None if scale is None else torch.tensor(scale)
    for part, other in zip(step(found), step(wanted)):
        assert list(part) == list(other)
        for name, value in part.items():
            assert_near(value.float(), other[name].float(), 2e-6)


@pytest.mark.parametrize(
    'preset, freed',
    [
        ('derprop', ['labeled', 'weak']),
        ('aligned_teacher', ['labeled', 'weak']),
        ('derprop_paper', ['weak']),  # a joint forward
        ('derprop_published', []),  # its affinities teach the weak views too
        ('unimatch_v2', ['labeled']),  # nothing teaches weak views
    ],
)
def test_graphs_are_freed(preset, freed, monkeypatch):
    model, found = build(preset, True), []

    def note(view):
        original = getattr(model, f'predict_{view}')

        def predict(*args):
            given = next(arg for arg in args if hasattr(arg, 'labeled'))
            has_graph = given.labeled.logits.requires_grad or (given.maybe_weak or given.labeled).logits.requires_grad
            found.extend([] if has_graph else [{'weak': 'labeled', 'strong': 'weak'}[view]])
            return original(*args)

        monkeypatch.setattr(model, f'predict_{view}', predict)

    note('weak'), note('strong')
    step(model)
    if not model.needs_weak_forward:
        found.remove('weak')  # there is none
    assert found == freed


@pytest.mark.parametrize('preset', ['derprop', 'unimatch_v2'])
def test_activations_that_are_computed_again(preset, assert_near):
    """Gradients, and running statistics, are as without."""
    found, wanted = build(preset, True, {'views.activation_checkpointing': True}), build(preset, True)
    assert any(getattr(part, 'with_cp', False) for part in found.student.modules())
    for part, other in zip(step(found), step(wanted)):
        for name, value in part.items():
            if not name.endswith('num_batches_tracked'):
                assert_near(value.float(), other[name].float(), 2e-6)


def test_a_backbone_that_cannot_compute_again():
    class Plain(torch.nn.Module):
        pass

    with pytest.raises(ValueError, match='activation_checkpointing must be False for Plain'):
        checkpoint_activations(Plain())


class WeakThroughStrong(SemiLoss):
    """Does not say whom it teaches: the weak view, too."""

    needs = frozenset({'weak', 'strong'})

    def forward(self, step):
        return (step.strong[0].view.logits - step.weak.logits).square().mean() + step.labeled.logits.square().mean()


def test_a_loss_of_a_user_is_never_cut_off(assert_near):
    steps = [
        step(build('aligned_teacher', staged, {'losses.own': dict(type=WeakThroughStrong)})) for staged in (True, False)
    ]
    for name, gradient in steps[0][1].items():
        assert_near(gradient, steps[1][1][name], 2e-6)


def test_accumulation_and_clipping(assert_near):
    """Through the engine's optimiser wrapper."""
    models = [build('derprop', staged) for staged in (True, False)]
    for model in models:
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        wrapper = OptimWrapper(optimizer, accumulative_counts=2, clip_grad=dict(max_norm=0.5))
        for _ in range(4):
            torch.manual_seed(1)
            wrapper.update_params(model.parse_losses(model.loss(*builders.batch(2, 3)))[0])
    others = dict(models[1].named_parameters())
    before = dict(build('derprop', True).named_parameters())
    assert any((before[name] != value).any() for name, value in models[0].named_parameters())
    for name, value in models[0].named_parameters():
        assert_near(value, others[name], 1e-5)


def test_gradients_that_were_there_stay():
    class Net(BaseModule):
        def __init__(self):
            super().__init__()
            self.used = torch.nn.Parameter(torch.tensor(3.0))
            self.unused = torch.nn.Parameter(torch.tensor(1.0))

    net = Net()
    net.used.grad = torch.tensor(10.0)
    terms = learn(dict(fixed=torch.tensor(5.0), square=net.used**2), net)
    assert net.used.grad == 10 and not terms['fixed'].requires_grad and terms['square'] == 9
    (sum(copy.copy(terms).values()) / 2).backward()
    assert net.used.grad == 13 and net.unused.grad is None
