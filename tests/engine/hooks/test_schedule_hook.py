"""A run that resumes with another schedule follows it from there on, and says so."""

import logging

import pytest

POLY = dict(type='PolyLR', by_epoch=False, power=0.9, eta_min=1e-4)
WARM = dict(type='LinearLR', by_epoch=False, start_factor=0.1, begin=0, end=3)


@pytest.fixture
def rates(make_runner, tmp_path, monkeypatch):
    """Learning rates of a run, by iteration, and its warnings."""
    warnings = []
    monkeypatch.setattr(logging.Logger, 'warning', lambda self, text, *args, **kwargs: warnings.append(str(text)))

    def train(schedulers, iterations, resume=None, lr=0.01):
        checkpoint = dict(type='ExactCheckpointHook', interval=4)
        options = {'param_scheduler': schedulers, 'train_cfg.max_iters': iterations, 'resume': resume is not None}
        options |= {'default_hooks.checkpoint': checkpoint, 'load_from': resume, 'optim_wrapper.optimizer.lr': lr}
        runner, found = make_runner(options), {}
        step = runner.model.train_step
        runner.model.train_step = lambda batch, optim_wrapper: (
            found.update({runner.iter: optim_wrapper.get_lr()['lr'][0]}) or step(batch, optim_wrapper)
        )
        warnings.clear()
        runner.train()
        return found, [text for text in warnings if 'schedule' in text]

    return train


@pytest.mark.parametrize(
    'first, second, lr, told',
    [
        ([POLY], [POLY], 0.01, 'PolyLR.end is 7, but was 4'),  # by default the end is that of the run
        ([dict(POLY, end=4)], [WARM, dict(POLY, begin=3)], 0.01, '2 schedules, but had 1'),
        ([dict(POLY, end=7)], [dict(POLY, end=7)], 0.02, 'PolyLR.base_values'),
        ([WARM, dict(POLY, begin=3, end=9)], [WARM, dict(POLY, begin=3, end=9)], 0.01, ''),
    ],
)
def test_resumed_with_another_schedule(rates, tmp_path, first, second, lr, told):
    rates(first, 4)
    checkpoint = str(tmp_path / 'work/iter_4.pth')
    resumed, warnings = rates(second, 7, checkpoint, lr)
    wanted, _ = rates(second, 7, lr=lr)
    assert resumed == pytest.approx({iteration: wanted[iteration] for iteration in (4, 5, 6)}, rel=1e-6)
    assert len(set(resumed.values())) == 3
    assert [told in text for text in warnings] == ([True] if told else [])
