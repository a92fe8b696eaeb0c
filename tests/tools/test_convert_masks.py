"""tools/dataset_converters/convert_masks.py: masks as people have them become maps of class ids."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from commands import call
from PIL import Image

IDS = np.array([[0, 1], [1, 2]], np.uint8)
COLOURS = np.array([[10, 20, 30], [200, 0, 0], [255, 255, 255]], np.uint8)


@pytest.fixture
def convert(tmp_path, capsys):
    """Converts; returns the label files, and what was printed."""
    (tmp_path / 'masks').mkdir()

    def run(masks, *options):
        ended = ''
        try:
            call('dataset_converters/convert_masks.py', tmp_path / masks, '--out', tmp_path / 'out', *options)
        except SystemExit as end:
            ended = str(end.code)
        found = {path.stem: np.array(Image.open(path)).tolist() for path in (tmp_path / 'out').rglob('*.png')}
        return found, capsys.readouterr().out + ended

    return run


def test_colours_whatever_the_order_of_palettes(convert, tmp_path):
    Image.fromarray(COLOURS[IDS]).save(tmp_path / 'masks/a.png')
    for name, order in dict(b=[0, 1, 2], c=[2, 0, 1]).items():
        image = Image.fromarray(np.argsort(order)[IDS].astype(np.uint8), 'P')
        image.putpalette(COLOURS[order].tobytes())
        image.save(tmp_path / f'masks/{name}.png')
    (tmp_path / 'palette.txt').write_text('wall=10,20,30\ndoor=200,0,0\nignore=255')
    found, said = convert('masks', '--classes', f'@{tmp_path}/palette.txt')
    assert found == dict.fromkeys('abc', [[0, 1], [1, 255]])
    assert '0 wall: 25.00%' in said and '1 door: 50.00%' in said and 'ignored (255): 3 pixels' in said


def test_grey_levels_and_colours_that_are_no_class(convert, tmp_path):
    Image.fromarray(np.array([[0, 128], [255, 131]], np.uint8)).save(tmp_path / 'masks/a.png')
    two, three = ('--classes', 'wall=0', 'door=255'), ('--classes', 'wall=0', 'rim=128', 'door=255', '--tolerance', '3')
    found, said = convert('masks', *two)
    assert not found and '(128, 128, 128): 1' in said and '(131, 131, 131): 1' in said and 'give --unknown' in said
    assert convert('masks', *two, '--unknown', '255')[0] == dict(a=[[0, 255], [1, 255]])
    assert convert('masks', *three)[0] == dict(a=[[0, 1], [2, 1]])


def test_labelme(convert, tmp_path, monkeypatch):
    """With a stand-in for the package, which needs a desktop's libraries."""
    shapes = [dict(label='door', points=[[0, 0], [1, 0]]), dict(label='dog', points=[[1, 1]])]
    (tmp_path / 'masks/a.json').write_text(json.dumps(dict(imageHeight=2, imageWidth=2, shapes=shapes)))
    monkeypatch.setitem(sys.modules, 'labelme', None)
    assert 'pip install labelme' in convert('masks')[1]

    def shapes_to_label(size, shapes, ids):
        labels = np.zeros(size, np.int32)
        for shape in shapes:
            x, y = np.transpose(shape['points'])
            labels[y, x] = ids[shape['label']]
        return labels, None

    utils = SimpleNamespace(shapes_to_label=shapes_to_label)
    package = SimpleNamespace(LabelFile=lambda path: SimpleNamespace(shapes=shapes), utils=utils)
    monkeypatch.setitem(sys.modules, 'labelme', package)
    assert convert('masks')[0] == dict(a=[[2, 2], [0, 1]])
    assert 'dog: 1' in convert('masks', '--classes', 'door')[1]


def test_coco(convert, tmp_path):
    pytest.importorskip('pycocotools')
    content = dict(
        images=[dict(id=1, file_name='x/a.jpg', height=6, width=5)],
        categories=[dict(id=7, name='dot'), dict(id=3, name='square')],
        annotations=[
            dict(id=1, image_id=1, category_id=7, segmentation=[[1, 1, 3, 1, 3, 3, 1, 3]], area=4, iscrowd=0),
            dict(id=2, image_id=1, category_id=3, segmentation=[[0, 0, 4, 0, 4, 4, 0, 4]], area=16, iscrowd=0),
        ],
    )
    (tmp_path / 'masks.json').write_text(json.dumps(content))
    wanted = np.zeros((6, 5), int)
    wanted[:4, :4], wanted[1:3, 1:3] = 1, 2
    found, said = convert('masks.json')
    assert found == dict(a=wanted.tolist()) and '2 dot' in said
