"""Keeps the shares of classes among pseudo-labels where the labelled images have them."""

from __future__ import annotations

import torch
from mmengine.dist import all_reduce
from mmseg.registry import MODELS
from torch import Tensor, nn

from ...ops import class_counts, move_class_bias
from ...utils.options import Share, check_options
from .prediction import Prediction


@MODELS.register_module()
class DistributionAlignment(nn.Module):
    """Adds a bias to each class's logit, so that pseudo-labels have the classes in their labelled shares.

    A network that learns from its own labels predicts rare classes less and less. After each batch the bias moves by
    ``rate`` times the logarithm of labelled over predicted share; the former is the mean over all batches, the latter a
    moving mean (the aim of DARS, arXiv 2107.11279).

    Args:
        num_classes (int): K; the labeller gives it.
        rate (float): Within 0 .. 1.
        predict (bool): Whether evaluation's predictions have the bias too, a post-hoc logit adjustment (arXiv
            2007.07314): rare classes gain, frequent ones lose. It supposes that images in use have the classes in
            about the labelled shares.
    """

    bias: Tensor
    labeled_shares: Tensor
    predicted_shares: Tensor
    batches: Tensor

    @check_options
    def __init__(self, num_classes: int, rate: Share = 0.1, predict: bool = False) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.rate = rate
        self.predict = predict
        for name in ('bias', 'labeled_shares', 'predicted_shares'):
            self.register_buffer(name, torch.zeros(num_classes))
        self.register_buffer('batches', torch.zeros(()))

    def forward(self, logits: Tensor) -> Tensor:
        """Logits (N, K, H, W) with the bias of each class."""
        return logits + self.bias.to(logits.dtype)[:, None, None]

    @torch.no_grad()
    def update(self, prediction: Prediction, labels: Tensor, known: Tensor) -> None:
        """Moves the bias by what all processes predict with it, and the labels (M, H, W) that are known."""
        predicted = class_counts(prediction.labels, ~prediction.ignored, self.num_classes)
        counts = torch.stack([predicted, class_counts(labels, known, self.num_classes)])
        all_reduce(counts)
        predicted, labeled = (counts / counts.sum(1, keepdim=True).clamp_min(1)).to(self.bias.dtype)
        self.batches += 1
        self.labeled_shares.lerp_(labeled, 1 / self.batches)
        self.predicted_shares.lerp_(predicted, (1 / self.batches).clamp_min(0.05))
        self.bias.copy_(move_class_bias(self.bias, self.predicted_shares, self.labeled_shares, self.rate))
