"""Maps of a batch's samples, and what a step says about its pseudo-labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from mmseg.structures import SegDataSample
from torch import Tensor

from .step import Step

if TYPE_CHECKING:
    from .semi_segmentor import SemiSegmentor

# MMSegmentation writes it for padding and unmapped labels, whatever a head's ignore_index is.
PADDED = 255


def stack_maps(samples: list[SegDataSample], field: str) -> Tensor:
    """(N, H, W) of a field of samples, each (1, H, W)."""
    return torch.stack([getattr(sample, field).data[0] for sample in samples])


def stack_boxes(samples: list[SegDataSample], device: torch.device) -> Tensor:
    """(N, 4) int64, the samples' CutMix boxes."""
    return torch.tensor([sample.metainfo['cutmix_box'] for sample in samples]).to(device, non_blocking=True)


def stack_labels(samples: list[SegDataSample], ignore_index: int) -> Tensor:
    """(N, H, W) int64, the true labels; 255 becomes ``ignore_index``, in the samples too."""
    if ignore_index != PADDED:
        for sample in samples:
            sample.gt_sem_seg.data.masked_fill_(sample.gt_sem_seg.data == PADDED, ignore_index)
    return stack_maps(samples, 'gt_sem_seg')


@torch.no_grad()
def step_statistics(
    model: SemiSegmentor, step: Step, data_samples: dict[str, list[SegDataSample]]
) -> dict[str, Tensor]:
    """Scalars for the log, on the device of the step; what cannot change is left out.

    They are the threshold, shares of the pixels of the first strong view, and, where unlabelled images have labels
    after all (``gt_sem_seg``), the accuracies within 0 .. 1 of the pseudo-labels outside of its CutMix boxes, NaN where
    no pixel is known.
    """
    target, labeler = step.target, model.pseudo_labeler
    valid = ~target.mixed.ignored
    pixels = valid.sum().clamp_min(1)
    found = {'threshold': labeler.threshold.value.clone()} if labeler.threshold.moves else {}
    if labeler.threshold.rejects:
        found['confident'] = target.confident.sum() / pixels
    judged = {'confident': (target.mixed.labels, target.confident)}
    if labeler.regions is not None:
        found['accepted'] = target.accepted.sum() / pixels
        found['region_changes'] = (target.labels != target.mixed.labels).sum() / pixels
        judged['accepted'] = (target.labels, target.accepted)
    if step.strong and all('gt_sem_seg' in sample for sample in data_samples['weak']):
        truth = stack_maps(data_samples['weak'], 'gt_sem_seg')
        known = valid & ~step.strong[0].box & (truth != model.ignore_index) & (truth != PADDED)
        for name, (labels, mask) in judged.items():
            mask = mask & known
            found[f'accuracy_{name}'] = ((labels == truth) & mask).sum() / mask.sum()
    return found
