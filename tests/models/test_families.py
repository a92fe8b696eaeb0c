"""Any head: the logits are those that its own prediction uses, the labelled loss is its own."""

import sys

import builders
import pytest
import torch
from families import SMALL
from mmengine.structures import PixelData

from mmseg_derprop.models.segmentors import evaluate_layers, image_metas

FP = dict(type='PerturbedConsistencyLoss', loss_weight=0.1)


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
    network = SMALL[name]()
    model = builders.build('derprop_paper', network, {'losses.fp': FP, 'cutmix.partner': 'batch'}, scale=False)
    student = model.student
    inputs, samples = batch(model.num_classes)
    steps = []
    model.step_observer = steps.append
    evaluate_layers(model)
    torch.manual_seed(3)
    losses = model.loss(inputs, samples)
    torch.manual_seed(3)
    own = student.loss(inputs['sup'], samples['sup'])
    own = sum(sum(value) if isinstance(value, list) else value for key, value in own.items() if 'loss' in key)
    if name != 'PointRend':  # which draws its points
        torch.testing.assert_close(losses['seg'], own * model.losses['seg'].loss_weight, rtol=1e-4, atol=1e-5)
    logits = steps[0].labeled.logits
    with torch.no_grad():
        wanted = student.eval().encode_decode(inputs['sup'], image_metas(2, (64, 64)))
    logits = logits[:, 1:] - logits[:, :1] if wanted.shape[1] == 1 else logits
    logits = logits.exp() if name == 'mask classifier' else logits
    torch.testing.assert_close(logits, wanted, rtol=1e-3, atol=1e-4)
    assert model.logits_of(model.teacher, inputs['weak']).shape == (2, model.num_classes, 64, 64)

    before = {key: value.clone() for key, value in student.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-2)
    model.train()
    for _ in range(2):
        losses = model.loss(inputs, samples)
        total = model.parse_losses(losses)[0]
        assert total.isfinite() and all(value.isfinite() for value in losses.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    still = [key for key, value in student.named_parameters() if torch.equal(value, before[key])]
    still = [key for key in still if key.startswith('decode_head')]
    assert len(still) < 0.1 * len(before), still
    predicted = model.eval().predict(inputs['weak'])
    assert all(0 <= sample.pred_sem_seg.data.min() and sample.pred_sem_seg.data.max() < model.num_classes for sample in predicted)
