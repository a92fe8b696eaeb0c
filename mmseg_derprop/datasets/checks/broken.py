"""Files that cannot be used, and what is wrong with them."""

from __future__ import annotations

import os.path as osp
from typing import NamedTuple

from PIL import Image

TRANSFORM = 'fails in a transform'  # a kind of problem


class Problem(NamedTuple):
    """Why a file cannot be used."""

    path: str
    kind: str  # what problems are counted by, such as 'cut off'
    cause: str  # what is wrong and the remedy, to be put behind the path
    image: str | None = None  # the image, if the file holds its labels

    def __str__(self) -> str:
        what = f'{self.path}, the labels of {self.image},' if self.image else self.path
        # Logs and terminals do not take the odd bytes that names of files may have.
        return f'{what} {self.cause}'.encode(errors='backslashreplace').decode()


class BrokenData(ValueError):
    """Files cannot be used; ``problem`` is what is wrong, or None if it was handed over as text."""

    def __init__(self, what: Problem | str) -> None:
        self.problem = what if isinstance(what, Problem) else None
        # PyTorch hands on a worker's error as the text of its traceback, which ends with the message.
        super().__init__(str(what).rpartition(f'{type(self).__name__}: ')[2])


class SettingError(ValueError):
    """A setting of a transform cannot work, whatever the file."""


def file_problem(path: str) -> Problem | None:
    """What is wrong with a local image or label file, without decoding it.

    It finds what decoders pass over: OpenCV 4 returns a JPEG that is cut off with a grey lower part, and only Pillow
    bounds the memory that an image takes. Formats that Pillow does not know have no problem here.
    """
    if not osp.exists(path):
        return Problem(path, 'missing', 'does not exist')
    if osp.isfile(path) and not osp.getsize(path):
        return Problem(path, 'empty', 'is empty. Fetch it again, or take it out of the data')
    try:
        with Image.open(path) as image:
            # Pillow has read up to the first scan, so past any thumbnail; within scans there is no end marker.
            if image.format in ('JPEG', 'MPO') and b'\xff\xd9' not in image.fp.read():
                return Problem(path, 'cut off', 'is cut off. Fetch it again, or take it out of the data')
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        remedy = 'Cut it into tiles, or, where memory allows, raise PIL.Image.MAX_IMAGE_PIXELS in a custom import'
        return Problem(path, 'too large', f'must have at most {limit} pixels, but has more. {remedy}')
    except (OSError, ValueError, SyntaxError):
        pass  # its loader will tell
    return None
