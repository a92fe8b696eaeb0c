"""Other libraries' known warnings do not reach users, and all others do."""

import os
import subprocess
import sys

from commands import ROOT

SCRIPT = """
import contextlib, runpy, sys, warnings
sys.argv = ['pseudo_label.py', '--help']
with contextlib.suppress(SystemExit):
    runpy.run_path('tools/pseudo_label.py', run_name='__main__')
import torch
from mmcv.cnn import ConvModule
from mmseg.models.utils import resize
ConvModule(1, 1, 1, bias=True, norm_cfg=dict(type='BN'))
resize(torch.zeros(1, 1, 24, 24), (96, 96), mode='bilinear', align_corners=True)
warnings.warn('When align_corners is ours')
"""


def test_a_tool_is_quiet():
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'PYTHONWARNINGS': ''}
    done = subprocess.run([sys.executable, '-c', SCRIPT], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.startswith('usage: pseudo_label.py')
    said = done.stderr.replace("  warnings.warn('When align_corners is ours')\n", '')  # shown from Python 3.13 on
    assert said.splitlines() == ['<string>:11: UserWarning: When align_corners is ours']
