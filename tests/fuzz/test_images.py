"""Image files of any bytes and modes through inference and its tools; label files of any kind before training."""

import functools
import io

import builders
import numpy as np
import pytest
from commands import call
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config
from mutations import EDITS, edited
from own_errors import cases, ends_well, folder
from PIL import Image
from tiny_checkpoints import save_checkpoint

MODES = ('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK', 'YCbCr', 'HSV', 'I', 'F', 'I;16')
FORMATS = ('png', 'jpeg', 'bmp', 'tiff', 'gif', 'webp')
SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.JPG')
SIDES = st.sampled_from([1, 2, 7, 33, 200])
NAMES = st.sampled_from(['', 'é', '\udce9', ' b', '-x', '.y', '%d', '{0}', ',"c\n', '*[?]'])  # behind a number
FLAGS = ([], ['--side-by-side'], ['--opacity', 1])
PIXELS = 2**20  # a damaged header may claim any size: more than memory holds is no matter here


@functools.cache
def encoded(mode, kind, width, height, turn):
    """An image file; None if the format does not know the mode."""
    file = io.BytesIO()
    rng = np.random.default_rng(width)
    image = Image.fromarray(rng.integers(256, size=(height, width, 3), dtype=np.uint8))
    image = (
        Image.fromarray(np.asarray(image.convert('L')).astype('<u2') * 257) if mode == 'I;16' else image.convert(mode)
    )
    exif = Image.Exif()
    exif[0x0112] = turn
    try:
        image.save(file, kind, exif=exif)
    except (OSError, ValueError, KeyError):
        return None
    return file.getvalue()


WHOLE = st.builds(
    encoded, st.sampled_from(MODES), st.sampled_from(FORMATS), SIDES, SIDES, st.sampled_from([1, 3, 6, 9])
).filter(lambda data: data is not None)
DAMAGED = st.builds(edited, WHOLE, EDITS).filter(lambda content: reasonable(content))
FILES = WHOLE | DAMAGED | st.binary(max_size=200) | st.sampled_from([b'', b'<svg/>', b'P6 1 1 255 abc'])


@functools.cache
def network():
    """A plain segmentor and the config that it was built from."""
    pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(40, 30), keep_ratio=True)]
    pipeline += [dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
    config = Config(dict(model=builders.segmentor(), test_dataloader=dict(dataset=dict(pipeline=pipeline))))
    config.model.data_preprocessor.update(test_cfg=dict(size_divisor=1))
    return config


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Paths of a config and a checkpoint."""
    place = tmp_path_factory.mktemp('run')
    network().dump(place / 'config.py')
    meta = dict(classes=list('abcde'), palette=[[40 * number, 0, 0] for number in range(5)])
    return place / 'config.py', save_checkpoint(network(), place / 'x.pth', meta=meta)


def reasonable(content):
    """Whether a file claims a size that a test may load."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.size[0] * image.size[1] <= PIXELS
    except Exception:
        return content[:2] != b'BM' and content[1:4] != b'PNG'


@cases(150)
@given(st.lists(st.tuples(FILES, NAMES, st.sampled_from(SUFFIXES)), min_size=1, max_size=3), st.sampled_from(FLAGS))
def test_tools_use_what_can_be_read(run, files, options):
    with folder() as place:
        images = place / 'images'
        images.mkdir()
        for number, (content, name, suffix) in enumerate(files):
            (images / f'{number}{name}{suffix}').write_bytes(content)
        shared = [images, *run, '--device', 'cpu', '--workers', 0, '--batch-size', 2]
        with ends_well('Could not be loaded'):
            call('image_demo.py', *shared, '--out-dir', place / 'drawn', '--legend', *options)
        with ends_well('Could not be loaded', 'cannot stand in images.txt'):
            call('pseudo_label.py', *shared, '--out-dir', place / 'labels', '--threshold', 0.3, '--confidence')
        drawn, labelled = (
            sum(path.is_file() for path in (place / kind).rglob('*.*')) for kind in ('drawn', 'labels/labels')
        )
        assert drawn == labelled or any('\n' in name for _, name, _ in files)
