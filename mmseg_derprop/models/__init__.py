"""Networks, pseudo-labels and losses, registered in MMSegmentation's MODELS."""

from contextlib import suppress

from . import published  # noqa: F401  (registers its parts)
from .data_preprocessor import SemiDataPreprocessor
from .derprop_head import DerPropHead, Embedding
from .heads.deeplabv3plus_head import DeepLabV3PlusHead
from .losses import OhemCrossEntropyLoss, PixelCrossEntropyLoss, SemiLoss
from .necks import PairWithTokens
from .pseudo_labels import Prediction, PseudoLabeler, PseudoLabels, Threshold
from .semi_segmentor import SemiSegmentor
from .step import Step, StrongView, View
from .teacher_student import plain_config

with suppress(ImportError):  # so that a config can name mmpretrain's backbones where they are installed
    import mmpretrain.models  # noqa: F401
