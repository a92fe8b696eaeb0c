"""Labelled and unlabelled sources, the sampler that mixes them, branches and strong views."""

from .camvid import CamVidDataset
from .checks.broken import BrokenData, Problem
from .checks.labels import CheckLabels
from .checks.leaks import check_leaks
from .samplers import LabeledSampler, SemiSampler
from .semi_dataset import SemiDataset
from .split_dataset import SplitDataset
from .strong import RandomCutMixBox, StrongAugment
from .synthetic import ShapesDataset, write_shapes
from .transforms import LoadUnlabeledAnnotations, MultiBranch, PackSemiInputs, PadToCrop, RandomRescale, semi_collate
from .unlabeled import UnlabeledDataset
