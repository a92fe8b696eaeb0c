"""Two processes: the same updates as one with all images, no collective skipped, images shared out."""

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from two_processes import CASES, PRESETS, STEPS, WORLD, batches, make, share_of, train, work


@pytest.fixture(scope='module')
def processes(tmp_path_factory):
    """What two processes found."""
    folder = tmp_path_factory.mktemp('processes')
    mp.spawn(work, (folder / 'store', folder / 'out'), nprocs=WORLD)
    return [torch.load(folder / f'out.{rank}', weights_only=False) for rank in range(WORLD)]


@pytest.mark.parametrize('name', PRESETS)
def test_two_processes_learn_as_one_with_all_images(name, processes, assert_near):
    preset, changes = PRESETS[name]
    model = make(preset, **changes)
    start = {key: value.clone() for key, value in model.state_dict().items()}
    wanted = train(model, model, name)
    found = [process[name] for process in processes]
    for step in range(STEPS):
        terms = wanted['losses'][step]
        assert len(terms) > 3 and all(one['losses'][step].keys() == terms.keys() for one in found)
        for key, value in terms.items():
            shares = [one['losses'][step][key] for one in found]
            torch.testing.assert_close(sum(shares) / WORLD, value, rtol=1e-5, atol=1e-7, msg=f'{step} {key}')
        assert all(abs(one['taus'][step] - wanted['taus'][step]) < 1e-6 for one in found)
    moved = 0
    updates = {name: wanted['state'][name] - start[name] for name, p in model.named_parameters() if p.requires_grad}
    largest = max(update.abs().max() for update in updates.values())
    for name, update in updates.items():
        moved += update.any().item()
        limit = 1e-5 * max(update.abs().max(), 1e-3 * largest)
        for one in found:
            assert (one['state'][name] - start[name] - update).abs().max() <= limit, name
    assert moved > 50


def test_without_the_option_each_process_has_its_own_mean(processes):
    """So the test above compares something: on these batches the two differ."""
    own, summed = (make('derprop_published', sync_counts=sync, **PRESETS['second view'][1]) for sync in (False, True))
    shares = [own.loss(*share_of(rank, batches('second view', 0))) for rank in range(WORLD)]
    wanted = summed.loss(*batches('second view', 0))
    for key in ('sup.loss_seg', 'sup.loss_prop', 'unsup.loss_kl', 'unsup.loss_fp', 'unsup.loss_affinity'):
        mean = sum(share[key] for share in shares) / WORLD
        assert abs(mean / wanted[key] - 1) > 1e-4, key


@pytest.mark.parametrize('preset', ['derprop_paper', 'derprop_published'])
def test_no_collective_is_skipped(preset, processes):
    """Whatever a process lacks, it takes part in every sum: else the other waits, or sums something else."""
    first, second = (process['odd', preset] for process in processes)
    assert first['calls'] == second['calls']
    counts = np.bincount([step for step, *_ in first['calls']])
    assert len(counts) == len(CASES) ** 2 and (counts == counts[0]).all() and counts[0] > 0
    for rank, process in enumerate((first, second)):
        for cases, finite, statistics in process['seen']:
            assert finite, cases
            confident = statistics['confident']
            if cases[rank] in ('no confident pixel', 'no valid pixel'):
                assert confident == 0, cases
        assert any(statistics['confident'] > 0 for _, _, statistics in process['seen'])
    assert first['tau'] == second['tau'] and first['tau'] != 0.9
    for name, value in first['parameters'].items():
        assert torch.equal(value, second['parameters'][name]), name


@pytest.mark.parametrize('what', ['loss', 'gradient'])
def test_all_processes_skip_a_step_in_which_one_has_a_bad(what, processes):
    for one in (process['bad', what, 'skip'] for process in processes):
        assert one['error'] is None and one['skipped'] == 1 and len(one['states']) == 4
        for step, moves in enumerate((True, False, True)):
            before, after = one['states'][step : step + 2]
            assert any(not torch.equal(before[name], after[name]) for name in before) == moves, step
        assert all(value.isfinite().all() for value in one['states'][-1].values())
    first, second = (process['bad', what, 'skip']['states'][-1] for process in processes)
    assert all(torch.equal(first[name], second[name]) for name in first if 'running' not in name)


def test_all_processes_stop_where_one_has_a_bad_loss(processes):
    first, second = (process['bad', 'loss', 'stop']['error'] for process in processes)
    assert first == second
    assert 'Iteration 2' in first and 'Process 1: unsup.loss_kl = inf' in first and 'Process 0' not in first
    assert all(f'image_1_1_{index}.jpg' in first for index in range(4)) and first.count('.jpg') == 4


def test_all_processes_count_the_broken_files_of_any(processes):
    first, second = (process['broken files'] for process in processes)
    assert first == second
    met = ['0.jpg', '1.jpg'], ['0.jpg', '1.jpg', 'both.jpg'], ['0.jpg', '1.jpg', 'both.jpg', 'one_more.jpg']
    assert first['counts'] == [(met[0], 2), (met[0], 2), (met[1], 4), (met[2], 5)]
    assert '4 files cannot be used' in first['error'] and 'one_more.jpg is empty' in first['error']


def test_all_processes_stop_where_one_has_a_bad_gradient(processes):
    """After the gradients are averaged nobody knows whose it was."""
    first, second = (process['bad', 'gradient', 'stop']['error'] for process in processes)
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
