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
