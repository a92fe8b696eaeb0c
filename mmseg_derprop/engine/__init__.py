"""Hooks, loops and constructors of semi-supervised training, registered in MMSegmentation's registries."""

from .bfloat16_optim_wrapper import BFloat16OptimWrapper
from .hooks.broken_files_hook import BrokenFilesHook
from .hooks.checkpoint_hook import ExactCheckpointHook
from .hooks.non_finite_hook import NonFiniteHook
from .hooks.pseudo_label_hook import PseudoLabelHook
from .hooks.schedule_hook import ScheduleHook
from .hooks.strict_load_hook import CheckpointMismatch, StrictLoadHook
from .hooks.visualization_hook import PseudoLabelVisualizationHook
from .metrics import UnroundedIoUMetric
from .optim_constructor import SemiOptimWrapperConstructor
from .val_loop import TeacherStudentTestLoop, TeacherStudentValLoop
from .whole_files import CheckpointNotWritten
