"""Pictures of predictions."""

import shutil

import cv2
import numpy as np
import pytest
from commands import ROOT, call
from mmengine.config import Config
from mmseg.apis import inference_model, init_model
from mmseg.registry import DATASETS
from tiny_checkpoints import save_checkpoint, save_run

from mmseg_derprop.apis.image_files import find_images, result_path
from mmseg_derprop.datasets.synthetic import PALETTE
from mmseg_derprop.utils.config import load_config

pytestmark = pytest.mark.usefixtures('quick_runs')
STOCK = 'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py'


@pytest.fixture
def run(semi_config, tmp_path):
    return save_run(semi_config(), tmp_path)


@pytest.fixture
def images(shapes, tmp_path):
    """Folder of images that differ in their suffix or their subfolder only; PNG, so that pictures are exact."""
    root = tmp_path / 'images'
    (root / 'x').mkdir(parents=True)
    for number, name in enumerate(('a.png', 'a.bmp', 'x/a.PNG')):
        cv2.imwrite(str(root / name), cv2.imread(str(shapes / f'JPEGImages/val_{number:05d}.jpg')))
    (root / 'notes.txt').write_text('no image')
    return root


def demo(images, run, out, *args):
    call('image_demo.py', images, *run, '--out-dir', out, '--device', 'cpu', '--workers', 0, *args)


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file())


def rgb(path):
    return cv2.imread(str(path))[..., ::-1]


def labels(run, path, network='teacher'):
    """By MMSegmentation's own inference."""
    options = {'model.predict_on': network} if network else None
    model = init_model(str(run[0]), str(run[1]), device='cpu', cfg_options=options)
    return inference_model(model, str(path)).pred_sem_seg.data[0].numpy()


def test_shards_draw_what_one_process_draws_and_resume(run, images, tmp_path, capsys):
    one, two = tmp_path / 'one', tmp_path / 'two'
    demo(images, run, one)
    demo(images, run, two, '--shard', '1/2')
    assert files(two) == ['a.bmp', 'x/a.PNG']
    (two / 'a.bmp').unlink()
    (two / 'x/a.PNG').write_bytes(b'kept')
    demo(images, run, two, '--shard', '1/2', '--resume')
    assert (two / 'x/a.PNG').read_bytes() == b'kept' and '1 of 1 pictures' in capsys.readouterr().out
    (two / 'x/a.PNG').unlink()
    demo(images, run, two, '--resume')
    assert files(one) == files(two)
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in files(one))


@pytest.mark.parametrize('network', ['teacher', 'student'])
def test_overlays_of_a_folder(run, images, tmp_path, capsys, network):
    out = tmp_path / 'out'
    demo(images, run, out, '--opacity', 0.25, '--batch-size', 2, '--predict-on', network)
    assert files(out) == ['a.bmp', 'a.png', 'x/a.PNG']
    for name in files(out):
        wanted = 0.75 * rgb(images / name) + 0.25 * np.array(PALETTE)[labels(run, images / name, network)]
        np.testing.assert_allclose(rgb(out / name), wanted, atol=0.51)
    assert f'3 of 3 pictures in {out}' in capsys.readouterr().out


def test_image_and_legend_beside_the_overlay(run, images, tmp_path):
    demo(images / 'a.png', run, tmp_path / 'out', '--side-by-side', '--legend', '--opacity', 1)
    picture, image = rgb(tmp_path / 'out/a.png'), rgb(images / 'a.png')
    found = labels(run, images / 'a.png')
    np.testing.assert_array_equal(picture[:64, :64], image)
    np.testing.assert_array_equal(picture[:64, 64:], np.array(PALETTE)[found])
    below = {tuple(colour) for colour in picture[64:].reshape(-1, 3)}
    seen = set(np.unique(found))
    for number, colour in enumerate(PALETTE):
        assert (tuple(colour) in below) == (number in seen)


def test_patterns_and_single_images(images):
    def names(source):
        return [image.name for image in find_images(str(source))]

    assert names(images) == ['a.bmp', 'a.png', 'x/a.PNG']
    assert names(images / 'x') == names(images / 'x/a.PNG') == ['a.PNG']
    assert names(images / '*.png') == ['a.png']
    assert names(images / '**/a.*') == ['a.bmp', 'a.png', 'x/a.PNG']
    assert names(images / '*/a.PNG') == ['x/a.PNG']
    assert [image.path for image in find_images(str(images / '**/*.PNG'))] == [str(images / 'x/a.PNG')]
    (images / 'b[1].png').touch()
    assert names(images / 'b[1].png') == ['b[1].png']


