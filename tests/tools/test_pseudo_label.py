"""Labelling a folder: what is written is what the network says, and an interruption costs nothing."""

import csv
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
from commands import ROOT, call, in_use
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
from tiny_checkpoints import save_checkpoint, save_run

from mmseg_derprop.apis.inference import confidence
from mmseg_derprop.datasets.synthetic import CLASSES, PALETTE
from mmseg_derprop.utils import files as locks
from mmseg_derprop.utils.config import load_config

pytestmark = pytest.mark.usefixtures('quick_runs')
THRESHOLD = 0.6


@pytest.fixture
def run(semi_config, tmp_path):
    return save_run(semi_config(), tmp_path)


def table(out):
    with open(out / 'images.csv', newline='') as file:
        return {row['file']: row for row in csv.DictReader(file)}


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


def expected(run, image, **options):
    """Labels and confidence by MMSegmentation's own inference."""
    model = init_model(str(run[0]), str(run[1]), device='cpu', cfg_options=options or None)
    sample = inference_model(model, str(image))
    return sample.pred_sem_seg.data[0].numpy(), sample.seg_logits.data.softmax(0).amax(0).numpy()


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob('[!.]*') if path.is_file()}


def test_shards_make_what_one_process_makes(run, images, tmp_path, capsys):
    label(images, run, tmp_path / 'one', '--threshold', THRESHOLD)
    for part in ('2/3', '1/3', '2/3', '3/3'):
        capsys.readouterr()
        label(images, run, tmp_path / 'three', '--threshold', THRESHOLD, '--shard', part)
        assert ('images have no labels yet' in capsys.readouterr().out) == (part != '3/3')
        assert (tmp_path / 'three/images.csv').exists() == (part == '3/3')
    assert files(tmp_path / 'one') == files(tmp_path / 'three')
    with pytest.raises(SystemExit):
        label(images, run, tmp_path / 'three', '--shard', '4/3')
    assert 'must be I/N with I from 1 to N, such as 1/4, but is 4/3' in capsys.readouterr().err


def test_a_part_is_labelled_by_one_process_and_others_beside_it(run, images, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, 'PATIENCE', 0.2)
    out = tmp_path / 'out'
    with in_use(out, '_0_2') as other:
        with pytest.raises(SystemExit, match=f'in use by process {other.pid} on'):
            label(images, run, out, '--shard', '1/2')
        label(images, run, out, '--shard', '2/2')
    label(images, run, out, '--shard', '1/2')
    assert len(table(out)) == 5


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
        shares = [float(row[f'share_{c}']) for c in CLASSES]
        assert shares == pytest.approx([(found == k).mean() for k in range(6)], abs=1e-6)
        levels = cv2.imread(str((out / 'confidence' / name).with_suffix('.png')), cv2.IMREAD_UNCHANGED)
        assert levels.dtype == np.uint16
        np.testing.assert_allclose(levels / 65535, wanted, atol=1e-5)
    labelled = np.mean([float(row['labelled']) for row in rows.values()])
    assert f'{labelled:.1%} of the pixels' in capsys.readouterr().out


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
    with pytest.raises(SystemExit, match=r'must hold one threshold above 0 \(pseudo_labeler.threshold.value\)'):
        label(images, run, tmp_path / 'out', '--threshold-from-checkpoint')


def test_threshold_of_the_checkpoint(run, images, tmp_path):
    save_checkpoint(Config.fromfile(run[0]), run[1], threshold=0.7)
    for name, limit in dict(own=['--threshold-from-checkpoint'], same=['--threshold', 0.7]).items():
        label(images / '0.jpg', run, tmp_path / name, *limit)
    maps = [np.array(Image.open(tmp_path / name / 'labels/0.png')) for name in ('own', 'same')]
    np.testing.assert_array_equal(*maps)
    assert json.loads((tmp_path / 'own/settings.json').read_text())['threshold'] == pytest.approx(0.7)


def test_a_checkpoint_without_a_threshold(run, images, tmp_path):
    path = save_checkpoint(Config.fromfile(run[0]), tmp_path / 'none.pth', threshold=0.0)
    with pytest.raises(SystemExit, match='holds one of 0, by which every pixel is labelled. Give --threshold'):
        label(images, (run[0], path), tmp_path / 'out', '--threshold-from-checkpoint')


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


# Resuming ------------------------------------------------------------------------------------------------------------


def test_resuming_after_a_kill(run, images, tmp_path, capsys):
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
            if len(list(out.glob('labels/*.png'))) > 5:
                break
            time.sleep(0.002)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    before = {path: path.stat().st_mtime_ns for path in out.glob('labels/**/[!.]*.png')}
    assert 5 <= len(before) < 65
    label(images, run, out, '--threshold', THRESHOLD)
    assert f'{len(before)} of 65 images are labelled already' in capsys.readouterr().out
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    label(images, run, tmp_path / 'whole', '--threshold', THRESHOLD)
    assert files(out) == files(tmp_path / 'whole') and len(files(out)) == 65 + 3


def test_other_settings_are_refused(run, images, tmp_path):
    label(images / '0.jpg', run, tmp_path / 'out', '--threshold', 0.5)
    with pytest.raises(SystemExit, match=r'(?s)"threshold": 0.6.*"threshold": 0.5.*another folder'):
        label(images / '0.jpg', run, tmp_path / 'out', '--threshold', 0.6)
    state = torch.load(run[1], weights_only=False)
    state['state_dict']['teacher.decode_head.conv_seg.bias'] += 1
    torch.save(state, run[1])
    with pytest.raises(SystemExit, match='must hold the settings of this run'):
        label(images / '0.jpg', run, tmp_path / 'out', '--threshold', 0.5)


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
