"""How training begins, resumes and ends, by its tool: nothing is lost, and what a user can mend is one message."""

import errno
import os
import resource
import shutil
from pathlib import Path

import pytest
from commands import call, in_use, load
from mmengine.config import Config

from mmseg_derprop.utils import files

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
pytestmark = pytest.mark.usefixtures('quick_runs')


@pytest.fixture
def train(semi_config, tmp_path, monkeypatch):
    """Trains two iterations in work/, by other options."""
    monkeypatch.chdir(tmp_path)
    made = semi_config({'train_cfg.max_iters': 2, 'train_cfg.val_interval': 2})
    made.default_hooks.checkpoint = dict(type='ExactCheckpointHook', interval=1, save_best='teacher/mIoU')
    made.dump('run.py')

    def start(*words, options=()):
        options = ('--cfg-options', *options) if options else ()
        call('train.py', 'run.py', '--work-dir', 'work', *words, *options)

    return start


def damage(path):
    path.write_bytes(path.read_bytes()[:-100])
    return path.read_bytes()


def test_no_refused_checkpoint_is_written_over(train):
    """The one before it takes its place; where there is none, training does not begin."""
    train()
    first, second = Path('work/iter_1.pth'), Path('work/iter_2.pth')
    left = damage(second)
    train('--resume')
    assert Path('work/iter_2.pth.refused').read_bytes() == left and second.stat().st_size > len(left)
    left = [damage(path) for path in (first, second)]
    with pytest.raises(SystemExit, match='(?s)No checkpoint in work can.*iter_.*cut off.*Move them to begin anew'):
        train('--resume')
    assert [first.read_bytes(), second.read_bytes()] == left


def test_a_checkpoint_without_optimiser_is_no_run(train):
    train()
    (best,) = Path('work').glob('best_*.pth')
    match = r'it holds weights, but not all that a run resumes from \(optimizer\).*load_from='
    with pytest.raises(SystemExit, match=match):
        train('--resume', best)
    with pytest.raises(SystemExit, match=match):  # however it is asked for
        train(options=('resume=True', f'load_from={best}'))


def test_checkpoints_on_another_disk_are_resumed_from(train, capsys):
    options = ('default_hooks.checkpoint.out_dir=disk',)
    train(options=options)
    train('--resume', options=(*options, 'train_cfg.max_iters=3'))
    assert 'Resuming from disk/work/iter_2.pth' in capsys.readouterr().err and Path('disk/work/iter_3.pth').exists()


def test_one_run_a_work_dir(train, monkeypatch):
    """The other process is named; when it is dead, however it ended, the folder is free."""
    monkeypatch.setattr(files, 'PATIENCE', 0.2)
    with in_use('work') as other, pytest.raises(SystemExit, match=f'by process {other.pid} on .*another folder'):
        train()
    assert not list(Path('work').glob('*.pth'))
    train()
    assert Path('work/iter_2.pth').exists()


def test_a_full_disk_at_the_start(train, monkeypatch):
    def dump(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr('mmengine.config.Config.dump', dump)
    with pytest.raises(SystemExit, match='could not be written: No space left on device. Make room'):
        train()


def test_a_disk_that_is_full_while_logs_are_written(train, capsys):
    """The run ends where it must write; the log, which loses lines before that, prints no traceback for each."""
    limit = len(Config.fromfile('run.py').pretty_text) + 1000  # room for the config, which the log has too
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(SystemExit, match='could not be written: File too large'):
            train(options=('log_level=INFO',))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (log,) = Path('work').rglob('*.log')
    assert log.stat().st_size == limit and 'Traceback' not in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write anywhere')
def test_a_work_dir_that_is_read_only(train):
    Path('work').mkdir(mode=0o500)
    with pytest.raises(SystemExit, match='work.* could not be written: Permission denied'):
        train()


def test_a_loss_that_is_no_number(train):
    with pytest.raises(SystemExit, match='Iteration 1 has losses that are not finite'):
        train(options=('model.losses.seg.loss_weight=1e39',))


def test_the_published_partner_of_unimatch(shapes, tmp_path):
    """A second crop of the same image fills the boxes of both strong views; the error names its pipeline."""
    path = tmp_path / 'run.py'
    text = f"_base_ = '{CONFIGS}/unimatch/tiny_shapes.py'\n"
    text += "model = dict(cutmix=dict(partner='second_view'))\n"
    words = ['--work-dir', tmp_path, '--cfg-options', f'data_root={shapes}', 'train_cfg.max_iters=1']
    words += ['default_hooks.checkpoint.interval=1', 'train_cfg.val_interval=9', 'train_dataloader.num_workers=0']
    words += ['train_dataloader.persistent_workers=False']
    path.write_text(text)
    with pytest.raises(SystemExit, match='two_view_two_strong_pipeline for both'):
        call('train.py', path, *words)
    pipeline = 'train_dataloader = dict(dataset=dict(unlabeled=dict(pipeline=_base_.two_view_two_strong_pipeline)))'
    path.write_text(f'{text}{pipeline}\n')
    call('train.py', path, *words)
    assert (tmp_path / 'iter_1.pth').exists()


def test_missing_lists_and_images(train, shapes, tmp_path):
    with pytest.raises(SystemExit, match='nowhere.txt'):
        train(options=('train_dataloader.dataset.labeled.ann_file=nowhere.txt',))
    root = tmp_path / 'shapes'
    shutil.copytree(shapes, root)
    name = (root / 'ImageSets/Segmentation/val.txt').read_text().split()[0]
    (root / f'JPEGImages/{name}.jpg').unlink()
    with pytest.raises(SystemExit, match=f'1 of 6 validation images .* do not exist.*{name}.jpg'):
        train(options=(f'val_dataloader.dataset.data_root={root}',))
    assert not list(Path('work').glob('*.pth'))


def test_mlflow_logs_beside_the_work_dir_or_to_its_server(monkeypatch):
    log_backend = load('train.py').log_backend
    monkeypatch.delenv('MLFLOW_TRACKING_URI', raising=False)
    local = log_backend('mlflow', '/a/work_dirs/run')
    assert local['tracking_uri'] == 'sqlite:////a/work_dirs/mlflow.db' and local['exp_name'] == 'run'
    assert local['artifact_location'] == 'file:///a/work_dirs/mlruns'  # not inside, whose files are copied there
    monkeypatch.setenv('MLFLOW_TRACKING_URI', 'http://server')
    assert log_backend('mlflow', 'x') == dict(type='MLflowVisBackend', tracking_uri='http://server')
