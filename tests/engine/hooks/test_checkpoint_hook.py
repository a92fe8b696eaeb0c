"""Checkpoints are whole, there is one at every moment, and the disk may be full."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.fileio import get_file_backend
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer

from mmseg_derprop.engine import CheckpointNotWritten
from mmseg_derprop.engine.hooks import checkpoint_hook
from mmseg_derprop.engine.whole_files import WholeFileBackend
from mmseg_derprop.utils.checkpoints import check_whole, newest_checkpoint

SAVING = dict(type='ExactCheckpointHook', interval=1, max_keep_ckpts=-1)


def names(folder, pattern='*.pth'):
    return sorted(path.name for path in Path(folder).glob(pattern))


@pytest.fixture
def run(make_runner, tmp_path):
    """Trains and returns what lies in the work dir."""

    def train(saving, iterations=4, val=False, hook=None, **options):
        options |= {'default_hooks.checkpoint': {**SAVING, **saving}, 'train_cfg.max_iters': iterations}
        runner = make_runner({'train_cfg.val_interval': 1, **options}, val=val)
        if hook:
            runner.register_hook(hook)
        runner.train()
        return names(tmp_path / 'work')

    return train


@pytest.mark.parametrize(
    ('saving', 'kept'),
    [(dict(max_keep_ckpts=2), [3, 4]), (dict(interval=3), [3, 4]), (dict(interval=3, save_last=False), [3])],
)
def test_keeps_as_configured(run, saving, kept):
    assert run(saving) == [f'iter_{i}.pth' for i in kept]


def test_a_resumed_run_removes_what_the_old_one_kept(run, tmp_path):
    assert run(dict(max_keep_ckpts=2), 2) == ['iter_1.pth', 'iter_2.pth']
    (tmp_path / 'work/.iter_3.pth.unfinished').write_bytes(b'half')
    path, _ = newest_checkpoint(str(tmp_path / 'work'))
    assert run(dict(max_keep_ckpts=1), 3, resume=True, load_from=path) == ['iter_3.pth']
    assert not names(tmp_path / 'work', '.*.unfinished') and (tmp_path / 'work/last_checkpoint').read_text().endswith(
        'iter_3.pth'
    )


class Better(Hook):
    """Lets every validation be the best."""

    priority = 'HIGHEST'

    def after_val_epoch(self, runner, metrics):
        metrics.update({'teacher/mIoU': float(runner.iter), 'student/mIoU': 10 - abs(runner.iter - 2.0)})


@pytest.mark.parametrize('metrics', ['teacher/mIoU', ['teacher/mIoU', 'student/mIoU']])
def test_there_is_a_whole_checkpoint_at_every_moment(run, tmp_path, monkeypatch, metrics):
    """The same for each best one."""
    removed = []
    remove, put = WholeFileBackend.remove, WholeFileBackend.put

    def watched_remove(self, path):
        kind = Path(path).name.rsplit('_', 1)[0]
        others = [name for name in names(tmp_path / 'work', f'{kind}_*.pth') if name != Path(path).name]
        for name in others:
            check_whole(str(tmp_path / 'work' / name))
        assert others
        removed.append(Path(path).name)
        remove(self, path)

    def watched_put(self, data, path):
        before = names(tmp_path / 'work')
        put(self, data, path)
        assert set(before) <= set(names(tmp_path / 'work'))

    monkeypatch.setattr(WholeFileBackend, 'remove', watched_remove)
    monkeypatch.setattr(WholeFileBackend, 'put', watched_put)
    left = run(dict(max_keep_ckpts=1, save_best=metrics), val=True, hook=Better())
    best = ['best_teacher_mIoU_iter_4.pth'] + ['best_student_mIoU_iter_2.pth'] * (len(metrics) == 2)
    assert left == sorted([*best, 'iter_4.pth'])
    assert {'iter_3.pth', 'best_teacher_mIoU_iter_3.pth'} <= set(removed)


class Objects(Hook):
    """Adds what is no plain data."""

    def before_train(self, runner):
        runner.message_hub.update_info('score', np.float64(0.1))

    def before_save_checkpoint(self, runner, checkpoint):
        checkpoint['history'] = dict(kept=np.arange(2), loss=HistoryBuffer([1.0], [1]))


def test_regular_and_best_checkpoints_are_plain_data(run, tmp_path, monkeypatch):
    before = torch.serialization.get_safe_globals()
    left = run(dict(max_keep_ckpts=1, save_best='auto'), val=True, hook=Objects())
    torch.serialization.clear_safe_globals()
    try:
        found = [torch.load(tmp_path / 'work' / name, weights_only=True) for name in left]
    finally:
        torch.serialization.add_safe_globals(list(before))
    assert [name[:5] for name in left] == ['best_', 'iter_']
    assert ['optimizer' in checkpoint for checkpoint in found] == [False, True]
    for checkpoint in found:
        info = checkpoint['message_hub']['runtime_info']
        assert type(info['score']) is type(info['best_score']) is float and info['score'] == 0.1
        assert checkpoint['history'].keys() == {'kept'} and checkpoint['meta']['dataset_meta']['classes']


def test_the_log_keeps_its_newest_values(make_runner, monkeypatch):
    monkeypatch.setattr(checkpoint_hook, 'LOGGED', 3)
    runner = make_runner(
        {'default_hooks.checkpoint': SAVING, 'train_cfg.max_iters': 6, 'default_hooks.logger.interval': 1}
    )
    lines = []
    runner.visualizer.add_scalars = lambda tags, step, **kwargs: lines.append(tags)
    runner.train()
    kept = {name: len(history.data[0]) for name, history in runner.message_hub.log_scalars.items()}
    assert kept['train/loss'] == 3 and max(kept.values()) == 3
    assert len(lines) == 6 and len({line['loss'] for line in lines}) == 6


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    backend = get_file_backend(str(tmp_path), backend_args=dict(backend='whole_files'))
    path = tmp_path / 'iter_1.pth'
    backend.put(b'old', path)

    def full(handle):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(CheckpointNotWritten, match='iter_1.pth could not be written: No space left.*MiB') as caught:
        backend.put(b'new' * 2**20, path)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b'old' and os.listdir(tmp_path) == ['iter_1.pth']


def test_a_resumed_run_removes_its_own_files_only(run, tmp_path):
    """Whatever names the checkpoint has from which it goes on."""
    run({}, 1)
    (tmp_path / 'mine_iter_1.pth').touch()
    path = tmp_path / 'work/iter_1.pth'
    checkpoint = torch.load(path, weights_only=True)
    checkpoint['message_hub']['runtime_info'].update(keep_ckpt_ids=['/../../mine_iter_1', 1], best_score=0.0)
    checkpoint['message_hub']['runtime_info']['best_ckpt'] = str(tmp_path / 'mine_iter_1.pth')
    torch.save(checkpoint, path)
    saving = dict(max_keep_ckpts=1, save_best='teacher/mIoU')
    left = run(saving, 2, val=True, hook=Better(), resume=True, load_from=str(path))
    assert left == ['best_teacher_mIoU_iter_2.pth', 'iter_2.pth'] and (tmp_path / 'mine_iter_1.pth').exists()
