"""Fuzzing: whether a case ends well, in success or in an error of this project's own that names the cause.

An error is the project's own if

- a ``raise`` statement in ``mmseg_derprop`` or ``tools`` made it: the last frame of its traceback lies there, and the
  instruction it stopped at is a raise. What an expression there brings about (KeyError of a lookup, ValueError of
  ``int(...)``) is not its own, nor is what torch, OpenCV or NumPy raised;
- it is a ValueError, TypeError, OSError, ArithmeticError or SystemExit, with a text;
- the text names the cause: one of the names that the case gives, such as the file or the option;
- if the text is nothing but that of the error it was raised from, as in ``SystemExit(str(error))``, that one is
  the project's own, too, or an error of the operating system that names its file.

What argparse says of arguments is the project's own, as are texts that MMEngine's registry puts a class before. Python
itself names an argument that a function does not have, or lacks.
"""

import contextlib
import dis
import io
import os
import re
import signal
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import settings
from mmengine.registry import init_default_scope

import mmseg_derprop  # noqa: F401  (registers the parts)

init_default_scope('mmseg')

ROOT = Path(__file__).resolve().parents[1]
OWN = tuple(str(ROOT / folder) + os.sep for folder in ('mmseg_derprop', 'tools'))
KINDS = (ValueError, TypeError, OSError, ArithmeticError, SystemExit)
SECONDS = 60  # a case that takes longer hangs
ENDS = Counter()  # of all cases of this process, by target and end


def cases(number):
    """Settings of a target that has so many cases in ``make fuzz``; ``make test`` runs one in 100, always the same."""
    return settings(max_examples=max(1, number // 100) if settings.default.derandomize else number)


@contextlib.contextmanager
def ends_well(*names):
    """A case: fails unless what is in it succeeds, or ends in an error of the project's own.

    Args:
        *names: Texts of which an error must hold one; without any every text will do.
    """
    said = io.StringIO()
    before = signal.signal(signal.SIGALRM, _too_long)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            yield
        _count('success')
    except (Exception, SystemExit) as error:
        reason = blame(error, names, said.getvalue())
        if reason:
            fail(error, reason)
        _count(type(error).__name__)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _count(end):
    target = os.environ.get('PYTEST_CURRENT_TEST', '').rpartition('::')[2].partition(' ')[0]
    ENDS[target, end] += 1


def fail(error, reason):
    raise AssertionError(f'{type(error).__name__}: {error}\n{reason}') from error


class Hangs(BaseException):
    """Nothing that a program catches."""


def _too_long(*args):
    raise Hangs(f'the case took more than {SECONDS} s')


def blame(error, names=(), said=''):
    """Why an error does not count as the project's own; None if it does."""
    if isinstance(error, SystemExit) and error.code == 2 and 'error: ' in said:
        text = said.rpartition('error: ')[2]
    elif isinstance(error, SystemExit) and not isinstance(error.code, str):
        return 'it ends without a text'
    else:
        text = str(error)
        if reason := _not_own(error, text):
            return reason
    if names and not any(str(name) in text for name in names):
        return f'its text names none of {", ".join(map(str, names))}'
    return None


def _not_own(error, text):
    if not isinstance(error, KINDS):
        return f'a {type(error).__name__} is no error of the project'
    if not text.strip():
        return 'it has no text'
    if isinstance(error, TypeError) and re.search(r'\(\) (got an unexpected|missing \d+ required)', text):
        return None
    if isinstance(error, OSError) and error.filename and error.strerror:
        return None
    origin = error.__cause__ or error.__context__
    if not raised_here(error):
        if origin is not None and str(origin) in text and type(origin) is type(error):
            return _not_own(origin, str(origin))  # the registry's
        return 'no raise statement of the project made it'
    if origin is not None and text == str(origin):
        return _not_own(origin, text)
    return None


def raised_here(error):
    """Whether a ``raise`` statement of the project made an error."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None:
        return False
    code = last.tb_frame.f_code
    return code.co_filename.startswith(OWN) and dis.opname[code.co_code[last.tb_lasti]] == 'RAISE_VARARGS'


@contextlib.contextmanager
def folder():
    """An empty folder for one case."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)
