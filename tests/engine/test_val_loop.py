"""Teacher and student are scored as each alone would be."""

import pytest
import torch
from mmengine.hooks import Hook
from mmseg.registry import HOOKS

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


@HOOKS.register_module()
class Watch(Hook):
    """Watches a score."""

    def __init__(self, monitor):
        self.monitor = monitor


PLATEAU = dict(type='ReduceOnPlateauLR', rule='greater')


@pytest.mark.parametrize(
    'options, refused',
    [
        ({'default_hooks.own': dict(type='Watch', monitor='teacher/mIoU')}, None),
        ({'default_hooks.own': dict(type='EarlyStoppingHook', monitor='mIoU')}, None),
        (
            {'default_hooks.own': dict(type='EarlyStoppingHook', monitor='mIou')},
            'EarlyStoppingHook.monitor must be .*mIoU.* behind teacher/ or student/, but is .mIou.',
        ),
        ({'param_scheduler': [dict(PLATEAU, monitor='IoU.ring')]}, None),
        ({'param_scheduler': [dict(PLATEAU, monitor='loss')]}, 'ReduceOnPlateauLR.monitor must be .*mIoU.*is .loss.'),
        ({'save_best': ['teacher/mAcc', 'mIoU']}, None),
        ({'save_best': 'val/mIoU'}, 'ExactCheckpointHook.save_best must be a score .*is .val/mIoU.'),
    ],
)
def test_names_of_scores_are_checked(make, options, refused):
    options['val_evaluator'] = dict(EVALUATOR, type='UnroundedIoUMetric')
    options['train_cfg.max_iters'] = 1
    if 'save_best' in options:
        options['default_hooks.checkpoint'] = dict(type='ExactCheckpointHook', save_best=options.pop('save_best'))
    runner = make(options)
    if refused is None:
        runner.train()
        assert runner.iter == 1
    else:
        with pytest.raises(ValueError, match=refused):
            runner.train()
        assert runner.iter == 0


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
    plain = {key.removeprefix('student/'): score for key, score in alone.items() if key.startswith('student/')}
    assert both == pytest.approx(plain | alone, nan_ok=True) and list(both)[0] == 'aAcc'
    assert {'teacher/mIoU', 'student/mIoU', 'teacher/mFscore'} <= set(both)
    assert both['teacher/mIoU'] != both['student/mIoU']
    assert runner.model.predict_on == 'student'
    # Six images in batches of four, each loaded once; one validation, and hooks see what is evaluated.
    assert calls.names == ['before_val', 'student', 'student']
    assert calls.metrics == [both]
