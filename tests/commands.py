"""Runs tools as a user does, in this process."""

import importlib.util
import multiprocessing
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from mmseg_derprop.utils.files import lock_folder

ROOT = Path(__file__).resolve().parents[1]


def load(script):
    """``tools/<script>`` as a module."""
    path = ROOT / 'tools' / script
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def in_use(folder, part=''):
    """While it lasts, another process, which it yields, has locked a folder."""
    context = multiprocessing.get_context('fork')
    taken = context.Event()
    other = context.Process(target=_hold, args=(folder, part, taken))
    other.start()
    try:
        assert taken.wait(60)
        yield other
    finally:
        other.kill()
        other.join()


def _hold(folder, part, taken):
    lock = lock_folder(folder, part)
    taken.set()
    time.sleep(600)
    lock.release()


def call(script, *args):
    """Runs the main of ``tools/<script>``."""
    module = load(script)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [script, *map(str, args)])
        patch.setattr(os, 'environ', dict(os.environ))
        module.main()
