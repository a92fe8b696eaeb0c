"""The demo, shortened to two iterations a run."""

import json
import sys
from pathlib import Path

import cv2
from commands import load


def test_demo_leaves_scores_and_pictures(tmp_path, monkeypatch, capsys):
    demo = load('demo.py')
    for name, number in dict(NUM_LABELED=4, NUM_UNLABELED=8, NUM_VAL=4).items():
        monkeypatch.setattr(demo, name, number)
    options = ['train_cfg.max_iters=2']
    for loader in ('train', 'val', 'test'):
        options += [f'{loader}_dataloader.num_workers=0', f'{loader}_dataloader.persistent_workers=False']
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['demo.py', '--work-dir', 'out', '--seeds', '3', '--cfg-options', *options])
    demo.main()
    scores = json.loads(Path('out/scores.json').read_text())
    assert set(scores) == {'3'} and all(0 <= value <= 100 for value in scores['3'].values())
    said = capsys.readouterr().out
    assert all(f'{name:<22}{value:6.1f}' in said for name, value in scores['3'].items())
    (pseudo_labels,) = Path('out/seed_3/derprop').glob('*/vis_data/vis_image/pseudo_labels_2.png')
    assert all(cv2.imread(str(p)).std() > 10 for p in (pseudo_labels, Path('out/seed_3/predictions.png')))
