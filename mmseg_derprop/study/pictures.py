"""Predictions of a study's networks on validation images."""

from __future__ import annotations

import os.path as osp
from glob import escape, glob

import numpy as np
import pandas as pd
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

from ..apis.inference import load_segmentor
from ..visualization.drawing import paint, panel, to_rgb


def draw_predictions(folder: str, data: pd.DataFrame, count: int) -> tuple[np.ndarray | None, list[str]]:
    """Images, their truth, and the predictions of each method that has a checkpoint, by its lowest such seed.

    Of the results of one split, and ``count`` images evenly spaced over the validation set.

    Returns:
        tuple[np.ndarray | None, list[str]]: (H, W, 3) uint8 RGB with a row for each image, and why methods have none.
    """
    columns: dict[str, list[np.ndarray]] = {}
    notes = []
    for label, runs in data.sort_values('seed').groupby('label', sort=False)['run']:
        # A table is data of anybody, and the config beside a checkpoint is a program: names must not leave the folder.
        names = [osp.basename(run) for run in runs.unique()]
        found = [(name, path) for name in names for path in glob(f'{escape(folder)}/runs/{escape(name)}/iter_*.pth')]
        try:
            if not found:
                raise OSError('no checkpoint is left')
            images, truth, predicted = _predict(osp.join(folder, 'configs', f'{found[0][0]}.py'), found[0][1], count)
            columns |= {'image': images, 'truth': truth, label: predicted}
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            notes.append(f'No pictures of {label}: {error}')
    rows = zip(*[[(title, picture) for picture in pictures] for title, pictures in columns.items()])
    return (panel(list(rows)) if columns else None), notes


@torch.no_grad()
def _predict(config_path: str, checkpoint: str, count: int) -> tuple[list, list, list]:
    """Images, truth and predictions (H, W, 3) of a run."""
    config = Config.fromfile(config_path)
    init_default_scope(config.get('default_scope', 'mmseg'))
    model, _ = load_segmentor(config, checkpoint)
    dataset = DATASETS.build(config.val_dataloader.dataset)
    palette = dataset.metainfo['palette']
    images, truth, predicted = [], [], []
    for index in np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int):
        sample = dataset[int(index)]
        batch = dict(inputs=[sample['inputs']], data_samples=[sample['data_samples']])
        images.append(to_rgb(sample['inputs'].numpy()))
        truth.append(paint(sample['data_samples'].gt_sem_seg.data[0].numpy(), palette))
        predicted.append(paint(model.test_step(batch)[0].pred_sem_seg.data[0].numpy(), palette))
    return images, truth, predicted
