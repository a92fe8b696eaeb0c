"""The judge of all other targets: what it lets pass, and what not."""

import argparse
import json

import pytest
import torch
from mmseg.registry import MODELS
from own_errors import blame

from mmseg_derprop.models import DerPropHead
from mmseg_derprop.utils.checkpoints import state_dict_of
from mmseg_derprop.utils.config import parse_config


def error_of(function, *args, **kwargs):
    with pytest.raises((Exception, SystemExit)) as info:
        function(*args, **kwargs)
    return info.value


def test_own_errors_pass(tmp_path):
    own = error_of(DerPropHead, num_classes=3, in_channels=4, max_order=9)
    assert blame(own) is None and blame(own, ['max_order']) is None
    assert blame(error_of(MODELS.build, dict(type='DerPropHead', num_classes=3, in_channels=4, max_order=9))) is None
    assert blame(error_of(open, tmp_path / 'no.yaml'), ['no.yaml']) is None


def test_an_error_must_name_the_cause():
    own = error_of(DerPropHead, num_classes=3, in_channels=4, max_order=9)
    assert 'names none of tau' in blame(own, ['tau'])


def test_argparse_is_judged_by_what_it_said(capsys):
    error = error_of(argparse.ArgumentParser().error, '--ratio is wrong')
    said = capsys.readouterr().err
    assert blame(error, ['--ratio'], said) is None
    assert blame(error, ['--num'], said) and blame(error, [], '')


def wrapped():
    try:
        json.loads('{')
    except ValueError as error:
        raise SystemExit(str(error)) from error


@pytest.mark.parametrize(
    'function, args',
    [
        (torch.zeros, (-1,)),  # of a library
        (json.loads, ('{',)),
        (state_dict_of, ({'model': 0, 1: 2}.get,)),  # an expression of the project, no raise statement
        (parse_config, (3,)),
        (wrapped, ()),
        (SystemExit.with_traceback, (None,)),
        (exec, ('raise SystemExit',)),
        (exec, ('raise SystemExit(1)',)),
    ],
)
def test_others_do_not(function, args):
    assert blame(error_of(function, *args))
