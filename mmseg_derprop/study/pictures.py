"""Predictions of a study's networks on validation images."""

from __future__ import annotations

import glob
import os.path as osp

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

from ..apis.inference import load_segmentor
from ..visualization.drawing import paint


def draw_predictions(folder: str, data: pd.DataFrame, count: int) -> tuple[Figure | None, list[str]]:
    """Images, their truth, and the predictions of each method that has a checkpoint, by its lowest such seed.

    Args:
        folder (str): The study's folder.
        data (pd.DataFrame): Results of one split, with labels.
        count (int): Number of images, evenly spaced over the validation set.

    Returns:
        tuple[Figure | None, list[str]]: A row for each image, and why methods have no pictures.
    """
    columns: dict[str, list[np.ndarray]] = {}
    notes = []
    for label, runs in data.sort_values('seed').groupby('label', sort=False)['run']:
        try:
            found = [(run, checkpoint) for run in runs.unique() if (checkpoint := _checkpoint(folder, run))]
            if not found:
                raise OSError('no checkpoint is left')
            drawn = _predict(folder, *found[0], count)
            columns |= {'image': drawn[0], 'truth': drawn[1], label: drawn[2]}
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            notes.append(f'No pictures of {label}: {error}')
    if not columns:
        return None, notes
    height, width = columns['image'][0].shape[:2]
    rows = len(columns['image'])
    with matplotlib.rc_context({'font.size': 7, 'text.parse_math': False}):
        size = 1.8 * len(columns), (1.8 * height / width + 0.2) * rows
        figure = Figure(figsize=size, layout='constrained')
        axes = figure.subplots(rows, len(columns), squeeze=False)
        for (title, pictures), column in zip(columns.items(), axes.T):
            column[0].set_title(title)
            for axis, picture in zip(column, pictures):
                axis.imshow(picture)
                axis.set_axis_off()
    return figure, notes


def _checkpoint(folder: str, run: str) -> str | None:
    # A table is data of anybody, and the config beside a checkpoint is a program: names must not leave the folder.
    found = glob.glob(osp.join(glob.escape(osp.join(folder, 'runs', osp.basename(run))), 'iter_*.pth'))
    return max(found, key=osp.getmtime, default=None)


@torch.no_grad()
def _predict(folder: str, run: str, checkpoint: str, count: int) -> tuple[list, list, list]:
    """Images, truth and predictions (H, W, 3) of a run."""
    config = Config.fromfile(osp.join(folder, 'configs', f'{osp.basename(run)}.py'))
    init_default_scope(config.get('default_scope', 'mmseg'))
    model, _ = load_segmentor(config, checkpoint)
    dataset = DATASETS.build(config.val_dataloader.dataset)
    palette = dataset.metainfo['palette']
    pictures: tuple[list, list, list] = ([], [], [])
    for index in np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int):
        sample = dataset[int(index)]
        truth = sample['data_samples'].gt_sem_seg.data[0].numpy()
        batch = dict(inputs=[sample['inputs']], data_samples=[sample['data_samples']])
        predicted = model.test_step(batch)[0].pred_sem_seg.data[0].numpy()
        image = sample['inputs'].numpy().transpose(1, 2, 0)[..., ::-1]
        for column, picture in zip(pictures, (image, paint(truth, palette), paint(predicted, palette))):
            column.append(picture)
    return pictures
