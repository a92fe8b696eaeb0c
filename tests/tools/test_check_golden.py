"""The golden checker: on golden data where a neighbour holds them, and on cases that the reference makes."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from torch.nn.functional import conv2d

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / 'shared'
LEARNT = ('logits_x', 'logits_u_w', 'logits_u_s', 'feat_x', 'feat_u_w', 'feat_u_s', 'conv1_w', 'conv2_w')


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(monkeypatch, script, *args):
    """Runs a tool's main; returns what it exits with."""
    monkeypatch.setattr(sys, 'argv', [script, *map(str, args)])
    try:
        load(ROOT / 'tools' / script).main()
    except SystemExit as end:
        return end.code or 0
    return 0


@pytest.fixture
def check(monkeypatch):
    return lambda *args: run(monkeypatch, 'analysis_tools/check_golden.py', *args)


def make_case(num_classes, batch, size, grid, alpha, momentum, ignore=False):
    """A step's entries: random inputs and what the reference makes of them."""
    torch.manual_seed(num_classes)

    def logits():
        return reference.resize(4 * torch.randn(batch, num_classes, 4, 4), size)

    def feature():
        return torch.randn(batch, 16, *grid)

    def ignored():
        mask = torch.zeros(batch, *size, dtype=torch.int32)
        mask[:, slice(None) if ignore else slice(-3, None)] = 255
        return mask

    box = torch.zeros(batch, *size)
    box[:, 5:20, 7:23] = 1
    labels = logits().argmax(1).int()
    labels[:, :2] = 255
    inputs = dict(alpha=torch.tensor(alpha, dtype=torch.float64), labels_x=labels, cutmix_box=box)
    inputs |= dict(thresh_init=torch.tensor(0.3, dtype=torch.float64), thresh_momentum=torch.tensor(momentum))
    inputs |= {f'logits_{name}': logits() for name in ('x', 'u_w', 'u_w_fp', 'u_s', 'mix_teacher')}
    inputs |= {f'feat_{name}': feature() for name in ('x', 'u_w', 'u_s')}
    inputs |= dict(ignore_u=ignored(), ignore_mix=ignored().flip(1))
    for layer in ('conv1', 'conv2'):
        inputs |= {f'{layer}_w': 0.4 * torch.randn(num_classes, 16, 1, 1), f'{layer}_b': torch.randn(num_classes)}
    inputs['region_rows_w'] = torch.randint(grid[0] * grid[1] - 1, (24,), dtype=torch.int32)
    for name in LEARNT:
        inputs[name].requires_grad_()
    found = reference.published_step(inputs)
    gradients = torch.autograd.grad(found['loss'], [inputs[name] for name in LEARNT], materialize_grads=True)
    return as_entries(inputs, found | {f'grad_{name}': each for name, each in zip(LEARNT, gradients)})


def as_entries(inputs, found):
    """What a file holds."""
    entries = {f'in_{name}': entry for name, entry in inputs.items()}
    entries |= {f'out_{name}': entry for name, entry in found.items()}
    return {name: entry.detach().numpy() for name, entry in entries.items()}


CASES = {
    'grid_divides_nothing': dict(num_classes=6, batch=2, size=(37, 45), grid=(5, 8), alpha=0.4, momentum=0.999),
    'square': dict(num_classes=3, batch=3, size=(33, 33), grid=(5, 5), alpha=1.0, momentum=0.5),
    'first_epoch': dict(num_classes=19, batch=1, size=(41, 29), grid=(6, 4), alpha=0.0, momentum=0.9),
    'two_classes': dict(num_classes=2, batch=2, size=(33, 41), grid=(9, 11), alpha=0.7, momentum=0.99),
}


@pytest.fixture
def case():
    made = make_case(**CASES['grid_divides_nothing'])
    assert (made['out_labels_before_regions'] != made['out_labels_after_regions']).any()  # it proves something of them
    return made


