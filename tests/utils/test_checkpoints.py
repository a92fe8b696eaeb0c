"""Checkpoints are read without running what they hold."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmseg_derprop.utils.checkpoints import (
    check_whole,
    newest_checkpoint,
    read_checkpoint,
    state_dict_of,
    write_checkpoint,
)


class Harmful:
    """Runs something where it is unpickled."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def test_what_the_engine_saves_is_read(tmp_path):
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    saved = dict(
        state_dict=dict(weight=torch.ones(2)),
        message_hub=dict(loss=history, score=np.float64(0.5), counts=np.arange(3), flags=np.zeros(2, bool)),
        meta=dict(iter=3, cfg='model = dict()', dataset_meta=dict(classes=('a', 'b'), palette=[[0, 0, 0]] * 2)),
    )
    torch.save(saved, tmp_path / 'x.pth')
    found = read_checkpoint(str(tmp_path / 'x.pth'))
    assert found['meta'] == saved['meta'] and torch.equal(state_dict_of(found)['weight'], torch.ones(2))
    assert found['message_hub']['loss'].mean() == 1.5 and found['message_hub']['score'] == 0.5


@pytest.mark.parametrize(
    'harmful, name',
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
    with pytest.raises(ValueError, match=rf'more than data \(.*({name})'):
        read_checkpoint('x.pth')
    assert not Path('harmed').exists()


def test_only_histories_are_asked_for_their_methods(tmp_path):
    torch.save(dict(a=Harmful(getattr, np.ndarray, 'tofile')), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='not read'):
        read_checkpoint(str(tmp_path / 'x.pth'))


@pytest.mark.parametrize('damage', [lambda data: data[:300], lambda data: b'', lambda data: b'<html>not found</html>'])
def test_a_damaged_file(tmp_path, damage):
    torch.save(dict(state_dict=dict(weight=torch.ones(100))), tmp_path / 'x.pth')
    (tmp_path / 'x.pth').write_bytes(damage((tmp_path / 'x.pth').read_bytes()))
    with pytest.raises(ValueError, match='cut off, or no PyTorch checkpoint'):
        read_checkpoint(str(tmp_path / 'x.pth'))


def test_keeps_the_old_file_if_saving_fails(monkeypatch, tmp_path):
    (tmp_path / 'out.pth').write_text('old')

    def fail(checkpoint, path):
        Path(path).write_text('half')
        raise OSError('disk full')

    monkeypatch.setattr(torch, 'save', fail)
    with pytest.raises(OSError, match='disk full'):
        write_checkpoint({}, str(tmp_path / 'out.pth'))
    assert [path.read_text() for path in tmp_path.iterdir()] == ['old']


@pytest.mark.parametrize('state', [{1: torch.ones(1)}, {None: torch.ones(1)}, dict(weight=[1.0])])
def test_no_state_dict(state):
    with pytest.raises(ValueError, match='no state dict'):
        state_dict_of(dict(state_dict=state))


def test_the_newest_among_damaged_ones(tmp_path):
    """An archive that lacks its first byte fails with an OSError, for the place that it leads to."""
    torch.save(dict(state_dict={}, optimizer={}, meta=dict(iter=1, time='1')), tmp_path / 'a.pth')
    whole = (tmp_path / 'a.pth').read_bytes()
    torch.save(dict(state_dict={}, optimizer={}, meta=dict(iter=2, time=['2'])), tmp_path / 'b.pth')
    for name, meta in dict(c=None, d=3, e=dict(iter='9'), f=dict(time='9')).items():
        torch.save(dict(state_dict={}, optimizer={}, meta=meta), tmp_path / f'{name}.pth')
    (tmp_path / 'g.pth').write_bytes(whole[1:])
    found, refused = newest_checkpoint(str(tmp_path))
    assert found in (str(tmp_path / 'a.pth'), str(tmp_path / 'b.pth'))
    assert [*refused] == [str(tmp_path / 'g.pth')] and 'cut off' in refused[str(tmp_path / 'g.pth')]


def test_an_archive_that_leads_nowhere(tmp_path):
    torch.save(dict(a=1), tmp_path / 'a.pth')
    (tmp_path / 'a.pth').write_bytes((tmp_path / 'a.pth').read_bytes()[1:])
    with pytest.raises(ValueError, match='cut off'):
        check_whole(str(tmp_path / 'a.pth'))
    with pytest.raises(FileNotFoundError):
        check_whole(str(tmp_path / 'b.pth'))
