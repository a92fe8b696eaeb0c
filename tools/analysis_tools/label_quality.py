"""How good the pseudo-labels of a checkpoint are, where the unlabelled images have labels after all.

    python tools/analysis_tools/label_quality.py CONFIG CHECKPOINT [--alpha 0 0.5 1] [--detail] [--step 4] [--json FILE]
    python tools/analysis_tools/label_quality.py CONFIG CHECKPOINT --data val --oracle 16 8 4

Alpha is the share of the propagated prediction in the labels; "grid" is the decoder's prediction resized to the grid
of the propagation and back. ``--oracle`` says what propagation could give at these strides: by a perfect affinity each
position averages the probabilities of all positions of its true class. Classes are judged for the first alpha. Labels
are made as in training, but of whole images through the validation's pipeline. The unlabelled images' ``data_prefix``
must have a ``seg_map_path``.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config, DictAction
from mmengine.dataset import BaseDataset
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from rich.console import Console
from rich.progress import track
from rich.table import Table

import mmseg_derprop  # noqa: F401  (registers the parts)
from mmseg_derprop.apis.inference import label_logits, load_segmentor
from mmseg_derprop.models import SemiSegmentor
from mmseg_derprop.utils.config import load_config, type_name
from mmseg_derprop.utils.safe_loading import checkpoints_as_data


class Labels(NamedTuple):
    """Pseudo-labels of an image for one alpha: class ids and whether each is confident, (H, W) both."""

    classes: np.ndarray
    confident: np.ndarray


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Judge the pseudo-labels of a checkpoint')
    parser.add_argument('config', help='path of the config that the checkpoint was trained by')
    parser.add_argument('checkpoint', help='path of the checkpoint')
    parser.add_argument('--data', choices=('unlabeled', 'val'), default='unlabeled', help='default: %(default)s')
    parser.add_argument('--alpha', type=float, nargs='+', default=[0.0, 0.25, 0.5, 0.75, 1.0])
    parser.add_argument('--detail', action='store_true', help='propagation changes only what its grid can hold')
    parser.add_argument('--oracle', type=int, nargs='+', default=[], metavar='STRIDE', help='perfect affinities')
    parser.add_argument('--step', type=int, default=1, help='every how manieth image is judged (default: %(default)s)')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--json', metavar='FILE', help='write the figures there too')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='key=value pairs merged into the config')
    return parser.parse_args()


def labeled_images(config: Config, kind: str) -> BaseDataset:
    """The images with their labels, through the pipeline of the validation."""
    settings = copy.deepcopy(config.val_dataloader.dataset)
    if kind == 'unlabeled':
        sources = config.train_dataloader.dataset.get('unlabeled')
        if not isinstance(sources, dict):  # of a SplitDataset, in the folders of the labelled images
            built = DATASETS.build(dict(config.train_dataloader.dataset, lazy_init=True)).unlabeled_sources
            folders = dict(data_root='', ann_file=built[0].ann_file, data_prefix=dict(built[0].data_prefix))
            sources = folders if len(built) == 1 else None
        if not isinstance(sources, dict) or not (sources.get('data_prefix') or {}).get('seg_map_path'):
            raise ValueError("the unlabelled images' data_prefix must have one seg_map_path. Or try --data val.")
        for key in ('indices', 'ann_file'):
            settings.pop(key, None)
        settings.update({key: value for key, value in sources.items() if key not in ('type', 'pipeline')})
    return DATASETS.build(settings)


def on_grid(logits: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Logits resized to the grid of the propagation and back."""
    for size in (grid, logits.shape[-2:]):
        logits = F.interpolate(logits, size, mode='bilinear', align_corners=True)
    return logits


