"""Label files that do not fit their images or the classes, told by name."""

from __future__ import annotations

import os.path as osp
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import mmcv.transforms
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.dataset import BaseDataset
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import TRANSFORMS
from PIL import ExifTags, Image, UnidentifiedImageError

from ..options import is_number
from .files import is_local

# What MMSegmentation's label maps and paddings mean by "ignored", whatever a data set's ignore_index is.
IGNORED = 255


@TRANSFORMS.register_module()
class CheckLabels(BaseTransform):
    """Refuses labels that do not fit the image or the classes.

    ``SemiDataset`` puts it behind the ``LoadAnnotations`` of labelled sources.

    Required keys: ``gt_seg_map``, ``seg_map_path``, ``ori_shape`` or ``img``.

    Args:
        num_classes (int, optional): Allowed are the ids 0 to ``num_classes`` - 1, 255 and ``ignore_index``. Without it
            ids are not looked at.
        ignore_index (int): Label that is ignored, besides 255.

    Raises:
        ValueError: If labels have several channels, another size than the image, or ids outside the classes.
    """

    def __init__(self, num_classes: int | None = None, ignore_index: int = IGNORED) -> None:
        if num_classes is not None and not is_number(num_classes, 1, whole=True):
            raise ValueError(f'num_classes is {num_classes!r}, allowed is a number of classes, or None; change it')
        if not is_number(ignore_index, whole=True):
            raise ValueError(f'ignore_index is {ignore_index!r}, allowed is an integer; change it')
        self.num_classes, self.ignore_index = num_classes, ignore_index

    def transform(self, results: dict) -> dict:
        """Checks ``gt_seg_map`` and changes nothing."""
        problem = self.problem(results['gt_seg_map'], results.get('ori_shape', results['img'].shape)[:2])
        if problem:
            path = results.get('seg_map_path', 'the label file')
            raise ValueError(f'{path}, the labels of {results.get("img_path", "an image")}, {problem}')
        return results

    def problem(self, labels: np.ndarray, size: Sequence[int] | None) -> str | None:
        """What is wrong with labels, and the remedy; None if nothing is.

        Args:
            labels (np.ndarray): As ``LoadAnnotations`` leaves them, (H, W) if they are right.
            size (Sequence[int], optional): Height and width of the image.

        Returns:
            str | None: To be put behind the file's name.
        """
        return (
            _channels_problem(labels.shape[2] if labels.ndim > 2 else 1)
            or _size_problem(labels.shape[:2], size)
            or self._ids_problem(labels)
        )

    def _ids_problem(self, labels: np.ndarray) -> str | None:
        if self.num_classes is None:
            return None
        outside = (labels >= self.num_classes) & (labels != self.ignore_index) & (labels != IGNORED)
        if not outside.any():
            return None
        ids = np.unique(labels[outside]).tolist()
        shown = f'{ids[:8]} and {len(ids) - 8} more' if len(ids) > 8 else f'{ids}'
        return (
            f'have the ids {shown} in {outside.mean():.1%} of the pixels, allowed are the {self.num_classes} classes, '
            f'0 to {self.num_classes - 1}, and {self._ignored()} for what is ignored: convert the file, map its ids '
            "(the data set's reduce_zero_label, or classes of its metainfo), or name an id to ignore (its ignore_index)"
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


def check_label_files(source: BaseDataset) -> None:
    """Compares the headers of a source's images and label files, without reading a pixel.

    Files that are not on a local disk, pipelines without MMSegmentation's own ``LoadAnnotations`` and formats that
    Pillow does not know are left alone.

    Args:
        source (BaseDataset): Labelled images, loaded.

    Raises:
        ValueError: If label files are empty, or have several channels or another size than their image; names how many
            and the first three.
    """
    pipeline = getattr(source.pipeline, 'transforms', [])
    if not any(type(transform) is LoadAnnotations for transform in pipeline):
        return
    infos = (source.get_data_info(index) for index in range(len(source)))
    pairs = [(info['img_path'], info['seg_map_path']) for info in infos if info.get('seg_map_path')]
    if not pairs or not is_local(pairs[0][0], getattr(source, 'backend_args', None)):
        return
    with ThreadPoolExecutor(16) as pool:
        problems = [found for found in pool.map(_header_problem, pairs) if found]
    if problems:
        raise ValueError(f'{len(problems)} of {len(pairs)} label files do not fit, first: ' + '; '.join(problems[:3]))


def _header_problem(pair: tuple[str, str]) -> str | None:
    image_path, label_path = pair
    if not osp.getsize(label_path):
        return f'{label_path} is empty'
    try:
        with Image.open(label_path) as label, Image.open(image_path) as image:
            problem = _channels_problem(len(label.getbands())) or _depth_problem(label.mode)
            problem = problem or _size_problem(label.size[::-1], oriented_size(image))
    except (UnidentifiedImageError, OSError):
        return None
    return f'{label_path}, the labels of {image_path}, {problem}' if problem else None


def oriented_size(image: Image.Image) -> tuple[int, int]:
    """Height and width of an image as it is read, turned as its EXIF orientation says."""
    # In a PNG it may stand behind the pixels, which are not worth reading for it.
    exif = {} if image.format == 'PNG' and 'exif' not in image.info else image.getexif()
    turned = exif.get(ExifTags.Base.Orientation, 1) in range(5, 9)
    return image.size if turned else image.size[::-1]


def _channels_problem(channels: int) -> str | None:
    if channels == 1:
        return None
    return (
        f'have {channels} channels, allowed is 1, which holds class ids: convert colours to ids (a palette PNG has ids '
        "already; LoadAnnotations reads them with imdecode_backend='pillow')"
    )


def _depth_problem(mode: str) -> str | None:
    if mode in ('1', 'L', 'P'):
        return None
    return (
        f'are of more than 8 bits (mode {mode}), which MMSegmentation cuts off: ids up to 255 are possible, save them '
        'as 8 bits'
    )


def _size_problem(labels: Sequence[int], image: Sequence[int] | None) -> str | None:
    if image is None or tuple(labels) == tuple(image):
        return None
    return (
        f'are {labels[0]}x{labels[1]} (height x width), but the image is {image[0]}x{image[1]}: they must be equal, '
        'mend one of them (an image with an EXIF orientation is turned when it is read)'
    )
