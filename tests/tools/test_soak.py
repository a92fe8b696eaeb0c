"""The tool that watches a long run: it is content with ours, and finds what leaks."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from mmengine.hooks import Hook
from mmseg.registry import HOOKS

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.usefixtures('quick_runs'),
    pytest.mark.skipif(not Path('/proc/self/statm').exists(), reason='needs /proc'),
]


@HOOKS.register_module(force=True)
class Leak(Hook):
    """Opens a file in every iteration."""

    files = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.files.append(open('/dev/null'))  # noqa: SIM115


@pytest.fixture
def soak(shapes, tmp_path, monkeypatch):
    """Runs the tool; gives its measurements."""
    path = ROOT / 'tools/analysis_tools/soak.py'
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*args, options=()):
        name = f'soak_{tmp_path.name}'
        common = [f'data_root={shapes}', f'experiment_name={name}', f'visualizer.name={name}']
        args = [*args, '--work-dir', tmp_path / 'work', '--out', tmp_path / 'out.jsonl']
        monkeypatch.setattr(sys, 'argv', ['soak.py', *map(str, args), '--cfg-options', *common, *options])
        try:
            module.main()
        finally:
            if (tmp_path / 'out.jsonl').exists():
                run.samples = [json.loads(line) for line in (tmp_path / 'out.jsonl').read_text().splitlines()]

    run.module = module
    return run


def test_a_short_run_is_steady(soak, tmp_path, capsys):
    """With loader workers, validation and checkpoints; bounds are loose, as 120 iterations are no long run."""
    limits = ['--limit', 3, '--time-limit', 100]
    soak('--iterations', 120, '--samples', 12, *limits, options=['train_cfg.val_interval=20'])
    assert [sample['iteration'] for sample in soak.samples] == [*range(10, 121, 10)]
    last = soak.samples[-1]
    assert last['memory'] > 100 and last['workers'] > 100 and last['files'] > 10 and last['threads'] >= 3
    assert last['cpu_ms'] > 0 and 0 < last['wall_ms'] < 10_000
    assert all(sample['relative'] == sample['cpu_ms'] / sample['yardstick'] for sample in soak.samples)
    assert len({sample['yardstick'] for sample in soak.samples}) > 6  # measured, each time
    assert 'growth' in capsys.readouterr().out


def test_a_leak_is_found(soak, tmp_path):
    config = tmp_path / 'leaking.py'
    base = ROOT / 'tools/analysis_tools/soak_config.py'
    config.write_text(f"_base_ = '{base}'\ncustom_hooks = [*_base_.custom_hooks, dict(type='Leak')]\n")
    try:
        with pytest.raises(SystemExit, match='files grew by'):
            soak(config, '--iterations', 24, '--samples', 8, '--time-limit', 900)
    finally:
        for file in Leak.files:
            file.close()


def test_only_what_the_machine_does_not_explain_is_a_drift(soak, capsys):
    def slowed(cpu, yardstick):
        held = dict.fromkeys(('memory', 'workers', 'files', 'threads'), 10)
        factors = [1 + quarter / 10 for quarter in range(4) for _ in range(5)]
        for factor in factors:
            times = cpu(factor), yardstick(factor)
            yield dict(held, wall_ms=40, cpu_ms=times[0], yardstick=times[1], relative=times[0] / times[1])

    judge, limits = soak.module.judge, {'memory': 1.0, 'relative': 5.0}
    assert judge([*slowed(lambda f: 20 * f, lambda f: 4 * f)], limits) == []
    drift = judge([*slowed(lambda f: 20 * f, lambda f: 4)], limits)
    assert drift == ['relative grew by 18.18 %, the limit is 5.0 %']
    assert 'cpu_ms        22.00     26.00   18.18%' in capsys.readouterr().out


def test_the_yardstick_ends_with_the_run(soak):
    yardstick = soak.module.Yardstick()
    assert yardstick.measure() > 0
    yardstick.pipe.close()  # as if this process were killed
    yardstick.process.join(20)
    assert yardstick.process.exitcode == 0


def test_bad_arguments(soak, capsys):
    with pytest.raises(SystemExit):
        soak('--iterations', 5)
    assert '--samples 100 --iterations 5' in capsys.readouterr().err
