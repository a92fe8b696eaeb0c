"""tools/dataset_converters/prepare_data.py, from miniature archives and from a host that breaks off."""

import hashlib
import io
import sys
import tarfile
import threading
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from commands import ROOT, load
from PIL import Image
from scipy.io import savemat

FOLDER = 'dataset_converters'


@pytest.fixture(scope='module')
def tool():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / 'tools' / FOLDER)
        yield load(f'{FOLDER}/prepare_data.py')


def image(kind, value, size=(6, 4), mode='L'):
    content = io.BytesIO()
    Image.new(mode, size, value).save(content, kind)
    return content.getvalue()


def tar(files, mode):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return content.getvalue()


def zipped(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, 'w') as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def sbd(labels):
    content = io.BytesIO()
    savemat(content, {'GTcls': np.array([[(labels,)]], dtype=[('Segmentation', object)])})
    return content.getvalue()


@contextmanager
def host(contents, lost=0):
    """A host of files that breaks the first answer off after ``lost`` bytes; gives its URL and what it was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            content, start = contents[self.path[1:]], self.headers.get('Range')
            asked.append((self.path[1:], start))
            first = int(start.removeprefix('bytes=').rstrip('-')) if start else 0
            self.send_response(206 if start else 200)
            self.send_header('Content-Length', str(len(content) - first))
            self.end_headers()
            self.wfile.write(content[first : lost if lost and len(asked) == 1 else None])

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}', asked
    server.shutdown()
    server.server_close()


@pytest.fixture
def published(tool, monkeypatch):
    """Makes contents, {name: bytes}, the published archives of a data set."""

    def publish(name, contents, url=''):
        archives = tuple(
            tool.Archive(file, url and f'{url}/{file}', 'sha1', hashlib.sha1(content).hexdigest())
            for file, content in contents.items()
        )
        monkeypatch.setitem(tool.DATA_SETS, name, tool.DATA_SETS[name]._replace(archives=archives))

    return publish


@pytest.fixture
def run(tool, monkeypatch, tmp_path):
    def call(name, *options):
        words = ['prepare_data.py', name, '--out', tmp_path / 'out', '--downloads', tmp_path / 'downloads', *options]
        monkeypatch.setattr(sys, 'argv', list(map(str, words)))
        tool.main()
        return tmp_path / 'out'

    return call


def pixels(path):
    return np.asarray(Image.open(path))


def test_voc_from_a_host_that_breaks_off(tool, published, run, monkeypatch, tmp_path):
    root = 'VOCdevkit/VOC2012'
    fine, coarse = image('PNG', 7), sbd(np.full((4, 6), 3, np.uint8))
    contents = {
        'voc.tar': tar(
            {
                f'{root}/JPEGImages/a_1.jpg': image('JPEG', 90),
                f'{root}/JPEGImages/b_2.jpg': image('JPEG', 80),
                f'{root}/SegmentationClass/a_1.png': fine,
                f'{root}/ImageSets/Segmentation/val.txt': b'a_1\n',
                f'{root}/Annotations/a_1.xml': b'<xml/>',
            },
            'w',
        ),
        'sbd.tgz': tar({f'benchmark_RELEASE/dataset/cls/{name}.mat': coarse for name in ('a_1', 'b_2')}, 'w:gz'),
    }
    lists = []
    monkeypatch.setattr(tool.prepare_splits, 'prepare', lambda data, root, *args, **kwargs: lists.append(root))
    with host(contents, lost=1000) as (url, asked):
        published('voc', contents, url)
        with pytest.raises(SystemExit, match=f'lost after 1000 of {len(contents["voc.tar"])} bytes.*resumes'):
            run('voc')
        out = run('voc')
        assert asked == [('voc.tar', None), ('voc.tar', 'bytes=1000-'), ('sbd.tgz', None)] and lists == [out]
    found = {str(path.relative_to(out)) for path in out.rglob('*') if path.is_file() and path.name[0] != '.'}
    assert found == {
        *(f'JPEGImages/{name}.jpg' for name in ('a_1', 'b_2')),
        *('SegmentationClass/a_1.png', 'SegmentationClassAug/a_1.png', 'SegmentationClassAug/b_2.png'),
        'ImageSets/Segmentation/val.txt',
    }
    assert (out / 'SegmentationClassAug/a_1.png').read_bytes() == fine
    assert (pixels(out / 'SegmentationClassAug/b_2.png') == 3).all()
    run('voc')  # asks nobody


def test_cityscapes_from_a_folder(tool, published, run, monkeypatch, tmp_path, capsys):
    labels = np.arange(36, dtype=np.uint8).reshape(6, 6)
    content = io.BytesIO()
    Image.fromarray(labels).save(content, 'PNG')
    contents = {
        'images.zip': zipped(
            {f'leftImg8bit/{part}/bonn/x_leftImg8bit.png': image('PNG', 5) for part in ('val', 'test')}
        ),
        'labels.zip': zipped({'gtFine/val/bonn/x_gtFine_labelIds.png': content.getvalue()}),
    }
    published('cityscapes', contents)
    with pytest.raises(SystemExit, match=r'images.zip is for registered users only.*--from'):
        run('cityscapes')
    line = tool.prepare_splits.DATA_SETS['cityscapes'].line.format('bonn/x')
    for kind in ('labeled', 'unlabeled'):
        path = tmp_path / f'from/cityscapes/1_2/{kind}.txt'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(line)
        monkeypatch.setitem(
            tool.prepare_splits.SHA256, f'cityscapes/1_2/{kind}.txt', hashlib.sha256(line.encode()).hexdigest()
        )
    lists = tool.prepare_splits.DATA_SETS['cityscapes']._replace(splits={'1_2': '1_2'})
    monkeypatch.setitem(tool.prepare_splits.DATA_SETS, 'cityscapes', lists)
    for name, data in contents.items():
        (tmp_path / 'from' / name).write_bytes(data[:-1])
    with pytest.raises(SystemExit, match='images.zip must have the SHA1 .* of the published archive, but has'):
        run('cityscapes', '--from', tmp_path / 'from')
    for name, data in contents.items():
        (tmp_path / 'from' / name).write_bytes(data)
    out = run('cityscapes', '--from', tmp_path / 'from')
    assert f'{out}/leftImg8bit/val: 1 files' in capsys.readouterr().out and not (out / 'leftImg8bit/test').exists()
    train_ids = pixels(out / 'gtFine/val/bonn/x_gtFine_labelTrainIds.png').ravel()
    assert (train_ids != 255).sum() == 19 and list(train_ids[[7, 8, 26, 33]]) == [0, 1, 13, 18]
    assert (out / 'splits/1_2/labeled.txt').read_text() == 'bonn/x\n'


def test_camvid_with_its_draws(published, run):
    files = {}
    for number in range(128):
        files[f'SegNet-x/CamVid/train/f_{number:03}.png'] = image('PNG', (9, 9, 9), mode='RGB')
        files[f'SegNet-x/CamVid/trainannot/f_{number:03}.png'] = image('PNG', number % 3)
    files |= {'SegNet-x/CamVid/val/v.png': image('PNG', 9), 'SegNet-x/CamVid/valannot/v.png': image('PNG', 11)}
    contents = {'CamVid.zip': zipped(files)}
    with host(contents) as (url, _):
        published('camvid', contents, url)
        out = run('camvid')
    assert (out / 'splits/val.txt').read_text() == 'v\n' and (pixels(out / 'labels/val/v.png') == 11).all()
    assert Image.open(out / 'images/train/f_000.jpg').format == 'JPEG'
    counts = [len((out / f'splits/1_{n}/labeled.txt').read_text().split()) for n in (64, 32, 16, 8, 4)]
    assert counts == [2, 4, 8, 16, 32] and len((out / 'splits/1_4/unlabeled.txt').read_text().split()) == 96
