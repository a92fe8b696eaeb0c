"""Pictures of pseudo-labels, as files."""

import cv2
import numpy as np
import pytest
from mmengine.hooks import Hook

from mmseg_derprop.visualization.drawing import MARGIN, MIN_SIDE, TITLE_HEIGHT

CROP = 33
SCALE = -(-MIN_SIDE // CROP)
WIDTH, HEIGHT = CROP * SCALE + 2 * MARGIN, CROP * SCALE + TITLE_HEIGHT + 2 * MARGIN


class Batches(Hook):
    """Keeps batches."""

    priority = 'LOWEST'

    def __init__(self):
        self.batches = []

    def before_train(self, runner):
        # A decisive classifier, so that confidences differ.
        runner.model.student.decode_head.conv_seg.weight.data *= 300

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.batches.append(data_batch)


@pytest.fixture
def draw(make_runner, tmp_path):
    """Trains and draws; returns pictures by name, and batches."""

    def run(options=None, hook=None, **kwargs):
        hooks = [dict(type='PseudoLabelHook'), dict(type='PseudoLabelVisualizationHook', **(hook or {}))]
        options = {
            'custom_hooks': hooks,
            'train_cfg.max_iters': 3,
            'model.pseudo_labels.threshold': dict(init=0.2, momentum=1.0),
            **(options or {}),
        }
        runner = make_runner(options, crop=CROP, **kwargs)
        keeper = Batches()
        runner.register_hook(keeper)
        runner.train()
        # Steps that are not drawn cost nothing.
        assert (runner.model.step_observer is None) == (3 % hook['interval'] != 0)
        files = sorted((tmp_path / 'work').rglob('vis_image/*.png'))
        return {path.name: cv2.imread(str(path))[..., ::-1] for path in files}, keeper.batches

    return run


def tile(picture, row, column):
    """The drawing under a title, at its own size."""
    y, x = row * HEIGHT + TITLE_HEIGHT + MARGIN, column * WIDTH + MARGIN
    return picture[y : y + CROP * SCALE : SCALE, x : x + CROP * SCALE : SCALE]


def rgb(image):
    return image.numpy().transpose(1, 2, 0)[..., ::-1]


def test_pictures_of_a_batch(draw):
    pictures, batches = draw({'randomness.seed': 1}, hook=dict(interval=2, max_images=3))
    assert list(pictures) == ['pseudo_labels_2.png']
    picture = pictures['pseudo_labels_2.png']
    assert picture.shape == (3 * HEIGHT, 8 * WIDTH, 3)
    inputs, samples = (batches[1][key] for key in ('inputs', 'data_samples'))
    boxed = 0
    for row in range(3):
        np.testing.assert_array_equal(tile(picture, row, 0), rgb(inputs['weak'][row]))
        x1, y1, x2, y2 = samples['strong'][row].metainfo['cutmix_box']
        inside = slice(y1 + 1, max(y2 - 1, 0)), slice(x1 + 1, max(x2 - 1, 0))  # without the line around it
        boxed += x2 > x1
        np.testing.assert_array_equal(tile(picture, row, 1)[inside], rgb(inputs['strong'][row + 1])[inside])
        truth = samples['weak'][row].gt_sem_seg.data[0].numpy()
        np.testing.assert_array_equal((tile(picture, row, 7) == 255).all(-1), truth == 255)
        np.testing.assert_array_equal((tile(picture, row, 7) == (86, 180, 233)).all(-1), truth == 2)
        # What was accepted covers what was confident.
        assert not ((tile(picture, row, 5) == 255).all(-1) & (tile(picture, row, 4) != 255).any(-1)).any()
    assert boxed


def test_without_labels_and_regions(draw):
    unlabeled = 'train_dataloader.dataset.unlabeled.data_prefix'
    options = {unlabeled: dict(_delete_=True, img_path='JPEGImages'), 'model.pseudo_labels.regions': None}
    pictures, _ = draw(options, hook=dict(interval=1, max_images=9))
    assert list(pictures) == [f'pseudo_labels_{i}.png' for i in (1, 2, 3)]
    assert all(p.shape == (4 * HEIGHT, 6 * WIDTH, 3) for p in pictures.values())
