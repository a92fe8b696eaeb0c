"""Checkpoints that are whole, plain data, and from which a run resumes exactly."""

from __future__ import annotations

import os.path as osp
from datetime import timedelta
from typing import Any

import torch
from mmengine.dist import all_reduce, barrier, get_world_size, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import IterBasedTrainLoop, Runner
from mmseg.registry import HOOKS

from ...datasets import SemiSampler
from ...utils.checkpoints import make_plain
from ...utils.files import remove_unfinished
from ...utils.options import is_number
from .. import whole_files  # noqa: F401  (registers the file backend)
from ..batches import Batches
from ..process_buffers import Buffers, gather_buffers, load_buffers
from ..signals import StopSignals
from .strict_load_hook import CheckpointMismatch, unwrap

LOGGED = 1000  # values of each scalar


@HOOKS.register_module()
class ExactCheckpointHook(CheckpointHook):
    """MMEngine's CheckpointHook for runs that may be killed at any moment.

    - A checkpoint is written whole or not at all. Those that it replaces, best ones too, go when it is there.
    - It is plain data: ``torch.load(path, weights_only=True)`` reads it. What hooks of the priority LOWEST add to it is
      their own matter. The log keeps its newest 1000 values in memory; the engine would copy a million at each step.
    - With a SemiSampler, a resumed run ends with the weights of an uninterrupted one. What is random in an iteration
      follows from the run's seed, rank and iteration; the position in the data is kept in images, so that a run may
      resume with other numbers of processes and images. Buffers that differ between processes, such as the running
      statistics of normalisation that is not synchronised, are kept for each.
    - SIGINT (Ctrl-C) and SIGTERM save a checkpoint and end the run with the exit status 128 + number of the signal.
    - Between two batches whose gradients one optimiser step adds up nothing is saved, but after the step.
    - A validation that was cut off is made up for when the run goes on.

    Args:
        interval (int): Iterations between two checkpoints; -1 for none but the last.
        max_keep_ckpts (int): Newest checkpoints to keep; -1 keeps all. The disk needs room for one more.
        by_epoch (bool): Only False: the method counts iterations.
        backend_args (dict, optional): Of another file backend than that which writes whole files.
        **kwargs: Of CheckpointHook.

    Raises:
        ValueError: If ``by_epoch`` is True, or a number is none.
        TypeError: Before the first iteration, if the loop is not iteration-based.
    """

    last_ckpt: str | None
    file_backend: Any

    def __init__(
        self,
        interval: int = -1,
        max_keep_ckpts: int = -1,
        by_epoch: bool = False,
        backend_args: dict | None = None,
        **kwargs,
    ) -> None:
        if by_epoch is not False:
            raise ValueError(f'by_epoch = {by_epoch!r}, but ExactCheckpointHook counts iterations: by_epoch=False.')
        for name, value in dict(interval=interval, max_keep_ckpts=max_keep_ckpts).items():
            if not is_number(value, whole=True):
                raise ValueError(f'{name} = {value!r}, but it must be a whole number, -1 for no limit.')
        if backend_args is None and '://' not in str(kwargs.get('out_dir') or ''):
            backend_args = dict(backend='whole_files')
        # The base class removes before it writes.
        super().__init__(interval, by_epoch=False, max_keep_ckpts=-1, backend_args=backend_args, **kwargs)
        self.keep = max_keep_ckpts
        self.saved: int | None = None  # iterations made, if the newest checkpoint has them all
        self.due = False
        self.between_steps = True
        self.process_buffers: list[Buffers] = []

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keeps what processes have of their own, until a resumed run begins."""
        found = checkpoint.get('process_buffers', [])
        if not isinstance(found, list):
            raise CheckpointMismatch(f'Its process_buffers are a {type(found).__name__}, but must be a list.')
        self.process_buffers = found

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Adds it to a checkpoint that a run can resume from, which then becomes plain data."""
        if 'optimizer' in checkpoint and any(self.process_buffers):
            checkpoint['process_buffers'] = self.process_buffers
        make_plain(checkpoint)

    def before_train(self, runner: Runner) -> None:
        """Resumes where the run was, and listens to signals."""
        loop = runner.train_loop
        if not isinstance(loop, IterBasedTrainLoop):
            raise TypeError(
                f'train_cfg makes a {type(loop).__name__}, but ExactCheckpointHook counts iterations: '
                "train_cfg=dict(type='IterBasedTrainLoop', max_iters=...)."
            )
        super().before_train(runner)
        self.runner = runner
        self.group = cpu_group(runner) if get_world_size() > 1 else None
        self.remove_outdated()
        if is_main_process() and osp.isdir(self.out_dir):
            remove_unfinished(self.out_dir)
        hub, resumed = runner.message_hub, runner.iter > 0
        self.saved = runner.iter if resumed else None
        if resumed and len(self.process_buffers) == get_world_size():
            load_buffers(unwrap(runner.model), self.process_buffers)
        self.process_buffers = []
        sampler = loop.dataloader.sampler
        if isinstance(sampler, SemiSampler):
            if resumed and 'sampler' in hub.runtime_info:
                sampler.load_state_dict(hub.get_info('sampler'), runner.iter)
            else:
                sampler.skip(runner.iter * sampler.batch_size)
            hub.update_info('sampler', sampler.state_dict())
        self.batches = loop.dataloader_iterator = Batches(loop, runner.seed, self.stop_if_asked)
        self.signals = StopSignals(self.on_signal, type(loop).run.__code__)
        self.signals.start()
        if resumed and hub.runtime_info.get('validated') not in (None, runner.iter) and self.must_validate():
            runner.val_loop.run()
        hub.update_info('validated', runner.iter)

    def must_validate(self) -> bool:
        """Whether the loop validates after the iterations that there were."""
        loop, done = self.runner.train_loop, self.runner.iter
        last = done == self.runner.max_iters
        return self.runner.val_loop is not None and done >= loop.val_begin and (last or done % loop.val_interval == 0)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """From here to the end of the iteration there is something to lose."""
        self.saved = None

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Saves if it is time, or if a signal came."""
        for history in runner.message_hub.log_scalars.values():
            history.max_length = LOGGED
        last = self.save_last and self.is_last_train_iter(runner)
        self.due |= last or self.every_n_train_iters(runner, self.interval, self.save_begin)
        self.between_steps = runner.optim_wrapper.should_update()
        stop = self.asked_to_stop()
        if self.between_steps and (self.due or stop):
            runner.logger.info(f'Saving checkpoint at {runner.iter + 1} iterations')
            self.save(runner.iter + 1)
            if stop:
                self.leave(stop)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Saves the best, then a checkpoint that knows of it, then removes the best so far."""
        # The base class would remove first, and save again in its own order.
        backend, last = self.file_backend, self.last_ckpt
        keeper = _Keeper(backend)
        self.file_backend, self.last_ckpt = keeper, None
        super().after_val_epoch(runner, metrics)
        self.file_backend, self.last_ckpt = backend, last
        new = f'_{self.filename_tmpl.format(runner.iter)}'  # if it was validated before, it has replaced its own file
        outdated = [path for path in keeper.removed if not path.endswith(new)]
        runner.message_hub.update_info('outdated_checkpoints', outdated)
        runner.message_hub.update_info('validated', runner.iter)
        if self.saved == runner.iter:
            self.save(runner.iter)
        self.remove_outdated()

    def after_train(self, runner: Runner) -> None:
        """Gives the signals back."""
        self.signals.stop()
        super().after_train(runner)

    def save(self, iteration: int) -> None:
        """Writes the checkpoint of a run that has made so many iterations, then removes what is outdated."""
        runner, hub = self.runner, self.runner.message_hub
        name = self.filename_tmpl.format(iteration)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        hub.update_info('last_ckpt', self.last_ckpt)
        if self.keep > 0:
            kept = hub.runtime_info.get('keep_ckpt_ids', [])
            hub.update_info('keep_ckpt_ids', [*(number for number in kept if number < iteration), iteration])
        self.process_buffers = gather_buffers(unwrap(runner.model), self.group) or []
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=dict(epoch=runner.epoch, iter=iteration),
            by_epoch=False,
            backend_args=self.backend_args,
            **self.args,
        )
        self.process_buffers = []
        self.saved, self.due = iteration, False
        if is_main_process():
            self.file_backend.put_text(self.last_ckpt, osp.join(runner.work_dir, 'last_checkpoint'))
        self.remove_outdated()

    def remove_outdated(self) -> None:
        """Removes what the newest checkpoint replaces; also what a run that was killed had no time to."""
        hub = self.runner.message_hub
        outdated = list(hub.runtime_info.get('outdated_checkpoints', []))
        if self.keep > 0:
            kept = hub.runtime_info.get('keep_ckpt_ids', [])
            names = map(self.filename_tmpl.format, kept[: -self.keep])
            outdated += [self.file_backend.join_path(self.out_dir, name) for name in names]
            hub.update_info('keep_ckpt_ids', kept[-self.keep :])
        for path in map(str, outdated if is_main_process() else ()):
            # The checkpoint from which the run goes on tells these names, so they may be anything.
            inside = osp.abspath(osp.dirname(path)) == osp.abspath(self.out_dir)
            if inside and path.endswith(osp.splitext(self.filename_tmpl)[1]) and self.file_backend.isfile(path):
                self.file_backend.remove(path)

    def on_signal(self) -> None:
        """Stops at once if nothing would be lost; else after this iteration."""
        if self.group is not None:
            return
        if self.batches.waiting:
            self.stop_if_asked()
        elif self.saved == self.runner.iter:
            self.leave(self.signals.number)

    def stop_if_asked(self) -> None:
        """Saves and stops between two iterations, if a signal came."""
        if self.signals.number and self.between_steps and self.group is None:
            if self.saved != self.runner.iter:
                self.save(self.runner.iter)
            self.leave(self.signals.number)

    def asked_to_stop(self) -> int:
        """The signal that any of the processes received, 0 if none did."""
        if self.group is None:
            return self.signals.number
        number = torch.tensor(self.signals.number)
        all_reduce(number, 'max', self.group)
        return int(number)

    def leave(self, number: int) -> None:
        """Ends this process; the others, which come here too, wait for the one that saves."""
        if self.group is not None:
            barrier(self.group)
        self.runner.logger.info(f'Stopped at {self.saved} iterations by signal {number}; resume with --resume')
        self.signals.stop()
        raise SystemExit(128 + number)


class _Keeper:
    """A file backend that only notes what it is to remove."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.removed: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def remove(self, path: str) -> None:
        self.removed.append(path)


def cpu_group(runner: Runner) -> torch.distributed.ProcessGroup:
    """All processes on gloo, with the time-out that the run's own group has."""
    seconds = runner.cfg.get('env_cfg', {}).get('dist_cfg', {}).get('timeout')
    timeout = None if seconds is None else timedelta(seconds=seconds)
    group: Any = torch.distributed.new_group(timeout=timeout, backend='gloo')
    return group
