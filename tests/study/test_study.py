"""A study plans, runs, resumes after any end, and leaves one table that can be trusted."""

import json
import math
import multiprocessing
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import load_checkpoint
from mmseg.registry import DATA_SAMPLERS, DATASETS, MODELS

from mmseg_derprop.study.compose import compose, digest
from mmseg_derprop.study.job import make_jobs
from mmseg_derprop.study.plan import StudyError, load_study
from mmseg_derprop.study.results import lock_file, read_log, read_scores

ROOT = Path(__file__).resolve().parents[2]


def fixmatch(**changes):
    return {'methods': {'fixmatch': {'config': 'mmseg_derprop::_base_/methods/fixmatch.py', **changes}}}


def results(out):
    """The table's lines by run."""
    table = pd.read_csv(out / 'results.csv', keep_default_na=False)
    return {
        name: lines.set_index(['network', 'metric', 'iteration'])['value'].sort_index()
        for name, lines in table.groupby('run', sort=False)
    }


def names(said):
    return re.findall(r'^(\S+_seed\d)  ', said, re.MULTILINE)


def test_the_matrix_is_run_once_each_with_the_starts_that_it_needs(write, content):
    entries = [
        {'methods': ['supervised', 'fixmatch'], 'splits': ['all']},
        {'methods': ['fixmatch'], 'options': ['slow'], 'splits': ['1_2'], 'seeds': [1]},
        {'methods': ['fixmatch'], 'splits': ['all'], 'seeds': [1]},
    ]
    study = load_study(write(matrix=entries))
    starts = ['start_all_seed0', 'start_all_seed1', 'start_1_2_seed1']
    further = ['supervised_all_seed0', 'fixmatch_all_seed0', 'supervised_all_seed1', 'fixmatch_all_seed1']
    assert [run.name for run in study.runs] == [*starts, *further, 'fixmatch+slow_1_2_seed1']
    assert all(run.start.split == run.split and run.start.seed == run.seed for run in study.runs[3:])
    assert [run.name for run in study.select('slow')] == ['start_1_2_seed1', 'fixmatch+slow_1_2_seed1']
    assert [run.name for run in study.select('', 6)] == ['start_all_seed1', 'fixmatch_all_seed1']
    assert [run.name for run in study.select('', 1)] == ['start_all_seed1']
    methods = {'a_1': {}, 'a': {}}
    with pytest.raises(StudyError, match='Two runs would be called a_1_2_seed0: rename one of the methods'):
        _ = load_study(write(methods=methods, start=None, splits={'2': {}, '1_2': {}}, matrix=None)).runs
    del content['start'], content['matrix']
    study = load_study(write())
    assert {run.start for run in study.runs} == {None} and len(study.runs) == 2 * 2 * 3


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'metods': {}}, r'wrong; docs/study_runner.md .*\n  metods is \{\}: Extra inputs'),
        ({'seeds': [-1]}, r'seeds\.0 is -1: .* greater than or equal to 0'),
        ({'splits': {164: {}}}, r'splits\.164.* is 164: Input should be a valid string'),
        ({'splits': {'../x': {}}}, r'splits\.\.\./x.*should match pattern'),
        ({'methods': {'start': {}}}, 'a method is called start'),
        ({'seeds': [], 'splits': {}}, r'inherits, is wrong; .*\n  splits, seeds must be given'),
        ({'start': {'settings': {}}}, r'start\.method must be given'),
        ({'_base_': 'tiny.yaml'}, 'tiny.yaml inherits from itself'),
        ({'start': {'method': 'teacher'}}, "methods has no 'teacher', but only supervised, fixmatch"),
        ({'matrix': [{'methods': ['fixmtch']}]}, "methods has no 'fixmtch', but only supervised"),
        ({'matrix': [{'methods': ['fixmatch'], 'options': ['fast']}]}, "options has no 'fast', but only slow"),
        ({'matrix': [{'methods': ['fixmatch'], 'seeds': [7]}]}, 'seeds has no 7, but only 0, 1'),
        ({'seconds_per_iteration': {'derprp': 1}}, "methods has no 'derprp'"),
        ({'seconds_per_iteration': {'fixmatch': math.nan}}, r'seconds_per_iteration\.fixmatch is nan'),
    ],
)
def test_a_wrong_study_file_is_refused(write, changes, message):
    with pytest.raises(StudyError, match=message):
        load_study(write(**changes))


