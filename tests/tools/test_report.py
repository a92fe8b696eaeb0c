"""The report of a study: its numbers, its page, its pictures."""

import base64
import copy
import html.parser
import importlib.util
import io
import re
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

import builders
import numpy as np
import pytest
import study_files
import torch
from mmengine.config import Config
from mmseg.registry import MODELS
from PIL import Image

from mmseg_derprop.datasets import ShapesDataset
from mmseg_derprop.report.panels import PanelError, draw_panels
from mmseg_derprop.report.runs import read_folder

ROOT = Path(__file__).resolve().parents[2]
VOID = {'meta', 'img', 'br', 'wbr', 'link', 'hr', 'input'}


def report(*args):
    """Runs the tool in this process; returns the page."""
    spec = importlib.util.spec_from_file_location('report', ROOT / 'tools/analysis_tools/report.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', ['report.py', *map(str, args)])
        module.main()
    return (Path(args[args.index('--out') + 1]) / 'report.html').read_text(encoding='utf-8')


class Page(html.parser.HTMLParser):
    """Tables as lists of texts, captions, images and attributes; fails on tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tables, self.captions, self.images, self.attributes = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.attributes += attrs.items()
        if tag == 'img':
            self.images.append(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == 'table':
            self.tables.append([])
        elif tag == 'tr':
            self.tables[-1].append([])
        elif tag in ('td', 'th'):
            self.tables[-1][-1].append('')
        elif tag in ('caption', 'figcaption'):
            self.captions.append('')
        elif tag == 'small':
            self.tables[-1][-1][-1] += ' | '

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and ('td' in self.open or 'th' in self.open):
            self.tables[-1][-1][-1] += data
        elif 'caption' in self.open or 'figcaption' in self.open:
            self.captions[-1] += re.sub(r'\s+', ' ', data)


def said(values, signed=False, divisor=1.0):
    """Mean ± spread as the page writes them, by NumPy."""
    mean = f'{np.mean(values):{"+" if signed else ""}.1f}'.replace('-', '\N{MINUS SIGN}')
    return mean if len(values) == 1 else f'{mean} ± {np.std(values, ddof=1) / divisor:.1f}'


@pytest.fixture(scope='module')
def study(tmp_path_factory):
    """Three methods, unequal seeds, two splits, a file that is none."""
    results = [study_files.supervised(seed=seed) for seed in range(4)]
    results += [study_files.result(seed=seed) for seed in (1, 2, 3, 4)]
    results += [study_files.result('fixmatch', seed=0), study_files.result(split='1-4', seed=0)]
    unfinished = study_files.result('fixmatch', seed=1)
    del unfinished['scores'][-1]
    results.append(unfinished)
    folder = study_files.write(tmp_path_factory.mktemp('study'), *results)
    (folder / 'results/broken.json').write_text('{<&')
    return folder, {each['name']: each for each in results}


@pytest.fixture(scope='module')
def page_of_study(study, tmp_path_factory):
    out = tmp_path_factory.mktemp('out')
    return report(study[0], '--out', out, '--images', 0), out


def scores_of(results, name, key, pick):
    """Picked mIoU by seed of the runs whose name begins so."""
    found = {r['seed']: [s[key] for s in r['scores']] for n, r in results.items() if n.startswith(name)}
    return {seed: pick(values) for seed, values in found.items() if len(values) == 3}


def test_table_of_results(study, page_of_study):
    page = Page(page_of_study[0])
    (table,) = (t for t in page.tables if t[0][2:4] == ['Seeds', 'Last'] and len(t) > 3)
    assert [line[:2] for line in table[1:]] == [
        ['supervised (baseline)', 'single'],
        ['derprop', 'teacher'],
        ['derprop', 'student'],
        ['fixmatch', 'teacher'],
        ['fixmatch', 'student'],
    ]
    picks = (lambda values: values[-1], max)
    for line in table[1:]:
        method, network = line[0].split()[0], line[1]
        key = 'mIoU' if network == 'single' else f'{network}/mIoU'
        differences = []
        for pick, text in zip(picks, line[3:5]):
            values = scores_of(study[1], f'{method}_1-8', key, pick)
            assert text == said([*values.values()])
            base = scores_of(study[1], 'supervised_1-8', 'mIoU', pick)
            differences.append([values[seed] - base[seed] for seed in values if seed in base])
        assert int(line[2]) == dict(supervised=4, derprop=4, fixmatch=1)[method]
        if method == 'supervised':
            assert line[5:] == ['\N{EN DASH}'] * 3
        else:
            pairs = dict(derprop=3, fixmatch=1)[method]
            assert line[5:] == [str(pairs), *(said(d, True, pairs**0.5) for d in differences)]


def test_tables_of_classes(study, page_of_study):
    page = Page(page_of_study[0])
    tables = {c.split('split ')[1].split(':')[0]: t for c, t in zip(captions(page), page.tables) if 'each class' in c}
    assert list(tables) == [f'{split} of small, {n}' for split in ('1-4', '1-8') for n in ('teacher', 'student')]
    table = tables['1-8 of small, student']
    assert table[0] == ['Class', 'supervised', 'derprop', 'fixmatch']
    assert [line[0] for line in table[1:]] == list(study_files.CLASSES)

    def last(method, network, name):
        runs = [r for n, r in study[1].items() if n.startswith(f'{method}_1-8') and len(r['scores']) == 3]
        return {r['seed']: r['scores'][-1]['classes'][network][name] for r in runs}

    for name, of_supervised, of_derprop, _ in table[1:]:
        base, values = last('supervised', '', name), last('derprop', 'student', name)
        assert of_supervised == said([*base.values()])
        differences = [values[seed] - base[seed] for seed in (1, 2, 3)]
        assert of_derprop == f'{said([*values.values()])} | {said(differences, True, 3**0.5)}'


def captions(page):
    """Captions of tables, in the order of the tables."""
    return [c for c in page.captions if c.startswith('Table')]


def test_overview_of_splits(study, page_of_study):
    page = Page(page_of_study[0])
    table = page.tables[0]
    assert table[0] == ['Method', 'Network', 'Split 1-4 of small', 'Split 1-8 of small']
    cells = {(line[0], line[1]): line[2:] for line in table[1:]}
    few = scores_of(study[1], 'derprop_1-4', 'teacher/mIoU', lambda values: values[-1])
    assert cells['derprop', 'teacher'][0] == said([*few.values()]) and cells['supervised', 'single'][0] == '\N{EN DASH}'


def test_page_stands_alone(page_of_study):
    text, out = page_of_study
    page = Page(text)
    links = [value for name, value in page.attributes if name in ('src', 'href', 'srcset', 'action', 'data')]
    assert links and all(link.startswith(('data:image/', '#')) for link in links)
    assert not re.search(r'url\(|@import|https?://', re.sub(r'base64,[\w+/=]+', '', text))
    ids = [value for name, value in page.attributes if name == 'id']
    assert len(ids) == len(set(ids)) and {link[1:] for link in links if link[0] == '#'} <= set(ids)
    assert ('lang', 'en') in page.attributes and all(len(image['alt']) > 20 for image in page.images)
    numbers = [re.match(r'(Table|Figure) (\d+)\. ', caption).groups() for caption in page.captions]
    for kind in ('Table', 'Figure'):
        own = [int(n) for k, n in numbers if k == kind]
        assert own == list(range(1, len(own) + 1))
    # Curves, the course of the pseudo-labels and their accuracy, for each of two splits.
    assert len(page.images) == 6
    for image in page.images:
        svg = ElementTree.fromstring(base64.b64decode(image['src'].partition('base64,')[2]))
        assert svg.tag.endswith('svg')
    pictures = sorted(out.glob('*.png'))
    assert [p.stem for p in pictures] == [f'{n}_{i}' for n in ('accuracy', 'course', 'curves') for i in (1, 2)]
    assert all(np.asarray(Image.open(path).convert('L')).std() > 10 for path in pictures)
    assert 'finished seeds (4 of each method, but 1 of fixmatch)' in ' '.join(page.captions)


def test_page_says_what_is_left_out(page_of_study):
    notes = page_of_study[0].partition('<main>')[0]
    assert 'broken.json is left out' in notes and 'fixmatch_1-8_seed1.json is unfinished' in notes
    assert 'split 1-4 of small: no baseline' in notes
    assert '{<&' not in notes  # what files hold is escaped


def test_the_same_results_give_the_same_files(study, page_of_study, tmp_path):
    text, out = page_of_study
    assert report(study[0] / 'results', '--out', tmp_path, '--images', 0) == text
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {p.name: p.read_bytes() for p in out.iterdir()}


def test_names_are_escaped_and_sparse_results_do(tmp_path):
    sparse = dict(scalars=None, versions=None, machine=None, command=None, seconds=None, config_digest=None)
    odd = study_files.result('<b>&x', name='odd', study=None, stage=None, iterations=None, options=None, **sparse)
    for entry in odd['scores']:
        del entry['classes']
    page = Page(report(study_files.write(tmp_path, odd), '--out', tmp_path / 'out'))
    assert 'b' not in page.open and page.tables[0][1][0] == '<b>&x'
    assert len(page.images) == 1  # no scalars, no checkpoint: curves alone


@pytest.mark.parametrize(
    ('args', 'reason'),
    [
        (['--baseline', 'nobody'], 'no run is called nobody'),
        (['--images', '-1'], '--images is -1'),
        (['--pixel', '3', '-4'], '--pixel is 3 -4'),
    ],
)
def test_wrong_arguments_are_named(study, tmp_path, capsys, args, reason):
    with pytest.raises(SystemExit) as error:
        report(study[0], '--out', tmp_path, *args)
    assert reason in f'{error.value}{capsys.readouterr().err}'


def test_folder_without_results(tmp_path):
    with pytest.raises(SystemExit, match='has no'):
        report(tmp_path, '--out', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


@pytest.fixture
def trained(make_runner, small_segmentor, tmp_path):
    """A study of a run that was trained, and of two networks that were not: one that labels but propagates nothing,
    and a plain segmentor. Returns its folder and the trained model."""
    folder = tmp_path / 'study'
    method, headless, plain = (
        study_files.result('derprop'),
        study_files.result('fixmatch'),
        study_files.supervised(),
    )
    checkpoint = dict(type='CheckpointHook', interval=7, by_epoch=False)
    options = {'work_dir': str(folder / method['work_dir']), 'default_hooks.checkpoint': checkpoint}
    runner = make_runner(options, val=True)
    runner.train()
    method['checkpoint'] = f'{method["work_dir"]}/iter_7.pth'
    fixmatch = dict(builders.method('fixmatch'), segmentor=small_segmentor)
    for result, model in ((headless, fixmatch), (plain, small_segmentor)):
        path = folder / result['checkpoint']
        path.parent.mkdir(parents=True)
        torch.save(dict(state_dict=MODELS.build(copy.deepcopy(model)).state_dict()), path)
        Config(dict(runner.cfg, model=model)).dump(path.parent / 'config.py')
    lost = study_files.result('lost')
    study_files.write(folder, method, headless, plain, lost)
    return folder, runner.model


def test_pictures_of_networks(trained, tmp_path):
    folder, _ = trained
    out = tmp_path / 'out'
    page = Page(report(folder, '--out', out, '--images', 2, '--pixel', 20, 30))
    assert sorted(p.name for p in out.glob('panels*')) == [f'panels_1_{i}.png' for i in (1, 2, 3)]
    titles = {image['alt'].split(',')[1].strip(): image['alt'] for image in page.images if 'images' in image['alt']}
    assert list(titles) == ['supervised', 'derprop', 'fixmatch']
    assert 'confidence' not in titles['supervised'] and 'truth' in titles['supervised']
    assert 'confident' in titles['fixmatch'] and 'similarity' not in titles['fixmatch']
    assert 'similarity, derivative, similarity, plain' in titles['derprop'] and 'accepted' in titles['derprop']
    inlined = [image['src'].partition('base64,')[2] for image in page.images if 'images' in image['alt']]
    for number, data in enumerate(map(base64.b64decode, inlined), 1):
        assert data == (out / f'panels_1_{number}.png').read_bytes()
        assert np.asarray(Image.open(io.BytesIO(data)).convert('L')).std() > 10
    notes = (out / 'report.html').read_text().partition('<main>')[0]
    assert 'no pictures of lost, seed 0: its checkpoint (runs/lost_1-8_seed0/iter_300.pth) is not there' in notes
    # Outside of the images of 64 x 64; of the methods without propagation the pixel is not asked.
    notes = report(folder, '--out', out, '--images', 1, '--pixel', 64, 0).partition('<main>')[0]
    assert notes.count('the pixel 64 0 lies outside of an image of 64 x 64 pixels') == 1


def test_pictures_against_the_network(trained, shapes):
    """The drawn prediction is the network's own; what regions accept covers what is confident."""
    folder, model = trained
    (run, *_) = (run for run in read_folder(folder)[0] if run.label == 'derprop')
    figure, titles = draw_panels(run, 6)
    drawn = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    assert [axis.get_title() for axis in figure.axes if axis.images] == 6 * titles
    palette = np.array(ShapesDataset.METAINFO['palette'])
    dataset = ShapesDataset(
        data_root=str(shapes),
        ann_file='ImageSets/Segmentation/val.txt',
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
        test_mode=True,
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')],
    )
    model.eval()
    assert len(drawn) == 6 * len(titles) == 54
    for index in range(6):
        pictures = dict(zip(titles, drawn[index * len(titles) :]))
        image = np.asarray(Image.open(dataset[index]['data_samples'].img_path))
        np.testing.assert_array_equal(pictures['image'], image)
        truth = dataset[index]['data_samples'].gt_sem_seg.data[0].numpy()
        known = truth != 255
        np.testing.assert_array_equal(pictures['truth'][known], palette[truth[known]])
        with torch.no_grad():
            batch = dict(inputs=[dataset[index]['inputs']], data_samples=[dataset[index]['data_samples']])
            labels = model.test_step(batch)[0].pred_sem_seg.data[0].cpu().numpy()
        np.testing.assert_array_equal(pictures['prediction'], palette[labels])
        before, after = ((pictures[f'pseudo-labels, {name}'] != 255).any(-1) for name in ('confident', 'accepted'))
        assert not (before & ~after).any()


def test_a_checkpoint_of_another_network(trained):
    folder, _ = trained
    runs = {run.label: run for run in read_folder(folder)[0]}
    runs['derprop'].raw['checkpoint'] = runs['supervised'].raw['checkpoint']
    with pytest.raises(PanelError, match=r'iter_300.pth does not load with .*\.py'):
        draw_panels(runs['derprop'], 1)
    runs['derprop'].raw['work_dir'] = 'nowhere'
    with pytest.raises(PanelError, match=r'its work dir \(nowhere\) has no config'):
        draw_panels(runs['derprop'], 1)
    shutil.rmtree(folder / 'runs/supervised_1-8_seed0', ignore_errors=True)
    with pytest.raises(PanelError, match='is not there'):
        draw_panels(runs['supervised'], 1)
