"""Makes one self-contained page of a study: which method, how sure, and what it looks like.

    python tools/analysis_tools/report.py work_dirs/NAME_OF_THE_STUDY --out report.html

A table like docs/results/camvid_study.csv may take the place of the folder; then there are no pictures. Values are
means ± standard deviations over seeds, differences to the baseline are paired by seed, mean ± standard error.
"""

from __future__ import annotations

import argparse
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
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from rich.progress import track

from mmseg_derprop.apis.inference import label_logits, load_segmentor
from mmseg_derprop.models import SemiSegmentor
from mmseg_derprop.ops import similarity_rows
from mmseg_derprop.study.job import iteration_of
from mmseg_derprop.study.plan import StudyError
from mmseg_derprop.study.results import read_table
from mmseg_derprop.visualization.drawing import heat, overlay, paint, panel, to_rgb

# What is drawn where it was logged.
TRAINING = ('loss', 'threshold', 'alpha', 'confident', 'accepted', 'accuracy_confident', 'accuracy_accepted')
CURVES = ['mIoU', *(f'train/{name}' for name in TRAINING)]
STYLE = {'font.size': 8, 'axes.grid': True, 'grid.alpha': 0.3, 'text.parse_math': False, 'svg.hashsalt': 'report'}


def build_page(source: str, baseline: str = 'supervised', ceiling: str = 'all_labels', images: int = 3) -> str:
    """Makes one HTML page, which needs no other file, of a study's folder or a table like its results.csv.

    Methods are compared with the baseline, and the best with the ceiling if there is one. Predictions are drawn of so
    many validation images.

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
        scores = score_table(part, baseline)
        figures = [('Gain over the baseline, by seed', draw_gains(part, scores.index, baseline))]
        pictures, notes = draw_pictures(folder, part, images) if folder and images else ({}, [])
        figures += [(title, _source('png', _png(picture))) for title, picture in pictures.items()]
        figures.append(('Curves over iterations, means and ranges of the seeds', draw_curves(part)))
        verdict = say_verdict(part, baseline, ceiling)
        tables = dict(scores=scores, classes=class_table(part, baseline))
        sections.append(dict(split=split, verdict=verdict, notes=notes, figures=figures, **tables))
    template = Path(__file__).with_suffix('.html').read_text('utf-8')
    page = jinja2.Template(template, autoescape=True, trim_blocks=True)
    runs = data[data['metric'] == 'seconds'].rename(columns={'value': 'seconds', 'iteration': 'iterations'})
    runs = runs[['run', 'split', 'seed', 'iterations', 'seconds', 'revision', 'machine']]
    return page.render(baseline=baseline, sections=sections, runs=runs, html=pd.DataFrame.to_html)


def last_values(data: pd.DataFrame, metric: str) -> pd.DataFrame:
    """A metric at the last validation: a row for each label and network, a column for each seed."""
    values = data[data['metric'] == metric].sort_values('iteration')
    return values.groupby(['label', 'network', 'seed'])['value'].last().unstack()


def gains(last: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Differences to the baseline of the same seed and network, or its only one; NaN of the baseline itself."""
    if baseline not in last.index:
        return last * np.nan
    own = last.loc[baseline]
    differences = last - np.array([own.loc[n] if n in own.index else own.iloc[0] for _, n in last.index])
    differences.loc[[baseline]] = np.nan
    return differences


def without_options(data: pd.DataFrame) -> pd.DataFrame:
    """The methods themselves, to which options are variants."""
    return data[(data['option'] == '') & (data['stage'] != 'start')]


def say_verdict(data: pd.DataFrame, baseline: str, ceiling: str) -> str:
    """Which method, options aside, gains most, against the baseline, the next and the ceiling, and how sure that is."""
    last = last_values(without_options(data), 'mIoU')
    gain = gains(last, baseline).dropna(how='all')
    gain = gain.loc[gain.mean(axis=1).sort_values(ascending=False).index]
    most = gain.drop(ceiling, level='label', errors='ignore')
    if not len(most):
        return f'No method shares a seed with {baseline}.'
    (name, network), best = most.index[0], most.iloc[0].dropna()
    said = f'{name}{network and f" ({network})"} gains most: {_text(best.to_frame().T, True, True).iloc[0]} mIoU over '
    said += f'{baseline}, and gains in {(best > 0).sum()} of {len(best)} seeds.'
    room = gain.loc[ceiling].iloc[0].reindex(best.index) if ceiling in gain.index else best * np.nan
    if room.notna().all():
        said += f' That is {best.mean() / room.mean():.0%} of what {ceiling} gains.'
    others = most.drop(name, level='label')
    lead = (last.loc[most.index[0]] - last.loc[(others if len(others) else most).index[0]]).to_frame().T
    if len(others) and lead.notna().any(axis=None):
        said += f' Its lead over the next, {others.index[0][0]}, is {_text(lead, True, True).iloc[0]}.'
    return said + ' One seed is a hint, no evidence.' * (len(best) == 1)


