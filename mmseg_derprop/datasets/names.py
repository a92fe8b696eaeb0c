"""Millions of names without a Python object each."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import overload

import numpy as np

# Names that are made strings from one copy of their bytes, when all are asked for.
_CHUNK = 1 << 14


class Names(Sequence[str]):
    """Names in one buffer of bytes, made strings when they are asked for.

    Attributes ``data`` (B,) uint8 and ``ends`` (N,) int64 are shared between processes that are forked, and cheap to
    pickle otherwise.

    Args:
        data (np.ndarray): The names' bytes one after the other, (B,) uint8.
        ends (np.ndarray): Where each name ends, (N,) int64.
        transform (Callable, optional): What a name is made into when it is asked for, e.g. a path.
    """

    def __init__(self, data: np.ndarray, ends: np.ndarray, transform: Callable[[str], str] | None = None) -> None:
        self.data, self.ends, self.transform = data, ends, transform

    @classmethod
    def pack(cls, names: Iterable[str]) -> Names:
        """Takes the names in, one at a time.

        Args:
            names (Iterable[str]): As file systems and lists have them; may be a generator.

        Returns:
            Names: The same in the same order.
        """
        data, ends = bytearray(), array('q')
        for name in names:
            data += os.fsencode(name)
            ends.append(len(data))
        return cls(np.frombuffer(data, np.uint8), np.frombuffer(ends, np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), _CHUNK):
            start = int(self.ends[first - 1]) if first else 0
            ends = (self.ends[first : first + _CHUNK] - start).tolist()
            data = self.data[start : start + ends[-1]].tobytes()
            for begin, end in zip([0, *ends], ends):
                name = os.fsdecode(data[begin:end])
                yield self.transform(name) if self.transform else name

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f'index {index}, but there are {len(self)} names')
        index %= len(self)
        start = int(self.ends[index - 1]) if index else 0
        name = os.fsdecode(self.data[start : int(self.ends[index])].tobytes())
        return self.transform(name) if self.transform else name
