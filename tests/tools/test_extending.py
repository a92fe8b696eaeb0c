"""docs/extending.md: its parts are used from a folder outside the package, as the page tells."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from commands import ROOT, call
from mmseg.registry import DATASETS

from mmseg_derprop.utils.config import load_config

PAGE = (ROOT / 'docs/extending.md').read_text()


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Where a user has written down all that the page shows, each block into the file that its first line names."""
    folder = tmp_path_factory.mktemp('own')
    blocks = re.findall(r'```python\n# (my_\w+\.py)\n(.*?)```', PAGE, re.S)
    assert [name for name, _ in blocks].count('my_ideas.py') == 3
    for name, text in blocks:
        with (folder / name).open('a') as file:
            file.write(text)
    return folder


def options(shapes, **changes):
    """Words for ``--cfg-options`` that make a run short."""
    loaders = {f'{part}_dataloader.num_workers': 0 for part in ('train', 'val', 'test')}
    loaders |= {f'{part}_dataloader.persistent_workers': False for part in ('train', 'val', 'test')}
    run = {'train_cfg.val_interval': 9, 'default_hooks.logger.interval': 1, 'custom_hooks.0.interval': 1}
    return [f'{key}={value}' for key, value in {'data_root': shapes, **loaders, **run, **changes}.items()]


@pytest.fixture(scope='module')
def log(folder, shapes):
    """What two iterations logged, by the page's command."""
    (command,) = re.findall(r'```bash\n(PYTHONPATH=.*?)\n```', PAGE)
    variable, python, script, *words = command.split()
    assert (variable, python, script) == ('PYTHONPATH=.', 'python', 'path/to/tools/train.py')
    words = [word.replace('max_iters=100', 'max_iters=2') for word in words]
    # The package, which a user has installed, and the folder.
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(['.', str(ROOT)]), OMP_NUM_THREADS='1')
    words += options(shapes, **{'model.pseudo_labels.threshold.momentum': 0.5})
    command = [sys.executable, ROOT / 'tools/train.py', *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = folder.glob('work_dirs/my_config/*/vis_data/scalars.json')
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if 'loss' in line]


def test_the_loss_is_computed_and_weighted(log):
    assert len(log) == 2
    # 0.05, from the command line, of an entropy within 0 .. log(6).
    assert all(0 < line['entropy'] < 0.05 * np.log(6) for line in log)
    first = log[0]  # the total of later ones is a mean over iterations
    assert first['loss'] == pytest.approx(first['seg'] + first['hard'] + first['entropy'], rel=1e-4)


def test_the_threshold_moves_and_is_asked(log, folder):
    state = torch.load(folder / 'work_dirs/my_config/iter_2.pth', weights_only=False)['state_dict']
    value = state['pseudo_labeler.threshold.value'].item()
    # From 1 / 6, half of the way to a mean confidence of at least that, twice.
    assert 1 / 6 < log[0]['threshold'] < log[1]['threshold'] < 1 and value == pytest.approx(log[1]['threshold'])
    assert all(0 < line['confident'] < 1 for line in log)


def test_the_view_is_drawn_from_the_weak_one(folder, shapes, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    images = {}
    for sigma in (0.0, 20.0):
        config = load_config(str(folder / 'my_config.py'), {'data_root': str(shapes)})
        dataset = config.train_dataloader.dataset
        dataset.unlabeled.pipeline[-1].strong[1].sigma = sigma
        np.random.seed(0)
        data = DATASETS.build(dataset)
        images[sigma] = data[data.num_labeled]['inputs']
    assert torch.equal(images[0.0]['weak'], images[20.0]['weak'])
    difference = images[20.0]['strong'].float() - images[0.0]['strong'].float()
    assert 10 < difference.std() < 22  # clipping takes some of it


@pytest.mark.parametrize(
    'option, message',
    [
        ('losses.entropy.type=EntropyLos', "be one of .* EntropyLoss, .* SupervisedLoss, .* but is 'EntropyLos'"),
        (
            'pseudo_labels.threshold.type=EntropyLoss',
            'be one of .*, FixedThreshold, .*, MeanConfidenceThreshold, but is',
        ),
    ],
)
def test_an_unknown_part(folder, shapes, monkeypatch, tmp_path, quick_runs, option, message):
    monkeypatch.syspath_prepend(folder)
    words = ['--work-dir', tmp_path, '--cfg-options', 'log_level=WARNING', *options(shapes), f'model.{option}']
    with pytest.raises(SystemExit, match=f'model.{option.partition("=")[0]} must {message}'):
        call('train.py', folder / 'my_config.py', *words)
