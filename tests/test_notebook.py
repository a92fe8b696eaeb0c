"""The notebook runs from its first cell to its last, with fewer iterations."""

import json
from pathlib import Path

import matplotlib
import numpy as np
import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / 'docs/notebooks/own_parts.ipynb'


@pytest.mark.slow
@pytest.mark.usefixtures('quick_runs')
def test_own_parts(monkeypatch):
    matplotlib.use('Agg')
    cells = json.loads(NOTEBOOK.read_text())['cells']
    text = '\n'.join(''.join(cell['source']) for cell in cells if cell['cell_type'] == 'code')
    assert 'START, FURTHER = 200, 80' in text
    names = {'__name__': 'notebook'}
    exec(compile(text.replace('START, FURTHER = 200, 80', 'START, FURTHER = 2, 10'), str(NOTEBOOK), 'exec'), names)
    assert [line['step'] for line in names['steps']] == [5, 10]
    assert all(np.isfinite(line['entropy']) and line['entropy'] > 0 for line in names['steps'])
    assert names['steps'][0]['threshold'] != names['steps'][1]['threshold']
    assert names['picture'].std() > 10
