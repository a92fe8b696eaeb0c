"""The page of a study: its numbers, its pictures, and that it stands alone."""

import base64
import io
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, MODELS
from PIL import Image

from mmseg_derprop.study.results import KEYS

TOOL = Path(__file__).resolve().parents[2] / 'tools/analysis_tools/report.py'
CLASSES = ('background', 'disc', 'ring')


@pytest.fixture
def report(monkeypatch, tmp_path):
    """Runs tools/analysis_tools/report.py; gives the page."""

    def run(*args):
        page = tmp_path / 'pages/report.html'
        monkeypatch.setattr(sys, 'argv', ['report.py', *map(str, args), '--out', str(page)])
        runpy.run_path(str(TOOL), run_name='__main__')
        return page.read_text(encoding='utf-8')

    return run


def lines(method, seed, networks=('teacher', 'student'), split='1-8', option='', stage='further'):
    """The lines of a run, with scores drawn from a seed."""
    run = f'{method}{"+" * bool(option)}{option}_{split}_seed{seed}'
    rng = np.random.default_rng(list(run.encode()))
    keys = dict(zip(KEYS, (run, stage, method, option, split, seed, 'digest', 'revision', 'a machine')))
    found = [dict(keys, network='', metric='seconds', iteration=200, value=60.0)]
    for iteration in (100, 200):
        for network in networks:
            for metric in ('mIoU', *(f'IoU.{name}' for name in CLASSES)):
                value = rng.uniform(20, 90)
                found.append(dict(keys, network=network, metric=metric, iteration=iteration, value=value))
        found.append(dict(keys, network='', metric='train/loss', iteration=iteration, value=1 / iteration))
    return found


@pytest.fixture
def study(tmp_path):
    """Folder of a study of three methods with unequal seeds, and its table."""
    found = [line for seed in range(3) for line in lines('supervised', seed, ('',))]
    found += [line for seed in range(3) for line in lines('supervised', seed + 10, ('',), stage='start')]
    found += [line for seed in (1, 2, 3) for line in lines('derprop', seed)]
    found += lines('derprop', 0, option='slow') + lines('supervised', 0, ('',), split='1-4')
    table = pd.DataFrame(found)
    table.to_csv(tmp_path / 'results.csv', index=False)
    return tmp_path, table


def said(values, signed=False, divisor=1.0):
    """Mean and spread as the page writes them, by NumPy."""
    mean = f'{np.mean(values):{"+" if signed else ""}.1f}'
    return mean if len(values) == 1 else f'{mean} ± {np.std(values, ddof=1) / divisor:.1f}'


def test_scores_and_paired_differences(study, report):
    folder, table = study
    table['label'] = (table.method + '+' + table.option).str.rstrip('+')
    part = table[(table.split == '1-8') & (table.stage == 'further')]

    def of(label, network, metric):
        chosen = part[(part.label == label) & (part.network == network) & (part.metric == metric)]
        return chosen.groupby('seed').value.last().to_dict()

    tool = runpy.run_path(str(TOOL))
    scores, classes = (tool[name](part, 'supervised') for name in ('score_table', 'class_table'))

    def paired(label, network, metric='mIoU'):  # seeds without a partner do not count
        base, values = of('supervised', '', metric), of(label, network, metric)
        return [values[seed] - base[seed] for seed in values if seed in base]

    networks = [(label, n) for label in ('derprop', 'derprop+slow') for n in ('student', 'teacher')]
    networks.sort(key=lambda row: (-max(np.mean(paired(row[0], n)) for n in ('student', 'teacher')), row))
    assert list(scores.index) == list(classes.index) == [('supervised', ''), *networks]
    assert list(scores.loc['supervised', '']) == [3, said([*of('supervised', '', 'mIoU').values()]), '', 60]
    values, difference = of('derprop', 'student', 'mIoU'), said(paired('derprop', 'student'), True, 2**0.5)
    assert list(scores.loc['derprop', 'student']) == [3, said([*values.values()]), difference, 60]
    assert scores.loc[('derprop+slow', 'teacher'), 'difference'] == said(paired('derprop+slow', 'teacher'), True)
    page = report(folder, '--images', 0)
    for name in CLASSES:
        values, difference = of('derprop', 'teacher', f'IoU.{name}'), paired('derprop', 'teacher', f'IoU.{name}')
        wanted = f'{said([*values.values()])} ({said(difference, True, 2**0.5)})'
        assert classes.loc[('derprop', 'teacher'), name] == wanted and wanted in page
    network = max(('student', 'teacher'), key=lambda network: np.mean(paired('derprop', network)))
    gain = paired('derprop', network)
    assert f'derprop ({network}) gains most: {said(gain, True, len(gain) ** 0.5)} mIoU over supervised' in page


