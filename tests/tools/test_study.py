"""A study plans, runs, goes on after any end, and leaves results that can be trusted."""

import importlib.util
import io
import json
import math
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import load_checkpoint
from mmseg.registry import DATA_SAMPLERS, DATASETS, MODELS
from rich.console import Console

from mmseg_derprop.study import Display, Scheduler, StudyError, compose, digest, load_study, make_jobs, scheduler
from mmseg_derprop.study.result import find_checkpoint, last_iteration, read_log
from mmseg_derprop.utils.config import load_config

ROOT = Path(__file__).resolve().parents[2]
BASES = ROOT / 'configs/_base_'
STAND_IN = str(Path(__file__).with_name('study_stand_in.py'))
SMALL_HEAD = {'model.propagation_head.channels': 16, 'model.propagation_head.num_regions': 8}
pytestmark = pytest.mark.usefixtures('quick_runs')


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('study', ROOT / 'tools/study.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def content(tmp_path, small_segmentor, shapes):
    """A study of tiny runs on the embedded data set, as a dict; its bases lie beside it."""

    def shrink(part):
        for value in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
            shrink(value)
        for key in ('size', 'crop_size') if isinstance(part, dict) else ():
            if tuple(part.get(key) or ()) == (96, 96):
                part[key] = (33, 33)

    for name in ('shapes', 'shapes_semi'):
        config = load_config(str(BASES / f'datasets/{name}.py'))
        for loader in ('train_dataloader', 'val_dataloader'):
            config[loader].update(num_workers=0, persistent_workers=False)
        shrink(config._cfg_dict)
        (tmp_path / f'{name}.py').write_text('\n'.join(f'{k} = {v!r}' for k, v in config.to_dict().items()))
    network = dict(small_segmentor, data_preprocessor=dict(small_segmentor['data_preprocessor'], size=(33, 33)))
    (tmp_path / 'model.py').write_text(f'model = {network!r}\n')
    return {
        'bases': ['model.py', str(BASES / 'default_runtime.py')],
        'data': {'labeled': 'shapes.py', 'semi': 'shapes_semi.py'},
        'settings': {'train_cfg.val_interval': 2, 'default_hooks.logger.interval': 1},
        'splits': {'all': {'labeled': 'ImageSets/Segmentation/labeled.txt'}, '1_2': {}},
        'seeds': [0, 1],
        'start': {
            'method': 'supervised',
            'schedule': str(BASES / 'schedules/shapes_800.py'),
            'settings': {'train_cfg.max_iters': 2},
        },
        'further': {
            'schedule': str(BASES / 'schedules/shapes_further_800.py'),
            'settings': {'train_cfg.max_iters': 4, 'default_hooks.checkpoint.interval': 1},
        },
        'methods': {
            'supervised': {},
            'fixmatch': {'config': str(BASES / 'methods/fixmatch.py')},
            'derprop': {'config': str(BASES / 'methods/derprop.py'), 'settings': SMALL_HEAD},
        },
        'options': {'alpha0': {'custom_hooks.0.alpha': 0.0}},
    }


@pytest.fixture
def write(content, tmp_path):
    """Writes the study, changed, and gives its path."""

    def make(**changes):
        path = tmp_path / 'tiny.yaml'
        path.write_text(yaml.safe_dump({**content, **changes}, sort_keys=False))
        return str(path)

    return make


SMALL = dict(matrix=[{'methods': ['supervised', 'derprop'], 'splits': ['all'], 'seeds': [0]}])


@pytest.fixture
def run(write, tmp_path, shapes, capsys, monkeypatch):
    """Runs the study with a stand-in for training; gives its exit status and what it said."""
    monkeypatch.setattr(scheduler, 'LOCK_SECONDS', 0.2)

    def make(jobs=1, time_limit=None, script=STAND_IN, only='', **changes):
        study = load_study(write(**changes))
        made = make_jobs(study, study.select(only), str(tmp_path / 'out'), str(shapes), script=script)
        with Display(len(made), Console(force_terminal=False, soft_wrap=True)) as display:
            status = Scheduler(made, jobs, 1, display, time_limit).run()
        return status, capsys.readouterr().out

    return make


def results(folder):
    return {path.stem: json.loads(path.read_text()) for path in (folder / 'results').glob('*.json')}


# The plan ------------------------------------------------------------------------------------------------------------


def test_the_matrix_is_run_once_each_with_the_starts_that_it_needs(write):
    entries = [
        {'methods': ['supervised', 'derprop'], 'splits': ['all']},
        {'methods': ['derprop'], 'options': ['alpha0'], 'splits': ['1_2'], 'seeds': [1]},
        {'methods': ['derprop'], 'splits': ['all'], 'seeds': [1]},
    ]
    study = load_study(write(matrix=entries))
    assert [run.name for run in study.runs] == [
        'start_all_seed0',
        'start_all_seed1',
        'start_1_2_seed1',
        'supervised_all_seed0',
        'derprop_all_seed0',
        'supervised_all_seed1',
        'derprop_all_seed1',
        'derprop+alpha0_1_2_seed1',
    ]
    assert all(run.start.split == run.split and run.start.seed == run.seed for run in study.runs[3:])
    assert [run.name for run in study.select('alpha0')] == ['start_1_2_seed1', 'derprop+alpha0_1_2_seed1']
    assert len(load_study(write()).runs) == 2 * 2 * (1 + 3)


def test_without_a_start_runs_begin_by_themselves(write, content):
    del content['start']
    assert {run.start for run in load_study(write()).runs} == {None}


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'metods': {}}, 'the study file has metods, but it can have bases'),
        ({'seeds': []}, 'has no seeds'),
        ({'seeds': ['a']}, r"seeds is \['a'\].*integers"),
        ({'splits': {164: {}}}, 'quote it'),
        ({'splits': {'../x': {}}}, 'names a folder'),
        ({'splits': {'all': {'labelled': 'x'}}}, 'the split all has labelled, but it can have labeled, unlabeled'),
        ({'bases': ['nowhere.py']}, 'nowhere.py does not exist'),
        ({'methods': {'a': {'confg': 'x'}}}, 'the method a has confg'),
        ({'data': {'labeled': 'shapes.py'}}, r'fixmatch needs data\.semi'),
        ({'start': {'method': 'teacher'}}, "start.method is 'teacher', but methods are supervised"),
        ({'further': {'method': 'derprop'}}, 'the matrix says'),
        ({'matrix': [{'methods': ['derprp']}]}, "names 'derprp', but methods are supervised, fixmatch, derprop"),
        ({'matrix': [{'methods': ['derprop'], 'options': ['beta0']}]}, "names 'beta0', but options are alpha0"),
        ({'matrix': [{'methods': ['derprop'], 'seeds': [7]}]}, 'names 7, but seeds are 0, 1'),
        ({'seconds_per_iteration': {'derprp': 1}}, r'seconds_per_iteration\.derprp'),
        ({'seconds_per_iteration': {'derprop': math.nan}}, r'seconds_per_iteration\.derprop is nan'),
        # Values of another kind than the file needs.
        ({'name': 3}, 'name is 3'),
        ({'name': 'a/../b'}, 'names a folder'),
        ({'bases': 'model.py'}, "bases is 'model.py', but it must be a list"),
        ({'bases': [3]}, '3 is no path'),
        ({'data': {'labeled': None}}, 'None is no path'),
        ({'splits': {'all': {'labeled': 3}}}, 'The split all has'),
        ({'methods': {'a': 3}}, 'the method a is 3, but it must be a mapping'),
        ({'methods': {'a': {'settings': True}}}, r'methods.a.settings is True'),
        ({'methods': {'a': {'unlabeled_pipeline': []}}}, r'The method a has unlabeled_pipeline \[\]'),
        ({'start': {'method': {}}}, r'start.method is \{\}'),
        ({'start': {'method': 'supervised', 'settings': 3}}, 'start.settings is 3'),
        ({'start': {'method': 'supervised', 'schedule': 3}}, '3 is no path'),
        ({'matrix': True}, 'matrix is True, but it must be a list'),
        ({'matrix': [{'methods': [None]}]}, 'matrix names None'),
        ({'matrix': [{'methods': [{}]}]}, r'matrix names \{\}'),
        ({'seeds': 3}, 'seeds is 3'),
    ],
)
def test_a_wrong_study_file_is_refused(write, changes, message):
    with pytest.raises(StudyError, match=message):
        load_study(write(**changes))


