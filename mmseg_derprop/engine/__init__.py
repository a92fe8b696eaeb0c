"""Hooks, loops and constructors of semi-supervised training, registered in MMSegmentation's registries."""

from .bfloat16_optim_wrapper import BFloat16OptimWrapper
from .broken_files_hook import BrokenFilesHook
from .check_fit_hook import CheckFitHook, CheckpointMismatch
from .check_names_hook import CheckNamesHook
from .checkpoint_hook import ExactCheckpointHook
from .freeze_norm_hook import FreezeNormHook
from .log_history_hook import LogHistoryHook
from .metrics import UnroundedIoUMetric
from .non_finite_hook import NonFiniteHook
from .optim_constructor import SemiOptimWrapperConstructor
from .pseudo_label_hook import PseudoLabelHook
from .val_loop import TeacherStudentTestLoop, TeacherStudentValLoop
from .visualization_hook import PseudoLabelVisualizationHook
from .whole_files import CheckpointNotWritten

__all__ = [
    'BFloat16OptimWrapper',
    'BrokenFilesHook',
    'CheckFitHook',
    'CheckNamesHook',
    'CheckpointMismatch',
    'CheckpointNotWritten',
    'ExactCheckpointHook',
    'FreezeNormHook',
    'LogHistoryHook',
    'NonFiniteHook',
    'PseudoLabelHook',
    'PseudoLabelVisualizationHook',
    'SemiOptimWrapperConstructor',
    'TeacherStudentTestLoop',
    'TeacherStudentValLoop',
    'UnroundedIoUMetric',
]
