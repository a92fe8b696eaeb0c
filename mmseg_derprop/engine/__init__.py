"""Hooks, loops and constructors of semi-supervised training, registered in MMSegmentation's registries."""

from .bfloat16_optim_wrapper import BFloat16OptimWrapper
from .check_fit_hook import CheckFitHook, CheckpointMismatch
from .metrics import UnroundedIoUMetric
from .optim_constructor import SemiOptimWrapperConstructor
from .pseudo_label_hook import PseudoLabelHook
from .val_loop import TeacherStudentTestLoop, TeacherStudentValLoop
from .visualization_hook import PseudoLabelVisualizationHook

__all__ = [
    'BFloat16OptimWrapper',
    'CheckFitHook',
    'CheckpointMismatch',
    'PseudoLabelHook',
    'PseudoLabelVisualizationHook',
    'SemiOptimWrapperConstructor',
    'TeacherStudentTestLoop',
    'TeacherStudentValLoop',
    'UnroundedIoUMetric',
]
