"""Another backbone is another first line of a config's _base_."""

from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook

ROOT = Path(__file__).resolve().parents[2]
FIRST = "'../_base_/models/deeplabv3plus_tiny.py',"


class Losses(Hook):
    """Keeps the losses, and the weights that training begins with."""

    def __init__(self):
        self.losses = []

    def before_train(self, runner):
        self.start = {key: value.clone() for key, value in runner.model.state_dict().items()}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append({key: float(value) for key, value in outputs.items()})


@pytest.mark.parametrize(
    'name, options',
    [
        ('segformer_mit-b0', {'decode_head.channels': 32}),
        ('upernet_convnext-t', {'decode_head.channels': 16, 'auxiliary_head.channels': 16}),
    ],
)
def test_another_first_line(name, options, make_runner, tmp_path):
    if 'convnext' in name:
        pytest.importorskip('mmpretrain')
    text = (ROOT / 'configs/derprop/tiny_shapes.py').read_text()
    assert text.count(FIRST) == 1
    config = tmp_path / 'config.py'
    config.write_text(text.replace(FIRST, f"'../_base_/models/{name}.py',").replace("'../", f"'{ROOT}/configs/"))
    options = {f'model.segmentor.{key}': value for key, value in options.items()}
    options |= {
        'model.segmentor.backbone.init_cfg': None,
        'train_cfg.max_iters': 2,
        'train_dataloader.batch_size': 4,
        'train_dataloader.sampler.num_labeled': 2,
        'train_dataloader.sampler.num_unlabeled': 2,
    }
    runner = make_runner(options, path=config, segmentor=None, crop=64)
    keeper = Losses()
    runner.register_hook(keeper)
    runner.train()

    model = runner.model
    assert type(model.backbone).__name__ in ('MixVisionTransformer', 'ConvNeXt')
    assert len(keeper.losses) == 2
    assert all(torch.isfinite(torch.tensor(value)) for losses in keeper.losses for value in losses.values())
    assert ('sup.aux_0.loss_ce' in keeper.losses[0]) == ('convnext' in name)
    state = model.state_dict()
    moved = {key for key, value in state.items() if not torch.equal(value, keeper.start[key])}
    for part in ('student.backbone.', 'student.decode_head.', 'propagation_head.'):
        weights = [key for key in state if key.startswith(part) and key.endswith('weight') and state[key].ndim > 1]
        assert weights and len(moved & set(weights)) > 0.9 * len(weights), part
    assert not any(key.startswith('teacher.') for key in moved)  # in epoch 0

    image = torch.randint(0, 256, (3, 61, 75), dtype=torch.uint8)
    model.eval()
    prediction = model.test_step(dict(inputs=[image], data_samples=None))[0].pred_sem_seg.data
    assert prediction.shape == (1, 61, 75) and prediction.max() < 6
