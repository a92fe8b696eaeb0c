"""Evaluation of one or both networks, in all modes; checkpoints that do not fit."""

import json

import numpy as np
import pytest
import torch
from mmseg.evaluation import IoUMetric
from PIL import Image

from mmseg_derprop.apis.inference import load_segmentor
from mmseg_derprop.utils.checkpoints import read_checkpoint
from mmseg_derprop.utils.config import load_config

pytestmark = pytest.mark.usefixtures('quick_runs')


@pytest.fixture(scope='module')
def both(run, tool, tmp_path_factory):
    """Folder of an evaluation of both networks."""
    folder = tmp_path_factory.mktemp('both')
    checkpoint, config = run
    tool(
        *['test.py', config, checkpoint, '--predict-on', 'both', '--work-dir', folder / 'work'],
        *['--out', folder / 'out', '--json', folder / 'scores.json'],
    )
    return folder


def test_both_networks_score_as_each_alone(both, run, tool, tmp_path, work_dir_scores, label_maps):
    scores = work_dir_scores(both / 'work')
    for name in ('teacher', 'student'):
        work = tmp_path / name
        tool('test.py', run[1], run[0], '--predict-on', name, '--work-dir', work, '--out', work / 'out')
        alone = work_dir_scores(work)
        assert {key: scores[f'{name}/{key}'] for key in alone} == alone
        found, wanted = label_maps(both / 'out' / name), label_maps(work / 'out')
        assert len(found) == 6 and all((found[image] == wanted[image]).all() for image in wanted)
    assert scores['teacher/mIoU'] != scores['student/mIoU']


def test_unrounded_scores(both, shapes, label_maps, work_dir_scores):
    tables, rounded = json.loads((both / 'scores.json').read_text()), work_dir_scores(both / 'work')
    assert list(tables) == ['teacher', 'student']
    for name, table in tables.items():
        maps = label_maps(both / 'out' / name)
        predicted = np.stack(list(maps.values()))
        truth = np.stack([np.array(Image.open(shapes / f'SegmentationClass/{image}.png')) for image in maps])
        valid = truth != 255
        ious = {}
        for index, label in enumerate(('background', 'disc', 'square', 'triangle', 'ring', 'star')):
            ours, theirs = predicted[valid] == index, truth[valid] == index
            ious[label] = 100 * (ours & theirs).sum() / (ours | theirs).sum()
            assert table['classes'][label]['IoU'] == pytest.approx(ious[label], rel=1e-5)
        assert table['mIoU'] == pytest.approx(np.mean(list(ious.values())), rel=1e-5)
        for key in ('mIoU', 'mAcc', 'aAcc'):
            assert round(table[key], 2) == pytest.approx(rounded[f'{name}/{key}'], abs=0.011)


def test_a_class_in_no_image_has_no_score():
    from mmseg_derprop.engine import UnroundedIoUMetric

    metric, stock = UnroundedIoUMetric(), IoUMetric()
    sample = {key: dict(data=torch.tensor([[0, 1]])) for key in ('pred_sem_seg', 'gt_sem_seg')}
    for each in (metric, stock):
        each.dataset_meta = dict(classes=('a', 'b', 'absent'))
        each.process({}, [sample])
    assert metric.evaluate(1) == {**stock.evaluate(1), 'IoU.a': 100, 'IoU.b': 100}
    assert metric.table['classes']['absent'] == dict(IoU=None, Acc=None) and metric.table['mIoU'] == 100


def test_both_networks_with_augmentation(run, tool, tmp_path, work_dir_scores):
    work = tmp_path / 'both'
    tool('test.py', run[1], run[0], '--predict-on', 'both', '--tta', '--work-dir', work)
    tool('test.py', run[1], run[0], '--predict-on', 'student', '--tta', '--work-dir', tmp_path / 'student')
    both, alone = work_dir_scores(work), work_dir_scores(tmp_path / 'student')
    assert {key: both[f'student/{key}'] for key in alone} == alone


# Checkpoints ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(run, tmp_path):
    """Saves the run's state dict after a change to it."""

    def save(change):
        state = dict(read_checkpoint(run[0])['state_dict'])
        changed = change(state)
        torch.save(dict(state_dict=state if changed is None else changed, meta={}), tmp_path / 'x.pth')
        return tmp_path / 'x.pth'

    return save


def without(state, prefix):
    return {name: value for name, value in state.items() if not name.startswith(prefix)}


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda s: without(s, 'teacher.backbone.layer4.1'), r'lacks \d+ entries: teacher.backbone.layer4.1'),
        (lambda s: without(s, 'teacher.'), 'lacks .* teacher'),
        (lambda s: s.update({'teacher.backbone.layer4.2.conv1.weight': torch.ones(1)}), 'does not know 1 entries'),
        (lambda s: s.update({'teacher.decode_head.conv_seg.bias': torch.ones(9)}), r'conv_seg.bias.*\[9\].*\[6\]'),
        (lambda s: {'a.weight': torch.ones(1)}, 'Nothing in it has a place'),
    ],
)
def test_a_checkpoint_of_another_network_is_not_evaluated(run, tool, damaged, tmp_path, change, message):
    with pytest.raises(SystemExit, match=rf'x.pth does not fit the model of .*\.py. (?s:.*{message})'):
        tool('test.py', run[1], damaged(change), '--work-dir', tmp_path / 'work')


def test_only_the_network_that_is_asked_must_be_there(run, tool, damaged, tmp_path):
    path = damaged(lambda s: without(s, ('teacher.', 'propagation_head.')))
    tool('test.py', run[1], path, '--predict-on', 'student', '--work-dir', tmp_path / 'work')


def test_predictions_are_not_without_the_bias_that_the_config_asks_for(run, tool, damaged, tmp_path):
    path = damaged(lambda s: without(s, 'pseudo_labeler.'))  # as of a plain segmentor
    options = {'model.pseudo_labels.alignment': dict(type='DistributionAlignment', predict=True)}
    config = load_config(str(run[1]), options)
    config.dump(tmp_path / 'aligned.py')
    match = r'x.pth does not fit the model of(?s:.*)lacks .*pseudo_labeler.alignment.bias(?s:.*)alignment.predict=False'
    with pytest.raises(SystemExit, match=match):
        tool('test.py', tmp_path / 'aligned.py', path, '--work-dir', tmp_path / 'work')
    with pytest.raises(ValueError, match=match):
        load_segmentor(config, str(path))


def test_training_does_not_begin_with_another_network(run, tool, damaged, tmp_path):
    path = damaged(lambda s: without(s, 'student.decode_head.fuse'))
    with pytest.raises(SystemExit, match=r'x.pth does not fit the model(?s:.*)lacks .* student.decode_head.fuse'):
        tool('train.py', run[1], '--work-dir', tmp_path / 'work', '--cfg-options', f'load_from={path}')


def test_resuming_from_what_is_no_run(run, tool, tmp_path):
    path, config = run
    whole = read_checkpoint(path)
    del whole['meta']
    torch.save(whole, tmp_path / 'x.pth')
    with pytest.raises(SystemExit, match='x.pth: it holds weights, but not all that a run resumes from'):
        tool('train.py', config, '--work-dir', tmp_path, '--resume', tmp_path / 'x.pth')
