"""Counts the files that training leaves out."""

from __future__ import annotations

from mmengine.dist import all_gather_object, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from ...datasets import BrokenData, Problem
from ...utils.options import NonNegativeInt, check_options
from ..batches import samples_of
from .checkpoint_hook import cpu_group


@HOOKS.register_module()
class BrokenFilesHook(Hook):
    """Counts the files that cannot be used, and the images that took their places, in what was trained on.

    The data set decides what is left out (``broken_labeled`` and ``broken_unlabeled`` of :class:`SemiDataset`). A
    warning names each file once. From the first such file on the log has ``broken_files``, how many there are in all
    processes, and ``replaced_images``, how often another image took the place of one.

    Args:
        limit (int): Different files of a run, resumed ones included, that may be left out; one more stops it with
            BrokenData, which lists them.
    """

    @check_options
    def __init__(self, limit: NonNegativeInt = 100) -> None:
        self.limit = limit

    def before_train(self, runner: Runner) -> None:
        self.told_of_labels = False
        options = vars(runner.train_dataloader.dataset)
        self.watches = 'skip' in (options.get('broken_labeled'), options.get('broken_unlabeled'))
        self.group = cpu_group(runner) if self.watches and get_world_size() > 1 else None

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs=None) -> None:
        problems = [sample.label_problem for sample in samples_of(data_batch) if 'label_problem' in sample]
        if problems and not self.told_of_labels:
            text = 'The image is used all the same: its labels only serve the accuracies in the log'
            runner.logger.warning(f'{problems[0]}. {text}. tools/check_data.py lists all such files.')
            self.told_of_labels = True
        if not self.watches:
            return
        hub = runner.message_hub
        found = [tuple(problem) for sample in samples_of(data_batch) for problem in sample.get('replaced', [])]
        if self.group is not None:
            found = sum(all_gather_object(found, self.group), [])
        if found:
            files: dict[str, str] = dict(hub.runtime_info.get('broken_files', {}))
            new = {problem.path: str(problem) for problem in map(Problem._make, found) if problem.path not in files}
            for text in new.values():
                runner.logger.warning(f'{text}. Other images take its place.')
            files.update(new)
            hub.update_info('broken_files', files)
            hub.update_info('replaced_images', hub.runtime_info.get('replaced_images', 0) + len(found))
            if len(files) > self.limit:
                lines = '\n  '.join(files.values())
                raise BrokenData(
                    f'{len(files)} files cannot be used, but the limit of BrokenFilesHook is {self.limit}. '
                    f'tools/check_data.py lists all that are in the data; training has met\n  {lines}'
                )
        if files := hub.runtime_info.get('broken_files', {}):
            hub.update_scalar('train/broken_files', len(files))
            hub.update_scalar('train/replaced_images', hub.get_info('replaced_images'))
