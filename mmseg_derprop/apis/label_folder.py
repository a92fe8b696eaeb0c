"""Label maps on disk that a long run can be interrupted in."""

from __future__ import annotations

import csv
import io
import json
import os
import os.path as osp
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ..datasets.outside import leaves
from ..utils.options import is_number


class LabelFolder:
    """Writes label maps with a table of what they hold, and knows which images are finished.

    An image is finished when its line is in ``images.csv``. Its maps are written before its line, each file under
    another name until it is whole. So a process that is killed at any moment leaves no finished image without its
    maps, and at most a torn last line, which is dropped at the next start.

    Args:
        root (str | Path): The folder.
        settings (dict): What labels depend on, ready for JSON; kept in ``settings.json``.
        classes (Sequence[str]): Names.
        palette (Sequence[Sequence[int]]): RGB of each class; pixels without label are white.
        threshold (float): Least confidence of a label.
        ignore (int): Id of the other pixels.

    Attributes:
        rows (dict[str, list[str]]): Lines of the finished images, by name: name, share of labelled pixels, mean
            confidence, and each class's share of all pixels.

    Raises:
        ValueError: If the folder was begun with other settings or its files are damaged, 8 bits do not hold classes and
            ``ignore``, or ``threshold`` is out of range.
    """

    def __init__(
        self,
        root: str | Path,
        settings: dict,
        classes: Sequence[str],
        palette: Sequence[Sequence[int]],
        threshold: float,
        ignore: int = 255,
    ) -> None:
        if not len(classes) or not is_number(ignore, len(classes), 255, whole=True):
            raise ValueError(
                f'Pixels without label shall have the id {ignore!r}, but the {len(classes)} classes have the ids 0 to '
                f'{len(classes) - 1} and MMSegmentation loads labels of 8 bits: it must lie within {len(classes)} and '
                '255, so at most 255 classes are possible.'
            )
        if not is_number(threshold, 0, 1):
            raise ValueError(f'threshold is {threshold!r}, but it must lie within 0 and 1.')
        self.root, self.threshold, self.ignore = Path(root), threshold, ignore
        colours = np.full((256, 3), 255, np.uint8)
        colours[: len(classes)] = palette
        self._palette = colours.tobytes()
        self._num_classes = len(classes)
        self._check_settings(settings)
        header = ['file', 'labelled', 'mean_confidence', *(f'share_{name}' for name in classes)]
        self.rows = self._finished(header)
        _replace(self.root / 'images.csv', _table([header, *self.rows.values()]))

    def _check_settings(self, settings: dict) -> None:
        path = self.root / 'settings.json'
        settings = json.loads(json.dumps(settings))
        if path.exists():
            try:
                old = dict(json.loads(path.read_bytes()))
            except (ValueError, TypeError, RecursionError) as error:
                raise ValueError(
                    f'{path} is damaged ({error}), so nobody knows how the labels beside it were made: name another '
                    'folder.'
                ) from error
            changes = [
                f'{key} {old.get(key)} (now {settings.get(key)})'
                for key in {**old, **settings}
                if old.get(key) != settings.get(key)
            ]
            if changes:
                raise ValueError(
                    f'{self.root} was begun with another setting: {", ".join(changes)}. Go on with the same, or name '
                    'another folder.'
                )
        _replace(path, json.dumps(settings, indent=2).encode())

    def _finished(self, header: list[str]) -> dict[str, list[str]]:
        path = self.root / 'images.csv'
        if not path.exists():
            return {}
        whole = path.read_bytes().rpartition(b'\n')[0].decode(errors='surrogateescape')
        try:
            rows = [*csv.reader(io.StringIO(whole, newline=''))][1:]
        except csv.Error as error:
            raise ValueError(f'{path} is damaged ({error}): remove it, and all images are labelled again.') from error
        # A line that is damaged is no line: its image is labelled again.
        rows = [row for row in rows if len(row) == len(header) and all(map(_is_share, row[1:]))]
        return {row[0]: row for row in rows if self.label_path(row[0]).exists()}

    def label_path(self, name: str) -> Path:
        """Where the label map of an image lies.

        Raises:
            ValueError: If the name leads out of the folder.
        """
        if leaves(osp.join(self.root, name), [str(self.root)]):
            raise ValueError(
                f'{name} leads out of {self.root}: label maps have the names of images, within one folder.'
            )
        return self.root / 'labels' / f'{osp.splitext(name)[0]}.png'

    def add(self, name: str, labels: np.ndarray, confidence: np.ndarray, keep_confidence: bool = False) -> None:
        """Writes the maps of an image, then its line.

        Args:
            name (str): The image's, from the folder of images on.
            labels (np.ndarray): (H, W) class ids.
            confidence (np.ndarray): (H, W) within 0 .. 1.
            keep_confidence (bool): Whether to write it too, 16 bits, times 65535.
        """
        labels = np.where(confidence >= self.threshold, labels, self.ignore).astype(np.uint8)
        picture = Image.fromarray(labels)
        picture.putpalette(self._palette)
        file = io.BytesIO()
        picture.save(file, 'png')
        _replace(self.label_path(name), file.getvalue())
        if keep_confidence:
            levels = (confidence.clip(0, 1) * 65535).round().astype(np.uint16)
            path = self.root / 'confidence' / f'{osp.splitext(name)[0]}.png'
            _replace(path, cv2.imencode('.png', levels)[1].tobytes())
        shares = np.bincount(labels.ravel(), minlength=256)[: self._num_classes] / labels.size
        numbers = [shares.sum(), confidence.mean(dtype=np.float64), *shares]
        self.rows[name] = [name, *(f'{number:.6f}' for number in numbers)]
        with open(self.root / 'images.csv', 'ab') as table:
            table.write(_table([self.rows[name]]))
            table.flush()
            os.fsync(table.fileno())

    def write_list(self) -> int:
        """Writes ``images.txt``, the names without suffix of all images that have a label.

        Returns:
            int: How many they are.
        """
        names = sorted(osp.splitext(name)[0] for name, row in self.rows.items() if float(row[1]) > 0)
        _replace(self.root / 'images.txt', '\n'.join([*names, '']).encode(errors='surrogateescape'))
        return len(names)


def _is_share(text: str) -> bool:
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False


def _table(rows: Iterable[list[str]]) -> bytes:
    text = io.StringIO(newline='')
    csv.writer(text, lineterminator='\n').writerows(rows)
    return text.getvalue().encode(errors='surrogateescape')


def _replace(path: Path, content: bytes) -> None:
    """Writes a file that is either whole or as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f'{path.name}.new')
    with open(new, 'wb') as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
