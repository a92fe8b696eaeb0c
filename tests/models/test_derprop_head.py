"""The propagation head against the reference."""

import pytest
import reference
import torch
import torch.nn.functional as F
from mmseg.registry import MODELS

from mmseg_derprop.models import DerPropHead

GRID, SIZE = (4, 5), (14, 19)


def build(**changes):
    return MODELS.build(dict(dict(type='DerPropHead', num_classes=6, in_channels=7, channels=8), **changes))


def features(count=2):
    return (torch.randn(count, 3, 8, 9), torch.randn(count, 7, *GRID))


def test_embedding_by_hand():
    head, inputs = build().eval(), features()
    with torch.no_grad():
        head.conv.bn.running_mean.uniform_()
        head.conv.bn.running_var.uniform_(0.5, 2)
    state = head.state_dict()
    hidden = F.conv2d(inputs[1], state['conv.conv.weight'], state['conv.conv.bias'], padding=1)
    norm = [state[f'conv.bn.{name}'] for name in ('running_mean', 'running_var', 'weight', 'bias')]
    hidden = F.batch_norm(hidden, *norm).relu()
    found = head(inputs)
    assert found.grid == GRID
    for name in 'qk':
        wanted = F.conv2d(hidden, state[f'conv_{name}.weight'], state[f'conv_{name}.bias']).flatten(2)
        torch.testing.assert_close(getattr(found, name), wanted)
    assert state['conv_q.weight'].shape == (6, 8, 1, 1) and state['conv.conv.weight'].shape == (8, 7, 3, 3)
    assert torch.equal(head.embed(head.conv(inputs[1])).q, found.q)


def test_published_structure():
    head = DerPropHead(num_classes=21, in_channels=32)
    shapes = {name: tuple(p.shape) for name, p in head.named_parameters()}
    assert shapes['conv.conv.weight'] == (256, 32, 3, 3) and shapes['conv.conv.bias'] == (256,)
    assert shapes['conv_q.weight'] == shapes['conv_k.weight'] == (21, 256, 1, 1)
    assert shapes['conv_q.bias'] == shapes['conv_k.bias'] == (21,)
    assert isinstance(head.dropout, torch.nn.Dropout2d) and head.dropout.p == 0.1
    assert isinstance(head.conv.bn, torch.nn.BatchNorm2d) and head.max_order == 1


def test_dropout_in_training_only():
    head, inputs = build(dropout_ratio=0.5), features()
    assert not torch.equal(head.train()(inputs).q, head(inputs).q)
    assert torch.equal(head.eval()(inputs).q, head(inputs).q)


@pytest.mark.parametrize('max_order', [0, 1, 2, 5])
@pytest.mark.parametrize('normalize', ['source', 'source_mean', 'target'])
def test_propagation(max_order, normalize):
    head = build(max_order=max_order, normalize=normalize).eval()
    embedding, logits = head(features()), torch.randn(2, 6, *SIZE, requires_grad=True)
    found = head.propagate(embedding, logits)
    coarse = reference.resize(logits, GRID).flatten(2)
    wanted = reference.propagate(embedding.q, embedding.k, coarse, max_order, normalize).unflatten(2, GRID)
    torch.testing.assert_close(found, reference.resize(wanted, SIZE), rtol=1e-4, atol=1e-5)
    grads = torch.autograd.grad(found.square().sum(), (logits, head.conv_q.weight), allow_unused=True)
    assert grads[0] is None and grads[1].any()


def test_an_order_that_the_classes_do_not_have():
    with pytest.raises(ValueError, match='max_order = 6.*6 channels.*0 to 5'):
        build(max_order=6)
