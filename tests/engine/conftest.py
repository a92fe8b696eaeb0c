"""Short runs that are interrupted."""

import time

import pytest
from interrupted import ITERATIONS, Run
from mmengine.config import ConfigDict


@pytest.fixture
def config(semi_config):
    """Makes configs of short runs that save after each iteration."""

    def make(options=None, workers=0, val=False, touch=None, **kwargs):
        checkpoint = ConfigDict(type='ExactCheckpointHook', interval=1, max_keep_ckpts=1)
        made = semi_config(
            {
                'train_cfg.max_iters': ITERATIONS,
                'train_dataloader.num_workers': workers,
                'train_dataloader.persistent_workers': workers > 0,
            },
            **kwargs,
        )
        made.default_hooks.checkpoint = checkpoint
        made.custom_hooks.append(ConfigDict(touch or {}, type='Touch'))
        made.merge_from_dict(options or {})
        if not val:
            made.val_dataloader = made.val_cfg = made.val_evaluator = None
        made.test_dataloader = made.test_cfg = made.test_evaluator = None
        return made

    return make


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
    """Folder, and seconds, of a run that nothing happened to; made once for each key."""
    made = {}

    def run(key, config):
        if key not in made:
            folder, start = tmp_path_factory.mktemp('whole') / key, time.monotonic()
            Run(config, folder).succeeds()
            made[key] = folder, time.monotonic() - start
        return made[key]

    return run
