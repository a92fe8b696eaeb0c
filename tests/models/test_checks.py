"""Options and parts that do not fit are refused before training, by name and with what to do."""

import re

import builders
import pytest
import torch
from builders import NUM_CLASSES
from mmseg.registry import MODELS

from mmseg_derprop.models import SemiLoss


class Demanding(SemiLoss):
    needs = frozenset({'weak', 'magic'})

    def forward(self, step):
        return step.weak.logits.sum()


@pytest.fixture(autouse=True)
def own_losses(monkeypatch):
    monkeypatch.setitem(MODELS._module_dict, 'Demanding', Demanding)


def off(*names):
    return {f'losses.{name}.loss_weight': 0.0 for name in names}


OF_THE_HEAD = ('seg_prop', 'affinity_x', 'prop_s', 'prop_w', 'affinity_u', 'smooth', 'smooth_w', 'smooth_s')
ALONE = off(*OF_THE_HEAD)
NO_LABELS_OF_IT = {'pseudo_labels.alpha': 0.0, 'pseudo_labels.regions': None}
PAPER, FIXMATCH = 'derprop_paper', 'fixmatch'
REFUSED = [
    # Parts.
    (PAPER, {'losses.kl.type': 'Bogus'}, 'model.losses.kl.type must be one of .*SoftConsistencyLoss.*, but is .Bogus'),
    (PAPER, {'losses.kl.type': 'FCNHead'}, "model.losses.kl.type must be one of .*SemiLoss.*|.*but is 'FCNHead'"),
    (PAPER, {'losses.kl': dict(loss_weight=1.0, _delete_=True)}, 'model.losses.kl must be a config such as'),
    (PAPER, {'losses.kl': None}, 'model.losses.kl must be a config .*but is None'),
    (PAPER, {'losses.kl.bogus': 1}, 'SoftConsistencyLoss has no option bogus; it has loss_weight, kind'),
    (PAPER, {'losses.a-b': dict(type='SupervisedLoss')}, "letters, digits and _.*'a-b'"),
    (PAPER, {'losses.loss': dict(type='SupervisedLoss')}, "not 'loss', which is the total"),
    (PAPER, {'losses': None}, 'losses must be a valid dictionary, but is None'),
    (FIXMATCH, {'losses.own': dict(type='Demanding')}, "needs of model.losses.own must be among .*, but has 'magic'"),
    (
        PAPER,
        {'pseudo_labels.threshold': dict(type='Bogus', _delete_=True)},
        'model.pseudo_labels.threshold.type must be one of ClassMeanThreshold, FixedThreshold, MaxConfidenceThreshold'
        ".*but is 'Bogus'",
    ),
    (PAPER, {'pseudo_labels.regions.type': 'DerPropHead'}, 'model.pseudo_labels.regions.type must be one of'),
    (PAPER, {'pseudo_labels.alignment': dict(rate=1)}, "alignment must be a config .*'DistributionAlignment'"),
    (PAPER, {'pseudo_labels.threshold.value': 0.5}, 'MaxConfidenceThreshold has no option value; it has .*init'),
    # Weights.
    *(
        (PAPER, {'losses.kl.loss_weight': weight}, 'loss_weight must be ((greater|a) .*), but is')
        for weight in (-0.1, float('nan'), float('inf'), 'a', None, True)
    ),
    (FIXMATCH, off('seg', 'hard'), 'loss that trains with a loss_weight above 0, but the weights are .*losses.seg'),
    (
        'derprop_published',
        off('seg', 'seg_prop', 'kl', 'soft', 'fp', 'prop_s', 'prop_w', 'affinity_u'),
        'a loss that trains',
    ),
    # The head.
    (PAPER, {'propagation_head': None}, 'model.propagation_head must be .* for model.losses.seg_prop, .*is None'),
    (
        FIXMATCH,
        {'losses.prop': dict(type='SupervisedLoss', on='propagated')},
        'model.propagation_head must be .* for model.losses.prop, but is None',
    ),
    (FIXMATCH, {'pseudo_labels.alpha': 0.1}, 'for model.pseudo_labels.alpha=0.1, but is None'),
    (FIXMATCH, {'pseudo_labels.alpha': 'linear'}, "for model.pseudo_labels.alpha='linear', but is None"),
    (FIXMATCH, {'pseudo_labels.regions': dict(type='RegionPropagation')}, 'for model.pseudo_labels.regions, but'),
    (PAPER, ALONE, 'A loss must train the propagation head, which model.pseudo_labels.alpha.*regions read'),
    (PAPER, ALONE | {'pseudo_labels.alpha': 0.0}, 'must train the propagation head, which model.pseudo_labels.regions'),
    (PAPER, {'propagation_head.max_order': 5}, 'max_order = 5.*0 to 4'),
    *((PAPER, {'propagation_head.in_index': i}, r'in_index must be from 0 to 3.*\[8, 16, 32, 64\]') for i in (4, -5)),
    # Groups of options.
    (PAPER, {'cutmix.partner': 'second_view'}, "predictor must be 'teacher' or 'student' with partner='second_view'"),
    (
        PAPER,
        {'cutmix.partner': 'second_view', 'cutmix.predictor': 'teacher'},
        'model.cutmix.partner must be an image of the batch for model.losses.affinity_u.*inside_box=False',
    ),
    (PAPER, {'cutmix.bogus': 1}, 'CutMixOptions has no option bogus; it has partner, predictor'),
    (PAPER, {'cutmix': 'batch'}, 'cutmix must be a valid dictionary'),
    (PAPER, {'views.num_strong': 3}, 'num_strong must be 1 or 2, but is 3'),
    (PAPER, {'views.complementary_dropout': True}, 'views.num_strong must be 2 with complementary_dropout=True'),
    (PAPER, {'teacher.momentum': 1.5}, 'momentum must be less than or equal to 1, but is 1.5'),
    (PAPER, {'pseudo_labels.alpha': 'cosine'}, "alpha must be a valid number or be 'linear', but is 'cosine'"),
    (PAPER, {'num_classes': 1}, 'num_classes must be greater than or equal to 2, but is 1'),
    # Options that stood elsewhere.
    (PAPER, {'labels_from': 'teacher'}, 'labels_from is now pseudo_labels.source'),
    (PAPER, {'compile': True}, "compile is now compile at the config's top level"),
    (PAPER, {'propagation_head.num_regions': 5}, 'num_regions is now pseudo_labels.regions.num'),
]


