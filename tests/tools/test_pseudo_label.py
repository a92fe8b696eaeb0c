"""Labelling a folder: what is written is what the network says, and an interruption costs nothing."""

import csv
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.apis import inference_model, init_model
from mmseg.datasets import BaseSegDataset
from mmseg.models import SegTTAModel
from mmseg.registry import DATASETS
from mmseg.structures import SegDataSample
from PIL import Image
from tiny_checkpoints import ROOT, call, save_checkpoint

from mmseg_derprop.apis.inference import confidence
from mmseg_derprop.apis.label_folder import LabelFolder
from mmseg_derprop.datasets.synthetic import CLASSES, PALETTE
from mmseg_derprop.utils.config import load_config

pytestmark = pytest.mark.usefixtures('quick_runs')
THRESHOLD = 0.6


@pytest.fixture
def run(semi_config, tmp_path):
    """A config of a SemiSegmentor and a checkpoint of it."""
    config = semi_config()
    path = tmp_path / 'semi.py'
    config.dump(path)
    return path, save_checkpoint(config, tmp_path / 'semi.pth', tau=0.7)


@pytest.fixture
def images(shapes, tmp_path):
    """Folder of images of two sizes, one in a subfolder."""
    root = tmp_path / 'images'
    (root / 'deeper').mkdir(parents=True)
    for number in range(4):
        shutil.copy(shapes / f'JPEGImages/val_{number:05d}.jpg', root / f'{number}.jpg')
    wide = cv2.imread(str(root / '3.jpg'))[:40]
    cv2.imwrite(str(root / 'deeper/0.png'), wide)
    return root


def label(images, run, out, *args):
    call('pseudo_label.py', images, *run, '--out-dir', out, '--device', 'cpu', '--workers', 0, *args)


def table(out):
    with open(out / 'images.csv', newline='') as file:
        return {row['file']: row for row in csv.DictReader(file)}


def content(out):
    """Every file of an output folder that labels or names images; the order of the table does not matter."""
    files = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob('*') if p.is_file()}
    files['images.csv'] = sorted(files['images.csv'].splitlines())
    return files


def expected(run, image, **options):
    """Labels and confidence by MMSegmentation's own inference."""
    model = init_model(str(run[0]), str(run[1]), device='cpu', cfg_options=options or None)
    sample = inference_model(model, str(image))
    return sample.pred_sem_seg.data[0].numpy(), sample.seg_logits.data.softmax(0).amax(0).numpy()


@pytest.mark.parametrize('network', ['teacher', 'student'])
def test_labels_are_the_networks_where_it_is_confident(run, images, tmp_path, capsys, network):
    out = tmp_path / 'out'
    label(images, run, out, '--threshold', THRESHOLD, '--confidence', '--batch-size', 3, '--predict-on', network)
    rows = table(out)
    assert list(rows) == ['0.jpg', '1.jpg', '2.jpg', '3.jpg', 'deeper/0.png']
    for name, row in rows.items():
        labels, wanted = expected(run, images / name, **{'model.predict_on': network})
        found = Image.open((out / 'labels' / name).with_suffix('.png'))
        assert found.mode == 'P'
        found, sure = np.array(found), wanted >= THRESHOLD
        assert 0.05 < sure.mean() < 0.95  # else this would show little
        np.testing.assert_array_equal(found, np.where(sure, labels, 255))
        assert float(row['labelled']) == pytest.approx(sure.mean(), abs=1e-6)
        assert float(row['mean_confidence']) == pytest.approx(wanted.mean(), abs=1e-5)
        shares = [float(row[f'share_{c}']) for c in CLASSES]
        assert shares == pytest.approx([(found == k).mean() for k in range(6)], abs=1e-6)
        levels = cv2.imread(str((out / 'confidence' / name).with_suffix('.png')), cv2.IMREAD_UNCHANGED)
        assert levels.dtype == np.uint16
        np.testing.assert_allclose(levels / 65535, wanted, atol=1e-5)
    labelled = 100 * np.mean([float(row['labelled']) for row in rows.values()])
    assert f'{labelled:.1f} % of the pixels' in capsys.readouterr().out


def test_teacher_and_student_differ(run, images):
    """Else the test above could not tell them apart."""
    teacher, student = (expected(run, images / '0.jpg', **{'model.predict_on': n})[0] for n in ('teacher', 'student'))
    assert (teacher != student).any()


