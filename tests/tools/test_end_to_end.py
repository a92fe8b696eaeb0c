"""The tools on the embedded data set: train, resume, test, infer, browse, two processes."""

import importlib.util
import itertools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmseg.registry import HOOKS
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
DERPROP, SUPERVISED = ROOT / 'configs/derprop/tiny_shapes_paper.py', ROOT / 'configs/supervised/tiny_shapes.py'
CROP = 49
ITERATIONS, EPOCH = 6, 3
_runs = itertools.count()
pytestmark = pytest.mark.usefixtures('quick_runs')


@HOOKS.register_module()
class PowerCut(Hook):
    """Ends training in the middle."""

    def __init__(self, at):
        self.at = at

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if batch_idx == self.at:
            raise KeyboardInterrupt


def call(script, *args):
    """Runs a tool's main in this process."""
    path = ROOT / 'tools' / script
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [str(path), *map(str, args)])
        patch.setattr(os, 'environ', dict(os.environ))
        module.main()


def options(data, model='model.segmentor', crop=CROP, **changes):
    """Options that make a run of the shipped config last seconds."""
    semi = model == 'model.segmentor'
    pipelines = [f'train_dataloader.dataset.{s}pipeline' for s in (['labeled.', 'unlabeled.'] if semi else [''])]
    crops = {f'{p}.{k}': f'({crop},{crop})' for p in pipelines for k in ('3.size', '4.crop_size')}
    loaders = {f'{x}_dataloader.num_workers': 0 for x in ('train', 'val', 'test')}
    loaders |= {f'{x}_dataloader.persistent_workers': False for x in ('train', 'val', 'test')}
    network = {
        f'{model}.backbone.base_channels': 8,
        f'{model}.backbone.stem_channels': 8,
        f'{model}.decode_head.in_channels': '[8,64]',
        f'{model}.decode_head.channels': 16,
        f'{model}.decode_head.c1_channels': 8,
    }
    run = {
        'train_cfg.max_iters': ITERATIONS,
        'train_cfg.val_interval': ITERATIONS,
        'default_hooks.checkpoint.interval': EPOCH,
        'default_hooks.checkpoint.max_keep_ckpts': -1,
        'default_hooks.logger.interval': 1,
        'log_level': 'WARNING',
        # The engine keeps a message hub and a visualizer for each name, and this process has many runs.
        'experiment_name': (name := f'run_{next(_runs)}'),
        'visualizer.name': name,
    }
    if semi:
        network |= {'model.propagation_head.channels': 16, 'model.propagation_head.num_regions': 8}
        run['custom_hooks.0.interval'] = 1
    merged = {'data_root': data, **crops, **loaders, **network, **run, **changes}
    return ['--cfg-options', *(f'{key}={value}' for key, value in merged.items() if value is not None)]


def train(config, work, *args):
    call('train.py', config, '--work-dir', work, *args)


def scalars(work):
    """What the newest run in a work dir logged, as dicts."""
    path = max(work.glob('*/vis_data/scalars.json'), key=lambda p: (p.stat().st_mtime_ns, p))
    return [json.loads(line) for line in path.read_text().splitlines()]


def metrics(work):
    """What tools/test.py measured."""
    path = max((p for p in work.glob('*/*.json')), key=lambda p: (p.stat().st_mtime_ns, p))
    return json.loads(path.read_text())


def load(path):
    return torch.load(path, weights_only=False)


def assert_same(found, wanted, name=''):
    """Bit for bit, through dicts and lists."""
    assert type(found) is type(wanted), name
    if isinstance(wanted, torch.Tensor):
        assert torch.equal(found, wanted), name
    elif isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), name
        for key in wanted:
            assert_same(found[key], wanted[key], f'{name}.{key}')
    elif isinstance(wanted, (list, tuple)):
        assert len(found) == len(wanted), name
        for index, pair in enumerate(zip(found, wanted)):
            assert_same(*pair, f'{name}[{index}]')
    else:
        assert found == wanted, name


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('runs')


@pytest.fixture(scope='module')
def seeded(folder):
    """The shipped config, with a hook that can end it."""
    path = folder / 'seeded.py'
    path.write_text(f"_base_ = '{DERPROP}'\ncustom_hooks = [*_base_.custom_hooks, dict(type='PowerCut', at=None)]\n")
    return path