def test_a_study_inherits_another(write, content, tmp_path):
    """Dicts are merged and all else is replaced; paths count from the file that has them."""
    own = {
        '_base_': '../tiny.yaml',
        'data': {'semi': 'mine.py'},
        'seeds': [3],
        'further': {'settings': {'train_cfg.max_iters': 9}},
        'methods': {'other': {'settings': {'model.predict_on': 'student'}}, 'new': {'config': 'new.py'}},
        'matrix': [{'methods': ['supervised', 'new']}],
    }
    base = load_study(write())
    (tmp_path / 'sub').mkdir()
    (tmp_path / 'sub/own.yaml').write_text(yaml.safe_dump(own))
    study = load_study(str(tmp_path / 'sub/own.yaml'))
    assert study.data == {'labeled': str(tmp_path / 'shapes.py'), 'semi': str(tmp_path / 'sub/mine.py')}
    assert study.bases == base.bases and study.start == base.start and study.seeds == [3]
    assert study.further.schedule == base.further.schedule
    assert study.further.settings == {**base.further.settings, 'train_cfg.max_iters': 9}
    assert study.methods['other'].config == base.methods['other'].config
    assert study.methods['other'].settings == {'model.predict_on': 'student'}
    assert study.methods['new'].config == str(tmp_path / 'sub/new.py')
    assert {run.method for run in study.runs if run.stage == 'further'} == {'supervised', 'new'}
    for changes, message in (
        ({'metods': {}}, r'own\.yaml is wrong; .*\n  metods'),
        ({'_base_': 'no.yaml'}, r'sub/no\.yaml, the _base_ of .*own\.yaml, must be a YAML file'),
        ({'matrix': [{'methods': ['slow']}]}, r"with what it inherits, is wrong; .*\n  methods has no 'slow'"),
    ):
        (tmp_path / 'sub/own.yaml').write_text(yaml.safe_dump({**own, **changes}))
        with pytest.raises(StudyError, match=message):
            load_study(str(tmp_path / 'sub/own.yaml'))


def test_settings_are_merged_over_inherited_ones(write, shapes, tmp_path):
    """Whether they name a part by dots or by dicts; one that says so replaces it."""
    inherited = {'model.decode_head.loss_decode': {'avg_non_ignore': True}, 'model.data_preprocessor.size': [66, 66]}
    inherited |= {'optim_wrapper.optimizer': {'lr': 0.1}, 'optim_wrapper.optimizer.lr': 0.5}
    write(settings=inherited)
    loss = {'_delete_': True, 'type': 'FocalLoss', 'gamma': 3.0}
    own = {'model': {'decode_head': {'dropout_ratio': 0.3, 'loss_decode': loss}}}
    own['optim_wrapper.optimizer'] = {'lr': 0.25}
    (tmp_path / 'own.yaml').write_text(yaml.safe_dump({'_base_': 'tiny.yaml', 'settings': own}))
    study = load_study(str(tmp_path / 'own.yaml'))
    config = compose(study, study.runs[0], str(shapes))
    assert config.model.data_preprocessor.size == [66, 66] and config.model.decode_head.dropout_ratio == 0.3
    assert config.model.decode_head.loss_decode == {'type': 'FocalLoss', 'gamma': 3.0}
    assert config.optim_wrapper.optimizer.lr == 0.25


