"""Checkpoints and configs of others do not run anything, whichever tool reads them."""

import copy
import os
import pathlib
import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.optim import OneCycleLR
from mmengine.runner import CheckpointLoader, load_checkpoint
from tiny_checkpoints import ROOT, call, save_checkpoint

from mmseg_derprop.utils.checkpoints import read_checkpoint
from mmseg_derprop.utils.safe_loading import CheckpointNotRead, checkpoints_as_data

pytestmark = pytest.mark.usefixtures('quick_runs')


class Harmful:
    """Makes a file where it is unpickled."""

    def __reduce__(self):
        return os.system, ('touch harmed',)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The current folder, in which a harmful checkpoint leaves its mark."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', raising=False)
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
    checkpoint |= dict(optimizer={}, message_hub=Harmful(), param_schedulers=[])
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
    'pseudo_label': ['pseudo_label.py', 'IMAGES', 'run.py', 'bad.pth', '--out-dir', 'out', '--workers', '0'],
    'export_segmentor': ['model_converters/export_segmentor.py', 'bad.pth'],
    'published2mmseg': ['model_converters/published2mmseg.py', 'bad.pth', 'out.pth'],
    'efficientnet_lite2timm': ['model_converters/efficientnet_lite2timm.py', 'bad.pth', 'out.pth'],
    'soak': [
        *('analysis_tools/soak.py', 'run.py', '--iterations', '8', '--samples', '8', '--work-dir', 'work'),
        *('--cfg-options', 'load_from=bad.pth'),
    ],
}


@pytest.mark.parametrize('words', TOOLS.values(), ids=TOOLS)
def test_no_tool_runs_what_a_checkpoint_holds(words, bad, shapes, place):
    image = str(shapes / 'JPEGImages/val_00000.jpg')
    with pytest.raises(SystemExit) as error:
        call(*(image if word == 'IMAGES' else word for word in words))
    text = str(error.value)
    assert 'bad.pth: it holds more than data (' in text and 'system' in text and '--trust-checkpoint' in text
    assert not (place / 'harmed').exists()


def test_export_onnx(bad, config, place):
    pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    Config(dict(model=dict(config.model.segmentor, num_classes=None))).dump('plain.py')
    with pytest.raises(SystemExit, match='bad.pth: it holds more than data'):
        call('model_converters/export_onnx.py', 'plain.py', 'bad.pth', 'out.onnx', '--size', 32, 32)
    assert not (place / 'harmed').exists()


@pytest.mark.parametrize('prefix', [None, 'student.backbone.'])
def test_weights_of_a_backbone(prefix, bad, config, place):
    backbone = config.model.segmentor.backbone
    backbone.init_cfg = dict(type='Pretrained', checkpoint='bad.pth', **({'prefix': prefix} if prefix else {}))
    config.dump('run.py')
    with pytest.raises(SystemExit, match=r'bad.pth: it holds more than data \(.*system'):
        call('train.py', 'run.py', '--work-dir', 'work')
    assert not (place / 'harmed').exists()


def test_the_newest_checkpoint_is_passed_over(bad, place, capsys):
    (place / 'work').mkdir()
    os.rename('bad.pth', 'work/iter_1.pth')
    call('train.py', 'run.py', '--work-dir', 'work', '--resume')
    assert 'iter_1.pth is left out: it holds more than data' in capsys.readouterr().err
    assert list((place / 'work').glob('*/*.log')) and not (place / 'harmed').exists()


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


@pytest.mark.parametrize('words', [TOOLS['load_from'], TOOLS['image_demo']], ids=['train', 'image_demo'])
def test_remote_checkpoints(words, bad, server, shapes, place):
    image, url = str(shapes / 'JPEGImages/val_00000.jpg'), f'{server}/bad.pth'
    with pytest.raises(SystemExit, match=rf'^{url}: it holds more than data \(.*system'):
        call(*(image if word == 'IMAGES' else word.replace('bad.pth', url) for word in words))
    call(*(image if word == 'IMAGES' else word.replace('bad.pth', f'{server}/good.pth') for word in words))
    assert not (place / 'harmed').exists()


def test_a_trusted_one_is_read(bad, place):
    call('test.py', 'run.py', 'bad.pth', '--work-dir', 'work', '--trust-checkpoint')
    assert (place / 'harmed').exists()


def test_nothing_stays_as_it_was_not(bad, place, monkeypatch):
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    before = torch.serialization.get_safe_globals(), dict(os.environ)
    with pytest.raises(CheckpointNotRead), checkpoints_as_data():
        load_checkpoint(torch.nn.Linear(1, 1), 'bad.pth')
    if torch.__version__ >= '2.5':  # keeps what it was told
        assert set(torch.serialization.get_safe_globals()) == set(before[0])
    assert dict(os.environ) == before[1]
    with pytest.raises(CheckpointNotRead):
        read_checkpoint('bad.pth')
    assert not (place / 'harmed').exists()


def test_any_other_reader_is_bound_too(bad, place):
    refusal = pytest.raises(CheckpointNotRead, match=r'that the config names: it holds more than data \(.*system')
    with refusal, checkpoints_as_data():
        torch.load('bad.pth', weights_only=False)
    assert not (place / 'harmed').exists()


