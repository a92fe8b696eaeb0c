"""Geometry of the weak view, branches, packing, collating."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from mmcv.transforms import BaseTransform, Compose, Pad
from mmengine import fileio
from mmengine.registry import FUNCTIONS
from mmengine.structures import PixelData
from mmseg.datasets.transforms import LoadAnnotations, PackSegInputs
from mmseg.registry import TRANSFORMS

from ..utils.options import PositiveInt, PositiveRange, check_options
from .checks.broken import BrokenData, Problem, file_problem
from .checks.labels import CheckLabels, label_header_problem


@TRANSFORMS.register_module()
class LoadUnlabeledAnnotations(BaseTransform):
    """Starts the ignore map of an unlabelled image and loads its labels if there are any, for statistics only.

    Required keys: ``img``, ``seg_fields``, ``seg_map_path`` (optional, may name a file that does not exist). Added
    keys: ``ignore_map`` (H, W) uint8, 1 where no loss may look; ``gt_seg_map`` (H, W) uint8 if the label file can be
    used, or ``label_problem``, why it cannot.

    Args:
        loader (str | type): What loads labels of labelled images.
        backend_args (dict, optional): MMEngine's file backend. Defaults to the one that the path implies.
        **options: Further options of the loader.
    """

    @check_options
    def __init__(self, loader: str | type = 'LoadAnnotations', backend_args: dict | None = None, **options) -> None:
        self.backend_args = backend_args
        backend = dict(backend_args=backend_args) if backend_args else {}
        self.load_labels = TRANSFORMS.build(dict(type=loader, **backend, **options))
        self.plain = type(self.load_labels) is LoadAnnotations and not backend_args
        self.check_labels = CheckLabels()  # to which SemiDataset tells the classes

    def transform(self, results: dict) -> dict:
        results['ignore_map'] = np.zeros(results['img'].shape[:2], np.uint8)
        results.setdefault('seg_fields', []).append('ignore_map')
        path = results.get('seg_map_path')
        if not (path and fileio.exists(path, backend_args=self.backend_args)):
            return results
        image = results.get('img_path', '')
        try:
            if self.plain and (problem := file_problem(path) or label_header_problem(path, image)):
                raise BrokenData(problem)
            return self.check_labels(self.load_labels({**results, 'seg_fields': [*results['seg_fields']]}))
        except Exception as error:  # whatever decoders raise
            unreadable = Problem(path, 'unreadable', f'cannot be read: {type(error).__name__}: {error}', image)
            results['label_problem'] = getattr(error, 'problem', None) or unreadable
            return results


@TRANSFORMS.register_module()
class RandomRescale(BaseTransform):
    """Resizes so that the long side is a uniform integer, as the field's programs do by Pillow.

    Images are resized bilinearly, with antialiasing when they shrink; ``seg_fields`` by centred nearest neighbour.
    OpenCV's ways, which are MMSegmentation's, do neither.

    Args:
        ratio_range (tuple[float, float]): Bounds of the new long side, as multiples of the old one.
    """

    @check_options
    def __init__(self, ratio_range: PositiveRange = (0.5, 2.0)) -> None:
        self.ratio_range = ratio_range

    def transform(self, results: dict) -> dict:
        h, w = results['img'].shape[:2]
        low, high = (int(ratio * max(h, w)) for ratio in self.ratio_range)
        ratio = np.random.randint(low, high + 1) / max(h, w)
        size = (max(1, int(h * ratio + 0.5)), max(1, int(w * ratio + 0.5)))
        results['img'] = resize_image(results['img'], size)
        for key in results.get('seg_fields', []):
            results[key] = cv2.resize(results[key], size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        results.update(img_shape=size, scale=size[::-1], scale_factor=(size[1] / w, size[0] / h), keep_ratio=False)
        return results


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes an image (H, W) or (H, W, C) of any depth to (h, w), bilinearly and antialiased, as Pillow does."""
    if image.shape[:2] == size:
        return image
    kind = image.dtype if image.dtype == np.uint8 else np.float32
    pixels = torch.from_numpy(np.ascontiguousarray(np.atleast_3d(image), kind))
    # Faster than Pillow (docs/benchmarks.md), whose results differ by rounding only.
    found = F.interpolate(pixels.permute(2, 0, 1)[None], size, mode='bilinear', antialias=True)[0].permute(1, 2, 0)
    resized = found.numpy().reshape(*size, *image.shape[2:])
    if np.issubdtype(image.dtype, np.integer) and image.dtype != np.uint8:
        resized = resized.round()
    return np.ascontiguousarray(resized.astype(image.dtype, copy=False))