@pytest.mark.parametrize('preset,options,words', REFUSED, ids=[f'{list(r[1])[0]} {i}' for i, r in enumerate(REFUSED)])
def test_refused(preset, options, words):
    with pytest.raises(ValueError) as caught:
        builders.build(preset, options=options)
    assert re.search(words, str(caught.value), re.DOTALL), caught.value


def test_a_head_that_no_loss_trains_is_frozen():
    """So distributed training does not wait for its gradient; a loss may read it all the same."""
    options = off(*OF_THE_HEAD[:-3]) | NO_LABELS_OF_IT
    model = builders.build('derprop_published', options=options)
    assert not any(p.requires_grad for p in model.propagation_head.parameters())
    losses = model.loss(*builders.batch())
    assert losses['smooth'] > 0 and not losses['smooth'].requires_grad
    assert all(p.requires_grad for p in builders.build().propagation_head.parameters())


def test_weights_change_by_name_and_a_type_by_its_place():
    """As --cfg-options do it."""
    options = {'losses.kl.loss_weight': 0.3, 'losses.smooth.type': 'ConstantSmoothness', 'losses.soft.loss_weight': 0}
    model, usual = builders.build(options=options), builders.build()
    batch = builders.batch()
    torch.manual_seed(1)
    found = model.loss(*batch)
    torch.manual_seed(1)
    wanted = usual.loss(*batch)
    assert list(found) == [name for name in wanted if name != 'soft']
    torch.testing.assert_close(found['kl'], wanted['kl'] * 0.3 / 0.125)
    torch.testing.assert_close(found['smooth'], torch.tensor(1 / 30 / 16))
    assert all(torch.equal(found[name], wanted[name]) for name in found if name not in ('kl', 'smooth'))


@pytest.mark.parametrize('index,channels', [(-1, 64), (0, 8), (1, 16), (-2, 32)])
def test_head_finds_out_channels_and_classes(index, channels):
    head = builders.build(options={'propagation_head.in_index': index}).propagation_head
    assert head.in_channels == head.conv.conv.in_channels == channels
    assert head.num_classes == NUM_CLASSES and head.conv.conv.out_channels == 16


@pytest.mark.parametrize('weight', [0.0, 1.0])
def test_auxiliary_heads_that_no_loss_asks_are_frozen(weight):
    """Distributed training would wait for their gradients."""
    network = dict(builders.segmentor(), auxiliary_head=builders.fcn(2, 32))
    model = builders.build('unimatch', network, {'losses.seg.loss_weight': weight})
    assert {p.requires_grad for p in model.student.auxiliary_head.parameters()} == {weight > 0}
    assert all(p.requires_grad for p in model.student.decode_head.parameters())
