"""Label files that do not fit their images or the classes."""

from __future__ import annotations

from collections.abc import Sequence

import mmcv.transforms
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.dataset import BaseDataset
from mmseg.registry import TRANSFORMS
from PIL import ExifTags, Image

from ...utils.options import PositiveInt, check_options
from .broken import BrokenData, Problem

CONVERTER = 'tools/dataset_converters/convert_masks.py'
IGNORED = 255  # by MMSegmentation's label maps and paddings, whatever a data set's ignore_index is


@TRANSFORMS.register_module()
class CheckLabels(BaseTransform):
    """Raises BrokenData at labels with several channels, another size than the image, or ids outside the classes.

    ``SemiDataset`` puts it behind the ``LoadAnnotations`` of labelled sources.

    Required keys: ``gt_seg_map``; read if there: ``seg_map_path``, ``img_path``, ``ori_shape`` or ``img``.

    Args:
        num_classes (int, optional): The ids 0 to ``num_classes`` - 1, 255 and ``ignore_index`` are allowed. Without it
            ids are not looked at.
        ignore_index (int): Label that is ignored, besides 255.
    """

    @check_options
    def __init__(self, num_classes: PositiveInt | None = None, ignore_index: int = IGNORED) -> None:
        self.num_classes, self.ignore_index = num_classes, ignore_index

    def transform(self, results: dict) -> dict:
        labels = results['gt_seg_map']
        image = results.get('ori_shape') or getattr(results.get('img'), 'shape', None)
        problem = _shape_problem(labels.shape, image and image[:2]) or self._ids_problem(labels)
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
        ignored = ' and '.join(map(str, sorted({self.ignore_index, IGNORED})))
        return (
            'ids outside the classes',
            f'must have ids from 0 to {self.num_classes - 1}, the {self.num_classes} classes, and {ignored} for what '
            f'is ignored, but has {ids[:8]}{" and more" * (len(ids) > 8)} in {outside.mean():.1%} of its pixels. '
            f'Convert the file ({CONVERTER}), map its ids (reduce_zero_label, or classes of the metainfo of the data '
            'set), or name an id to ignore (ignore_index)',
        )


def check_loaded_labels(source: BaseDataset) -> None:
    """Puts a check behind the transform of a source's pipeline that loads labels, unless it has one."""
    transforms = source.pipeline.transforms
    loads = [i for i, step in enumerate(transforms) if isinstance(step, mmcv.transforms.LoadAnnotations)]
    if loads and not any(isinstance(step, CheckLabels) for step in transforms):
        transforms.insert(loads[0] + 1, label_check(source))


def label_check(source: BaseDataset) -> CheckLabels:
    """The check of labels of a source's classes."""
    num_classes = len(source.metainfo.get('classes') or ()) or None
    return CheckLabels(num_classes, getattr(source, 'ignore_index', IGNORED))


def absent_classes(counts: np.ndarray, classes: Sequence[str], ignore_index: int) -> Problem | None:
    """Whether of (256,) pixels of each id a class has none; but for one that is ignored."""
    absent = [str(name) for i, name in enumerate(classes) if not counts[i] and i != ignore_index]
    cause = f'must be none, but the labelled images have no pixel of {", ".join(absent)}, of which nothing is learned.'
    if counts[IGNORED] and len(classes) == 2:
        cause += f' {counts[IGNORED] / counts.sum():.1%} of the pixels are 255, which is ignored: '
        cause += f'{CONVERTER} turns 0 and 255 into ids.'
    cause += ' Label some, take the class out, or accept it (absent_classes of PseudoLabelHook)'
    return Problem('class without labels', 'class without labels', cause) if absent else None


def label_header_problem(label_path: str, image_path: str) -> Problem | None:
    """What the headers of a label file and its image tell; formats that Pillow does not know are left alone."""
    try:
        with Image.open(label_path) as label, Image.open(image_path) as image:
            channels = [len(label.getbands())] if len(label.getbands()) > 1 else []
            problem = _shape_problem([*label.size[::-1], *channels], oriented_size(image))
            if not problem and label.mode not in ('1', 'L', 'P'):
                problem = (
                    'labels of more than 8 bits',
                    f'must have 8 bits, but has more (mode {label.mode}), which MMSegmentation drops. Save it so',
                )
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return Problem(label_path, *problem, image=image_path) if problem else None


def oriented_size(image: Image.Image) -> tuple[int, int]:
    """Height and width of an image as it is read, turned as its EXIF orientation says."""
    # Pillow would decode a PNG to find it.
    turned = image.format != 'PNG' and image.getexif().get(ExifTags.Base.Orientation, 1) in range(5, 9)
    return image.size if turned else image.size[::-1]


def _shape_problem(labels: Sequence[int], image: Sequence[int] | None) -> tuple[str, str] | None:
    """Kind and cause of what is wrong with the shape of labels (H, W) or (H, W, C), for an image (H, W)."""
    if len(labels) > 2:
        return (
            'labels in colours',
            f'must have 1 channel, which holds class ids, but has {labels[2]}. Convert colours to ids (a palette PNG '
            "has ids already; LoadAnnotations reads them with imdecode_backend='pillow')",
        )
    if image and tuple(labels) != tuple(image):
        return (
            'labels of another size than the image',
            f'must be {image[0]}x{image[1]} (height x width) as its image is, but is {"x".join(map(str, labels))}. Fix '
            'one of them (an image with an EXIF orientation is turned when it is read)',
        )
    return None