def test_a_file_that_is_none_is_refused(tmp_path, write):
    with pytest.raises(StudyError, match='cannot be read'):
        load_study(str(tmp_path / 'nowhere.yaml'))
    (tmp_path / 'broken.yaml').write_text('a: [1')
    with pytest.raises(StudyError, match='no YAML'):
        load_study(str(tmp_path / 'broken.yaml'))
    for content in (b'name: caf\xe9', b'- ' * 2000, b'seeds: [2001-13-01]'):
        (tmp_path / 'broken.yaml').write_bytes(content)
        with pytest.raises(StudyError, match='broken.yaml is no YAML'):
            load_study(str(tmp_path / 'broken.yaml'))
    with pytest.raises(StudyError, match="has 'nothing' in its name"):
        load_study(write()).select('nothing')
    with pytest.raises(StudyError, match='no regular expression'):
        load_study(write()).select('(')


@pytest.mark.parametrize(
    ('setting', 'message'),
    [
        ('train_cfg.max_iter', r'settings sets train_cfg\.max_iter, which nothing reads.*max_iters'),
        ('default_hooks.chekpoint.interval', 'has no chekpoint.*checkpoint'),
        ('custom_hooks.9.alpha', 'has no 9'),
        ('custom_hooks.0.alfa', 'custom_hooks.0.alfa, which nothing reads'),
        ('train_dataloader.batchsize', 'nothing reads.*batch_size'),
        ('model.segmentor.backbone.deph', 'nothing reads'),
        ('model.predict_on.x', "model.predict_on is 'teacher', which holds nothing"),
        ('randomnes.seed', 'has no randomnes'),
    ],
)
def test_a_misspelt_setting_is_refused(write, content, setting, message):
    content['methods']['derprop']['settings'] = {setting: 1}
    study = load_study(write(**SMALL))
    with pytest.raises(StudyError, match=message):
        compose(study, study.runs[-1])