def test_a_file_that_is_none_is_refused(tmp_path, write):
    for name, content in (('a', b'a: [1'), ('b', b'name: caf\xe9'), ('c', b'seeds: [2001-13-01]'), ('nowhere', None)):
        if content:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(StudyError, match=f'{name} must be a YAML file'):
            load_study(str(tmp_path / name))
    for pattern, index, message in (
        ('nothing', None, "matches no run: 'nothing'"),
        ('(', None, 'must be a regular expression'),
        ('', 9, '--index must be from 0 to 2, but is 9'),
        ('', -1, '--index must be from 0 to 2, but is -1'),
    ):
        with pytest.raises(StudyError, match=message):
            load_study(write()).select(pattern, index)


def test_final_configs(write, content, shapes, tmp_path):
    for name, base, own in (
        ('own.py', content['bases'].pop(), "visualizer = dict(vis_backends=[dict(type='TensorboardVisBackend')])"),
        ('slow.py', content['further']['schedule'], "default_hooks = dict(checkpoint=dict(out_dir='elsewhere'))"),
    ):
        (tmp_path / name).write_text(f'_base_ = {base!r}\n{own}\n')
    content['bases'].append('own.py')
    content['further']['schedule'] = 'slow.py'
    content['methods']['fixmatch']['unlabeled_pipeline'] = 'two_strong_pipeline'
    content['splits']['all']['unlabeled'] = 'other.txt'
    content['settings']['optim_wrapper.optimizer.lr'] = 0.5
    content['matrix'] = [{'methods': ['supervised', 'fixmatch'], 'options': [None, 'slow'], 'splits': ['all']}]
    study = load_study(write())
    configs = {run.name: compose(study, run, str(shapes)) for run in study.runs}
    baseline, fixmatch = configs['supervised_all_seed1'], configs['fixmatch_all_seed1']
    assert baseline.model.type == 'EncoderDecoder' and fixmatch.model.type == 'SemiSegmentor'
    assert fixmatch.model.segmentor == baseline.model
    assert fixmatch.val_cfg.type == 'TeacherStudentValLoop' and baseline.val_cfg.type == 'ValLoop'
    assert fixmatch.train_dataloader.dataset.unlabeled.ann_file == 'other.txt'
    assert fixmatch.train_dataloader.dataset.unlabeled.pipeline == fixmatch.two_strong_pipeline
    assert fixmatch.train_dataloader.dataset.labeled.data_root == str(shapes)
    assert baseline.randomness.seed == 1 and configs['start_all_seed0'].randomness.seed == 0
    assert configs['start_all_seed0'].train_cfg.max_iters == 2 and baseline.train_cfg.max_iters == 4
    assert baseline.optim_wrapper == {k: v for k, v in fixmatch.optim_wrapper.items() if k != 'constructor'}
    rates = [configs[f'fixmatch{option}_all_seed0'].optim_wrapper.optimizer.lr for option in ('', '+slow')]
    assert rates == [0.5, 0.001]
    # A study finds what a run leaves.
    assert 'out_dir' not in baseline.default_hooks.checkpoint and baseline.default_hooks.checkpoint.interval == 1
    assert [b.type for b in baseline.visualizer.vis_backends] == ['TensorboardVisBackend', 'LocalVisBackend']


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'further': {}}, 'must define optim_wrapper'),
        ({'bases': ['nowhere.py']}, 'cannot be joined: .*nowhere.py'),
        ({'data': {'labeled': 'shapes.py'}}, r'fixmatch needs data\.semi'),
        ({'further': {'schedule': 'model.py'}}, 'cannot be joined'),  # the model twice
        (fixmatch(unlabeled_pipeline='no'), 'must be one of .*two_view_pip.*no'),
        (fixmatch(settings={'default_hooks.chekpoint.interval': 1}), r'methods\.fixmatch\.settings .*chekpoint'),
        (fixmatch(settings={'model.segmentor.0.x': 1}), 'KeyError.*0'),
        (fixmatch(settings={'train_cfg.val_interval.every': 1}), 'must set options that the config has, but do not'),
    ],
)
def test_parts_that_do_not_fit(write, content, changes, message):
    del content['start']
    study = load_study(write(**changes, matrix=[{'methods': ['fixmatch']}]))
    with pytest.raises(StudyError, match=message):
        compose(study, study.runs[-1])