def summarize(data: pd.DataFrame, metric: str, baseline: str) -> pd.DataFrame:
    """Statistics of a metric over seeds, of the results of one split, for each label and network.

    The number of ``seeds``, ``last`` as mean ± standard deviation, and ``difference`` to the baseline's last value:
    mean ± standard error over the seeds of both. Behind the baseline those that gain most come first.
    """
    last = last_values(data, metric)
    differences = gains(last, baseline)
    table = pd.DataFrame({'seeds': last.count(axis=1), 'last': _text(last)})
    table['difference'] = _text(differences, signed=True, standard_error=True)
    order = differences.mean(axis=1).groupby(level=0).max().sort_values(ascending=False, kind='stable').index
    return table.reindex([baseline, *order.drop(baseline, errors='ignore')], level=0)


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
    return pd.DataFrame(columns).reindex(summarize(data, 'mIoU', baseline).index)


def draw_gains(data: pd.DataFrame, order: pd.Index, baseline: str) -> str:
    """Of each method without options each seed's gain over the baseline as a dot, their mean and standard error."""
    rows = gains(last_values(without_options(data), 'mIoU'), baseline).dropna(how='all')
    labels = [label for label in dict.fromkeys(order.get_level_values(0)) if label in rows.index]
    places = {label: -place for place, label in enumerate(labels)}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 0.3 * len(places) + 0.8), layout='constrained')
        axis = figure.subplots()
        errors = rows.std(axis=1).fillna(0) / np.sqrt(rows.count(axis=1))
        for (network, part), colour, shift in zip(
            rows.groupby('network'), ('tab:blue', 'tab:orange', 'k'), (0.1, -0.1, 0)
        ):
            y = np.array([places[label] + shift for label in part.index.get_level_values('label')])
            axis.plot(part.to_numpy(), np.repeat(y[:, None], part.shape[1], 1), '.', color=colour, alpha=0.3)
            style = dict(fmt='o', markersize=4, color=colour, label=network or 'the only network')
            axis.errorbar(part.mean(axis=1), y, xerr=errors[part.index], **style)
        axis.axvline(0, color='0.3', linewidth=0.8)
        axis.set_yticks([*places.values()], [*places])
        axis.set(xlabel=f'mIoU minus that of {baseline}')
        if len(rows):
            axis.legend(loc='best')
        return _svg(figure)


def draw_curves(data: pd.DataFrame) -> str:
    """Means over seeds of the validation mIoU and of training curves, and the range of the seeds as a band."""
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
        return _svg(figure)


def draw_pictures(folder: str, data: pd.DataFrame, count: int) -> tuple[dict[str, np.ndarray], list[str]]:
    """Predictions and pseudo-labels of each method that has a checkpoint, by its lowest such seed.

    Of the results of one split, and ``count`` images evenly spaced over the validation set.

    Returns:
        tuple[dict[str, np.ndarray], list[str]]: Pictures (H, W, 3) uint8 RGB by their titles, a row for each image, and
        why methods have none.
    """
    columns: dict[str, list[np.ndarray]] = {}
    pictures, notes = {}, []
    methods = list(data.sort_values('seed').groupby('label', sort=False)['run'])
    for label, runs in track(methods, 'predicting'):
        # A table is data of anybody, and the config beside a checkpoint is a program: names must not leave the folder.
        names = [osp.basename(run) for run in runs.unique()]
        places = [(name, glob(f'{escape(folder)}/runs/{escape(name)}/iter_*.pth')) for name in names]
        found = [(name, path) for name, paths in places for path in paths if iteration_of(path)]
        try:
            if not found:
                raise OSError('no checkpoint is left')
            config = osp.join(folder, 'configs', f'{found[0][0]}.py')
            images, truth, predicted, labels = _predict(config, found[0][1], count)
        except (OSError, ValueError, RuntimeError, KeyError, AssertionError) as error:
            notes.append(f'No pictures of {label}: {error}')
            continue
        columns |= {'image': images, 'truth': truth, label: predicted}
        if labels:
            pictures[f'How {label} labels these images'] = panel([[(t, small(p)) for t, p in row] for row in labels])
    rows = zip(*[[(title, small(picture)) for picture in column] for title, column in columns.items()])
    predictions = {'Predictions': panel(list(rows))} if columns else {}
    return predictions | pictures, notes