def test_a_plain_network_and_its_colours(small_segmentor, shapes, images, tmp_path):
    config = load_config(str(ROOT / 'configs/supervised/tiny_shapes.py'), {'data_root': str(shapes)})
    config.model = small_segmentor
    config.dump(tmp_path / 'plain.py')
    run = tmp_path / 'plain.py', save_checkpoint(config, tmp_path / 'plain.pth', meta=None)
    label(images, run, tmp_path / 'out', '--threshold', 0, '--ignore', 6)
    found = Image.open(tmp_path / 'out/labels/2.png')
    np.testing.assert_array_equal(np.array(found), expected(run, images / '2.jpg')[0])
    colours = np.array(found.convert('RGB'))  # of the config's data, where the checkpoint names none
    np.testing.assert_array_equal(colours, np.array(PALETTE)[np.array(found)])
    with pytest.raises(SystemExit, match='EncoderDecoder'):
        label(images, run, tmp_path / 'out', '--predict-on', 'student')
    with pytest.raises(SystemExit, match=r'holds no threshold \(pseudo_labeler.tau\)'):
        label(images, run, tmp_path / 'out', '--tau-from-checkpoint')


def test_threshold_of_the_checkpoint(run, images, tmp_path):
    for name, limit in dict(tau=['--tau-from-checkpoint'], same=['--threshold', 0.7]).items():
        label(images / '0.jpg', run, tmp_path / name, *limit)
    maps = [np.array(Image.open(tmp_path / name / 'labels/0.png')) for name in ('tau', 'same')]
    np.testing.assert_array_equal(*maps)
    assert json.loads((tmp_path / 'tau/settings.json').read_text())['threshold'] == pytest.approx(0.7)


def test_augmentation_at_test_time(run, images, tmp_path):
    """Against the mean of single predictions; MMSegmentation's own merge agrees on the labels."""
    label(images / '1.jpg', run, tmp_path / 'out', '--threshold', 0, '--confidence', '--tta')
    model = init_model(str(run[0]), str(run[1]), device='cpu')
    steps = Config.fromfile(run[0]).tta_pipeline
    steps[-1].transforms = [group for group in steps[-1].transforms if group[0].type != 'LoadAnnotations']
    data = pseudo_collate([Compose(steps)(dict(img_path=str(images / '1.jpg')))])
    with torch.no_grad():
        (merged,) = SegTTAModel(module=model).test_step(data)
        views = [dict(inputs=i, data_samples=s) for i, s in zip(data['inputs'], data['data_samples'])]
        mean = sum(model.test_step(view)[0].seg_logits.data.softmax(0) for view in views) / len(views)
    assert len(views) == 12
    found = np.array(Image.open(tmp_path / 'out/labels/1.png'))
    np.testing.assert_array_equal(found, merged.pred_sem_seg.data.squeeze().numpy())
    levels = cv2.imread(str(tmp_path / 'out/confidence/1.png'), cv2.IMREAD_UNCHANGED)
    np.testing.assert_allclose(levels / 65535, mean.amax(0).numpy(), atol=1e-5)


def test_a_single_channel():
    """The confidence in 'no' is one minus the probability."""
    sample = SegDataSample()
    sample.seg_logits = PixelData(data=torch.tensor([[[0.9, 0.2, 0.4]]]))
    sample.pred_sem_seg = PixelData(data=torch.tensor([[[1.0, 0.0, 1.0]]]))  # a threshold of 0.3
    torch.testing.assert_close(confidence(sample), torch.tensor([[0.9, 0.8, 0.4]]))


# Going on ------------------------------------------------------------------------------------------------------------


