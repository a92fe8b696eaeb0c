"""Terms of the total loss, each a registered module."""

from .base import NEEDS, SemiLoss
from .consistency import HardConsistencyLoss, PerturbedConsistencyLoss, PropagatedConsistencyLoss, SoftConsistencyLoss
from .derivative import AffinityConsistencyLoss, LabelAffinityLoss, SmoothnessLoss
from .pixel import OhemCrossEntropyLoss, PixelCrossEntropyLoss
from .supervised import SupervisedLoss
