"""Pictures of what a network sees."""

import builders
import numpy as np
import pytest
import reference
import torch

from mmseg_derprop.report import panels
from mmseg_derprop.visualization.drawing import heat


def test_a_pixel_inside_of_an_object_near_the_centre():
    truth = np.zeros((60, 80), int)
    truth[2:22, 2:22] = 1
    truth[25:55, 45:75] = 2  # nearer; its pixels at least 8 within are 32..47 x 52..67
    assert panels.central_pixel(truth) == (52, 32)
    truth[25:55, 45:75] = 255
    assert panels.central_pixel(truth) == (14, 14)
    truth[:] = 0
    truth[10, 20] = 3  # too small for any distance from its border
    assert panels.central_pixel(truth) == (20, 10)


@pytest.mark.parametrize('label', [0, 255])
def test_the_centre_of_an_image_without_objects(label):
    assert panels.central_pixel(np.full((60, 80), label)) == (40, 30)


def test_corners_lie_on_corners():
    assert panels.scale((0, 0), (60, 80), (6, 8)) == (0, 0)
    assert panels.scale((79, 59), (60, 80), (6, 8)) == (7, 5)
    assert panels.scale((0, 59), (60, 80), (121, 161)) == (0, 120)
    with pytest.raises(panels.PanelError, match='80 3 lies outside of an image of 80 x 60'):
        panels.scale((80, 3), (60, 80), (6, 8))


@pytest.mark.parametrize(('order', 'titles'), [(2, [panels.DERIVATIVE, panels.PLAIN]), (0, [panels.PLAIN])])
def test_similarity_maps_against_the_reference(order, titles):
    model = builders.build(options={'propagation_head.max_order': order}).eval()
    inputs, _ = builders.batch()
    with torch.no_grad():
        view = model.see(inputs['weak'][:1])[0]
    q, k, (h, w) = 20 * view.embedding.q, 20 * view.embedding.k, view.embedding.grid
    view.embedding.q, view.embedding.k = q, k  # so that the orders differ to the eye
    drawn = panels.draw_similarity(view, view.size, (15, 20))
    assert [tile.title for tile in drawn] == titles and all(tile.mark == (15, 20) for tile in drawn)
    height, width = view.size
    position = round(20 * (h - 1) / (height - 1)) * w + round(15 * (w - 1) / (width - 1))
    wanted = []
    for n in dict.fromkeys((order, 0)):
        row = reference.spread(reference.similarity(q, k, n))[:, position].view(1, 1, h, w)
        values = reference.resize(row, view.size)[0, 0]
        wanted.append(heat(((values - values.min()) / (values.max() - values.min())).numpy()))
    for tile, map_ in zip(drawn, wanted):
        line = (tile.picture == 255).all(-1)
        assert 0 < line.mean() < 0.3
        assert np.abs(tile.picture.astype(int) - map_).max(-1)[~line].max() <= 3
    if order:
        assert np.abs(drawn[0].picture.astype(int) - drawn[1].picture).max() > 30
