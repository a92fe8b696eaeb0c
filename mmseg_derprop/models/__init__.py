"""Networks, pseudo-labels and losses, registered in MMSegmentation's MODELS."""

from contextlib import suppress

from .data_preprocessor import SemiDataPreprocessor
from .derprop_head import DerPropHead, Embedding
from .heads.deeplabv3plus_head import DeepLabV3PlusHead
from .losses import OhemCrossEntropyLoss, PixelCrossEntropyLoss
from .pseudo_labeler import Prediction, PseudoLabeler, PseudoLabels
from .semi_segmentor import SemiSegmentor
from .teacher_student import plain_config
from .view import View

with suppress(ImportError):  # so that a config can name mmpretrain's backbones where they are installed
    import mmpretrain.models  # noqa: F401

__all__ = [
    'DeepLabV3PlusHead',
    'DerPropHead',
    'Embedding',
    'OhemCrossEntropyLoss',
    'PixelCrossEntropyLoss',
    'Prediction',
    'PseudoLabeler',
    'PseudoLabels',
    'SemiDataPreprocessor',
    'SemiSegmentor',
    'View',
    'plain_config',
]
