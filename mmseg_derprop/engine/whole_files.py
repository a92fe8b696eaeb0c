"""A file backend that writes whole files or none."""

from __future__ import annotations

import os
import os.path as osp
import shutil
from glob import escape, iglob

from mmengine.fileio import LocalBackend, register_backend
from mmengine.utils import mkdir_or_exist

UNFINISHED = '.unfinished'


class CheckpointNotWritten(OSError):
    """The disk took no checkpoint."""


class WholeFileBackend(LocalBackend):
    """Writes beside the file, waits for the disk, and gives it its name last: a name stands for a whole file."""

    def put(self, obj: bytes, filepath: str | os.PathLike) -> None:
        """Writes a file.

        Raises:
            CheckpointNotWritten: If that fails; a file that was there before is as it was.
        """
        folder, name = osp.split(osp.abspath(filepath))
        unfinished = osp.join(folder, f'.{name}{UNFINISHED}')
        try:
            mkdir_or_exist(folder)
            with open(unfinished, 'wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, filepath)
            _sync_folder(folder)
        except OSError as error:
            free = shutil.disk_usage(folder).free if osp.isdir(folder) else 0
            raise CheckpointNotWritten(
                error.errno,
                f'{filepath} could not be written: {error.strerror}. It needs {len(obj) / 2**20:.1f} MiB, and '
                f'{free / 2**20:.1f} MiB of the disk are free. Checkpoints written before are as they were: make room, '
                'and go on with --resume',
            ) from error
        finally:
            if osp.exists(unfinished):
                os.remove(unfinished)

    def put_text(self, obj: str, filepath: str | os.PathLike, encoding: str = 'utf-8') -> None:
        """Writes a text file, as :meth:`put`."""
        self.put(obj.encode(encoding), filepath)


def remove_unfinished(folder: str) -> None:
    """Removes what writers that were killed have left in a folder."""
    for path in iglob(osp.join(escape(folder), f'.*{UNFINISHED}')):
        os.remove(path)


def _sync_folder(folder: str) -> None:
    """Makes names last over a power cut, where the system can."""
    if os.name == 'posix':
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


register_backend('whole_files', WholeFileBackend, force=True)
