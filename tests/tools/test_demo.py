"""The demo, shortened to two iterations a run, and the tool that draws validation curves."""

import importlib.util
import json
import sys
from pathlib import Path

import cv2
import pytest

TOOLS = Path(__file__).resolve().parents[2] / 'tools'


def script(name):
    spec = importlib.util.spec_from_file_location(Path(name).stem, TOOLS / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_demo_leaves_scores_and_pictures(tmp_path, monkeypatch, capsys):
    demo = script('demo.py')
    for name, number in dict(NUM_LABELED=4, NUM_UNLABELED=8, NUM_VAL=4).items():
        monkeypatch.setattr(demo, name, number)
    options = ['train_cfg.max_iters=2', 'train_cfg.val_interval=2']
    for loader in ('train', 'val', 'test'):
        options += [f'{loader}_dataloader.num_workers=0', f'{loader}_dataloader.persistent_workers=False']
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['demo.py', '--work-dir', 'out', '--seeds', '3', '--cfg-options', *options])
    demo.main()
    scores = json.loads(Path('out/scores.json').read_text())
    assert set(scores) == {'3'} and all(0 <= value <= 100 for value in scores['3'].values())
    said = capsys.readouterr().out
    assert all(f'{name:<20}{value:6.1f}' in said for name, value in scores['3'].items())
    (pseudo_labels,) = Path('out/seed_3/derprop').glob('*/vis_data/vis_image/pseudo_labels_2.png')
    assert all(cv2.imread(str(p)).std() > 10 for p in (pseudo_labels, Path('out/seed_3/predictions.png')))


def test_curves_of_a_resumed_run(tmp_path, monkeypatch, capsys):
    """Validation entries take the iteration of the training entry before them; later starts replace earlier values."""
    starts = [[(10, 20.0), (20, 35.0)], [(20, 30.0), (30, 31.0)]]
    for number, start in enumerate(starts):
        folder = tmp_path / f'run/{number}/vis_data'
        folder.mkdir(parents=True)
        lines = [
            line for step, value in start for line in ({'iter': step, 'step': step}, {'student/mIoU': value, 'step': 0})
        ]
        damaged = '\n3\n{"iter": 50, "step": 50, "st'
        (folder / 'scalars.json').write_text('\n'.join(map(json.dumps, lines)) + damaged)
    curves = script('analysis_tools/plot_curves.py')
    picture = tmp_path / 'curves.png'
    monkeypatch.setattr(sys, 'argv', ['plot_curves.py', f'ours={tmp_path / "run"}', '--out', str(picture)])
    curves.main()
    assert '| ours, student | 31.0 | 31.0 | 30 |' in capsys.readouterr().out
    assert cv2.imread(str(picture)).std() > 10
    with pytest.raises(FileNotFoundError, match='nowhere'):
        curves.read_curves(str(tmp_path / 'nowhere'), 'mIoU')
