"""The page of a study: its numbers, its pictures, and that it stands alone."""

import base64
import io
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from PIL import Image

from mmseg_derprop.study.table import KEYS

CLASSES = ('background', 'disc', 'ring')
PLUS_MINUS = '\N{PLUS-MINUS SIGN}'


@pytest.fixture
def report(load_tool, monkeypatch, tmp_path):
    """Runs tools/analysis_tools/report.py; gives the page."""

    def run(*args):
        page = tmp_path / 'pages/report.html'
        monkeypatch.setattr(sys, 'argv', ['report.py', *map(str, args), '--out', str(page)])
        load_tool('analysis_tools/report.py').main()
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


class Tables(HTMLParser):
    """Tables of a page as lists of the texts of cells."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.cell = [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == 'table':
            self.tables.append([])
        elif tag == 'tr':
            self.tables[-1].append([])
        elif tag in ('td', 'th'):
            self.tables[-1][-1].append('')
        self.cell = tag in ('td', 'th')

    def handle_endtag(self, tag):
        self.cell = False

    def handle_data(self, data):
        if self.cell:
            self.tables[-1][-1][-1] += data


def said(values, signed=False, divisor=1.0):
    """Mean and spread as the page writes them, by NumPy."""
    mean = f'{np.mean(values):{"+" if signed else ""}.1f}'
    return mean if len(values) == 1 else f'{mean} {PLUS_MINUS} {np.std(values, ddof=1) / divisor:.1f}'


def test_scores_and_paired_differences(study, report):
    folder, table = study
    found = Tables(report(folder, '--images', 0)).tables

    def last(method, network, metric, pick=lambda values: values[-1], option=''):
        chosen = table[(table.method == method) & (table.stage == 'further') & (table.split == '1-8')]
        chosen = chosen[(chosen.network == network) & (chosen.metric == metric) & (chosen.option == option)]
        return {seed: pick(part.value.to_list()) for seed, part in chosen.groupby('seed')}

    scores = {(row[0], row[1]): row[2:] for row in rows(found[2])}
    names = ['supervised', 'derprop', 'derprop', 'derprop+slow', 'derprop+slow', 'supervised (start)']
    assert [name for name, _ in scores] == names
    base, values = last('supervised', '', 'mIoU'), last('derprop', 'student', 'mIoU')
    best = last('derprop', 'student', 'mIoU', max)
    paired = [values[seed] - base[seed] for seed in (1, 2)]  # seeds 0 and 3 have no partner
    assert scores['supervised', ''] == [
        '3',
        said([*base.values()]),
        said([*last('supervised', '', 'mIoU', max).values()]),
        '',
        '60.0',
    ]
    assert scores['derprop', 'student'] == [
        '3', said([*values.values()]), said([*best.values()]), said(paired, True, 2**0.5), '60.0'
    ]  # fmt: skip
    slow = last('derprop', 'teacher', 'mIoU', option='slow')
    assert scores['derprop+slow', 'teacher'][3] == said([slow[0] - base[0]], True)

    classes = {(row[0], row[1]): row[2:] for row in rows(found[3])}
    for index, name in enumerate(CLASSES):
        values, base = last('derprop', 'teacher', f'IoU.{name}'), last('supervised', '', f'IoU.{name}')
        paired = [values[seed] - base[seed] for seed in (1, 2)]
        assert classes['derprop', 'teacher'][index] == f'{said([*values.values()])} ({said(paired, True, 2**0.5)})'


def rows(table):
    """Rows of a table without its heads, each with the method that stands in an earlier row only once."""
    method = ''
    for row in table[2:]:
        row = row if len(row) == len(table[2]) else [method, *row]
        method = row[0]
        yield row


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
    assert picture.shape[1] / picture.shape[0] == pytest.approx(5 * 1.8 / (2 * 2.0), rel=0.1) and picture.std() > 30
