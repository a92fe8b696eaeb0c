"""What is left out of training is counted, named and bounded."""

import json
import shutil
from pathlib import Path

import pytest

from mmseg_derprop.datasets import BrokenData

LIST = 'ImageSets/Segmentation'


@pytest.fixture
def broken(shapes, tmp_path):
    """A copy of the embedded data set, of whose 12 unlabelled images two are broken, and their paths."""
    root = tmp_path / 'shapes'
    shutil.copytree(shapes, root)
    names = (root / LIST / 'unlabeled.txt').read_text().split()[2:4]
    paths = [root / f'JPEGImages/{name}.jpg' for name in names]
    paths[0].write_bytes(b'')
    paths[1].write_bytes(paths[1].read_bytes()[:700])
    return root, [str(path) for path in paths]


def options(root, **more):
    return {'train_dataloader.dataset.unlabeled.data_root': str(root), 'default_hooks.logger.interval': 1, **more}


def test_the_log_counts_and_names(make_runner, broken, capsys):
    root, paths = broken
    runner = make_runner(options(root))
    runner.train()
    info, said = runner.message_hub.runtime_info, capsys.readouterr().out
    assert set(info['broken_files']) == set(paths)
    # 12 images in 3 iterations of 4, 7 iterations: each comes twice, and once more in the last one at most.
    assert 4 <= info['replaced_images'] <= 6
    for path in paths:
        assert said.count(path) == 1
    (scalars,) = Path(runner.work_dir).rglob('vis_data/scalars.json')
    lines = [json.loads(line) for line in scalars.read_text().splitlines()]
    assert lines[-1]['broken_files'] == 2 and lines[-1]['replaced_images'] == info['replaced_images']
    counts = [line.get('replaced_images', 0) for line in lines]
    assert len(counts) == 7 and counts == sorted(counts)


def test_nothing_broken_nothing_logged(make_runner):
    runner = make_runner()
    runner.train()
    assert not any('broken' in name or 'replaced' in name for name in runner.message_hub.log_scalars)


def test_more_than_the_limit(make_runner, broken):
    root, paths = broken
    more = {'custom_hooks': [dict(type='PseudoLabelHook'), dict(type='BrokenFilesHook', limit=1)]}
    with pytest.raises(BrokenData, match='2 files cannot be used, but the limit of BrokenFilesHook is 1') as caught:
        make_runner(options(root, **more)).train()
    assert all(path in str(caught.value) for path in paths)


def test_labels_that_only_serve_the_log_are_told_of_once(make_runner, shapes, tmp_path, capsys):
    root = tmp_path / 'shapes'
    shutil.copytree(shapes, root)
    for path in (root / 'SegmentationClass').glob('unlabeled_*.png'):
        path.write_bytes(b'404 Not Found')
    runner = make_runner(options(root))
    runner.train()
    said = capsys.readouterr().out
    assert said.count('The image is used all the same') == 1 and 'replaced_images' not in said
    assert not any('accuracy' in name for name in runner.message_hub.log_scalars)
