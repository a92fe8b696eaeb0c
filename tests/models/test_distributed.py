"""Two processes: equal parameters, the threshold of one with all images, no collective skipped, images shared out."""

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from two_processes import PAIRS, PRESETS, STEPS, WORLD, make, train, work


@pytest.fixture(scope='module')
def processes(tmp_path_factory):
    """What two processes found."""
    folder = tmp_path_factory.mktemp('processes')
    mp.spawn(work, (folder / 'store', folder / 'out'), nprocs=WORLD)
    return [torch.load(folder / f'out.{rank}', weights_only=False) for rank in range(WORLD)]


@pytest.mark.parametrize('name', PRESETS)
def test_two_processes_agree_and_label_as_one_with_all_images(name, processes):
    first, second = (process[name] for process in processes)
    assert first['finite'] == second['finite'] == [True] * STEPS
    for one, other in zip(first['shared'], second['shared'], strict=True):
        assert all(map(torch.equal, one, other))
    model = make(*PRESETS[name])
    start = {key: value.detach().clone() for key, value in model.named_parameters()}
    alone = train(model, model)['shared'][0]
    for shared, wanted in zip(first['shared'][0], alone, strict=True):
        torch.testing.assert_close(shared, wanted, rtol=0, atol=1e-12)
    moved = [key for key in start if not torch.equal(first['parameters'][key], start[key])]
    assert len(moved) > 50 and not any(key.startswith('teacher.') for key in moved)
    assert all(torch.equal(value, second['parameters'][key]) for key, value in first['parameters'].items())


def test_no_collective_is_skipped(processes):
    """Whatever a process lacks, it takes part in every sum: else the other waits, or sums something else."""
    first, second = (process['odd'] for process in processes)
    assert first['calls'] == second['calls']
    counts = np.bincount([step for step, *_ in first['calls']])
    assert len(counts) == len(PAIRS) and (counts == counts[0]).all() and counts[0] > 0
    for rank, process in enumerate((first, second)):
        for cases, finite, statistics in process['seen']:
            assert finite, cases
            confident = statistics['confident']
            if cases[rank] in ('no confident pixel', 'no valid pixel'):
                assert confident == 0, cases
        assert any(statistics['confident'] > 0 for _, _, statistics in process['seen'])
    assert first['threshold'] == second['threshold'] and first['threshold'] != 0.9
    for name, value in first['parameters'].items():
        assert torch.equal(value, second['parameters'][name]), name


def test_all_processes_stop_where_one_has_a_bad_loss(processes):
    first, second = (process['bad', 'loss'] for process in processes)
    assert first == second
    assert 'Iteration 2' in first and 'Process 1: kl = inf' in first and 'Process 0' not in first
    assert all(f'image_1_1_{index}.jpg' in first for index in range(4)) and first.count('.jpg') == 4


def test_all_processes_count_the_broken_files_of_any(processes):
    first, second = (process['broken files'] for process in processes)
    assert first == second
    met = ['0.jpg', '1.jpg'], ['0.jpg', '1.jpg', 'both.jpg'], ['0.jpg', '1.jpg', 'both.jpg', 'one_more.jpg']
    assert first['counts'] == [(met[0], 2), (met[0], 2), (met[1], 4), (met[2], 5)]
    assert '4 files cannot be used' in first['error'] and 'one_more.jpg is empty' in first['error']


def test_all_processes_stop_where_one_has_a_bad_gradient(processes):
    """After the gradients are averaged nobody knows whose it was."""
    first, second = (process['bad', 'gradient'] for process in processes)
    assert first == second
    assert 'Iteration 2 has gradients that are not finite. All losses are.' in first and 'student.backbone' in first
    assert all(f'image_{rank}_1_{index}.jpg' in first for rank in range(2) for index in range(4))


def test_the_processes_share_the_images_out(processes):
    (seed, first), (other, second) = (process['sampler'] for process in processes)
    assert seed == other  # drawn by one of them
    assert len(first) == len(second) == 3 * 2
    for epoch in range(3):
        drawn = [[i for group in share[2 * epoch : 2 * epoch + 2] for i in group[2:]] for share in (first, second)]
        assert not set(drawn[0]) & set(drawn[1])
        assert sorted(drawn[0] + drawn[1]) == list(range(5, 17))
    labeled = [index for groups in zip(first, second) for group in groups for index in group[:2]]
    assert all(sorted(labeled[i : i + 5]) == [0, 1, 2, 3, 4] for i in range(0, 20, 5))


def test_checkpoints_wait_no_longer_than_the_run(processes):
    """Their group has the time-out of dist_cfg, not half an hour."""
    seconds, error = processes[0]['late']
    assert 0.5 < seconds < 2.5 and 'imed out' in error
