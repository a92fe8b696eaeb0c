"""Pictures of what a trained network sees in validation images: prediction, pseudo-labels, similarity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmseg.models import BaseSegmentor
from mmseg.registry import DATASETS, MODELS
from torch import Tensor

from ..engine.hooks.visualization_hook import draw_pseudo_labels
from ..models import SemiSegmentor, View
from ..ops import region_masks, similarity_rows
from ..utils.checkpoints import read_checkpoint, state_dict_of
from ..utils.config import load_config
from ..visualization.drawing import heat, outline, paint
from .figures import styled
from .runs import Run

COLUMNS = 5
CONFIDENT, ACCEPTED, REGIONS = 'pseudo-labels, confident', 'pseudo-labels, accepted', 'regions (count)'
DERIVATIVE, PLAIN = 'similarity, derivative', 'similarity, plain'
DEPTH = 8  # pixels between the border of an object and the pixel that is chosen on it, if it is so large


class PanelError(Exception):
    """A run's pictures cannot be drawn; the message says why."""


class Tile(NamedTuple):
    """A picture of a panel.

    Attributes:
        title (str): Above it.
        picture (np.ndarray): (H, W, 3) uint8 RGB.
        mark (tuple[int, int] | None): x and y of a pixel that gets a cross.
    """

    title: str
    picture: np.ndarray
    mark: tuple[int, int] | None = None


@dataclass
class Panel:
    """The pictures of one validation image.

    Attributes:
        tiles (list[Tile]): The pictures.
        shown (set[int]): Classes that occur in them.
    """

    tiles: list[Tile]
    shown: set[int]


def load_run(run: Run, options: dict | None = None) -> tuple[BaseSegmentor, Config]:
    """The network of a run, in evaluation mode on the CPU, and its config.

    Args:
        run (Run): With a checkpoint, and a config in its work dir.
        options (dict, optional): Dotted keys and values, merged into the config.

    Raises:
        PanelError: If a file is missing, or the checkpoint does not fit the config.
    """
    work_dir, checkpoint = run.place('work_dir'), run.place('checkpoint')
    if checkpoint is None:
        raise PanelError(f'its checkpoint ({run.raw.get("checkpoint")}) is not there')
    configs = sorted(work_dir.glob('*.py')) if work_dir else []
    if not configs:
        raise PanelError(f'its work dir ({run.raw.get("work_dir")}) has no config')
    try:
        config = load_config(str(configs[-1]), options)
        init_default_scope(config.get('default_scope', 'mmseg'))
        settings = config.model.copy()
        settings.pop('compile', None)
        settings.setdefault('data_preprocessor', config.get('data_preprocessor'))
        model = revert_sync_batchnorm(MODELS.build(settings))
        model.load_state_dict(state_dict_of(read_checkpoint(str(checkpoint))))
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        reason = (str(error).splitlines() or [''])[0]
        raise PanelError(f'{checkpoint.name} does not load with {configs[-1].name} ({reason})') from error
    return model.eval(), config


def draw_panels(
    run: Run, count: int, pixel: tuple[int, int] | None = None, options: dict | None = None
) -> tuple[Figure, list[str]]:
    """Pictures of validation images, evenly spaced over the set, two rows of five an image.

    Args:
        run (Run): See :func:`load_run`.
        count (int): Of images.
        pixel (tuple[int, int], optional): x and y in each image, whose similarity map is drawn. By default one inside
            of an object near the centre.
        options (dict, optional): Merged into the run's config.

    Returns:
        tuple[Figure, list[str]]: The figure, and the titles of its pictures.

    Raises:
        PanelError: If something that is needed is missing or does not fit.
    """
    model, config = load_run(run, options)
    if config.get('val_dataloader') is None:
        raise PanelError('its config has no validation data')
    try:
        dataset = DATASETS.build(config.val_dataloader.dataset)
        indices = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)
        samples = [dataset[int(index)] for index in indices]
    except OSError as error:
        raise PanelError(f'its validation images are not there ({error})') from error
    alpha = [value for _, value in run.scalars.get('alpha', [])]
    torch.manual_seed(0)  # regions are drawn
    palette = dataset.metainfo['palette']
    panels = [draw_panel(model, sample, palette, pixel, alpha[-1] if alpha else 0.0) for sample in samples]
    return arrange(panels, dataset.metainfo), [tile.title for tile in panels[0].tiles]


