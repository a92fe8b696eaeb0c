"""The documentation site: no broken link, the README as its first page, the package's docstrings."""

import subprocess
import sys

import pytest
from commands import ROOT


def test_the_site_builds_strictly(tmp_path):
    pytest.importorskip('mkdocs', reason='make setup installs it')
    command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'href="options/"' in (tmp_path / 'index.html').read_text()
    models = (tmp_path / 'api/models/index.html').read_text()
    assert 'id="mmseg_derprop.models.semi_segmentor.SemiSegmentor.loss"' in models and ':class:' not in models
    assert 'href="../study/"' in (tmp_path / 'data/index.html').read_text()
