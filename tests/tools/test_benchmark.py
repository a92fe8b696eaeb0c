"""The benchmark runs both sides on the same input, and they agree."""

import json

import pytest
import torch
from commands import call

TOOL = 'analysis_tools/benchmark.py'
CPU = torch.device('cpu')


@pytest.fixture
def measured(tmp_path):
    """Runs the tool, repeating once; returns what it wrote."""

    def run(*args):
        call(TOOL, *args, '--repeats', 1, '--json', tmp_path / 'figures.json')
        return json.loads((tmp_path / 'figures.json').read_text())

    return run


def test_figures_of_ops(measured):
    result = measured('ops', '--grid', 9, '--batch', 1, '--classes', 3)
    for key in ('seconds', 'reference_seconds', 'limit_seconds'):
        assert result[key] > 0
    assert {'peak_added_bytes', 'reference_peak_added_bytes'} <= result.keys()


@pytest.mark.parametrize('preset', ['derprop_paper', 'derprop_published'])
def test_gradients_cross_the_cut_of_a_step(preset, measured, semi_config, monkeypatch, tmp_path):
    """All weights that learn get a gradient though the graph is cut between networks and losses."""
    semi_config(second_view=preset == 'derprop_published').dump(tmp_path / 'config.py')
    shares = []

    def step(optimizer):
        parameters = [p for group in optimizer.param_groups for p in group['params']]
        shares.append(sum(bool(p.grad.any()) for p in parameters) / len(parameters))

    monkeypatch.setattr(torch.optim.SGD, 'step', step)
    result = measured('step', tmp_path / 'config.py', '--batch', 2, '--size', 33)
    assert len(shares) == 2 and min(shares) > 0.9
    seconds = [result[f'{part}_seconds'] for part in ('network', 'rest', 'optimizer')]
    assert min(seconds) > 0 and result['rest_share'] == pytest.approx(seconds[1] / sum(seconds))