@pytest.fixture(scope='module')
def published(folder):
    """The published preset on the embedded data set, with its two views."""
    text = DERPROP.read_text().replace('methods/derprop_paper.py', 'methods/derprop_published.py')
    path = folder / 'published.py'
    path.write_text(
        text.replace("'../", f"'{ROOT}/configs/")
        + 'train_dataloader = dict(dataset=dict(unlabeled=dict(pipeline=_base_.two_view_pipeline)))\n'
    )
    return path


@pytest.fixture(scope='module')
def trained(folder, seeded, shapes, quick_runs):
    """Work dir of an uninterrupted run: checkpoints after 3 and 6 iterations, validated at the end."""
    work = folder / 'trained'
    train(seeded, work, *options(shapes))
    return work


@pytest.fixture(scope='module')
def last(trained):
    return trained / f'iter_{ITERATIONS}.pth'


@pytest.fixture(scope='module')
def plain(folder, shapes):
    """Checkpoint of the supervised twin, trained by the script as a user runs it."""
    work = folder / 'plain'
    changes = options(
        shapes, model='model', **{'train_cfg.max_iters': 2, 'model.data_preprocessor.size': f'({CROP},{CROP})'}
    )
    command = [sys.executable, ROOT / 'tools/train.py', SUPERVISED, '--work-dir', work, *changes]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return work / 'iter_2.pth'


