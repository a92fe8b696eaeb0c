"""What of the log stays in memory."""

import pytest

from mmseg_derprop.engine import LogHistoryHook


def test_the_newest_values_stay(make_runner):
    hooks = [dict(type='PseudoLabelHook'), dict(type='LogHistoryHook', length=3)]
    runner = make_runner({'custom_hooks': hooks, 'default_hooks.logger.interval': 1})
    lines = []
    runner.visualizer.add_scalars = lambda tags, step, **kwargs: lines.append(tags)
    runner.train()
    kept = {name: history.data for name, history in runner.message_hub.log_scalars.items()}
    values, counts = kept['train/loss']
    # Cut after iterations 3 and 6 of 7.
    assert len(values) == len(counts) == 4
    assert len(lines) == 7 and len({line['loss'] for line in lines}) == 7
    assert all(len(data[0]) <= 4 for data in kept.values())
    assert lines[-1]['loss'] == pytest.approx(values.mean())  # the window is longer than what is kept


def test_at_least_one_value():
    with pytest.raises(ValueError, match='length = 0'):
        LogHistoryHook(0)
