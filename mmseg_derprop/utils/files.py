"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape, iglob
from pathlib import Path

UNFINISHED = '.unfinished'


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
