"""tools/check_data.py: all problems in one go, and what training would do."""

import json
import shutil

import numpy as np
import pytest
from commands import ROOT, call
from mmengine.config import Config
from PIL import Image

LISTS = 'ImageSets/Segmentation'
pytestmark = pytest.mark.usefixtures('quick_runs')
SEMI, PLAIN = (ROOT / f'configs/{kind}/tiny_shapes.py' for kind in ('derprop', 'supervised'))


@pytest.fixture
def root(shapes, tmp_path):
    """A copy of the embedded data set that may be spoilt."""
    shutil.copytree(shapes, tmp_path / 'shapes')
    return tmp_path / 'shapes'


@pytest.fixture
def check(root, tmp_path, capsys):
    """Runs the tool; returns exit status, what it printed, and its JSON."""

    def run(config=SEMI, *options, workers=0):
        capsys.readouterr()
        status = 0
        named = ['--cfg-options', f'data_root={root}'] if config in (SEMI, PLAIN) else []
        try:
            call('check_data.py', config, '--workers', workers, '--json', tmp_path / 'out.json', *options, *named)
        except SystemExit as end:
            status = end.code
        return status, capsys.readouterr().out, json.loads((tmp_path / 'out.json').read_text())

    return run


def names(root, split):
    return (root / LISTS / f'{split}.txt').read_text().split()


def problems(found):
    """(part, file name, kind, what training does) of each."""
    listed = [(part['part'], problem) for part in found['parts'] for problem in part['problems']]
    listed += [('lists', problem) for problem in found['overlaps']]
    return {(part, p['path'].rsplit('/', 1)[-1], p['kind'], p['training']) for part, p in listed}


def test_good_data(check, root):
    status, said, found = check()
    assert status == 0 and 'No problem.' in said and not problems(found)
    sizes = [(part['part'], part['images'], part['smallest'], part['largest']) for part in found['parts']]
    assert sizes == [('labelled', 4, [64, 64], [64, 64]), ('unlabelled', 12, [64, 64], [64, 64])] + [
        ('validation', 6, [64, 64], [64, 64])
    ]
    labels = [np.array(Image.open(root / f'SegmentationClass/{name}.png')) for name in names(root, 'labeled')]
    shares = found['parts'][0]['class_shares']
    for index, name in enumerate(('background', 'disc', 'square', 'triangle', 'ring', 'star')):
        assert shares[name] == pytest.approx(np.mean(np.array(labels) == index))
    assert found['parts'][0]['ignored_share'] == pytest.approx(np.mean(np.array(labels) == 255))


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
    status, said, found = check(workers=workers)
    stop, skip = (
        'training stops when it meets it, if not before',
        'training takes other images instead (limit: 100 files)',
    )
    before, val = 'training stops before its first iteration', 'training stops, at the latest when it validates'
    assert problems(found) == {
        ('labelled', f'{a}.jpg', 'empty', stop),
        ('labelled', f'{b}.png', 'ids outside the classes', stop),
        ('labelled', f'{c}.png', 'missing', before),
        ('unlabelled', f'{u}.jpg', 'cut off', skip),
        ('unlabelled', f'{v}.jpg', 'unreadable', skip),
        ('unlabelled', f'{w}.jpg', 'missing', before),
        # The labels of the unlabelled images serve the log's accuracy; what is wrong with them leaves out the image.
        ('unlabelled', f'{x}.png', 'labels of another size than the image', skip),
        ('validation', f'{x}.png', 'labels of another size than the image', val),
        ('validation', f'{y}.png', 'ids outside the classes', val),
        ('lists', f'{x}.jpg', 'validation image in training', before),
    }
    assert status == 1 and 'Problems: 10' in said
    for name in (a, b, c, u, v, w, x, y):
        assert name in said
    notes = ' '.join(found['notes'])
    assert '1 of the labelled images are among the unlabelled ones' in notes
    assert '1 unlabelled images are listed more than once' in notes


def test_what_training_does_follows_from_the_options(check, root):
    for name in names(root, 'unlabeled')[:3]:
        (root / f'JPEGImages/{name}.jpg').write_bytes(b'')
    a, b = names(root, 'labeled')[:2]
    (root / f'SegmentationClass/{a}.png').write_bytes(b'')
    (root / f'SegmentationClass/{b}.png').unlink()
    options = ['train_dataloader.dataset.broken_labeled=skip', 'custom_hooks.2.limit=2']
    _, _, found = check(SEMI, '--cfg-options', *options, f'data_root={root}')
    training = {(part, does) for part, _, _, does in problems(found)}
    assert training == {
        ('labelled', 'training takes other images instead (limit: 2 files)'),
        ('unlabelled', 'training stops when it has met more than 2 of them, the limit of BrokenFilesHook'),
    }


def test_a_class_without_a_label(check, root):
    for name in names(root, 'labeled'):
        path = root / f'SegmentationClass/{name}.png'
        labels = np.array(Image.open(path))
        labels[labels == 4] = 0
        Image.fromarray(labels).save(path)
    status, said, found = check()
    assert status == 0 and 'No labelled pixel has the class ring' in said
    assert found['parts'][0]['class_shares']['ring'] == 0


def test_a_plain_config(check, root):
    (a, b), (x,) = names(root, 'labeled')[:2], names(root, 'val')[:1]
    (root / f'JPEGImages/{a}.jpg').write_bytes(b'')
    (root / f'SegmentationClass/{b}.png').unlink()
    Image.fromarray(np.full((64, 64), 6, np.uint8)).save(root / f'SegmentationClass/{x}.png')
    status, _, found = check(PLAIN)
    assert status == 1 and {part['part'] for part in found['parts']} == {'labelled', 'validation'}
    assert {(part, name, kind) for part, name, kind, _ in problems(found)} == {
        ('labelled', f'{a}.jpg', 'empty'),
        ('labelled', f'{b}.png', 'missing'),
        ('validation', f'{x}.png', 'ids outside the classes'),
    }


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
    status, _, found = check(tmp_path / 'config.py')
    assert status == 1 and [(part['part'], part['images']) for part in found['parts']] == [
        ('labelled', 10),
        ('test', 6),
    ]
    assert {kind for _, _, kind, _ in problems(found)} == {'test image in training'}


def test_data_that_cannot_be_built(check, root):
    """The other parts are read all the same."""
    (root / LISTS / 'labeled.txt').unlink()
    (name,) = names(root, 'val')[:1]
    (root / f'JPEGImages/{name}.jpg').write_bytes(b'')
    status, said, found = check()
    assert status == 1 and 'labeled.txt' in said
    assert {kind for _, _, kind, _ in problems(found)} == {'data set', 'empty'}


@pytest.mark.parametrize(
    ('args', 'words'),
    [
        (['nowhere.py'], 'there is no config nowhere.py'),
        ([SEMI, '--workers', '-1'], '--workers is -1'),
        ([SEMI, '--json', '/nowhere/x.json'], '/nowhere/x.json'),
    ],
)
def test_arguments(args, words, capsys):
    with pytest.raises(SystemExit):
        call('check_data.py', *args)
    assert words in capsys.readouterr().err
