"""A folder of label maps, in which a long run can be interrupted and resumed."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from ..utils.files import lock_folder, write_bytes, write_text
from ..utils.options import Bounds, Share, check_options
from .image_files import result_path


class LabelFolder:
    """Writes label maps and a table of what they hold. An image whose map exists is finished.

    Args:
        root (str | Path): The folder.
        settings (dict): What labels depend on, ready for JSON; kept in ``settings.json``.
        classes, palette (Sequence): Names, and RGB of each class; pixels without label are white.
        threshold (float): Least confidence of a label; other pixels get the id ``ignore``.
        part (str): Of the images, which one process labels at a time; others may label other parts beside it.

    Raises:
        FolderInUse: If another process labels this part.
        ValueError: If the folder was begun with other settings, or 8 bits do not hold classes and ``ignore``.
    """

    @check_options
    def __init__(
        self,
        root: str | Path,
        settings: dict,
        classes: Sequence[str],
        palette: Sequence,
        threshold: Share,
        ignore: Annotated[int, Bounds(1, 255)] = 255,
        part: str = '',
    ) -> None:
        if not 0 < len(classes) <= ignore:
            raise ValueError(f'There must be 1 to {ignore} classes, as {ignore} means none, but {len(classes)} are.')
        self.root, self.classes, self.threshold, self.ignore = Path(root), classes, threshold, ignore
        colours = np.full((256, 3), 255, np.uint8)
        colours[: len(classes)] = palette
        self._palette = colours.tobytes()
        self.lock = lock_folder(root, part)
        path, text = self.root / 'settings.json', json.dumps(settings, indent=2)
        if path.exists() and path.read_text() != text:
            raise ValueError(
                f'{path} must hold the settings of this run, {text}, but holds {path.read_text()}. Resume with the '
                'same settings, or name another folder.'
            )
        write_text(path, text)

    def label_path(self, name: str) -> Path:
        """Where the label map of an image is; ValueError if its name leads out of the folder."""
        return result_path(self.root / 'labels', name).with_suffix('.png')

    def add(self, name: str, labels: np.ndarray, confidence: np.ndarray, keep_confidence: bool = False) -> None:
        """Writes class ids (H, W), the label map, of an image; it comes last, because it tells that it is finished.

        The confidence (H, W), from 0 to 1, may be kept too, in 16 bits, times 65535.
        """
        if keep_confidence:
            levels = (confidence.clip(0, 1) * 65535).round().astype(np.uint16)
            path = result_path(self.root / 'confidence', name).with_suffix('.png')
            write_bytes(path, cv2.imencode('.png', levels)[1].tobytes())
        picture = Image.fromarray(np.where(confidence >= self.threshold, labels, self.ignore).astype(np.uint8))
        picture.putpalette(self._palette)
        file = io.BytesIO()
        picture.save(file, 'png')
        write_bytes(self.label_path(name), file.getvalue())

    def write_tables(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Writes ``images.csv``, each class's share of an image's pixels, and ``images.txt``, the images with a label.

        Images without a label map are left out. Returns the shares by image, each (K,) float64.
        """
        shares = {}
        for name in names:
            if self.label_path(name).exists():
                labels = np.asarray(Image.open(self.label_path(name)))
                shares[name] = np.bincount(labels.ravel(), minlength=256)[: len(self.classes)] / labels.size
        table = pd.DataFrame.from_dict(shares, 'index', columns=[f'share_{name}' for name in self.classes])
        table.insert(0, 'labelled', table.sum(axis=1))
        text = table.to_csv(index_label='file', float_format='%.6f', lineterminator='\n')
        # Names of files may be of any bytes.
        write_bytes(self.root / 'images.csv', text.encode(errors='surrogateescape'))
        lines = sorted(f'{Path(name).with_suffix("")}\n' for name, share in shares.items() if share.any())
        write_bytes(self.root / 'images.txt', ''.join(lines).encode(errors='surrogateescape'))
        return shares
