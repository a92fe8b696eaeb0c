"""From predictions to pseudo-labels: thresholds, distribution alignment, regions."""

from .alignment import DistributionAlignment
from .labeler import PseudoLabeler
from .prediction import Prediction, PseudoLabels
from .regions import RegionPropagation
from .thresholds import ClassMeanThreshold, FixedThreshold, MaxConfidenceThreshold, Threshold
