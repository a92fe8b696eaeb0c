"""CamVid in its common 11-class version."""

from __future__ import annotations

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS


@DATASETS.register_module(force=True)  # exported models bring a copy of this file
class CamVidDataset(BaseSegDataset):
    """Cambridge-driving Labeled Video Database, 480x360, label files with the ids 0 to 11.

    ``METAINFO`` names what the label files hold. Void, id 11, is no class to learn: without a
    ``metainfo`` of its own the data set uses the first 11 classes, and MMSeg maps void to 255.

    Args:
        img_suffix (str): Suffix of images.
        seg_map_suffix (str): Suffix of label files.
        metainfo (dict, optional): As in ``BaseSegDataset``; its ``classes`` replace the 11.
        **kwargs: Passed to ``BaseSegDataset``.
    """

    METAINFO = dict(
        classes=(
            'sky',
            'building',
            'pole',
            'road',
            'pavement',
            'tree',
            'sign',
            'fence',
            'car',
            'pedestrian',
            'bicyclist',
            'void',
        ),
        palette=[
            [128, 128, 128],
            [128, 0, 0],
            [192, 192, 128],
            [128, 64, 128],
            [60, 40, 222],
            [128, 128, 0],
            [192, 128, 128],
            [64, 64, 128],
            [64, 0, 128],
            [64, 64, 0],
            [0, 128, 192],
            [0, 0, 0],
        ],
    )

    def __init__(
        self,
        img_suffix: str = '.jpg',
        seg_map_suffix: str = '.png',
        metainfo: dict | None = None,
        **kwargs,
    ) -> None:
        metainfo = {'classes': self.METAINFO['classes'][:-1], **(metainfo or {})}
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, metainfo=metainfo, **kwargs)
