"""The strong view against PIL with torchvision, and the CutMix box."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torchvision.transforms import ColorJitter
from torchvision.transforms import functional as F  # noqa: N812

from mmseg_derprop.datasets import RandomCutMixBox, StrongAugment, strong


@pytest.fixture(autouse=True)
def seed():
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope='module')
def rgb():
    """A colourful image with smooth parts, edges and texture, (64, 48, 3)."""
    rng = np.random.default_rng(0)
    coarse = cv2.resize(rng.integers(0, 256, (5, 4, 3), np.uint8), (48, 64))
    coarse[10:30, 5:25] = 220, 40, 60
    return np.clip(coarse + rng.normal(0, 12, coarse.shape), 0, 255).astype(np.uint8)


def bgr(img):
    return np.ascontiguousarray(np.asarray(img)[..., ::-1])


@pytest.mark.parametrize(
    ('ours', 'theirs', 'amounts', 'tolerance'),
    [
        (strong.adjust_brightness, F.adjust_brightness, (0.5, 0.93, 1.5), 1),
        (strong.adjust_contrast, F.adjust_contrast, (0.5, 0.93, 1.5), 2),
        (strong.adjust_saturation, F.adjust_saturation, (0.5, 0.93, 1.5), 2),
        # Both round the hue to about 256 steps, PIL downwards: a step is 6 levels, two may add up.
        (strong.adjust_hue, F.adjust_hue, (-0.25, 0.0, 0.1, 0.25), 12),
    ],
)
def test_each_change_is_torchvisions_on_pil(rgb, ours, theirs, amounts, tolerance):
    # A dark image too: the other one's mean is near the middle of the range.
    for img in (rgb, rgb // 3):
        for amount in amounts:
            expected = bgr(theirs(Image.fromarray(img), amount)).astype(int)
            difference = np.abs(ours(bgr(img), amount) - expected)
            assert difference.max() <= tolerance
            assert difference.mean() <= 1.5


@pytest.mark.parametrize('sigma', [0.1, 0.6, 1.2, 2.0])
def test_blur_is_pils(rgb, sigma):
    expected = bgr(Image.fromarray(rgb).filter(ImageFilter.GaussianBlur(sigma))).astype(int)
    # PIL's is an approximation by boxes, coarsest for a small sigma.
    assert np.abs(strong.gaussian_blur(bgr(rgb), sigma) - expected).mean() < 1.5


def statistics(img):
    """Mean and deviation of each channel in BGR, mean chroma, mean gradient."""
    img = np.asarray(img, np.float64)
    chroma = (img.max(-1) - img.min(-1)).mean()
    gradient = np.abs(np.diff(img, axis=0)).mean()
    return [*img.mean((0, 1)), *img.std((0, 1)), chroma, gradient]


def pil_strong(img, jitter):
    if np.random.rand() < 0.8:
        img = jitter(img)
    if np.random.rand() < 0.2:
        img = img.convert('L').convert('RGB')
    if np.random.rand() < 0.5:
        img = img.filter(ImageFilter.GaussianBlur(np.random.uniform(0.1, 2.0)))
    return img


def test_distribution_is_that_of_pil_and_torchvision(rgb):
    draws = 300
    jitter, source = ColorJitter(0.5, 0.5, 0.5, 0.25), Image.fromarray(rgb)
    theirs = np.array([statistics(bgr(pil_strong(source, jitter))) for _ in range(draws)])
    augment = StrongAugment()
    ours = np.array([statistics(augment(dict(img=bgr(rgb)))['img']) for _ in range(draws)])
    spread = theirs.std(0)
    # A difference of two means has the standard error sqrt(2 / draws) of the spread; a ratio of two
    # deviations has about sqrt((kurtosis - 1) / (2 * draws)), kurtosis up to 4 here. Four of each.
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < 4 * np.sqrt(2 / draws) * spread).all()
    assert (np.abs(ours.std(0) / spread - 1) < 4 * np.sqrt(3 / (2 * draws))).all()


def test_probabilities_count(rgb):
    img = bgr(rgb)
    off = dict(jitter_prob=0, gray_prob=0, blur_prob=0)
    assert (StrongAugment(**off)(dict(img=img.copy()))['img'] == img).all()
    gray = StrongAugment(**{**off, 'gray_prob': 1})(dict(img=img.copy()))['img']
    assert (gray == gray[..., :1]).all()
    blurred = StrongAugment(**{**off, 'blur_prob': 1}, blur_sigma=(2.0, 2.0))(dict(img=img))['img']
    assert statistics(blurred)[-1] < 0.5 * statistics(img)[-1]
    for name, share in (('jitter_prob', 0.8), ('gray_prob', 0.2), ('blur_prob', 0.5)):
        augment = StrongAugment(**{**off, name: share})
        changed = sum((augment(dict(img=img))['img'] != img).any() for _ in range(400))
        # A binomial's deviation is at most 0.025 here. The smallest blurs change no uint8 pixel: up
        # to 0.09.
        assert share - 0.19 < changed / 400 < share + 0.1


@pytest.mark.parametrize('shape', [(321, 321), (160, 320)])
def test_boxes_keep_their_bounds(shape):
    results = dict(img=np.zeros((*shape, 3), np.uint8))
    boxes = np.array([RandomCutMixBox()(results)['cutmix_box'] for _ in range(2000)])
    none = (boxes == 0).all(1)
    # A binomial's deviation is 0.011.
    assert abs(none.mean() - 0.5) < 0.05
    x1, y1, x2, y2 = boxes[~none].T
    assert min(x1.min(), y1.min()) >= 0 and x2.max() <= shape[1] and y2.max() <= shape[0]
    w, h = x2 - x1, y2 - y1
    area = w * h / (shape[0] * shape[1])
    # Sides are rounded down by less than a pixel.
    assert (area <= 0.4).all()
    assert ((w + 1) * (h + 1) / (shape[0] * shape[1]) >= 0.02).all()
    assert ((h + 1) / w >= 0.3).all()
    assert (h / (w + 1) <= 1 / 0.3).all()
    # Uniform area: mean 0.21, deviation 0.11, so 0.0035 for the mean of about 1000.
    assert abs(area.mean() - 0.21) < 0.016
    # Boxes are low and high, and lie everywhere.
    assert (h / w).min() < 0.45
    assert (h / w).max() > 2
    assert abs((x1 + x2).mean() / shape[1] - 1) < 0.05
    assert abs((y1 + y2).mean() / shape[0] - 1) < 0.05


def test_errors(rgb):
    with pytest.raises(TypeError, match=r'float32 of shape \(1, 64, 48, 3\).*behind the one that loads'):
        StrongAugment()(dict(img=rgb.astype(np.float32)[None]))
    with pytest.raises(ValueError, match='32x512.*does not fit'):  # whether this image gets a box or not
        RandomCutMixBox(prob=1e-9)(dict(img=np.zeros((32, 512, 3), np.uint8)))
