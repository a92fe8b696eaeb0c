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

from mmseg_derprop.utils.options import Bounds, PositiveInt, PositiveRange, Share, check_options


class Part(torch.nn.Module):
    @check_options
    def __init__(
        self,
        share: Share = 0.5,
        rate: Annotated[float, Bounds(above=0, below=1)] = 0.5,
        kind: Literal['stop', 'skip', 2] = 'stop',
        size: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None,
        area: PositiveRange = (0.5, 1),
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


REFUSED = [
    ('share', 1.5, 'be less than or equal to 1'),
    *(('share', value, 'be a valid number') for value in (True, '0.5', None)),
    ('share', float('nan'), 'be a finite number'),
    ('rate', 0, 'be greater than 0'),
    ('rate', 1, 'be less than 1'),
    *(('kind', value, "be 'stop', 'skip' or 2") for value in ('halt', True, [])),
    ('size', 0, 'be greater than or equal to 1 or be a valid tuple'),
    ('size', [4, 0], 'be a valid integer or be greater than or equal to 1'),
    ('size', (4, 4, 4), 'be a valid integer or have at most 2 items after validation, not 3'),
    ('size', 4.0, 'be a valid integer or be a valid tuple'),
    ('area', (0.4, 0.3), 'ascend'),
    ('area', (0, float('inf')), 'be greater than 0 or be a finite number'),
    ('area', '01', 'be a valid tuple'),
    ('flag', 'False', 'be a valid boolean'),
    ('names', ['a', 1], 'be a valid string'),
    ('path', 3, 'be a valid string or be an instance of PathLike'),
    ('head', 'DerPropHead', 'be a valid dictionary'),
]


@pytest.mark.parametrize(('name', 'value', 'allowed'), REFUSED)
def test_refused(name, value, allowed):
    with pytest.raises(ValueError) as error:
        Child(**{name: value})
    assert str(error.value) == f'Child: {name} must {allowed}, but is {value!r}.'


def test_allowed_and_left_as_they_are():
    size = [np.int64(3), 4]
    options = dict(area=[1, 1], flag=True, names=['a'], path=Path('a'), head={}, other=torch.nn.ReLU(), more='!')
    part = Part(np.float32(1), 0.1, 'skip', size, **options)
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
    with pytest.raises(ValueError, match='^crop: size must be greater than or equal to 1, but is 0.$'):
        crop(0)
    with pytest.raises(ValueError, match='^Views: num_strong must be 1 or 2, but is 3.$'):
        Views(num_strong=3)
