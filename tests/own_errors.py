"""Fuzzing: whether a case ends in success or in an error that names its cause."""

import contextlib
import io
import os
import signal
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import settings
from mmengine.registry import init_default_scope

import mmseg_derprop  # noqa: F401  (registers the parts)

init_default_scope('mmseg')

ROOT = Path(__file__).resolve().parents[1]
KINDS = (ValueError, TypeError, OSError, ArithmeticError, SystemExit)
SECONDS = 60  # a case that takes longer hangs
ENDS = Counter()  # of all cases of this process, by target and end


def cases(number):
    """Settings of a target that has so many cases in ``make fuzz``; ``make test`` runs one in 100, always the same."""
    return settings(max_examples=max(1, number // 100) if settings.default.derandomize else number)


@contextlib.contextmanager
def ends_well(*names):
    """A case: fails unless it succeeds, or ends in one of KINDS whose text holds one of the names, if there are any."""
    said, end = io.StringIO(), 'success'
    before = signal.signal(signal.SIGALRM, _too_long)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            yield
    except KINDS as error:
        text = said.getvalue() if isinstance(error, SystemExit) and error.code == 2 else str(error)  # argparse's
        if not text.strip() or (names and not any(str(name) in text for name in names)):
            raise AssertionError(f'{type(error).__name__}: {text!r} names none of {names}') from error
        end = type(error).__name__
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    target = os.environ.get('PYTEST_CURRENT_TEST', '').rpartition('::')[2].partition(' ')[0]
    ENDS[target, end] += 1


class Hangs(BaseException):
    """Nothing that a program catches."""


def _too_long(*args):
    raise Hangs(f'the case took more than {SECONDS} s')


@contextlib.contextmanager
def folder():
    """An empty folder for one case."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)
