"""Runs tools as a user does, in this process."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def load(script):
    """``tools/<script>`` as a module."""
    path = ROOT / 'tools' / script
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(script, *args):
    """Runs the main of ``tools/<script>``."""
    module = load(script)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [script, *map(str, args)])
        patch.setattr(os, 'environ', dict(os.environ))
        module.main()