@pytest.mark.parametrize('name', ['camvid_cpu', 'camvid_gpu', 'clothing_cpu', 'aerial_cpu'])
def test_shipped_studies(name):
    study = load_study(str(ROOT / f'configs/studies/{name}.yaml'))
    chosen = {(run.stage, run.method, run.option): run for run in study.runs}
    assert len(study.methods) >= 8 and len(study.seeds) >= 3
    digests = set()
    for run in chosen.values():
        config = compose(study, run, 'elsewhere')
        digests.add(digest(config))
        train, splits = config.train_dataloader.dataset, study.splits[run.split]
        if 'labeled' in train:
            assert {part: train[part].ann_file for part in ('labeled', 'unlabeled')} == splits
            assert train.labeled.data_root == train.unlabeled.data_root == 'elsewhere'
            assert config.train_dataloader.sampler.num_labeled == 4
            views = json.dumps(train.unlabeled.pipeline)
            assert ('strong2' in views) == (config.model.get('views', {}).get('num_strong') == 2)
            assert ('strong_mix' in views) == (config.model.cutmix.partner == 'second_view')
    assert len(digests) == len(chosen)


def test_a_digest_tells_configurations_apart_but_not_places(write, content):
    def mark(place):
        study = load_study(write())
        return [job.digest for job in make_jobs(study, study.runs, 'out', place)]

    before = mark('here')
    assert mark('there') == before and len({*before}) == 3
    content['methods']['fixmatch']['settings'] = {'model.predict_on': 'teacher'}
    assert [a == b for a, b in zip(mark('here'), before)] == [True, True, False]
    content['start']['settings'] = {'train_cfg.max_iters': 1}
    assert not set(mark('here')) & set(before)


def test_all_runs_of_a_seed_see_the_same_labelled_images(write, shapes):
    init_default_scope('mmseg')
    study = load_study(write(matrix=[{'methods': ['supervised', 'fixmatch'], 'splits': ['all']}]))
    orders = {}
    for run in study.runs:
        loader = compose(study, run, str(shapes)).train_dataloader
        dataset = DATASETS.build(loader.dataset)
        sampler = DATA_SAMPLERS.build(loader.sampler, default_args=dict(dataset=dataset, seed=run.seed))
        indices, paths = iter(sampler), []
        for _ in range(6):
            batch = [dataset.get_data_info(next(indices)) for _ in range(loader.batch_size)]
            paths.append([info['img_path'] for info in batch[: loader.sampler.num_labeled]])
        orders.setdefault(run.seed, []).append(paths)
    assert all(order == orders[seed][0] for seed in orders for order in orders[seed])
    assert orders[0][0] != orders[1][0]


def test_results_are_in_one_table_and_what_is_finished_is_skipped(call, out, stand_in):
    status, said = call()
    assert status == 0 and 'fixmatch_all_seed0 finished in 0:00:0' in said and '3 of 3 runs are finished' in said
    found = results(out)
    assert set(found) == {'start_all_seed0', 'supervised_all_seed0', 'fixmatch_all_seed0'}
    values = found['fixmatch_all_seed0']
    assert values['teacher', 'mIoU', 4] == values['student', 'IoU.disc', 4] == 40 and values['student', 'mIoU', 1] == 10
    assert values['', 'train/loss'].to_dict() == pytest.approx({step: 1 / step for step in (1, 2, 3, 4)}, rel=1e-5)
    assert 0 <= values['', 'seconds', 4] < 60 and ('', 'mIoU', 4) not in values  # that is the teacher's
    assert [path.name for path in (out / 'runs/fixmatch_all_seed0').glob('*.pth')] == ['iter_4.pth']
    configs = [Config.fromfile(out / f'configs/{name}_all_seed0.py') for name in ('fixmatch', 'supervised')]
    assert {config.load_from for config in configs} == {str(out / 'runs/start_all_seed0/iter_2.pth')}
    assert 'runs from' not in call()[1]
    assert len((out / 'runs/fixmatch_all_seed0/pids').read_text().split()) == 1


