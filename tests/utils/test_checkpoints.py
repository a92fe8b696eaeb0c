"""Checkpoints are plain data, read as such, and written whole."""

import os
import pickle
from argparse import Namespace
from collections import OrderedDict, deque
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.optim import OneCycleLR
from tiny_checkpoints import Harmful

from mmseg_derprop.utils.checkpoints import (
    check_run,
    check_whole,
    make_plain,
    newest_checkpoint,
    read_checkpoint,
    state_dict_of,
    write_checkpoint,
)


class Own:
    """Of a user."""


def test_all_that_the_engine_may_save_becomes_plain(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr('mmseg_derprop.utils.checkpoints.print_log', lambda text, *args: said.append(text))
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(1))])
    schedule = OneCycleLR(optimizer, eta_max=0.1, total_steps=5)
    info = dict(best=np.float64(0.1), n=np.int64(3), ids=deque([1, 2]), raw=b'bytes', counts=np.arange(3))
    info['yes'], history = np.bool_(1), HistoryBuffer([1.0], [1])
    hub = dict(log_scalars=dict(loss=history), runtime_info=info, resumed_keys=dict(loss=True, best=True))
    meta = ConfigDict(classes=('a', np.str_('b')), names=np.array(['c']), part=OrderedDict(x=None))
    checkpoint = dict(meta=meta, message_hub=hub, param_schedulers=[schedule.state_dict()])
    make_plain(checkpoint)
    torch.save(checkpoint, tmp_path / 'x.pth')
    found = torch.load(tmp_path / 'x.pth', weights_only=True)
    assert found['meta'] == dict(classes=('a', 'b'), names=['c'], part=dict(x=None))
    counts = found['message_hub']['runtime_info'].pop('counts')
    assert torch.equal(counts, torch.arange(3))
    info = dict(best=0.1, n=3, ids=[1, 2], yes=True)
    assert found['message_hub'] == dict(log_scalars={}, runtime_info=info, resumed_keys=dict(best=True))
    assert said == ['raw is a bytes, no data: checkpoints do not keep it.']
    before = dict(vars(schedule))
    schedule.load_state_dict(found['param_schedulers'][0])
    assert vars(schedule).items() >= {k: v for k, v in before.items() if k != 'optimizer'}.items()


def test_what_others_save_with_the_engine_is_read(tmp_path):
    """NumPy 2 renamed the module in which its arrays are made; both names are in checkpoints."""
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    saved = dict(
        state_dict=dict(weight=torch.ones(2)),
        message_hub=dict(loss=history, score=np.float64(0.5), counts=np.arange(3), flags=np.zeros(2, bool)),
        meta=dict(iter=3, cfg='model = dict()', dataset_meta=ConfigDict(classes=('a', 'b'), palette=[[0, 0, 0]] * 2)),
    )
    torch.save(saved, tmp_path / 'x.pth', _use_new_zipfile_serialization=False)
    data = (tmp_path / 'x.pth').read_bytes()
    new, old = b'cnumpy._core.multiarray\n', b'cnumpy.core.multiarray\n'
    (tmp_path / 'y.pth').write_bytes(data.replace(new, old) if new in data else data.replace(old, new))
    before = torch.serialization.get_safe_globals()
    for name in 'xy':
        found = read_checkpoint(str(tmp_path / f'{name}.pth'))
        assert found['meta'] == saved['meta'] and torch.equal(state_dict_of(found)['weight'], torch.ones(2))
        assert found['message_hub']['score'] == 0.5 and found['message_hub']['counts'].tolist() == [0, 1, 2]
        assert found['message_hub']['loss'] == {}
    assert set(torch.serialization.get_safe_globals()) == set(before)


@pytest.mark.parametrize(
    ('harmful', 'name'),
    [
        (Harmful(os.system, 'touch harmed'), 'system'),
        (Harmful(eval, '1 + 1'), 'eval'),
        (Path('x'), 'pathlib'),
        (torch.nn.ReLU(), 'ReLU'),
    ],
)
def test_anything_else_is_refused(tmp_path, monkeypatch, harmful, name):
    monkeypatch.chdir(tmp_path)
    torch.save(dict(state_dict={}, meta=harmful), 'x.pth')
    with pytest.raises(ValueError, match=rf"more than data \(.*{name}.*\n.*torch.load\('x.pth', weights_only=False"):
        read_checkpoint('x.pth')
    assert not Path('harmed').exists()


