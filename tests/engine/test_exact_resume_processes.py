"""Processes are killed together at random moments, and go on as if nothing had been.

GROUP_KILLS says how often, GROUP_SIZE of how many processes each run is.
"""

import os
import random
import time

import pytest
import torch
from interrupted import ITERATIONS, Group, Run, assert_same, assert_same_end

from mmseg_derprop.utils.checkpoints import read_checkpoint

KILLS = int(os.environ.get('GROUP_KILLS', 2))
SEED = int(os.environ.get('KILLS_SEED', 0))
SIZE = int(os.environ.get('GROUP_SIZE', 2))
# Process 1 has running statistics of its own, which its teacher labels with.
OPTIONS = {
    **{f'train_dataloader.{key}': n for key, n in (('batch_size', 4), ('sampler.num_labeled', 2))},
    'train_dataloader.sampler.num_unlabeled': 2,
    'model.pseudo_labels.source': 'teacher',
    'model.teacher': dict(interval='step', momentum=0.9),
    # Else DDP packs gradients anew after its first iteration, and a sum of three depends on where in a pack it stands.
    'find_unused_parameters': SIZE > 2,
}


def assert_same_group(folder, other):
    """The checkpoint and, of each process, the state that it ended with."""
    assert_same_end(folder, other)
    for rank in range(SIZE):
        assert_same(*(torch.load(path / f'end.{rank}') for path in (folder, other)), f'process {rank}')


@pytest.mark.slow
def test_killed_together_at_random_moments(config, tmp_path):
    start = time.monotonic()
    whole = Group(config(OPTIONS), tmp_path / 'whole', SIZE).succeeds().folder
    seconds = time.monotonic() - start
    draw, number, killed = random.Random(SEED), 0, 0
    while killed < KILLS:
        group = Group(config(OPTIONS, workers=2), tmp_path / f'{number}', SIZE)
        if spare_start := killed % 2 == 0:
            group.runs[0].begins()
        if group.kill(draw.uniform(0, seconds * (0.4 if spare_start else 1))):
            killed += 1
        else:
            assert_same_group(group.succeeds().folder, whole)
            number += 1
    run = Group(config(OPTIONS, workers=2), tmp_path / f'{number}', SIZE).succeeds()
    assert_same_group(run.folder, whole)


def test_one_process_goes_on_as_two(config, tmp_path):
    """The first one's buffers are those of all; what differs is said."""
    Run(config({'train_cfg.max_iters': 4}), tmp_path / 'run').succeeds()
    run = Group(config(OPTIONS), tmp_path / 'run').succeeds()
    said = run.log.read_text()
    assert 'is of 1 processes with 4 labelled and 4 unlabelled images a batch' in said
    assert 'has 2 processes with 2 labelled and 2 unlabelled images a batch' in said
    assert run.saved() == [f'iter_{ITERATIONS}.pth']
    assert len(read_checkpoint(str(run.folder / run.saved()[0]))['process_buffers']) == 2
