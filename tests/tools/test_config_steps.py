"""Configs at work: a training step, an evaluation, a state saved and loaded, on generated data and a CPU.

Few configs that use all files of configs/_base_, with narrower networks; all of them, with the networks as they are,
by `pytest -m configs` (make test-configs). New folders, methods and networks are found by themselves.
"""

import ast
import functools
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from shrink import pipeline_of, shrink, write_data

from mmseg_derprop.utils.config import load_config

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / 'configs'
FILES = sorted(path for path in CONFIGS.glob('*/*.py') if path.parent.name != '_base_')
pytestmark = pytest.mark.usefixtures('quick_runs')


def bases(path):
    """The files of configs/_base_ that a config is made of; of networks and methods those that it names itself."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == '_base_':
            named = ast.literal_eval(node.value)
            for name in [named] if isinstance(named, str) else named:
                base = (path.parent / name).resolve()
                if base.parent.parent.name == '_base_':
                    yield base
                if base.parent.name not in ('models', 'methods'):
                    yield from bases(base)


PARTS = {path: set(bases(path)) for path in FILES}


@functools.cache
def kind(part):
    """A file of configs/_base_, or of a network its classes: sizes of one are the same when they are narrowed."""
    if part.parent.name != 'models':
        return part
    model = Config.fromfile(part).model
    heads = model.decode_head if isinstance(model.decode_head, list) else [model.decode_head]
    return (model.backbone.type, *(head.type for head in heads))


def cover():
    """Few configs that together use all kinds of networks, data sets and schedules that any config uses."""
    kinds = {
        path: {kind(part) for part in parts if part.parent.name not in ('methods', 'splits')}
        for path, parts in PARTS.items()
    }
    left = set().union(*kinds.values())
    while left:
        best = max(FILES, key=lambda path: len(kinds[path] & left))
        yield best
        left -= kinds[best]


def name(path):
    return f'{path.parent.name}/{path.stem}'


class OneStep(Hook):
    """Keeps the state before the first step and its losses, and ends training after it."""

    def before_train(self, runner):
        self.start = {key: value.clone() for key, value in runner.model.state_dict().items()}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses = {key: float(value.detach()) for key, value in outputs.items()}
        runner.train_loop.stop_training = True


def check(path, work, narrower):
    """Trains a config for a step, evaluates it, and saves and loads its state."""
    config = load_config(str(path), {'data_root': str(work / 'data')})
    shrink(config, narrower)
    write_data(config)
    best = config.default_hooks.checkpoint.get('save_best') or []
    for scheduler in config.param_scheduler:
        if 'start_factor' in scheduler:
            scheduler.start_factor = 1.0  # the first steps of a warm-up move nothing
    config.optim_wrapper.optimizer.weight_decay = 0.0  # what moves is moved by gradients
    config.merge_from_dict({'default_hooks.checkpoint': None, 'log_level': 'WARNING', 'work_dir': str(work)})
    # The engine keeps a message hub and a visualizer for each name.
    config.experiment_name = config.visualizer.name = f'{name(path)}_{narrower}'
    runner = Runner.from_cfg(config)
    runner.register_hook(step := OneStep())
    runner.train()

    assert step.losses['loss'] > 0 and all(torch.isfinite(torch.tensor(value)) for value in step.losses.values())
    model, state = runner.model, {key: value.clone() for key, value in runner.model.state_dict().items()}
    moved = {key for key, value in state.items() if not torch.equal(value, step.start[key])}
    semi = config.model.type == 'SemiSegmentor'
    groups = ['backbone.', 'decode_head.']
    if semi:
        assert step.losses.keys() == {'loss', *config.model.losses}
        assert any(key.startswith('teacher.') for key in moved) == (runner.model.teacher_options.interval == 'step')
        groups = [f'student.{group}' for group in groups] + ['propagation_head.'] * ('propagation_head' in config.model)
    for group in groups:
        weights = {key for key in state if key.startswith(group) and key.endswith('weight') and state[key].ndim > 1}
        assert weights and len(moved & weights) > 0.9 * len(weights), (group, weights - moved)

    metrics = runner.val_loop.run()
    assert set([best] if isinstance(best, str) else best) <= set(metrics)
    assert metrics and all(0 <= value <= 100 for key, value in metrics.items() if key.endswith('aAcc'))

    optimizer = runner.optim_wrapper.optimizer
    # Each parameter had a gradient, or distributed training would fail.
    assert set(optimizer.state) == {p for group in optimizer.param_groups for p in group['params']}
    runner.save_checkpoint(str(work), 'state.pth')
    with torch.no_grad():
        for value in model.state_dict().values():
            value.zero_()
    optimizer.state.clear()
    runner.resume(str(work / 'state.pth'))
    (work / 'state.pth').unlink()
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert runner.iter == 1
    assert set(optimizer.state) == {p for group in optimizer.param_groups for p in group['params']}


def test_every_base_file_is_used():
    """By a config, or by a study."""
    files = {path for path in CONFIGS.glob('_base_/*/*.py') if path.parent.name != 'methods'}
    studies = ''.join(path.read_text() for path in CONFIGS.glob('studies/*.yaml'))
    studied = {CONFIGS / named for named in re.findall(r'\.\./(_base_/[\w/.-]+\.py)', studies)}
    assert not files - {part for parts in PARTS.values() for part in parts} - studied


@pytest.mark.parametrize('path', list(cover()), ids=name)
def test_step(path, tmp_path):
    check(path, tmp_path, narrower=True)


@pytest.mark.parametrize('method', sorted(CONFIGS.glob('_base_/methods/*.py')), ids=lambda path: path.stem)
def test_step_of_a_method(method, tmp_path):
    text = (CONFIGS / 'derprop/tiny_shapes.py').read_text()
    assert text.count('methods/derprop.py') == 1
    pipeline = pipeline_of(load_config(str(method)).method)
    text += f'train_dataloader = dict(dataset=dict(unlabeled=dict(pipeline=_base_.{pipeline})))\n'
    path = tmp_path / f'{method.stem}.py'
    path.write_text(text.replace('methods/derprop.py', f'methods/{method.name}').replace("'../", f"'{CONFIGS}/"))
    check(path, tmp_path, narrower=True)


@pytest.mark.configs
@pytest.mark.parametrize('path', FILES, ids=name)
def test_step_of_the_whole_network(path, tmp_path):
    check(path, tmp_path, narrower=False)


@pytest.mark.parametrize('page', ['README.md', 'configs/derprop/README.md'])
def test_step_of_another_first_line(page, tmp_path):
    """What the pages tell to write."""
    blocks = re.findall(r'```python\n(.*?)```', (ROOT / page).read_text(), re.S)
    (block,) = (block for block in blocks if '_base_/models/segformer' in block)
    config = tmp_path / 'config.py'
    config.write_text(block.replace("'../", f"'{CONFIGS}/"))
    check(config, tmp_path, narrower=True)