def by_perfect_affinity(logits: torch.Tensor, truth: torch.Tensor, stride: int, detail: bool) -> torch.Tensor:
    """Logits (1, K, H, W) after each position of a grid took the mean probabilities of all that have its true class.

    Positions whose class (H, W) is none of K keep their own. With ``detail`` only what the grid can hold changes.
    """
    probabilities, size = logits.softmax(1), logits.shape[-2:]
    grid = [-(-side // stride) for side in size]
    coarse = F.interpolate(probabilities, grid, mode='bilinear', align_corners=True)[0].flatten(1)  # (K, L)
    classes = F.interpolate(truth[None, None].float(), grid, mode='nearest-exact').flatten().long()
    members = F.one_hot(classes.clamp(max=len(coarse)), len(coarse) + 1)[:, :-1].to(coarse.dtype)  # (L, K)
    means = coarse @ members / members.sum(0).clamp_min(1)
    propagated = torch.where(members.any(1), means @ members.mT, coarse)
    change = propagated - coarse if detail else propagated
    change = F.interpolate(change.unflatten(1, grid)[None], size, mode='bilinear', align_corners=True)
    return (probabilities + change if detail else change).clamp_min(1e-12).log()


@torch.no_grad()
def pseudo_labels(
    model: SemiSegmentor, sample: dict, truth: torch.Tensor, args: argparse.Namespace
) -> Iterator[Labels]:
    """Labels of an image of true classes (H, W) for each of the rows that :func:`kinds` names."""
    logits, view = label_logits(model, sample)
    ignored = torch.zeros(1, *logits.shape[-2:], dtype=torch.bool, device=logits.device)
    mixtures = [logits] * len(args.alpha)
    if model.propagation_head is not None:
        coarse = on_grid(logits, view.embedding.grid)
        lost = logits - coarse if args.detail else 0.0
        mixtures = [torch.lerp(logits, view.propagated + lost, alpha) for alpha in args.alpha] + [coarse]
    truth = truth.to(logits.device)
    mixtures += [by_perfect_affinity(logits, truth, s, detail) for s in args.oracle for detail in (False, True)]
    for mixture in mixtures:
        found = model.pseudo_labeler.predict(mixture, ignored)
        yield Labels(found.labels[0].cpu().numpy(), model.pseudo_labeler.threshold(found)[0].cpu().numpy())


def confusion(truth: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Pixels by true and predicted class, (K, K)."""
    return np.bincount(truth * num_classes + labels, minlength=num_classes**2).reshape(num_classes, num_classes)


def percent(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Shares; NaN of nothing."""
    return np.divide(100.0 * part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)


def kinds(model: SemiSegmentor, args: argparse.Namespace) -> list[float | str]:
    """Names of the labels that are judged."""
    oracles = [f'oracle {stride}{detail}' for stride in args.oracle for detail in ('', ', detail')]
    return [*args.alpha, *(['grid'] if model.propagation_head is not None else []), *oracles]


def judge(model: SemiSegmentor, dataset: BaseDataset, args: argparse.Namespace) -> dict:
    """All figures, in percent."""
    names = list(dataset.metainfo['classes'])
    every = np.zeros((len(kinds(model, args)), len(names), len(names)), dtype=np.int64)
    sure = np.zeros_like(every)
    for index in track(range(0, len(dataset), args.step), 'judging'):
        sample = dataset[index]
        truth = sample['data_samples'].gt_sem_seg.data[None].float()
        classes = F.interpolate(truth, sample['inputs'].shape[-2:], mode='nearest-exact')[0, 0].long()
        truth = classes.numpy()
        known = truth < len(names)
        for place, found in enumerate(pseudo_labels(model, sample, classes, args)):
            every[place] += confusion(truth[known], found.classes[known], len(names))
            sure[place] += confusion(truth[known & found.confident], found.classes[known & found.confident], len(names))
    right, true, called = (np.diagonal(every, axis1=1, axis2=2), every.sum(2), every.sum(1))
    iou = percent(right, true + called - right)
    rows = zip(
        kinds(model, args),
        percent(right.sum(1), true.sum(1)),
        [np.nanmean(values) if not np.isnan(values).all() else np.nan for values in iou],
        percent(sure.sum((1, 2)), true.sum(1)),
        percent(np.trace(sure, axis1=1, axis2=2), sure.sum((1, 2))),
    )
    classes = zip(
        names,
        percent(true[0], np.full(len(names), true[0].sum())),
        percent(called[0], np.full(len(names), called[0].sum())),
        percent(right[0], true[0]),
        percent(right[0], called[0]),
        iou[0],
    )
    keys = dict(
        alphas=('alpha', 'right', 'mIoU', 'confident', 'right_of_confident'),
        classes=('class', 'true_share', 'predicted_share', 'found', 'right', 'IoU'),
    )
    parts = dict(alphas=rows, classes=classes)
    return {name: [dict(zip(keys[name], row)) for row in part] for name, part in parts.items()}


def plain(value: str | float) -> str | float | None:
    """A value as JSON can hold it, None for NaN."""
    return value if isinstance(value, str) else None if np.isnan(value) else float(value)


def show(title: str, rows: list[dict]) -> None:
    """Prints rows as a table."""
    table = Table(title=title, title_justify='left')
    for key in rows[0]:
        table.add_column(key.replace('_', ' '), justify='right')
    for row in rows:
        table.add_row(*(value if isinstance(value, str) else f'{value:.2f}' for value in row.values()))
    Console().print(table)


def main() -> None:
    args = parse_args()
    try:
        config = load_config(args.config, args.cfg_options)
        if type_name(config.model) != 'SemiSegmentor':
            raise ValueError(f'the model is a {config.model.type}: only a SemiSegmentor makes pseudo-labels')
        with checkpoints_as_data():
            model, _ = load_segmentor(config, args.checkpoint, args.device)
        if model.propagation_head is None:
            args.alpha = [0.0]
        init_default_scope(config.get('default_scope', 'mmseg'))
        found = judge(model, labeled_images(config, args.data), args)
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error
    show('Labels, in percent', found['alphas'])
    show(f'Classes, alpha = {args.alpha[0]:g}', found['classes'])
    if args.json:
        with open(args.json, 'w') as file:
            rows = {name: [{key: plain(v) for key, v in row.items()} for row in part] for name, part in found.items()}
            json.dump(rows, file, indent=1)


if __name__ == '__main__':
    main()
