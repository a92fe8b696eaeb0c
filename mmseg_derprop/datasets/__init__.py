"""Labelled and unlabelled sources, the sampler that mixes them, branches and strong views."""

from .camvid import CamVidDataset
from .collate import semi_collate
from .files import check_files, check_folder
from .leaks import check_leaks
from .samplers import SemiSampler
from .semi_dataset import SemiDataset
from .strong import RandomCutMixBox, StrongAugment
from .synthetic import ShapesDataset, write_shapes
from .transforms import (
    LoadUnlabeledAnnotations,
    MultiBranch,
    PackSemiInputs,
    PadToCrop,
    RandomRescale,
)
from .unlabeled import UnlabeledDataset

__all__ = [
    'CamVidDataset',
    'LoadUnlabeledAnnotations',
    'MultiBranch',
    'PackSemiInputs',
    'PadToCrop',
    'RandomCutMixBox',
    'RandomRescale',
    'SemiDataset',
    'SemiSampler',
    'ShapesDataset',
    'StrongAugment',
    'UnlabeledDataset',
    'check_files',
    'check_folder',
    'check_leaks',
    'semi_collate',
    'write_shapes',
]
