"""Runs that are killed, stopped, or have no room, and go on as if nothing had been. KILLS says how often."""

import itertools
import os
import random
import resource
import shutil
import signal
import stat
import time
from pathlib import Path

import pytest
import torch
from interrupted import ITERATIONS, Group, Run, assert_same_end

from mmseg_derprop.engine import whole_files
from mmseg_derprop.utils.checkpoints import check_whole, newest_checkpoint, read_checkpoint
from mmseg_derprop.utils.config import load_config

ROOT = Path(__file__).resolve().parents[2]
KILLS = int(os.environ.get('KILLS', 4))
SEED = int(os.environ.get('KILLS_SEED', 0))


def test_killed_at_random_moments(config, uninterrupted, tmp_path):
    """With and without loader workers in turn; half of the kills spare the start, which takes most of the time."""
    whole, seconds = uninterrupted('0', config())
    draw, number, killed = random.Random(SEED), 0, 0
    while killed < KILLS:
        run = Run(config(workers=killed // 2 % 2 * 2), tmp_path / f'{number}')
        if killed % 2 == 0:
            run.begins()
        if run.kill(draw.uniform(0, seconds * (0.5 if killed % 2 == 0 else 1))):
            killed += 1
        else:
            assert_same_end(run.succeeds().folder, whole)
            number += 1
    run = Run(config(workers=2), tmp_path / f'{number}').succeeds()
    assert_same_end(run.folder, whole)
    assert run.saved() == [f'iter_{ITERATIONS}.pth']


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def cut_and_die(handle):
    os.ftruncate(handle, os.fstat(handle).st_size // 2)
    die()


def holds_checkpoint(handle):
    file = os.fstat(handle)
    return stat.S_ISREG(file.st_mode) and file.st_size > 10000


def when_third(act):
    """Acts at the third call."""
    calls = itertools.count(1)
    return lambda *args: act(*args) if next(calls) == 3 else None


def test_killed_while_writing(config, uninterrupted, tmp_path):
    """Half written, written but unnamed, named but not pointed to, and before the old one goes."""
    whole, _ = uninterrupted('0', config())
    put = whole_files.WholeFileBackend.put

    def stop_at(stage):
        def prepare():
            if stage == 'half':
                third = when_third(cut_and_die)
                os.fsync = lambda handle: holds_checkpoint(handle) and third(handle)
            elif stage == 'unnamed':
                third, replace = when_third(die), os.replace
                os.replace = lambda a, b: (str(b).endswith('.pth') and third(), replace(a, b))
            elif stage == 'named':
                third = when_third(die)
                whole_files.WholeFileBackend.put = lambda self, data, path: (
                    put(self, data, path),
                    str(path).endswith('.pth') and third(),
                )
            else:
                whole_files.WholeFileBackend.remove = lambda self, path: die()

        return prepare

    for stage in ('half', 'unnamed', 'named', 'removing'):
        run = Run(config(), tmp_path / 'run', stop_at(stage))
        assert run.end() == -signal.SIGKILL, run.log.read_text()[-3000:]
        for name in run.saved():
            check_whole(str(run.folder / name))
        assert len(run.saved()) == 2 if stage in ('named', 'removing') else 1
        hidden = [path.name for path in run.folder.glob('.*.unfinished')]
        assert bool(hidden) == (stage in ('half', 'unnamed'))
    run = Run(config(), tmp_path / 'run').succeeds()
    assert_same_end(run.folder, whole)
    assert run.saved() == [f'iter_{ITERATIONS}.pth'] and not list(run.folder.glob('.*.unfinished'))


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('whole_group', [True, False])
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal(number, whole_group, workers, config, uninterrupted, tmp_path):
    """Of Ctrl-C, timeout, Slurm or systemd, which reach the loader's workers too, or to the main process alone.

    Two batches make a step, and none is lost.
    """
    options = {'optim_wrapper.accumulative_counts': 2, 'default_hooks.checkpoint.interval': -1}
    whole, _ = uninterrupted('accumulated', config(options))
    run = Run(config(options, workers=workers), tmp_path / 'run').wait_for(3)
    (os.killpg if whole_group else os.kill)(run.process.pid, number)
    assert run.end() == 128 + number, run.log.read_text()[-3000:]
    assert not run.left()
    path, refused = newest_checkpoint(str(run.folder))
    reached = read_checkpoint(path)['meta']['iter']
    assert not refused and 4 <= reached < ITERATIONS and reached % 2 == 0
    Run(config(options), run.folder).succeeds()
    assert_same_end(run.folder, whole)


def test_a_signal_to_the_whole_group_in_validation(config, tmp_path):
    options = {'train_cfg.val_interval': 3, 'val_dataloader.num_workers': 2, 'default_hooks.checkpoint.interval': -1}
    run = Run(config(options, val=True, touch={'wait_in_validation': 3}), tmp_path / 'run').wait_for_validation()
    os.killpg(run.process.pid, signal.SIGTERM)
    assert run.end() == 128 + signal.SIGTERM, run.log.read_text()[-3000:]
    assert run.saved() == ['iter_3.pth'] and not run.left()


def test_a_validation_that_fails_loses_nothing(config, tmp_path):
    """Checkpoints that only precede a validation replace one another; here all others are kept."""
    keep_all = {'train_cfg.val_interval': 2, 'default_hooks.checkpoint': dict(interval=5, max_keep_ckpts=-1)}
    run = Run(config(keep_all, val=True), tmp_path / 'run').succeeds()
    assert run.saved() == ['iter_10.pth', 'iter_5.pth']

    run = Run(config(keep_all, val=True, touch={'kill_in_validation': 2}), tmp_path / 'other')
    assert run.end() == -signal.SIGKILL
    assert run.saved() == ['iter_2.pth']


def test_stopped_while_waiting_for_data(config, uninterrupted, tmp_path):
    whole, _ = uninterrupted('0', config())
    done = tmp_path / 'waits'

    def slow_data():
        from mmseg_derprop.datasets import SemiDataset

        get = SemiDataset.__getitem__

        def wait(self, index):
            if getattr(index, 'draw', (0,))[0] and not done.exists():
                done.touch()
                time.sleep(60)
            return get(self, index)

        SemiDataset.__getitem__ = wait

    run = Run(config({'default_hooks.checkpoint.interval': -1}), tmp_path / 'run', slow_data)
    while not done.exists():
        time.sleep(0.01)
    os.kill(run.process.pid, signal.SIGTERM)
    assert run.end() == 128 + signal.SIGTERM
    assert len(run.saved()) == 1
    Run(config(), run.folder).succeeds()
    assert_same_end(run.folder, whole)


def test_a_damaged_newest_checkpoint_is_left_out(config, tmp_path):
    options = {'default_hooks.checkpoint.max_keep_ckpts': 3, 'train_cfg.max_iters': 4}
    run = Run(config(options), tmp_path / 'run').succeeds()
    cut, flipped = run.folder / 'iter_4.pth', run.folder / 'iter_3.pth'
    cut.write_bytes(cut.read_bytes()[:-1000])
    data = bytearray(flipped.read_bytes())
    data[len(data) // 2] ^= 1
    flipped.write_bytes(data)
    path, refused = newest_checkpoint(str(run.folder))
    assert path == str(run.folder / 'iter_2.pth')
    assert refused.keys() == {str(cut), str(flipped)} and 'cut off' in refused[str(cut)]


def test_no_room_for_a_checkpoint(config, tmp_path):
    run = Run(config({'train_cfg.max_iters': 2}), tmp_path / 'run').succeeds()
    size = (run.folder / 'iter_2.pth').stat().st_size
    before = (run.folder / 'iter_2.pth').read_bytes()

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))

    run = Run(config({'train_cfg.max_iters': 3}), run.folder, limit)
    assert run.end() == 1
    said = run.log.read_text()
    assert 'iter_3.pth could not be written' in said and 'make room, and resume with --resume' in said
    assert run.saved() == ['iter_2.pth'] and (run.folder / 'iter_2.pth').read_bytes() == before
    assert not list(run.folder.glob('.*.unfinished'))


def test_a_validation_that_was_cut_off_is_made_up_for(config, uninterrupted, tmp_path):
    options = {
        'train_cfg.val_interval': 5,
        'default_hooks.checkpoint.save_best': 'teacher/mIoU',
        'val_dataloader.num_workers': 0,
    }
    whole, _ = uninterrupted('validated', config(options, val=True))
    for iteration in (5, 10):
        run = Run(config(options, val=True, touch={'kill_in_validation': iteration}), tmp_path / 'run')
        assert run.end() == -signal.SIGKILL, run.log.read_text()[-3000:]
        assert f'iter_{iteration}.pth' in run.saved()
    run = Run(config(options, val=True), run.folder).succeeds()
    assert_same_end(run.folder, whole)
    assert run.saved() == sorted(path.name for path in whole.glob('*.pth'))
    assert len(run.saved()) == 2 and run.saved()[0].startswith('best_teacher_mIoU_iter_')
    # And nothing is validated twice.
    stamps = {path: path.stat().st_mtime_ns for path in run.folder.glob('*.pth')}
    Run(config(options, val=True), run.folder).succeeds()
    assert stamps == {path: path.stat().st_mtime_ns for path in run.folder.glob('*.pth')}


def test_other_numbers_of_images_are_told(config, tmp_path):
    run = Run(config({'train_cfg.max_iters': 4}), tmp_path / 'run').succeeds()
    other = {'train_dataloader.batch_size': 5, 'train_dataloader.sampler.num_labeled': 2}
    Run(config({**other, 'train_dataloader.sampler.num_unlabeled': 3}), run.folder).succeeds()
    said = run.log.read_text()
    assert 'is of 1 processes with 4 labelled and 4 unlabelled images a batch, of 4 and 12 images' in said
    assert 'has 1 processes with 2 labelled and 3 unlabelled images' in said
    assert 'epoch 1, after 4 of its unlabelled images' in said
    state = read_checkpoint(str(run.folder / f'iter_{ITERATIONS}.pth'))['message_hub']['runtime_info']['sampler']
    assert state['stream']['iteration'] == 4 and state['batch'] == (2, 3)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_several_processes_stop_together(number, config, tmp_path):
    """When one of them, and its workers, get the signal."""
    half = {f'train_dataloader.{key}': n for key, n in (('batch_size', 4), ('sampler.num_labeled', 2))}
    half |= {'train_dataloader.sampler.num_unlabeled': 2, 'train_cfg.max_iters': 1000}
    made = config({**half, 'default_hooks.checkpoint.interval': -1}, workers=1)
    runs = Group(made, tmp_path / 'run').runs
    runs[0].wait_for(3)
    os.killpg(runs[1].process.pid, number)
    assert [run.end() for run in runs] == [128 + number] * 2, runs[0].log.read_text()[-3000:]
    assert newest_checkpoint(str(runs[0].folder))[0]


def test_a_supervised_run_without_workers(uninterrupted, tmp_path, small_segmentor, shapes, quick_runs):
    """With MMEngine's sampler and a data set of MMSegmentation."""
    made = load_config(str(ROOT / 'configs/supervised/tiny_shapes.py'), {'data_root': str(shapes)})
    made.model = small_segmentor
    made.model.data_preprocessor.size = (96, 96)
    made.merge_from_dict(
        {
            'train_cfg.max_iters': 6,
            'train_dataloader.num_workers': 0,
            'train_dataloader.persistent_workers': False,
            'default_hooks.checkpoint': dict(interval=2, max_keep_ckpts=2),
            'custom_hooks': [dict(type='Touch')],
            'log_level': 'WARNING',
        }
    )
    made.val_dataloader = made.val_cfg = made.val_evaluator = None
    made.test_dataloader = made.test_cfg = made.test_evaluator = None
    whole, _ = uninterrupted('supervised', made)
    run = Run(made, tmp_path / 'run').wait_for(3)
    os.kill(run.process.pid, signal.SIGKILL)
    run.end()
    Run(made, run.folder).succeeds()
    assert_same_end(run.folder, whole, 6)


@pytest.fixture(scope='module')
def broken_shapes(shapes, tmp_path_factory):
    """The embedded data set with two broken images of 12 without labels."""
    root = tmp_path_factory.mktemp('broken') / 'shapes'
    shutil.copytree(shapes, root)
    for name in (root / 'ImageSets/Segmentation/unlabeled.txt').read_text().split()[2:4]:
        path = root / f'JPEGImages/{name}.jpg'
        path.write_bytes(path.read_bytes()[:700])
    return root


def test_what_takes_the_place_of_broken_files(config, broken_shapes, uninterrupted, tmp_path):
    """The same images, and the same counts, as in a run without workers that was not killed."""
    options = {'train_dataloader.dataset.unlabeled.data_root': str(broken_shapes)}
    whole, _ = uninterrupted('broken', config(options))
    run = Run(config(options, workers=2), tmp_path / 'run').wait_for(6)
    assert run.kill(0)
    Run(config(options, workers=2), run.folder).succeeds()
    assert_same_end(run.folder, whole)
    found, wanted = (read_checkpoint(str(f / f'iter_{ITERATIONS}.pth'))['message_hub'] for f in (run.folder, whole))
    for key in ('broken_files', 'replaced_images'):
        assert found['runtime_info'][key] == wanted['runtime_info'][key]
    assert len(wanted['runtime_info']['broken_files']) == 2 and wanted['runtime_info']['replaced_images'] >= 6
    sound, _ = uninterrupted('0', config())
    states = [read_checkpoint(str(f / f'iter_{ITERATIONS}.pth'))['state_dict'] for f in (whole, sound)]
    assert any(not torch.equal(states[0][name], states[1][name]) for name in states[0])
