"""Silences what other libraries say that asks nothing of a user of this package."""

from __future__ import annotations

import io
import re
import warnings
from contextlib import redirect_stdout

PRINTED = 'Could not import OneDL\n'  # a data set format of the maintained fork's authors
WARNED = (  # how a message begins, and the modules that warn
    ('Fail to import ``MultiScaleDeformableAttention``', 'mmcv'),  # only mmcv's compiled operators have it
    ('Unnecessary conv bias before', 'mmcv'),  # how stock networks are made
    ('When align_corners=', 'mmseg'),
    ('The draw is False', 'mmseg'),  # the default of a stock hook
)


def import_quietly() -> None:
    """Ignores known warnings from here on, and imports the parts of mmseg that print while they are imported."""
    for message, package in WARNED:
        warnings.filterwarnings('ignore', re.escape(message), UserWarning, rf'{package}\.')
    with redirect_stdout(io.StringIO()) as printed:
        import mmseg.datasets  # noqa: F401
    print(printed.getvalue().replace(PRINTED, ''), end='')
