"""Follows the config's schedules where a run resumes."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS


@HOOKS.register_module()
class ScheduleHook(Hook):
    """Follows the config's schedules where a run resumes; the engine would go on with those of the checkpoint.

    Where they differ, in a setting such as their end or in the rate that they begin with, a warning says so, and the
    learning rate (or momentum) becomes what the config's schedules give at this iteration.
    """

    def __init__(self) -> None:
        self.start: list[dict] | None = None  # what schedules change, of each group of parameters

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compares the schedules, before the engine loads those of the checkpoint."""
        saved, own = checkpoint.get('param_schedulers'), runner.param_schedulers
        if not runner.cfg.get('resume') or not isinstance(saved, list) or not isinstance(own, list):
            return
        differences = [f'{len(own)} schedules, but had {len(saved)}'] if len(own) != len(saved) else []
        for ours, theirs in zip(own, saved):
            differences += [
                f'{type(ours).__name__}.{name} is {value}, but was {theirs.get(name)}'
                for name, value in _settings(ours).items()
                if value != theirs.get(name)
            ]
        if differences:
            told = '; '.join(differences)
            runner.logger.warning(f'The schedule of the config is not that of the checkpoint, and is followed: {told}.')
            del checkpoint['param_schedulers']
            names = {prefix + schedule.param_name for schedule in own for prefix in ('', 'initial_')}
            groups = runner.optim_wrapper.param_groups
            self.start = [{name: group[name] for name in names & group.keys()} for group in groups]

    def before_train(self, runner: Runner) -> None:
        """Takes the schedules from their start to this iteration."""
        if self.start is None:
            return
        for group, values in zip(runner.optim_wrapper.param_groups, self.start):
            group.update(values)
        steps = [s for s in runner.param_schedulers if not s.by_epoch]
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # that the optimiser has made no steps yet
            for _ in range(runner.iter):
                for schedule in steps:
                    schedule.step()
        self.start = None


def _settings(schedule: Any) -> dict[str, Any]:
    """What the config says of a schedule, and the values that it begins with."""
    state = schedule.state_dict()
    names = {name for kind in type(schedule).__mro__ for name in inspect.signature(kind).parameters}
    return {name: state[name] for name in (names | {'base_values'}) & state.keys() - {'last_step', 'verbose'}}