def test_a_torchscript_program_is_none(place):
    torch.jit.script(torch.nn.ReLU()).save('x.pth')
    with pytest.raises(CheckpointNotRead, match='a TorchScript program'):
        read_checkpoint('x.pth')


def test_what_ordinary_checkpoints_hold_is_read(place):
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(1))])
    numbers = [np.float64(1), np.float32(2), np.int64(3), np.uint8(4), np.bool_(True), np.str_('a'), np.arange(2)]
    schedule = OneCycleLR(optimizer, eta_max=0.1, total_steps=5).state_dict()
    saved = dict(numbers=numbers, schedule=schedule, meta=ConfigDict(a=dict(b=1)), part=slice(1, 2))
    torch.save(saved, 'x.pth')
    found = read_checkpoint('x.pth')
    assert found['numbers'][:6] == numbers[:6] and found['schedule'] == schedule and found['meta'].a.b == 1
    with checkpoints_as_data():
        assert CheckpointLoader.load_checkpoint('x.pth')['part'] == slice(1, 2)


def test_what_numpy_wrote_under_its_other_name_is_read(place):
    """NumPy 2 renamed the module in which its arrays are made; both names are in checkpoints."""
    torch.save(dict(a=np.arange(3.0), b=np.float64(0.5)), 'x.pth', _use_new_zipfile_serialization=False)
    data = pathlib.Path('x.pth').read_bytes()
    new, old = b'cnumpy._core.multiarray\n', b'cnumpy.core.multiarray\n'
    assert (new in data) != (old in data)
    pathlib.Path('y.pth').write_bytes(data.replace(new, old) if new in data else data.replace(old, new))
    found = read_checkpoint('y.pth')
    assert found['b'] == 0.5 and found['a'].tolist() == [0, 1, 2]


# Configs in checkpoints ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda model: model.update(type='os.system', command='touch harmed'), 'os.system'),
        (lambda model: model.segmentor.backbone.update(type='mmengine.load'), 'mmengine.load'),
        (lambda model: model.segmentor.decode_head.update(type='antigravity'), 'antigravity'),
        (
            lambda model: model.segmentor.update(train_cfg=dict(type='subprocess.run', args='touch harmed')),
            'subprocess',
        ),
    ],
)
def test_the_config_in_a_checkpoint_names_registered_parts_only(change, message, config, place):
    save_checkpoint(config, 'x.pth')
    checkpoint = torch.load('x.pth', weights_only=True)
    changed = copy.deepcopy(config)
    change(changed.model)
    checkpoint['meta']['cfg'] = changed.pretty_text
    torch.save(checkpoint, 'x.pth')
    with pytest.raises(SystemExit, match=f'x.pth: its config names .*{message}.*--config'):
        call('model_converters/export_segmentor.py', 'x.pth')
    assert not (place / 'harmed').exists() and not list(place.glob('x_teacher*'))


def test_keys_in_a_checkpoint_do_not_become_a_program(config, place):
    save_checkpoint(config, 'x.pth')
    checkpoint = torch.load('x.pth', weights_only=True)
    key = """a': __import__('os').system('touch harmed'), 'b"""
    checkpoint['meta']['cfg'] = f'{config.pretty_text}\ntest_pipeline = [dict(meta={{{key!r}: 1}})]\n'
    torch.save(checkpoint, 'x.pth')
    with pytest.raises(SystemExit, match='x.pth: the config holds .*__import__'):
        call('model_converters/export_segmentor.py', 'x.pth', '--cfg-options', 'test_dataloader=None')
    assert not (place / 'harmed').exists()


@pytest.mark.parametrize('remote', [False, True])
def test_going_on_runs_no_text_that_a_checkpoint_names_its_config(remote, config, place, server):
    config.default_hooks.checkpoint = dict(type='ExactCheckpointHook', interval=1)
    config.dump('run.py')
    call('train.py', 'run.py', '--work-dir', 'work')
    checkpoint = read_checkpoint('work/iter_2.pth')
    checkpoint['meta'] |= dict(config="import os\nos.system('touch harmed')\n", iter=1)
    torch.save(checkpoint, 'x.pth')
    call('train.py', 'run.py', '--work-dir', 'on', '--resume', f'{server}/x.pth' if remote else 'x.pth')
    assert (place / 'on/iter_2.pth').exists() and not (place / 'harmed').exists()


def test_the_name_of_a_checkpoint_does_not_become_a_program(config, place):
    name = "x\nopen('harmed', 'w')#.pth"
    save_checkpoint(config, name)
    call('model_converters/export_segmentor.py', name, '--config', 'run.py', '--out', 'plain')
    Config.fromfile('plain.py')
    assert not (place / 'harmed').exists() and (place / 'plain.pth').exists()


def test_a_shipped_run_exports_by_the_config_that_it_carries(place):
    from mmseg_derprop.utils.config import load_config

    config = load_config(str(ROOT / 'configs/derprop/tiny_shapes.py'))
    save_checkpoint(config, 'x.pth')
    checkpoint = torch.load('x.pth', weights_only=True)
    checkpoint['meta']['cfg'] = config.pretty_text
    torch.save(checkpoint, 'x.pth')
    call('model_converters/export_segmentor.py', 'x.pth')
    assert re.search('ShapesDataset', (place / 'x_teacher.py').read_text())
