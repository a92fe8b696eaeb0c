"""Tensor functions of the method. They import torch only."""

from .affinity import (
    affinity_consistency_loss,
    interpolated_label_affinity_loss,
    label_affinity_loss,
    labels_on_grid,
    smoothness_loss,
)
from .classes import class_counts, class_maxima, class_sums, move_class_bias, move_class_thresholds, move_threshold
from .consistency import cross_entropy_map, entropy_map, masked_mean, soft_cross_entropy_map
from .perturbations import box_masks, complementary_dropout2d, mix
from .regions import propagate_regions, region_masks
from .similarity import NORMALIZATIONS, check_order, derivative, propagate, similarity_metric, similarity_rows