@pytest.mark.parametrize(
    'setting',
    [
        'model.channels_last',
        'model.segmentor.backbone.frozen_stages',
        'optim_wrapper.accumulative_counts',
        'optim_wrapper.paramwise_cfg',
        'train_dataloader.prefetch_factor',
        'train_cfg.val_begin',
        'model.loss_weight.unsup.hard',
        'randomness.deterministic',
        'load_from',
    ],
)
def test_settings_that_configs_leave_out_are_accepted(write, content, setting):
    content['methods']['derprop']['settings'] = {setting: None}
    study = load_study(write(**SMALL))
    compose(study, study.runs[-1])


# Configs -------------------------------------------------------------------------------------------------------------


def test_final_configs(write, content, shapes):
    content['methods']['fixmatch']['unlabeled_pipeline'] = 'two_strong_pipeline'
    content['splits']['all']['unlabeled'] = 'other.txt'
    study = load_study(write())
    configs = {run.name: compose(study, run, str(shapes)) for run in study.runs}
    twin, fixmatch = configs['supervised_all_seed1'], configs['fixmatch_all_seed1']
    assert twin.model.type == 'EncoderDecoder' and fixmatch.model.type == 'SemiSegmentor'
    assert fixmatch.model.segmentor == twin.model
    assert fixmatch.val_cfg.type == 'TeacherStudentValLoop' and twin.val_cfg.type == 'ValLoop'
    assert fixmatch.train_dataloader.dataset.unlabeled.ann_file == 'other.txt'
    assert fixmatch.train_dataloader.dataset.unlabeled.pipeline == fixmatch.two_strong_pipeline
    assert configs['derprop_all_seed1'].train_dataloader.dataset.labeled.data_root == str(shapes)
    assert twin.randomness.seed == 1 and configs['start_all_seed0'].randomness.seed == 0
    assert configs['start_all_seed0'].train_cfg.max_iters == 2 and twin.train_cfg.max_iters == 4
    assert twin.optim_wrapper == {k: v for k, v in fixmatch.optim_wrapper.items() if k != 'constructor'}
    content['methods']['fixmatch']['unlabeled_pipeline'] = 'three_strong_pipeline'
    study = load_study(write())
    with pytest.raises(StudyError, match='has .*two_view_pipeline'):
        compose(study, next(run for run in study.runs if run.method == 'fixmatch'))


