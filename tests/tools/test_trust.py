"""Checkpoints and configs of others do not run anything, whichever tool reads them."""

import os
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from commands import call
from tiny_checkpoints import Harmful, save_checkpoint

from mmseg_derprop.utils.checkpoints import read_checkpoint
from mmseg_derprop.utils.safe_loading import CheckpointNotRead, checkpoints_as_data

pytestmark = pytest.mark.usefixtures('quick_runs')


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The current folder, in which a harmful checkpoint leaves its mark."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def config(semi_config, place):
    """A config of a run of two iterations, in run.py."""
    made = semi_config({'train_cfg.max_iters': 2})
    made.dump('run.py')
    return made


@pytest.fixture
def bad(config):
    """A checkpoint that would serve, but for one harmful entry."""
    save_checkpoint(config, 'good.pth')
    checkpoint = torch.load('good.pth', weights_only=True)
    checkpoint |= dict(optimizer={}, message_hub=Harmful(os.system, 'touch harmed'), param_schedulers=[])
    checkpoint['meta'] |= dict(iter=1, epoch=0, cfg=config.pretty_text, time='')
    torch.save(checkpoint, 'bad.pth')
    return 'bad.pth'


def train_with(**options):
    return ['train.py', 'run.py', '--work-dir', 'work', '--cfg-options', *(f'{k}={v}' for k, v in options.items())]


TOOLS = {
    'test': ['test.py', 'run.py', 'bad.pth', '--work-dir', 'work'],
    'load_from': train_with(load_from='bad.pth'),
    'resume': ['train.py', 'run.py', '--work-dir', 'work', '--resume', 'bad.pth'],
    'config that resumes': train_with(load_from='bad.pth', resume=True),
    'image_demo': ['image_demo.py', 'IMAGES', 'run.py', 'bad.pth', '--workers', '0'],
    'export_segmentor': ['model_converters/export_segmentor.py', 'bad.pth'],
    'published2mmseg': ['model_converters/published2mmseg.py', 'bad.pth', 'out.pth'],
    'efficientnet_lite2timm': ['model_converters/efficientnet_lite2timm.py', 'bad.pth', 'out.pth'],
}


@pytest.mark.parametrize('words', TOOLS.values(), ids=TOOLS)
def test_no_tool_runs_what_a_checkpoint_holds(words, bad, shapes, place):
    image = str(shapes / 'JPEGImages/val_00000.jpg')
    with pytest.raises(SystemExit) as error:
        call(*(image if word == 'IMAGES' else word for word in words))
    text = str(error.value)
    assert 'bad.pth: it holds more than data (' in text and 'system' in text and 'weights_only=False' in text
    assert not (place / 'harmed').exists()


def test_weights_of_a_backbone(bad, config, place):
    config.model.segmentor.backbone.init_cfg = dict(type='Pretrained', checkpoint='bad.pth', prefix='student.backbone.')
    config.dump('run.py')
    with pytest.raises(SystemExit, match=r'bad.pth: it holds more than data \(.*system'):
        call('train.py', 'run.py', '--work-dir', 'work')
    assert not (place / 'harmed').exists()


@pytest.fixture
def server(place, monkeypatch):
    """Address of a server of the current folder."""
    monkeypatch.setenv('TORCH_HOME', str(place / 'hub'))
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    handler = partial(SimpleHTTPRequestHandler, directory=str(place))
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f'http://127.0.0.1:{running.server_port}'
        running.shutdown()
        thread.join()


def test_remote_checkpoints(bad, server, place):
    words = TOOLS['load_from']
    with pytest.raises(SystemExit, match=r'hub/checkpoints/bad.pth: it holds more than data \(.*system'):
        call(*(word.replace('bad.pth', f'{server}/bad.pth') for word in words))
    call(*(word.replace('bad.pth', f'{server}/good.pth') for word in words))
    assert not (place / 'harmed').exists()


def test_any_other_reader_is_bound_too(bad, place):
    load = torch.load
    with pytest.raises(CheckpointNotRead, match=r'bad.pth: it holds more than data \(.*system'), checkpoints_as_data():
        torch.load('bad.pth', weights_only=False)
    assert torch.load is load and not (place / 'harmed').exists()


def test_a_run_of_the_engines_own_hook_is_resumed(config, place):
    """It holds histories and numbers of NumPy."""
    config.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=1, save_best='teacher/mIoU')
    config.train_cfg.val_interval = 1
    config.dump('run.py')
    call('train.py', 'run.py', '--work-dir', 'work', '--cfg-options', 'train_cfg.max_iters=1')
    found = read_checkpoint('work/iter_1.pth')['message_hub']
    assert found['log_scalars']['train/loss'] == {} and found['runtime_info']['best_score'] >= 0
    call('train.py', 'run.py', '--work-dir', 'work', '--resume')
    assert (place / 'work/iter_2.pth').exists()


# Configs in checkpoints ----------------------------------------------------------------------------------------------


def test_export_reads_no_config_in_a_checkpoint(config, place):
    """It reads the file of the run, which lies beside it."""
    save_checkpoint(config, 'x.pth')
    checkpoint = torch.load('x.pth', weights_only=True)
    checkpoint['meta']['cfg'] = "import os\nos.system('touch harmed')\n"
    torch.save(checkpoint, 'x.pth')
    call('model_converters/export_segmentor.py', 'x.pth')
    assert (place / 'x_teacher.pth').exists() and not (place / 'harmed').exists()


def test_resuming_runs_no_text_that_a_checkpoint_names_its_config(config, place):
    config.default_hooks.checkpoint = dict(type='ExactCheckpointHook', interval=1)
    config.dump('run.py')
    call('train.py', 'run.py', '--work-dir', 'work')
    checkpoint = read_checkpoint('work/iter_2.pth')
    checkpoint['meta'] |= dict(config="import os\nos.system('touch harmed')\n", iter=1)
    torch.save(checkpoint, 'x.pth')
    call('train.py', 'run.py', '--work-dir', 'on', '--resume', 'x.pth')
    assert (place / 'on/iter_2.pth').exists() and not (place / 'harmed').exists()
