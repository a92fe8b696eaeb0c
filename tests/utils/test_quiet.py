"""Other libraries' known warnings do not reach users, and all others do."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import contextlib, io, runpy, sys, warnings

sys.argv = ['pseudo_label.py', '--help']
with contextlib.suppress(SystemExit):
    runpy.run_path('tools/pseudo_label.py', run_name='__main__')
import torch
from mmcv.cnn import ConvModule
from mmengine.visualization import Visualizer
from mmseg.engine.hooks import SegVisualizationHook
from mmseg.models.utils import resize

ConvModule(1, 1, 1, bias=True, norm_cfg=dict(type='BN'))
Visualizer.get_instance('any')
SegVisualizationHook()
resize(torch.zeros(1, 1, 24, 24), (96, 96), mode='bilinear', align_corners=True)
warnings.warn('When align_corners is ours')
"""


def test_a_tool_is_quiet():
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'PYTHONWARNINGS': '', 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, '-c', SCRIPT]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.startswith('usage: pseudo_label.py')
    assert done.stderr.splitlines() == ['<string>:17: UserWarning: When align_corners is ours']
