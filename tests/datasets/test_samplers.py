"""The stream of labelled and unlabelled indices, for one process and for three."""

from itertools import islice
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_derprop.datasets import LabeledSampler, SemiSampler, samplers

L, U = 5, 17


def make(monkeypatch, rank=0, world=1, num_labeled=2, num_unlabeled=3, sizes=(L, U), **kwargs):
    monkeypatch.setattr(samplers, 'get_dist_info', lambda: (rank, world))
    dataset = SimpleNamespace(num_labeled=sizes[0], num_unlabeled=sizes[1])
    kwargs.setdefault('seed', 7)
    return SemiSampler(dataset, num_labeled, num_unlabeled, **kwargs)


PROCESSES = st.fixed_dictionaries(
    dict(world=st.integers(1, 8), num_labeled=st.integers(1, 5), num_unlabeled=st.integers(1, 5))
)


@settings(max_examples=60)
@given(st.tuples(st.integers(1, 12), st.integers(1, 25)), PROCESSES, st.integers(0, 20), PROCESSES)
def test_shares_are_disjoint_and_cover_everything(sizes, first, iterations, second):
    """For any numbers of images and processes, also if the latter change on the way: in each pass each image once."""
    drawn, state = [], None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmseg_derprop.datasets.samplers.print_log', lambda *args, **kwargs: None)
        for numbers in (first, second):
            for rank in range(numbers['world']):
                sampler = make(patch, rank, sizes=sizes, **numbers)
                if numbers is second:
                    sampler.load_state_dict(state, iterations)
                    last = 2 * sampler.iterations_per_epoch + sizes[0] + 1
                drawn += islice(sampler, (iterations if numbers is first else last) * sampler.batch_size)
            state = sampler.state_dict()
    for images in (range(sizes[0]), range(sizes[0], sum(sizes))):
        passes = {}
        for index in drawn:
            number, again = index.draw
            if index in images and not again:  # not what fills the last groups of an epoch
                passes.setdefault(number, []).append(int(index))
        *whole, last = (passes[number] for number in sorted(passes))
        assert whole and all(sorted(one) == list(images) for one in whole)
        assert len(set(last)) == len(last)


def test_skip_draws_only_the_order_it_lands_in(monkeypatch):
    drawn = []
    draw = SemiSampler._draw_order
    monkeypatch.setattr(SemiSampler, '_draw_order', lambda self, *a: drawn.append(a) or draw(self, *a))
    sampler = make(monkeypatch, sizes=(50, 1000))
    sampler.skip(5 * 10**9)
    next(iter(sampler))
    assert len(drawn) == 1


def test_resumes_at_any_iteration(monkeypatch):
    """In the middle of passes and at their ends."""
    whole = list(islice(make(monkeypatch), 200))
    state = make(monkeypatch).state_dict()
    for iteration in range(30):
        resumed = make(monkeypatch, seed=8)
        resumed.load_state_dict(state, iteration)
        drawn = list(islice(resumed, 50))
        assert drawn == whole[iteration * 5 : iteration * 5 + 50]
        assert [(i.seed, i.draw) for i in drawn] == [
            (i.seed, i.draw) for i in whole[iteration * 5 : iteration * 5 + 50]
        ]
        assert [resumed.epoch(i) for i in range(iteration, 40)] == [i // 6 for i in range(iteration, 40)]


def test_processes_share_one_stream(monkeypatch):
    """Two with half of the images each draw what one draws, and augment it alike."""

    def draws(world, per_rank):
        shares = []
        for rank in range(world):
            sampler = make(monkeypatch, rank, world, num_labeled=per_rank, num_unlabeled=per_rank)
            drawn = list(islice(sampler, 20 * sampler.batch_size))
            shares.append([drawn[i : i + sampler.batch_size] for i in range(0, len(drawn), sampler.batch_size)])
        return [
            [
                (int(i), i.seed, i.draw)
                for part in (slice(per_rank), slice(per_rank, None))
                for g in step
                for i in g[part]
            ]
            for step in zip(*shares)
        ]

    assert draws(1, 4) == draws(2, 2) == draws(4, 1)


@pytest.mark.parametrize('world, counts', [(2, (2, 3)), (1, (1, 4)), (3, (4, 1))])
def test_goes_on_with_other_numbers(monkeypatch, world, counts):
    """The rest of both passes comes first, then new ones."""
    logged = []
    monkeypatch.setattr('mmseg_derprop.datasets.samplers.print_log', lambda text, **kwargs: logged.append(text))
    iteration = 3  # 6 labelled images: the second of pass 1; 9 of 17 unlabelled ones
    before = list(islice(make(monkeypatch), iteration * 5))
    shares = []
    for rank in range(world):
        sampler = make(monkeypatch, rank, world, num_labeled=counts[0], num_unlabeled=counts[1], seed=1)
        sampler.load_state_dict(make(monkeypatch).state_dict(), iteration)
        drawn = list(islice(sampler, 40 * sampler.batch_size))
        shares.append([drawn[i : i + sampler.batch_size] for i in range(0, len(drawn), sampler.batch_size)])
    groups = [g for step in zip(*shares) for g in step]
    labeled = [i for k in range(3) for i in before[5 * k : 5 * k + 2]] + [i for g in groups for i in g[: counts[0]]]
    assert all(sorted(labeled[i : i + L]) == list(range(L)) for i in range(0, 25, L))
    unlabeled = [i for k in range(3) for i in before[5 * k + 2 : 5 * k + 5]] + [
        i for g in groups for i in g[counts[0] :]
    ]
    assert sorted(unlabeled[:U]) == list(range(L, L + U))
    step = counts[1] * world
    begin = 9 + -(-(U - 9) // step) * step
    assert sorted(unlabeled[begin : begin + U]) == list(range(L, L + U))
    assert {i.draw[0] for i in unlabeled[9:begin]} == {0} and {i.draw[0] for i in unlabeled[begin : begin + U]} == {1}
    said = logged[-1]
    assert 'is of 1 processes with 2 labelled and 3 unlabelled' in said
    assert f'has {world} processes with {counts[0]} labelled and {counts[1]} unlabelled' in said
    # A further interruption changes nothing.
    last = make(monkeypatch, world - 1, world, num_labeled=counts[0], num_unlabeled=counts[1])
    last.load_state_dict(sampler.state_dict(), 10)
    assert list(islice(last, 50)) == drawn[7 * last.batch_size :][:50]


@pytest.mark.parametrize(('rank', 'world'), [(0, 1), (1, 2)])
def test_a_supervised_baseline_sees_the_same_labelled_images(monkeypatch, rank, world):
    semi = make(monkeypatch, rank, world, num_labeled=3)
    twin = LabeledSampler(range(L), num_labeled=3, seed=7)
    drawn = list(islice(semi, 20 * semi.batch_size))
    batches = [drawn[i : i + 3] for i in range(0, len(drawn), semi.batch_size)]
    assert list(islice(twin, 60)) == [index for batch in batches for index in batch]
    twin.skip(30)
    assert list(islice(twin, 30)) == [index for batch in batches[10:] for index in batch]
    assert list(islice(LabeledSampler(range(L), 3, seed=8), 60)) != [i for batch in batches for i in batch]


def test_errors(monkeypatch):
    with pytest.raises(ValueError, match='SemiSampler: num_unlabeled must be .*1.*0'):
        make(monkeypatch, num_unlabeled=0)
    with pytest.raises(TypeError, match='must be a SemiDataset, but is a list'):
        SemiSampler([1, 2], 1, 1)
