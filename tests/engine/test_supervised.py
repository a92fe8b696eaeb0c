"""The hooks of configs/supervised at work on a plain segmentor of MMSegmentation."""

import itertools
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmseg_derprop.engine.hooks.non_finite_hook import image_paths
from mmseg_derprop.utils.config import load_config

CONFIG = Path(__file__).resolve().parents[2] / 'configs/supervised/tiny_shapes.py'
_runs = itertools.count()


@pytest.fixture
def make_plain_runner(shapes, small_segmentor, tmp_path, quick_runs):
    """Makes a run of five iterations of the shipped config, smaller, with the hooks that it has."""

    def make(options=None):
        config = load_config(str(CONFIG), {'data_root': str(shapes)})
        config.model = small_segmentor
        config.model.data_preprocessor.size = config.crop_size
        name = f'supervised_{next(_runs)}'
        config.merge_from_dict(
            {
                'work_dir': str(tmp_path / name),
                'experiment_name': name,
                'visualizer.name': name,
                'log_level': 'WARNING',
                'train_cfg.max_iters': 5,
                'train_dataloader': dict(batch_size=2, num_workers=0, persistent_workers=False),
                'default_hooks.checkpoint': dict(interval=1, max_keep_ckpts=-1),
                **(options or {}),
            }
        )
        config.val_dataloader = config.val_cfg = config.val_evaluator = None
        config.test_dataloader = config.test_cfg = config.test_evaluator = None
        return Runner.from_cfg(config)

    return make


class Spoil(Hook):
    """Makes what the first layer gives, or its gradient, NaN in the second iteration."""

    priority = 'VERY_HIGH'

    def __init__(self, what):
        self.what, self.now = what, False

    def before_train(self, runner):
        first = runner.model.backbone.conv1
        first.register_forward_hook(lambda _, __, out: out * torch.nan if self.now and self.what == 'losses' else out)
        first.weight.register_hook(lambda grad: grad * torch.nan if self.now and self.what == 'gradients' else grad)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.now = batch_idx == 1
        if self.now:
            self.images = image_paths(data_batch)


@pytest.mark.parametrize('what', ['losses', 'gradients'])
def test_a_run_stops_and_says_why(what, make_plain_runner):
    runner = make_plain_runner()
    runner.register_hook(spoil := Spoil(what))
    with pytest.raises(FloatingPointError, match=f'Iteration 2 has {what} that are not finite') as caught:
        runner.train()
    message = str(caught.value)
    assert ('decode.loss_ce = nan' if what == 'losses' else 'Gradients of 1 of') in message
    assert what == 'losses' or 'parameters: backbone.conv1.weight' in message
    assert len(spoil.images) == 2 and all(path in message for path in spoil.images)
    assert [path.name for path in Path(runner.work_dir).glob('*.pth')] == ['iter_1.pth']
