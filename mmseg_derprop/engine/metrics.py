"""Scores as MMSegmentation computes them, to all their digits and of each class."""

from __future__ import annotations

from mmseg.evaluation.metrics import IoUMetric
from mmseg.registry import METRICS


@METRICS.register_module()
class UnroundedIoUMetric(IoUMetric):
    """IoUMetric that also gives the IoU of each class, and keeps its scores unrounded.

    Its results have ``IoU.<class>`` beside ``mIoU``, in percent, so that the log's scalars hold them. A class that is
    in no image is left out. ``table`` has percent by name (``aAcc``, ``mIoU``, ...), and ``classes``: of each class,
    percent by name (``IoU``, ``Acc``, ...), None for one that is in no image.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.table: dict = {}

    def compute_metrics(self, results: list) -> dict[str, float]:
        metrics = super().compute_metrics(results)
        if not self.format_only:
            areas = [sum(column) for column in zip(*results)]
            scores = self.total_area_to_metrics(*areas, self.metrics, self.nan_to_num, self.beta)
            percent = {key: 100 * value.astype(float) for key, value in scores.items()}
            self.table = {'aAcc': float(percent.pop('aAcc'))}
            self.table |= {f'm{key}': _number(value[value == value].mean()) for key, value in percent.items()}
            classes = self.dataset_meta['classes']
            self.table['classes'] = {
                name: {key: _number(value[i]) for key, value in percent.items()} for i, name in enumerate(classes)
            }
            ious = {name: scores.get('IoU') for name, scores in self.table['classes'].items()}
            metrics |= {f'IoU.{name}': value for name, value in ious.items() if value is not None}
        return metrics


def _number(value: float) -> float | None:
    return float(value) if value == value else None