def test_a_users_own_class_may_be_allowed(tmp_path):
    torch.save(dict(state=Namespace(a=1), own=Own()), tmp_path / 'x.pth')
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([Own])
    try:
        assert isinstance(read_checkpoint(str(tmp_path / 'x.pth'))['own'], Own)
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def test_the_remedy_helps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(dict(state_dict=dict(weight=torch.ones(2)), model=torch.nn.ReLU()), 'x.pth')
    with pytest.raises(ValueError, match='save its weights alone') as caught:
        read_checkpoint('x.pth')
    exec('\n'.join(line.strip() for line in str(caught.value).splitlines()[1:]), dict(torch=torch))
    assert torch.equal(state_dict_of(read_checkpoint('weights.pth'))['weight'], torch.ones(2))


def test_getattr_is_never_called(tmp_path):
    torch.save(dict(a=Harmful(getattr, np.ndarray, 'tofile')), tmp_path / 'x.pth')
    assert read_checkpoint(str(tmp_path / 'x.pth')) == dict(a={})


def test_a_torchscript_program_is_none(tmp_path):
    torch.jit.script(torch.nn.ReLU()).save(tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='a TorchScript program'):
        read_checkpoint(str(tmp_path / 'x.pth'))


def test_damaged_files(tmp_path):
    path = tmp_path / 'x.pth'
    torch.save(dict(state_dict=dict(weight=torch.ones(100))), path)
    data = path.read_bytes()
    # The directory of the third leads nowhere.
    for damaged in (b'', data[:300], data[:-30], data[1:], b'<html>not found</html>', pickle.dumps([1])):
        path.write_bytes(damaged)
        for read in (read_checkpoint, check_whole, check_run):
            with pytest.raises(ValueError, match='cut off, or no PyTorch checkpoint'):
                read(str(path))


def test_no_checkpoint(tmp_path):
    torch.save([1], tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='holds a list, but a checkpoint is a dict'):
        read_checkpoint(str(tmp_path / 'x.pth'))
    for state in ({1: torch.ones(1)}, dict(weight=[1.0])):
        with pytest.raises(ValueError, match='no state dict'):
            state_dict_of(dict(state_dict=state))


@pytest.mark.parametrize('parts', [{}, dict(meta=dict(iter='9')), dict(meta=3, message_hub={})])
def test_weights_are_no_run(tmp_path, parts):
    torch.save(dict(state_dict={}, **parts), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='x.pth: it holds weights, but not all .*load_from='):
        check_run(str(tmp_path / 'x.pth'))


def test_keeps_the_old_file_if_saving_fails(monkeypatch, tmp_path):
    (tmp_path / 'out.pth').write_text('old')

    def fail(checkpoint, path):
        Path(path).write_text('half')
        raise OSError('disk full')

    monkeypatch.setattr(torch, 'save', fail)
    with pytest.raises(OSError, match='disk full'):
        write_checkpoint({}, str(tmp_path / 'out.pth'))
    assert [path.read_text() for path in tmp_path.iterdir()] == ['old']


def test_the_newest_among_damaged_ones(tmp_path):
    torch.save(dict(state_dict={}, optimizer={}, meta=dict(iter=1, time='9')), tmp_path / 'a.pth')
    whole = (tmp_path / 'a.pth').read_bytes()
    torch.save(dict(state_dict={}, optimizer={}, meta=dict(iter=2, time='1')), tmp_path / 'b.pth')
    for name, meta in dict(c=None, d=3, e=dict(iter='9'), f=dict(time='9'), h=dict(iter=0, time=['9'])).items():
        torch.save(dict(state_dict={}, optimizer={}, meta=meta), tmp_path / f'{name}.pth')
    (tmp_path / 'g.pth').write_bytes(whole[1:])
    found, refused = newest_checkpoint(str(tmp_path))
    assert found == str(tmp_path / 'b.pth')  # of most iterations, though its clock was behind
    assert [*refused] == [str(tmp_path / 'g.pth')] and 'cut off' in refused[str(tmp_path / 'g.pth')]
