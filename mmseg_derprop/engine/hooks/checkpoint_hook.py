"""Checkpoints that are whole, plain data, and from which a run resumes exactly."""

from __future__ import annotations

import os.path as osp
from datetime import timedelta
from functools import partial
from typing import Any, Literal

import torch
from filelock import FileLock
from mmengine import dist
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from torch import Tensor

from ...datasets import SemiSampler
from ...utils.checkpoints import make_plain
from ...utils.files import FolderInUse, lock_folder, remove_unfinished
from ...utils.options import check_options
from .. import whole_files  # noqa: F401  (registers the file backend)
from ..batches import Batches, iteration_loop
from ..signals import StopSignals, leave_signals
from .strict_load_hook import unwrap

LOGGED = 1000  # values of each scalar in memory; the engine would copy a million at each step


@HOOKS.register_module()
class ExactCheckpointHook(CheckpointHook):
    """MMEngine's CheckpointHook for runs that may be killed at any moment; docs/reliability.md lists its promises.

    Checkpoints are plain data, and written whole. With a SemiSampler, a resumed run ends with the weights of an
    uninterrupted one: what is random in an iteration follows from the run's seed, rank and iteration, and buffers that
    differ between processes, such as running statistics without SyncBN, are kept for each. SIGINT (Ctrl-C) and SIGTERM
    save a checkpoint and end the run with the exit status 128 + number of the signal.

    Args:
        interval (int): Iterations between two checkpoints; -1 for none but the last.
        max_keep_ckpts (int): Newest checkpoints to keep; -1 keeps all. The disk needs room for one more.
        by_epoch (bool): Only False: the method counts iterations.
        **kwargs: Of CheckpointHook.
    """

    last_ckpt: str | None
    file_backend: Any

    @check_options
    def __init__(
        self, interval: int = -1, max_keep_ckpts: int = -1, by_epoch: Literal[False] = False, **kwargs
    ) -> None:
        kwargs.setdefault('backend_args', dict(backend='whole_files'))
        # The base class removes before it writes, so it keeps all.
        super().__init__(interval, by_epoch=False, max_keep_ckpts=-1, **kwargs)
        self.keep = max_keep_ckpts
        self.runner: Any = None
        self.provisional: str | None = None  # a checkpoint that the next one replaces
        self.saved: int | None = None  # iterations made, if the newest checkpoint has them all
        self.due = False
        self.between_steps = True
        self.process_buffers: list[dict[str, Tensor]] = []

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        self.process_buffers = checkpoint.get('process_buffers', [])

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Adds what processes have of their own to a checkpoint to resume from, which then becomes plain data."""
        if 'optimizer' in checkpoint and any(self.process_buffers):
            checkpoint['process_buffers'] = self.process_buffers
        make_plain(checkpoint)

    def before_train(self, runner: Runner) -> None:
        loop = iteration_loop(runner)
        super().before_train(runner)
        self.runner = runner
        self.group = cpu_group(runner) if dist.get_world_size() > 1 else None
        self.lock = self.take_work_dir(runner.work_dir)
        self.remove_outdated()
        if dist.is_main_process() and osp.isdir(self.out_dir):
            remove_unfinished(self.out_dir)
        hub, resumed = runner.message_hub, runner.iter > 0
        self.saved = runner.iter if resumed else None
        if resumed and len(self.process_buffers) == dist.get_world_size():
            buffers = dict(unwrap(runner.model).named_buffers())
            for name, value in self.process_buffers[dist.get_rank()].items():
                buffers[name].data.copy_(value)
        self.process_buffers = []
        sampler = loop.dataloader.sampler
        if isinstance(sampler, SemiSampler):
            if resumed and 'sampler' in hub.runtime_info:
                sampler.load_state_dict(hub.get_info('sampler'), runner.iter)
            else:
                sampler.skip(runner.iter * sampler.batch_size)
            hub.update_info('sampler', sampler.state_dict())
        for loader in (loop.dataloader, *([runner.val_dataloader] if runner.val_loop is not None else ())):
            loader.worker_init_fn = partial(leave_signals, loader.worker_init_fn)
            loader._iterator = None  # the original engine has started persistent workers by now
        self.batches = loop.dataloader_iterator = Batches(loop, runner.seed)
        self.signals = StopSignals(self.on_signal, type(loop).run.__code__)
        self.signals.start()
        if resumed and hub.runtime_info.get('last_validation') not in (None, runner.iter) and self.must_validate():
            runner.val_loop.run()
        hub.update_info('last_validation', runner.iter)

    def must_validate(self) -> bool:
        """Whether the loop validates after the iterations that there were."""
        loop, done = self.runner.train_loop, self.runner.iter
        due = done == self.runner.max_iters or done % loop.val_interval == 0
        return self.runner.val_loop is not None and done >= loop.val_begin and due

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        self.saved = None  # from here to the end of the iteration there is something to lose

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs=None) -> None:
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

    def before_val_epoch(self, runner: Runner) -> None:
        """Saves what there is to lose if validation fails, for instance at a broken image."""
        if self.runner is not None and self.between_steps and self.saved != runner.iter:
            self.save(runner.iter)
            self.provisional = self.last_ckpt if self.keep <= 0 else None

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Saves the best, then a checkpoint that knows of it, then removes the best so far."""
        backend, last = self.file_backend, self.last_ckpt
        keeper = _Keeper(backend)
        self.file_backend, self.last_ckpt = keeper, None
        super().after_val_epoch(runner, metrics)
        self.file_backend, self.last_ckpt = backend, last
        runner.message_hub.update_info('last_validation', runner.iter)
        if self.saved == runner.iter:
            self.save(runner.iter)
        new = f'_{self.filename_tmpl.format(runner.iter)}'  # if it was validated before, it has replaced its own file
        self.remove([path for path in keeper.removed if not path.endswith(new)])

    def after_train(self, runner: Runner) -> None:
        self.signals.stop()
        super().after_train(runner)
        if self.lock is not None:
            self.lock.release()

    def take_work_dir(self, folder: str) -> FileLock | None:
        """Locks the work dir for this run: two would remove each other's checkpoints. All processes decide alike."""
        lock: FileLock | None = None
        errors: list[FolderInUse | None] = [None]
        if dist.is_main_process():
            try:
                lock = lock_folder(folder)
            except FolderInUse as error:
                errors = [error]
        dist.broadcast_object_list(errors, group=self.group)
        if errors[0] is not None:
            raise errors[0]
        return lock

    def save(self, iteration: int) -> None:
        """Writes the checkpoint of a run that has made so many iterations, then removes what is outdated."""
        runner, hub = self.runner, self.runner.message_hub
        name = self.filename_tmpl.format(iteration)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        hub.update_info('last_ckpt', self.last_ckpt)
        if self.keep > 0:
            kept = hub.runtime_info.get('keep_ckpt_ids', [])
            hub.update_info('keep_ckpt_ids', [*(number for number in kept if number < iteration), iteration])
        self.process_buffers = self.gather_buffers()
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
        if self.provisional not in (None, self.last_ckpt):
            self.remove([self.provisional])
            self.provisional = None
        if dist.is_main_process():
            self.file_backend.put_text(self.last_ckpt, osp.join(runner.work_dir, 'last_checkpoint'))
        self.remove_outdated()

    def gather_buffers(self) -> list[dict[str, Tensor]]:
        """In the first process, for each process its buffers that differ from the first one's, which the state has."""
        own = {name: buffer.detach().cpu() for name, buffer in unwrap(self.runner.model).named_buffers()}
        found = dist.gather_object(own, group=self.group) or []
        return [{name: value for name, value in each.items() if not torch.equal(value, own[name])} for each in found]

    def remove_outdated(self) -> None:
        """Removes what the newest checkpoint replaces; also what a run that was killed had no time to."""
        if self.keep > 0:
            kept = self.runner.message_hub.runtime_info.get('keep_ckpt_ids', [])
            names = map(self.filename_tmpl.format, kept[: -self.keep])
            self.runner.message_hub.update_info('keep_ckpt_ids', kept[-self.keep :])
            self.remove([self.file_backend.join_path(self.out_dir, name) for name in names])

    def remove(self, paths: list[str]) -> None:
        """Removes checkpoints; the one from which the run goes on tells their names, so they may be anything."""
        for path in paths if dist.is_main_process() else ():
            inside = osp.abspath(osp.dirname(path)) == osp.abspath(self.out_dir)
            if inside and path.endswith(osp.splitext(self.filename_tmpl)[1]) and self.file_backend.isfile(path):
                self.file_backend.remove(path)

    def on_signal(self) -> None:
        """Stops at once if nothing is lost; else, and with several processes, after the iteration."""
        if self.group is None and self.batches.waiting and self.between_steps and self.saved != self.runner.iter:
            self.save(self.runner.iter)
        if self.group is None and self.saved == self.runner.iter:
            self.leave(self.signals.number)

    def asked_to_stop(self) -> int:
        """The signal that any of the processes received, 0 if none did."""
        if self.group is None:
            return self.signals.number
        number = torch.tensor(self.signals.number)
        dist.all_reduce(number, 'max', self.group)
        return int(number)

    def leave(self, number: int) -> None:
        """Ends this process; the others, which come here too, wait for the one that saves."""
        if self.group is not None:
            dist.barrier(self.group)
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
        self.removed.append(str(path))


def cpu_group(runner: Runner) -> torch.distributed.ProcessGroup:
    """All processes on gloo, with the time-out that the run's own group has."""
    seconds = runner.cfg.get('env_cfg', {}).get('dist_cfg', {}).get('timeout')
    timeout = None if seconds is None else timedelta(seconds=seconds)
    group: Any = torch.distributed.new_group(timeout=timeout, backend='gloo')
    return group