@pytest.mark.parametrize('name', CASES)
def test_project_agrees_with_the_reference(check, tmp_path, name):
    np.savez(tmp_path / 'case.npz', **make_case(**CASES[name]))
    assert check(tmp_path / 'case.npz') == 0


FLOATS = ('loss_u_kl', 'loss', 'pixel_propagated_w', 'similarity_d1_w', 'affinity_x', 'grad_feat_u_w', 'grad_conv1_w')
MASKS = ('labels_after_regions', 'confident_before_regions', 'confident_after_regions', 'regions_w')


@pytest.mark.parametrize('name', [*FLOATS, 'grad_logits_u_w', 'threshold_after', *MASKS])
def test_corrupted_entry_fails(check, case, tmp_path, capsys, name):
    entry = case[f'out_{name}'] = case[f'out_{name}'].copy()
    at = np.unravel_index(np.abs(entry.astype(float)).argmax(), entry.shape)
    if name in MASKS:
        entry[at] = not entry[at] if entry.dtype == bool else (entry[at] + 1) % 6
    elif name == 'threshold_after':
        entry += 1e-3 * (1 - 0.999)
    else:
        entry[at] += 1e-3 * (np.abs(entry).max() or 1e-3)
    np.savez(tmp_path / 'case.npz', **case)
    assert check(tmp_path / 'case.npz') == 1
    failed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.endswith('FAIL')]
    assert name in failed


def test_unknown_and_missing_entries_fail(check, case, tmp_path, capsys):
    np.savez(tmp_path / 'unknown.npz', **case, out_surprise=np.zeros(3))
    assert check(tmp_path / 'unknown.npz') == 1
    assert 'unknown entry' in capsys.readouterr().out
    del case['in_labels_x']
    np.savez(tmp_path / 'missing.npz', **case)
    assert "lacks the entry 'labels_x'" in check(tmp_path / 'missing.npz')


def make_corrmatch(seed, loud=1.0):
    """A CorrMatch file's entries, as computed in double precision."""
    torch.manual_seed(seed)
    size, grid, num_classes = (33, 33), (5, 5), 4

    def logits():
        return loud * reference.resize(4 * torch.randn(3, num_classes, 6, 6), size)

    inputs = {f'logits_{name}': logits() for name in ('x', 'u_w', 'u_w_fp', 'u_s', 'eval')}
    inputs |= {f'feat_{name}': torch.randn(3, 16, *grid) for name in ('x', 'u_w', 'u_s')}
    for layer in ('conv1', 'conv2'):
        inputs |= {f'{layer}_w': 0.3 * torch.randn(num_classes, 16, 1, 1), f'{layer}_b': torch.randn(num_classes)}
    inputs = {name: entry.double().requires_grad_() for name, entry in inputs.items()}
    ignored = torch.zeros(3, *size, dtype=torch.int64)
    ignored[0, -3:] = 255
    inputs |= dict(labels_x=logits().argmax(1), ignore_u=ignored, img_u_s1=torch.randn(3, 3, *size))
    inputs |= dict(box1=torch.tensor([[3, 4, 20, 18], [0, 9, 9, 30], [10, 0, 33, 12]]))
    inputs |= dict(thresh_init=torch.tensor(0.6).double(), thresh_momentum=torch.tensor(0.9).double())
    return inputs | dict(rows_w=torch.randint(grid[0] * grid[1] - 1, (24,)))


def save_corrmatch(path, inputs):
    box = torch.zeros(3, 33, 33, dtype=torch.bool)
    for inside, (x1, y1, x2, y2) in zip(box, inputs['box1'].tolist()):
        inside[y1:y2, x1:x2] = True
    convs = {part: [inputs[f'conv{number}_{what}'] for what in 'wb'] for part, number in dict(q=1, k=2).items()}
    heads = {
        f'{part}_{name}': conv2d(inputs[f'feat_{name}'], *conv)
        for part, conv in convs.items()
        for name in ('x', 'u_w', 'u_s')
    }
    found = reference.corrmatch_step(inputs | heads, box)
    found['loss'].backward()
    short = dict(logits_x='x', logits_u_w_fp='fp', logits_u_s='s', feat_u_w='feat_w', feat_u_s='feat_s')
    gradients = {f'grad_{short.get(name, name)}': entry.grad for name, entry in inputs.items()}
    gradients = {name: entry for name, entry in gradients.items() if entry is not None}
    np.savez(path, **as_entries(inputs, found | gradients))
    return found


