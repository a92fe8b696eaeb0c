"""Textured shapes on clutter, drawn from a seed, which a small network learns from hundreds of images, not a handful.

A class is an outline, loosely tied to a kind of texture; colour, scale, rotation and lighting tell nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS
from PIL import Image

CLASSES = ('background', 'disc', 'square', 'triangle', 'ring', 'star')
PALETTE = ((0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115), (213, 94, 0), (204, 121, 167))
SPLITS = ('labeled', 'unlabeled', 'val')
IGNORE = 255

TEXTURE_FIDELITY = 0.95  # how often an object wears the texture of its class; otherwise that of any
# (corners, outer radius, inner radius) of the outlines made of straight edges: a regular polygon is
# a star whose inner corners lie on its edges. The radii bring the areas closer to the disc's.
_POLYGONS = {2: (4, 1.1, 1.1 * np.cos(np.pi / 4)), 3: (3, 1.25, 0.625), 5: (5, 1.2, 0.55)}
_RING = 4


def draw_shapes(seed: int, split: str, index: int, size: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """Draws one image, RGB (size, size, 3), and its class ids (size, size), both uint8; borders of objects are 255.

    They depend on the arguments only, so a larger split begins with the images of a smaller one.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    image = _background(rng, size)
    label = np.zeros((size, size), np.uint8)
    # Different classes in one image, so that even few images show every class.
    kinds = rng.permutation(np.arange(1, len(CLASSES)))[: rng.integers(2, 6)]
    # A distractor blob is an object of class 0: it hides others and is hidden by them.
    objects = np.append(kinds, [0] * rng.integers(0, 2))
    for category in rng.permutation(objects):
        _paint_object(rng, image, label, int(category))
    return _photograph(rng, image), _ignore_borders(label)


def write_shapes(
    out: str | Path, labeled: int = 24, unlabeled: int = 400, val: int = 100, size: int = 96, seed: int = 0
) -> None:
    """Writes the data set in the layout of Pascal VOC.

    ``JPEGImages/<id>.jpg``, ``SegmentationClass/<id>.png`` and ``ImageSets/Segmentation/<split>.txt``. The unlabelled
    images have label files too, for statistics of pseudo-labels, never training. Files of the same name are replaced.
    """
    images, labels, sets = (Path(out) / name for name in ('JPEGImages', 'SegmentationClass', 'ImageSets/Segmentation'))
    for folder in (images, labels, sets):
        folder.mkdir(parents=True, exist_ok=True)
    palette = np.array([*PALETTE, *[(224, 224, 192)] * (256 - len(PALETTE))], np.uint8)  # of 255, ignored, too
    for split, count in zip(SPLITS, (labeled, unlabeled, val), strict=True):
        ids = [f'{split}_{index:05d}' for index in range(count)]
        for index, name in enumerate(ids):
            image, label = draw_shapes(seed, split, index, size)
            Image.fromarray(image).save(images / f'{name}.jpg', quality=92)
            drawn = Image.fromarray(label)
            drawn.putpalette(palette.tobytes())
            drawn.save(labels / f'{name}.png')
        (sets / f'{split}.txt').write_text(''.join(f'{name}\n' for name in ids))


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Two colours mixed by smooth noise and a faint texture, crossed by lines: (size, size, 3)."""
    y, x = np.mgrid[:size, :size].astype(np.float64)
    mix = _smooth_noise(rng, size, int(rng.integers(3, 6)))
    mix += rng.uniform(0, 0.15) * (_texture(rng, int(rng.integers(1, len(CLASSES))), x, y) - 0.5)
    image = _mix_colours(rng, mix, contrast=0.1)
    image = 0.35 * image + 0.65 * image.mean(2, keepdims=True)  # muted, as backgrounds are
    for _ in range(rng.integers(0, 4)):
        angle, offset = rng.uniform(0, np.pi), rng.uniform(-0.5, 0.5) * size
        distance = (x - size / 2) * np.cos(angle) + (y - size / 2) * np.sin(angle) - offset
        cover = np.clip(rng.uniform(1, 2.5) - np.abs(distance), 0, 1)[..., None]
        image += cover * (rng.uniform(0, 1, 3) - image)
    return image


def _paint_object(rng: np.random.Generator, image: np.ndarray, label: np.ndarray, category: int) -> None:
    """Paints one object over ``image`` and ``label``, in place; category 0 is a distractor blob."""
    size = len(label)
    y, x = np.mgrid[:size, :size].astype(np.float64)
    radius = size * rng.uniform(0.15, 0.25)
    centre_x, centre_y = rng.uniform(0.1, 0.9, 2) * size
    angle, stretch = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(1, 1.35))
    x, y = x - centre_x, y - centre_y
    u = (x * np.cos(angle) + y * np.sin(angle)) * stretch / radius
    v = (y * np.cos(angle) - x * np.sin(angle)) / stretch / radius
    distance = radius * _outline(rng, category, u, v)
    inside = distance > 0
    label[inside] = category

    kind = int(rng.integers(1, len(CLASSES))) if rng.random() > TEXTURE_FIDELITY else category
    colour = _mix_colours(rng, _texture(rng, kind, x, y), contrast=0.4)
    colour *= 1 + rng.uniform(-0.35, 0.35) * u[..., None] * inside[..., None]
    cover = np.clip(distance + 0.5, 0, 1)[..., None]
    image += cover * (colour - image)


def _outline(rng: np.random.Generator, category: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Signed distance along the ray from the centre, positive inside, in units of the radius."""
    rho, theta = np.hypot(u, v), np.arctan2(v, u)
    if category == 0:
        edge = np.full_like(rho, 0.85)
        for order in range(2, 6):
            edge += rng.uniform(0.05, 0.2) * np.cos(order * theta + rng.uniform(0, 2 * np.pi))
        return edge - rho
    if category in _POLYGONS:
        corners, outer, inner = _POLYGONS[category]
        half = np.pi / corners
        phi = np.abs((theta + half) % (2 * half) - half)
        # In polar coordinates, the line from the corner (outer, 0) to the corner (inner, half).
        edge = np.sin(half) / (np.sin(half - phi) / outer + np.sin(phi) / inner)
        return edge - rho
    if category == _RING:
        return np.minimum(1 - rho, rho - rng.uniform(0.4, 0.55))
    return 0.9 - rho


