"""Line charts of a study. Colours and dashes belong to methods and stay the same from figure to figure."""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from .runs import METRIC, Row, Setting

# Okabe and Ito's palette, which colour-blind readers can tell apart, without black, which is the baseline's, and
# yellow, which white paper swallows.
COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')
MARKERS = 'sD^vPX*'
DASHES = ('-', (0, (5, 1.5)), (0, (1.5, 1.2)))
STYLE = {
    'font.family': 'DejaVu Sans',  # comes with matplotlib, so it is the same everywhere
    'font.size': 8,
    'axes.titlesize': 8.5,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.linewidth': 0.6,
    'axes.grid': True,
    'grid.color': '#e4e4e4',
    'grid.linewidth': 0.6,
    'lines.linewidth': 1.4,
    'lines.markersize': 3.2,
    'legend.frameon': False,
    'text.parse_math': False,  # names are no formulas
    'svg.hashsalt': 'report',  # element names in SVG are random without it
}
INTERVALS = 50
styled = style.context(['default', STYLE])  # a user's own matplotlibrc has no say

# Key of the log, what the axis says, and the factor to its unit.
COURSES = (
    ('tau', 'threshold tau', 1),
    ('alpha', 'alpha', 1),
    ('confident', 'confident pixels (%)', 100),
    ('accepted', 'accepted pixels (%)', 100),
    ('region_changes', 'relabelled by regions (%)', 100),
)
BEFORE, AFTER = 'accuracy_confident', 'accuracy_accepted'


@dataclass
class Picture:
    """A picture of the page.

    Attributes:
        name (str): Of its file, without ending.
        data (bytes): Of the file that the page holds.
        kind (str): Its media type.
        caption (str): What is shown, for the page.
        alt (str): The same in short, for those who do not see it.
        width (float): In inches.
    """

    name: str
    data: bytes
    kind: str
    caption: str
    alt: str
    width: float


def styles(settings: list[Setting]) -> dict[str, dict[str, Any]]:
    """Colour, marker and dash of each label; baselines are black, dashes change where colours begin again."""
    baselines = {setting.baseline.label for setting in settings if setting.baseline}
    others = sorted({row.label for setting in settings for row in setting.rows} - baselines)
    dashes = (dash for dash in cycle(DASHES) for _ in COLORS)
    looks = zip(others, cycle(COLORS), cycle(MARKERS), dashes)
    return {label: dict(color='#000000', marker='o', linestyle='-') for label in sorted(baselines)} | {
        label: dict(color=color, marker=marker, linestyle=dash) for label, color, marker, dash in looks
    }


@styled
def save(figure: Figure, out: Path, name: str, caption: str, alt: str, vector: bool = True) -> Picture:
    """Writes a figure as ``out / name.png`` and gives it to the page, as SVG if ``vector``."""
    path = out / f'{name}.png'
    width = float(figure.get_size_inches()[0])
    figure.savefig(path, dpi=200)
    if not vector:
        return Picture(name, path.read_bytes(), 'image/png', caption, alt, width)
    buffer = io.BytesIO()
    figure.savefig(buffer, format='svg', metadata=dict(Date=None))
    return Picture(name, buffer.getvalue(), 'image/svg+xml', caption, alt, width)


def charts(setting: Setting, looks: dict[str, dict], out: Path, number: int) -> list[Picture]:
    """All line charts of a setting that its runs have numbers for; ``number`` makes the names of the files."""
    seeds = (
        f'Lines: means over the finished seeds ({seed_counts(setting)}); bands: from the lowest to the highest seed.'
    )
    means = f'Each point is the mean over one of {INTERVALS} equal intervals of the training.'
    parts = [
        (
            'curves',
            learning_curves(setting, looks),
            f'Validation {METRIC} over training, {setting.title}. {seeds} Thin lines: unfinished runs. A method with a '
            'single network is drawn beside both networks of the others.',
            f'Line chart of validation {METRIC} over iterations',
        ),
        (
            'course',
            courses(setting, looks),
            f'Pseudo-labels over training, {setting.title}: the confidence threshold tau; alpha, the share of the '
            'propagated prediction in them; the share of the pixels that are confident, that are accepted after '
            f'propagation to regions, and whose label a region changed. {seeds} {means}',
            'Line charts of tau, alpha, confident, accepted and relabelled pixels over iterations',
        ),
        (
            'accuracy',
            accuracies(setting, looks),
            f'Accuracy of the pseudo-labels over training, {setting.title}: before propagation to regions (of the '
            'confident pixels), after it (of the accepted ones, which are at least these), and the difference: below '
            f'0 the pixels that propagation adds or relabels are less often right. {seeds} {means}',
            'Line charts of the accuracy of pseudo-labels before and after propagation, and their difference',
        ),
    ]
    return [
        save(figure, out, f'{name}_{number}', caption, f'{alt}, {setting.title}.')
        for name, figure, caption, alt in parts
        if figure is not None
    ]


@styled
def learning_curves(setting: Setting, looks: dict[str, dict]) -> Figure | None:
    """Validation mIoU over iterations, an axis for each network; rows with a single one are in all of them."""
    rows = [row for row in setting.rows if not row.is_start]
    networks = setting.networks
    if not rows:
        return None
    figure, axes = _figure(len(networks), height=2.7, share=True)
    for axis, network in zip(axes, networks):
        for row in rows:
            own = network if network in row.networks else ''
            _draw_scores(axis, row, own, looks[row.label])
        axis.set(title=network, xlabel='iteration')
    axes[0].set_ylabel(f'validation {METRIC} (%)')
    _legend(figure, rows, looks, markers=True)
    return figure


