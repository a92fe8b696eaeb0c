"""Result files, and statistics over seeds."""

import json

import numpy as np
import pytest
import study_files
from hypothesis import given
from hypothesis import strategies as st

from mmseg_derprop.report.runs import compare, over_seeds, paired_difference, read_folder

SCORES = st.dictionaries(st.integers(0, 9), st.floats(0, 100), max_size=6)


@given(SCORES, SCORES)
def test_statistics_against_numpy(values, baseline):
    both = sorted(set(values) & set(baseline))
    wanted = [
        (over_seeds(values.values()), [*values.values()], 1),
        (paired_difference(values, baseline), [values[s] - baseline[s] for s in both], max(len(both), 1) ** 0.5),
    ]
    for found, numbers, divisor in wanted:
        if not numbers:
            assert found is None
            continue
        assert found.count == len(numbers)
        assert found.mean == pytest.approx(np.mean(numbers), abs=1e-9)
        if len(numbers) == 1:
            assert found.spread is None
        else:
            assert found.spread == pytest.approx(np.std(numbers, ddof=1) / divisor, abs=1e-9)


def test_a_paired_difference_sees_through_what_seeds_share():
    """Seeds that lie far apart but gain alike: a large deviation, no error of the difference."""
    values, baseline = {0: 51.0, 1: 61.0, 2: 71.0}, {0: 50.0, 1: 60.0, 2: 70.0, 3: 99.0}
    difference = paired_difference(values, baseline)
    assert (difference.mean, difference.spread, difference.count) == (1.0, 0.0, 3)
    assert over_seeds(values.values()).spread == 10


@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        (dict(method=None), 'method is None'),
        (dict(seed='0'), "seed is '0'"),
        (dict(scores=None), 'scores is None'),
        (dict(scores=[]), 'no validation with mIoU'),
        (dict(scores=[dict(iteration=100, aAcc=9.0)]), 'no validation with mIoU'),
        (dict(scores=[{'student/mIoU': 50.0}]), 'KeyError'),
        (dict(scores=['50']), 'cannot be read'),
        (dict(scalars=dict(tau=3)), 'cannot be read'),
        (dict(iterations=dict(a=1)), 'iterations is'),
    ],
)
def test_files_that_are_no_results_are_named(tmp_path, changes, reason):
    good, bad = study_files.result(seed=1), study_files.result() | changes | dict(name='bad')
    runs, notes = read_folder(study_files.write(tmp_path, good, bad))
    assert [run.path.name for run in runs] == ['derprop_1-8_seed1.json']
    (note,) = notes
    assert note.startswith('bad.json is left out') and reason in note


@pytest.mark.parametrize(('text', 'reason'), [('{"method":', 'no JSON'), ('[1]', 'a list'), ('[' * 100_000, 'no JSON')])
def test_other_files_are_named(tmp_path, text, reason):
    folder = study_files.write(tmp_path, study_files.result()) / 'results'
    (folder / 'bad.json').write_text(text)
    runs, notes = read_folder(folder)
    assert len(runs) == 1 and 'bad.json' in notes[0] and reason in notes[0]


def test_no_files(tmp_path):
    with pytest.raises(FileNotFoundError, match='has no'):
        read_folder(tmp_path)


def read(folder, *results, baseline=None):
    return compare(read_folder(study_files.write(folder, *results))[0], baseline)


def test_what_is_compared(tmp_path):
    results = [
        study_files.supervised(name='start', stage='start'),
        study_files.supervised(),
        study_files.result(),
        study_files.result(seed=1),
        study_files.result(options=dict(alpha0={'custom_hooks.0.alpha': 0})),
        study_files.result(split='1-4'),
        study_files.result(study='another', name='another'),
    ]
    settings, notes = read(tmp_path, *results)
    assert [setting.title for setting in settings] == [
        'split 1-8 of another',
        'split 1-4 of small',
        'split 1-8 of small',
    ]
    rows = settings[2].rows
    assert [row.label for row in rows] == ['supervised (start)', 'supervised', 'derprop', 'derprop+alpha0']
    assert settings[2].baseline is rows[1] and sorted(rows[2].runs) == [0, 1]
    assert [note for note in notes if 'no baseline' in note] == [
        f'{title}: no baseline, so no differences. Name a row with --baseline.'
        for title in ('split 1-8 of another', 'split 1-4 of small')
    ]
    settings, _ = read(tmp_path, baseline='derprop')
    assert [setting.baseline.label for setting in settings] == ['derprop'] * 3
    assert settings[2].baseline_network('student') == 'student' and settings[2].baseline_network('') == 'teacher'
    with pytest.raises(ValueError, match='no run is called fixmatch; there are derprop, '):
        read(tmp_path, baseline='fixmatch')


def test_unfinished_runs_count_nowhere(tmp_path):
    short = study_files.result(seed=1)
    del short['scores'][-1]
    without_score = study_files.result(seed=2)
    without_score['scores'][-1]['student/mIoU'] = None
    (setting,), notes = read(tmp_path, study_files.result(), short, without_score)
    (row,) = setting.rows
    assert sorted(row.last('teacher')) == sorted(row.best('student')) == [0]
    unfinished = [note for note in notes if 'unfinished' in note]
    assert [note.split()[0] for note in unfinished] == ['derprop_1-8_seed1.json', 'derprop_1-8_seed2.json']
    assert all('iteration 200 of 300' in note for note in unfinished)


def test_mixtures_are_noted(tmp_path):
    longer = study_files.result(seed=1, iterations=200, options=None, machine=dict(cpu='another'))
    del longer['scores'][-1]
    twin = study_files.result() | dict(name='twin')
    (setting,), notes = read(tmp_path, study_files.result(), longer, twin, study_files.supervised())
    said = '\n'.join(notes)
    assert 'twin.json is left out: derprop_1-8_seed0.json is the same method, split and seed.' in said
    assert 'the seeds of derprop ran for different numbers of iterations (200, 300)' in said
    assert 'the runs come from 2 different machines' in said and 'versions' not in said


def test_last_best_classes_and_scalars(tmp_path):
    whole = study_files.result()
    for entry, value in zip(whole['scores'], (40.0, 70.0, 60.0)):
        entry['teacher/mIoU'] = value
    whole['scores'][-1]['classes']['teacher']['ring'] = None
    whole['scores'].reverse()
    whole['scalars'] = {'train/tau': [[10, 0.5], [20, None], [30, float('nan')]]}
    folder = study_files.write(tmp_path, whole)
    assert json.loads((folder / 'results' / f'{whole["name"]}.json').read_text())['scores'][0]['iteration'] == 300
    ((run,), _) = read_folder(folder)
    assert (run.last('teacher'), run.best('teacher'), run.last_iteration) == (60.0, 70.0, 300)
    assert sorted(run.classes['teacher']) == ['background', 'disc'] and len(run.classes['student']) == 3
    assert run.scalars == {'tau': [(10, 0.5)]}


def test_paths_start_from_the_study(tmp_path):
    whole = study_files.result()
    ((run,), _) = read_folder(study_files.write(tmp_path, whole))
    assert run.place('checkpoint') is None
    checkpoint = tmp_path / whole['checkpoint']
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    assert run.place('checkpoint').samefile(checkpoint) and run.place('work_dir').samefile(checkpoint.parent)
