"""Pictures of predictions, and the commands of docs/inference.md."""

import re
import shlex
import shutil
import warnings

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.apis import inference_model, init_model
from mmseg.registry import DATASETS
from tiny_checkpoints import ROOT, call, save_checkpoint, save_run

from mmseg_derprop.apis.image_files import find_images, result_path
from mmseg_derprop.apis.inference import inference_pipeline
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
    (tmp_path / 'empty').mkdir()
    before = (images / 'a.png').read_bytes()
    for source, out, given, args, message in (
        ('images', 'out', run, ['--opacity', 2], 'opacity must be from 0 to 1, but is 2.0'),
        ('images', 'out', run, ['--batch-size', 0], 'batch-size must be at least 1, but is 0'),
        ('images', 'out', run, ['--device', 'abacus'], 'abacus'),
        ('images', 'images/x/y', run, [], 'must be outside of images'),
        ('images/a.png', 'images', run, [], 'would replace the image'),
        ('none', 'out', run, [], "'none' must be an image, a folder or a quoted pattern"),
        ('empty', 'out', run, [], 'must have an image'),
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


def test_pipelines_lose_their_annotations_only():
    init_default_scope('mmseg')
    pack, load = dict(type='PackSegInputs'), dict(type='LoadImageFromFile')
    flips = [dict(type='RandomFlip', prob=p) for p in (0.0, 1.0)]
    many = dict(type='TestTimeAug', transforms=[flips, [dict(type='LoadAnnotations')], [pack]])
    config = Config(
        dict(
            test_pipeline=[load, dict(type='LoadAnnotations', reduce_zero_label=True), pack],
            tta_pipeline=[load, many],
        )
    )
    assert inference_pipeline(config) == [load, pack]
    assert inference_pipeline(config, tta=True) == [load, dict(type='TestTimeAug', transforms=[flips, [pack]])]
    with pytest.raises(ValueError, match='has no tta_pipeline'):
        inference_pipeline(Config(dict(test_pipeline=[load])), tta=True)


# The page ------------------------------------------------------------------------------------------------------------


def blocks(language):
    return re.findall(rf'```{language}\n(.*?)```', (ROOT / 'docs/inference.md').read_text(), re.S)


def test_commands_of_the_page(shapes, tmp_path, monkeypatch):
    """As written, from the first to the last, then the config that trains on the result."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data').mkdir()
    shutil.copytree(shapes, tmp_path / 'data/shapes')
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    work = tmp_path / 'work_dirs/tiny_shapes'
    work.mkdir(parents=True)
    save_checkpoint(load_config('configs/derprop/tiny_shapes.py'), work / 'iter_800.pth', threshold=0.5)
    commands = [line for block in blocks('bash') for line in block.replace('\\\n', ' ').splitlines() if line.strip()]
    assert len(commands) >= 5
    for command in commands:
        program, script, *args = shlex.split(command, comments=True)
        assert program == 'python' and script.startswith('tools/')
        if '--device' in args:
            args[args.index('--device') + 1] = 'cpu'
        call(script.removeprefix('tools/'), *args, *([] if '--workers' in args else ['--workers', '0']))
        assert files(tmp_path / args[args.index('--out-dir') + 1])
    (config,) = blocks('python')
    (tmp_path / 'more_labels.py').write_text(config)
    init_default_scope('mmseg')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        dataset = DATASETS.build(Config.fromfile('more_labels.py').train_dataloader.dataset)
    maps = len((tmp_path / 'work_dirs/labels/images.txt').read_text().split())
    assert maps > 0 and dataset.num_labeled == 4 + maps
    crop = dataset[dataset.num_labeled - 1]['data_samples']['sup'].gt_sem_seg.data
    assert crop.shape == (1, 96, 96) and torch.isin(crop, torch.tensor([*range(6), 255])).all()
