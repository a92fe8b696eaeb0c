"""Teacher and student are scored as each alone would be."""

import pytest
import torch
from mmengine.hooks import Hook

EVALUATOR = dict(type='IoUMetric', iou_metrics=['mIoU', 'mFscore'])


class Calls(Hook):
    """Counts what a validation calls."""

    def __init__(self):
        self.names, self.metrics = [], []

    def before_val(self, runner):
        self.names.append('before_val')

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.names.append(runner.model.predict_on)

    def after_val_epoch(self, runner, metrics=None):
        self.metrics.append(metrics)


@pytest.fixture
def make(make_runner):
    """A runner whose student and teacher are strangers to each other."""

    def build(options=None, loop='TeacherStudentValLoop'):
        runner = make_runner({'val_cfg.type': loop, 'val_evaluator': EVALUATOR, **(options or {})}, val=True)
        generator = torch.Generator().manual_seed(1)
        for network in (runner.model.student, runner.model.teacher):
            for weight in network.parameters():
                weight.data.normal_(0, 0.3, generator=generator)
        return runner

    return build


def test_scores_are_those_of_each_alone(make):
    runner = make({'model.predict_on': 'student'})
    calls = Calls()
    runner.register_hook(calls)
    both = runner.val()
    alone = {
        f'{name}/{key}': value
        for name in ('teacher', 'student')
        for key, value in make({'model.predict_on': name}, loop='ValLoop').val().items()
    }
    assert both == pytest.approx(alone, nan_ok=True)
    assert {'teacher/mIoU', 'student/mIoU', 'teacher/mFscore'} <= set(both)
    assert both['teacher/mIoU'] != both['student/mIoU']
    assert runner.model.predict_on == 'student'
    # Six images in batches of four, each loaded once; one validation.
    assert calls.names == ['before_val', 'teacher', 'student', 'teacher', 'student']
    assert calls.metrics == [both]


def test_a_validation_within_training(make, tmp_path):
    """In the log, in evaluation mode, and back in training mode."""
    modes = []

    class Modes(Hook):
        def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            modes.append((runner.model.student.training, runner.model.teacher.training))

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            modes.append((runner.model.student.training, runner.model.teacher.training))

    saving = dict(type='CheckpointHook', by_epoch=False, interval=10, save_last=False)
    saving['save_best'] = ['teacher/mIoU', 'student/mIoU']
    runner = make({'train_cfg.max_iters': 2, 'train_cfg.val_interval': 1, 'default_hooks.checkpoint': saving})
    runner.register_hook(Modes())
    runner.train()
    assert modes == ([(True, False)] + [(False, False)] * 4) * 2
    for name in ('teacher', 'student'):
        history = runner.message_hub.get_scalar(f'val/{name}/mIoU').data[0]
        assert len(history) == 2
        assert runner.message_hub.get_info(f'best_score_{name}/mIoU') == max(history)
        best = 1 + int(history[1] > history[0])
        assert [path.name for path in (tmp_path / 'work').glob(f'best_{name}_mIoU_*')] == [
            f'best_{name}_mIoU_iter_{best}.pth'
        ]
