"""Study files, result files, logs and base configs with wrong parts."""

import json

import builders
import study_files
import yaml
from commands import ROOT, call
from hypothesis import given
from hypothesis import strategies as st
from mutations import EDITS, WRONGS, damaged, edited, with_wrongs
from own_errors import cases, ends_well, folder

from mmseg_derprop.report import page
from mmseg_derprop.report.runs import compare, read_folder
from mmseg_derprop.study import compose, digest, load_study
from mmseg_derprop.study.result import last_iteration, read_log, summary
from mmseg_derprop.utils.config import load_config

BASES = ROOT / 'configs/_base_'
STUDY = {
    'name': 'small',
    'bases': [str(BASES / 'models/deeplabv3plus_tiny.py'), str(BASES / 'default_runtime.py')],
    'data': {'labeled': str(BASES / 'datasets/shapes.py'), 'semi': str(BASES / 'datasets/shapes_semi.py')},
    'settings': {'train_cfg.val_interval': 2, 'default_hooks.logger.interval': 1},
    'splits': {'all': {'labeled': 'labeled.txt', 'unlabeled': 'unlabeled.txt'}, '1_2': {}},
    'seeds': [0, 1],
    'start': {'method': 'supervised', 'schedule': str(BASES / 'schedules/shapes_800.py'), 'settings': {}},
    'further': {'schedule': str(BASES / 'schedules/shapes_further_800.py'), 'settings': {'train_cfg.max_iters': 4}},
    'methods': {
        'supervised': {},
        'derprop': {
            'config': str(BASES / 'methods/derprop.py'),
            'unlabeled_pipeline': 'unlabeled_pipeline',
            'settings': {'model.propagation_head.channels': 16},
        },
    },
    'options': {'alpha0': {'custom_hooks.0.alpha': 0.0}},
    'matrix': [{'methods': ['supervised', 'derprop'], 'options': [None, 'alpha0'], 'splits': ['all'], 'seeds': [0]}],
    'seconds_per_iteration': {'derprop': 0.1},
}  # fmt: skip


@cases(300)
@given(WRONGS)
def test_studies(wrongs):
    with folder() as place:
        path = place / 'fuzz.yaml'
        path.write_text(yaml.safe_dump(with_wrongs(STUDY, wrongs), sort_keys=False))
        with ends_well():
            study = load_study(str(path))
            assert study.runs and len({run.name for run in study.runs}) == len(study.runs)
            for run in study.runs[:2]:
                assert len(digest(compose(study, run, str(place)))) == 16


@cases(200)
@given(damaged([yaml.safe_dump(STUDY).encode(), b'name: \xff', b'&a [*a]', b'a: &a [*a]', b'? {}\n: 1', b'- ' * 999]))
def test_bytes_of_studies(content):
    with folder() as place:
        (place / 'fuzz.yaml').write_bytes(content)
        with ends_well():
            load_study(str(place / 'fuzz.yaml'))


@cases(60)
@given(st.text(max_size=5) | st.sampled_from(['(', '[', '(?i)all', 'derprop', '(a+)+$']))
def test_selections_of_a_study(pattern):
    with folder() as place:
        (place / 'fuzz.yaml').write_text(yaml.safe_dump(STUDY))
        with ends_well(repr(pattern)):
            assert load_study(str(place / 'fuzz.yaml')).select(pattern)


RESULTS = [study_files.result(), study_files.supervised(), study_files.result(options=dict(a={'x': 1}), seed=1)]


@cases(300)
@given(WRONGS, st.sampled_from([0, 1, 2]), st.none() | st.just('derprop') | st.text(max_size=3))
def test_results_in_a_report(wrongs, which, baseline):
    results = [with_wrongs(result, wrongs if number == which else []) for number, result in enumerate(RESULTS)]
    with folder() as place:
        (place / 'results').mkdir()
        for number, result in enumerate(results):
            (place / 'results' / f'{number}.json').write_text(json.dumps(result))
        with ends_well(repr(baseline), str(baseline)):
            runs, notes = read_folder(place)
            assert len(runs) + len(notes) == 3 and all(f'{which}.json' in note for note in notes)
            settings, notes = compare(runs, baseline)
            assert '</html>' in page.render('x', [page.Section(setting) for setting in settings], notes)


@cases(15)
@given(WRONGS, st.sampled_from([0, 1, 2]))
def test_figures_of_a_report(wrongs, which):
    results = [with_wrongs(result, wrongs if number == which else []) for number, result in enumerate(RESULTS)]
    with folder() as place:
        for number, result in enumerate(results):
            (place / f'{number}.json').write_text(json.dumps(result))
        with ends_well():
            call('analysis_tools/report.py', place, '--out', place / 'out', '--images', 0)


