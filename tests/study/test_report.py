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
from mmseg.registry import MODELS
from PIL import Image

from mmseg_derprop.study.report import class_table, score_table
from mmseg_derprop.study.results import KEYS

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ('background', 'disc', 'ring')


@pytest.fixture
def report(monkeypatch, tmp_path):
    """Runs tools/analysis_tools/report.py; gives the page."""

    def run(*args):
        page = tmp_path / 'pages/report.html'
        monkeypatch.setattr(sys, 'argv', ['report.py', *map(str, args), '--out', str(page)])
        runpy.run_path(str(ROOT / 'tools/analysis_tools/report.py'), run_name='__main__')
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

    def of(label, network, metric, pick=lambda values: values[-1]):
        chosen = part[(part.label == label) & (part.network == network) & (part.metric == metric)]
        return {seed: pick(lines.value.to_list()) for seed, lines in chosen.groupby('seed')}

    scores, classes = score_table(part, 'supervised'), class_table(part, 'supervised')
    networks = [(label, n) for label in ('derprop', 'derprop+slow') for n in ('student', 'teacher')]
    networks = [('supervised', ''), *networks]
    assert list(scores.index) == list(classes.index) == networks
    base = of('supervised', '', 'mIoU')
    best = said([*of('supervised', '', 'mIoU', max).values()])
    assert list(scores.loc[networks[0]]) == [3, said([*base.values()]), best, '', 60]
    values, best = of('derprop', 'student', 'mIoU'), said([*of('derprop', 'student', 'mIoU', max).values()])
    paired = [values[seed] - base[seed] for seed in (1, 2)]  # seeds 0 and 3 have no partner
    assert list(scores.loc['derprop', 'student']) == [3, said([*values.values()]), best, said(paired, True, 2**0.5), 60]
    single = of('derprop+slow', 'teacher', 'mIoU')[0] - base[0]
    assert scores.loc[('derprop+slow', 'teacher'), 'difference'] == said([single], True)
    page = report(folder, '--images', 0)
    for name in CLASSES:
        values, base = of('derprop', 'teacher', f'IoU.{name}'), of('supervised', '', f'IoU.{name}')
        paired = [values[seed] - base[seed] for seed in (1, 2)]
        wanted = f'{said([*values.values()])} ({said(paired, True, 2**0.5)})'
        assert classes.loc[('derprop', 'teacher'), name] == wanted and wanted in page


def test_the_page_stands_alone(study, report):
    page = report(study[0] / 'results.csv')
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) == 2 and all(source.startswith('data:image/svg+xml;base64,') for source in sources)
    assert not re.search(r'url\(|@import|https?://', re.sub(r'base64,[\w+/=]+', '', page))
    svg = base64.b64decode(sources[1].partition('base64,')[2]).decode()
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
    (source,) = re.findall(r'src="data:image/png;base64,([\w+/=]+)"', page)
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(source))).convert('RGB'))
    # Image, truth, start, supervised and fixmatch, two rows; the truth shows more colours than noise alone.
    assert picture.shape[1] == 5 * (3 * 64 + 8) and picture.std() > 30
