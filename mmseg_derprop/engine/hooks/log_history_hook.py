"""Bounds what the log keeps in memory and in checkpoints."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from ...utils.options import is_number


@HOOKS.register_module()
class LogHistoryHook(Hook):
    """Forgets old values of the logged scalars.

    MMEngine keeps up to a million values of each scalar, copies all of them to add one, and saves them with every
    checkpoint, so that iterations and checkpoints grow as a run goes on. The log reads means over a window
    (``log_processor.window_size``, 10 by default). The files of the log keep everything.

    Args:
        length (int): Values of each scalar that are kept; between ``length`` and twice as many are in memory. A
            window of the log processor, ``'global'`` too, reaches so far back.

    Raises:
        ValueError: If ``length`` is below 1.
    """

    priority = 'LOWEST'

    def __init__(self, length: int = 1000) -> None:
        if not is_number(length, 1, whole=True):
            raise ValueError(f'length = {length!r}: at least 1 value of each scalar must be kept.')
        self.length = length

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Cuts the histories, once in ``length`` iterations."""
        if not self.every_n_train_iters(runner, self.length):
            return
        scalars = runner.message_hub.log_scalars
        for name, history in scalars.items():
            values, counts = (data[-self.length :] for data in history.data)
            scalars[name] = HistoryBuffer(values, counts)
