"""The benchmark runs both sides on the same input, and they agree."""

import argparse
import importlib.util
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TOOL = Path(__file__).resolve().parents[2] / 'tools/analysis_tools/benchmark.py'


@pytest.fixture(scope='module')
def benchmark():
    spec = importlib.util.spec_from_file_location('benchmark', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize('preset', ['derprop_paper', 'derprop_published'])
def test_both_sides_of_ops_have_the_same_gradients(benchmark, preset, assert_near):
    gradients = []
    for side in ('ours', 'reference'):
        args = argparse.Namespace(batch=2, classes=5, grid=7, regions=6, preset=preset, side=side)
        gradients.append(benchmark.ops_work(args, torch.device('cpu'))())
    for ours, wanted in zip(*gradients, strict=True):
        assert_near(ours, wanted)


def test_both_sides_of_regions_agree(benchmark):
    results = []
    for side in ('ours', 'reference'):
        args = argparse.Namespace(batch=2, classes=21, size=65, regions=32, tau=0.85, side=side)
        work = benchmark.regions_work(args, torch.device('cpu'))
        results.append(work())
    assert all(torch.equal(ours, wanted) for ours, wanted in zip(*results, strict=True))
    inputs = inspect.getclosurevars(work).nonlocals['inputs']
    labels, accepted = results[0]
    assert (labels != inputs[0]).any() and (accepted & ~inputs[1]).any()


def test_figures_are_written(tmp_path):
    path = tmp_path / 'ops.json'
    options = ['--grid', '9', '--batch', '1', '--classes', '3', '--repeats', '1', '--json', str(path)]
    subprocess.run([sys.executable, str(TOOL), 'ops', *options], check=True, capture_output=True)
    result = json.loads(path.read_text())
    for key in ('seconds', 'reference_seconds', 'limit_seconds'):
        assert result[key] > 0
    assert {'peak_added_bytes', 'reference_peak_added_bytes'} <= result.keys()


def run(what, path, *options):
    command = [sys.executable, str(TOOL), what, *options, '--repeats', '1', '--json', str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return json.loads(path.read_text())


@pytest.mark.parametrize('preset', ['derprop_paper', 'derprop_published'])
def test_a_step_is_taken_apart(preset, tmp_path, semi_config):
    config = semi_config(second_view=preset == 'derprop_published')
    config.dump(tmp_path / 'config.py')
    result = run('step', tmp_path / 'step.json', str(tmp_path / 'config.py'), '--batch', '2', '--size', '33')
    seconds = [result[f'{part}_seconds'] for part in ('network', 'rest', 'optimizer')]
    assert min(seconds) > 0
    assert result['rest_share'] == pytest.approx(seconds[1] / sum(seconds))


def test_gradients_cross_the_cut_of_a_step(benchmark, monkeypatch, semi_config, tmp_path):
    """All weights that learn get a gradient though the graph is cut between networks and losses."""
    semi_config().dump(tmp_path / 'config.py')
    shares = []
    monkeypatch.setattr(
        torch.optim.SGD,
        'step',
        lambda self: shares.append([bool(p.grad.any()) for group in self.param_groups for p in group['params']]),
    )
    args = ['benchmark.py', 'step', str(tmp_path / 'config.py'), '--batch', '2', '--size', '33', '--repeats', '1']
    monkeypatch.setattr(sys, 'argv', args)
    benchmark.main()
    assert len(shares) == 2 and all(sum(share) > 0.9 * len(share) for share in shares)


def test_data_rates(tmp_path, shapes):
    result = run(
        'data', tmp_path / 'data.json', str(TOOL.parents[2] / 'configs/derprop/tiny_shapes.py'), '--size', '33'
    )
    for source in ('labeled', 'unlabeled'):
        assert result[f'{source}_images_per_second'] > 0 and result[f'{source}_direct_images_per_second'] > 0
