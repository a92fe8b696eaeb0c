"""Batch normalisation that stays as it is while weights learn."""

import pytest
import torch
from mmengine.hooks import Hook

from mmseg_derprop.engine import FreezeNormHook

STATISTICS = ('running_mean', 'running_var', 'num_batches_tracked')
CHANGES = {'train_cfg.max_iters': 3, 'train_cfg.val_interval': 2}


class Modes(Hook):
    """Notes which layers normalise by their batch whenever they are used in training."""

    def before_train(self, runner):
        self.by_batch = set()
        for name, module in runner.model.named_modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.register_forward_hook(lambda m, *_, name=name: self.by_batch.add(name) if m.training else None)


def train(make_runner, hooks, changes=None):
    runner = make_runner({**CHANGES, **(changes or {})})
    start = {name: value.clone() for name, value in runner.model.state_dict().items()}
    modes = Modes()
    for hook in (*hooks, modes):
        runner.register_hook(hook)
    runner.train()
    moved = {name for name, value in runner.model.state_dict().items() if not torch.equal(value, start[name])}
    return moved, modes.by_batch


@pytest.mark.parametrize('predictor', ['own', 'student', 'teacher'])
def test_statistics_stay_and_weights_learn(make_runner, predictor):
    """Also after a validation, and where the student predicts in evaluation mode in the midst of a step."""
    moved, by_batch = train(make_runner, [FreezeNormHook()], {'model.cutmix_predictor': predictor})
    statistics = {name for name in moved if name.endswith(STATISTICS)}
    assert all(name.startswith('propagation_head.') for name in statistics | by_batch) and statistics and by_batch
    assert {'student.backbone.bn1.weight', 'student.backbone.bn1.bias', 'student.backbone.conv1.weight'} <= moved


def test_without_the_hook_they_move(make_runner):
    moved, by_batch = train(make_runner, [])
    assert 'student.backbone.bn1.running_mean' in moved and 'student.backbone.bn1' in by_batch


def test_a_text_is_no_list_of_parts():
    with pytest.raises(ValueError, match="exclude = 'student'"):
        FreezeNormHook(exclude='student')


def test_nothing_to_freeze(make_runner):
    with pytest.raises(ValueError, match='finds no batch normalisation outside of student, teacher, propagation_head'):
        train(make_runner, [FreezeNormHook(exclude=('student', 'teacher', 'propagation_head'))])
