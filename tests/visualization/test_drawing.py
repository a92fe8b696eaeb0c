"""Pictures, pixel by pixel."""

import numpy as np
import pytest

from mmseg_derprop.visualization.drawing import (
    MARGIN,
    MIN_SIDE,
    TITLE_HEIGHT,
    count_map,
    heat,
    outline,
    paint,
    panel,
    to_rgb,
)

PALETTE = [[10, 20, 30], [200, 0, 0]]


def test_paint():
    labels = np.array([[0, 1], [255, -1]])
    np.testing.assert_array_equal(paint(labels, PALETTE), [[[10, 20, 30], [200, 0, 0]], [[255] * 3, [255] * 3]])
    known = np.array([[True, False], [True, True]])
    np.testing.assert_array_equal(paint(labels, PALETTE, known)[0], [[10, 20, 30], [255] * 3])
    assert (paint(labels, PALETTE, known)[1] == 255).all()
    assert paint(labels, PALETTE).dtype == np.uint8


def test_heat_rises_and_clips():
    colours = heat(np.array([[-1.0, 0.0, 0.5, 1.0, 2.0]]))[0].astype(int)
    np.testing.assert_array_equal(colours[0], colours[1])
    np.testing.assert_array_equal(colours[3], colours[4])
    assert colours[1, 2] > colours[1, 1]  # dark blue-violet
    assert colours[3, 0] > 200 and colours[3, 1] > 200 and colours[3, 2] < 100  # yellow
    assert np.all(np.diff(colours[1:4].sum(-1)) > 0)


def test_outline_leaves_the_image_and_its_inside_alone():
    image, mask = np.zeros((7, 7, 3), np.uint8), np.zeros((7, 7), bool)
    mask[1:6, 1:6] = True
    drawn = outline(image, mask)
    edge = mask.copy()
    edge[2:5, 2:5] = False
    np.testing.assert_array_equal((drawn == (255, 255, 0)).all(-1), edge)
    assert not drawn[~edge].any() and not image.any()


def test_count_map():
    regions = np.zeros((3, 2, 2), bool)
    regions[:, 0, 0] = regions[0, 0, 1] = True
    np.testing.assert_array_equal(count_map(regions), heat(np.array([[1, 1 / 3], [0, 0]])))
    np.testing.assert_array_equal(count_map(regions[:, 1:]), heat(np.zeros((1, 2))))


def test_panel_places_pictures_under_titles():
    red, blue = np.zeros((40, 40, 3), np.uint8), np.zeros((80, 160, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    sheet = panel([[('red', red), ('blue', blue)], [('red', red)]])
    side = MIN_SIDE + 2 * MARGIN
    assert sheet.shape == (2 * (MIN_SIDE + TITLE_HEIGHT + 2 * MARGIN), 2 * side, 3)
    top = TITLE_HEIGHT + MARGIN
    assert (sheet[top : top + MIN_SIDE, MARGIN : MARGIN + MIN_SIDE] == (255, 0, 0)).all()
    assert (sheet[top : top + 80, side + MARGIN : side + MARGIN + 160] == (0, 0, 255)).all()
    assert (sheet[top + 80 : top + MIN_SIDE, side:] == 255).all()
    title = sheet[:TITLE_HEIGHT, :side]
    assert (title < 128).any() and (title == 255).mean() > 0.5
    assert (sheet[MIN_SIDE + TITLE_HEIGHT + 2 * MARGIN :, side:] == 255).all()


def test_images_of_any_channels_and_depth():
    bgr = np.arange(24, dtype=np.uint8).reshape(3, 2, 4)
    np.testing.assert_array_equal(to_rgb(bgr), bgr[::-1].transpose(1, 2, 0))
    assert (to_rgb(bgr[:2]) == bgr[0][..., None]).all()
    picture = to_rgb(np.linspace(-5, 900, 12 * 8).reshape(12, 2, 4), (11, 0, 5))
    assert picture.dtype == np.uint8 and not picture[0, 0].any() and (picture[1, 3] >= 254).all()
    with pytest.raises(ValueError, match=r'from 0 to 2.*\(3, 0, 1\)'):
        to_rgb(bgr, (3, 0, 1))
