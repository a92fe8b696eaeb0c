"""CamVid in its common 11-class version."""

from __future__ import annotations

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

COLOURS = dict(
    sky=[128, 128, 128],
    building=[128, 0, 0],
    pole=[192, 192, 128],
    road=[128, 64, 128],
    pavement=[60, 40, 222],
    tree=[128, 128, 0],
    sign=[192, 128, 128],
    fence=[64, 64, 128],
    car=[64, 0, 128],
    pedestrian=[64, 64, 0],
    bicyclist=[0, 128, 192],
    void=[0, 0, 0],
)


@DATASETS.register_module(force=True)  # exported models bring a copy of this file
class CamVidDataset(BaseSegDataset):
    """Cambridge-driving Labeled Video Database, 480x360, label files with the ids 0 to 11.

    ``METAINFO`` names what the label files hold. Void, id 11, is no class to learn: without a ``metainfo`` of its own
    the data set uses the first 11 classes, and MMSeg maps void to 255. Arguments are those of ``BaseSegDataset``.
    """

    METAINFO = dict(classes=tuple(COLOURS), palette=list(COLOURS.values()))

    def __init__(self, metainfo: dict | None = None, **kwargs) -> None:
        super().__init__(metainfo={'classes': self.METAINFO['classes'][:-1], **(metainfo or {})}, **kwargs)