def test_going_on_after_a_kill(run, images, tmp_path, capsys):
    for number in range(60):
        shutil.copy(images / '1.jpg', images / f'more_{number:02d}.jpg')
    out = tmp_path / 'out'
    script = [sys.executable, ROOT / 'tools/pseudo_label.py', images, *run, '--out-dir', out, '--device', 'cpu']
    process = subprocess.Popen(
        [*map(str, script), '--threshold', str(THRESHOLD), '--workers', '1'],
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore'},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < until:
            if (out / 'images.csv').exists() and (out / 'images.csv').read_bytes().count(b'\n') > 5:
                break
            time.sleep(0.002)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    before = {name: (out / 'labels' / name).with_suffix('.png').stat().st_mtime_ns for name in table(out)}
    assert 5 <= len(before) < 65
    label(images, run, out, '--threshold', THRESHOLD)
    assert f'{len(before)} of 65 images are labelled already' in capsys.readouterr().out
    assert all((out / 'labels' / n).with_suffix('.png').stat().st_mtime_ns == t for n, t in before.items())
    label(images, run, tmp_path / 'whole', '--threshold', THRESHOLD)
    assert content(out) == content(tmp_path / 'whole')


def fill(root, names):
    folder = LabelFolder(root, dict(threshold=0.5), ['a', 'b'], [[1, 2, 3], [4, 5, 6]], threshold=0.5)
    done = set(folder.rows)
    for name in names:
        if name not in done:
            certainty = np.random.default_rng(len(name)).random((9, 7))
            folder.add(name, (certainty * 40).astype(int) % 2, certainty, keep_confidence=True)
    folder.write_list()
    return done


def die_at(moment):
    """Kills this process before or after its n-th write or rename, counted from 0."""
    calls = itertools.count()

    def dying(function):
        def call(*args):
            if next(calls) == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            function(*args)
            if next(calls) == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        return call

    os.fsync, os.replace = dying(os.fsync), dying(os.replace)


def test_a_kill_at_any_moment(tmp_path):
    """Before and after each write and each rename, the folder is one that can be gone on with."""
    names = ['1.jpg', 'deeper/22.jpg']
    fill(tmp_path / 'whole', names)
    finished, killed = [], True
    while killed:
        moment = len(finished)
        root = tmp_path / str(moment)
        process = os.fork()
        if not process:
            die_at(moment)
            fill(root, names)
            os._exit(0)
        killed = os.WIFSIGNALED(os.waitpid(process, 0)[1])
        rows = table(root) if (root / 'images.csv').exists() else {}
        for name, row in rows.items():
            labels = np.array(Image.open((root / 'labels' / name).with_suffix('.png')))
            assert (labels != 255).mean() == pytest.approx(float(row['labelled']), abs=1e-6)
        assert fill(root, names) == set(rows)
        assert content(root) == content(tmp_path / 'whole')
        finished.append(len(rows))
    assert finished == sorted(finished) and set(finished) == {0, 1, 2}


def test_a_torn_or_orphaned_line_is_labelled_again(tmp_path):
    fill(tmp_path, ['1.jpg', '22.jpg', '333.jpg'])
    whole = content(tmp_path)
    path = tmp_path / 'images.csv'
    path.write_bytes(path.read_bytes()[:-3])
    assert fill(tmp_path, ['1.jpg', '22.jpg', '333.jpg']) == {'1.jpg', '22.jpg'}
    (tmp_path / 'labels/22.png').unlink()
    path.write_bytes(path.read_bytes() + path.read_bytes().splitlines(keepends=True)[1])
    assert fill(tmp_path, ['1.jpg', '22.jpg', '333.jpg']) == {'1.jpg', '333.jpg'}
    assert content(tmp_path) == whole


def test_other_settings_are_refused(run, images, tmp_path):
    label(images / '0.jpg', run, tmp_path / 'out', '--threshold', 0.5)
    with pytest.raises(SystemExit, match=r'threshold 0.5 \(now 0.6\).*another folder'):
        label(images / '0.jpg', run, tmp_path / 'out', '--threshold', 0.6)
    state = torch.load(run[1], weights_only=False)
    state['state_dict']['teacher.decode_head.conv_seg.bias'] += 1
    torch.save(state, run[1])
    with pytest.raises(SystemExit, match='checkpoint'):
        label(images / '0.jpg', run, tmp_path / 'out', '--threshold', 0.5)


# What goes wrong -----------------------------------------------------------------------------------------------------


def test_broken_images_do_not_stop_the_rest(run, images, tmp_path):
    (images / '1.jpg').write_bytes(b'no image')
    (images / '2.jpg').write_bytes(b'')
    with pytest.raises(SystemExit) as end:
        label(images, run, tmp_path / 'out', '--batch-size', 4)
    assert end.value.code and all(f'images/{number}.jpg: ' in str(end.value) for number in (1, 2))
    assert list(table(tmp_path / 'out')) == ['0.jpg', '3.jpg', 'deeper/0.png']


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['--threshold', 1.5], 'threshold is 1.5'),
        (['--threshold', 0.5, '--tau-from-checkpoint'], 'not allowed with'),
        (['--batch-size', 0], 'batch-size 0'),
        (['--device', 'abacus'], 'abacus'),
    ],
)
def test_wrong_arguments(run, images, tmp_path, capsys, args, message):
    with pytest.raises(SystemExit) as end:
        label(images, run, tmp_path / 'out', *args)
    assert end.value.code == 2 and message in capsys.readouterr().err


