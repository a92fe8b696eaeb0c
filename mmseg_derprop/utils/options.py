"""Checks of options, which come from files and command lines and may be of any type."""

from __future__ import annotations

import math
from numbers import Integral, Real


def is_number(value: object, low: float = -math.inf, high: float = math.inf, whole: bool = False) -> bool:
    """Whether an option is a finite number, and no bool, within bounds.

    Args:
        value (object): Of any type.
        low, high (float): The bounds, which it may be.
        whole (bool): Whether it must be an integer.
    """
    if not isinstance(value, Integral if whole else Real) or isinstance(value, bool):
        return False
    return math.isfinite(value) and low <= float(value) <= high


def is_range(value: object, low: float, high: float = math.inf) -> bool:
    """Whether an option is two numbers within bounds, the first not above the second."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        return False
    return all(is_number(number, low, high) for number in value) and value[0] <= value[1]


def check_flags(**flags: object) -> None:
    """Raises ValueError if an option is neither True nor False; of a text, bool() would always be True."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise ValueError(f'{name} = {value!r}, but it must be True or False.')
