"""A page of a study: tables of scores with paired differences, curves, pictures."""

from __future__ import annotations

import base64
import io
import os.path as osp
from glob import escape, glob
from pathlib import Path

import cv2
import jinja2
import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

from ..apis.inference import load_segmentor
from ..visualization.drawing import paint, panel, to_rgb
from .plan import StudyError
from .results import read_table

# What is drawn where it was logged.
TRAINING = ('loss', 'threshold', 'alpha', 'confident', 'accepted', 'accuracy_confident', 'accuracy_accepted')
CURVES = ['mIoU', *(f'train/{name}' for name in TRAINING)]
STYLE = {'font.size': 8, 'axes.grid': True, 'grid.alpha': 0.3, 'text.parse_math': False, 'svg.hashsalt': 'report'}


def build_page(source: str, baseline: str = 'supervised', images: int = 3) -> str:
    """Makes one HTML page, which needs no other file, of a study's folder or a table like its results.csv.

    Methods are compared with the baseline. Predictions are drawn of so many validation images.

    Raises:
        StudyError: If there are no results, or none of the baseline.
    """
    folder = source if osp.isdir(source) else None
    data = read_table(osp.join(folder, 'results.csv') if folder else source)
    data['label'] = data['method'] + np.where(data['option'] == '', '', '+' + data['option'])
    data.loc[data['stage'] == 'start', 'label'] += ' (start)'
    if not len(data) or baseline not in set(data['label']):
        raise StudyError(f'--baseline must be one of {", ".join(sorted(set(data["label"])))}, but is {baseline}.')
    sections = []
    for split, part in data.groupby('split'):
        drawn, notes = draw_predictions(folder, part, images) if folder and images else (None, [])
        figures = [_source('svg+xml', draw_curves(part))]
        if drawn is not None:
            figures.append(_source('png', cv2.imencode('.png', drawn[..., ::-1])[1].tobytes()))
        tables = dict(scores=score_table(part, baseline), classes=class_table(part, baseline))
        sections.append(dict(split=split, notes=notes, figures=figures, **tables))
    page = jinja2.Template(Path(__file__).with_name('page.html').read_text('utf-8'), autoescape=True, trim_blocks=True)
    runs = data[data['metric'] == 'seconds'].rename(columns={'value': 'seconds', 'iteration': 'iterations'})
    runs = runs[['run', 'split', 'seed', 'iterations', 'seconds', 'revision', 'machine']]
    return page.render(baseline=baseline, sections=sections, runs=runs, html=pd.DataFrame.to_html)


def summarize(data: pd.DataFrame, metric: str, baseline: str) -> pd.DataFrame:
    """Statistics of a metric over seeds, of the results of one split, for each label and network.

    The number of ``seeds``, ``last`` and ``best`` as mean ± standard deviation, and ``difference`` to the baseline's
    last value: mean ± standard error over the seeds of both.
    """
    values = data[data['metric'] == metric].sort_values('iteration')
    groups = values.groupby(['label', 'network', 'seed'])['value']
    last, best = groups.last().unstack(), groups.max().unstack()
    table = pd.DataFrame({'seeds': last.count(axis=1), 'last': _text(last), 'best': _text(best)})
    differences = last * np.nan
    if baseline in last.index:  # of each row the same network, or its only one
        own = last.loc[baseline]
        differences = last - np.array([own.loc[n] if n in own.index else own.iloc[0] for _, n in last.index])
        differences.loc[[baseline]] = np.nan
    table['difference'] = _text(differences, signed=True, standard_error=True)
    others = [label for label in sorted(set(values['label'])) if label != baseline]
    return table.reindex([baseline, *others], level=0)


def _text(values: pd.DataFrame, signed: bool = False, standard_error: bool = False) -> pd.Series:
    """``74.2 ± 0.8`` for each row; a single value has no spread."""
    spread = values.std(axis=1) / (np.sqrt(values.count(axis=1)) if standard_error else 1)
    means = values.mean(axis=1).map(('{:+.1f}' if signed else '{:.1f}').format)
    return (means + spread.map(' ± {:.1f}'.format).replace(' ± nan', '')).replace(['nan', '+nan'], '')


def score_table(data: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """mIoU and seconds of each method and network."""
    table = summarize(data, 'mIoU', baseline)
    seconds = data[data['metric'] == 'seconds'].groupby('label')['value'].mean().round()
    return table.assign(seconds=table.index.get_level_values(0).map(seconds))


def class_table(data: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """IoU of each class at the last validation, and in brackets the difference to the baseline."""
    columns = {}
    for metric in data['metric'].drop_duplicates():
        if metric.startswith('IoU.'):
            table = summarize(data, metric, baseline)
            columns[metric[4:]] = table['last'] + (' (' + table['difference'] + ')').replace(' ()', '')
    return pd.DataFrame(columns)


def draw_curves(data: pd.DataFrame) -> bytes:
    """Means over seeds of the validation mIoU and of training curves, and the range of the seeds as a band; SVG."""
    data = data[(data['stage'] != 'start') & data['metric'].isin(CURVES)]
    curves = sorted(data.groupby(['metric', 'network']), key=lambda curve: CURVES.index(curve[0][0]))
    labels = sorted(set(data['label']))
    colors = dict(zip(labels, matplotlib.colormaps['turbo'](np.linspace(0.05, 0.95, len(labels)))))
    with matplotlib.rc_context(STYLE):
        rows = -(-len(curves) // 3) or 1
        figure = Figure(figsize=(10, 2.8 * rows + 0.4), layout='constrained')
        axes = figure.subplots(rows, 3, squeeze=False).ravel()
        for axis in axes[len(curves) :]:
            axis.remove()
        for axis, ((metric, network), part) in zip(axes, curves):
            for label, lines in part.groupby('label'):
                values = lines.groupby('iteration')['value'].agg(['mean', 'min', 'max'])
                axis.fill_between(values.index, values['min'], values['max'], color=colors[label], alpha=0.15)
                axis.plot(values.index, values['mean'], color=colors[label], marker='.', markersize=3)
            axis.set(title=f'{metric.removeprefix("train/")} {network}', xlabel='iteration')
        handles = [Line2D([], [], color=color) for color in colors.values()]
        figure.legend(handles, labels, loc='outside lower center', ncols=5)
        buffer = io.BytesIO()
        figure.savefig(buffer, format='svg', metadata={'Date': None})
    return buffer.getvalue()


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


def _source(kind: str, data: bytes) -> str:
    """A picture as the source of an image."""
    return f'data:image/{kind};base64,{base64.b64encode(data).decode()}'
