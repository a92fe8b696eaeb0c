"""Checks of options, which come from files and command lines and may be of any type.

:func:`check_options` reads what is allowed from the signature, for instance ``grey: Annotated[float, Bounds(0, 1)]``::

    StrongAugment(grey=1.5)  # ValueError: StrongAugment: grey must be a number from 0 to 1, but is 1.5.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Checked = TypeVar('Checked', bound=Callable)


@dataclass(frozen=True)
class Bounds:
    """Bounds of a number, or of the two numbers of a range: ``Annotated[tuple[float, float], Bounds(0, 1)]``.

    Args:
        low, high (float): The least and the greatest value.
        above, below (float): The same, but excluded.
    """

    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def hold(self, value: float) -> bool:
        """Whether a finite number is within the bounds."""
        return self.low <= value <= self.high and self.above < value < self.below

    def __str__(self) -> str:
        if self.low > -math.inf and self.high < math.inf:
            return f' from {self.low} to {self.high}'
        words = {'of at least': self.low, 'above': self.above, 'of at most': self.high, 'below': self.below}
        return ' and'.join(f' {word} {limit}' for word, limit in words.items() if math.isfinite(limit))


Share = Annotated[float, Bounds(0, 1)]
PositiveFloat = Annotated[float, Bounds(above=0)]
NonNegativeFloat = Annotated[float, Bounds(0)]
PositiveInt = Annotated[int, Bounds(1)]
NonNegativeInt = Annotated[int, Bounds(0)]


def check_options(target: Checked) -> Checked:
    """Decorates a function, a method such as ``__init__``, or a dataclass, to check its arguments by their annotations.

    Understood are int, float, bool, str, dict, None, os.PathLike, Literal, unions, tuples, lists and Sequence, and
    numbers and ranges with :class:`Bounds`; arguments annotated otherwise are not checked. A number is finite and no
    bool. Tuples may be lists, as in files. Names in annotations must exist at run time.

    Raises:
        ValueError: When called with an argument that does not exist or is not allowed.
    """
    if isinstance(target, type):
        target.__init__ = check_options(target.__init__)  # type: ignore[misc]
        return target
    signature = inspect.signature(target)
    is_method = next(iter(signature.parameters), '') == 'self'
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.parameters.values())

    @functools.cache  # and not now, when the module is incomplete
    def kinds() -> dict[str, Any]:
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        hints = get_type_hints(target, include_extras=True)
        return {name: hints[name] for name, p in signature.parameters.items() if name in hints and p.kind in named}

    @functools.wraps(target)
    def checked(*args: Any, **kwargs: Any) -> Any:
        owner = type(args[0]).__name__ if is_method else target.__name__
        if not takes_any and (unknown := [name for name in kwargs if name not in signature.parameters]):
            raise ValueError(
                _unknown(owner, unknown, [*signature.parameters][is_method:], args[0] if is_method else None)
            )
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:
            return target(*args, **kwargs)  # whose message is better
        for name, value in given.items():
            if name in kinds() and not is_allowed(value, kinds()[name]):
                raise ValueError(f'{owner}: {name} must be {describe(kinds()[name])}, but is {value!r}.')
        return target(*args, **kwargs)

    return checked  # type: ignore[return-value]


def _unknown(owner: str, names: list[str], known: list[str], instance: object) -> str:
    """The message about options that do not exist; ``moved_options`` of the class says where they are now."""
    moved: dict[str, str] = getattr(instance, 'moved_options', {})
    places = ''.join(f' {name} is now {moved[name]}.' for name in names if name in moved)
    return f'{owner} has no option {", ".join(names)}; it has {", ".join(known)}.{places}'


def is_allowed(value: object, kind: Any) -> bool:
    """Whether a value is what an annotation says; True if the annotation is none of those that are understood."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        bounds = [part for part in parts[1:] if isinstance(part, Bounds)]
        return is_allowed(value, parts[0]) and all(_holds(bound, value) for bound in bounds)
    if origin in (Union, UnionType):
        return any(is_allowed(value, part) for part in parts)
    if origin is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if kind in (int, float):
        return is_number(value, whole=kind is int)
    if kind in (bool, str, NoneType, dict, os.PathLike):
        return isinstance(value, kind)
    if origin is dict:
        return isinstance(value, dict) and all(is_allowed(item, parts[1]) for item in value.values())
    if kind in (tuple, list, Sequence) or origin in (tuple, list, Sequence):
        if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
            return False
        if origin is tuple and parts[-1] is not ...:
            return len(value) == len(parts) and all(map(is_allowed, value, parts))
        return not parts or all(is_allowed(item, parts[0]) for item in value)
    return True


def _holds(bounds: Bounds, value: Any) -> bool:
    """Whether a number, or both of a range, are within bounds, and the range's first is not above its second."""
    if isinstance(value, Sequence):
        return all(map(bounds.hold, value)) and list(value) == sorted(value)
    return not isinstance(value, Real) or bounds.hold(float(value))


def describe(kind: Any) -> str:
    """An annotation in words, e.g. 'a number from 0 to 1 or None'."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        bounds = ''.join(str(part) for part in parts[1:] if isinstance(part, Bounds))
        if get_origin(parts[0]) is tuple:
            numbers = 'integers' if int in get_args(parts[0]) else 'numbers'
            return f'two {numbers}{bounds}, the first not above the second'
        return f'{describe(parts[0])}{bounds}'
    if origin in (Union, UnionType):
        return ' or '.join(map(describe, parts))
    if origin is Literal:
        return ' or '.join(map(repr, parts))
    if origin is tuple and parts[-1] is not ...:
        return f'({", ".join(map(describe, parts))})'
    if origin is dict:
        return f'a dict, each value {describe(parts[1])}'
    if origin in (tuple, list, Sequence) and parts:
        return f'a list, each item {describe(parts[0])}'
    names = {int: 'an integer', float: 'a number', bool: 'True or False', str: 'a string', NoneType: 'None'}
    names.update({os.PathLike: 'a path', dict: 'a dict', tuple: 'a list', list: 'a list', Sequence: 'a list'})
    return names.get(origin or kind, getattr(kind, '__name__', str(kind)))


def is_number(value: object, low: float = -math.inf, high: float = math.inf, whole: bool = False) -> bool:
    """Whether an option is a finite number, and no bool, within bounds, and an integer if it must be ``whole``."""
    if not isinstance(value, Integral if whole else Real) or isinstance(value, bool):
        return False
    return math.isfinite(value) and low <= float(value) <= high
