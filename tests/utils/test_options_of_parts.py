"""Options of a wrong type are refused by name where they are given, and not by what they break later."""

import builders
import pytest
from mmseg.registry import HOOKS, MODELS


@pytest.mark.parametrize(
    'changes, words',
    [
        (dict(cutmix_target='published'), "cutmix_target = 'published'"),
        (dict(num_strong='2'), "num_strong = '2'"),
        (dict(perturb_ratio='0.5'), "perturb_ratio = '0.5'"),
        (dict(compile='inductor'), "compile = 'inductor'"),
        (dict(num_classes=0), 'num_classes = 0'),
        (dict(num_classes=2.5), 'num_classes = 2.5'),
        (dict(loss_weight=1.0), 'loss_weight = 1.0.*dict'),
        (dict(loss_weight=dict(sup=None)), 'loss_weight.sup = None.*dict'),
        (dict(loss_weight=dict(sup=dict(seg=float('inf')))), 'weights must be numbers'),
        (dict(loss_weight=dict(sup={1: 1.0})), 'loss_weight.sup has no 1'),
        (dict(loss_weight=dict(sup=dict(aux=1.0))), 'no auxiliary head'),
        (dict(pseudo_labels=0.95), 'pseudo_labels = 0.95.*dict'),
        (dict(pseudo_labels=dict(tau='high')), "tau = 'high'"),
        (dict(propagation_head=64), 'propagation_head = 64.*config'),
        (dict(head=dict(in_index=0.5)), 'in_index = 0.5'),
        (dict(head=dict(max_order=0.5)), 'max_order = 0.5'),
        (dict(head=dict(channels=0)), 'channels = 0'),
        (dict(head=dict(dropout_ratio=2)), 'dropout_ratio = 2'),
        (dict(head=dict(num_regions='all')), "num_regions = 'all'"),
        (dict(segmentor='my_segformer.py'), "segmentor = 'my_segformer.py'"),
    ],
)
def test_of_a_segmentor(changes, words):
    with pytest.raises(ValueError, match=words):
        MODELS.build(dict(dict(builders.method(), segmentor=builders.segmentor()) | builders.method(**changes)))


@pytest.mark.parametrize(
    'registry, config, words',
    [
        (HOOKS, dict(type='PseudoLabelHook', alpha=None), 'alpha = None'),
        (HOOKS, dict(type='PseudoLabelHook', teacher_momentum='0.5'), "teacher_momentum = '0.5'"),
        (HOOKS, dict(type='PseudoLabelHook', head_warmup=-1), 'head_warmup = -1'),
        (HOOKS, dict(type='PseudoLabelHook', interval='10'), "interval = '10'"),
        (HOOKS, dict(type='NonFiniteHook', limit=None), 'limit = None'),
        (HOOKS, dict(type='LogHistoryHook', length=0.5), 'length = 0.5'),
        (HOOKS, dict(type='PseudoLabelVisualizationHook', interval=0), 'interval = 0'),
        (HOOKS, dict(type='ExactCheckpointHook', interval='1000'), "interval = '1000'"),
        (HOOKS, dict(type='ExactCheckpointHook', max_keep_ckpts=None), 'max_keep_ckpts = None'),
        (HOOKS, dict(type='StrictLoadHook', needed='student.'), "needed = 'student.'"),
    ],
)
def test_of_other_parts(registry, config, words):
    with pytest.raises(ValueError, match=words):
        registry.build(config)
