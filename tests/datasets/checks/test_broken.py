"""Files as they come: which of them work, what is said of the others, and what takes their places."""

import io
import random
import shutil
import struct
import zlib

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from PIL import Image
from torch.utils.data import DataLoader

from mmseg_derprop.datasets import BrokenData, SplitDataset, UnlabeledDataset
from mmseg_derprop.datasets.checks.broken import SettingError
from mmseg_derprop.datasets.checks.examine import examine
from mmseg_derprop.datasets.checks.leaks import image_paths
from mmseg_derprop.utils.randomness import SeededIndex

pytestmark = pytest.mark.usefixtures('quick_runs')
SIZE = (48, 40)
LABELED, UNLABELED = 3, 9
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(64, 64), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(32, 32), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmseg')


def picture(size=SIZE, mode='RGB'):
    """Noise: a decoder has work to do up to the end of the file."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(noise).convert(mode)


def encoded(kind, image=None, **options):
    buffer = io.BytesIO()
    (image or picture()).save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation, size=SIZE):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded('JPEG', picture(size), exif=exif)


def huge_png(side):
    """A header that says so, of a file of a hundred bytes."""

    def chunk(name, data):
        return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))

    header = chunk(b'IHDR', struct.pack('>IIBBBBB', side, side, 8, 2, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + header + chunk(b'IDAT', zlib.compress(bytes(100))) + chunk(b'IEND', b'')


def with_thumbnail():
    """A photo that is cut off, whose thumbnail is whole."""
    segment = b'Exif\0\0' + encoded('JPEG', picture((8, 8)))
    photo = encoded('JPEG')
    return photo[:2] + b'\xff\xe1' + struct.pack('>H', len(segment) + 2) + segment + photo[2 : len(photo) * 2 // 3]


WORKS = {
    'a PNG called .jpg': lambda: encoded('PNG'),
    'one channel': lambda: encoded('PNG', picture(mode='L')),
    'one bit': lambda: encoded('PNG', picture(mode='1')),
    'palette': lambda: encoded('PNG', picture(mode='P')),
    '16 bits': lambda: encoded('PNG', Image.fromarray(np.arange(1920, dtype=np.uint16).reshape(40, 48) * 30)),
    'CMYK': lambda: encoded('JPEG', picture(mode='CMYK')),
    'alpha': lambda: encoded('PNG', picture(mode='RGBA')),
    'EXIF': lambda: turned(6),
    'progressive': lambda: encoded('JPEG', progressive=True),
    'bytes behind the end': lambda: encoded('JPEG') + bytes(9000),
    'one pixel': lambda: encoded('PNG', picture((1, 1))),
    'one row': lambda: encoded('PNG', picture((60, 1))),
    'very wide': lambda: encoded('JPEG', picture((6000, 50))),
}
BROKEN = {
    'JPEG, half': ('cut off', lambda: half(encoded('JPEG'))),
    'JPEG without its end': ('cut off', lambda: encoded('JPEG')[:-2]),
    'JPEG, zeros at its end': ('cut off', lambda: half(encoded('JPEG')) + bytes(6000)),
    'JPEG, half, whole thumbnail': ('cut off', with_thumbnail),
    'progressive, half': ('cut off', lambda: half(encoded('JPEG', progressive=True))),
    'JPEG, 30 bytes': ('unreadable', lambda: encoded('JPEG')[:30]),
    'PNG, half': ('unreadable', lambda: half(encoded('PNG'))),
    'TIFF, half': ('unreadable', lambda: half(encoded('TIFF'))),
    'nothing': ('empty', lambda: b''),
    'text': ('unreadable', lambda: b'404 Not Found\n'),
    '400 million pixels': ('too large', lambda: huge_png(20000)),
}


def half(data):
    return data[: len(data) // 2]


@pytest.fixture
def root(tmp_path):
    """Labelled a0..a2 and unlabelled u0..u8."""
    (tmp_path / 'labels').mkdir()
    (tmp_path / 'images').mkdir()
    labels = np.resize(np.array([0, 1, 255], np.uint8), SIZE[::-1])
    for i in range(LABELED):
        (tmp_path / f'images/a{i}.jpg').write_bytes(encoded('JPEG'))
        Image.fromarray(labels).save(tmp_path / f'labels/a{i}.png')
    for i in range(UNLABELED):
        image = Image.fromarray(np.full((*SIZE[::-1], 3), 20 * i, np.uint8))
        (tmp_path / f'images/u{i}.jpg').write_bytes(encoded('JPEG', image))
    (tmp_path / 'labeled.txt').write_text(''.join(f'a{i}\n' for i in range(LABELED)))
    (tmp_path / 'unlabeled.txt').write_text(''.join(f'u{i}\n' for i in range(UNLABELED)))
    return tmp_path


def build(root, supervised=None, **options):
    config = dict(
        type='BaseSegDataset',
        data_root=str(root),
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        metainfo=dict(classes=('x', 'y')),
        pipeline=PIPELINE,
    )
    config.update(supervised or {})
    return SplitDataset(config, 'unlabeled.txt', 'labeled.txt', **options)


def seeded(index, epoch=0, seed=5):
    return SeededIndex(index, seed, (epoch, 0))


def image_of(sample):
    return next(iter(sample['data_samples'].values())).img_path.rsplit('/', 1)[1]


def replaced(sample):
    return next(iter(sample['data_samples'].values())).get('replaced', [])


@pytest.mark.parametrize('name', WORKS)
def test_what_works(root, name):
    (root / 'images/u0.jpg').write_bytes(WORKS[name]())
    dataset = build(root)
    sample = dataset[seeded(LABELED)]
    assert image_of(sample) == 'u0.jpg' and not replaced(sample)
    assert all(image.shape == (3, 32, 32) and image.dtype == torch.uint8 for image in sample['inputs'].values())
    assert not examine(dataset.unlabeled_sources[0], 0).problem


@pytest.mark.parametrize('name', BROKEN)
def test_what_is_broken(root, name):
    """Training and the examination find the same; another image takes the place of one that is unlabelled."""
    kind, make = BROKEN[name]
    path = root / 'images/u0.jpg'
    path.write_bytes(make())
    dataset = build(root)
    problem = examine(dataset.unlabeled_sources[0], 0).problem
    assert (problem.path, problem.kind) == (str(path), kind)
    sample = dataset[seeded(LABELED)]
    assert replaced(sample) == [problem] and image_of(sample) in [f'u{i}.jpg' for i in range(1, UNLABELED)]
    with pytest.raises(BrokenData, match=r'u0\.jpg .*check_data\.py.*broken_unlabeled='):
        build(root, broken_unlabeled='stop')[seeded(LABELED)]


def test_a_replacement_follows_from_seed_epoch_and_index(root):
    for i in (0, 4):
        (root / f'images/u{i}.jpg').write_bytes(half(encoded('JPEG')))
    draws = [seeded(LABELED + i, epoch) for epoch in range(6) for i in (0, 4)]

    def inputs(dataset, index):
        return {branch: image.tolist() for branch, image in dataset[index]['inputs'].items()}

    dataset = build(root)
    wanted = {(int(i), i.draw): inputs(dataset, i) for i in draws}
    taken = {image_of(dataset[index]) for index in draws}
    assert len(taken) > 2 and not taken & {'u0.jpg', 'u4.jpg'}
    fresh = build(root)
    random.Random(0).shuffle(draws)
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    for index in draws:
        fresh[seeded(1)]
        assert inputs(fresh, index) == wanted[int(index), index.draw]
    assert state == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    # Its augmentation is not the one that the image has in its own right in that epoch.
    index = draws[0]
    names = [line + '.jpg' for line in (root / 'unlabeled.txt').read_text().split()]
    own = SeededIndex(LABELED + names.index(image_of(fresh[index])), index.seed, index.draw)
    assert image_of(fresh[own]) == image_of(fresh[index]) and inputs(fresh, own) != inputs(fresh, index)
    # Workers bring the same, and what was replaced.
    loader = DataLoader(fresh, sampler=draws, batch_size=None, num_workers=2)
    for index, sample in zip(draws, loader):
        assert {branch: image.tolist() for branch, image in sample['inputs'].items()} == wanted[int(index), index.draw]
        assert [problem.kind for problem in replaced(sample)[:1]] == ['cut off']


def test_errors_of_transforms(root, caplog):
    """An image that a transform fails on is replaced and named; where nothing is replaced, its error is raised."""

    def fails(results):
        if results['img_path'].endswith('u0.jpg'):
            raise ZeroDivisionError('no such luck')
        return results

    dataset = build(root)
    dataset.unlabeled_sources[0].pipeline.transforms.insert(1, fails)
    (problem,) = replaced(dataset[seeded(LABELED)])
    assert problem.path.endswith('u0.jpg') and 'ZeroDivisionError: no such luck' in str(problem)
    dataset.broken_unlabeled = 'stop'
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    with pytest.raises(ZeroDivisionError):
        dataset[seeded(LABELED)]
    logger.removeHandler(caplog.handler)
    assert 'u0.jpg cannot be made a sample' in caplog.text


def test_a_transform_that_fails_on_every_image_is_no_matter_of_files(root):
    dataset = build(root)
    dataset.unlabeled_sources[0].pipeline.transforms.insert(1, lambda results: 1 / 0)
    with pytest.raises(SettingError, match='All of 9 images.*not the files.*ZeroDivisionError'):
        dataset[seeded(LABELED)]


def draw_labels(root, mode='L', size=SIZE, value=1):
    Image.new(mode, size, value).save(root / 'labels/a1.png')


BAD_LABELS = {
    'missing': lambda root: (root / 'labels/a1.png').unlink(),
    'empty': lambda root: (root / 'labels/a1.png').write_bytes(b''),
    'labels of another size than the image': lambda root: draw_labels(root, size=(SIZE[0] + 1, SIZE[1])),
    'labels of more than 8 bits': lambda root: draw_labels(root, 'I;16'),
    'labels in colours': lambda root: draw_labels(root, 'RGB'),
    'cut off': lambda root: (root / 'images/a1.jpg').write_bytes(half(encoded('JPEG'))),
    'unreadable': lambda root: (root / 'labels/a1.png').write_bytes(half((root / 'labels/a1.png').read_bytes())),
    'ids outside the classes': lambda root: draw_labels(root, value=7),
}


@pytest.mark.parametrize('kind', BAD_LABELS)
def test_labelled_images_stop_training(root, kind):
    """Before it begins, unless such images are skipped."""
    BAD_LABELS[kind](root)
    with pytest.raises((BrokenData, FileNotFoundError), match=r'^1 of 3 .*a1\.(png|jpg)'):
        build(root)
    dataset = build(root, broken_labeled='skip')
    problem = examine(dataset.labeled_sources[0], 1).problem
    assert problem.kind == kind
    sample = dataset[seeded(1)]
    assert replaced(sample) == [problem] and image_of(sample) in ('a0.jpg', 'a2.jpg')
    assert not replaced(dataset[seeded(0)])


@pytest.mark.parametrize('kind', [kind for kind in BAD_LABELS if kind not in ('missing', 'cut off')])
def test_labels_that_only_serve_the_log_cost_no_image(root, kind):
    shutil.copy(root / 'labels/a0.png', root / 'labels/u0.png')
    assert 'gt_sem_seg' in build(root)[seeded(LABELED)]['data_samples']['weak']
    BAD_LABELS[kind](root)
    (root / 'labels/a1.png').replace(root / 'labels/u0.png')
    shutil.copy(root / 'labels/a0.png', root / 'labels/a1.png')
    dataset = build(root, broken_unlabeled='stop')
    sample = dataset[seeded(LABELED)]
    assert image_of(sample) == 'u0.jpg' and not replaced(sample)
    weak = sample['data_samples']['weak']
    assert 'gt_sem_seg' not in weak and weak.label_problem.path.endswith('u0.png')
    found = examine(dataset.unlabeled_sources[0], 0)
    assert not found.problem and found.label_problem == weak.label_problem and found.size == SIZE[::-1]


def test_a_folder_with_other_things_in_it(root):
    folder = root / 'photos'
    (folder / 'x.jpg').mkdir(parents=True)
    for name in ('b.jpg', 'x.jpg/inside.PNG', 'a.jpeg'):
        shutil.copy(root / 'images/u0.jpg', folder / name)
    for name in ('Thumbs.db', 'notes.txt', '.DS_Store', '._b.jpg', '.hidden.jpg', 'b.jpg.part', 'jpg'):
        (folder / name).write_bytes(b'something else')
    (folder / '.thumbnails').mkdir()
    shutil.copy(root / 'images/u0.jpg', folder / '.thumbnails/b.jpg')
    (folder / 'gone.jpg').symlink_to(root / 'nowhere.jpg')
    dataset = UnlabeledDataset(data_prefix=dict(img_path=str(folder)), pipeline=[dict(type='LoadImageFromFile')])
    assert [path[len(str(folder)) + 1 :] for path in image_paths(dataset)] == ['a.jpeg', 'b.jpg', 'x.jpg/inside.PNG']
    assert all(dataset[i]['img'].shape == (*SIZE[::-1], 3) for i in range(3))
