"""Draws pseudo-labels while they are made."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from torch import Tensor

from ...models import PseudoLabels, Step
from ...utils.options import PositiveInt, check_options
from ...visualization.drawing import count_map, heat, outline, overlay, paint, panel, to_rgb
from .pseudo_label_hook import semi_segmentor


@HOOKS.register_module()
class PseudoLabelVisualizationHook(Hook):
    """Shows, every ``interval`` iterations, what the first ``max_images`` unlabelled images of a batch are taught.

    Each row of the picture is an image: the weak view, the cut-mixed strong view with its box, the cut-mixed labels,
    their confidence, the accepted labels after region propagation, the regions, and the true labels where they are
    known. It goes to the runner's visualizer, so to files and, where configured, to TensorBoard.
    """

    priority = 'LOW'

    @check_options
    def __init__(self, interval: PositiveInt = 500, max_images: PositiveInt = 2) -> None:
        self.interval = interval
        self.max_images = max_images
        self.step: Step | None = None

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Asks the model for the step if it is to be drawn."""
        due = self.every_n_inner_iters(batch_idx, self.interval)
        semi_segmentor(runner).step_observer = partial(setattr, self, 'step') if due else None

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs=None) -> None:
        if self.step is None or not self.step.strong or data_batch is None:
            return
        palette = runner.train_dataloader.dataset.metainfo['palette']
        inputs, samples = data_batch['inputs'], data_batch['data_samples']['weak']
        strong, rows = self.step.strong[0], []
        for index, sample in enumerate(samples[: self.max_images]):
            box = strong.box[index].cpu().numpy()
            weak = inputs['weak'][index]
            seen = loaded(strong.images[index], semi_segmentor(runner).data_preprocessor.base, weak.dtype)
            mixed = to_rgb(seen.cpu().numpy())
            row = [('weak view', to_rgb(weak.cpu().numpy())), ('strong view, CutMix box', outline(mixed, box))]
            row += draw_labels(strong.target, index, mixed, palette)
            if 'gt_sem_seg' in sample:
                row.append(('truth of the weak view', paint(sample.gt_sem_seg.data[0].cpu().numpy(), palette)))
            rows.append(row)
        runner.visualizer.add_image('pseudo_labels', panel(rows), step=runner.iter + 1)
        self.step = None


def loaded(image: Tensor, preprocessor: Any, dtype: torch.dtype) -> Tensor:
    """An image (C, H, W) as it was before a segmentor's preprocessor normalised it."""
    if getattr(preprocessor, '_enable_normalize', False):
        image = image * preprocessor.std + preprocessor.mean
    if getattr(preprocessor, '_channel_conversion', False) and len(image) == 3:  # others it leaves in their order
        image = image.flip(0)
    return image.to(dtype) if dtype.is_floating_point else image.round().to(dtype)


def draw_labels(target: PseudoLabels, index: int, image: np.ndarray, palette: list) -> list[tuple[str, np.ndarray]]:
    """Pictures of the pseudo-labels of one image of a batch, (H, W, 3) uint8 RGB, with their titles."""
    parts = (target.mixed.labels, target.mixed.confidence, target.confident, target.labels, target.accepted)
    mixed, confidence, confident, labels, accepted = (part[index].cpu().numpy() for part in parts)
    pictures = [
        ('labels', overlay(image, paint(mixed, palette))),
        ('confidence', heat(confidence)),
        ('confident', paint(mixed, palette, confident)),
        ('accepted after regions', paint(labels, palette, accepted)),
    ]
    if target.regions is not None:
        pictures.append(('regions (count)', count_map(target.regions[index].cpu().numpy())))
    return pictures