@pytest.mark.parametrize('name', ['camvid_cpu', 'camvid_gpu'])
def test_shipped_studies(name):
    study = load_study(str(ROOT / f'configs/studies/{name}.yaml'))
    chosen = {(run.stage, run.method, run.option): run for run in study.runs}
    assert len(study.methods) >= 8 and len(study.seeds) >= 3
    digests = set()
    for run in chosen.values():
        config = compose(study, run, 'elsewhere')
        digests.add(digest(config))
        train, splits = config.train_dataloader.dataset, study.splits[run.split]
        for source in ('labeled', 'unlabeled') if 'labeled' in train else ():
            assert train[source].ann_file == splits[source] and train[source].data_root == 'elsewhere'
        views = json.dumps(train.get('unlabeled', {}).get('pipeline', []))
        assert ('strong2' in views) == (config.model.get('num_strong') == 2)
        assert ('strong_mix' in views) == (config.model.get('cutmix_partner') == 'second_view')
        if 'labeled' in train:
            assert config.train_dataloader.sampler.num_labeled == 4
    assert len(digests) == len(chosen)


def test_a_digest_tells_configurations_apart_but_not_places(write, content):
    study = load_study(write())
    run = next(run for run in study.runs if run.method == 'derprop')
    here, there = (compose(study, run, place) for place in ('here', 'there'))
    assert digest(here) == digest(there)
    assert digest(here, 'start') != digest(here)
    content['options'] = {}
    content['methods']['derprop']['settings'] = {**SMALL_HEAD, 'model.pseudo_labels.tau': 0.9}
    assert digest(compose(load_study(write()), run, 'here')) != digest(here)


def test_all_runs_of_a_seed_see_the_same_labelled_images(write, shapes):
    init_default_scope('mmseg')
    study = load_study(write(matrix=[{'methods': ['supervised', 'fixmatch', 'derprop'], 'splits': ['all']}]))
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
    labeled = (shapes / 'ImageSets/Segmentation/labeled.txt').read_text().split()
    assert {Path(path).stem for batch in orders[0][0] for path in batch} == set(labeled)


# Processes -----------------------------------------------------------------------------------------------------------


def test_what_is_finished_is_skipped(run, tmp_path):
    status, said = run(**SMALL)
    assert status == 0 and 'derprop_all_seed0 finished in' in said and '3 of 3 runs are finished' in said
    found = results(tmp_path / 'out')
    assert set(found) == {'start_all_seed0', 'supervised_all_seed0', 'derprop_all_seed0'}
    result = found['derprop_all_seed0']
    assert result['last']['mIoU'] == {'value': 40.0, 'iteration': 4} and result['start'] == 'start_all_seed0'
    assert result['scalars']['loss'] == [[step, pytest.approx(1 / step, rel=1e-5)] for step in (1, 2, 3, 4)]
    kept = [path.name for path in (tmp_path / 'out' / result['work_dir']).glob('*.pth')]
    assert kept == ['iter_4.pth'] == [Path(result['checkpoint']).name]
    config, twin = (
        Config.fromfile(tmp_path / f'out/configs/{name}_all_seed0.py') for name in ('derprop', 'supervised')
    )
    assert config.load_from == twin.load_from == str(tmp_path / 'out' / found['start_all_seed0']['checkpoint'])
    status, said = run(**SMALL)
    assert status == 0 and said.count('\n') == 1
    pids = (tmp_path / 'out/runs/derprop_all_seed0/pids').read_text().split()
    assert len(pids) == 1


def test_several_at_once(run, tmp_path, monkeypatch):
    monkeypatch.setenv('STAND_IN_SECONDS', '0.1')
    assert run(jobs=3, matrix=[{'methods': ['supervised', 'fixmatch', 'derprop'], 'splits': ['all']}])[0] == 0
    spans = {p.parent.name: tuple(map(float, p.read_text().split())) for p in (tmp_path / 'out/runs').glob('*/span')}
    assert len(spans) == 8
    starts = {name: span for name, span in spans.items() if name.startswith('start')}
    for name, (begun, _) in spans.items():
        if name not in starts:
            assert starts[f'start_all_{name.split("_")[-1]}'][1] <= begun
    assert max(sum(a <= moment < b for a, b in spans.values()) for moment, _ in spans.values()) == 3


