"""Losses of the method. Means are over the pixels that are not ignored, whatever the mask leaves.

Nothing here reads a number back from a GPU.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from ..utils.options import is_number


def labeled_losses(
    head: BaseDecodeHead, logits: Tensor, samples: list[SegDataSample], share: Tensor | float = 1.0
) -> dict[str, Tensor]:
    """The losses of a decode head, those of its ``loss_by_feat`` without the accuracy.

    MMSegmentation's accuracy selects pixels by a mask, which makes the host wait for the GPU, and ranks all classes.
    A head that has a ``loss_by_feat`` of its own, or samples pixels, is asked itself.

    Args:
        head (BaseDecodeHead): The head.
        logits (Tensor): (N, K, h, w), its output.
        samples (list[SegDataSample]): With ``gt_sem_seg`` (1, H, W).
        share (Tensor | float): Factor of losses that are means over the labelled pixels: PixelCrossEntropyLoss, and
            MMSegmentation's CrossEntropyLoss with ``avg_non_ignore=True`` and without weights of classes.

    Returns:
        dict[str, Tensor]: Scalars by the names of the losses.
    """
    if type(head).loss_by_feat is not BaseDecodeHead.loss_by_feat or head.sampler is not None:
        return {name: value for name, value in head.loss_by_feat(logits, samples).items() if 'loss' in name}
    labels = torch.cat([sample.gt_sem_seg.data for sample in samples])
    if logits.shape[-2:] != labels.shape[-2:]:
        logits = F.interpolate(logits, labels.shape[-2:], mode='bilinear', align_corners=head.align_corners)
    losses: dict[str, Tensor] = {}
    for part in head.loss_decode if isinstance(head.loss_decode, nn.ModuleList) else [head.loss_decode]:
        name, loss = str(part.loss_name), part(logits, labels, ignore_index=head.ignore_index)
        loss = loss * share if _is_mean_over_labels(part) else loss
        losses[name] = losses[name] + loss if name in losses else loss
    return losses


def _is_mean_over_labels(loss: nn.Module) -> bool:
    weighted = getattr(loss, 'class_weight', None) is not None
    return isinstance(loss, PixelCrossEntropyLoss) or (getattr(loss, 'avg_non_ignore', False) and not weighted)


def hard_loss(logits: Tensor, labels: Tensor, mask: Tensor, ignored: Tensor) -> Tensor:
    """Cross entropy with labels, on the pixels of a mask.

    Args:
        logits (Tensor): (N, K, H, W).
        labels (Tensor): (N, H, W) int64 within 0 .. K - 1.
        mask (Tensor): (N, H, W) bool.
        ignored (Tensor): (N, H, W) bool. The sum is divided by the number of the other pixels.

    Returns:
        Tensor: Scalar, float32; 0 where the mask is empty.
    """
    return _mean(F.cross_entropy(logits.float(), labels, reduction='none'), mask, ignored)


def soft_losses(logits: Tensor, target: Tensor, kl_mask: Tensor, ce_mask: Tensor, ignored: Tensor):
    """Kullback-Leibler divergence from, and cross entropy with, the distribution of other logits.

    Args:
        logits (Tensor): (N, K, H, W).
        target (Tensor): (N, K, H, W) logits of the target; no gradient reaches them.
        kl_mask, ce_mask (Tensor): (N, H, W) bool, the pixels of each loss.
        ignored (Tensor): (N, H, W) bool. The sums are divided by the number of the other pixels.

    Returns:
        tuple[Tensor, Tensor]: KL(target || prediction) and the cross entropy, scalars in float32.
    """
    log_target = target.detach().float().log_softmax(1)
    probability = log_target.exp()
    cross_entropy = -(probability * logits.float().log_softmax(1)).sum(1)
    divergence = cross_entropy + (probability * log_target).sum(1)
    return _mean(divergence, kl_mask, ignored), _mean(cross_entropy, ce_mask, ignored)


def _mean(values: Tensor, mask: Tensor, ignored: Tensor) -> Tensor:
    return values.where(mask, 0.0).sum() / (~ignored).sum().clamp_min(1)


@MODELS.register_module()
class PixelCrossEntropyLoss(nn.Module):
    """Cross entropy, its mean over the pixels that are not ignored; 0 if there is none.

    It is MMSegmentation's ``CrossEntropyLoss`` with ``avg_non_ignore=True``, in float32, without its wait for the
    number of these pixels.

    Args:
        loss_weight (float): Factor of the loss.
        loss_name (str): Its key; contains "loss" to take part in the sum.
    """

    def __init__(self, loss_weight: float = 1.0, loss_name: str = 'loss_ce') -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.loss_name = loss_name

    def forward(
        self, logits: Tensor, labels: Tensor, weight: Tensor | None = None, ignore_index: int = 255, **kwargs
    ) -> Tensor:
        """Scalar loss of logits (N, K, H, W) and labels (N, H, W), with weights (N, H, W) of the pixels or without."""
        losses = F.cross_entropy(logits.float(), labels, reduction='none', ignore_index=ignore_index)
        if weight is not None:
            losses = losses * weight
        return self.loss_weight * losses.sum() / (labels != ignore_index).sum().clamp_min(1)


@MODELS.register_module()
class OhemCrossEntropyLoss(nn.Module):
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

    def __init__(
        self,
        thresh: float = 0.7,
        min_kept: int = 100_000,
        loss_weight: float = 1.0,
        loss_name: str = 'loss_ohem',
    ) -> None:
        super().__init__()
        if not is_number(thresh, 0, 1) or not is_number(min_kept, 1, whole=True):
            raise ValueError(
                f'thresh = {thresh!r}, min_kept = {min_kept!r}: they must be within 0 .. 1 and at least 1.'
            )
        self.thresh = thresh
        self.min_kept = min_kept
        self.loss_weight = loss_weight
        self.loss_name = loss_name

    def forward(
        self, logits: Tensor, labels: Tensor, weight: Tensor | None = None, ignore_index: int = 255, **kwargs
    ) -> Tensor:
        """Scalar loss of logits (N, K, H, W) and labels (N, H, W); 0 if no pixel is valid."""
        losses = F.cross_entropy(logits.float(), labels, reduction='none', ignore_index=ignore_index)
        valid = labels != ignore_index
        hard = valid
        if labels.numel() >= self.min_kept:
            with torch.no_grad():
                probability = torch.exp(-losses).masked_fill(~valid, 2.0)  # beyond every probability
                kth = probability.flatten().kthvalue(self.min_kept).values
                # Fewer valid pixels than min_kept put the k-th smallest at 2: all valid ones are kept.
                hard = valid & (probability <= kth.clamp_min(self.thresh))
        if weight is not None:
            losses = losses * weight
        return self.loss_weight * losses.where(hard, 0.0).sum() / hard.sum().clamp_min(1)
