"""Schedules that count epochs, in iterations: batches of labelled and unlabelled images have no common epoch."""

from __future__ import annotations

from typing import Any

from mmengine.config import Config

from ..utils.config import type_name

# Options that are a time, of train_cfg, of mmengine's parameter schedulers, and of its checkpoint hook.
LOOP = ('val_interval', 'val_begin', 'dynamic_intervals')
SCHEDULER = ('begin', 'end', 'T_max', 'step_size', 'milestones', 'periods', 'total_steps')
CHECKPOINT = ('interval', 'save_begin')
FOREVER = int(1e9)  # mmengine's end of a scheduler that does not end


def counts_epochs(config: Config) -> bool:
    """Whether a config's training loop counts epochs.

    Raises:
        ValueError: If it is another loop than the two of mmengine.
    """
    default = 'EpochBasedTrainLoop' if config.train_cfg.get('by_epoch', True) else 'IterBasedTrainLoop'
    loop = type_name(config.train_cfg) if 'type' in config.train_cfg else default
    if not loop.endswith(('EpochBasedTrainLoop', 'IterBasedTrainLoop')):
        raise ValueError(f'train_cfg.type must be IterBasedTrainLoop or EpochBasedTrainLoop, but is {loop}.')
    return loop.endswith('EpochBasedTrainLoop')


def in_iterations(config: Config, length: int) -> dict[str, Any]:
    """What must change in a config that counts epochs, of ``length`` iterations each.

    Returns:
        dict: ``train_cfg`` and ``param_scheduler``, whole; ``checkpoint`` and ``logger``, options to merge into
        ``default_hooks``.
    """
    loop, hooks = config.train_cfg, config.get('default_hooks') or {}
    schedulers = config.get('param_scheduler') or []
    schedulers = [schedulers] if isinstance(schedulers, dict) else schedulers
    train_cfg = dict(type='IterBasedTrainLoop', max_iters=loop.max_epochs * length, val_interval=length)
    return dict(
        train_cfg=train_cfg | _longer(loop, LOOP, length),
        param_scheduler=[_scheduler(dict(one), length) for one in schedulers],
        checkpoint=_longer(hooks.get('checkpoint') or {}, CHECKPOINT, length),
        logger=dict({} if hooks.get('logger') else dict(type='LoggerHook'), log_metric_by_epoch=False),
    )


def _longer(options: dict, names: tuple[str, ...], length: int) -> dict[str, Any]:
    def scale(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [scale(one) for one in value]
        return value if value >= FOREVER else int(value * length)

    return {name: scale(options[name]) for name in names if options.get(name) is not None}


def _scheduler(options: dict, length: int) -> dict:
    if not options.pop('by_epoch', True):
        return dict(options, by_epoch=False)
    options.pop('convert_to_iter_based', None)
    if str(options['type']).startswith('Exponential'):
        options['gamma'] **= 1 / length  # a factor of each step
    return {**options, 'by_epoch': False, **_longer(options, SCHEDULER, length)}
