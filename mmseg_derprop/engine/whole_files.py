"""A file backend that writes whole files or none."""

from __future__ import annotations

import os

from mmengine.fileio import LocalBackend, register_backend

from ..utils.files import write_bytes


class CheckpointNotWritten(OSError):
    """The disk took no checkpoint."""


class WholeFileBackend(LocalBackend):
    """MMEngine's local files, of which a name stands for a whole one."""

    def put(self, obj: bytes, filepath: str | os.PathLike) -> None:
        """Writes a file; raises CheckpointNotWritten if that fails, and a file that was there before is as it was."""
        try:
            write_bytes(filepath, obj)
        except OSError as error:
            text = (
                f'{filepath} could not be written: {error.strerror}. It needs {len(obj) / 2**20:.1f} MiB. Earlier '
                'checkpoints are as they were: make room, and resume with --resume'
            )
            raise CheckpointNotWritten(error.errno, text) from error

    def put_text(self, obj: str, filepath: str | os.PathLike, encoding: str = 'utf-8') -> None:
        self.put(obj.encode(encoding), filepath)


register_backend('whole_files', WholeFileBackend, force=True)
