"""The optimiser sees the student as if it stood alone, and the propagation head; never the teacher."""

import copy

import pytest
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

SGD = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.01)
CONVNEXT = dict(
    type='mmpretrain.ConvNeXt',
    arch=dict(depths=[1, 1, 3, 1], channels=[8, 16, 16, 24]),
    out_indices=[0, 1, 2, 3],
    gap_before_final_norm=False,
)


@pytest.fixture
def build(semi_config, small_segmentor):
    """A SemiSegmentor and the plain segmentor of the same config."""

    def make(backbone=None, in_channels=16, **options):
        segmentor = copy.deepcopy(small_segmentor)
        if backbone:
            segmentor.update(backbone=backbone)
            segmentor['decode_head'].update(in_channels=in_channels)
        init_default_scope('mmseg')
        config = semi_config({f'model.{key}': value for key, value in options.items()}, segmentor=segmentor)
        return MODELS.build(config.model), MODELS.build(segmentor)

    return make


def optimizer(model, constructor='SemiOptimWrapperConstructor', **config):
    config = dict(type='OptimWrapper', constructor=constructor, **{'optimizer': SGD, **config})
    return build_optim_wrapper(model, config).optimizer


def settings(model, optimizer, *keys):
    """For each optimised parameter its name in the model and the settings of its group."""
    names = {id(p): name for name, p in model.named_parameters()}
    found = [(names[id(p)], tuple(g.get(k) for k in keys)) for g in optimizer.param_groups for p in g['params']]
    assert len(dict(found)) == len(found)
    return dict(found)


@pytest.mark.parametrize('paramwise', [None, dict(norm_decay_mult=0.0)])
def test_student_and_head_and_no_teacher(build, paramwise):
    model, _ = build()
    found = set(settings(model, optimizer(model, paramwise_cfg=paramwise)))
    parts = {name.split('.')[0] for name in found}
    assert parts == {'student', 'propagation_head'}
    assert found == {name for name, p in model.named_parameters() if not name.startswith('teacher.')}
    assert not any(p.requires_grad for p in model.teacher.parameters())


def test_custom_keys_match_the_plain_segmentors_names(build):
    keys = {
        'decode_head': dict(lr_mult=10.0),
        'propagation_head': dict(lr_mult=5.0),
        'backbone.bn1': dict(decay_mult=0),
    }
    paramwise = dict(custom_keys=keys, bias_lr_mult=2.0)
    model, plain = build()
    found = settings(model, optimizer(model, paramwise_cfg=paramwise), 'lr', 'weight_decay')
    alone = optimizer(plain, 'DefaultOptimWrapperConstructor', paramwise_cfg=paramwise)
    for name, wanted in settings(plain, alone, 'lr', 'weight_decay').items():
        assert found.pop(f'student.{name}') == pytest.approx(wanted), name
    assert {name.split('.')[0] for name in found} == {'propagation_head'}
    assert set(found.values()) == {(0.5, 0.01)}


def test_layer_wise_rates_reach_the_backbone(build):
    pytest.importorskip('mmpretrain')
    model, plain = build(CONVNEXT, in_channels=24)
    paramwise = dict(num_layers=6, decay_rate=0.5, decay_type='layer_wise')
    base = 'LearningRateDecayOptimizerConstructor'
    keys = 'lr', 'weight_decay', 'group_name'
    found = settings(model, optimizer(model, base_constructor=base, paramwise_cfg=paramwise), *keys)
    alone = settings(plain, optimizer(plain, base, paramwise_cfg=paramwise), *keys)
    for name, wanted in alone.items():
        assert found.pop(f'student.{name}') == wanted, name
    assert {name.split('.')[0] for name in found} == {'propagation_head'}
    # The head's own rate is the full one, the stem's the lowest.
    assert {lr for lr, _, _ in found.values()} == {0.1}
    rates = {lr for name, (lr, _, _) in alone.items() if name.startswith('backbone.')}
    assert len(rates) > 2 and min(rates) < 0.1