def _texture(rng: np.random.Generator, kind: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The texture of a class at pixel offsets x and y, (H, W): values about 0..1."""
    angle, phase, shift = rng.uniform(0, 2 * np.pi, 3)
    pitch = 2 * np.pi / rng.uniform(7, 10)
    u = (x * np.cos(angle) + y * np.sin(angle)) * pitch + phase
    v = (y * np.cos(angle) - x * np.sin(angle)) * pitch + shift
    wave = {
        0: lambda: np.sin(u / 8),
        1: lambda: np.sin(u),
        2: lambda: 1.5 * np.sin(u) * np.sin(v),
        3: lambda: 2.5 * _smooth_noise(rng, len(x), len(x) // int(rng.integers(3, 6))) - 1.25,
        4: lambda: np.sin(1.3 * pitch * np.hypot(x, y) + phase),
        5: lambda: np.sin(6 * np.arctan2(y, x) + phase),
    }[kind]()
    return 0.5 + 0.5 * np.tanh(rng.uniform(1, 3) * wave)


def _mix_colours(rng: np.random.Generator, mix: np.ndarray, contrast: float) -> np.ndarray:
    """Blends two random colours, ``contrast`` apart in brightness: (H, W) to (H, W, 3)."""
    first, second = rng.uniform(0.05, 0.95, (2, 3))
    while abs(first.mean() - second.mean()) < contrast:
        first, second = rng.uniform(0.05, 0.95, (2, 3))
    return first + mix[..., None] * (second - first)


def _smooth_noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Uniform noise on a grid of ``cells`` knots a side, interpolated to (size, size)."""
    position = np.linspace(0, cells - 1, size)
    weight = np.clip(1 - np.abs(position[:, None] - np.arange(cells)), 0, 1)
    return weight @ rng.uniform(0, 1, (cells, cells)) @ weight.T


def _photograph(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Adds what a camera adds: uneven light, blur and noise. Returns uint8."""
    size = len(image)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    light = rng.uniform(0.75, 1.15) + rng.uniform(0, 0.35) * (x * np.cos(angle) + y * np.sin(angle))
    image = image * light[..., None]
    step = np.arange(size)
    kernel = np.exp(-0.5 * ((step[:, None] - step) / rng.uniform(0.3, 0.9)) ** 2)
    kernel /= kernel.sum(1, keepdims=True)
    image = np.einsum('ij,jkc,lk->ilc', kernel, image, kernel, optimize=True)
    image += rng.normal(0, rng.uniform(0.01, 0.04), image.shape)
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8)


def _ignore_borders(label: np.ndarray) -> np.ndarray:
    """Marks the pixel before each change of class, across and down, as ignored."""
    out = label.copy()
    out[:, :-1][label[:, :-1] != label[:, 1:]] = IGNORE
    out[:-1][label[:-1] != label[1:]] = IGNORE
    return out


@DATASETS.register_module(force=True)  # exported models bring a copy of this file
class ShapesDataset(BaseSegDataset):
    """The data set that :func:`write_shapes` writes; its arguments are those of ``BaseSegDataset``."""

    METAINFO = dict(classes=CLASSES, palette=[list(colour) for colour in PALETTE])
