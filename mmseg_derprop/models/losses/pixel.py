"""Pixel losses for decode heads, as the field divides them. Neither reads a number back from a GPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor, nn

from ...utils.options import PositiveInt, Share, check_options


@MODELS.register_module()
class PixelCrossEntropyLoss(nn.Module):
    """Cross entropy, its mean over the pixels that are not ignored; 0 if there is none.

    It is MMSegmentation's ``CrossEntropyLoss`` with ``avg_non_ignore=True``, in float32, without its wait for the
    number of these pixels. ``loss_name`` contains "loss" to take part in the sum.
    """

    use_sigmoid = False  # MMSegmentation's name: no binary loss, so no head of one channel

    def __init__(self, loss_weight: float = 1.0, loss_name: str = 'loss_ce') -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.loss_name = loss_name

    def forward(
        self, logits: Tensor, labels: Tensor, weight: Tensor | None = None, ignore_index: int = 255, **kwargs
    ) -> Tensor:
        """Scalar loss of logits (N, K, H, W) and labels (N, H, W), with weights (N, H, W) of the pixels or without."""
        losses = F.cross_entropy(logits.float(), labels, reduction='none', ignore_index=ignore_index)
        counted = self.counted(losses, labels != ignore_index)
        if weight is not None:
            losses = losses * weight
        return self.loss_weight * losses.where(counted, 0.0).sum() / counted.sum().clamp_min(1)

    def counted(self, losses: Tensor, valid: Tensor) -> Tensor:
        """(N, H, W) bool, the pixels whose mean is taken, of those that are not ignored."""
        return valid


@MODELS.register_module()
class OhemCrossEntropyLoss(PixelCrossEntropyLoss):
    """Cross entropy over the hard pixels of a process's batch (online hard example mining).

    If fewer than ``min_kept`` pixels are valid, all of them count; else those whose probability of the true class
    is at most the larger of ``thresh`` and the ``min_kept``-th smallest. The mean is over the pixels that count.
    MMSegmentation's OHEMPixelSampler keeps its number per image and divides by all pixels, and its OhemCrossEntropy
    drops the least certain pixel that should be kept; both differ from what the field compares with.

    Args:
        thresh (float): Probability up to which a pixel is hard.
        min_kept (int): Pixels of the batch that count at least.
        loss_weight (float): Factor of the loss.
        loss_name (str): Its key; contains "loss" to take part in the sum.
    """

    @check_options
    def __init__(
        self,
        thresh: Share = 0.7,
        min_kept: PositiveInt = 100_000,
        loss_weight: float = 1.0,
        loss_name: str = 'loss_ohem',
    ) -> None:
        super().__init__(loss_weight, loss_name)
        self.thresh = thresh
        self.min_kept = min_kept

    @torch.no_grad()
    def counted(self, losses: Tensor, valid: Tensor) -> Tensor:
        if valid.numel() < self.min_kept:
            return valid
        probability = torch.exp(-losses).masked_fill(~valid, 2.0)  # beyond every probability
        kth = probability.flatten().kthvalue(self.min_kept).values
        # Fewer valid pixels than min_kept put the k-th smallest at 2: all valid ones are kept.
        return valid & (probability <= kth.clamp_min(self.thresh))