@styled
def courses(setting: Setting, looks: dict[str, dict]) -> Figure | None:
    """Threshold, alpha and shares of pixels over iterations."""
    rows = [row for row in setting.rows if not row.is_start]
    found = [course for course in COURSES if any(_has(row, course[0]) for row in rows)]
    return _courses(rows, found, looks)


@styled
def accuracies(setting: Setting, looks: dict[str, dict]) -> Figure | None:
    """Accuracy of pseudo-labels before and after propagation to regions, and the difference."""
    rows = [row for row in setting.rows if _has(row, BEFORE) and _has(row, AFTER)]
    axes = [
        (BEFORE, 'before: confident pixels (% right)', 100),
        (AFTER, 'after: accepted pixels (% right)', 100),
        ('', 'after minus before (points)', 100),
    ]
    return _courses(rows, axes if rows else [], looks)


def _courses(rows: list[Row], wanted: Sequence[tuple[str, str, int]], looks: dict[str, dict]) -> Figure | None:
    if not wanted:
        return None
    figure, axes = _figure(len(wanted), height=2.1)
    drawn = [row for row in rows if any(_has(row, key) for key, *_ in wanted)]
    for axis, (key, title, factor) in zip(axes, wanted):
        for row in drawn:
            found = _course(row, key)
            if found is not None:
                iterations, values = found
                _band(axis, iterations, factor * values, looks[row.label])
        if not key:
            axis.axhline(0, color='#666666', linewidth=0.8)
        axis.set(title=title, xlabel='iteration')
    _legend(figure, drawn, looks)
    return figure


def _has(row: Row, key: str) -> bool:
    return any(run.scalars.get(key) for run in row.finished.values())


def _course(row: Row, key: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Iterations (I,), and values (seeds, I) of a key of the log; without a key, of AFTER minus BEFORE."""
    keys = [key] if key else [AFTER, BEFORE]
    runs = [run for run in row.finished.values() if all(run.scalars.get(k) for k in keys)]
    if not runs:
        return None
    end = max(run.scalars[k][-1][0] for run in runs for k in keys)
    edges = np.linspace(0, end, INTERVALS + 1)
    tables = [[_means(run.scalars[k], edges) for k in keys] for run in runs]
    values = np.array([table[0] - table[1] if len(table) == 2 else table[0] for table in tables])
    known = ~np.isnan(values).any(0)
    return (edges[1:] + edges[:-1])[known] / 2, values[:, known]


def _means(points: list[tuple[int, float]], edges: np.ndarray) -> np.ndarray:
    """Mean of the values in each interval, whose right edge belongs to it; NaN in empty ones."""
    iterations, values = np.array(points, float).T
    slot = np.searchsorted(edges[1:], iterations)
    count = np.bincount(slot, minlength=len(edges) - 1)
    total = np.bincount(slot, values, minlength=len(edges) - 1)
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)


def _draw_scores(axis: Axes, row: Row, network: str, look: dict) -> None:
    """The mean where all finished seeds were validated, with their range; unfinished runs as thin lines."""
    curves = [run.curves[network] for run in row.finished.values() if network in run.curves]
    common = sorted(set.intersection(*map(set, curves))) if curves else []
    if common:
        values = np.array([[curve[i] for i in common] for curve in curves])
        _band(axis, np.array(common), values, look, marker=look['marker'])
    for run in row.runs.values():
        if not run.finished and network in run.curves:
            steps = sorted(run.curves[network])
            axis.plot(steps, [run.curves[network][s] for s in steps], color=look['color'], linewidth=0.6)


def _band(axis: Axes, iterations: np.ndarray, values: np.ndarray, look: dict, marker: str = '') -> None:
    """Mean and range over the seeds of values (seeds, I)."""
    axis.fill_between(iterations, values.min(0), values.max(0), color=look['color'], alpha=0.15, linewidth=0)
    axis.plot(iterations, values.mean(0), **dict(look, marker=marker))


def _figure(count: int, height: float, share: bool = False) -> tuple[Figure, list[Axes]]:
    """Axes in rows of three at most, on a page's width."""
    columns = min(count, 3)
    rows = -(-count // columns)
    width = 7.2 if columns > 1 else 4.8
    figure = Figure(figsize=(width, rows * height + 0.4), layout='constrained')
    grid = figure.subplots(rows, columns, squeeze=False, sharey=share).flatten()
    for axis in grid[count:]:
        axis.remove()
    for axis in grid[:count]:
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return figure, list(grid[:count])


def _legend(figure: Figure, rows: list[Row], looks: dict[str, dict], markers: bool = False) -> None:
    names = [row.label for row in rows]
    handles = [Line2D([], [], **dict(looks[row.label], marker=looks[row.label]['marker'] * markers)) for row in rows]
    figure.legend(handles, names, loc='outside lower center', ncols=min(4, len(names)), handlelength=3)


def seed_counts(setting: Setting) -> str:
    """How many seeds of each method are finished, in words."""
    counts = {row.label: len(row.finished) for row in setting.rows if not row.is_start}
    usual = statistics.mode(counts.values()) if counts else 0
    others = [f'{count} of {label}' for label, count in counts.items() if count != usual]
    return f'{usual} of each method' + (f', but {", ".join(others)}' if others else '')
