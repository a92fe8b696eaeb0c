"""Validation and test of teacher and student."""

from __future__ import annotations

import copy
import os.path as osp
from typing import Any

from mmengine.evaluator import Evaluator
from mmengine.runner import TestLoop, ValLoop
from mmengine.utils import mkdir_or_exist
from mmseg.registry import LOOPS

from .hooks.pseudo_label_hook import semi_segmentor


class _TeacherStudentLoop:
    """Asks both networks about each batch; each has an evaluator of its own."""

    stage: str
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
        metrics: dict[str, float] = {}
        self.runner.call_hook(f'before_{self.stage}')
        self.runner.call_hook(f'before_{self.stage}_epoch')
        self.runner.model.eval()
        try:
            for index, batch in enumerate(self.dataloader):
                for name, evaluator in self.evaluators.items():
                    model.predict_on, self.evaluator = name, evaluator
                    self.run_iter(index, batch)  # type: ignore[attr-defined]
            for name, evaluator in self.evaluators.items():
                self.runner.logger.info(f'{name}:')
                scores = evaluator.evaluate(len(self.dataloader.dataset))
                metrics.update({f'{name}/{key}': value for key, value in scores.items()})
        finally:
            model.predict_on, self.evaluator = chosen, self.evaluators['teacher']
        self.runner.call_hook(f'after_{self.stage}_epoch', metrics=metrics)
        self.runner.call_hook(f'after_{self.stage}')
        return metrics


@LOOPS.register_module()
class TeacherStudentValLoop(_TeacherStudentLoop, ValLoop):
    """Scores both networks of a SemiSegmentor; metrics (``teacher/mIoU``) and prediction folders carry their names."""

    stage = 'val'


@LOOPS.register_module()
class TeacherStudentTestLoop(_TeacherStudentLoop, TestLoop):
    """As :class:`TeacherStudentValLoop`, for testing."""

    stage = 'test'
