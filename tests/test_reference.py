"""The reference against golden data of the published program, where a neighbour holds them."""

from pathlib import Path

import numpy as np
import pytest
import reference
import torch

GOLDEN = Path(__file__).resolve().parents[2] / 'shared' / 'golden'
LEARNT = ('logits_x', 'logits_u_w', 'logits_u_s', 'feat_x', 'feat_u_w', 'feat_u_s')
LEARNT += ('conv1_w', 'conv2_w')


@pytest.fixture(scope='module', params=['square_k5', 'skewed_k4', 'wide_k21'])
def golden(request):
    """Inputs, the expected outputs, and those of the reference, gradients included."""
    path = GOLDEN / f'{request.param}.npz'
    if not path.is_file():
        pytest.skip(f'no golden data: {path} is absent')
    with np.load(path) as data:
        entries = {name: torch.from_numpy(np.array(data[name])) for name in data.files}
    inputs = {name[3:]: entry for name, entry in entries.items() if name.startswith('in_')}
    expected = {name[4:]: entry for name, entry in entries.items() if name.startswith('out_')}
    for name in LEARNT:
        inputs[name].requires_grad_()
    found = reference.published_step(inputs)
    gradients = torch.autograd.grad(found['loss'], [inputs[name] for name in LEARNT], allow_unused=True)
    for name, gradient in zip(LEARNT, gradients, strict=True):
        zero = torch.zeros_like(inputs[name])
        found[f'grad_{name}'] = zero if gradient is None else gradient
    return inputs, expected, found


def test_every_output_is_compared(golden):
    _, expected, found = golden
    assert set(found) == set(expected)


def gradients_at_kinks(inputs):
    """What pairs of equal affinities can add to the gradients.

    The L1 distance of affinity_u has a kink there. A difference that is only rounding has any
    sign, or none: correct programs disagree on it.
    """

    def head(feature):
        weights = ((inputs[f'conv{i}_w'], inputs[f'conv{i}_b']) for i in (1, 2))
        return [torch.nn.functional.conv2d(feature, *w).flatten(2) for w in weights]

    slack = {}
    weak = reference.affinities(*head(inputs['feat_u_w']))
    names = ('feat_u_s', 'conv1_w', 'conv2_w')
    for found, target in zip(reference.affinities(*head(inputs['feat_u_s'])), weak, strict=True):
        weight = 0.5 * 0.5 / 2 / found.numel()  # of the term, of the mean over two orders, of the end
        for at in ((found - target).abs() < torch.finfo(torch.float32).eps / 2).nonzero().tolist():
            gradients = torch.autograd.grad(found[tuple(at)], [inputs[name] for name in names], retain_graph=True)
            for name, gradient in zip(names, gradients, strict=True):
                slack[f'grad_{name}'] = slack.get(f'grad_{name}', 0) + weight * gradient.abs()
    return slack


def test_values_and_gradients(golden):
    inputs, expected, found = golden
    slack = gradients_at_kinks(inputs)
    for name, want in expected.items():
        if not want.is_floating_point():
            continue
        have = found[name].detach()
        assert have.shape == want.shape, name
        excess = (have - want).abs() - slack.get(name, 0)
        assert excess.max() <= 1e-4 * want.abs().max(), name


def test_threshold_moves_as_published(golden):
    """The threshold moves little in a step, so its target is compared."""
    inputs, expected, found = golden
    momentum, start = float(inputs['thresh_momentum']), float(inputs['thresh_init'])

    def target(tau):
        return (float(tau) - momentum * start) / (1 - momentum)

    assert target(found['threshold_after']) == pytest.approx(
        target(expected['threshold_after']), abs=1e-7 / (1 - momentum)
    )


def test_labels_and_masks(golden):
    _, expected, found = golden
    for name, want in expected.items():
        if want.is_floating_point() or name == 'regions_w':
            continue
        have = found[name]
        assert torch.equal(have.long(), want.long()), name


def test_regions_differ_only_at_the_middle_of_the_range(golden):
    inputs, expected, found = golden
    rows = inputs['region_rows_w'].long()
    grid, size = inputs['feat_x'].shape[2:], inputs['logits_x'].shape[2:]
    with torch.no_grad():
        feature = torch.cat([inputs['feat_x'], inputs['feat_u_w']])
        q, k = (
            torch.nn.functional.conv2d(feature, inputs[f'conv{i}_w'], inputs[f'conv{i}_b']).flatten(2) for i in (1, 2)
        )
        p = reference.spread(reference.similarity(q, k))[:, rows]
        maps = reference.resize(p.unflatten(2, grid), size)
        low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
        middling = ((maps - low) / (high - low) - 0.5).abs() < 1e-5
    assert not ((found['regions_w'] != expected['regions_w']) & ~middling).any()


def binary_logits(*probabilities):
    """Logits (1, 2, 1, W) that give class 0 these probabilities."""
    p = torch.tensor(probabilities)
    return torch.stack([p, 1 - p]).log()[None, :, None]


def test_divergence_vanishes_at_its_target():
    logits, everywhere = binary_logits(0.5, 0.9), torch.ones(1, 1, 2, dtype=torch.bool)
    assert reference.masked_divergence(logits, logits + 3, everywhere, everywhere).abs() < 1e-6
    entropy = reference.masked_soft_cross_entropy(logits, logits, everywhere, everywhere)
    p = torch.tensor([[0.5, 0.9], [0.5, 0.1]])
    torch.testing.assert_close(entropy, -(p * p.log()).sum(0).mean())


def test_normalizations_of_the_weights():
    s = 3 * torch.randn(2, 5, 5)
    source, mean, target = (reference.spread(s, n) for n in ('source', 'source_mean', 'target'))
    ones = torch.ones(2, 5)
    torch.testing.assert_close(source.sum(2), ones)
    torch.testing.assert_close(mean.sum(1), ones)
    torch.testing.assert_close(target.sum(1), ones)
    torch.testing.assert_close(mean * source.sum(1, keepdim=True), source)
    assert not torch.allclose(mean, target)
