"""tools/dataset_converters/prepare_data.py, from miniature archives and from a host that breaks off."""

import hashlib
import io
import sys
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from commands import ROOT, load
from PIL import Image
from scipy.io import savemat

PUBLISHED = ROOT.parent / 'shared' / 'splits'
LISTS = {
    'pascal/92': 'JPEGImages/b_2.jpg SegmentationClass/b_2.png',
    'cityscapes/1_2': 'leftImg8bit/train/bonn/x_leftImg8bit.png gtFine/train/bonn/x_gtFine_labelTrainIds.png',
}


def image(kind, value, mode='L'):
    content = io.BytesIO()
    Image.new(mode, (6, 4), value).save(content, kind)
    return content.getvalue()


def zipped(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, 'w') as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def tarred(files, mode):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return content.getvalue()


class Host(BaseHTTPRequestHandler):
    """Breaks the first answer off after 1000 bytes."""

    def do_GET(self):
        name, start = self.path[1:], int(self.headers.get('Range', 'bytes=0-')[6:-1])
        content = self.server.contents[name][start:]
        self.send_response(206 if start else 200)
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        self.wfile.write(content if self.server.asked else content[:1000])
        self.server.asked.append((name, start))

    def log_message(self, *args):
        pass


@pytest.fixture
def host():
    server = ThreadingHTTPServer(('127.0.0.1', 0), Host)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'tools/dataset_converters')
    return load('dataset_converters/prepare_data.py')


@pytest.fixture
def publish(tool, monkeypatch, host, tmp_path):
    """Makes contents, {name: bytes}, the archives of a data set, in tmp_path and on the host; LISTS are its lists."""

    def publish(name, contents, remote=False):
        host.contents = contents
        lists = {f'{path}/{kind}labeled.txt': text for path, text in LISTS.items() for kind in ('', 'un')}
        contents['UniMatch.zip'] = zipped({f'UniMatch-x/splits/{path}': text for path, text in lists.items()})
        sums = {path: hashlib.sha256(text.encode()).hexdigest() for path, text in lists.items()}
        url = f'http://127.0.0.1:{host.server_port}/' * remote
        archives = [
            tool.Archive(file, f'sha1:{hashlib.sha1(content).hexdigest()}', url and url + file)
            for file, content in contents.items()
        ]
        for file, content in contents.items():
            (tmp_path / file).write_bytes(content)
        monkeypatch.setattr(tool, 'SHA256', sums)
        monkeypatch.setitem(tool.DATA, name, archives[:-1])
        monkeypatch.setitem(tool.LISTS, name, archives[-1:])

    return publish


@pytest.fixture
def run(tool, monkeypatch, tmp_path):
    def call(name, *options):
        words = [name, '--out', tmp_path / 'out', '--downloads', tmp_path / 'downloads', *options]
        monkeypatch.setattr(sys, 'argv', ['prepare_data.py', *map(str, words)])
        tool.main()
        return tmp_path / 'out'

    return call


def pixels(path):
    return np.asarray(Image.open(path))


def test_voc_from_a_host_that_breaks_off(publish, run, host):
    root, fine, coarse = 'VOCdevkit/VOC2012', image('PNG', 7), io.BytesIO()
    fields = [('Boundaries', object), ('Segmentation', object)]
    savemat(coarse, {'GTcls': np.array([[(1, np.full((4, 6), 3))]], dtype=fields)})
    files = {f'{root}/JPEGImages/{name}.jpg': image('JPEG', 90) for name in ('a_1', 'b_2')}
    files |= {f'{root}/SegmentationClass/a_1.png': fine, f'{root}/ImageSets/Segmentation/val.txt': b'a_1\n'}
    sbd = {f'benchmark_RELEASE/dataset/cls/{name}.mat': coarse.getvalue() for name in ('a_1', 'b_2')}
    contents = {'voc.tar': tarred(files, 'w'), 'sbd.tgz': tarred(sbd, 'w:gz')}
    publish('voc', contents, remote=True)
    with pytest.raises(SystemExit, match=f'lost after 1000 of {len(contents["voc.tar"])} bytes.*resumes'):
        run('voc')
    out = run('voc')
    run('voc')  # asks nobody
    assert host.asked == [('voc.tar', 0), ('voc.tar', 1000), ('sbd.tgz', 0), ('UniMatch.zip', 0)]
    found = {str(path.relative_to(out)) for path in out.rglob('*') if path.is_file() and path.name[0] != '.'}
    assert found == {
        *('JPEGImages/a_1.jpg', 'JPEGImages/b_2.jpg', 'ImageSets/Segmentation/val.txt'),
        *('SegmentationClass/a_1.png', 'SegmentationClassAug/a_1.png', 'SegmentationClassAug/b_2.png'),
        *('ImageSets/Semi/1_16/labeled.txt', 'ImageSets/Semi/1_16/unlabeled.txt'),
    }
    assert (out / 'SegmentationClassAug/a_1.png').read_bytes() == fine
    assert (pixels(out / 'SegmentationClassAug/b_2.png') == 3).all()
    assert (out / 'ImageSets/Semi/1_16/labeled.txt').read_text() == 'b_2\n'


