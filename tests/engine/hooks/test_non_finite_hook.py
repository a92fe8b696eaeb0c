"""Losses and gradients that are no numbers: what is said, what stops, what is skipped, what stays."""

import copy
import logging
from contextlib import contextmanager

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmseg.registry import HOOKS, OPTIM_WRAPPERS
from mmseg.structures import SegDataSample
from torch.utils._python_dispatch import TorchDispatchMode

from mmseg_derprop.engine import NonFiniteHook
from mmseg_derprop.engine.hooks.non_finite_hook import image_paths

METHOD = dict(type='PseudoLabelHook', alpha='linear', teacher_interval='step', teacher_momentum=0.9)


@HOOKS.register_module(force=True)
class Poison(Hook):
    """Makes a term infinite, or what the backbone gives, or a gradient, NaN, in some iterations.

    It keeps the state before each.
    """

    priority = 'VERY_HIGH'

    def __init__(self, at, what='term'):
        self.at, self.what = at, what
        self.states, self.batches = [], []

    def before_train(self, runner):
        self.model = runner.model
        self.weight = self.model.sup_weight['seg']
        first = next(m for m in self.model.student.backbone.modules() if isinstance(m, torch.nn.Conv2d))
        first.register_forward_hook(lambda _, __, out: out * torch.nan if self.now and self.what == 'image' else out)
        first.weight.register_hook(lambda grad: grad * torch.nan if self.now and self.what == 'gradient' else grad)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.now = batch_idx in self.at
        self.batches.append(data_batch)
        self.model.sup_weight['seg'] = float('inf') if self.now and self.what == 'term' else self.weight
        self.keep(runner)

    def keep(self, runner):
        self.states.append(copy.deepcopy((self.model.state_dict(), runner.optim_wrapper.optimizer.state_dict())))

    def after_train(self, runner):
        self.keep(runner)


@pytest.fixture
def poisoned(make_runner):
    """Makes a run whose losses go wrong, and gives it with its Poison."""

    def make(at, what='term', options=None, **hook):
        hooks = [METHOD, dict(dict(type='NonFiniteHook'), **hook), dict(type='Poison', at=at, what=what)]
        runner = make_runner({'custom_hooks': hooks, 'train_cfg.max_iters': 5, **(options or {})})
        return runner, next(hook for hook in runner.hooks if isinstance(hook, Poison))

    return make


def same(first, second):
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def all_finite(state):
    return all(value.isfinite().all() for value in state.values())


@pytest.mark.parametrize('what', ['term', 'image', 'gradient'])
def test_stop_names_terms_and_images_and_saves_nothing(what, poisoned, tmp_path):
    checkpoints = dict(type='CheckpointHook', by_epoch=False, interval=1)
    runner, poison = poisoned([1], what, {'default_hooks.checkpoint': checkpoints})
    with pytest.raises(FloatingPointError) as caught:
        runner.train()
    message = str(caught.value)
    assert 'Iteration 2' in message and "action='skip'" in message
    paths = image_paths(poison.batches[-1])
    assert len(paths) == 8 and all(path in message for path in paths)
    if what == 'term':
        assert 'sup.loss_seg = inf' in message and message.count('loss_') == 1
    elif what == 'image':
        assert 'sup.loss_seg = nan' in message and 'sup.loss_prop = nan' in message
    else:
        assert 'gradients that are not finite. All losses are. Gradients of 1 of' in message
        assert 'parameters: student.backbone.conv1.weight; images: ' in message
    assert [path.name for path in (tmp_path / 'work').glob('*.pth')] == ['iter_1.pth']
    assert all_finite(runner.model.teacher.state_dict())


@pytest.mark.parametrize('what', ['term', 'image', 'gradient'])
def test_a_skipped_step_leaves_everything_as_it_was(what, poisoned, caplog):
    runner, poison = poisoned([1], what, action='skip')
    with caplog.at_level(logging.WARNING):
        runner.train()
    _, one, two, three, four, _ = poison.states
    moved = [not torch.equal(a[0][name], b[0][name]) for a, b in ((one, two), (two, three)) for name in NAMES]
    assert moved == [False] * len(NAMES) + [True] * len(NAMES)
    assert same(one[1]['state'], two[1]['state']) and not same(two[1]['state'], three[1]['state'])
    students = [{k: v for k, v in state.items() if not k.startswith('teacher.')} for state, _ in (one, two)]
    assert same(*students)
    assert all(all_finite(state) for state, _ in poison.states) and not same(three[0], four[0])
    assert runner.message_hub.runtime_info['non_finite_iters'] == 1


