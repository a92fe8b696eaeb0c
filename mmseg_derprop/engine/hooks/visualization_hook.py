"""Draws pseudo-labels while they are made."""

from __future__ import annotations

import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from torch import Tensor

from ...models import PseudoLabels, Step
from ...utils.options import is_number
from ...visualization.drawing import count_map, heat, outline, overlay, paint, panel
from .pseudo_label_hook import semi_segmentor


@HOOKS.register_module()
class PseudoLabelVisualizationHook(Hook):
    """Shows, every so often, what the unlabelled images of a batch are taught.

    Each row of the picture is an image: the weak view, the strong view with its CutMix box, the cut-mixed labels,
    their confidence, the accepted labels after region propagation, the regions, and the true labels where they are
    known. It goes to the runner's visualizer, so to files and, where configured, to TensorBoard.

    Args:
        interval (int): Iterations between two pictures.
        max_images (int): Images of the batch that are drawn.

    Raises:
        ValueError: If one is below 1.
    """

    priority = 'LOW'

    def __init__(self, interval: int = 500, max_images: int = 2) -> None:
        for name, value in dict(interval=interval, max_images=max_images).items():
            if not is_number(value, 1, whole=True):
                raise ValueError(f'{name} = {value!r}, but it must be a whole number of at least 1.')
        self.interval = interval
        self.max_images = max_images
        self.step: Step | None = None

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Asks the model for the step if it is to be drawn."""
        due = self.every_n_inner_iters(batch_idx, self.interval)
        semi_segmentor(runner).step_observer = self._keep if due else None

    def _keep(self, step: Step) -> None:
        self.step = step

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Draws the step that the model handed over."""
        if self.step is None or not self.step.strong or data_batch is None:
            return
        palette = runner.train_dataloader.dataset.metainfo['palette']
        strong = self.step.strong[0]
        boxes = strong.box.cpu().numpy()
        second = 'strong_mix' if strong.partner is None else 'strong'
        order = range(len(boxes)) if strong.partner is None else strong.partner.tolist()
        images = {branch: [_rgb(i) for i in data_batch['inputs'][branch]] for branch in {'weak', 'strong', second}}
        rows = []
        for index, (box, other) in enumerate(zip(boxes[: self.max_images], order)):
            mixed = np.where(box[..., None], images[second][other], images['strong'][index])
            sample = data_batch['data_samples']['weak'][index]
            truth = sample.gt_sem_seg.data[0].cpu().numpy() if 'gt_sem_seg' in sample else None
            picture = outline(mixed, box)
            rows.append(draw_pseudo_labels(images['weak'][index], picture, strong.target, index, palette, truth))
        runner.visualizer.add_image('pseudo_labels', panel(rows), step=runner.iter + 1)
        self.step = None


def draw_pseudo_labels(
    weak: np.ndarray,
    strong: np.ndarray,
    target: PseudoLabels,
    index: int,
    palette: list,
    truth: np.ndarray | None = None,
) -> list[tuple[str, np.ndarray]]:
    """Pictures of one image's pseudo-labels, with titles, for :func:`mmseg_derprop.visualization.drawing.panel`.

    Args:
        weak, strong (np.ndarray): (H, W, 3) uint8 RGB.
        target (PseudoLabels): Of the batch.
        index (int): The image's.
        palette (list): RGB of each class.
        truth (np.ndarray, optional): (H, W) true labels of the weak view.
    """

    def array(tensor: Tensor) -> np.ndarray:
        return tensor[index].cpu().numpy()

    pictures = [
        ('weak view', weak),
        ('strong view, CutMix box', strong),
        ('labels', overlay(strong, paint(array(target.mixed.labels), palette))),
        ('confidence', heat(array(target.mixed.confidence))),
        ('confident', paint(array(target.mixed.labels), palette, array(target.confident))),
        ('accepted after regions', paint(array(target.labels), palette, array(target.accepted))),
    ]
    if target.regions is not None:
        pictures.append(('regions (count)', count_map(array(target.regions))))
    if truth is not None:
        pictures.append(('truth of the weak view', paint(truth, palette)))
    return pictures


def _rgb(image: Tensor) -> np.ndarray:
    """A loaded image (3, H, W), uint8 BGR, as (H, W, 3) RGB."""
    return np.ascontiguousarray(image.cpu().numpy().transpose(1, 2, 0)[..., ::-1])
