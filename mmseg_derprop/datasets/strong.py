"""The strong view: colours, blur, and the box for CutMix."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from ..utils.options import Ascending, Bounds, PositiveRange, Share, check_options
from .checks.broken import SettingError

PositiveShare = Annotated[float, Bounds(above=0, high=1)]
_TRIES = 10_000


# Images of these functions are uint8, or float32 within 0 .. 1. In three channels they are BGR.


def adjust_brightness(img: np.ndarray, factor: float) -> np.ndarray:
    """Blends an image (H, W) or (H, W, C) with black; factor 1 changes nothing."""
    return _blend_with_level(img, 0, factor)


def adjust_contrast(img: np.ndarray, factor: float) -> np.ndarray:
    """Blends an image (H, W) or (H, W, C) with its mean, or of three channels mean grey; factor 1 changes nothing."""
    level = cv2.mean(cv2.cvtColor(img, cv2.COLOR_BGR2GRAY))[0] if is_colour(img) else img.mean((0, 1))
    return _blend_with_level(img, level, factor)


def adjust_saturation(img: np.ndarray, factor: float) -> np.ndarray:
    """Blends an image (H, W, 3) with its grey version; factor 1 changes nothing."""
    return cv2.addWeighted(img, factor, to_gray(img), 1 - factor, 0).clip(0, 255 if img.dtype == np.uint8 else 1)


def adjust_hue(img: np.ndarray, shift: float) -> np.ndarray:
    """Turns the hue of an image (H, W, 3) by ``shift`` circles."""
    hsv = cv2.cvtColor(img, cv2.COLOR_BGR2HSV_FULL)
    if img.dtype == np.uint8:
        hsv[..., 0] += np.uint8(int(shift * 255) % 256)  # uint8 wraps around as hue does
    else:
        hsv[..., 0] = (hsv[..., 0] + 360 * shift) % 360
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR_FULL)


def to_gray(img: np.ndarray) -> np.ndarray:
    """Grey version of an image (H, W, 3), with three equal channels."""
    return cv2.cvtColor(cv2.cvtColor(img, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)


def gaussian_blur(img: np.ndarray, sigma: float) -> np.ndarray:
    """Blurs an image (H, W) or (H, W, C) with a Gaussian of standard deviation ``sigma`` pixels."""
    return cv2.GaussianBlur(img, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE).reshape(img.shape)


def is_colour(img: np.ndarray) -> bool:
    """Whether an image has three channels."""
    return img.ndim == 3 and img.shape[2] == 3


def _blend_with_level(img: np.ndarray, level: float | np.ndarray, factor: float) -> np.ndarray:
    if img.dtype != np.uint8:
        return np.float32(level + factor * (img - level)).clip(0, 1)
    table = (level := int(level + 0.5)) + factor * (np.arange(256) - level)  # affine, so 256 values say all
    return cv2.LUT(img, table.clip(0, 255).astype(np.uint8))


@TRANSFORMS.register_module()
class StrongAugment(BaseTransform):
    """Colour jitter, grey and blur, distributed as torchvision's ColorJitter and PIL's blur.

    The four changes of the jitter are made in random order. Factors of brightness, contrast and saturation are uniform
    in [1 - x, 1 + x], the hue's shift in [-x, x]. Images of another number of channels than three have gamma, with an
    exponent in place of saturation's factor, and noise, with a deviation of at most a fifth of the hue's x.

    8 bits range from 0 to 255; the range of others is that of an image's values, by channel unless there are three.

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
        """Changes ``img``, (H, W) or (H, W, C) of any depth, BGR if C is 3."""
        img = results['img']
        if img.ndim not in (2, 3) or img.dtype.kind not in 'uif':
            raise TypeError(
                f'img must be (H, W) or (H, W, C) of integers or real numbers, but is {img.dtype} of shape '
                f'{img.shape}. Change its shape by a transform behind the one that loads it.'
            )
        if is_colour(img) and img.dtype == np.uint8:
            results['img'] = self._change(img)
            return results
        low, high = np.float32(0), np.float32(255)
        if img.dtype != np.uint8:
            axes = None if is_colour(img) else (0, 1)
            low, high = np.float32(img.min(axes)), np.float32(img.max(axes))
        span = np.where(high > low, high - low, 1)
        changed = self._change(((img - low) / span).astype(np.float32)) * span + low
        results['img'] = (changed if img.dtype.kind == 'f' else np.rint(changed)).astype(img.dtype)
        return results

    def _change(self, img: np.ndarray) -> np.ndarray:
        if np.random.rand() < self.jitter_prob:
            img = self._jitter(img)
        if np.random.rand() < self.gray_prob and is_colour(img):
            img = to_gray(img)
        if np.random.rand() < self.blur_prob:
            img = gaussian_blur(img, np.random.uniform(*self.blur_sigma))
        return img

    def _jitter(self, img: np.ndarray) -> np.ndarray:
        b, c, s, h = self.jitter
        ranges = [(1 - b, 1 + b), (1 - c, 1 + c), (1 - s, 1 + s), (-h, h) if is_colour(img) else (0, h / 5)]
        others: tuple[Callable, Callable] = (adjust_saturation, adjust_hue)
        if not is_colour(img):
            others = np.power, lambda img, sigma: (img + np.random.normal(0, sigma, img.shape)).clip(0, 1)
        changes = (adjust_brightness, adjust_contrast, *others)
        for i in np.random.permutation(4):
            img = changes[i](img, np.random.uniform(*ranges[i])).astype(img.dtype)
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
        area: Annotated[tuple[PositiveShare, PositiveShare], Ascending] = (0.02, 0.4),
        aspect: PositiveRange = (0.3, 1 / 0.3),
    ) -> None:
        self.prob, self.area, self.aspect = prob, area, aspect

    def transform(self, results: dict) -> dict:
        height, width = results['img'].shape[:2]
        largest = self.area[1] * height * width
        if self.prob and max(self.aspect[0], largest / width**2) > min(self.aspect[1], height**2 / largest):
            raise self._misfit(height, width)  # whether this image gets a box or not
        drawn = np.random.rand() < self.prob
        results['cutmix_box'] = self.draw_box(height, width) if drawn else (0, 0, 0, 0)
        return results

    def draw_box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """A box inside an image; SettingError if hardly any fits."""
        pixels = np.random.uniform(*self.area) * height * width
        for _ in range(_TRIES):
            aspect = np.random.uniform(*self.aspect)
            w, h = max(1, int(math.sqrt(pixels / aspect))), max(1, int(math.sqrt(pixels * aspect)))
            # A corner anywhere, refused with the aspect if the box sticks out: large boxes come out squarer.
            x, y = int(np.random.randint(width)), int(np.random.randint(height))
            if x + w <= width and y + h <= height:
                return x, y, x + w, y + h
        raise self._misfit(height, width)

    def _misfit(self, height: int, width: int) -> SettingError:
        return SettingError(
            f'RandomCutMixBox: a box of area {self.area[1]} of a crop of {height}x{width} (height x width) with aspect '
            f'in {self.aspect} does not fit. Lower area, widen aspect or use a squarer crop.'
        )
