"""A study of tiny runs on the embedded data set."""

import runpy
import sys
from pathlib import Path

import pytest
import yaml
from shrink import set_crop

from mmseg_derprop.study import job
from mmseg_derprop.utils.config import load_config

ROOT = Path(__file__).resolve().parents[2]
BASES = ROOT / 'configs/_base_'


@pytest.fixture
def content(tmp_path, small_segmentor, quick_runs):
    """The study as a dict; its bases lie beside it. Methods are a supervised one and two that share a method file."""
    for name in ('shapes', 'shapes_semi'):
        config = load_config(str(BASES / f'datasets/{name}.py'))
        for loader in ('train_dataloader', 'val_dataloader'):
            config[loader].update(num_workers=0, persistent_workers=False)
        set_crop(config.train_dataloader, (96, 96), (33, 33))
        (tmp_path / f'{name}.py').write_text('\n'.join(f'{k} = {v!r}' for k, v in config.to_dict().items()))
    network = dict(small_segmentor, data_preprocessor=dict(small_segmentor['data_preprocessor'], size=(33, 33)))
    (tmp_path / 'model.py').write_text(f'model = {network!r}\n')
    schedule = 'mmseg_derprop::_base_/schedules/shapes_800.py'
    return {
        'bases': ['model.py', str(BASES / 'default_runtime.py')],
        'data': {'labeled': 'shapes.py', 'semi': 'shapes_semi.py'},
        'settings': {'train_cfg.val_interval': 2, 'default_hooks.logger.interval': 1},
        'splits': {'all': {'labeled': 'ImageSets/Segmentation/labeled.txt'}, '1_2': {}},
        'seeds': [0, 1],
        'start': {'method': 'supervised', 'schedule': schedule, 'settings': {'train_cfg.max_iters': 2}},
        'further': {
            'schedule': schedule,
            'settings': {'train_cfg.max_iters': 4, 'default_hooks.checkpoint.interval': 1},
        },
        'methods': {
            'supervised': {},
            'fixmatch': {'config': 'mmseg_derprop::_base_/methods/fixmatch.py'},
            'other': {'config': str(BASES / 'methods/fixmatch.py'), 'settings': {'model.predict_on': 'teacher'}},
        },
        'options': {'slow': {'optim_wrapper.optimizer.lr': 0.001}},
        'matrix': [{'methods': ['supervised', 'fixmatch'], 'splits': ['all'], 'seeds': [0]}],
    }


@pytest.fixture
def write(content, tmp_path):
    """Writes the study, changed, and gives its path."""

    def make(**changes):
        path = tmp_path / 'tiny.yaml'
        path.write_text(yaml.safe_dump({**content, **changes}, sort_keys=False))
        return str(path)

    return make


@pytest.fixture
def out(tmp_path):
    """The study's folder."""
    return tmp_path / 'out'


@pytest.fixture
def stand_in(monkeypatch):
    """Replaces tools/train.py."""
    monkeypatch.setattr(job, 'TRAIN', str(Path(__file__).with_name('stand_in.py')))


@pytest.fixture
def call(monkeypatch, capsys, write, out, shapes):
    """Runs tools/study.py in this process with the study, changed; gives its exit status and what it said."""

    def run(*args, **changes):
        argv = [ROOT / 'tools/study.py', write(**changes), '--work-dir', out, '--data-root', shapes, *args]
        monkeypatch.setattr(sys, 'argv', [str(word) for word in argv])
        try:
            runpy.run_path(sys.argv[0], run_name='__main__')
        except SystemExit as end:
            said = capsys.readouterr()
            return end.code, said.out + said.err

    return run
