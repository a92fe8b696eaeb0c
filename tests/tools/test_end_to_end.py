"""The tools on the embedded data set: train, test, infer, browse. Exact resume and processes: tests/engine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SUPERVISED = ROOT / 'configs/supervised/tiny_shapes.py'
ITERATIONS = 4  # an epoch has three
LOGGED = ('default_hooks.logger.interval=1', 'custom_hooks.0.interval=1')
pytestmark = pytest.mark.usefixtures('quick_runs')


@pytest.fixture(scope='module')
def train(run, tool):
    """Trains the small config of the run in a work dir, with other words of the command line."""

    def start(work, *words, args=()):
        tool('train.py', run[1], '--work-dir', work, *args, '--cfg-options', *LOGGED, *words)

    return start


def scalars(work):
    """What the newest run in a work dir logged: of each iteration, and of the last validation."""
    path = max(work.glob('*/vis_data/scalars.json'), key=lambda p: (p.stat().st_mtime_ns, p))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if 'loss' in line], lines[-1]


@pytest.fixture(scope='module')
def trained(train, tmp_path_factory):
    """Work dir of a run, with a validation at the end."""
    work = tmp_path_factory.mktemp('trained')
    train(work, f'train_cfg.max_iters={ITERATIONS}', f'train_cfg.val_interval={ITERATIONS}')
    return work


@pytest.fixture(scope='module')
def last(trained):
    return trained / f'iter_{ITERATIONS}.pth'


@pytest.fixture(scope='module')
def plain(tmp_path_factory, shapes):
    """Checkpoint of the supervised baseline, narrowed, trained by the script as a user runs it."""
    work = tmp_path_factory.mktemp('plain')
    words = [f'data_root={shapes}', 'train_cfg.max_iters=2', 'train_cfg.val_interval=9']
    words += ['default_hooks.checkpoint.interval=2', 'log_level=WARNING']
    words += [f'model.backbone.{key}_channels=8' for key in ('base', 'stem')]
    words += [f'model.decode_head.{key}' for key in ('in_channels=[8,64]', 'channels=16', 'c1_channels=8')]
    for loader in ('train', 'val', 'test'):
        words += [f'{loader}_dataloader.num_workers=0', f'{loader}_dataloader.persistent_workers=False']
    command = [sys.executable, ROOT / 'tools/train.py', SUPERVISED, '--work-dir', work, '--cfg-options', *words]
    environment = dict(os.environ, OMP_NUM_THREADS='1', PYTHONWARNINGS='ignore')
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return work / 'iter_2.pth'


# Training ------------------------------------------------------------------------------------------------------------


def test_a_run_logs_validates_and_saves(trained, last):
    steps, validation = scalars(trained)
    assert [line['step'] for line in steps] == list(range(1, ITERATIONS + 1))
    assert all(np.isfinite(line['loss']) for line in steps)
    config = torch.load(last, weights_only=False)['meta']['cfg']
    names = (
        'seg',
        'seg_prop',
        'affinity_x',
        'kl',
        'soft',
        'fp',
        'prop_s',
        'prop_w',
        'affinity_u',
        'smooth',
        'smooth_w',
        'smooth_s',
    )
    assert all(f'{name}=dict(' in config for name in names)
    assert steps[0]['loss'] == pytest.approx(sum(steps[0][name] for name in names), rel=1e-4)
    assert steps[0]['alpha'] == 0 and steps[-1]['alpha'] == 0.5 and 0 < steps[-1]['threshold'] < 0.85
    assert {'confident', 'accepted', 'region_changes', 'accuracy_confident', 'accuracy_accepted'} <= set(steps[-1])
    assert {'teacher/mIoU', 'student/mIoU'} <= set(validation)
    state = torch.load(last, weights_only=False)['state_dict']
    assert any((state[k] != state[k.replace('student', 'teacher', 1)]).any() for k in state if k.startswith('student.'))


def test_knobs_stand_in_the_model(run, tool, tmp_path):
    """And TensorBoard's events have what the log has."""
    words = ['model.losses.fp.loss_weight=0', 'model.pseudo_labels.alpha=0.5', 'train_cfg.max_iters=1']
    tool('train.py', run[1], '--log-to', 'tensorboard', '--work-dir', tmp_path, '--cfg-options', *LOGGED, *words)
    ((step,), _) = scalars(tmp_path)
    assert 'fp' not in step and 'alpha' not in step and 'kl' in step
    (events,) = tmp_path.glob('*/vis_data/events.out.tfevents.*')
    assert b'accuracy_confident' in events.read_bytes()


@pytest.mark.parametrize(
    'word, message',
    [
        ('custom_hooks.0.alpha=0.5', 'PseudoLabelHook has no option alpha.*alpha is now model.pseudo_labels.alpha'),
        ('custom_hooks.0.head_warmup=5', 'is now model.propagation_head.warmup'),
        ('model.loss_weight.sup.seg=1', 'SemiSegmentor has no option loss_weight.*loss_weight is now losses'),
        ('model.labels_from=teacher', 'labels_from is now pseudo_labels.source'),
        ('model.losses.kl.loss_weight=-1', 'loss_weight must be greater than or equal to 0, but is -1'),
    ],
)
def test_wrong_places_end_before_training(train, tmp_path, word, message):
    with pytest.raises(SystemExit, match=f'tiny_shapes_paper.py: .*{message}'):
        train(tmp_path, word)
    assert not list(tmp_path.glob('*.pth'))


