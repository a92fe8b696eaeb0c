"""Hooks, loops and constructors of semi-supervised training, registered in MMSegmentation's registries."""

from .optim_constructor import SemiOptimWrapperConstructor
from .pseudo_label_hook import PseudoLabelHook
from .val_loop import TeacherStudentValLoop
from .visualization_hook import PseudoLabelVisualizationHook

__all__ = ['PseudoLabelHook', 'PseudoLabelVisualizationHook', 'SemiOptimWrapperConstructor', 'TeacherStudentValLoop']
