"""The benchmark runs both sides on the same input, and they agree."""

import json

import pytest
from commands import call

TOOL = 'analysis_tools/benchmark.py'


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


def test_whole_steps_of_several_settings(measured, semi_config, tmp_path):
    semi_config().dump(tmp_path / 'config.py')
    settings = ['--settings', 'one pass', 'staged, checkpointing']
    table = measured('step', tmp_path / 'config.py', '--batch', 2, '--size', 33, *settings)['steps']
    assert [name.partition(', ')[2] for name in table] == ['', 'one pass', 'staged, checkpointing']
    assert all(row['seconds'] > 0 and len(row['seconds_all']) == 1 for row in table.values())


def test_loaders_beside_pillow(measured):
    table = measured('data', '--size', 33, '--workers', 1)['loaders']
    assert len(table) == 4 and all(row['images_per_second'] > 0 for row in table.values())