@pytest.mark.parametrize('seed, loud', [(0, 1.0), (1, 1.0), (2, 4.0)])
def test_rounding_of_regions_and_of_gradients_that_are_zero_is_no_difference(check, tmp_path, seed, loud):
    """Rows of a softmax put pixels at the middle of their range; a softmax does not see the bias of k."""
    found = save_corrmatch(tmp_path / 'case.npz', make_corrmatch(seed, loud))
    assert (found['labels'] != found['labels_before']).any() and (found['accepted'] & ~found['confident']).any()
    assert check(tmp_path / 'case.npz') == 0
    entries = dict(np.load(tmp_path / 'case.npz'))
    entries['out_regions'][0, 0, 0, 0] ^= True
    np.savez(tmp_path / 'case.npz', **entries)
    assert check(tmp_path / 'case.npz') == 1


@pytest.mark.parametrize('kind', ['step', 'sibling'])
def test_means_of_no_pixels_need_not_be_finite(check, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(reference, 'mean_over_valid', lambda loss, chosen, valid: (loss * chosen).sum() / valid.sum())
    if kind == 'sibling':
        inputs = make_corrmatch(0)
        inputs['ignore_u'][:] = 255
        assert save_corrmatch(tmp_path / 'case.npz', inputs)['loss'].isnan()
    else:
        case = make_case(**CASES['square'], ignore=True)
        assert np.isnan(case['out_loss'])
        np.savez(tmp_path / 'case.npz', **case)
    assert check(tmp_path / 'case.npz') == 0


def test_a_threshold_that_nothing_reaches(check, tmp_path):
    inputs = make_corrmatch(0) | dict(thresh_init=torch.tensor(1.01).double())
    assert not save_corrmatch(tmp_path / 'case.npz', inputs)['confident'].any()
    assert check(tmp_path / 'case.npz') == 0


def golden(name):
    path = SHARED / 'golden' / f'{name}.npz'
    if not path.is_file():
        pytest.skip(f'no golden data: {path} is absent')
    return path


@pytest.mark.parametrize('name', ['square_k5', 'skewed_k4', 'wide_k21'])
def test_golden_step(check, name):
    assert check(golden(name)) == 0


@pytest.mark.parametrize('name', ['unimatch', 'unimatch_v2', 'corrmatch'])
def test_golden_sibling(check, name, tmp_path, capsys):
    assert check(path := golden(f'siblings/{name}')) == 0
    entries = dict(np.load(path))
    np.savez(tmp_path / 'sibling.npz', **entries | dict(out_loss=1.001 * entries['out_loss']))
    assert check(tmp_path / 'sibling.npz') == 1
    assert [line for line in capsys.readouterr().out.splitlines() if line.endswith('FAIL')][0].split()[0] == 'loss'


def test_golden_network(check, monkeypatch, tmp_path):
    path = golden('network_r50')
    weights = load(SHARED / 'tools/published_weights.py').state_dict(path.parent / 'published_state_dict.txt')
    torch.save(weights, tmp_path / 'published.pth')
    converter = 'model_converters/published2mmseg.py'
    assert run(monkeypatch, converter, tmp_path / 'published.pth', tmp_path / 'converted.pth') == 0
    config = ROOT / 'configs/derprop/r101-deepstem_voc_1-4.py'
    options = ('--cfg-options', 'model.segmentor.backbone.depth=50')
    assert check(path, '--weights', tmp_path / 'converted.pth', '--config', config, *options) == 0