def small(picture: np.ndarray, side: int = 320) -> np.ndarray:
    """A picture whose longer side is at most so long, so that a page of many can be read and sent."""
    scale = min(1, side / max(picture.shape[:2]))
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


@torch.no_grad()
def _predict(config_path: str, checkpoint: str, count: int) -> tuple[list, list, list, list]:
    """Images, truth, predictions (H, W, 3) of a run, and rows of what a semi-supervised one labels."""
    config = Config.fromfile(config_path)
    init_default_scope(config.get('default_scope', 'mmseg'))
    model, _ = load_segmentor(config, checkpoint)
    dataset = DATASETS.build(config.val_dataloader.dataset)
    palette = dataset.metainfo['palette']
    images, truth, predicted, labels = [], [], [], []
    for index in np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int):
        sample = dataset[int(index)]
        batch = dict(inputs=[sample['inputs']], data_samples=[sample['data_samples']])
        images.append(to_rgb(sample['inputs'].numpy()))
        truth.append(paint(sample['data_samples'].gt_sem_seg.data[0].numpy(), palette))
        predicted.append(paint(model.test_step(batch)[0].pred_sem_seg.data[0].numpy(), palette))
        if isinstance(model, SemiSegmentor):
            labels.append(draw_labels(model, sample, images[-1], palette))
    return images, truth, predicted, labels


def draw_labels(model: SemiSegmentor, sample: dict, image: np.ndarray, palette: list) -> list[tuple[str, np.ndarray]]:
    """Pseudo-labels of an image (H, W, 3) with titles; of a propagation head what is similar to a pixel, too."""
    logits, view = label_logits(model, sample)
    found = model.pseudo_labeler.predict(logits, torch.zeros(1, *image.shape[:2], dtype=torch.bool))
    ids, confident = found.labels[0].numpy(), model.pseudo_labeler.threshold(found)[0].numpy()
    pictures = [
        ('image', image),
        ('pseudo-labels', overlay(image, paint(ids, palette))),
        ('confidence', heat(found.confidence[0].numpy())),
        ('accepted by the threshold', paint(ids, palette, confident)),
    ]
    if model.propagation_head is None:
        return pictures
    (h, w), (height, width) = view.embedding.grid, image.shape[:2]
    chosen = torch.tensor([h // 2 * w + w // 2])  # in the middle
    similar = similarity_rows(view.embedding.q, view.embedding.k, chosen, view.head.max_order).view(1, 1, h, w)
    similar = (similar - similar.min()) / (similar.max() - similar.min()).clamp_min(1e-12)
    similar = F.interpolate(similar, (height, width), mode='bilinear', align_corners=True)[0, 0].numpy()
    place = (int((w // 2) / max(w - 1, 1) * (width - 1)), int((h // 2) / max(h - 1, 1) * (height - 1)))
    cross = cv2.drawMarker(np.ascontiguousarray(heat(similar)), place, (255, 255, 255), cv2.MARKER_CROSS, 12, 2)
    propagated = view.propagated.argmax(1)[0].numpy()
    changed = propagated != view.logits.argmax(1)[0].numpy()
    return [
        *pictures,
        ('similar to the cross', cross),
        ('propagated', overlay(image, paint(propagated, palette))),
        ('changed by propagation', paint(propagated, palette, changed)),
    ]


def _svg(figure: Figure) -> str:
    """A figure as the source of an image."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format='svg', metadata={'Date': None})
    return _source('svg+xml', buffer.getvalue())


def _png(picture: np.ndarray) -> bytes:
    return cv2.imencode('.png', picture[..., ::-1])[1].tobytes()


def _source(kind: str, data: bytes) -> str:
    """A picture as the source of an image."""
    return f'data:image/{kind};base64,{base64.b64encode(data).decode()}'


def main() -> None:
    parser = argparse.ArgumentParser(description='Report on a study')
    parser.add_argument('study', help="the study's folder, or a table like its results.csv")
    parser.add_argument('--out', type=Path, required=True, help='the HTML file to write')
    parser.add_argument('--baseline', default='supervised', help='method with which the others are compared')
    parser.add_argument('--ceiling', default='all_labels', help='method that has the labels of all images')
    parser.add_argument('--images', type=int, default=3, help='validation images that are drawn (default: 3; 0: none)')
    args = parser.parse_args()
    try:
        page = build_page(args.study, args.baseline, args.ceiling, args.images)
    except StudyError as error:
        parser.error(str(error))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(page, encoding='utf-8')
    print(args.out)


if __name__ == '__main__':
    main()
