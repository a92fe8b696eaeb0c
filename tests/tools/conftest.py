"""A run of two iterations, whose checkpoint tests of tools export and evaluate."""

import itertools
import json
from pathlib import Path

import commands
import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
CROP = (49, 49)


_calls = itertools.count()


def call(script, *args):
    """Runs a tool's main in this process.

    The engine names a run by the second that it begins in, and keeps a message hub and a visualizer for each name.
    """
    from mmengine.runner import Runner

    original = Runner.from_cfg.__func__

    def from_cfg(cls, config):
        config.experiment_name = name = f'call_{next(_calls)}'
        if config.get('visualizer'):
            config.visualizer.name = name
        return original(cls, config)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runner, 'from_cfg', classmethod(from_cfg))
        commands.call(script, *args)


@pytest.fixture(scope='session')
def tool():
    """Runs a tool, given its path in tools/ and arguments, in this process."""
    return call


@pytest.fixture(scope='session')
def work_dir_scores():
    """What a work dir's newest run measured."""

    def read(work):
        path = max(Path(work).glob('[0-9]*/[0-9]*.json'), key=lambda p: p.stat().st_mtime_ns)
        line = json.loads(path.read_text().splitlines()[-1])
        return {key: value for key, value in line.items() if 'time' not in key}

    return read


@pytest.fixture(scope='session')
def label_maps():
    """The label maps in a folder, by name."""
    return lambda folder: {path.stem: np.array(Image.open(path)) for path in sorted(Path(folder).glob('*.png'))}


@pytest.fixture(scope='session')
def make_checkpoint(tmp_path_factory, shapes, quick_runs):
    """Trains configs/derprop/tiny_shapes_paper.py, narrower or with another network, for two iterations.

    Returns the checkpoint and a config that fits it. The classifiers are enlarged, so that predictions are diverse,
    and differ in teacher and student.
    """
    from mmengine.runner import Runner

    from mmseg_derprop.utils.config import load_config

    def make(segmentor=None, **options):
        folder = tmp_path_factory.mktemp('run')
        config = load_config(str(ROOT / 'configs/derprop/tiny_shapes_paper.py'), {'data_root': str(shapes)})
        if segmentor is None:
            segmentor = config.model.segmentor
            segmentor.backbone.update(base_channels=8, stem_channels=8)
            segmentor.decode_head.update(in_channels=[8, 64], channels=16, c1_channels=8)
        config.model.segmentor = segmentor
        for pipeline in (config.train_dataloader.dataset[source].pipeline for source in ('labeled', 'unlabeled')):
            pipeline[3].size = pipeline[4].crop_size = CROP
        config.merge_from_dict(
            {
                'work_dir': str(folder),
                'log_level': 'WARNING',
                'experiment_name': folder.name,
                'visualizer.name': folder.name,
                'model.propagation_head.channels': 16,
                'model.pseudo_labels.regions.num': 4,
                'train_cfg.max_iters': 2,
                'train_cfg.val_interval': 9,
                'default_hooks.checkpoint.interval': 2,
                **{
                    f'{loader}_dataloader.{key}': value
                    for loader in ('train', 'val', 'test')
                    for key, value in dict(num_workers=0, persistent_workers=False).items()
                },
                **options,
            }
        )
        Runner.from_cfg(config).train()
        path = folder / 'iter_2.pth'
        checkpoint = torch.load(path, weights_only=False)
        for name, value in checkpoint['state_dict'].items():
            if name.endswith('decode_head.conv_seg.weight'):
                value *= 100
            if name == 'teacher.decode_head.conv_seg.bias':
                value += torch.linspace(-1, 1, len(value))
        torch.save(checkpoint, path)
        # Not in the work dir, but under the name that the engine gives to a run's config there.
        written = tmp_path_factory.mktemp('config') / 'tiny_shapes_paper.py'
        config.dump(written)
        return path, written

    return make


@pytest.fixture(scope='session')
def run(make_checkpoint):
    """Checkpoint and config of a run with the published decoder."""
    return make_checkpoint()
