"""Hooks, loops and constructors of semi-supervised training, registered in MMSegmentation's registries."""

from .check_fit_hook import CheckFitHook, CheckpointMismatch
from .metrics import UnroundedIoUMetric
from .optim_constructor import SemiOptimWrapperConstructor
from .pseudo_label_hook import PseudoLabelHook
from .val_loop import TeacherStudentTestLoop, TeacherStudentValLoop
from .visualization_hook import PseudoLabelVisualizationHook

__all__ = [
    'CheckFitHook',
    'CheckpointMismatch',
    'PseudoLabelHook',
    'PseudoLabelVisualizationHook',
    'SemiOptimWrapperConstructor',
    'TeacherStudentTestLoop',
    'TeacherStudentValLoop',
    'UnroundedIoUMetric',
]