def test_cityscapes_from_a_folder(tool, publish, run, tmp_path):
    content = io.BytesIO()
    Image.fromarray(np.arange(36, dtype=np.uint8).reshape(6, 6)).save(content, 'PNG')
    files = {f'leftImg8bit/{part}/bonn/x_leftImg8bit.png': image('PNG', 5) for part in ('val', 'test')}
    labels = zipped({'gtFine/val/bonn/x_gtFine_labelIds.png': content.getvalue()})
    contents = {'images.zip': zipped(files), 'labels.zip': labels}
    publish('cityscapes', contents)
    with pytest.raises(SystemExit, match=r'images.zip is for registered users only.*--from'):
        run('cityscapes')
    (tmp_path / 'images.zip').write_bytes(labels)
    with pytest.raises(SystemExit, match='images.zip must have the SHA1 .* of the published archive, but has'):
        run('cityscapes', '--from', tmp_path)
    (tmp_path / 'images.zip').write_bytes(contents['images.zip'])
    own = tmp_path / 'out/splits/1_2/labeled.txt'
    own.parent.mkdir(parents=True)
    own.write_text('mine\n')
    with pytest.raises(SystemExit, match='1_2/labeled.txt exists and is not the published list. Move it away.'):
        run('cityscapes', '--from', tmp_path)
    own.unlink()
    out = run('cityscapes', '--from', tmp_path)
    assert own.read_text() == 'bonn/x\n' and [path.name for path in (out / 'leftImg8bit').iterdir()] == ['val']
    train_ids = pixels(out / 'gtFine/val/bonn/x_gtFine_labelTrainIds.png').ravel()
    assert (train_ids != 255).sum() == 19 and list(train_ids[[7, 8, 26, 33]]) == [0, 1, 13, 18]


def test_camvid_with_its_draws(publish, run, tmp_path):
    files = {}
    for number in range(128):
        files[f'SegNet-x/CamVid/train/f_{number:03}.png'] = image('PNG', (9, 9, 9), mode='RGB')
        files[f'SegNet-x/CamVid/trainannot/f_{number:03}.png'] = image('PNG', number % 3)
    files |= {'SegNet-x/CamVid/val/v.png': image('PNG', 9), 'SegNet-x/CamVid/valannot/v.png': image('PNG', 11)}
    publish('camvid', {'CamVid.zip': zipped(files)})
    out = run('camvid', '--from', tmp_path)
    assert (out / 'splits/val.txt').read_text() == 'v\n' and (pixels(out / 'labels/val/v.png') == 11).all()
    assert Image.open(out / 'images/train/f_000.jpg').format == 'JPEG'
    counts = [len((out / f'splits/1_{n}/labeled.txt').read_text().split()) for n in (64, 32, 16, 8, 4)]
    assert counts == [2, 4, 8, 16, 32] and len((out / 'splits/1_4/unlabeled.txt').read_text().split()) == 96


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason='the published lists are not part of this repository')
@pytest.mark.parametrize('data, count, split, size', [('voc', 22, '1_4', 366), ('cityscapes', 10, '1_2', 1488)])
def test_published_lists(run, data, count, split, size, tmp_path):
    files = {f'x/splits/{path.relative_to(PUBLISHED)}': path.read_bytes() for path in PUBLISHED.rglob('*.txt')}
    for name in ('UniMatch.zip', 'UniMatch-V2.zip'):
        (tmp_path / name).write_bytes(zipped(files))
    out = run(data, '--lists', '--from', tmp_path)
    names = {path: path.read_text().splitlines() for path in out.rglob('*.txt')}
    (labeled,) = (ids for path, ids in names.items() if path.match(f'{split}/labeled.txt'))
    assert len(names) == count and len(labeled) == size and not any(' ' in name for name in labeled)