def test_broken_images_are_named_at_the_end(run, images, tmp_path, capsys):
    (images / 'a.bmp').write_bytes(b'broken')
    whole = cv2.imencode('.jpg', np.full((40, 40, 3), 90, np.uint8))[1].tobytes()
    (images / 'b.jpg').write_bytes(whole[:-40])  # of which OpenCV 4 would make up the lower part
    with pytest.raises(SystemExit) as end:
        demo(images, run, tmp_path / 'out', '--batch-size', 3)
    assert f'Could not be loaded:\n{images / "a.bmp"}: ' in str(end.value)
    assert f'{images / "b.jpg"}: is cut off' in str(end.value)
    assert files(tmp_path / 'out') == ['a.png', 'x/a.PNG']
    assert '2 of 4 pictures' in capsys.readouterr().out


def test_wrong_arguments(run, images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = (images / 'a.png').read_bytes()
    for source, out, given, args, message in (
        ('images', 'images/x/y', run, [], 'must be outside of images'),
        ('images/a.png', 'images', run, [], 'would replace the image'),
        ('none', 'out', run, [], "'none' must be an image, a folder or a quoted pattern"),
        ('images', 'out', ('none.py', run[1]), [], 'there is no config none.py'),
        ('images', 'out', (run[0], 'none.pth'), [], 'there is no checkpoint none.pth'),
    ):
        with pytest.raises(SystemExit) as end:
            demo(source, given, out, *args)
        assert end.value.code == 2 and message in capsys.readouterr().err
    assert (images / 'a.png').read_bytes() == before


def test_results_stay_in_their_folder(run, images, tmp_path, monkeypatch, capsys):
    """Names that a pattern makes would lead out of it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(images, 'others')
    with pytest.raises(SystemExit) as end:
        demo('images/*/../../others/a.png', run, tmp_path / 'deep/out')
    assert end.value.code == 2 and 'leads out of' in capsys.readouterr().err
    assert result_path('out', 'x/../a.png') == tmp_path / 'out/a.png'
    for folder, name in (('out', '../a.png'), ('.', '../a.png'), ('out', str(tmp_path / 'outer/a.png'))):
        with pytest.raises(ValueError, match='leads out of'):
            result_path(folder, name)


def test_weights_of_another_network_are_refused(run, images, shapes, small_segmentor, tmp_path):
    """The engine alone warns and predicts with random weights."""
    config = load_config(str(ROOT / 'configs/supervised/tiny_shapes.py'), {'data_root': str(shapes)})
    config.model = small_segmentor
    config.dump(tmp_path / 'plain.py')
    with pytest.raises(SystemExit, match='does not fit the model.*'):
        demo(images, (tmp_path / 'plain.py', run[1]), tmp_path / 'out')
    plain = save_checkpoint(config, tmp_path / 'plain.pth')
    demo(images, (run[0], plain), tmp_path / 'out')  # a plain one loads into student and teacher
    wanted = labels((tmp_path / 'plain.py', plain), images / 'a.png', network=None)
    demo(images / 'a.png', (run[0], plain), tmp_path / 'full', '--opacity', 1)
    np.testing.assert_array_equal(rgb(tmp_path / 'full/a.png'), np.array(PALETTE)[wanted])


def test_a_stock_config(images, tmp_path):
    """Of MMSegmentation itself, with the names and colours of its data."""
    (tmp_path / 'stock.py').write_text(f'_base_ = {STOCK!r}\nmodel = dict(pretrained=None)\n')
    config = Config.fromfile(tmp_path / 'stock.py')
    run = tmp_path / 'stock.py', save_checkpoint(config, tmp_path / 'stock.pth', meta=None)
    small = ['--cfg-options', 'test_dataloader.dataset.pipeline.1.scale=(128,128)']
    demo(images / 'a.png', run, tmp_path / 'out', '--legend', '--opacity', 1, *small)
    kind = DATASETS.get('ADE20KDataset')
    seen = {tuple(colour) for colour in rgb(tmp_path / 'out/a.png')[:64].reshape(-1, 3).tolist()}
    assert seen <= {tuple(colour) for colour in kind.METAINFO['palette']} and len(seen) > 1
