"""Losses and gradients that are no numbers: what is said, and what stays."""

from contextlib import contextmanager

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmseg.registry import HOOKS, OPTIM_WRAPPERS
from torch.utils._python_dispatch import TorchDispatchMode

from mmseg_derprop.engine import NonFiniteHook
from mmseg_derprop.engine.hooks.non_finite_hook import image_paths


@HOOKS.register_module(force=True)
class Poison(Hook):
    """Makes a term infinite, or what the backbone gives, or a gradient, NaN, in an iteration; keeps the weights."""

    priority = 'VERY_HIGH'

    def __init__(self, at, what='term'):
        self.at, self.what = at, what
        self.weights, self.batches = [], []

    def before_train(self, runner):
        self.term = runner.model.losses['seg']
        self.first = runner.model.student.backbone.conv1
        self.first.register_forward_hook(lambda _, __, out: out * self.factor('image'))
        self.first.weight.register_hook(lambda grad: grad * self.factor('gradient'))

    def factor(self, what):
        return torch.nan if self.now and self.what == what else 1.0

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.now = batch_idx == self.at
        self.batches.append(data_batch)
        self.term.loss_weight = float('inf') if self.now and self.what == 'term' else 1.0
        self.weights.append(self.first.weight.detach().clone())


@pytest.fixture
def poisoned(make_runner):
    """Makes a run whose losses go wrong, and gives it with its Poison."""

    def make(at, what='term', options=None):
        hooks = [dict(type='PseudoLabelHook'), dict(type='NonFiniteHook'), dict(type='Poison', at=at, what=what)]
        teacher = {'model.teacher.interval': 'step', 'model.teacher.momentum': 0.9}
        runner = make_runner({'custom_hooks': hooks, 'train_cfg.max_iters': 5, **teacher, **(options or {})})
        return runner, next(hook for hook in runner.hooks if isinstance(hook, Poison))

    return make


@pytest.mark.parametrize('what', ['term', 'image', 'gradient'])
def test_stop_names_terms_and_images_and_saves_nothing(what, poisoned, tmp_path):
    checkpoints = dict(type='CheckpointHook', by_epoch=False, interval=1)
    runner, poison = poisoned(1, what, {'default_hooks.checkpoint': checkpoints})
    with pytest.raises(FloatingPointError, match='Iteration 2 has') as caught:
        runner.train()
    message = str(caught.value)
    paths = image_paths(poison.batches[-1])
    assert len(paths) == 8 and all(path in message for path in paths)
    if what == 'term':
        assert 'seg = inf; images: ' in message and message.count(' = ') == 1
    elif what == 'image':
        assert 'seg = nan' in message and 'seg_prop = nan' in message
    else:
        assert 'gradients that are not finite. All losses are. Gradients of 1 of' in message
        assert 'parameters: student.backbone.conv1.weight; images: ' in message
    assert [path.name for path in (tmp_path / 'work').glob('*.pth')] == ['iter_1.pth']
    assert all(value.isfinite().all() for value in runner.model.teacher.state_dict().values())


def test_a_bad_gradient_may_be_of_any_batch_of_its_step(poisoned):
    runner, poison = poisoned(2, 'gradient', {'optim_wrapper.accumulative_counts': 2})
    with pytest.raises(FloatingPointError, match='Iteration 4 has gradients') as caught:
        runner.train()
    paths = [image_paths(batch) for batch in poison.batches]
    assert str(caught.value).partition('; images: ')[2].startswith(', '.join(paths[2] + paths[3]))


@OPTIM_WRAPPERS.register_module(force=True)
class ScaledOptimWrapper(OptimWrapper):
    """MMEngine's AmpOptimWrapper, which wants an accelerator, on a CPU: float16 and a dynamic loss scale."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.scaler = torch.amp.GradScaler('cpu', init_scale=2.0**30, backoff_factor=2.0**-8)

    @contextmanager
    def optim_context(self, model):
        with super().optim_context(model), torch.autocast('cpu', torch.float16):
            yield

    def backward(self, loss, **kwargs):
        self.scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs):
        self.scaler.step(self.optimizer, **kwargs)
        self.scaler.update()


@pytest.mark.parametrize('fused', [False, True])
def test_float16_overflow_recovers(fused, poisoned):
    options = {'optim_wrapper.type': 'ScaledOptimWrapper', 'optim_wrapper.optimizer.fused': fused}
    runner, poison = poisoned(None, options=options)
    runner.train()
    moved = [not torch.equal(a, b) for a, b in zip(poison.weights, poison.weights[1:])]
    assert not moved[0] and moved[-1]
    assert runner.optim_wrapper.scaler.get_scale() <= 2.0**22
    assert all(value.isfinite().all() for value in runner.model.state_dict().values())


class Reads(TorchDispatchMode):
    """Counts the numbers that are read from tensors."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ == '_local_scalar_dense'
        return func(*args, **(kwargs or {}))


def test_judging_losses_waits_for_nothing():
    hook, module = NonFiniteHook(), torch.nn.Linear(1, 1)
    losses = {'loss_a': torch.tensor(1.0), 'loss_b': [torch.tensor([2.0, torch.nan])]}
    with Reads() as reads:
        hook.watch(module, (), losses)
    assert reads.count == 0 and hook.bad and set(hook.losses) == {'loss_a', 'loss_b'}
    hook.watch(module, (), {'loss_a': torch.tensor(1.0)})
    assert not hook.bad
    hook.watch(module, (), torch.tensor(torch.nan))  # logits are not its concern
    assert not hook.bad


@pytest.mark.parametrize('value', [1.0, torch.inf, -torch.inf, torch.nan])
def test_judging_gradients_waits_for_nothing(value):
    hook, model = NonFiniteHook(), torch.nn.Linear(3, 2)
    hook.model = model
    optimizer = torch.optim.SGD([*model.parameters(), torch.nn.Parameter(torch.zeros(0)), torch.nn.Parameter()], lr=1)
    for parameter in optimizer.param_groups[0]['params'][:3]:
        parameter.grad = torch.ones_like(parameter)
    model.weight.grad[1, 2] = value
    with Reads() as reads:
        hook.before_step(optimizer)
    assert reads.count == 0
    assert hook.norms.isfinite().tolist() == [value == 1.0, True]
