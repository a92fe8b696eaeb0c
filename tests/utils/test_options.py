"""Options of a wrong type or outside of their bounds are refused by name, with what is allowed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest
import torch

from mmseg_derprop.utils.options import Bounds, PositiveInt, Share, check_options, is_number


class Part(torch.nn.Module):
    @check_options
    def __init__(
        self,
        share: Share = 0.5,
        rate: Annotated[float, Bounds(above=0, below=1)] = 0.5,
        kind: Literal['stop', 'skip', 2] = 'stop',
        size: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None,
        area: Annotated[tuple[float, float], Bounds(0)] = (0, 1),
        flag: bool = False,
        names: str | Sequence[str] = '',
        path: str | os.PathLike = '',
        head: dict | None = None,
        other: torch.nn.Module | None = None,
        **kwargs: int,
    ) -> None:
        super().__init__()
        self.size, self.rest = size, kwargs


class Child(Part):
    pass


SIZE = 'an integer of at least 1 or (an integer of at least 1, an integer of at least 1) or None'
AREA = 'two numbers of at least 0, the first not above the second'
REFUSED = {
    'a number from 0 to 1': [('share', value) for value in (1.5, True, '0.5', float('nan'), None)],
    'a number above 0 and below 1': [('rate', 0), ('rate', 1)],
    "'stop' or 'skip' or 2": [('kind', value) for value in ('halt', True, [])],
    SIZE: [('size', value) for value in (0, [4, 0], (4, 4, 4), 4.0)],
    AREA: [('area', value) for value in ((0.4, 0.3), (-1, 0.3), (0, float('inf')), '01', 0.4)],
    'True or False': [('flag', 'False'), ('flag', 0)],
    'a string or a list, each item a string': [('names', ['a', 1])],
    'a string or a path': [('path', 3)],
    'a dict or None': [('head', 'DerPropHead')],
}


@pytest.mark.parametrize(
    ('name', 'value', 'allowed'), [(*given, allowed) for allowed, cases in REFUSED.items() for given in cases]
)
def test_refused(name, value, allowed):
    with pytest.raises(ValueError) as error:
        Child(**{name: value})
    assert str(error.value) == f'Child: {name} must be {allowed}, but is {value!r}.'


def test_allowed_and_left_as_they_are():
    size = [np.int64(3), 4]
    part = Part(
        np.float32(1),
        0.1,
        'skip',
        size,
        area=[0, 0],
        flag=True,
        names=['a'],
        path=Path('a'),
        head={},
        other='?',
        more='!',
    )
    assert part.size is size and part.rest == dict(more='!')
    assert Part(1, kind=2, size=3, names='a', path='a').size == 3


def test_functions_and_dataclasses():
    @check_options
    @dataclass(frozen=True)
    class Views:
        num_strong: Literal[1, 2] = 1

    @check_options
    def crop(size: PositiveInt) -> int:
        return size

    with pytest.raises(ValueError, match='crop has no option sizes; it has size'):
        crop(sizes=3)
    assert crop(3) == 3 and Views(2) == Views(num_strong=2)
    with pytest.raises(ValueError, match='^crop: size must be an integer of at least 1, but is 0.$'):
        crop(0)
    with pytest.raises(ValueError, match='^Views: num_strong must be 1 or 2, but is 3.$'):
        Views(num_strong=3)


def test_numbers():
    assert all(is_number(value, 0, 2) for value in (0, 2, 0.5, np.float32(1), np.int64(2)))
    assert not any(is_number(value, 0, 2) for value in (None, True, '1', [1], float('nan'), float('inf'), 1j, -1, 3))
    assert is_number(np.int64(1), whole=True) and not is_number(1.0, whole=True)
