"""Validation and test of teacher and student."""

from __future__ import annotations

import copy
import os.path as osp
from typing import Any

import torch
from mmengine.evaluator import Evaluator
from mmengine.runner import TestLoop, ValLoop
from mmengine.runner.amp import autocast
from mmengine.utils import mkdir_or_exist
from mmseg.registry import LOOPS

from .hooks.pseudo_label_hook import semi_segmentor


class _TeacherStudentLoop:
    """Asks both networks about each batch; each has an evaluator of its own. Hooks see the one that is evaluated."""

    stage: str
    fp16: bool
    runner: Any
    dataloader: Any
    evaluator: Evaluator

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.evaluators = {'teacher': self.evaluator, 'student': copy.deepcopy(self.evaluator)}
        for name, evaluator in self.evaluators.items():
            for metric in evaluator.metrics:
                if getattr(metric, 'output_dir', None):  # where it writes predictions
                    metric.output_dir = osp.join(metric.output_dir, name)
                    mkdir_or_exist(metric.output_dir)

    def run(self) -> dict[str, float]:
        model = semi_segmentor(self.runner)
        chosen = model.predict_on
        other = 'student' if chosen == 'teacher' else 'teacher'
        self.runner.call_hook(f'before_{self.stage}')
        self.runner.call_hook(f'before_{self.stage}_epoch')
        self.runner.model.eval()
        self.evaluator = self.evaluators[chosen]
        try:
            for index, batch in enumerate(self.dataloader):
                self.run_iter(index, batch)  # type: ignore[attr-defined]
                model.predict_on = other
                with torch.no_grad(), autocast(enabled=self.fp16):  # hooks do not see this network
                    samples = getattr(self.runner.model, f'{self.stage}_step')(batch)
                self.evaluators[other].process(data_samples=samples, data_batch=batch)
                model.predict_on = chosen
            scores = {}
            for name, evaluator in self.evaluators.items():
                self.runner.logger.info(f'{name}:')
                scores[name] = evaluator.evaluate(len(self.dataloader.dataset))
        finally:
            model.predict_on, self.evaluator = chosen, self.evaluators['teacher']
        metrics = dict(scores[chosen])
        metrics |= {f'{name}/{key}': value for name, found in scores.items() for key, value in found.items()}
        self.runner.call_hook(f'after_{self.stage}_epoch', metrics=metrics)
        self.runner.call_hook(f'after_{self.stage}')
        return metrics


@LOOPS.register_module()
class TeacherStudentValLoop(_TeacherStudentLoop, ValLoop):
    """Scores both networks of a SemiSegmentor; metrics (``teacher/mIoU``) and prediction folders carry their names.

    Metrics without a name (``mIoU``) are of the network that ``predict_on`` names.
    """

    stage = 'val'


@LOOPS.register_module()
class TeacherStudentTestLoop(_TeacherStudentLoop, TestLoop):
    """As :class:`TeacherStudentValLoop`, for testing."""

    stage = 'test'
