"""Hooks, loops and constructors of semi-supervised training, registered in MMSegmentation's registries."""

from .bfloat16_optim_wrapper import BFloat16OptimWrapper
from .log_history_hook import LogHistoryHook
from .non_finite_hook import NonFiniteHook
from .optim_constructor import SemiOptimWrapperConstructor
from .pseudo_label_hook import PseudoLabelHook
from .val_loop import TeacherStudentValLoop
from .visualization_hook import PseudoLabelVisualizationHook

__all__ = [
    'BFloat16OptimWrapper',
    'LogHistoryHook',
    'NonFiniteHook',
    'PseudoLabelHook',
    'PseudoLabelVisualizationHook',
    'SemiOptimWrapperConstructor',
    'TeacherStudentValLoop',
]