def test_missing_lists_are_named_before_anything_is_trained(call, out, shapes):
    splits = {'all': {'labeled': 'ImageSets/Segmentation/labeled.txt', 'unlabeled': 'lost.txt'}, '1_2': {}}
    status, said = call('--dry-run', splits=splits)
    assert status == 0 and said.endswith(f'{shapes}/lost.txt is missing\n')
    status, said = call(splits=splits)
    assert status == 2 and f'missing: {shapes}/lost.txt. Correct the splits' in said and not out.exists()
    assert call('--dry-run', splits=splits, matrix=[{'methods': ['supervised']}])[1].count('missing') == 0


def test_a_failed_run_is_reported_and_does_not_stop_others(call, out, stand_in, monkeypatch):
    monkeypatch.setenv('STAND_IN_FAILS', 'start_all_seed0')
    matrix = [{'methods': ['fixmatch'], 'splits': ['all']}]
    status, said = call(matrix=matrix)
    assert status == 1 and 'failed: start_all_seed0, fixmatch_all_seed0' in said
    assert 'start_all_seed0 failed: ended with 7' in said and 'the last words' in said and 'console_' in said
    assert 'fixmatch_all_seed0 failed: was not run, because start_all_seed0 failed' in said
    assert set(results(out)) == {'start_all_seed1', 'fixmatch_all_seed1'}
    monkeypatch.delenv('STAND_IN_FAILS')
    assert call(matrix=matrix)[0] == 0 and len(results(out)) == 4


def test_a_time_limit_leaves_runs_that_the_next_call_resumes(call, content, out, stand_in, monkeypatch):
    content['further']['settings']['train_cfg.max_iters'] = 20
    assert call('--only', 'start')[0] == 0
    monkeypatch.setenv('STAND_IN_SECONDS', '0.3')
    status, said = call('--time-limit', 3 / 60, '--only', 'fixmatch')
    assert status == 3 and '1 runs are left' in said
    run = out / 'runs/fixmatch_all_seed0'
    reached = max(int(path.stem[5:]) for path in run.glob('iter_*.pth'))
    (run / 'iter_9_teacher.pth').touch()  # exported
    assert 0 < reached < 20 and not any(alive(int(pid)) for pid in (run / 'pids').read_text().split())
    monkeypatch.setenv('STAND_IN_SECONDS', '0')
    status, said = call('--only', 'fixmatch')
    assert status == 0 and f'fixmatch_all_seed0 runs from iteration {reached} to 20' in said
    values = results(out)['fixmatch_all_seed0']
    assert list(values['student', 'mIoU'].index) == list(values['', 'train/loss'].index) == list(range(1, 21))
    assert values['', 'seconds', 20] > 0.3 * reached - 0.1 and (run / 'iter_9_teacher.pth').exists()


def alive(pid):
    try:
        return Path(f'/proc/{pid}/stat').read_text().split()[2] != 'Z'
    except OSError:
        return False


def wait_for(what, timeout=60):
    end = time.monotonic() + timeout
    while not (found := what()):
        assert time.monotonic() < end, 'it took too long'
        time.sleep(0.02)
    return found


def fork(call, *args, **changes):
    process = multiprocessing.get_context('fork').Process(target=lambda: os._exit(call(*args, **changes)[0]))
    process.start()
    return process


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_study_that_is_stopped_resumes(call, out, stand_in, monkeypatch, number):
    monkeypatch.setenv('STAND_IN_SECONDS', '30')
    process, pids = fork(call), out / 'runs/start_all_seed0/pids'
    pid = int(wait_for(lambda: pids.is_file() and pids.read_text()))
    os.kill(process.pid, number)
    process.join(30)
    if number == signal.SIGKILL:
        os.kill(pid, number)
    else:
        assert process.exitcode == 128 + number and not alive(pid)
    monkeypatch.setenv('STAND_IN_SECONDS', '0')
    assert call()[0] == 0 and len(results(out)) == 3


