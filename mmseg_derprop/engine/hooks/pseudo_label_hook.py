"""Moves what the method moves between optimiser steps: alpha, the threshold's step, the teacher."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner
from mmseg.datasets import BaseSegDataset
from mmseg.registry import HOOKS

from ...datasets import check_leaks
from ...datasets.semi_dataset import load_labeled
from ...models import SemiSegmentor
from ...models.checks import check_choice
from ...utils.options import is_number
from ..preflight import check_batch
from .broken_files_hook import warn_if_uncounted
from .strict_load_hook import unwrap


@HOOKS.register_module()
class PseudoLabelHook(Hook):
    """Sets alpha, moves the teacher and logs the pseudo-labels of a :class:`SemiSegmentor`.

    An epoch is one pass over the unlabelled images, ``len(train_dataloader)`` iterations, counted from 0. With
    gradient accumulation everything moves once per optimiser step.

    Args:
        alpha (float | str): Share of the propagated prediction in the pseudo-labels, or ``'linear'``: epoch / epochs.
        teacher_interval (str): ``'epoch'``: the teacher is a copy of the student in epoch 0 and moves at the start of
            each later one. ``'step'``: it moves after each optimiser step.
        teacher_momentum (float): Share of the teacher's own weights. By ``'step'`` it is at most 1 - 1 / (t + 1) at
            step t, counted from 0.
        head_warmup (int): Iterations at the start for which the propagation head learns alone: from nothing, its losses
            would undo what the network has learned, so they do not reach it, and labels do without the head.
        interval (int): Iterations between two entries of the statistics in the log.
        leaks (str): What validation images among the training images are: ``'error'``, ``'warn'`` or ``'ignore'``.

    Raises:
        ValueError: If an option is unknown or out of range, or, before the first iteration, if the data do not fit
            the model or validation images are among them.
        TypeError: If the model is no :class:`SemiSegmentor`.
    """

    priority = 'NORMAL'

    def __init__(
        self,
        alpha: float | str = 'linear',
        teacher_interval: str = 'epoch',
        teacher_momentum: float = 0.5,
        head_warmup: int = 0,
        interval: int = 10,
        leaks: str = 'error',
    ) -> None:
        if isinstance(alpha, str):
            check_choice('alpha', alpha, ('linear',))
        elif not is_number(alpha, 0, 1):
            raise ValueError(f"alpha = {alpha!r}, but it must lie within 0 .. 1, or be 'linear'.")
        check_choice('teacher_interval', teacher_interval, ('epoch', 'step'))
        if not is_number(teacher_momentum, 0, 1):
            raise ValueError(f'teacher_momentum = {teacher_momentum!r}, but it must lie within 0 .. 1.')
        check_choice('leaks', leaks, ('error', 'warn', 'ignore'))
        if not is_number(head_warmup, 0, whole=True):
            raise ValueError(f'head_warmup = {head_warmup!r}, but it must be a number of iterations, at least 0.')
        if not is_number(interval, 1, whole=True):
            raise ValueError(f'interval = {interval!r}, but it must be a number of iterations, at least 1.')
        self.alpha = alpha
        self.teacher_interval = teacher_interval
        self.teacher_momentum = teacher_momentum
        self.head_warmup = head_warmup
        self.interval = interval
        self.leaks = leaks

    def before_train(self, runner: Runner) -> None:
        """Checks model and data, and makes the teacher a copy of the student in a run that begins."""
        self.model = semi_segmentor(runner)
        if not isinstance(runner.train_loop, IterBasedTrainLoop):
            raise TypeError(
                f'train_cfg makes a {type(runner.train_loop).__name__}, which would wait for the end of an endless '
                "sampler: train_cfg=dict(type='IterBasedTrainLoop', max_iters=...)."
            )
        check_batch(self.model, runner.train_dataloader)
        warn_if_uncounted(runner)
        val = runner.val_dataloader.dataset if runner.val_loop is not None else None
        if isinstance(val, BaseSegDataset):
            allowed = getattr(runner.train_dataloader.dataset, 'allow_outside', False)
            load_labeled(val, 'validation', allow_outside=allowed)
        if self.leaks != 'ignore':
            check_leaks(runner.train_dataloader.dataset, val, self.leaks)
        if runner.iter == 0:
            self.model.update_teacher(momentum=0)
            runner.message_hub.update_info('pseudo_label_epoch', 0)

    def before_train_epoch(self, runner: Runner) -> None:
        """Goes on in the epoch that the run was in; by now the sampler knows its place."""
        self.sampler = runner.train_dataloader.sampler
        self.epochs = self.sampler.epoch(runner.max_iters - 1) + 1
        last = runner.message_hub.runtime_info.get('pseudo_label_epoch', self.sampler.epoch(max(runner.iter - 1, 0)))
        self.begin_epoch(runner, last)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Begins an optimiser step, unless this batch goes on with one."""
        self.model.head_alone = runner.iter < self.head_warmup
        # Between two iterations this tells whether the last one ended a step.
        self.model.pseudo_labeler.new_step = runner.optim_wrapper.should_update()
        if not self.model.pseudo_labeler.new_step:
            return
        epoch = self.sampler.epoch(runner.iter)
        if epoch > self.epoch:
            if self.teacher_interval == 'epoch':
                self.model.update_teacher(self.teacher_momentum)
            self.begin_epoch(runner, epoch)

    def begin_epoch(self, runner: Runner, epoch: int) -> None:
        """Sets alpha. The message hub, which checkpoints carry, keeps the epoch: a step can straddle two."""
        self.epoch = epoch
        self.model.alpha = epoch / self.epochs if self.alpha == 'linear' else float(self.alpha)
        runner.message_hub.update_info('pseudo_label_epoch', epoch)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Moves the teacher where it follows steps, and logs."""
        if self.teacher_interval == 'step' and runner.optim_wrapper.should_update():
            # Kept in the message hub, which checkpoints carry.
            steps = runner.message_hub.runtime_info.get('teacher_steps', 0)
            self.model.update_teacher(min(1 - 1 / (steps + 1), self.teacher_momentum))
            runner.message_hub.update_info('teacher_steps', steps + 1)
        if self.every_n_inner_iters(batch_idx, self.interval):
            runner.message_hub.update_scalar('train/alpha', self.model.alpha)
            for name, value in self.model.statistics.items():
                runner.message_hub.update_scalar(f'train/{name}', value)


def semi_segmentor(runner: Runner) -> SemiSegmentor:
    """The runner's model without its wrappers.

    Raises:
        TypeError: If it is no SemiSegmentor.
    """
    model = unwrap(runner.model)
    if not isinstance(model, SemiSegmentor):
        raise TypeError(
            f"The model is a {type(model).__name__}, but a SemiSegmentor is needed: model=dict(type='SemiSegmentor', "
            'segmentor=<the config of your segmentor>, ...).'
        )
    return model