def test_a_failed_run_is_reported_and_does_not_stop_others(run, tmp_path, monkeypatch):
    monkeypatch.setenv('STAND_IN_FAILS', 'start_all_seed0')
    status, said = run(matrix=[{'methods': ['derprop'], 'splits': ['all']}])
    assert status == 1
    assert 'start_all_seed0 failed: ended with 7' in said and 'the last words' in said and 'console_001.log' in said
    assert 'derprop_all_seed0 was not run, because start_all_seed0 failed' in said
    assert set(results(tmp_path / 'out')) == {'start_all_seed1', 'derprop_all_seed1'}
    monkeypatch.delenv('STAND_IN_FAILS')
    assert run(matrix=[{'methods': ['derprop'], 'splits': ['all']}])[0] == 0
    assert len(results(tmp_path / 'out')) == 4


def test_a_run_that_ends_early_without_an_error_has_failed(run, tmp_path):
    script = tmp_path / 'idle.py'
    script.write_text('')
    status, said = run(script=str(script), **SMALL)
    assert status == 1 and 'left no checkpoint and scores of iteration 2' in said


def test_the_time_limit_leaves_what_the_next_call_goes_on_with(run, tmp_path, monkeypatch):
    further = {'settings': {'train_cfg.max_iters': 20}, 'schedule': str(BASES / 'schedules/shapes_further_800.py')}
    assert run(only='start', further=further, **SMALL)[0] == 0
    monkeypatch.setenv('STAND_IN_SECONDS', '0.2')
    status, said = run(time_limit=2.0, only='derprop', further=further, **SMALL)
    assert status == 3 and '1 runs are left' in said
    reached, _ = find_checkpoint(str(tmp_path / 'out/runs/derprop_all_seed0'))
    assert 0 < reached < 20
    for pid in (tmp_path / 'out/runs/derprop_all_seed0/pids').read_text().split():
        assert not alive(int(pid))
    monkeypatch.setenv('STAND_IN_SECONDS', '0')
    status, said = run(only='derprop', further=further, **SMALL)
    assert status == 0 and f'goes on from iteration {reached} of 20' in said
    result = results(tmp_path / 'out')['derprop_all_seed0']
    assert [entry['iteration'] for entry in result['scores']] == list(range(1, 21))
    assert [step for step, _ in result['scalars']['loss']] == list(range(1, 21))
    assert result['seconds'] > 0.2 * reached - 0.1


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f'/proc/{pid}/stat').read_text().split()[2] != 'Z'


def wait_for(what, timeout=60):
    end = time.monotonic() + timeout
    while not (found := what()):
        assert time.monotonic() < end, 'it took too long'
        time.sleep(0.02)
    return found


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_children(run, tmp_path, monkeypatch, number):
    monkeypatch.setenv('STAND_IN_SECONDS', '30')
    process = multiprocessing.get_context('fork').Process(target=lambda: os._exit(run(**SMALL)[0]))
    process.start()
    pids = tmp_path / 'out/runs/start_all_seed0/pids'
    pid = int(wait_for(lambda: pids.is_file() and pids.read_text()))
    os.kill(process.pid, number)
    process.join(30)
    assert process.exitcode == 128 + number
    assert not alive(pid)


