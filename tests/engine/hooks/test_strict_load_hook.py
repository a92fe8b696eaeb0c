"""What of a checkpoint may be missing, and what not."""

from types import SimpleNamespace

import pytest
import torch
from builders import build, fcn, segmentor
from mmengine.config import ConfigDict
from mmseg.registry import MODELS

from mmseg_derprop.engine.hooks.strict_load_hook import CheckpointMismatch, StrictLoadHook, check_fit
from mmseg_derprop.utils.safe_loading import CheckpointNotRead


@pytest.fixture(scope='module')
def model():
    return build()


@pytest.fixture
def state(model):
    return dict(model.state_dict())


@pytest.fixture(scope='module')
def plain():
    return MODELS.build(ConfigDict(segmentor()))


def part(state, prefix, keep=''):
    return {keep + name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def test_its_own_checkpoint(model, state):
    assert check_fit(model, state, ['']) == []
    assert check_fit(model, {f'module.{name}': value for name, value in state.items()}, ['']) == []


def test_a_plain_segmentor_fits_both(model, plain):
    source = {name: torch.full_like(value, 2) for name, value in plain.state_dict().items()}
    assert check_fit(model, source) == ['pseudo_labeler', 'propagation_head']
    assert check_fit(model, source, ['teacher.']) == ['pseudo_labeler', 'propagation_head']
    assert all((v == 2).all() for n, v in model.state_dict().items() if n.startswith(('student.', 'teacher.')))
    with pytest.raises(CheckpointMismatch, match='lacks .* propagation_head'):
        check_fit(model, source, [''])


def test_a_whole_backbone_may_come_alone(model, plain, state):
    source = part(plain.state_dict(), 'backbone.', 'backbone.') | {'head.fc.weight': torch.ones(3)}
    assert check_fit(model, source) == [
        'student.decode_head',
        'teacher.decode_head',
        'pseudo_labeler',
        'propagation_head',
    ]
    with pytest.raises(CheckpointMismatch, match='lacks .* teacher.decode_head'):
        check_fit(model, source, ['teacher.'])


def test_an_auxiliary_head_need_not_be_there(plain):
    model = MODELS.build(ConfigDict(segmentor(), auxiliary_head=fcn(2, 32)))
    assert check_fit(model, plain.state_dict(), ['']) == ['auxiliary_head']
    assert check_fit(plain, model.state_dict(), ['']) == []


@pytest.mark.parametrize('kind', ['deeper', 'shallower'])
def test_another_depth_with_the_same_shapes(model, plain, kind):
    source = dict(plain.state_dict())
    last = part(source, 'backbone.layer3.1.')
    for name, value in last.items():
        if kind == 'deeper':
            source[f'backbone.layer3.2.{name}'] = value
        else:
            del source[f'backbone.layer3.1.{name}']
    match = 'know .* backbone.layer3.2' if kind == 'deeper' else 'lacks .* student.backbone.layer3.1'
    for target in (model, plain):
        with pytest.raises(CheckpointMismatch, match=match.replace('student.', '') if target is plain else match):
            check_fit(target, source)


def test_other_classes_are_named_with_a_remedy(model):
    source = MODELS.build(ConfigDict(segmentor(num_classes=7))).state_dict()
    with pytest.raises(CheckpointMismatch) as error:
        check_fit(model, source)
    for text in ('decode_head.conv_seg.weight', '[7, 8, 1, 1]', '[5, 8, 1, 1]', "prefix='backbone.'"):
        assert text in str(error.value)


def test_hook(model, state):
    from mmseg.models import SegTTAModel

    def load(state, needed=None, **cfg):
        runner = SimpleNamespace(model=SegTTAModel(model), cfg=cfg)
        StrictLoadHook(needed).after_load_checkpoint(runner, state)

    run = dict(meta=dict(iter=1), optimizer={}, message_hub={})
    load(dict(run, state_dict=state), resume=True)
    student = dict(run, state_dict={name: value for name, value in state.items() if name.startswith('student.')})
    load(student)  # a run that begins takes what there is
    for options in (dict(resume=True), dict(needed=['teacher.'])):
        with pytest.raises(CheckpointMismatch, match='lacks .* teacher'):
            load(student, **options)
    with pytest.raises(CheckpointNotRead, match=r'resumes from \(optimizer\).*load_from'):
        load(dict(meta=dict(iter=1), message_hub={}, state_dict=state), resume=True)
    with pytest.raises(CheckpointMismatch, match='Nothing'):
        load(dict(state_dict={}))
    with pytest.raises(CheckpointMismatch, match='no state dict'):
        load(dict(weights=1))
