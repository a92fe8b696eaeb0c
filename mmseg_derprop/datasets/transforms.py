"""Geometry of the weak view, branches, packing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Annotated

import mmcv
import numpy as np
import torch
from mmcv.transforms import BaseTransform, Compose
from mmengine import fileio
from mmengine.structures import PixelData
from mmseg.datasets.transforms import LoadAnnotations, PackSegInputs, Resize
from mmseg.registry import TRANSFORMS

from ..utils.options import Bounds, PositiveInt, check_options
from .checks.labels import CheckLabels


@TRANSFORMS.register_module()
class LoadUnlabeledAnnotations(BaseTransform):
    """Starts the ignore map of an unlabelled image and loads its labels if there are any.

    Required keys: ``img``, ``seg_fields``, ``seg_map_path`` (optional, may name a file that does
    not exist). Added keys: ``ignore_map`` (H, W) uint8, 1 where no loss may look; ``gt_seg_map``
    (H, W) uint8 if the label file exists, for statistics only.

    Raises ``ValueError`` if the label file is in colours or of another size than the image.

    Args:
        imdecode_backend (str): Decoder of label files, as in MMSeg's ``LoadAnnotations``.
        backend_args (dict, optional): MMEngine's file backend. Defaults to the one that the path
            implies.
    """

    @check_options
    def __init__(self, imdecode_backend: str = 'pillow', backend_args: dict | None = None) -> None:
        self.backend_args = backend_args
        self.load_labels = LoadAnnotations(imdecode_backend=imdecode_backend, backend_args=backend_args)

    def transform(self, results: dict) -> dict:
        """Adds ``ignore_map`` and, where possible, ``gt_seg_map``."""
        results['ignore_map'] = np.zeros(results['img'].shape[:2], np.uint8)
        results.setdefault('seg_fields', []).append('ignore_map')
        path = results.get('seg_map_path')
        if path and fileio.exists(path, backend_args=self.backend_args):
            results = CheckLabels()(self.load_labels(results))
        return results


@TRANSFORMS.register_module()
class RandomRescale(BaseTransform):
    """Resizes so that the long side is a uniform integer, the short one in proportion.

    The image is resized bilinearly, all ``seg_fields`` by nearest neighbour.

    Args:
        ratio_range (tuple[float, float]): Bounds of the new long side, as multiples of the old one.

    Raises:
        ValueError: If ``ratio_range`` is not ascending and positive.
    """

    @check_options
    def __init__(self, ratio_range: Annotated[tuple[float, float], Bounds(above=0)] = (0.5, 2.0)) -> None:
        self.ratio_range = ratio_range

    def transform(self, results: dict) -> dict:
        """Resizes ``img`` and ``seg_fields``."""
        h, w = results['img'].shape[:2]
        low, high = (int(ratio * max(h, w)) for ratio in self.ratio_range)
        ratio = np.random.randint(low, high + 1) / max(h, w)
        scale = tuple(max(1, int(side * ratio + 0.5)) for side in (w, h))
        return Resize(scale=scale, keep_ratio=False)(results)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(ratio_range={self.ratio_range})'


@TRANSFORMS.register_module()
class PadToCrop(BaseTransform):
    """Pads at the right and bottom to at least the crop size; what is padded is to be ignored.

    Args:
        size (int | tuple[int, int]): Crop size, (h, w) if a tuple.
        pad_val (int): Raw pixel value of the padding, black by default, before any normalisation.
        seg_pad_val (int): Label of the padding. ``ignore_map`` gets 1.

    Raises:
        ValueError: If ``size`` is not positive, or a value is none of 8 bits.
    """

    @check_options
    def __init__(
        self,
        size: PositiveInt | tuple[PositiveInt, PositiveInt],
        pad_val: Annotated[int, Bounds(0, 255)] = 0,
        seg_pad_val: Annotated[int, Bounds(0, 255)] = 255,
    ) -> None:
        self.size = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
        self.pad_val, self.seg_pad_val = pad_val, seg_pad_val

    def transform(self, results: dict) -> dict:
        """Pads ``img`` and ``seg_fields``."""
        sides = results['img'].shape[:2]
        shape = tuple(max(side, least) for side, least in zip(sides, self.size, strict=True))
        if shape == sides:
            return results
        results['img'] = mmcv.impad(results['img'], shape=shape, pad_val=self.pad_val)
        results['img_shape'] = shape
        for key in results.get('seg_fields', []):
            value = 1 if key == 'ignore_map' else self.seg_pad_val
            results[key] = mmcv.impad(results[key], shape=shape, pad_val=value)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(size={self.size}, pad_val={self.pad_val}, seg_pad_val={self.seg_pad_val})'


@TRANSFORMS.register_module()
class MultiBranch(BaseTransform):
    """Runs a pipeline for each branch, each on its own copy of what has been loaded so far.

    A pipeline ends in ``PackSemiInputs`` or in another ``MultiBranch``. The latter's branches join
    this one's, and the outer name only marks the place: views that share a weak crop are written

        MultiBranch(view=[*geometry, MultiBranch(weak=[pack], strong=[*photometric, pack])])

    Args:
        **branches (Sequence[dict | Callable]): Pipeline of each branch.

    Raises:
        ValueError: If there is no branch, two pipelines fill the same one, or a pipeline does not
            end in packing.
    """

    def __init__(self, **branches: Sequence[dict | Callable]) -> None:
        if not branches:
            raise ValueError('MultiBranch must have at least 1 branch, but has 0. Name a pipeline.')
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
                if twice := merged.keys() & value.keys():
                    raise ValueError(f'Two pipelines fill the branch {sorted(twice)[0]!r}. Rename one of them.')
                merged.update(value)
        return packed

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.branches})'


@TRANSFORMS.register_module()
class PackSemiInputs(PackSegInputs):
    """MMSeg's packing, with the ignore map as ``data_sample.ignore_map``, (1, H, W) bool.

    Args:
        meta_keys (Sequence[str]): Keys for the data sample's meta information.
    """

    def __init__(
        self,
        meta_keys: Sequence[str] = (
            'img_path',
            'seg_map_path',
            'ori_shape',
            'img_shape',
            'pad_shape',
            'scale_factor',
            'flip',
            'flip_direction',
            'reduce_zero_label',
            'cutmix_box',
        ),
    ) -> None:
        super().__init__(meta_keys=meta_keys)

    def transform(self, results: dict) -> dict:
        """Packs ``img``, ``gt_seg_map`` and ``ignore_map``, whichever exist."""
        packed = super().transform(results)
        if 'ignore_map' in results:
            ignored = torch.from_numpy(results['ignore_map'][None] != 0)
            packed['data_samples'].set_data(dict(ignore_map=PixelData(data=ignored)))
        return packed