def test_two_studies_on_one_folder_share_the_runs(run, tmp_path, monkeypatch):
    monkeypatch.setenv('STAND_IN_SECONDS', '0.1')
    matrix = [{'methods': ['supervised', 'fixmatch', 'derprop'], 'splits': ['all']}]
    context = multiprocessing.get_context('fork')
    processes = [context.Process(target=lambda: os._exit(run(jobs=2, matrix=matrix)[0])) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(results(tmp_path / 'out')) == 8
    for pids in (tmp_path / 'out/runs').glob('*/pids'):
        assert len(pids.read_text().split()) == 1, pids


def test_a_run_that_outlives_its_study_is_not_started_again(run, tmp_path, monkeypatch):
    """After SIGKILL of the study alone its child trains on, and holds the lock."""
    monkeypatch.setenv('STAND_IN_SECONDS', '0.5')
    process = multiprocessing.get_context('fork').Process(target=lambda: os._exit(run(**SMALL)[0]))
    process.start()
    pids = tmp_path / 'out/runs/start_all_seed0/pids'
    wait_for(lambda: pids.is_file() and pids.read_text())
    process.kill()
    process.join()
    monkeypatch.setenv('STAND_IN_SECONDS', '0')
    status, said = run(**SMALL)
    assert status == 0 and 'start_all_seed0 is being run by another process' in said
    assert len(pids.read_text().split()) == 1


def test_a_terminal_shows_bars():
    text = io.StringIO()
    with Display(3, Console(file=text, force_terminal=True, width=100)) as display:
        display.update(1, [('derprop_all_seed0', 20, 500)], 'at least 5m07s')
        display.say('derprop_all_seed0 [x] finished')
        display.update(2, [], '12s')
    assert 'derprop_all_seed0 [x] finished' in text.getvalue()
    assert '20/500' in text.getvalue() and 'at least 5m07s left' in text.getvalue()


def test_other_places_get_a_line_now_and_then():
    text = io.StringIO()
    with Display(3, Console(file=text, force_terminal=False, soft_wrap=True), interval=0) as display:
        display.update(1, [('derprop_all_seed0', 20, 500)], 'at least 5m07s')
    assert '1 of 3 runs finished, at least 5m07s left; derprop_all_seed0 20/500' in text.getvalue()


# Logs and checkpoints ------------------------------------------------------------------------------------------------


def write_log(folder, name, entries):
    path = folder / name / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text('\n'.join(json.dumps(entry) for entry in entries))


def test_what_a_later_attempt_did_again_counts_once(tmp_path):
    def step(number, loss):
        return {'loss': loss, 'iter': number, 'step': number, 'time': 1.0}

    first = [step(1, 9.0), step(2, 8.0), {'mIoU': 5.0, 'step': 2}, step(3, 7.0), step(4, 6.0), {'mIoU': 1.0, 'step': 4}]
    write_log(tmp_path, '20260101_000000', first)
    write_log(
        tmp_path,
        '20260101_000001',
        [{'mIoU': 6.0, 'step': 2}, step(3, 70.0), step(4, math.nan), {'mIoU': 50.0, 'step': 4}],
    )
    with (tmp_path / '20260101_000001/vis_data/scalars.json').open('a') as log:
        log.write('\n{"loss": 3.0, "iter": 5, "st')
    scores, scalars = read_log(str(tmp_path))
    assert scores == [{'iteration': 2, 'mIoU': 6.0}, {'iteration': 4, 'mIoU': 50.0}]
    assert scalars == {'loss': [[1, 9.0], [2, 8.0], [3, 70.0], [4, None]]}
    assert last_iteration(str(tmp_path)) == 4


def test_damaged_logs_are_read_as_far_as_they_can_be(tmp_path):
    whole = {'loss': 1.0, 'iter': 1, 'step': 1}
    wrong = [{'iter': 2, 'step': '2'}, {'step': [3]}, {'step': None}, 3, {'loss': 'x', 'iter': 4, 'step': 4}]
    write_log(tmp_path, '20260101_000000', [whole, *wrong, {'mIoU': 5.0, 'aAcc': {}, 'step': 4}])
    with (tmp_path / '20260101_000000/vis_data/scalars.json').open('ab') as log:
        log.write(b'\n\xff\xfe\n' + b'[' * 5000)
    table = 'per class results:\n\n+---+---+\n| Class | IoU |\n| a | 1.\0 |\n| b |\n+---+---+\n'
    (tmp_path / '20260101_000000/20260101_000000.log').write_bytes(table.encode() + b'\xe9')
    scores, scalars = read_log(str(tmp_path))
    assert scores == [{'iteration': 4, 'mIoU': 5.0}] and scalars == {'loss': [[1, 1.0]]}
    assert last_iteration(str(tmp_path)) == 4


def test_long_logs_are_thinned_out_evenly(tmp_path):
    write_log(tmp_path, '20260101_000000', [{'lr': 1.0, 'iter': step, 'step': step} for step in range(1, 5001)])
    points = read_log(str(tmp_path))[1]['lr']
    steps = [step for step, _ in points]
    assert len(steps) == 200 and steps[0] == 1 and steps[-1] == 5000
    assert max(b - a for a, b in zip(steps, steps[1:])) <= 27


def test_a_run_goes_on_from_its_newest_whole_checkpoint(tmp_path):
    assert find_checkpoint(str(tmp_path)) == (0, None)
    for step in (2, 9, 10):
        torch.save({'weights': torch.zeros(1000)}, tmp_path / f'iter_{step}.pth')
    torch.save({}, tmp_path / 'best_mIoU_iter_12.pth')
    assert find_checkpoint(str(tmp_path)) == (10, str(tmp_path / 'iter_10.pth'))
    whole = (tmp_path / 'iter_10.pth').read_bytes()
    (tmp_path / 'iter_10.pth').write_bytes(whole[: len(whole) // 2])
    assert find_checkpoint(str(tmp_path))[0] == 9


# The tool ------------------------------------------------------------------------------------------------------------


def call(tool, monkeypatch, capsys, *args):
    monkeypatch.setattr(sys, 'argv', ['study.py', *map(str, args)])
    try:
        status = tool.main()
    except SystemExit as end:
        status = end.code
    found = capsys.readouterr()
    return status, found.out, found.err


def test_dry_run_prints_the_plan_and_estimates(tool, run, write, shapes, tmp_path, monkeypatch, capsys):
    args = ['--work-dir', tmp_path / 'out', '--data-root', shapes, '--dry-run']
    path = write(seconds_per_iteration={'derprop': 30}, **SMALL)
    status, said, _ = call(tool, monkeypatch, capsys, path, *args)
    assert status == 0 and not (tmp_path / 'out').exists()
    assert re.search(r'start_all_seed0 +2 +\? +to do', said)
    assert re.search(r'derprop_all_seed0 +4 +2m00s +to do', said)
    assert '3 runs, 0 finished; time left with 1 at once: at least 2m00s' in said
    monkeypatch.setenv('STAND_IN_SECONDS', '0.3')
    run(only='start', seconds_per_iteration={'derprop': 30}, **SMALL)
    status, said, _ = call(tool, monkeypatch, capsys, path, *args)
    assert re.search(r'start_all_seed0 +2 +0s +finished', said)
    assert re.search(r'supervised_all_seed0 +4 +[12]s +to do', said)
    assert 'at least' not in said


def test_another_configuration_is_refused_or_replaced(tool, run, write, shapes, tmp_path, monkeypatch, capsys):
    run(**SMALL)
    changed = dict(SMALL, start={'method': 'supervised', 'schedule': str(BASES / 'schedules/shapes_800.py')})
    changed['start']['settings'] = {'train_cfg.max_iters': 3}
    path = write(**changed)
    args = [path, '--work-dir', tmp_path / 'out', '--data-root', shapes]
    before = results(tmp_path / 'out')
    status, _, error = call(tool, monkeypatch, capsys, *args)
    assert status == 2 and 'start_all_seed0, supervised_all_seed0, derprop_all_seed0 belong to another' in error
    assert results(tmp_path / 'out') == before
    assert 'of another configuration' in call(tool, monkeypatch, capsys, *args, '--dry-run')[1]
    monkeypatch.setattr(tool, 'make_jobs', lambda *args: make_jobs(*args, script=STAND_IN))
    assert call(tool, monkeypatch, capsys, *args, '--rerun')[0] == 0
    after = results(tmp_path / 'out')
    assert after['start_all_seed0']['iterations'] == 3
    assert all(after[name]['config_digest'] != before[name]['config_digest'] for name in before)


def test_mistakes_are_told(tool, run, write, shapes, tmp_path, monkeypatch, capsys):
    path = write(**SMALL)
    status, _, error = call(tool, monkeypatch, capsys, path, '--data-root', tmp_path / 'nothing')
    assert status == 2 and 'Data are missing' in error and '--data-root' in error
    status, _, error = call(tool, monkeypatch, capsys, path, '--time-limit', '8 minutes')
    assert status == 2 and 'write 90s, 8m or 1.5h' in error
    status, _, error = call(tool, monkeypatch, capsys, path, '--jobs', '0')
    assert status == 2 and 'no number from 1 on' in error
    run(only='start', **SMALL)
    (tmp_path / 'out/runs/start_all_seed0/iter_2.pth').unlink()
    status, _, error = call(tool, monkeypatch, capsys, path, '--work-dir', tmp_path / 'out', '--data-root', shapes)
    assert status == 2 and 'which is gone' in error


# The whole -----------------------------------------------------------------------------------------------------------


def test_a_study_killed_in_the_middle_goes_on(tool, write, content, shapes, tmp_path, monkeypatch, capsys):
    """With real training: SIGKILL to the study and its child, then the same command again."""
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]))
    monkeypatch.setenv('PYTHONWARNINGS', 'ignore')
    content['further']['settings']['train_cfg.max_iters'] = 6
    content['methods']['derprop']['settings']['custom_hooks.0.interval'] = 1
    path = write(matrix=[{'methods': ['derprop'], 'splits': ['all'], 'seeds': [0]}])
    out = tmp_path / 'out'
    args = [path, '--work-dir', str(out), '--data-root', str(shapes), '--threads', '1']
    study = multiprocessing.get_context('fork').Process(target=call, args=(tool, monkeypatch, capsys, *args))
    study.start()
    wait_for((out / 'runs/derprop_all_seed0/iter_3.pth').exists, timeout=200)
    children = subprocess.run(['ps', '-o', 'pid=', '--ppid', str(study.pid)], capture_output=True, text=True).stdout
    study.kill()
    study.join()
    for pid in map(int, children.split()):
        os.killpg(pid, signal.SIGKILL)
    assert set(results(out)) == {'start_all_seed0'}

    status, said, error = call(tool, monkeypatch, capsys, *args)
    assert status == 0, said + error
    assert re.search(r'derprop_all_seed0 goes on from iteration [2-6] of 6', said)
    found = results(out)
    start, derprop = found['start_all_seed0'], found['derprop_all_seed0']
    assert [entry['iteration'] for entry in start['scores']] == [2] and start['start'] is None
    assert [entry['iteration'] for entry in derprop['scores']] == [2, 4, 6]
    assert [step for step, _ in derprop['scalars']['loss']] == [1, 2, 3, 4, 5, 6]
    assert {'tau', 'alpha', 'confident', 'accepted', 'unsup.loss_hard'} <= set(derprop['scalars'])
    for run, networks in ((start, ['']), (derprop, ['teacher', 'student'])):
        assert run['machine']['threads'] == 1 and run['versions']['torch'] == torch.__version__
        assert run['seconds'] > 0 and 'tools/train.py' in run['command']
        for entry in run['scores']:
            assert list(entry['classes']) == networks
            for network, classes in entry['classes'].items():
                known = [value for value in classes.values() if value is not None]
                mean = entry[f'{network}/mIoU'.lstrip('/')]
                assert len(classes) == 6 and sum(known) / len(known) == pytest.approx(mean, abs=0.02)
    assert derprop['best']['student/mIoU']['value'] == max(entry['student/mIoU'] for entry in derprop['scores'])
    assert derprop['last']['teacher/mIoU'] == {'value': derprop['scores'][-1]['teacher/mIoU'], 'iteration': 6}

    # What goes on from a start has its weights.
    init_default_scope('mmseg')
    weights = torch.load(out / start['checkpoint'], weights_only=False)['state_dict']
    config = Config.fromfile(derprop['command'].split()[4])
    model = MODELS.build(config.model)
    load_checkpoint(model, config.load_from, map_location='cpu')
    student = model.student.state_dict()
    assert student.keys() == weights.keys() and all(torch.equal(student[key], weights[key]) for key in weights)


def test_settings_and_bases_that_do_not_fit(write, content):
    content['settings'] = {'train_cfg.val_interval': {'every': 3}}
    study = load_study(write(**SMALL))
    with pytest.raises(StudyError, match='settings cannot be merged into the config: .*val_interval'):
        compose(study, study.runs[-1])
    content['settings'] = {}
    del content['start'], content['further']['schedule']
    study = load_study(write(**SMALL))
    with pytest.raises(StudyError, match='define no optim_wrapper'):
        compose(study, study.runs[-1])