def environment(**changes):
    return {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore', **changes}


# Training ------------------------------------------------------------------------------------------------------------


def test_a_run_logs_validates_and_saves(trained, last):
    lines = scalars(trained)
    steps = [line for line in lines if 'loss' in line]
    assert [line['step'] for line in steps] == list(range(1, ITERATIONS + 1))
    assert all(np.isfinite(line['loss']) for line in steps)
    losses = [key for key in steps[0] if 'loss_' in key]
    assert len(losses) == 9 and steps[0]['loss'] == pytest.approx(sum(steps[0][k] for k in losses), rel=1e-4)
    assert steps[-1]['alpha'] == 0.5 and 0 < steps[-1]['tau'] < 0.85
    assert {'confident', 'accepted', 'region_changes', 'accuracy_confident', 'accuracy_accepted'} <= set(steps[-1])
    assert {'teacher/mIoU', 'student/mIoU'} <= set(lines[-1])
    assert (trained / 'iter_3.pth').is_file() and last.is_file()
    state = load(last)['state_dict']
    assert any((state[k] != state[k.replace('student', 'teacher', 1)]).any() for k in state if k.startswith('student.'))


def test_a_first_start_with_resume_keeps_load_from(folder, seeded, last, shapes, quick_runs):
    """A job that may be interrupted is always started with --resume, the first time too."""
    work = folder / 'first_start'
    still = {'train_cfg.max_iters': 3, 'optim_wrapper.optimizer.lr': 0.0, 'optim_wrapper.optimizer.weight_decay': 0.0}
    train(seeded, work, '--resume', *options(shapes, load_from=last, **still))
    name = 'student.decode_head.conv_seg.weight'
    assert torch.equal(load(work / 'iter_3.pth')['state_dict'][name], load(last)['state_dict'][name])


@pytest.fixture(scope='module')
def resumed(folder, seeded, shapes, quick_runs):
    """Work dir of a run that was cut off in iteration 5 and went on from iteration 3."""
    work = folder / 'resumed'
    with pytest.raises(KeyboardInterrupt):
        train(seeded, work, *options(shapes, **{'custom_hooks.3.at': 4}))
    assert (work / 'iter_3.pth').is_file() and not (work / 'iter_6.pth').exists()
    train(seeded, work, '--resume', *options(shapes))
    return work


def test_a_resumed_run_ends_as_an_uninterrupted_one(resumed, trained, last):
    found, wanted = load(resumed / last.name), load(last)
    for key in ('state_dict', 'optimizer', 'param_schedulers'):
        assert_same(found[key], wanted[key], key)
    assert found['meta']['iter'] == ITERATIONS
    steps = [line for line in scalars(resumed) if 'loss' in line][-3:]
    assert [line['step'] for line in steps] == [4, 5, 6]
    for line, other in zip(steps, [line for line in scalars(trained) if 'loss' in line][3:]):
        for key in ('loss', 'lr', 'alpha', 'tau', 'accepted'):
            assert line[key] == other[key], key


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(folder, seeded, trained, last, shapes, capfd):
    work = folder / 'damaged'
    work.mkdir()
    (work / 'iter_3.pth').write_bytes((trained / 'iter_3.pth').read_bytes())
    cut = work / last.name
    cut.write_bytes(last.read_bytes()[:-1000])
    with pytest.raises(SystemExit, match=f'{cut}: it is cut off'):
        train(seeded, work, '--resume', cut, *options(shapes))
    train(seeded, work, '--resume', *options(shapes))
    said = capfd.readouterr().err
    assert f'{cut} is left out: it is cut off' in said and f'Going on from {work / "iter_3.pth"}' in said
    assert_same(load(cut)['state_dict'], load(last)['state_dict'])


def test_gradient_accumulation_and_tensorboard(folder, shapes):
    """With the line for TensorBoard that the runtime config tells of."""
    comments = (ROOT / 'configs/_base_/default_runtime.py').read_text().splitlines()
    line = next(text for text in comments if text.startswith('# For TensorBoard: ')).split(': ', 1)[1]
    config, work = folder / 'board.py', folder / 'board'
    config.write_text(f"_base_ = '{DERPROP}'\n{line}\n")
    changes = {
        'optim_wrapper.accumulative_counts': 2,
        'train_cfg.max_iters': 3,
        'train_cfg.val_interval': 100,
        'model.pseudo_labels.momentum': 0.5,
    }
    train(config, work, *options(shapes, **changes))
    events = list(work.glob('*/vis_data/events.out.tfevents.*'))
    assert len(events) == 1 and b'accuracy_confident' in events[0].read_bytes()
    steps = [line for line in scalars(work) if 'loss' in line]
    assert len(steps) == 3
    # Two optimiser steps; the threshold of the first one starts at its initial value in both iterations.
    state = load(work / 'iter_3.pth')
    assert {entry['step'].item() for entry in state['optimizer']['state'].values()} == {2}
    assert steps[2]['tau'] != steps[1]['tau'] == pytest.approx(state['state_dict']['pseudo_labeler.tau_before'].item())


def test_going_on_from_a_plain_checkpoint(folder, plain, shapes):
    work = folder / 'from_plain'
    changes = {
        'load_from': plain,
        'optim_wrapper.optimizer.lr': 0,
        'train_cfg.max_iters': 1,
        'train_cfg.val_interval': 9,
    }
    train(DERPROP, work, *options(shapes, **changes))
    state, start = load(work / 'iter_1.pth')['state_dict'], load(plain)['state_dict']
    assert len(start) > 100
    for key, value in start.items():
        assert torch.equal(state[f'teacher.{key}'], value), key
        if 'running' not in key and 'num_batches' not in key:
            assert torch.equal(state[f'student.{key}'], value), key


def test_the_published_preset_trains(folder, published, shapes):
    work = folder / 'published'
    changes = {
        'train_cfg.max_iters': 2,
        'train_cfg.val_interval': 9,
        'custom_hooks.0.alpha': 0.5,
        # The crop of each of its two views.
        **{f'train_dataloader.dataset.unlabeled.pipeline.{k}': None for k in ('3.size', '4.crop_size')},
        **{
            f'train_dataloader.dataset.unlabeled.pipeline.2.{view}.{k}': f'({CROP},{CROP})'
            for view in ('first', 'second')
            for k in ('1.size', '2.crop_size')
        },
    }
    train(published, work, *options(shapes, **changes))
    steps = [line for line in scalars(work) if 'loss' in line]
    assert len(steps) == 2 and all(np.isfinite(line['loss']) for line in steps)
    # Constant there: 1 / L of each of two forwards, the grid being 7x7.
    assert steps[0]['unsup.loss_smooth'] == pytest.approx(0.125 * 2 / 49, rel=1e-3)


def test_a_wrong_data_root(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"(?s)data_root of the labelled images.*/nowhere/shapes'"):
        train(DERPROP, tmp_path / 'work', *options('/nowhere/shapes'))


PROCESS = '''
"""One of several processes on a CPU: runs a script that trains, and saves what it ends with."""
import runpy
import sys

import torch
from mmengine.runner import Runner

torch.set_num_threads(1)
train, out = Runner.train, sys.argv.pop(1)


def keep(runner):
    train(runner)
    state = {'wrapper': type(runner.model).__name__, 'batches': len(runner.train_dataloader)}
    state.update(model=runner.model.module.state_dict(), alpha=runner.model.module.alpha)
    torch.save(state, f'{out}.{torch.distributed.get_rank()}')


Runner.train = keep
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name='__main__')
torch.distributed.destroy_process_group()
'''


def test_two_processes(folder, shapes):
    script, out = folder / 'process.py', folder / 'process.pth'
    script.write_text(PROCESS)
    changes = {
        'train_cfg.max_iters': 4,
        'train_cfg.val_interval': 4,
        'model.pseudo_labels.momentum': 0.5,
        'train_dataloader.batch_size': 5,
        'train_dataloader.sampler.num_labeled': 2,
        'train_dataloader.sampler.num_unlabeled': 3,
    }
    command = [sys.executable, script, out, ROOT / 'tools/train.py', DERPROP, '--launcher', 'pytorch']
    command += ['--work-dir', folder / 'two', *options(shapes, **changes)]
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    group = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=port, WORLD_SIZE='2')
    running = [
        subprocess.Popen(
            command,
            cwd=folder,
            env=environment(**group, RANK=str(rank), LOCAL_RANK=str(rank)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=300)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], '\n'.join(text[-3000:] for text in said)
    first, second = (load(f'{out}.{rank}') for rank in range(2))
    assert first['wrapper'] == 'MMDistributedDataParallel'
    assert first['batches'] == second['batches'] == 2  # 12 images, 3 for each process
    assert first['alpha'] == second['alpha'] == 0.5
    assert first['model'].keys() == second['model'].keys()
    # Batch statistics are each process's own, as everywhere in the engine without SyncBN.
    same = [key for key in first['model'] if 'running' not in key]
    assert sum(key.startswith('teacher.') for key in same) > 50
    for key in same:
        assert torch.equal(first['model'][key], second['model'][key]), key
    assert any(not torch.equal(first['model'][key], second['model'][key]) for key in first['model'] if key not in same)
    assert {'teacher/mIoU', 'student/mIoU'} <= set(scalars(folder / 'two')[-1])


# Evaluation ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def tested(folder, seeded, last, shapes, quick_runs):
    """Work dir of a test of the teacher, with label maps in out and pictures in show."""
    work = folder / 'tested'
    outputs = ['--out', work / 'out', '--show-dir', work / 'show']
    call('test.py', seeded, last, '--work-dir', work, *outputs, *options(shapes))
    return work


def label_maps(work):
    return {path.stem: np.array(Image.open(path)) for path in sorted((work / 'out').glob('*.png'))}


def test_the_teacher_scores_as_in_validation(tested, trained):
    found, wanted = metrics(tested), scalars(trained)[-1]
    for key in ('mIoU', 'aAcc', 'mAcc'):
        assert found[key] == wanted[f'teacher/{key}'], key


def test_label_maps_and_pictures(tested, shapes):
    maps = label_maps(tested)
    assert list(maps) == [f'val_{i:05d}' for i in range(6)]
    assert all(m.shape == (64, 64) and m.dtype == np.uint8 and m.max() < 6 for m in maps.values())
    truth = np.stack([np.array(Image.open(shapes / f'SegmentationClass/{name}.png')) for name in maps])
    accuracy = (np.stack(list(maps.values())) == truth)[truth != 255].mean()
    assert 100 * accuracy == pytest.approx(metrics(tested)['aAcc'], abs=0.01)
    pictures = list((tested / 'show').rglob('*.png'))
    assert len(pictures) == 6
    assert all(cv2.imread(str(path)).std() > 5 for path in pictures)


def test_the_student_scores_as_in_validation(folder, seeded, last, trained, shapes):
    work = folder / 'student'
    call('test.py', seeded, last, '--work-dir', work, '--predict-on', 'student', *options(shapes))
    found, wanted = metrics(work), scalars(trained)[-1]
    for key in ('mIoU', 'aAcc', 'mAcc'):
        assert found[key] == wanted[f'student/{key}'], key


def test_augmentation_at_test_time(folder, seeded, last, shapes):
    work = folder / 'tta'
    call('test.py', seeded, last, '--work-dir', work, '--tta', '--out', work / 'out', *options(shapes))
    assert 0 <= metrics(work)['mIoU'] <= 100
    assert all(m.shape == (64, 64) for m in label_maps(work).values())


def test_sliding_windows(folder, seeded, last, tested, shapes):
    work = folder / 'slide'
    slide = {
        'model.segmentor.test_cfg.mode': 'slide',
        'model.segmentor.test_cfg.crop_size': '(48,48)',
        'model.segmentor.test_cfg.stride': '(16,16)',
    }
    call('test.py', seeded, last, '--work-dir', work, '--out', work / 'out', *options(shapes, **slide))
    maps, whole = label_maps(work), label_maps(tested)
    assert maps.keys() == whole.keys() and all(m.shape == (64, 64) for m in maps.values())
    assert any((maps[name] != whole[name]).any() for name in maps)


def test_a_network_must_be_there_to_be_chosen(plain, tmp_path):
    with pytest.raises(SystemExit, match='EncoderDecoder'):
        call('test.py', SUPERVISED, plain, '--predict-on', 'student', '--work-dir', tmp_path)


def test_a_missing_checkpoint(tmp_path, capsys):
    with pytest.raises(SystemExit):
        call('test.py', DERPROP, tmp_path / 'none.pth')
    assert 'there is no checkpoint' in capsys.readouterr().err


def test_inference_of_one_image(trained, last, tested, shapes):
    from mmseg.apis import MMSegInferencer, inference_model, init_model

    config = str(trained / 'seeded.py')  # as the run dumped it, options included
    image = str(shapes / 'JPEGImages/val_00002.jpg')
    wanted = label_maps(tested)['val_00002']
    model = init_model(config, str(last), device='cpu')
    found = inference_model(model, image).pred_sem_seg.data[0].numpy()
    np.testing.assert_array_equal(found, wanted)
    inferencer = MMSegInferencer(config, str(last), device='cpu')
    np.testing.assert_array_equal(inferencer(image, show=False)['predictions'], wanted)


# Browsing ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('views', [1, 2])
def test_browsing(views, seeded, published, shapes, tmp_path):
    config = published if views == 2 else seeded
    options = ['--cfg-options', f'data_root={shapes}']
    call('analysis_tools/browse_dataset.py', config, '--out-dir', tmp_path, '--number', 2, *options)
    pictures = [cv2.imread(str(tmp_path / f'batch_{i}.png')) for i in range(2)]
    # Four labelled rows of two pictures, four unlabelled ones of five or seven; crops of 96 are doubled.
    tiles = 5 if views == 1 else 7
    assert pictures[0].shape == (8 * (192 + 8 + 18), tiles * (192 + 8), 3)
    assert not np.array_equal(*pictures) and pictures[0].std() > 20


def test_browsing_a_config_without_branches(shapes, tmp_path):
    options = ['--cfg-options', f'data_root={shapes}']
    with pytest.raises(SystemExit, match='no labelled and unlabelled branches'):
        call('analysis_tools/browse_dataset.py', SUPERVISED, '--out-dir', tmp_path, *options)


def test_precision_by_the_command_line(shapes, tmp_path, capsys):
    train(DERPROP, tmp_path, '--amp', 'bfloat16', *options(shapes, **{'train_cfg.max_iters': 1}))
    assert all(0 < line['loss'] < 100 for line in scalars(tmp_path) if 'loss' in line)
    assert "type='BFloat16OptimWrapper'" in next(tmp_path.glob('*.py')).read_text()
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit):
            train(DERPROP, tmp_path, '--amp', *options(shapes))
        assert 'use --amp bfloat16' in capsys.readouterr().err
