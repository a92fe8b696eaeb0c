"""Gradients are those of one backward pass, and graphs are gone before the next forward."""

import builders
import pytest
import torch
from mmengine.model import BaseModule
from mmengine.optim import OptimWrapper

from mmseg_derprop.models import SemiLoss
from mmseg_derprop.models.segmentors import checkpoint_activations
from mmseg_derprop.models.stages import Learned, learn

PRESETS = sorted(path.stem for path in builders.METHODS.glob('*.py'))
LOW = {'pseudo_labels.threshold': dict(type='FixedThreshold', value=0.3, _delete_=True)}


def build(preset, staged, options=None):
    model = builders.build(preset, options=LOW | {'views.staged_backward': staged} | (options or {}))
    model.begin_iteration(1000)
    model.pseudo_labeler.alpha = 0.3 if model.pseudo_labeler.alpha_schedule else 0
    return model


def assert_equal_but_for_sums(found, wanted, relative=5e-6):
    """To this part of the largest; biases in front of a normalisation have gradients of nothing but rounding."""
    assert list(found) == list(wanted)
    for name, value in found.items():
        limit = relative * wanted[name].abs().max().item() + 1e-10
        torch.testing.assert_close(value, wanted[name], rtol=0, atol=limit, msg=name)


def step(model):
    """Terms, gradients and buffers of a step."""
    torch.manual_seed(1)
    losses = model.loss(*builders.batch(2, 3, num_strong=model.views.num_strong))
    model.parse_losses(losses)[0].backward()
    return losses, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, dict(model.named_buffers())


@pytest.mark.parametrize('scale', [None, 2.0**12])
@pytest.mark.parametrize('preset', PRESETS)
def test_gradients_are_those_of_one_backward_pass(preset, scale):
    found, wanted = build(preset, True), build(preset, False)
    found.loss_scale = None if scale is None else torch.tensor(scale)
    for part, other in zip(step(found), step(wanted)):
        assert_equal_but_for_sums(part, other)


@pytest.mark.parametrize(
    'preset, freed',
    [
        ('derprop', ['labeled', 'weak']),
        ('aligned_teacher', ['labeled']),
        ('derprop_paper', ['weak']),  # a joint forward
        ('derprop_published', ['weak']),
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
def test_activations_that_are_computed_again(preset):
    """Gradients, and running statistics, are as without."""
    found, wanted = build(preset, True, {'views.activation_checkpointing': True}), build(preset, True)
    assert any(getattr(part, 'with_cp', False) for part in found.student.modules())
    for part, other in zip(step(found), step(wanted)):
        part, other = ({k: v for k, v in each.items() if 'num_batches' not in k} for each in (part, other))
        assert_equal_but_for_sums(part, other)


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


def test_a_loss_of_a_user_is_never_cut_off():
    steps = [
        step(build('aligned_teacher', staged, {'losses.own': dict(type=WeakThroughStrong)})) for staged in (True, False)
    ]
    assert_equal_but_for_sums(steps[0][1], steps[1][1])


def test_accumulation_and_clipping():
    """Through the engine's optimiser wrapper."""
    models = [build('derprop', staged) for staged in (True, False)]
    for model in models:
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        wrapper = OptimWrapper(optimizer, accumulative_counts=2, clip_grad=dict(max_norm=0.5))
        for _ in range(4):
            torch.manual_seed(1)
            wrapper.update_params(model.parse_losses(model.loss(*builders.batch(2, 3)))[0])
    found, wanted = (dict(model.named_parameters()) for model in models)
    before = dict(build('derprop', True).named_parameters())
    assert any((before[name] != value).any() for name, value in found.items())
    assert_equal_but_for_sums(found, wanted, relative=1e-4)  # the second step amplifies the first one's rounding


def test_gradients_that_were_there_stay():
    class Net(BaseModule):
        def __init__(self):
            super().__init__()
            self.used = torch.nn.Parameter(torch.tensor(3.0))
            self.unused = torch.nn.Parameter(torch.tensor(1.0))

    net = Net()
    net.used.grad = torch.tensor(10.0)
    known = {}
    for _ in range(2):
        learn([torch.tensor(5.0), net.used**2], net, known)
    assert net.used.grad == 10 and known == {net.used: 12}
    (Learned.apply(torch.tensor(9.0), [*known.values()], *known) / 2).backward()
    assert net.used.grad == 16 and net.unused.grad is None
