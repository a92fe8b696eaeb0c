"""Commands on the pages: the tools exist, take the options, and find the configs that a command names."""

import argparse
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / 'README.md', *sorted(ROOT.glob('docs/**/*.md')), *sorted(ROOT.glob('configs/*/README.md'))]
NAMES = {'CONFIG': 'configs/derprop/tiny_shapes.py', 'CHECKPOINT': 'CHECKPOINT'}


def commands():
    """Each call of one of this project's tools in a block of code, as (page, words)."""
    for page in PAGES:
        fenced_or_indented = r'```(?:bash)?\n(.*?)```|(?<=\n\n)((?: {4}\S.*\n)+)'
        for block in re.findall(fenced_or_indented, page.read_text(), re.S):
            for line in re.sub(r'\\\n', ' ', ''.join(block)).splitlines():
                found = re.search(
                    r"(?<!MMSEG/)(?:python )?(?<!MMSEG/)(tools/\S+\.(?:py|sh))\b(?:'[^']*'|[^;`&|'])*", line
                )
                if (
                    found
                    and '`' not in line
                    and ' ' in found[0].strip().removeprefix('python ')
                    and not re.search(r'\$[@{1-9]', line)
                ):
                    text = re.sub(r'\s#.*', '', found[0])
                    yield str(page.relative_to(ROOT)), shlex.split(re.sub(r'\$\w+', '1', text))


COMMANDS = sorted({(page, *words) for page, words in commands()})


def test_there_are_commands():
    assert len(COMMANDS) > 30 and len({words[0] for words in COMMANDS}) >= 6


def configs_of(words):
    return [word for word in words if re.fullmatch(r'configs/\S+\.py', word)]


@pytest.mark.parametrize('command', COMMANDS, ids=lambda command: ' '.join(command[1:4])[:60])
def test_a_command(command, monkeypatch):
    words = [NAMES.get(word, word) for word in command[1:] if word != 'python']
    tool = ROOT / words[0]
    assert tool.is_file()
    assert all((ROOT / config).is_file() for config in configs_of(words))
    if tool.suffix == '.sh':
        assert os.access(tool, os.X_OK)
        return

    class Parsed(Exception):
        pass

    def parse(self, *args, **kwargs):
        raise Parsed(original(self, *args, **kwargs))

    original = argparse.ArgumentParser.parse_args
    monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', parse)
    monkeypatch.setattr(sys, 'argv', [str(tool), *words[1:]])
    monkeypatch.syspath_prepend(str(tool.parent))
    spec = importlib.util.spec_from_file_location(f'page_{tool.stem}', tool)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(Parsed):
        module.main()


@pytest.mark.parametrize('script', ['slurm_train.sh', 'slurm_test.sh'])
def test_slurm_scripts_ask_for_what_they_say(script, tmp_path):
    """A stand-in for srun, which exists on clusters only, notes the words that it is given."""
    noted = tmp_path / 'words'
    srun = tmp_path / 'srun'
    srun.write_text(f'#!/usr/bin/env bash\nprintf "%s\\n" "$@" > {noted}\n')
    srun.chmod(0o755)
    own = ['config.py'] if script == 'slurm_train.sh' else ['config.py', 'weights.pth']
    environment = dict(os.environ, PATH=f'{tmp_path}:{os.environ["PATH"]}', GPUS='16', SRUN_ARGS='--time 1:00 --mem 9G')
    options = ['--cfg-options', 'a=b c']
    subprocess.run([ROOT / 'tools' / script, 'part', 'job', *own, *options], check=True, env=environment)
    words = noted.read_text().splitlines()
    for word in ('--partition=part', '--job-name=job', '--gres=gpu:8', '--ntasks=16', '--ntasks-per-node=8'):
        assert word in words
    assert words[words.index('--time') :][:4] == ['--time', '1:00', '--mem', '9G']
    at = next(i for i, word in enumerate(words) if word.endswith('.py') and 'tools/' in word)
    assert words[at].endswith(script.removeprefix('slurm_').replace('.sh', '.py'))
    assert words[at + 1 :] == [*own, '--launcher', 'slurm', *options]
