"""Pictures of images, labels, confidences and regions."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

MARGIN = 4
TITLE_HEIGHT = 18
MIN_SIDE = 160  # titles must remain readable over small crops


def to_rgb(image: np.ndarray, bands: Sequence[int] = (2, 1, 0)) -> np.ndarray:
    """An image (C, H, W) of any depth, BGR if C is 3, as a picture (H, W, 3) uint8 RGB.

    Of three channels or more ``bands`` are red, green and blue, of fewer the first is grey. All but uint8 is stretched.
    """
    bands = (0, 0, 0) if len(image) < 3 else tuple(bands)
    if not all(0 <= band < len(image) for band in bands):
        raise ValueError(f'bands must be three from 0 to {len(image) - 1}, for red, green and blue, but is {bands}.')
    picture = image[list(bands)].transpose(1, 2, 0)
    if picture.dtype != np.uint8:
        low, high = picture.min((0, 1)), picture.max((0, 1))
        picture = (255 * (picture - low) / np.where(high > low, high - low, 1)).astype(np.uint8)
    return np.ascontiguousarray(picture)


def paint(labels: np.ndarray, palette: Sequence[Sequence[int]], known: np.ndarray | None = None) -> np.ndarray:
    """Labels (H, W) in the RGB colours of a palette, (H, W, 3) uint8.

    What is outside of the palette, or of the mask ``known`` (H, W), is white.
    """
    inside = (labels >= 0) & (labels < len(palette))
    picture = np.asarray(palette, np.uint8)[np.where(inside, labels, 0)]
    picture[~inside if known is None else ~(inside & known)] = 255
    return picture


def overlay(image: np.ndarray, picture: np.ndarray, opacity: float = 0.5) -> np.ndarray:
    """A picture over an image, both (H, W, 3) uint8."""
    return cv2.addWeighted(image, 1 - opacity, picture, opacity, 0)


def legend(names: Sequence[str], palette: Sequence[Sequence[int]], width: int) -> np.ndarray:
    """Names beside their RGB colours, in as many lines as they need, (H, width, 3) uint8 on white.

    Names longer than a line are cut off.
    """
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.42
    x, y, places = MARGIN, 0, []
    for name in names:
        step = TITLE_HEIGHT + MARGIN + cv2.getTextSize(name, font, size, 1)[0][0] + 2 * MARGIN
        if x + step > width and x > MARGIN:
            x, y = MARGIN, y + TITLE_HEIGHT
        places.append((x, y))
        x += step
    picture = np.full((y + TITLE_HEIGHT + MARGIN, width, 3), 255, np.uint8)
    for name, color, (x, y) in zip(names, palette, places):
        picture[y + MARGIN : y + TITLE_HEIGHT, x : x + TITLE_HEIGHT] = color
        corner = (x + TITLE_HEIGHT + MARGIN, y + TITLE_HEIGHT - 3)
        cv2.putText(picture, name, corner, font, size, (0, 0, 0), 1, cv2.LINE_AA)
    return picture


def heat(values: np.ndarray) -> np.ndarray:
    """Values (H, W) within 0 .. 1 as colours from dark blue to yellow, (H, W, 3) uint8 RGB."""
    return cv2.applyColorMap((values.clip(0, 1) * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[..., ::-1]


def outline(image: np.ndarray, mask: np.ndarray, color: Sequence[int] = (255, 255, 0)) -> np.ndarray:
    """An image (H, W, 3) uint8 with the border of a mask (H, W) drawn on it."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.array(image, order='C'), contours, -1, tuple(color), 1)


def count_map(regions: np.ndarray) -> np.ndarray:
    """How many of the regions (R, H, W) cover each pixel, as colours (H, W, 3) uint8 RGB."""
    cover = regions.sum(0)
    return heat(cover / max(cover.max(), 1))


def panel(rows: Sequence[Sequence[tuple[str, np.ndarray]]]) -> np.ndarray:
    """Pictures (H, W, 3) uint8 RGB in rows, each under its title, as one on white."""
    lines = [_join([_tile(title, picture) for title, picture in row], axis=1) for row in rows]
    return _join(lines, axis=0)


def _join(pictures: list[np.ndarray], axis: int) -> np.ndarray:
    """Pictures beside (axis 1) or below each other, the smaller ones filled up with white."""
    size = max(picture.shape[1 - axis] for picture in pictures)
    joined = []
    for picture in pictures:
        missing = [(0, 0)] * 3
        missing[1 - axis] = (0, size - picture.shape[1 - axis])
        joined.append(np.pad(picture, missing, constant_values=255))
    return np.concatenate(joined, axis)


def _tile(title: str, picture: np.ndarray) -> np.ndarray:
    scale = max(1, -(-MIN_SIDE // max(picture.shape[:2])))
    picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    top = TITLE_HEIGHT + MARGIN
    tile = cv2.copyMakeBorder(picture, top, MARGIN, MARGIN, MARGIN, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    size = min(0.42, 0.42 * (tile.shape[1] - 2 * MARGIN) / max(7.2 * len(title), 1))
    corner = (MARGIN, TITLE_HEIGHT - 3)
    return cv2.putText(tile, title, corner, cv2.FONT_HERSHEY_SIMPLEX, size, (0, 0, 0), 1, cv2.LINE_AA)
