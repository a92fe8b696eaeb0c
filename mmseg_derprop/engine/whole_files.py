"""A file backend that writes whole files or none."""

from __future__ import annotations

import os
import os.path as osp
import shutil

from mmengine.fileio import LocalBackend, register_backend

from ..utils.files import write_bytes


class CheckpointNotWritten(OSError):
    """The disk took no checkpoint."""


class WholeFileBackend(LocalBackend):
    """MMEngine's local files, of which a name stands for a whole one."""

    def put(self, obj: bytes, filepath: str | os.PathLike) -> None:
        """Writes a file.

        Raises:
            CheckpointNotWritten: If that fails; a file that was there before is as it was.
        """
        try:
            write_bytes(filepath, obj)
        except OSError as error:
            folder = osp.dirname(osp.abspath(filepath))
            free = shutil.disk_usage(folder).free if osp.isdir(folder) else 0
            raise CheckpointNotWritten(
                error.errno,
                f'{filepath} could not be written: {error.strerror}. It needs {len(obj) / 2**20:.1f} MiB, and '
                f'{free / 2**20:.1f} MiB of the disk are free. Earlier checkpoints are as they were: make room, '
                'and resume with --resume',
            ) from error

    def put_text(self, obj: str, filepath: str | os.PathLike, encoding: str = 'utf-8') -> None:
        """Writes a text file, as :meth:`put`."""
        self.put(obj.encode(encoding), filepath)


register_backend('whole_files', WholeFileBackend, force=True)
