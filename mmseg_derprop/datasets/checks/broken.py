"""Files that cannot be used, and what is wrong with them."""

from __future__ import annotations

import os
import os.path as osp
from typing import NamedTuple

from PIL import Image

# Enough to find the end of a JPEG in, unless a camera wrote more behind it.
_TAIL = 4096
_START_OF_SCAN, _END_OF_IMAGE = b'\xff\xda', b'\xff\xd9'
_CUT_OFF = 'is cut off before its end: fetch it again, or take it out of the data'


class Problem(NamedTuple):
    """Why a file cannot be used.

    Attributes:
        path (str): The file.
        kind (str): What problems are counted by, such as ``'cut off'``.
        cause (str): What is wrong and the remedy, to be put behind the path.
        image (str | None): Of labels that do not fit it, the image.
    """

    path: str
    kind: str
    cause: str
    image: str | None = None

    def __str__(self) -> str:
        what = f'{self.path}, the labels of {self.image},' if self.image else self.path
        # A name may be of any bytes, which logs and terminals do not take.
        return f'{what} {self.cause}'.encode(errors='backslashreplace').decode()


class BrokenData(ValueError):
    """Files cannot be used.

    Args:
        what (Problem | str): What is wrong.

    Attributes:
        problem (Problem | None): The same, unless it was handed over as text.
    """

    def __init__(self, what: Problem | str) -> None:
        self.problem = what if isinstance(what, Problem) else None
        # PyTorch hands on a worker's error as the text of its traceback, which ends with the message.
        super().__init__(str(what).rpartition(f'{type(self).__name__}: ')[2])


def file_problem(path: str) -> Problem | None:
    """What is wrong with a local image or label file, as far as its header and its end tell.

    That suffices for what decoders pass over: OpenCV 4 returns a baseline JPEG that is cut off with its lower part
    grey, and only Pillow bounds the memory that an image takes.

    Args:
        path (str): The file.

    Returns:
        Problem | None: None also for formats that Pillow does not know.
    """
    if not osp.exists(path):
        return Problem(path, 'missing', 'does not exist')
    if osp.isfile(path) and not osp.getsize(path):
        return Problem(path, 'empty', 'is empty: fetch it again, or take it out of the data')
    try:
        with Image.open(path) as image:
            cut_off = image.format in ('JPEG', 'MPO') and not _ends(path)
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        return Problem(
            path,
            'too large',
            f'has more than {limit} pixels, the limit of Pillow: cut it into tiles, or, where memory allows, raise '
            'PIL.Image.MAX_IMAGE_PIXELS in a module of custom_imports',
        )
    except (OSError, ValueError, SyntaxError):
        return None  # the loader will tell
    return Problem(path, 'cut off', _CUT_OFF) if cut_off else None


def _ends(path: str) -> bool:
    """Whether the scans of a JPEG are followed by its end marker, which cannot occur within them."""
    with open(path, 'rb') as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
        tail = file.read()
        if tail.rfind(_END_OF_IMAGE) > tail.rfind(_START_OF_SCAN):
            return True
        file.seek(0)
        data = file.read()
    place = 2
    # The segments before the first scan may hold a thumbnail, with markers of its own.
    while data[place : place + 1] == b'\xff' and data[place : place + 2] != _START_OF_SCAN:
        fill = data[place + 1 : place + 2] == b'\xff'
        place += 1 if fill else 2 + int.from_bytes(data[place + 2 : place + 4], 'big')
    return data.find(_END_OF_IMAGE, place) >= 0
