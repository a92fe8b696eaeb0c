"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape, iglob
from pathlib import Path

from filelock import FileLock, Timeout

UNFINISHED = '.unfinished'
PATIENCE = 6  # seconds; workers of a process that was killed, which hold its lock, notice within 5


class FolderInUse(OSError):
    """Another process writes there."""


def lock_folder(folder: str | os.PathLike, part: str = '') -> FileLock:
    """Takes a folder, which is made, or a part of its work, for this process until it ends or releases the lock.

    FolderInUse is raised if another process has it, and names that.
    """
    os.makedirs(folder, exist_ok=True)
    lock, owner = FileLock(Path(folder, f'.lock{part}'), is_singleton=True), Path(folder, f'.lock_owner{part}')
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        holder = owner.read_text() if owner.exists() else 'another process'
        raise FolderInUse(f'{folder} is in use by {holder}. Wait for it, stop it, or choose another folder.') from None
    owner.write_text(f'process {os.getpid()} on {socket.gethostname()}')
    return lock


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[str]:
    """Lets a file be written beside its place; it gets its name when the disk has all of it.

    Makes its folder. If writing fails, a file that was there before is as it was. Yields where to write.
    """
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f'.{path.name}.{os.getpid()}{UNFINISHED}')
    try:
        yield str(unfinished)
        _sync(unfinished)
        os.replace(unfinished, path)
        if os.name == 'posix':  # so that the name lasts over a power cut, too
            _sync(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Writes a file, whole or not at all."""
    with replacing(path) as unfinished:
        Path(unfinished).write_bytes(data)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def remove_unfinished(folder: str) -> None:
    """Removes what writers that were killed have left in a folder."""
    for path in iglob(os.path.join(escape(folder), f'.*{UNFINISHED}')):
        os.remove(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
