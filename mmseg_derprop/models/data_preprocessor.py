"""Normalises every branch of a semi-supervised batch as the wrapped segmentor wants its images."""

from __future__ import annotations

from typing import Any

from mmengine.model import BaseDataPreprocessor
from mmseg.registry import MODELS
from torch import nn


@MODELS.register_module()
class SemiDataPreprocessor(BaseDataPreprocessor):
    """Applies a segmentor's data preprocessor, a config or a module, to each branch.

    Training data are dicts of branches, as :func:`mmseg_derprop.datasets.semi_collate` makes them; anything else
    goes to the segmentor's preprocessor as it is.
    """

    def __init__(self, data_preprocessor: dict | nn.Module) -> None:
        super().__init__()
        given: Any = data_preprocessor
        self.base: nn.Module = given if isinstance(given, nn.Module) else MODELS.build(given)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Casts, normalises and stacks: of branches ``inputs`` are then (N, 3, H, W) each, ``data_samples`` lists."""
        if not isinstance(data['inputs'], dict):
            return self.base(data, training)
        sizes = {branch: sorted({tuple(i.shape[-2:]) for i in images}) for branch, images in data['inputs'].items()}
        check_crops(sizes, self.base)
        if getattr(self.base, 'size', None) is None and getattr(self.base, 'size_divisor', None) is None:
            vars(self.base)['size'] = next(iter(sizes.values()))[0]  # without either it refuses to stack images
        branches = {
            branch: self.base(dict(inputs=images, data_samples=data['data_samples'][branch]), training)
            for branch, images in data['inputs'].items()
        }
        return {key: {name: out[key] for name, out in branches.items()} for key in ('inputs', 'data_samples')}


def check_crops(sizes: dict[str, list[tuple[int, int]]], preprocessor: nn.Module) -> None:
    """Raises ValueError unless all branches have images of one size that the segmentor's preprocessor does not pad."""
    different = {size for branch in sizes.values() for size in branch}
    if len(different) != 1:
        raise ValueError(
            f'Images of a batch must have one size, but the branches have {sizes}: give the labelled and the '
            'unlabelled pipeline the same crop size, and pad images that are smaller (PadToCrop).'
        )
    (height, width) = next(iter(different))
    padded, divisor = getattr(preprocessor, 'size', None) or (0, 0), getattr(preprocessor, 'size_divisor', None) or 1
    too_small = padded[-2] > height or padded[-1] > width
    if too_small or height % divisor or width % divisor:
        setting = f'size={tuple(padded)}' if too_small else f'size_divisor={divisor}'
        raise ValueError(
            f'The crops are {height}x{width}, but the data_preprocessor has {setting} and would pad them, and padding '
            'would be taken for image. Set its size or size_divisor to fit the crop size.'
        )