@TRANSFORMS.register_module()
class PadToCrop(BaseTransform):
    """Pads at the right and bottom to at least the crop size.

    The padding is black before any normalisation, its label is 255, and ``ignore_map`` has 1 there.

    Args:
        size (int | tuple[int, int]): Crop size, (h, w) if a tuple.
    """

    @check_options
    def __init__(self, size: PositiveInt | tuple[PositiveInt, PositiveInt]) -> None:
        self.size = (size, size) if isinstance(size, int) else tuple(size)

    def transform(self, results: dict) -> dict:
        sides = results['img'].shape[:2]
        shape = tuple(max(side, least) for side, least in zip(sides, self.size, strict=True))
        if shape == sides:
            return results
        results['img'] = _padded(results['img'], shape, 0)
        results['img_shape'] = shape
        for key in {*results.get('seg_fields', []), 'gt_edge_map'} & results.keys():
            results[key] = _padded(results[key], shape, 1 if key == 'ignore_map' else 255)
        return results


@TRANSFORMS.register_module()
class PadWithIgnoreMap(Pad):
    """MMCV's Pad, with its options, which also pads ``ignore_map``, by 1."""

    def _pad_seg(self, results: dict) -> None:
        super()._pad_seg(results)
        results['ignore_map'] = _padded(results['ignore_map'], results['pad_shape'][:2], 1)


def _padded(array: np.ndarray, shape: Sequence[int], value: int) -> np.ndarray:
    """(H, W) or (H, W, C), padded at the right and bottom; OpenCV pads 4 channels at most."""
    widths = [(0, wanted - side) for wanted, side in zip(shape, array.shape[:2])]
    return np.pad(array, widths + [(0, 0)] * (array.ndim - 2), constant_values=value)


@TRANSFORMS.register_module()
class MultiBranch(BaseTransform):
    """Runs a pipeline for each branch, each on its own copy of what has been loaded so far.

    A pipeline ends in ``PackSemiInputs`` or in another ``MultiBranch``. The latter's branches join this one's, and the
    outer name only marks the place: views that share a weak crop are written

        MultiBranch(view=[*geometry, MultiBranch(weak=[pack], strong=[*photometric, pack])])
    """

    def __init__(self, **branches: Sequence[dict | Callable]) -> None:
        self.branches = {
            name: Compose([TRANSFORMS.build(t) if isinstance(t, dict) else t for t in pipeline])
            for name, pipeline in branches.items()
        }

    def transform(self, results: dict) -> dict | None:
        """Gathers the packed views by branch; None if a pipeline gives up on the image."""
        packed: dict[str, dict] = dict(inputs={}, data_samples={})
        for name, pipeline in self.branches.items():
            branch = pipeline(copy.deepcopy(results))
            if branch is None:
                return None
            if 'data_samples' not in branch:
                raise ValueError(
                    f'The pipeline of branch {name!r} must return inputs and data_samples, but returns '
                    f'{sorted(branch)}. End it in PackSemiInputs.'
                )
            for kind, merged in packed.items():
                value = branch[kind] if isinstance(branch['inputs'], dict) else {name: branch[kind]}
                merged.update(value)
        return packed


@TRANSFORMS.register_module()
class PackSemiInputs(PackSegInputs):
    """MMSeg's packing, with ``ignore_map`` in the data sample, (1, H, W) bool, and ``cutmix_box`` in its meta keys."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.meta_keys: tuple[str, ...] = (*self.meta_keys, 'cutmix_box', 'label_problem')

    def transform(self, results: dict) -> dict:
        if results['img'].dtype == np.uint16:  # which most of PyTorch does not know
            results['img'] = results['img'].astype(np.float32)
        packed = super().transform(results)
        if 'ignore_map' in results:
            ignored = torch.from_numpy(results['ignore_map'][None] != 0)
            packed['data_samples'].set_data(dict(ignore_map=PixelData(data=ignored)))
        return packed


@FUNCTIONS.register_module()
def semi_collate(batch: Sequence[dict], _scope_: str | None = None) -> dict:
    """Gathers items by branch, tensors and samples in a list of each, which the data preprocessor stacks.

    Args:
        batch (Sequence[dict]): Items ``{'inputs': {branch: (C, H, W) uint8}, 'data_samples':
            {branch: SegDataSample}}``; labelled ones have the branch ``sup``.
        _scope_ (str, optional): Unused; mmengine hands it over where a base is named ``mmseg_derprop::``.
    """
    collated: dict[str, dict[str, list]] = {'inputs': {}, 'data_samples': {}}
    for item in batch:
        for kind, branches in collated.items():
            for branch, value in item[kind].items():
                branches.setdefault(branch, []).append(value)
    return collated
