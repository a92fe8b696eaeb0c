"""Validation of teacher and student."""

from __future__ import annotations

from mmengine.runner import ValLoop
from mmseg.registry import LOOPS

from .pseudo_label_hook import semi_segmentor


@LOOPS.register_module()
class TeacherStudentValLoop(ValLoop):
    """Scores both networks of a SemiSegmentor, each as it would be used.

    Metrics carry the network's name (``teacher/mIoU``, ``student/mIoU``), so that ``save_best`` can name either.
    """

    def run(self) -> dict[str, float]:
        """Evaluates both and returns all metrics."""
        model = semi_segmentor(self.runner)
        chosen = model.predict_on
        metrics: dict[str, float] = {}
        self.runner.call_hook('before_val')
        self.runner.call_hook('before_val_epoch')
        self.runner.model.eval()
        try:
            for name in ('teacher', 'student'):
                model.predict_on = name
                for index, batch in enumerate(self.dataloader):
                    self.run_iter(index, batch)
                scores = self.evaluator.evaluate(len(self.dataloader.dataset))
                metrics.update({f'{name}/{key}': value for key, value in scores.items()})
        finally:
            model.predict_on = chosen
        self.runner.call_hook('after_val_epoch', metrics=metrics)
        self.runner.call_hook('after_val')
        return metrics