@pytest.mark.parametrize(('seeds', 'lead'), [((0, 1), ' Its lead over the next, b, is +3.0 ± 1.0.'), ((2, 3), '')])
def test_the_verdict(seeds, lead):
    """Gains of a are 3 and 5, of all labels 10; b leads nowhere, and only seeds that both have count."""
    scores = dict(base={i: 40 for i in range(4)}, a={0: 43, 1: 45}, all={0: 50, 1: 50}, b=dict(zip(seeds, (41, 41))))
    rows = [(label, seed, value) for label, found in scores.items() for seed, value in found.items()]
    table = pd.DataFrame(rows, columns=['label', 'seed', 'value'])
    table = table.assign(stage='further', option='', network='', metric='mIoU', iteration=1)
    said = runpy.run_path(str(TOOL))['say_verdict'](table, 'base', 'all')
    assert said == (
        'a gains most: +4.0 ± 1.0 mIoU over base, and gains in 2 of 2 seeds. That is 40% of what all gains.' + lead
    )


def test_the_page_stands_alone(study, report):
    page = report(study[0] / 'results.csv')
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) == 4 and all(source.startswith('data:image/svg+xml;base64,') for source in sources)
    assert not re.search(r'url\(|@import|https?://', re.sub(r'base64,[\w+/=]+', '', page))
    svg = base64.b64decode(sources[3].partition('base64,')[2]).decode()
    assert svg.count('<path') > 20 and page.count('<h2>Split') == 2
    assert report(study[0] / 'results.csv') == page  # the same results give the same page


def test_what_tables_hold_is_escaped(study, report):
    folder, table = study
    script = '<script>$x$ alert(1)</script>'
    table.loc[table.method == 'derprop', ['method', 'split', 'revision']] = script
    table.loc[table.metric == 'IoU.disc', 'metric'] = f'IoU.{script}'
    table.to_csv(folder / 'results.csv', index=False)
    page = report(folder)
    assert '<script' not in page and '&lt;script&gt;$x$ alert(1)' in page


def test_wrong_input_is_named(study, report, tmp_path, capsys):
    (tmp_path / 'other.csv').write_text('run,value\na,1\n')
    for args, message in (
        ((study[0], '--baseline', 'nobody'), '--baseline must be one of derprop, derprop+slow, supervised, supervised'),
        ((tmp_path / 'other.csv',), 'other.csv must be a results.csv of a study, but is not'),
        ((tmp_path / 'nowhere',), 'nowhere must be a results.csv of a study, but is not'),
    ):
        with pytest.raises(SystemExit):
            report(*args)
        assert message in capsys.readouterr().err


def test_pictures_are_the_networks_predictions(call, out, report, stand_in, small_segmentor, tmp_path):
    """Of the methods that have a checkpoint; a run whose name leads out of the folder gets none."""
    init_default_scope('mmseg')
    call(matrix=[{'methods': ['supervised', 'fixmatch', 'other'], 'splits': ['all'], 'seeds': [0]}])
    for name in ('start', 'supervised', 'fixmatch'):
        config = Config.fromfile(out / f'configs/{name}_all_seed0.py')
        torch.manual_seed(0)
        (path,) = (out / f'runs/{name}_all_seed0').glob('*.pth')
        torch.save(dict(state_dict=MODELS.build(config.model).state_dict()), path)
    (tmp_path / 'evil.py').write_text("open('harmed', 'w')")
    table = pd.read_csv(out / 'results.csv', keep_default_na=False)
    table.loc[table.run == 'other_all_seed0', 'run'] = str(tmp_path / 'evil')
    table.to_csv(out / 'results.csv', index=False)
    page = report(out, '--images', 2)
    assert 'No pictures of other: no checkpoint is left' in page
    predictions, labels = re.findall(r'src="data:image/png;base64,([\w+/=]+)"', page)
    picture, row = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(source))).convert('RGB')) for source in (predictions, labels)
    )
    # Image, truth, start, supervised and fixmatch, two rows; the truth shows more colours than noise alone.
    assert picture.shape[1] == 5 * (3 * 64 + 8) and picture.std() > 30
    assert row.shape[1] == 4 * (3 * 64 + 8)  # image, pseudo-labels, confidence, what the threshold accepts


def test_what_a_propagation_head_does(semi_config):
    config = semi_config()
    init_default_scope('mmseg')
    model, sample = MODELS.build(config.model).eval(), DATASETS.build(config.val_dataloader.dataset)[0]
    image = np.zeros((*sample['inputs'].shape[1:], 3), np.uint8)
    pictures = dict(runpy.run_path(str(TOOL))['draw_labels'](model, sample, image, [(i, 0, 0) for i in range(9)]))
    assert {'similar to the cross', 'propagated', 'changed by propagation'} <= pictures.keys()
    assert all(picture.shape == image.shape for picture in pictures.values())
    assert (pictures['similar to the cross'] == 255).all(2).any()
