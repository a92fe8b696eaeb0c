"""The tool that draws labelled images: lists, manifest, what it refuses."""

import hashlib
import json
import sys

import numpy as np
import pytest
from commands import load
from PIL import Image

from mmseg_derprop import __version__

tool = load('dataset_converters/make_split.py')
sys.modules['make_split'] = tool  # processes that read label files look the function up by its module's name
COUNT = 40


@pytest.fixture
def data(tmp_path):
    """40 images in two folders, with label files of 4x5; class 3 is in two of them, 255 in all."""
    for i in range(COUNT):
        labels = np.full((4, 5), i % 2, np.uint8)
        labels[0, 0] = 255
        labels[3] = 3 if i in (7, 8) else 0
        for kind, name, array in (
            ('images', f'{i:02d}.jpg', np.zeros((4, 5, 3), np.uint8)),
            ('labels', f'{i:02d}.png', labels),
        ):
            path = tmp_path / kind / ('a' if i < 20 else 'b') / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    (tmp_path / 'images/notes.txt').write_text('no image')
    return tmp_path


@pytest.fixture
def run(monkeypatch, data, capsys):
    def call(*options, nproc=1, labels=True):
        options = ['--out', data / 'out', '--nproc', nproc, *options] + (['--labels', data / 'labels'] * labels)
        monkeypatch.setattr(sys, 'argv', ['make_split.py', *map(str, options)])
        tool.main()
        return capsys.readouterr().out

    return call


def ids(path):
    return path.read_text().splitlines()


@pytest.mark.parametrize('nproc', [1, 2])
def test_draws_of_a_folder(run, data, nproc):
    printed = run('--images', data / 'images', '--ratios', '1/4', '1/16', '0.5', '--stratify', nproc=nproc)
    out = data / 'out'
    assert sorted(str(p.relative_to(out)) for p in out.rglob('*') if p.is_file()) == sorted(
        ['manifest.json', *(f'{r}/{k}.txt' for r in ('1_16', '1_4', '0.5') for k in ('labeled', 'unlabeled'))]
    )
    everything = [f'{"a" if i < 20 else "b"}/{i:02d}' for i in range(COUNT)]
    smaller = set()
    # 2.5 is rounded up.
    for name, size in {'1_16': 3, '1_4': 10, '0.5': 20}.items():
        labeled, unlabeled = ids(out / name / 'labeled.txt'), ids(out / name / 'unlabeled.txt')
        assert len(labeled) == size and sorted(labeled + unlabeled) == everything
        assert smaller <= set(labeled) and {'a/07', 'a/08'} & set(labeled)
        smaller = set(labeled)
        assert f'{name}: {size} labelled, {COUNT - size} unlabelled' in printed


def test_manifest(run, data):
    run('--images', data / 'images', '--num', '8', '--seed', '3', '--stratify')
    manifest = json.loads((data / 'out/manifest.json').read_text())
    assert (manifest['seed'], manifest['stratify'], manifest['version']) == (3, True, __version__)
    source = '\n'.join(f'{"a" if i < 20 else "b"}/{i:02d}' for i in range(COUNT)) + '\n'
    assert manifest['source']['sha256'] == hashlib.sha256(source.encode()).hexdigest()
    split = manifest['splits']['8']
    for kind in ('labeled', 'unlabeled'):
        content = (data / f'out/8/{kind}.txt').read_bytes()
        assert split[f'{kind}_sha256'] == hashlib.sha256(content).hexdigest()
    labels = [np.array(Image.open(data / f'labels/{name}.png')) for name in ids(data / 'out/8/labeled.txt')]
    assert set(split['classes']) == {'0', '1', '3'}
    for number, counts in split['classes'].items():
        assert counts['labeled_images'] == sum((array == int(number)).any() for array in labels)
        assert counts['labeled_pixels'] == sum((array == int(number)).sum() for array in labels)
    assert split['classes']['3'] | dict(labeled_images=0, labeled_pixels=0) == dict(
        images=2, labeled_images=0, pixels=10, labeled_pixels=0
    )


def test_a_list_in_its_order(run, data):
    names = [f'{"a" if i < 20 else "b"}/{i:02d}' for i in reversed(range(COUNT))]
    (data / 'list.txt').write_text('\ufeff' + '\r\n'.join(names) + '\r\n\r\n', encoding='utf-8')
    run('--list', data / 'list.txt', '--num', '5', labels=False)
    labeled = ids(data / 'out/5/labeled.txt')
    assert labeled == [name for name in names if name in labeled] and len(labeled) == 5
    manifest = json.loads((data / 'out/manifest.json').read_text())
    assert manifest['source']['sha256'] == hashlib.sha256((data / 'list.txt').read_bytes()).hexdigest()
    assert manifest['splits']['5']['classes'] == {}


def test_again_is_nothing_and_another_draw_is_refused(run, data):
    options = ('--images', data / 'images', '--num', '5', '10')
    assert 'already' not in run(*options)
    times = {path: path.stat().st_mtime_ns for path in data.rglob('out/**/*')}
    assert 'all of it was there already' in run(*options)
    with pytest.raises(SystemExit, match='5 files exist and differ.*--force'):
        run(*options, '--seed', '1')
    assert times == {path: path.stat().st_mtime_ns for path in data.rglob('out/**/*')}
    before = ids(data / 'out/5/labeled.txt')
    run(*options, '--seed', '1', '--force')
    assert ids(data / 'out/5/labeled.txt') != before


def test_refuses_bad_label_files(run, data):
    (data / 'labels/a/03.png').unlink()
    (data / 'labels/a/04.png').write_bytes(b'')
    Image.new('RGB', (5, 4)).save(data / 'labels/a/05.png')
    with pytest.raises(SystemExit) as caught:
        run('--images', data / 'images', '--num', '3')
    for words in ('3 of 40 label files', 'a/03.png', 'a/04.png', 'a/05.png must have 1 channel'):
        assert words in str(caught.value)
