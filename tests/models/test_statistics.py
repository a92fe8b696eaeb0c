"""What a step says about its pseudo-labels."""

import builders
import pytest
import torch
from stepping import boxes, build, close, maps, tapped


@pytest.mark.parametrize('preset', ['derprop_paper', 'derprop_published', 'unimatch'])
def test_statistics(preset):
    """Only what can change: a fixed threshold is not told, and without regions confident is accepted."""
    moving = preset != 'unimatch'
    options = {} if moving else {'pseudo_labels.threshold.value': 0.5}
    model = (build if moving else builders.build)(preset, options=options)
    inputs, samples = builders.batch(2, 3, truth=True, num_strong=2)
    samples['weak'][0].gt_sem_seg.data[:, :20] = 255
    _, tap = tapped(model, inputs, samples)
    truth, target = maps(samples['weak'], 'gt_sem_seg'), tap.step.target
    valid = ~target.mixed.ignored
    known = valid & (truth != 255) & ~boxes(samples['strong'], builders.SIZE)
    wanted = {
        'confident': target.confident.sum() / valid.sum(),
        'accuracy_confident': (target.mixed.labels == truth)[target.confident & known].float().mean(),
    }
    if moving:
        wanted |= {
            'threshold': model.pseudo_labeler.threshold.value,
            'accepted': target.accepted.sum() / valid.sum(),
            'region_changes': (target.labels != target.mixed.labels).sum() / valid.sum(),
            'accuracy_accepted': (target.labels == truth)[target.accepted & known].float().mean(),
        }
    close(model.statistics, wanted)
    model.pseudo_labeler.threshold.value += 1
    assert 'threshold' not in wanted or model.statistics['threshold'] <= 1  # not the buffer itself


def test_without_a_threshold_all_is_confident_and_not_told():
    model = builders.build('aligned_teacher')
    model.loss(*builders.batch(truth=True, num_strong=2))
    assert set(model.statistics) == {'accuracy_confident'}


def test_unlabelled_images_need_no_truth():
    model = build()
    model.loss(*builders.batch())
    assert set(model.statistics) == {'threshold', 'confident', 'accepted', 'region_changes'}


@pytest.mark.parametrize('ignore_index', [0, 11])
def test_truth_that_is_ignored_is_not_judged(ignore_index):
    """Neither ignore_index nor the 255 of padding."""
    model = build(network=builders.segmentor(ignore_index=ignore_index))
    inputs, samples = builders.batch(truth=True)
    for sample in samples['weak']:
        sample.gt_sem_seg.data[:] = ignore_index
        sample.gt_sem_seg.data[..., :20] = 255
    model.loss(inputs, samples)
    assert model.statistics['accuracy_confident'].isnan() and model.statistics['confident'] > 0
    assert torch.isfinite(model.statistics['threshold'])
