"""The benchmark runs both sides on the same input, and they agree."""

import argparse
import importlib.util
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


@pytest.mark.parametrize('preset', ['derprop', 'derprop_published'])
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
        results.append(benchmark.regions_work(args, torch.device('cpu'))())
    assert all(torch.equal(ours, wanted) for ours, wanted in zip(*results, strict=True))


def test_figures_are_written(tmp_path):
    path = tmp_path / 'ops.json'
    options = ['--grid', '9', '--batch', '1', '--classes', '3', '--repeats', '1', '--json', str(path)]
    subprocess.run([sys.executable, str(TOOL), 'ops', *options], check=True, capture_output=True)
    result = json.loads(path.read_text())
    for key in ('seconds', 'reference_seconds'):
        assert result[key] > 0
    assert {'peak_added_bytes', 'reference_peak_added_bytes'} <= result.keys()
