"""Tells the model where training is."""

from __future__ import annotations

from typing import Literal

import torch
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.datasets import BaseSegDataset
from mmseg.registry import HOOKS
from torch import Tensor

from ...datasets import BrokenData, check_leaks
from ...datasets.checks.broken import SettingError
from ...datasets.semi_dataset import load_labeled
from ...models import SemiSegmentor
from ...utils.options import PositiveInt, check_options
from ..batches import iteration_loop
from ..preflight import check_batch, check_classes, check_validation
from .strict_load_hook import unwrap


@HOOKS.register_module()
class PseudoLabelHook(Hook):
    """Tells a :class:`SemiSegmentor` where training is, checks its data, and logs its pseudo-labels.

    What moves between iterations (alpha, the EMA teacher, the head's warm-up) is an option of the model. An epoch is
    one pass over the unlabelled images, ``len(train_dataloader)`` iterations, counted from 0. With gradient
    accumulation all moves once per optimiser step, but for alignment and batch statistics, which follow each batch.

    Args:
        interval (int): Iterations between two entries of the statistics in the log, at least 1. Shares of pixels and
            accuracies are means over them.
        leaks (str): What validation images among the training images are: ``'error'``, ``'warn'`` or ``'ignore'``.
        absent_classes (str): What a class without a single labelled pixel is: ``'error'`` or ``'warn'``.
    """

    moved_options = {
        'alpha': 'model.pseudo_labels.alpha',
        'teacher_interval': 'model.teacher.interval',
        'teacher_momentum': 'model.teacher.momentum',
        'head_warmup': 'model.propagation_head.warmup',
    }

    @check_options
    def __init__(
        self,
        interval: PositiveInt = 10,
        leaks: Literal['error', 'warn', 'ignore'] = 'error',
        absent_classes: Literal['error', 'warn'] = 'error',
    ) -> None:
        self.interval = interval
        self.leaks = leaks
        self.absent_classes = absent_classes

    def before_train(self, runner: Runner) -> None:
        """Checks model and data, and makes the teacher a copy of the student in a run that begins.

        Raises BrokenData if files cannot be used, SettingError if something in the config cannot work.
        """
        self.seen: list[dict[str, Tensor]] = []
        try:
            self.model = semi_segmentor(runner)
            self.check(runner)
        except BrokenData:
            raise
        except (TypeError, ValueError) as error:
            raise SettingError(str(error)) from error
        # Terms are logged as means over the window, as the total is; the engine knows them by "loss" in their names.
        window = runner.log_processor.window_size
        means = [dict(data_src=name, method_name='mean', window_size=window) for name in self.model.active_losses]
        runner.log_processor.custom_cfg = [*runner.log_processor.custom_cfg, *means]
        if runner.iter == 0:
            self.model.update_teacher(momentum=0)
            runner.message_hub.update_info('pseudo_label_epoch', 0)

    def check(self, runner: Runner) -> None:
        """Raises ValueError or TypeError if model and data do not fit each other, or the run."""
        iteration_loop(runner)
        check_batch(self.model, runner.train_dataloader)
        check_classes(self.model, runner.train_dataloader.dataset, self.absent_classes)
        val = runner.val_dataloader.dataset if runner.val_loop is not None else None
        for part in getattr(val, 'datasets', [val]):
            if isinstance(part, BaseSegDataset):
                load_labeled(part, 'validation')
        check_validation(runner)
        if self.leaks != 'ignore':
            check_leaks(runner.train_dataloader.dataset, val, self.leaks)

    def before_train_epoch(self, runner: Runner) -> None:
        """Goes on in the epoch that the run was in; by now the sampler knows its place."""
        self.sampler = runner.train_dataloader.sampler
        self.epochs = self.sampler.epoch(runner.max_iters - 1) + 1
        last = runner.message_hub.runtime_info.get('pseudo_label_epoch', self.sampler.epoch(max(runner.iter - 1, 0)))
        self.begin_epoch(runner, last)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Begins an optimiser step, unless this batch goes on with one."""
        self.model.begin_iteration(runner.iter)
        scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)  # of AmpOptimWrapper
        self.model.loss_scale = None if scaler is None else scaler.scale(torch.ones((), device=get_device()))
        if not runner.optim_wrapper.should_update():  # between two iterations: whether the last one ended a step
            return
        self.model.pseudo_labeler.threshold.begin_step()
        epoch = self.sampler.epoch(runner.iter)
        if epoch > self.epoch:
            self.model.follow_student('epoch')
            self.begin_epoch(runner, epoch)

    def begin_epoch(self, runner: Runner, epoch: int) -> None:
        """Tells the labeller. The message hub, which checkpoints carry, keeps the epoch: a step can straddle two."""
        self.epoch = epoch
        self.model.pseudo_labeler.begin_epoch(epoch, self.epochs)
        runner.message_hub.update_info('pseudo_label_epoch', epoch)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs=None) -> None:
        if runner.optim_wrapper.should_update():
            steps = runner.message_hub.runtime_info.get('teacher_steps', 0)
            self.model.follow_student('step', steps)
            runner.message_hub.update_info('teacher_steps', steps + 1)
        self.seen.append(self.model.statistics)
        if self.every_n_inner_iters(batch_idx, self.interval):
            if self.model.pseudo_labeler.alpha_schedule == 'linear':
                runner.message_hub.update_scalar('train/alpha', self.model.pseudo_labeler.alpha)
            for name, value in self.model.statistics.items():
                if name != 'threshold':  # all others are shares of a batch
                    value = torch.stack([each[name] for each in self.seen if name in each]).nanmean()
                runner.message_hub.update_scalar(f'train/{name}', value)
            self.seen = []


def semi_segmentor(runner: Runner) -> SemiSegmentor:
    """The runner's model without its wrappers; raises TypeError if it is no SemiSegmentor."""
    model = unwrap(runner.model)
    if not isinstance(model, SemiSegmentor):
        raise TypeError(
            f"The model is a {type(model).__name__}, but a SemiSegmentor is needed: model=dict(type='SemiSegmentor', "
            'segmentor=<the config of your segmentor>, ...).'
        )
    return model