def test_a_first_start_with_resume_keeps_load_from(train, last, tmp_path):
    """A job that may be interrupted is always started with --resume, the first time too."""
    words = [f'load_from={last}', 'optim_wrapper.optimizer.lr=0.0', 'optim_wrapper.optimizer.weight_decay=0.0']
    train(tmp_path, *words, args=['--resume'])
    name = 'student.decode_head.conv_seg.weight'
    found, wanted = (torch.load(path, weights_only=False)['state_dict'] for path in (tmp_path / 'iter_2.pth', last))
    assert torch.equal(found[name], wanted[name])


def test_starting_from_a_plain_checkpoint(train, plain, tmp_path):
    words = [f'load_from={plain}', 'optim_wrapper.optimizer.lr=0', 'train_cfg.max_iters=1']
    train(tmp_path, *words, 'default_hooks.checkpoint.interval=1')
    state, start = (torch.load(path, weights_only=False)['state_dict'] for path in (tmp_path / 'iter_1.pth', plain))
    assert len(start) > 100
    for key, value in start.items():
        assert torch.equal(state[f'teacher.{key}'], value), key
        if 'running' not in key and 'num_batches' not in key:
            assert torch.equal(state[f'student.{key}'], value), key


def test_precision_by_the_command_line(train, tmp_path, capsys):
    train(tmp_path, 'train_cfg.max_iters=1', args=['--amp', 'bfloat16'])
    assert all(0 < line['loss'] < 100 for line in scalars(tmp_path)[0])
    assert "type='BFloat16OptimWrapper'" in next(tmp_path.glob('*.py')).read_text()
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit):
            train(tmp_path, args=['--amp'])
        assert 'use --amp bfloat16' in capsys.readouterr().err


# Evaluation ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def tested(run, tool, last, tmp_path_factory):
    """Work dir of a test of the teacher, with label maps in out and pictures in show."""
    work = tmp_path_factory.mktemp('tested')
    tool('test.py', run[1], last, '--work-dir', work, '--out', work / 'out', '--show-dir', work / 'show')
    return work


def test_the_teacher_scores_as_in_validation(tested, trained, work_dir_scores):
    found, wanted = work_dir_scores(tested), scalars(trained)[1]
    for key in ('mIoU', 'aAcc', 'mAcc'):
        assert found[key] == wanted[f'teacher/{key}'], key


def test_label_maps_and_pictures(tested, shapes, label_maps, work_dir_scores):
    maps = label_maps(tested / 'out')
    assert list(maps) == [f'val_{i:05d}' for i in range(6)]
    assert all(m.shape == (64, 64) and m.dtype == np.uint8 and m.max() < 6 for m in maps.values())
    truth = np.stack([np.array(Image.open(shapes / f'SegmentationClass/{name}.png')) for name in maps])
    accuracy = (np.stack(list(maps.values())) == truth)[truth != 255].mean()
    assert 100 * accuracy == pytest.approx(work_dir_scores(tested)['aAcc'], abs=0.01)
    pictures = list((tested / 'show').rglob('*.png'))
    assert len(pictures) == 6
    assert all(cv2.imread(str(path)).std() > 5 for path in pictures)


# Browsing ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('pipeline, tiles', [('unlabeled', 5), ('two_view', 7)])
def test_browsing(pipeline, tiles, tool, shapes, tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(
        f"_base_ = '{ROOT}/configs/derprop/tiny_shapes_paper.py'\n"
        f'train_dataloader = dict(dataset=dict(unlabeled=dict(pipeline=_base_.{pipeline}_pipeline)))\n'
    )
    options = ['--number', 2, '--cfg-options', f'data_root={shapes}']
    tool('analysis_tools/browse_dataset.py', path, '--out-dir', tmp_path, *options)
    pictures = [cv2.imread(str(tmp_path / f'batch_{i}.png')) for i in range(2)]
    # Four labelled rows, four unlabelled ones; crops of 96 are doubled.
    assert pictures[0].shape == (8 * (192 + 8 + 18) + 22, tiles * (192 + 8), 3)  # 22 of the legend
    assert not np.array_equal(*pictures) and pictures[0].std() > 20
    # A second view fills the boxes whatever the partner.
    tool('analysis_tools/browse_dataset.py', path, '--out-dir', tmp_path, *options, 'model.cutmix.partner=reversed')
    assert np.array_equal(cv2.imread(str(tmp_path / 'batch_0.png')), pictures[0]) == (pipeline == 'two_view')
    with pytest.raises(SystemExit, match='no labelled and unlabelled branches'):
        tool('analysis_tools/browse_dataset.py', SUPERVISED, '--out-dir', tmp_path, *options)