def test_images_that_would_share_a_map(run, images, tmp_path, capsys):
    shutil.copy(images / '0.jpg', images / '0.png')
    with pytest.raises(SystemExit):
        label(images, run, tmp_path / 'out')
    assert '0.jpg and 0.png would share a label map' in capsys.readouterr().err
    label(images / '*.jpg', run, tmp_path / 'out')  # as the message says
    assert len(table(tmp_path / 'out')) == 4


@pytest.mark.parametrize(('classes', 'ignore'), [(256, 255), (6, 5), (6, 256)])
def test_ids_that_eight_bits_do_not_hold(tmp_path, classes, ignore):
    with pytest.raises(ValueError, match=f'id {ignore}, but the {classes} classes'):
        LabelFolder(tmp_path, {}, ['x'] * classes, [[0, 0, 0]] * classes, threshold=0.5, ignore=ignore)


def test_255_classes(tmp_path):
    folder = LabelFolder(tmp_path, {}, list(map(str, range(255))), [[0, 0, 0]] * 255, threshold=0.5)
    folder.add('a.jpg', np.array([[254, 3]]), np.array([[0.5, 0.4]]))
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / 'labels/a.png')), [[254, 255]])


# Training on it ------------------------------------------------------------------------------------------------------


def test_maps_are_a_labelled_source(run, images, tmp_path, semi_config):
    (images / 'deeper/0.png').unlink()
    (images / '2.jpg').write_bytes(b'broken')
    out = tmp_path / 'out'
    with pytest.raises(SystemExit, match='2.jpg'):
        label(images, run, out, '--threshold', THRESHOLD)
    init_default_scope('mmseg')
    loads = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
    source = dict(
        type='ShapesDataset',
        ann_file=str(out / 'images.txt'),
        data_prefix=dict(img_path=str(images), seg_map_path=str(out / 'labels')),
    )
    plain: BaseSegDataset = DATASETS.build(dict(source, pipeline=loads))
    assert len(plain) == 3
    for sample in plain:
        labels = np.array(Image.open(sample['seg_map_path']))
        np.testing.assert_array_equal(sample['gt_seg_map'], labels)
        assert sample['img'].shape[:2] == labels.shape and 255 in labels and len(np.unique(labels)) > 2
    dataset = semi_config().train_dataloader.dataset
    dataset.labeled = [dataset.labeled, dict(source, pipeline=dataset.labeled.pipeline)]
    semi = DATASETS.build(dataset)
    assert semi.num_labeled == 4 + 3
    crops = [semi[index]['data_samples']['sup'].gt_sem_seg.data for index in range(4, 7)]
    assert all(crop.shape == (1, 33, 33) for crop in crops)


def small_folder(root, **changes):
    options = dict(classes=['a', 'b'], palette=[[0, 0, 0], [1, 1, 1]], threshold=0.5) | changes
    return LabelFolder(root, dict(threshold=0.5), **options)


@pytest.mark.parametrize('content', [b'', b'{"thr', b'\xff', b'[1, 2]', b'3'])
def test_damaged_settings_are_told(tmp_path, content):
    small_folder(tmp_path)
    (tmp_path / 'settings.json').write_bytes(content)
    with pytest.raises(ValueError, match='settings.json is damaged'):
        small_folder(tmp_path)


def test_a_damaged_line_is_labelled_again(tmp_path):
    folder = small_folder(tmp_path)
    for name in ('x.png', 'y.png'):
        folder.add(name, np.zeros((2, 2), int), np.ones((2, 2)))
    table = tmp_path / 'images.csv'
    table.write_text(table.read_text().replace('x.png,1', 'x.png,1$'))
    again = small_folder(tmp_path)
    assert [*again.rows] == ['y.png'] and again.write_list() == 1


@pytest.mark.parametrize(
    'changes',
    [dict(threshold='0.5'), dict(threshold=2), dict(ignore='255'), dict(ignore=2.5), dict(classes=[], palette=[])],
)
def test_wrong_options_of_a_folder(tmp_path, changes):
    with pytest.raises(ValueError, match='within'):
        small_folder(tmp_path, **changes)


@pytest.mark.parametrize('name', ['a\nb.png', ' a.png', 'a .png'])
def test_names_that_no_list_can_hold(run, images, tmp_path, capsys, name):
    shutil.copy(images / 'deeper/0.png', images / name)
    with pytest.raises(SystemExit):
        label(images, run, tmp_path / 'out')
    assert f'{name!r} cannot stand in images.txt' in capsys.readouterr().err