NAMES = ['student.backbone.conv1.weight', 'student.backbone.bn1.running_mean', 'pseudo_labeler.tau']


def test_the_limit(poisoned):
    runner, _ = poisoned([0, 2], action='skip', limit=1)
    with pytest.raises(FloatingPointError, match='Iteration 3.*2 iterations.*limit of NonFiniteHook is 1'):
        runner.train()


@pytest.mark.parametrize('what', ['term', 'gradient'])
@pytest.mark.parametrize('at', [0, 1])
def test_an_accumulated_step_is_skipped_whole(at, what, poisoned):
    options = {'optim_wrapper.accumulative_counts': 2}
    runner, poison = poisoned([at], what, options=options, action='skip')
    runner.train()
    assert runner.message_hub.runtime_info['non_finite_iters'] == 1
    weights = [state['student.backbone.conv1.weight'] for state, _ in poison.states]
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2]) and not torch.equal(weights[2], weights[4])
    assert all_finite(poison.states[-1][0])


def test_a_bad_gradient_may_be_of_any_batch_of_its_step(poisoned):
    runner, poison = poisoned([2], 'gradient', {'optim_wrapper.accumulative_counts': 2})
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
@pytest.mark.parametrize('poison_at,hook', [([], {}), ([3], dict(action='skip'))], ids=['overflow', 'and a bad loss'])
def test_float16_overflow_recovers(poison_at, hook, fused, poisoned):
    options = {'optim_wrapper.type': 'ScaledOptimWrapper', 'train_cfg.max_iters': 6}
    options['optim_wrapper.optimizer.fused'] = fused
    runner, poison = poisoned(poison_at, options=options, **hook)
    runner.train()
    weights = [state['student.backbone.conv1.weight'] for state, _ in poison.states]
    moved = [not torch.equal(a, b) for a, b in zip(weights, weights[1:])]
    assert not moved[0] and moved[4] and not any(moved[at] for at in poison_at)
    assert runner.optim_wrapper.scaler.get_scale() <= 2.0**22
    assert all_finite(poison.states[-1][0])
    assert runner.message_hub.runtime_info.get('non_finite_iters', 0) == len(poison_at)


class Reads(TorchDispatchMode):
    """Counts the numbers that are read from tensors."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ == '_local_scalar_dense'
        return func(*args, **(kwargs or {}))


def test_judging_losses_waits_for_nothing():
    hook, module = NonFiniteHook(), torch.nn.Linear(1, 1)
    losses = {'loss_a': torch.tensor(1.0), 'loss_b': [torch.tensor([2.0, torch.nan])], 'acc': torch.tensor(torch.nan)}
    with Reads() as reads:
        hook.watch(module, (), losses)
    assert reads.count == 0 and hook.bad and set(hook.losses) == {'loss_a', 'loss_b'}
    hook.watch(module, (), {'loss_a': torch.tensor(1.0), 'acc': torch.tensor(torch.nan)})
    assert not hook.bad
    hook.watch(module, (), torch.tensor(torch.nan))  # logits are not its concern
    assert not hook.bad


@pytest.mark.parametrize('value', [1.0, torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize('action, waits', [('stop', 0), ('skip', 1)])
def test_judging_gradients_waits_only_to_skip(action, waits, value):
    hook, model = NonFiniteHook(action), torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD([*model.parameters(), torch.nn.Parameter(torch.zeros(0)), torch.nn.Parameter()], lr=1)
    for parameter in optimizer.param_groups[0]['params'][:3]:
        parameter.grad = torch.ones_like(parameter)
    model.weight.grad[1, 2] = value
    with Reads() as reads:
        hook.before_step(optimizer)
    assert reads.count == waits
    assert hook.found() == ('' if value == 1.0 else 'gradients')
    assert (model.bias.grad is None) == (action == 'skip' and value != 1.0)


def test_images_of_a_labelled_batch():
    samples = [SegDataSample(metainfo=dict(img_path=name)) for name in ('a.jpg', 'b.jpg', 'a.jpg')] + [SegDataSample()]
    assert image_paths(dict(data_samples=samples)) == ['a.jpg', 'b.jpg', '(no img_path)']
    assert image_paths(None) == []


def test_bad_options():
    with pytest.raises(ValueError, match="action = 'go' is unknown; choose one of 'stop', 'skip'"):
        NonFiniteHook('go')
    with pytest.raises(ValueError, match='limit = -1'):
        NonFiniteHook('skip', limit=-1)
