"""A config that a checkpoint carries is read, not run."""

from pathlib import Path

import pytest
from mmengine.config import Config

from mmseg_derprop.utils.config import load_config, parse_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize('name', ['derprop/tiny_shapes', 'derprop/r101_voc_1-4', 'supervised/tiny_shapes'])
def test_shipped_configs(name):
    config = load_config(str(ROOT / f'configs/{name}.py'))
    assert parse_config(config.pretty_text).to_dict() == config.to_dict()


def test_all_kinds_of_values():
    values = dict(
        numbers=[1, -2, 0.5, 1e-6, 3 + 0j],
        names=('a', 'it is "quoted"', 'two\nlines'),
        nothing=None,
        flags=dict(yes=True, no=False),
        nested=[dict(type='A', pair=(1, 2)), [dict(b=[])], ()],
        keys={'backbone.norm': dict(lr_mult=0.1), '0': {'a b': dict(c=1)}},
    )
    assert parse_config(Config(values).pretty_text).to_dict() == values


@pytest.mark.parametrize(
    'text',
    [
        'import os',
        'print(1)',
        'a = open("x", "w")',
        'a = dict(b=dict(c=().__class__))',
        'a = dict(**{})',
        'a = [x for x in (1,)]',
        'a = {**b}',
        'a = f"{b}"',
        'a = b = 1',
        'a = (',
        'a = 1\0',
        'a = dict({[]: 1})',
        'filename = 1',
        'a = ' + '-' * 9999,
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match='the config holds more than values'):
        parse_config(text)
