"""tools/check_data.py: all problems in one go, and what training would do."""

import shutil

import numpy as np
import pytest
from commands import ROOT, call
from mmengine.config import Config
from PIL import Image

LISTS = 'ImageSets/Segmentation'
pytestmark = pytest.mark.usefixtures('quick_runs')
SEMI, PLAIN = (ROOT / f'configs/{kind}/tiny_shapes.py' for kind in ('derprop', 'supervised'))
SKIP = 'takes other images instead, up to the limit of BrokenFilesHook'


@pytest.fixture
def root(shapes, tmp_path):
    """A copy of the embedded data set that may be spoilt."""
    shutil.copytree(shapes, tmp_path / 'shapes')
    return tmp_path / 'shapes'


@pytest.fixture
def check(root, capsys):
    """Runs the tool; returns exit status and what it printed."""

    def run(config=SEMI, *options, workers=0):
        capsys.readouterr()
        named = ['--cfg-options', f'data_root={root}', *options] if config in (SEMI, PLAIN) else []
        status = 0
        try:
            call('check_data.py', config, '--workers', workers, *named)
        except SystemExit as end:
            status = end.code
        return status, capsys.readouterr().out

    return run


def names(root, split):
    return (root / LISTS / f'{split}.txt').read_text().split()


def problems(said):
    """{(part, kind, what a run does): names of the files}."""
    found, files = {}, None
    for line in said.splitlines():
        if '. A run ' in line:
            title, consequence = line.split('. A run ')
            part, kind = title.rsplit(':', 1)[0].split(', ')
            files = found[part, kind, consequence.rstrip('.')] = set()
        elif line.startswith('  /') and files is not None:
            files.add(line.split()[0].rstrip(',').rsplit('/', 1)[-1])
    return found


def test_good_data(check, root):
    status, said = check()
    assert status == 0 and 'No problem.' in said and not problems(said)
    for line in ('labelled    4 images, 64x64 to', 'unlabelled  12 images', 'validation  6 images'):
        assert line in said
    labels = np.array([np.array(Image.open(root / f'SegmentationClass/{n}.png')) for n in names(root, 'labeled')])
    for index, name in enumerate(('background', 'disc', 'square', 'triangle', 'ring', 'star')):
        assert f'{name} {np.mean(labels == index):.2%}' in said
    assert f'ignored {np.mean(labels == 255):.2%}' in said


@pytest.mark.parametrize('workers', [0, 2])
def test_every_problem_in_one_go(check, root, workers):
    (a, b, c), (u, v, w), (x, y) = names(root, 'labeled')[:3], names(root, 'unlabeled')[:3], names(root, 'val')[:2]
    images, labels = root / 'JPEGImages', root / 'SegmentationClass'
    (images / f'{a}.jpg').write_bytes(b'')
    Image.fromarray(np.full((64, 64), 9, np.uint8)).save(labels / f'{b}.png')
    (labels / f'{c}.png').unlink()
    (images / f'{u}.jpg').write_bytes((images / f'{u}.jpg').read_bytes()[:700])
    (images / f'{v}.jpg').write_text('404 Not Found')
    (images / f'{w}.jpg').unlink()
    Image.fromarray(np.zeros((64, 65), np.uint8)).save(labels / f'{x}.png')
    Image.fromarray(np.full((64, 64), 200, np.uint8)).save(labels / f'{y}.png')
    with open(root / LISTS / 'unlabeled.txt', 'a') as file:
        file.write(f'{x}\n{b}\n{v}\n')
    status, said = check(workers=workers)
    before, val = 'stops before it begins', 'stops, or takes the file as it is'
    size = 'labels of another size than the image'
    assert problems(said) == {
        ('labelled', 'empty', 'stops'): {f'{a}.jpg'},
        ('labelled', 'ids outside the classes', 'stops'): {f'{b}.png'},
        ('labelled', 'missing', before): {f'{c}.png'},
        ('labelled', 'class without labels', before): set(),  # one label file is left
        ('unlabelled', 'cut off', SKIP): {f'{u}.jpg'},
        ('unlabelled', 'unreadable', SKIP): {f'{v}.jpg'},
        ('unlabelled', 'missing', before): {f'{w}.jpg'},
        ('validation', size, val): {f'{x}.png'},
        ('validation', 'ids outside the classes', val): {f'{y}.png'},
        ('lists', 'validation image in training', f'{before}, unless leaks of PseudoLabelHook allows it'): {f'{x}.jpg'},
    }
    assert status == 1 and 'Problems: 10' in said
    # The labels of the unlabelled images serve the log's accuracy only.
    assert 'Note: 2 label files of unlabelled images cannot be used' in said and said.count(f'{b}.png, the labels') == 2
    assert '1 of the labelled images are also among the unlabelled ones' in said
    assert '1 unlabelled images are listed more than once' in said


def test_wrapped_data_and_another_test_set(check, root, tmp_path):
    data = dict(
        type='ShapesDataset',
        data_root=str(root),
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='Resize', scale=(32, 32)), dict(type='LoadAnnotations')],
    )
    parts = [dict(data, ann_file=f'{LISTS}/{split}.txt') for split in ('labeled', 'val')]
    wrapped = dict(type='RepeatDataset', times=9, dataset=dict(type='ConcatDataset', datasets=parts))
    loaders = dict(train_dataloader=dict(dataset=wrapped), test_dataloader=dict(dataset=parts[1]))
    Config(dict(default_scope='mmseg', **loaders)).dump(tmp_path / 'config.py')
    status, said = check(tmp_path / 'config.py')
    assert status == 1 and 'labelled    10 images' in said and 'test        6 images' in said
    assert {kind for _, kind, _ in problems(said)} == {'test image in training'}


def test_data_that_cannot_be_built(check, root):
    """The other parts are read all the same."""
    (root / LISTS / 'labeled.txt').unlink()
    (name,) = names(root, 'val')[:1]
    (root / f'JPEGImages/{name}.jpg').write_bytes(b'')
    status, said = check()
    assert status == 1 and 'labeled.txt' in said and {kind for _, kind, _ in problems(said)} == {'data set', 'empty'}


def test_labels_that_cannot_be_right(check, root):
    """A class that no label has; a palette in another order than that of the other files."""
    paths = [root / f'SegmentationClass/{name}.png' for name in names(root, 'labeled')]
    for number, path in enumerate(paths):
        labels = np.array(Image.open(path))
        image = Image.fromarray(np.where(labels == 5, 255, labels).astype(np.uint8), 'P')
        palette = np.arange(768, dtype=np.uint8).reshape(256, 3)
        palette[:3] = palette[[0, 2, 1]] if number == 3 else palette[:3]
        image.putpalette(palette.tobytes())
        image.save(path)
    status, said = check()
    assert status == 1 and 'Problems: 2' in said and 'have no pixel of star' in said
    assert problems(said)['labelled', 'palette in another order', 'takes the ids as they are'] == {paths[3].name}
    assert f'has 2 for the 1 of {paths[0]}' in said or f'has 1 for the 2 of {paths[0]}' in said
