"""How many cases there were, and how they ended."""

from collections import Counter

import pytest
from own_errors import ENDS


def pytest_terminal_summary(terminalreporter):
    if ENDS:
        terminalreporter.write_line(f'fuzzing: {ENDS.total():,} cases ended well')
    for target in dict.fromkeys(target for target, _ in ENDS):
        ends = Counter({end: number for (of, end), number in ENDS.items() if of == target})
        described = ', '.join(f'{number:,} {end}' for end, number in ends.most_common())
        terminalreporter.write_line(f'  {target}: {described}')


@pytest.fixture(autouse=True, scope='session')
def _quick(quick_runs):
    """MMEngine collects garbage with each data set."""
