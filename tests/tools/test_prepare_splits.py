"""Split lists: from a host that fails and lies, from folders, twice, and the real ones where they lie."""

import hashlib
import sys

import pytest
from commands import ROOT, load

PUBLISHED = ROOT.parent / 'shared' / 'splits'
tool = load('dataset_converters/prepare_splits.py')

LINE = 'leftImg8bit/train/{0}_leftImg8bit.png gtFine/train/{0}_gtFine_labelTrainIds.png'
IDS = [f'aachen/aachen_{i:06d}_000019' for i in range(12)]


@pytest.fixture
def published(monkeypatch):
    """Two splits of 12 made-up images, as a host has them; {path: content}."""
    splits = {'1_4': 3, '1_2': 6}
    contents = {}
    for (split, count), end in zip(splits.items(), ['', '\n'], strict=True):
        for kind, ids in dict(labeled=IDS[:count], unlabeled=IDS[count:]).items():
            text = '\n'.join(map(LINE.format, ids)) + end
            contents[f'cityscapes/{split}/{kind}.txt'] = text.encode()
    sums = {path: hashlib.sha256(content).hexdigest() for path, content in contents.items()}
    monkeypatch.setattr(tool, 'SHA256', sums)
    monkeypatch.setitem(
        tool.DATA_SETS, 'cityscapes', tool.DATA_SETS['cityscapes']._replace(splits={s: s for s in splits})
    )
    return contents


@pytest.fixture
def host(published, tmp_path):
    """URL of a host that has them."""
    for path, content in published.items():
        repository = tool.UNIMATCH_V2 if '1_2' in path else tool.UNIMATCH
        place = tmp_path / 'host' / repository / 'splits' / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    return f'file://{tmp_path}/host/'


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Runs the tool; returns what it printed, or raises what it exits with."""

    def call(*options, data='cityscapes', out=tmp_path / 'city'):
        monkeypatch.setattr(sys, 'argv', ['prepare_splits.py', data, '--out', str(out), *map(str, options)])
        tool.main()
        return capsys.readouterr()

    return call


def lists(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob('*')) if path.is_file()}


WANTED = {
    f'splits/{name}/{kind}.txt': ''.join(f'{i}\n' for i in ids)
    for name, n in dict([('1_2', 6), ('1_4', 3)]).items()
    for kind, ids in dict(labeled=IDS[:n], unlabeled=IDS[n:]).items()
}


def test_download(run, host, tmp_path):
    printed = run('--base-url', host)
    assert '2 splits, 4 lists written, 0 there already' in printed.out
    assert 'no leftImg8bit/train yet' in printed.err
    assert lists(tmp_path / 'city') == WANTED


def test_again_is_nothing_and_needs_no_network(run, host, tmp_path):
    run('--base-url', host)
    (tmp_path / 'city/leftImg8bit/train').mkdir(parents=True)
    for options in ([], ['--force']):
        printed = run('--base-url', 'file:///nowhere', *options)
        assert '0 lists written, 4 there already' in printed.out and not printed.err
    (tmp_path / 'city/splits/1_2/labeled.txt').unlink()
    with pytest.raises(SystemExit, match='nowhere.*1_2/labeled.txt.*--from'):
        run('--base-url', 'file:///nowhere')
    assert '1 lists written, 3 there already' in run('--base-url', host).out
    assert lists(tmp_path / 'city') == WANTED


def test_a_list_that_is_not_the_published_one(run, host, tmp_path):
    for path, content in {'1_4/unlabeled.txt': b'another line', '1_2/labeled.txt': b'<html>'}.items():
        next((tmp_path / 'host').rglob(path)).write_bytes(content)
    with pytest.raises(SystemExit) as caught:
        run('--base-url', host)
    message = str(caught.value)
    assert '2 lists could not be had, nothing was written' in message
    assert hashlib.sha256(b'<html>').hexdigest() in message and tool.SHA256['cityscapes/1_2/labeled.txt'] in message
    assert '1_4/unlabeled.txt must have the SHA-256' in message and not (tmp_path / 'city').exists()


def test_own_lists_are_not_overwritten(run, host, tmp_path):
    own = tmp_path / 'city/splits/1_4/labeled.txt'
    own.parent.mkdir(parents=True)
    own.write_text('mine\n')
    with pytest.raises(SystemExit, match=r"1 lists exist and differ.*1_4/labeled.txt'.*--force"):
        run('--base-url', host)
    assert lists(tmp_path / 'city') == {'splits/1_4/labeled.txt': 'mine\n'}
    run('--base-url', host, '--force')
    assert lists(tmp_path / 'city') == WANTED


def test_local_copies(run, published, tmp_path):
    for path, content in published.items():
        place = tmp_path / ('second' if '1_2' in path else 'first') / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    with pytest.raises(SystemExit, match='2 lists could not be had.*(?s:.*)1_2/labeled.txt is in none of .*first'):
        run('--from', tmp_path / 'first')
    stale = tmp_path / 'first/cityscapes/1_2/labeled.txt'
    stale.parent.mkdir()
    stale.write_text('another draw')
    run('--from', tmp_path / 'first', tmp_path / 'second')
    assert lists(tmp_path / 'city') == WANTED


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason='the published lists are not part of this repository')
@pytest.mark.parametrize('data', ['voc', 'cityscapes'])
def test_published_lists(run, data, tmp_path):
    run('--from', PUBLISHED, data=data, out=tmp_path)
    found = lists(tmp_path)
    if data == 'voc':
        assert len(found) == 22
        first = found['ImageSets/Semi/1_4/labeled.txt'].splitlines()
        assert len(first) == 366 and all(len(name) == 11 and name[4] == '_' for name in first)
        val = {line.split('/')[1][:11] for line in (PUBLISHED / 'pascal/val.txt').read_text().splitlines()}
        assert not val & {name for text in found.values() for name in text.splitlines()}
    else:
        assert len(found) == 10 and len(found['splits/1_2/labeled.txt'].splitlines()) == 1488
        assert found['splits/1_16/labeled.txt'].startswith('jena/jena_000078_000019\n')
    assert '0 lists written' in run('--from', PUBLISHED, data=data, out=tmp_path).out