def test_two_studies_on_one_folder_share_the_runs_several_at_once(call, out, stand_in, monkeypatch):
    monkeypatch.setenv('STAND_IN_SECONDS', '0.1')
    matrix = [{'methods': ['supervised', 'fixmatch', 'other'], 'splits': ['all']}]
    processes = [fork(call, '--jobs', 2, matrix=matrix) for _ in range(2)]
    for process in processes:
        process.join(100)
    assert [process.exitcode for process in processes] == [0, 0] and len(results(out)) == 8
    assert all(len(pids.read_text().split()) == 1 for pids in out.glob('runs/*/pids'))
    spans = {path.parent.name: tuple(map(float, path.read_text().split())) for path in out.glob('runs/*/span')}
    for name, (begun, _) in spans.items():
        if not name.startswith('start'):
            assert spans[f'start_all_{name.split("_")[-1]}'][1] <= begun
    assert 2 <= max(sum(a <= moment < b for a, b in spans.values()) for moment, _ in spans.values()) <= 4


def test_dry_run_prints_the_plan_and_estimates(call, out, stand_in, monkeypatch):
    known = {'seconds_per_iteration': {'fixmatch': 30}}
    status, said = call('--dry-run', **known)
    assert status == 0 and not out.exists()
    assert names(said) == ['start_all_seed0', 'supervised_all_seed0', 'fixmatch_all_seed0']
    assert re.search(r'start_all_seed0 +2 iterations +\? left  to do', said)
    assert re.search(r'fixmatch_all_seed0 +4 iterations +0:02:00 left  to do', said)
    assert '3 runs; time left with 1 at once: more than 0:02:00' in said
    monkeypatch.setenv('STAND_IN_SECONDS', '1')
    call('--only', 'start', **known)
    said = call('--dry-run', **known)[1]
    assert re.search(r'start_all_seed0 .* 0:00:00 left  finished', said)
    assert re.search(r'supervised_all_seed0 .* 0:00:0[45] left  to do', said) and 'more than' not in said


def test_another_configuration_is_refused_or_replaced(call, content, out, stand_in, monkeypatch):
    monkeypatch.setenv('STAND_IN_FAILS', 'start')
    content['start']['settings'] = {'train_cfg.max_iters': 1}
    call()
    monkeypatch.delenv('STAND_IN_FAILS')
    content['start']['settings'] = {'train_cfg.max_iters': 2}
    assert call()[0] == 2 and call('--rerun')[0] == 0  # it had begun only
    content['start']['settings'] = {'train_cfg.max_iters': 3}
    before = (out / 'results.csv').read_text()
    status, said = call()
    assert status == 2 and 'start_all_seed0, supervised_all_seed0, fixmatch_all_seed0' in said and '--rerun' in said
    assert (out / 'results.csv').read_text() == before
    assert call('--dry-run')[1].count('of another configuration') == 3
    assert call('--rerun')[0] == 0
    assert results(out)['start_all_seed0']['', 'mIoU', 3] == 30 and len(results(out)) == 3
    # A run that is not asked for stays, but is in no table; one that is being trained is not replaced.
    content['methods']['fixmatch']['settings'] = {'model.predict_on': 'teacher'}
    status, said = call('--only', 'supervised')
    assert status == 0 and 'without runs of another configuration: fixmatch_all_seed0' in said
    assert set(results(out)) == {'start_all_seed0', 'supervised_all_seed0'}
    with lock_file(str(out / 'runs/fixmatch_all_seed0.lock')):
        status, said = call('--rerun')
    assert status == 2 and 'fixmatch_all_seed0 cannot be replaced while another process trains it' in said
    assert call('--rerun')[0] == 0 and len(results(out)) == 3


