"""Networks, pseudo-labels and losses, registered in MMSegmentation's MODELS."""

from .data_preprocessor import SemiDataPreprocessor
from .deeplabv3plus_head import DeepLabV3PlusHead
from .derprop_head import DerPropHead, Embedding
from .losses import OhemCrossEntropyLoss
from .pseudo_labeler import Prediction, PseudoLabeler, PseudoLabels
from .semi_segmentor import SemiSegmentor
from .view import View

__all__ = [
    'DeepLabV3PlusHead',
    'DerPropHead',
    'Embedding',
    'OhemCrossEntropyLoss',
    'Prediction',
    'PseudoLabeler',
    'PseudoLabels',
    'SemiDataPreprocessor',
    'SemiSegmentor',
    'View',
]
