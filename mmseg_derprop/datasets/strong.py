"""The strong view: colours, blur, and the box for CutMix."""

from __future__ import annotations

import math
from typing import Annotated

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from ..utils.options import Bounds, Share, check_options

PositiveRange = Annotated[tuple[float, float], Bounds(above=0)]
_TRIES = 10_000


def adjust_brightness(img: np.ndarray, factor: float) -> np.ndarray:
    """Blends a BGR image (H, W, 3) uint8 with black; factor 1 changes nothing."""
    return _blend_with_level(img, 0, factor)


def adjust_contrast(img: np.ndarray, factor: float) -> np.ndarray:
    """Blends a BGR image (H, W, 3) uint8 with its mean grey; factor 1 changes nothing."""
    level = int(cv2.mean(cv2.cvtColor(img, cv2.COLOR_BGR2GRAY))[0] + 0.5)
    return _blend_with_level(img, level, factor)


def adjust_saturation(img: np.ndarray, factor: float) -> np.ndarray:
    """Blends a BGR image (H, W, 3) uint8 with its grey version; factor 1 changes nothing."""
    return cv2.addWeighted(img, factor, to_gray(img), 1 - factor, 0)


def adjust_hue(img: np.ndarray, shift: float) -> np.ndarray:
    """Turns the hue of a BGR image (H, W, 3) uint8 by ``shift`` circles."""
    hsv = cv2.cvtColor(img, cv2.COLOR_BGR2HSV_FULL)
    hsv[..., 0] += np.uint8(int(shift * 255) % 256)  # uint8 wraps around as hue does
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR_FULL)


def to_gray(img: np.ndarray) -> np.ndarray:
    """Grey version of a BGR image (H, W, 3) uint8, with three equal channels."""
    return cv2.cvtColor(cv2.cvtColor(img, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)


def gaussian_blur(img: np.ndarray, sigma: float) -> np.ndarray:
    """Blurs (H, W, 3) uint8 with a Gaussian of standard deviation ``sigma`` pixels."""
    return cv2.GaussianBlur(img, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)


def _blend_with_level(img: np.ndarray, level: int, factor: float) -> np.ndarray:
    table = level + factor * (np.arange(256) - level)  # affine in the pixel value, so 256 values say all
    return cv2.LUT(img, table.clip(0, 255).astype(np.uint8))


@TRANSFORMS.register_module()
class StrongAugment(BaseTransform):
    """Colour jitter, grey and blur, distributed as torchvision's ColorJitter and PIL's blur.

    The four changes of the jitter are made in random order. Factors of brightness, contrast and saturation are uniform
    in [1 - x, 1 + x], the hue's shift in [-x, x].

    Args:
        jitter (tuple[float, float, float, float]): x of brightness, contrast, saturation (at most 1) and hue (at most
            0.5).
        jitter_prob, gray_prob, blur_prob (float): Probabilities of the jitter, of grey and of the blur.
        blur_sigma (tuple[float, float]): Bounds of the blur's uniform standard deviation in pixels.
    """

    @check_options
    def __init__(
        self,
        jitter: tuple[Share, Share, Share, Annotated[float, Bounds(0, 0.5)]] = (0.5, 0.5, 0.5, 0.25),
        jitter_prob: Share = 0.8,
        gray_prob: Share = 0.2,
        blur_prob: Share = 0.5,
        blur_sigma: PositiveRange = (0.1, 2.0),
    ) -> None:
        self.jitter, self.jitter_prob = jitter, jitter_prob
        self.gray_prob, self.blur_prob, self.blur_sigma = gray_prob, blur_prob, blur_sigma

    def transform(self, results: dict) -> dict:
        """Changes ``img``, BGR (H, W, 3) uint8."""
        img = results['img']
        if img.dtype != np.uint8 or img.ndim != 3 or img.shape[2] != 3:
            raise TypeError(
                f'img must be uint8 (H, W, 3), but is {img.dtype} of shape {img.shape}. Load colour images without '
                'to_float32, and normalise in the data preprocessor.'
            )
        if np.random.rand() < self.jitter_prob:
            img = self._jitter_colours(img)
        if np.random.rand() < self.gray_prob:
            img = to_gray(img)
        if np.random.rand() < self.blur_prob:
            img = gaussian_blur(img, np.random.uniform(*self.blur_sigma))
        results['img'] = img
        return results

    def _jitter_colours(self, img: np.ndarray) -> np.ndarray:
        changes = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
        neutral = (1, 1, 1, 0)
        for i in np.random.permutation(4):
            img = changes[i](img, np.random.uniform(neutral[i] - self.jitter[i], neutral[i] + self.jitter[i]))
        return img


@TRANSFORMS.register_module()
class RandomCutMixBox(BaseTransform):
    """Draws the box of a strong view that comes from a partner; mixing itself is the model's.

    Added key: ``cutmix_box``, (x1, y1, x2, y2) in pixels with exclusive ends, (0, 0, 0, 0) if none is drawn.

    Args:
        prob (float): Probability of a box.
        area (tuple[float, float]): Bounds of its uniform share of the image.
        aspect (tuple[float, float]): Bounds of its uniform height / width.
    """

    @check_options
    def __init__(
        self,
        prob: Share = 0.5,
        area: Annotated[tuple[float, float], Bounds(above=0, high=1)] = (0.02, 0.4),
        aspect: PositiveRange = (0.3, 1 / 0.3),
    ) -> None:
        self.prob, self.area, self.aspect = prob, area, aspect

    def transform(self, results: dict) -> dict:
        drawn = np.random.rand() < self.prob
        results['cutmix_box'] = self.draw_box(*results['img'].shape[:2]) if drawn else (0, 0, 0, 0)
        return results

    def draw_box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """A box inside an image; ValueError if it is so narrow that no box of the largest area, or hardly any, fits."""
        largest = self.area[1] * height * width
        possible = max(self.aspect[0], largest / width**2) <= min(self.aspect[1], height**2 / largest)
        pixels = np.random.uniform(*self.area) * height * width
        for _ in range(_TRIES if possible else 0):
            aspect = np.random.uniform(*self.aspect)
            w, h = max(1, int(math.sqrt(pixels / aspect))), max(1, int(math.sqrt(pixels * aspect)))
            # A corner anywhere, refused with the aspect if the box sticks out: large boxes come out squarer.
            x, y = int(np.random.randint(width)), int(np.random.randint(height))
            if x + w <= width and y + h <= height:
                return x, y, x + w, y + h
        raise ValueError(
            f'A box of {self.area[1]} of an image of {height} x {width} pixels with aspect in {self.aspect} does '
            'not fit. Lower area, widen aspect or use a squarer crop.'
        )