@cases(150)
@given(damaged([json.dumps(RESULTS[0]).encode(), b'[1]', b'{"a": NaN}', b'[' * 2000, b'\xff', b'1' * 5000]))
def test_bytes_of_results(content):
    with folder() as place:
        (place / 'good.json').write_text(json.dumps(RESULTS[1]))
        (place / 'bad.json').write_bytes(content)
        with ends_well():
            runs, notes = read_folder(place)
            assert len(runs) + len(notes) == 2 and all('bad.json' in note for note in notes)


TRAINING = [dict(step=i, iter=i, loss=1 / i, **{'train/tau': 0.5}, time=0.1, data_time=0.01) for i in range(1, 6)]
VALIDATION = [{'step': 3, 'teacher/mIoU': 40.0, 'student/mIoU': 30.0, 'time': 0.1}, {'step': 5, 'teacher/mIoU': 41.0}]
LOG = [*TRAINING[:3], VALIDATION[0], *TRAINING[3:], VALIDATION[1]]
TABLE = '\n'.join(
    [
        'per class results:',
        '',
        '+---+---+',
        '| Class | IoU |',
        '+---+---+',
        '| a | 1.0 |',
        '| b | nan |',
        '+---+---+',
        '',
    ]
)


@cases(250)
@given(WRONGS, EDITS | st.just([]), EDITS | st.just([]))
def test_logs_of_runs(wrongs, edits, log_edits):
    lines = '\n'.join(json.dumps(entry) for entry in with_wrongs(LOG, wrongs)) + '\n'
    with folder() as place:
        run = place / '20260101_000000'
        (run / 'vis_data').mkdir(parents=True)
        (run / 'vis_data' / 'scalars.json').write_bytes(edited(lines.encode(), edits))
        (run / f'{run.name}.log').write_bytes(edited((TABLE * 4).encode(), log_edits))
        with ends_well():
            scores, scalars = read_log(str(place))
            summary(scores)
            assert isinstance(last_iteration(str(place)), int)
            json.dumps(dict(scores=scores, scalars=scalars), allow_nan=False)
        with ends_well('scalars.json', 'mIoU'):
            call('analysis_tools/plot_curves.py', f'x={place}', '--out', place / 'x.svg', '--metric', 'mIoU')


NAMES = [f'labeled_{number:05d}' for number in range(4)]
LISTS = st.sampled_from(
    ['\n'.join(NAMES).encode(), b'', b'no', b'\xff', NAMES[0].encode(), b'\xef\xbb\xbf' + NAMES[0].encode()]
)
LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
DATA = dict(
    type='ShapesDataset',
    data_root='ROOT',
    ann_file='ImageSets/Segmentation/labeled.txt',
    data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
    pipeline=[*LOAD, dict(type='RandomCrop', crop_size=[32, 32]), dict(type='PackSegInputs')],
)
BASE = dict(
    default_scope='mmseg',
    model=builders.segmentor(6),
    train_dataloader=dict(batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler'), dataset=DATA),
    train_cfg=dict(type='IterBasedTrainLoop', max_iters=2, val_interval=2),
    optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3)),
    default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2, save_best='mIoU')),
    custom_hooks=[dict(type='EmptyCacheHook')],
    val_cfg=dict(type='ValLoop'),
)


@cases(100)
@given(
    WRONGS,
    LISTS,
    st.sampled_from([[], ['--crop-size', 8, 40], ['--crop-size', 0, 8], ['--crop-size', -1, 8]]),
    st.sampled_from(['JPEGImages', 'SegmentationClass', 'ImageSets/Segmentation/unlabeled.txt', 'no', '']),
)
def test_bases_of_semi_config(shapes, wrongs, labeled, options, unlabeled):
    config = with_wrongs(BASE, wrongs)
    with folder() as place:
        lines = ["nan, inf = float('nan'), float('inf')", *(f'{key} = {value!r}' for key, value in config.items())]
        text = '\n'.join(lines).replace("'ROOT'", repr(str(shapes)))
        (place / 'base.py').write_bytes(text.encode(errors='backslashreplace'))
        (place / 'labeled.txt').write_bytes(labeled)
        arguments = ['--labeled', place / 'labeled.txt', '--unlabeled', shapes / unlabeled, '--out', place / 'semi.py']
        with ends_well('base.py', 'labeled.txt', '--crop-size', '--unlabeled'):
            call('semi_config.py', '--base', place / 'base.py', *arguments, *options)
            load_config(str(place / 'semi.py'))
