"""Any head: the logits are those that its own prediction uses, the labelled loss is its own."""

import sys
from pathlib import Path

import builders
import pytest
import torch
from families import COMPILED, SMALL, STOCK
from mmengine.model import revert_sync_batchnorm
from mmengine.structures import PixelData
from shrink import without_weights

from mmseg_derprop.models.decoding import evaluate_layers, image_metas
from mmseg_derprop.utils.config import load_config

OPTIONS = {
    'losses.fp': dict(type='PerturbedConsistencyLoss', loss_weight=0.1),
    'pseudo_labels.alignment': dict(type='DistributionAlignment', predict=True),
    'cutmix.partner': 'batch',
}


@pytest.fixture(autouse=True)
def operators(monkeypatch):
    """A stand-in for the compiled operator that samples maps at points within 0 .. 1."""

    def point_sample(maps, points, align_corners=False, **kwargs):
        grid = points[:, :, None] * 2 - 1
        return torch.nn.functional.grid_sample(maps, grid, align_corners=align_corners, **kwargs)[..., 0]

    monkeypatch.setattr(sys.modules['mmseg.models.decode_heads.point_head'], 'point_sample', point_sample)


def batch(classes, size=(64, 64)):
    inputs, samples = builders.batch(size=size, num_classes=classes)
    for sample in samples['sup']:
        edges = (sample.gt_sem_seg.data % 2).clamp_max(1)
        sample.gt_edge_map = PixelData(data=edges)
        sample.set_metainfo(image_metas(1, size)[0])
    return inputs, samples


@pytest.mark.parametrize('name', SMALL)
def test_family(name):
    model = builders.build('derprop_paper', SMALL[name](), OPTIONS, scale=False)
    inputs, samples = batch(model.num_classes)
    steps = []
    model.step_observer = steps.append
    evaluate_layers(model.train())
    losses = model.loss(inputs, samples)
    own = model.student.loss(inputs['sup'], samples['sup'])
    own = sum(sum(value) if isinstance(value, list) else value for key, value in own.items() if 'loss' in key)
    if name != 'PointRend':  # which draws its points
        torch.testing.assert_close(losses['seg'], own * model.losses['seg'].loss_weight, rtol=1e-4, atol=1e-5)
    logits = steps[0].labeled.logits
    with torch.no_grad():
        wanted = model.student.eval().encode_decode(inputs['sup'], image_metas(2, (64, 64)))
    logits = logits[:, 1:] - logits[:, :1] if wanted.shape[1] == 1 else logits
    logits = logits.exp() if name == 'mask classifier' else logits
    torch.testing.assert_close(logits, wanted, rtol=1e-3, atol=1e-4)
    train_and_predict(model, inputs, samples)


@pytest.mark.configs
@pytest.mark.parametrize('name', STOCK)
def test_stock_family(name):
    """MMSegmentation's own networks, as wide and deep as they are; docs/families.md lists them."""
    config = load_config(f'mmseg::{name}.py').model.to_dict()
    list(without_weights(config))
    config.update(pretrained=None, test_cfg=dict(config['test_cfg'], mode='whole'))
    size = (400, 400) if 'lraspp' in name else (64, 64)  # it pools over 49 positions
    config['data_preprocessor']['size'] = size
    if 'img_size' in config.get('backbone', {}):
        config['backbone']['img_size'] = size
    options = OPTIONS | {'pseudo_labels.regions': None}
    options |= {} if 'san' in name else {'num_classes': 19}
    missing = COMPILED.get(Path(name).stem.partition('_')[0].partition('-')[0])
    if missing and 'mmcv.ops' not in sys.modules:
        with pytest.raises(ValueError, match=missing):
            builders.build('derprop_paper', config, options, scale=False)
        return
    model = revert_sync_batchnorm(builders.build('derprop_paper', config, options, scale=False))
    train_and_predict(model, *batch(19, size))


def train_and_predict(model, inputs, samples):
    student = model.student
    before = {key: value.clone() for key, value in student.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-3)
    model.train()
    for _ in range(2):
        losses = model.loss(inputs, samples)
        assert all(value.isfinite() for value in losses.values())
        optimizer.zero_grad()
        model.parse_losses(losses)[0].backward()
        optimizer.step()
    still = [key for key, value in student.named_parameters() if torch.equal(value, before[key])]
    still = [key for key in still if key.startswith('decode_head')]
    assert len(still) < 0.1 * len(before), still
    alignment = model.pseudo_labeler.alignment
    alignment.bias.copy_(torch.linspace(-0.5, 0.5, model.num_classes))
    labels = torch.cat([sample.pred_sem_seg.data for sample in model.eval().predict(inputs['weak'])])
    logits = model.logits_of(model.teacher, inputs['weak'])
    aligned, plain = alignment(logits), logits.argmax(1)
    wanted = aligned.argmax(1)
    if model.out_channels == 1:
        wanted = (aligned[:, 1] - aligned[:, 0]).sigmoid() > model.decode_head.threshold
    assert (labels != wanted).float().mean() < 1e-3 < (wanted != plain).float().mean()
