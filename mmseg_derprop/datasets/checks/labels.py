"""Label files that do not fit their images or the classes, told by name."""

from __future__ import annotations

from collections.abc import Sequence

import mmcv.transforms
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.dataset import BaseDataset
from mmseg.registry import TRANSFORMS
from PIL import ExifTags, Image

from ...utils.options import is_number
from .broken import BrokenData, Problem

# What MMSegmentation's label maps and paddings mean by "ignored", whatever a data set's ignore_index is.
IGNORED = 255


@TRANSFORMS.register_module()
class CheckLabels(BaseTransform):
    """Refuses labels that do not fit the image or the classes.

    ``SemiDataset`` puts it behind the ``LoadAnnotations`` of labelled sources.

    Required keys: ``gt_seg_map``; read if there: ``seg_map_path``, ``img_path``, ``ori_shape`` or ``img``.

    Args:
        num_classes (int, optional): Allowed are the ids 0 to ``num_classes`` - 1, 255 and ``ignore_index``. Without it
            ids are not looked at.
        ignore_index (int): Label that is ignored, besides 255.

    Raises:
        BrokenData: If labels have several channels, another size than the image, or ids outside the classes.
    """

    def __init__(self, num_classes: int | None = None, ignore_index: int = IGNORED) -> None:
        if num_classes is not None and not is_number(num_classes, 1, whole=True):
            raise ValueError(f'num_classes is {num_classes!r}, allowed is a number of classes, or None; change it')
        if not is_number(ignore_index, whole=True):
            raise ValueError(f'ignore_index is {ignore_index!r}, allowed is an integer; change it')
        self.num_classes, self.ignore_index = num_classes, ignore_index

    def transform(self, results: dict) -> dict:
        """Checks ``gt_seg_map`` and changes nothing."""
        labels = results['gt_seg_map']
        image = results.get('ori_shape') or getattr(results.get('img'), 'shape', None)
        problem = (
            _sides_problem(labels.shape)
            or _channels_problem(labels.shape[2] if labels.ndim > 2 else 1)
            or (_size_problem(labels.shape[:2], image[:2]) if image else None)
            or self._ids_problem(labels)
        )
        if problem:
            path = results.get('seg_map_path', 'the label file')
            raise BrokenData(Problem(path, *problem, image=results.get('img_path', 'an image')))
        return results

    def _ids_problem(self, labels: np.ndarray) -> tuple[str, str] | None:
        if self.num_classes is None:
            return None
        outside = (labels >= self.num_classes) & (labels != self.ignore_index) & (labels != IGNORED)
        if not outside.any():
            return None
        ids = np.unique(labels[outside]).tolist()
        shown = f'{ids[:8]} and {len(ids) - 8} more' if len(ids) > 8 else f'{ids}'
        return (
            'ids outside the classes',
            f'have the ids {shown} in {outside.mean():.1%} of the pixels, allowed are the {self.num_classes} classes, '
            f'0 to {self.num_classes - 1}, and {self._ignored()} for what is ignored: convert the file, map its ids '
            "(the data set's reduce_zero_label, or classes of its metainfo), or name an id to ignore (ignore_index)",
        )

    def _ignored(self) -> str:
        return ' and '.join(map(str, sorted({self.ignore_index, IGNORED})))

    def __repr__(self) -> str:
        return f'{type(self).__name__}(num_classes={self.num_classes}, ignore_index={self.ignore_index})'


def label_check(source: BaseDataset) -> CheckLabels:
    """The check of a source's labels, by its classes and its ``ignore_index``."""
    classes = source.metainfo.get('classes')
    return CheckLabels(len(classes) if classes else None, getattr(source, 'ignore_index', IGNORED))


def check_loaded_labels(source: BaseDataset) -> None:
    """Puts a check behind the transform of a source's pipeline that loads labels, unless it has one."""
    transforms = source.pipeline.transforms
    if any(isinstance(transform, CheckLabels) for transform in transforms):
        return
    for index, transform in enumerate(transforms):
        if isinstance(transform, mmcv.transforms.LoadAnnotations):
            transforms.insert(index + 1, label_check(source))
            return


def header_problem(label_path: str, image_path: str) -> Problem | None:
    """Compares the headers of a label file and its image, without reading a pixel.

    Args:
        label_path (str): The label file.
        image_path (str): Its image.

    Returns:
        Problem | None: If the labels have several channels, more than 8 bits, or another size than the image; formats
        that Pillow does not know are left alone.
    """
    try:
        with Image.open(label_path) as label:
            sides = tuple(side for side in label.size if side > 1)
            problem = _sides_problem(sides) or _channels_problem(len(label.getbands())) or _depth_problem(label.mode)
            if not problem:
                with Image.open(image_path) as image:
                    problem = _size_problem(label.size[::-1], oriented_size(image))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return Problem(label_path, *problem, image=image_path) if problem else None


def oriented_size(image: Image.Image) -> tuple[int, int]:
    """Height and width of an image as it is read, turned as its EXIF orientation says."""
    # In a PNG it may stand behind the pixels, which are not worth reading for it.
    exif = {} if image.format == 'PNG' and 'exif' not in image.info else image.getexif()
    turned = exif.get(ExifTags.Base.Orientation, 1) in range(5, 9)
    return image.size if turned else image.size[::-1]


def _sides_problem(sides: Sequence[int]) -> tuple[str, str] | None:
    if len(sides) >= 2:
        return None
    return 'labels of one row or column', "have a side of one pixel, which MMSegmentation's loader drops: take them out"


def _channels_problem(channels: int) -> tuple[str, str] | None:
    if channels == 1:
        return None
    return (
        'labels in colours',
        f'have {channels} channels, allowed is 1, which holds class ids: convert colours to ids (a palette PNG has ids '
        "already; LoadAnnotations reads them with imdecode_backend='pillow')",
    )


def _depth_problem(mode: str) -> tuple[str, str] | None:
    if mode in ('1', 'L', 'P'):
        return None
    return (
        'labels of more than 8 bits',
        f'are of more than 8 bits (mode {mode}), which MMSegmentation cuts off: ids up to 255 are possible, save them '
        'as 8 bits',
    )


def _size_problem(labels: Sequence[int], image: Sequence[int]) -> tuple[str, str] | None:
    if tuple(labels) == tuple(image):
        return None
    return (
        'labels of another size than the image',
        f'are {labels[0]}x{labels[1]} (height x width), but the image is {image[0]}x{image[1]}: they must be equal, '
        'mend one of them (an image with an EXIF orientation is turned when it is read)',
    )
