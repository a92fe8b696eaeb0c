"""Checks of options, which come from files and command lines and may be of any type.

:func:`check_options` reads what is allowed from the signature, for instance ``grey: Annotated[float, Bounds(0, 1)]``::

    StrongAugment(grey=1.5)  # ValueError: StrongAugment: grey must be less than or equal to 1, but is 1.5.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, TypeVar, get_type_hints

import numpy as np
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

Checked = TypeVar('Checked', bound=Callable)
RULES = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)


def Bounds(  # noqa: N802
    low: float | None = None, high: float | None = None, above: float | None = None, below: float | None = None
) -> Any:
    """Bounds of a number: its least and its greatest value, or the same, but excluded."""
    return Field(ge=low, le=high, gt=above, lt=below)


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError('The two numbers should ascend')
    return pair


Share = Annotated[float, Bounds(0, 1)]
PositiveFloat = Annotated[float, Bounds(above=0)]
NonNegativeFloat = Annotated[float, Bounds(0)]
PositiveInt = Annotated[int, Bounds(1)]
NonNegativeInt = Annotated[int, Bounds(0)]
Ascending = AfterValidator(_ascending)
PositiveRange = Annotated[tuple[PositiveFloat, PositiveFloat], Ascending]


def check_options(target: Checked) -> Checked:
    """Decorates a function, a method such as ``__init__``, or a dataclass, to check its arguments by their annotations.

    They are checked as pydantic does where it is strict, and handed on as they are. Tuples may be lists, as in files.
    Names in annotations must exist at run time.

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
    def kinds() -> dict[str, TypeAdapter]:
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        hints = get_type_hints(target, include_extras=True)
        names = [name for name, p in signature.parameters.items() if name in hints and p.kind in named]
        return {name: TypeAdapter(hints[name], config=RULES) for name in names}

    @functools.wraps(target)
    def checked(*args: Any, **kwargs: Any) -> Any:
        owner = type(args[0]).__name__ if is_method else target.__name__
        if not takes_any and (unknown := [name for name in kwargs if name not in signature.parameters]):
            moved = getattr(args[0], 'moved_options', {}) if is_method else {}
            places = ''.join(f' {name} is now {moved[name]}.' for name in unknown if name in moved)
            known = ', '.join([*signature.parameters][is_method:])
            raise ValueError(f'{owner} has no option {", ".join(unknown)}; it has {known}.{places}')
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:
            return target(*args, **kwargs)  # whose message is better
        for name, value in given.items():
            try:
                if name in kinds():
                    kinds()[name].validate_python(_as_in_code(value))
            except ValidationError as error:
                reasons = dict.fromkeys(one['msg'].partition(' should ')[2] or one['msg'] for one in error.errors())
                raise ValueError(f'{owner}: {name} must {" or ".join(reasons)}, but is {value!r}.') from None
        return target(*args, **kwargs)

    return checked  # type: ignore[return-value]


def _as_in_code(value: Any) -> Any:
    """A list as a tuple, and a number of NumPy's as one of Python's."""
    if isinstance(value, (list, tuple)):
        return tuple(map(_as_in_code, value))
    return value.item() if isinstance(value, np.number) else value
