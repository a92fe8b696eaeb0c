"""docs/your_data.md, followed word by word, but smaller."""

import json
import re
import shlex
from pathlib import Path

from commands import call

PAGE = (Path(__file__).resolve().parents[2] / 'docs/your_data.md').read_text()
SMALLER = {
    '--labeled 24 --unlabeled 400 --val 100': '--labeled 4 --unlabeled 8 --val 2',
    '(512, 512)': '(64, 64)',
    'num_workers=4': 'num_workers=0',
    "init_cfg=dict(type='Pretrained', checkpoint=weights)": 'init_cfg=None',  # no download
    'iter_20000': 'iter_2',
}


def blocks(language):
    """The page's code, smaller."""
    found = re.findall(rf'```{language}\n(.*?)```', PAGE, re.S)
    for old, new in SMALLER.items():
        found = [block.replace(old, new) for block in found]
    return found


def test_the_page_leads_to_a_tested_checkpoint(tmp_path, monkeypatch, quick_runs, capsys):
    monkeypatch.chdir(tmp_path)
    (plain,) = blocks('python')
    Path('my_segformer.py').write_text(plain)
    lines = [line for block in blocks('bash') for line in block.replace('\\\n', ' ').splitlines()]
    assert len(lines) == 7
    for number, line in enumerate(lines):
        python, script, *arguments = shlex.split(line)
        assert python == 'python' and script.startswith('tools/')
        name = script.removeprefix('tools/')
        if name in ('train.py', 'test.py'):
            # The engine keeps a message hub and a visualizer for each name, and this process has many runs.
            run = f'your_data_{number}'
            options = dict(log_level='WARNING', experiment_name=run) | {'visualizer.name': run}
            if name == 'train.py':
                options |= {'train_cfg.max_iters': 2, 'train_cfg.val_interval': 2}
            arguments += [] if '--cfg-options' in arguments else ['--cfg-options']
            arguments += [f'{key}={value}' for key, value in options.items()]
        try:
            call(name, *arguments)
        except SystemExit as end:  # check_data.py ends with the number of problems
            assert not end.code
    assert len(Path('semi_segformer.py').read_text().splitlines()) <= 30
    output = capsys.readouterr().out
    assert 'labelled    4 images' in output and 'unlabelled  8 images' in output
    assert list(Path('work_dirs/browse').glob('batch_*.png'))
    (scores,) = Path('work_dirs/semi_segformer/test').glob('*/*.json')
    assert 0 <= json.loads(scores.read_text())['mIoU'] <= 100