def test_a_slurm_task_is_a_run_after_its_start(call, out, tmp_path):
    (tmp_path / 'python').symlink_to('/bin/echo')
    environment = {'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'SLURM_ARRAY_TASK_ID': '2', 'SLURM_CPUS_PER_TASK': '3'}
    command = [ROOT / 'tools/slurm_study.sh', 'x.yaml', '--jobs', '1']
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    _, script, _, *words = said.split()
    assert (ROOT / script).is_file() and words[-4:] == ['--threads', '3', '--index', '2']
    said = call('--dry-run', *words)[1]
    assert names(said) == ['start_all_seed0', 'fixmatch_all_seed0'] and not out.exists()


def write_log(folder, name, entries):
    path = folder / name / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text('\n'.join(json.dumps(entry) for entry in entries))
    return path


def test_what_a_later_attempt_did_again_counts_once(tmp_path):
    def step(number, loss):
        return {'loss': loss, 'iter': number, 'step': number, 'time': 1.0}

    first = [step(1, 9.0), step(2, 8.0), {'mIoU': 5.0, 'step': 2}, step(3, 7.0), step(4, 6.0), {'mIoU': 1.0, 'step': 4}]
    write_log(tmp_path, '20260101_000000', first)
    second = [{'mIoU': 6.0, 'step': 2}, step(3, 70.0), step(4, math.nan), {'mIoU': 50.0, 'aAcc': {}, 'step': 4}]
    path = write_log(tmp_path, '20260101_000001', second)
    with path.open('ab') as log:
        log.write(b'\n\xff\xfe\n{"loss": 3.0, "iter": 5, "st')
    found = read_scores(str(tmp_path)).drop(columns='network').values.tolist()
    assert found == [*(['train/loss', i, v] for i, v in ((1, 9), (2, 8), (3, 70))), ['mIoU', 2, 6], ['mIoU', 4, 50]]
    assert read_log(str(tmp_path))[-1]['step'] == 4 and not read_log(str(tmp_path / 'none'))


def test_long_curves_are_means_over_equal_intervals(tmp_path):
    write_log(tmp_path, '20260101_000000', [{'lr': float(step), 'iter': step, 'step': step} for step in range(1, 5001)])
    curve = read_scores(str(tmp_path))
    assert curve['iteration'].tolist() == list(range(100, 5001, 100))
    assert curve['value'].tolist() == [end - 49.5 for end in range(100, 5001, 100)]


@pytest.mark.slow
def test_real_training(call, content, out, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', str(ROOT), prepend=os.pathsep)
    status, said = call('--threads', 1, matrix=[{'methods': ['fixmatch'], 'splits': ['all'], 'seeds': [0]}])
    assert status == 0, said
    found = results(out)
    start, semi = found['start_all_seed0'], found['fixmatch_all_seed0']
    assert list(start['', 'mIoU'].index) == [2] and list(semi['', 'train/loss'].index) == [1, 2, 3, 4]
    assert list(semi['teacher', 'mIoU'].index) == [2, 4]
    for values, networks in ((start, ['']), (semi, ['teacher', 'student'])):
        for network in networks:
            for iteration, miou in values[network, 'mIoU'].items():
                scores = values[network].unstack()[iteration].filter(like='IoU.').dropna()
                assert 3 <= len(scores) <= 6 and scores.mean() == pytest.approx(miou, abs=0.02)
    # What continues from a start has its weights.
    init_default_scope('mmseg')
    weights = torch.load(out / 'runs/start_all_seed0/iter_2.pth', weights_only=True)['state_dict']
    config = Config.fromfile(out / 'configs/fixmatch_all_seed0.py')
    model = MODELS.build(config.model)
    load_checkpoint(model, config.load_from, map_location='cpu')
    student = model.student.state_dict()
    assert student.keys() == weights.keys() and all(torch.equal(student[key], weights[key]) for key in weights)
