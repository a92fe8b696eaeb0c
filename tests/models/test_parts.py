"""The small groups of options, and parts built by their type."""

import pytest
import torch
from mmseg.registry import MODELS
from torch import nn

from mmseg_derprop.models import SemiLoss, Threshold
from mmseg_derprop.models.losses import SoftConsistencyLoss, SupervisedLoss
from mmseg_derprop.models.parts import CutMixOptions, TeacherOptions, ViewOptions, build_options, build_part


@pytest.mark.parametrize(
    'config', [dict(type='SupervisedLoss'), dict(type=SupervisedLoss), dict(type='mmseg.SupervisedLoss')]
)
def test_a_part_by_its_name_its_class_or_its_scope(config):
    assert type(build_part('model.losses.seg', config, SemiLoss)) is SupervisedLoss
    assert config.keys() == {'type'}  # the config given stays as it was


def test_arguments_that_the_model_adds():
    part = build_part('here', dict(type='FixedThreshold', value=0.5), Threshold, num_classes=7)
    assert part.num_classes == 7 and part.value == 0.5


class Unregistered(SemiLoss):
    pass


@pytest.mark.parametrize('kind', ['Unregistered', 'nn.Linear', nn.Linear, 'FixedThreshold', 5])
def test_unknown_types_name_the_place_the_known_ones_and_the_way(kind):
    with pytest.raises(ValueError) as caught:
        build_part('model.losses.kl', dict(type=kind), SemiLoss)
    message = str(caught.value)
    known = sorted(n for n, p in MODELS.module_dict.items() if isinstance(p, type) and issubclass(p, SemiLoss))
    assert f'model.losses.kl.type must be one of {", ".join(known)}, but is ' in message
    assert SoftConsistencyLoss.__name__ in known and 'derive it from SemiLoss' in message
    assert 'custom_imports' in message


@pytest.mark.parametrize('config', [None, 'SupervisedLoss', {}, [1]])
def test_what_is_no_config(config):
    with pytest.raises(ValueError, match=r"here must be a config such as dict\(type='SemiLoss', ...\), but is"):
        build_part('here', config, SemiLoss)


@pytest.mark.parametrize('group', [CutMixOptions, TeacherOptions, ViewOptions])
def test_groups_of_options(group):
    assert build_options('model.group', group, None) == build_options('model.group', group, {}) == group()
    with pytest.raises(ValueError, match='model.group has no option bogus; it has '):
        build_options('model.group', group, dict(bogus=1))
    with pytest.raises(ValueError, match='model.group must be a dict of .*, but is 3'):
        build_options('model.group', group, 3)


@pytest.mark.parametrize('partner,wanted', [('batch', [1, 2, 0]), ('reversed', [2, 1, 0]), ('second_view', None)])
def test_partners(partner, wanted):
    found = CutMixOptions(partner, 'teacher').partner_of(3, torch.device('cpu'))
    assert found is None if wanted is None else found.tolist() == wanted


def test_a_loss_must_say_what_it_computes():
    with pytest.raises(TypeError, match='Unregistered must define forward'):
        Unregistered()(None)