@torch.no_grad()
def draw_panel(model: BaseSegmentor, sample: dict, palette: list, pixel: tuple[int, int] | None, alpha: float) -> Panel:
    """What a network makes of one image.

    Args:
        model (BaseSegmentor): In evaluation mode. Pseudo-labels and similarities are drawn of a SemiSegmentor only,
            as far as it makes them.
        sample (dict): Of a validation data set.
        palette (list): RGB of each class.
        pixel (tuple[int, int], optional): As in :func:`draw_panels`.
        alpha (float): Share of the propagated prediction in the pseudo-labels.

    Raises:
        PanelError: If the pixel is not in the image.
    """
    data = model.data_preprocessor(dict(inputs=[sample['inputs']], data_samples=[sample['data_samples']]), False)
    truth = sample['data_samples'].gt_sem_seg.data[0].numpy()
    prediction = model.predict(data['inputs'], data['data_samples'])[0].pred_sem_seg.data[0].numpy()
    image = np.ascontiguousarray(sample['inputs'].numpy().transpose(1, 2, 0)[..., ::-1])
    tiles = [
        Tile('image', image),
        Tile('truth', paint(truth, palette)),
        Tile('prediction', paint(prediction, palette)),
    ]
    if isinstance(model, SemiSegmentor):
        model.alpha = alpha
        view = model.see(data['inputs'])[0]
        tiles += draw_labels(model, data['inputs'], view, image, palette)
        if model.propagation_head is not None:
            place = scale(pixel or central_pixel(truth), truth.shape, image.shape[:2])
            tiles[0] = Tile('image', image, place)
            tiles += draw_similarity(view, image.shape[:2], place)
    shown = {int(label) for labels in (truth, prediction) for label in np.unique(labels) if label < len(palette)}
    return Panel(tiles, shown)


def draw_labels(model: SemiSegmentor, inputs: Tensor, view: View, image: np.ndarray, palette: list) -> list[Tile]:
    """The labels that an unlabelled image would get, if it were not cut-mixed."""
    size = image.shape[:2]
    nowhere = torch.zeros(1, *inputs.shape[-2:], dtype=torch.bool)
    ignored = nowhere.clone()
    ignored[:, size[0] :] = ignored[:, :, size[1] :] = True  # the preprocessor's padding
    logits = model.logits_of(model.teacher, inputs) if model.labels_from == 'teacher' else view.logits
    own = model.predict_weak(logits, view, ignored)
    target = model.pseudo_labeler(own, own, nowhere, model.find_regions(view), move=False)
    drawn = dict(draw_pseudo_labels(image, image, target, 0, palette))
    wanted = {'confidence': 'confidence', 'confident': CONFIDENT}
    if target.regions is not None:
        wanted |= {'accepted after regions': ACCEPTED, 'regions (count)': REGIONS}
    return [Tile(title, drawn[name][: size[0], : size[1]]) for name, title in wanted.items()]


def draw_similarity(view: View, inner: tuple[int, int], place: tuple[int, int]) -> list[Tile]:
    """How much of a pixel each position receives, with the derivative's share in the similarity and without.

    Colours span the map's own range; a line is drawn around the region, where the map exceeds the middle of it.

    Args:
        view (View): Of one image.
        inner (tuple[int, int]): (H, W) of the image without padding.
        place (tuple[int, int]): x and y of the pixel.
    """
    x, y = scale(place, view.size, view.embedding.grid)
    rows = torch.tensor([y * view.embedding.grid[1] + x])
    tiles = []
    for order, title in {view.head.max_order: DERIVATIVE, 0: PLAIN}.items():
        maps = similarity_rows(view.embedding.q, view.embedding.k, rows, order).unflatten(2, view.embedding.grid)
        values = F.interpolate(maps, view.size, mode='bilinear', align_corners=True)[0, 0]
        low, high = values.aminmax()
        scaled = ((values - low) / (high - low).clamp_min(torch.finfo(values.dtype).tiny)).numpy()
        picture = outline(heat(scaled), region_masks(maps, view.size)[0, 0].numpy(), (255, 255, 255))
        tiles.append(Tile(title, picture[: inner[0], : inner[1]], place))
    return tiles


