"""The small groups of options, and parts built by their type."""

import pytest
import torch

from mmseg_derprop.models import SemiLoss
from mmseg_derprop.models.losses import SupervisedLoss
from mmseg_derprop.models.parts import CutMixOptions, build_part


@pytest.mark.parametrize(
    'config', [dict(type='SupervisedLoss'), dict(type=SupervisedLoss), dict(type='mmseg.SupervisedLoss')]
)
def test_a_part_by_its_name_its_class_or_its_scope(config):
    assert type(build_part('model.losses.seg', config, SemiLoss)) is SupervisedLoss
    assert config.keys() == {'type'}  # the config given stays as it was


@pytest.mark.parametrize('partner,wanted', [('batch', [1, 2, 0]), ('reversed', [2, 1, 0]), ('second_view', None)])
def test_partners(partner, wanted):
    found = CutMixOptions(partner, 'teacher').partner_of(3, torch.device('cpu'))
    assert found is None if wanted is None else found.tolist() == wanted
