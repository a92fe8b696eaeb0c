"""From which confidence on a prediction becomes a pseudo-label."""

from __future__ import annotations

import torch
from mmengine.dist import all_reduce
from mmseg.registry import MODELS
from torch import Tensor, nn

from ...ops import class_maxima, class_sums, move_class_thresholds, move_threshold
from ...utils.options import Share, check_options
from .prediction import Prediction


class Threshold(nn.Module):
    """A threshold of confidence; subclasses say how it moves.

    It moves once per optimiser step: with gradient accumulation, ``begin_step`` is called before the first batch of a
    step only, and every batch of the step moves the threshold from where it was then, by what all of them showed.

    Args:
        num_classes (int): K; the labeller gives it.
        value (float): Where it starts, within 0 .. 1.

    Attributes:
        value (Tensor): Scalar; what region propagation and the log read.
        moves (bool): Whether it can change, and so belongs into the log.
        rejects (bool): Whether it can find a prediction not confident.
    """

    value: Tensor
    moves = rejects = True

    def __init__(self, num_classes: int, value: float) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.register_buffer('value', torch.tensor(float(value)))

    def begin_step(self) -> None:
        """An optimiser step begins."""

    def update(self, prediction: Prediction, valid: Tensor) -> None:
        """Moves by the prediction of N weak views; ``valid`` (N, H, W) bool are the pixels that count."""

    def forward(self, prediction: Prediction) -> Tensor:
        """(N, H, W) bool, where a prediction is confident."""
        return prediction.confidence >= self.value


@MODELS.register_module()
class FixedThreshold(Threshold):
    """One threshold that stays (FixMatch, arXiv 2001.07685).

    Args:
        value (float): The threshold, within 0 .. 1; with 0 every pixel has a label.
    """

    moves = False

    @check_options
    def __init__(self, num_classes: int, value: Share = 0.95) -> None:
        super().__init__(num_classes, value)
        self.rejects = value > 0


@MODELS.register_module()
class MaxConfidenceThreshold(Threshold):
    """Follows the classes' highest confidences (CorrMatch, arXiv 2306.04300; METHOD section 5, step 4).

    It moves towards the mean, over the classes that are predicted anywhere in the batches of all processes, of the
    highest confidence of each. A class that the network is rarely sure of gives no labels, and its neighbours take
    its place.

    Args:
        init (float): Where it starts, within 0 .. 1.
        momentum (float): Share of the old threshold in the new one, within 0 .. 1.
    """

    start: Tensor
    maxima: Tensor

    @check_options
    def __init__(self, num_classes: int, init: Share = 0.85, momentum: Share = 0.999) -> None:
        super().__init__(num_classes, init)
        self.momentum = momentum
        self.register_buffer('start', self.value.clone())
        self.register_buffer('maxima', torch.zeros(num_classes))

    def begin_step(self) -> None:
        self.start.copy_(self.value)
        self.maxima.zero_()

    @torch.no_grad()
    def update(self, prediction: Prediction, valid: Tensor) -> None:
        maxima = class_maxima(prediction.confidence, prediction.labels, valid, self.num_classes)
        all_reduce(maxima, 'max')
        torch.maximum(self.maxima, maxima, out=self.maxima)
        self.value.copy_(move_threshold(self.start, self.maxima, self.momentum))


@MODELS.register_module()
class ClassMeanThreshold(Threshold):
    """A threshold for each class, which follows the mean confidence of the pixels that are predicted as this class.

    So about half of each class's pixels become labels, as in class-balanced self-training (arXiv 1810.07911).
    ``value`` is the mean over the classes.

    Args:
        init (float): Where all of them start, within 0 .. 1.
        momentum (float): Share of the old thresholds in the new ones, within 0 .. 1.
    """

    classes: Tensor
    start: Tensor
    sums: Tensor

    @check_options
    def __init__(self, num_classes: int, init: Share = 0.7, momentum: Share = 0.98) -> None:
        super().__init__(num_classes, init)
        self.momentum = momentum
        self.register_buffer('classes', torch.full((num_classes,), float(init)))
        self.register_buffer('start', self.classes.clone())
        self.register_buffer('sums', torch.zeros(2, num_classes))

    def begin_step(self) -> None:
        self.start.copy_(self.classes)
        self.sums.zero_()

    @torch.no_grad()
    def update(self, prediction: Prediction, valid: Tensor) -> None:
        sums = class_sums(prediction.confidence, prediction.labels, valid, self.num_classes)
        all_reduce(sums)
        self.sums += sums
        self.classes.copy_(move_class_thresholds(self.start, self.sums, self.momentum))
        self.value.copy_(self.classes.mean())

    def forward(self, prediction: Prediction) -> Tensor:
        return prediction.confidence >= self.classes[prediction.labels]