def scale(pixel: tuple[int, int], old: tuple[int, int], new: tuple[int, int]) -> tuple[int, int]:
    """x and y of a pixel of an image of the old (H, W), resized to the new one, corners onto corners.

    Raises:
        PanelError: If the pixel is not in the image.
    """
    (x, y), (height, width) = pixel, old
    if not (0 <= x < width and 0 <= y < height):
        raise PanelError(f'the pixel {x} {y} lies outside of an image of {width} x {height} pixels: choose another')
    return round(x * (new[1] - 1) / max(width - 1, 1)), round(y * (new[0] - 1) / max(height - 1, 1))


def central_pixel(truth: np.ndarray) -> tuple[int, int]:
    """x and y of a pixel near the centre and inside of an object: of any class but the image's most frequent.

    Args:
        truth (np.ndarray): (H, W) labels; 255 is none.

    Returns:
        tuple[int, int]: The centre if there is no object.
    """
    height, width = truth.shape
    classes, counts = np.unique(truth[truth != 255], return_counts=True)
    depth = np.zeros(truth.shape)
    for label in np.delete(classes, counts.argmax()) if len(classes) else ():
        # A border of zeros, so that the image's edge is one of the object's.
        mask = np.pad((truth == label).astype(np.uint8), 1)
        depth = np.maximum(depth, cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1])
    if not depth.any():
        return width // 2, height // 2
    y, x = np.nonzero(depth >= min(DEPTH, depth.max()))
    nearest = np.argmin((y - (height - 1) / 2) ** 2 + (x - (width - 1) / 2) ** 2)
    return int(x[nearest]), int(y[nearest])


def caption(label: str, setting: str, run: Run, titles: list[str]) -> str:
    """What the pictures of a run show."""
    said = [
        f'Validation images through {label}, {setting}, a single seed ({run.seed}), after {run.last_iteration} '
        'iterations, in the colours of the classes below them. White has no label.'
    ]
    if CONFIDENT in titles:
        after = ', and after propagation to regions of the accepted ones' if ACCEPTED in titles else ''
        said.append(
            'Confidence (0 dark blue to 1 yellow) and pseudo-labels are those that the image would get without CutMix: '
            f'of the confident pixels{after}.'
        )
    if REGIONS in titles:
        said.append('Regions: how many of those drawn cover a pixel, none dark blue, most yellow.')
    if PLAIN in titles:
        said.append(
            'Similarity: how much of the pixel at the red cross each position receives, over the range of the map; '
            "with the derivative's share and without (plain), by the same weights. White line: the region, where the "
            'map exceeds the middle of its range.'
        )
    return ' '.join(said)


@styled
def arrange(panels: list[Panel], metainfo: dict) -> Figure:
    """Panels below one another, each in rows of COLUMNS pictures, and the classes that they show."""
    rows_each = -(-len(panels[0].tiles) // COLUMNS)
    columns = min(COLUMNS, len(panels[0].tiles))
    height, width = panels[0].tiles[0].picture.shape[:2]
    side = 7.2 / COLUMNS
    figure = Figure(
        figsize=(side * columns, rows_each * len(panels) * (side * height / width + 0.16) + 0.5),
        layout=ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0),
    )
    axes = figure.subplots(rows_each * len(panels), columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for number, panel in enumerate(panels):
        own = axes[number * rows_each : (number + 1) * rows_each].flat
        for axis, tile in zip(own, panel.tiles):
            axis.set_axis_on()
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set(visible=True, color='#999999', linewidth=0.5)  # around what is white, too
            axis.imshow(tile.picture, interpolation='nearest')
            axis.set_title(tile.title, fontsize=7, pad=2)
            if tile.mark is not None:
                for color, edge in (('white', 2.6), ('red', 1.2)):
                    axis.plot(*tile.mark, '+', color=color, markersize=8, markeredgewidth=edge)
    classes = sorted(set().union(*(panel.shown for panel in panels)))
    handles = [
        Patch(facecolor=np.array(metainfo['palette'][i]) / 255, edgecolor='#666666', label=metainfo['classes'][i])
        for i in classes
    ]
    handles.append(Patch(facecolor='white', edgecolor='#666666', label='no label'))
    figure.legend(
        handles=handles, loc='outside lower center', ncols=min(len(handles), 1 + columns), fontsize=7, handlelength=1
    )
    return figure
