"""The head that learns along which positions labels propagate (DerProp, arXiv 2508.02254)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn

from ..ops import NORMALIZATIONS, propagate, region_masks, similarity_rows
from ..utils.options import check_flags, is_number
from .checks import check_choice


@dataclass
class Embedding:
    """What :class:`DerPropHead` gives for a batch.

    Attributes:
        q, k (Tensor): (N, K, L), L = h * w.
        grid (tuple[int, int]): (h, w).
    """

    q: Tensor
    k: Tensor
    grid: tuple[int, int]

    def __getitem__(self, images: slice) -> Embedding:
        return Embedding(self.q[images], self.k[images], self.grid)


@MODELS.register_module()
class DerPropHead(BaseModule):
    """Projects a feature to the two vectors q and k of each position, and propagates along their similarity.

    A 3x3 convolution with normalisation, ReLU and channel dropout is followed by two 1x1 convolutions to K
    channels. The head is used in training only.

    Args:
        num_classes (int): K.
        in_channels (int): Channels of the feature; SemiSegmentor finds them out where the config leaves them out.
        in_index (int): Which of the features that the segmentor's ``extract_feat`` gives. The last is the deepest.
        channels (int): Channels of the 3x3 convolution.
        dropout_ratio (float): Of the channel dropout.
        max_order (int): Highest order of derivative in the similarity and the affinities; 0 takes none.
        normalize (str): How propagated predictions are normalised, see :func:`mmseg_derprop.ops.propagate`.
        num_regions (int): Regions per image; 0 takes none.
        last_row (bool): Whether the last position can be a region's source; the published program leaves it out.
        norm_cfg (dict): Normalisation of the 3x3 convolution.

    Raises:
        ValueError: If an option is unknown or out of range.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        in_index: int = -1,
        channels: int = 256,
        dropout_ratio: float = 0.1,
        max_order: int = 1,
        normalize: str = 'source_mean',
        num_regions: int = 128,
        last_row: bool = True,
        norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_choice('normalize', normalize, NORMALIZATIONS)
        for name, value in dict(num_classes=num_classes, in_channels=in_channels, channels=channels).items():
            if not is_number(value, 1, whole=True):
                raise ValueError(f'{name} = {value!r}, but a head needs a whole number of at least 1.')
        if not is_number(in_index, whole=True):
            raise ValueError(f'in_index = {in_index!r}, but it must be the number of a feature, -1 for the last.')
        if not is_number(dropout_ratio, 0, 1):
            raise ValueError(f'dropout_ratio = {dropout_ratio!r}, but it must lie within 0 .. 1.')
        check_flags(last_row=last_row)
        if not is_number(max_order, 0, num_classes - 1, whole=True):
            raise ValueError(
                f'max_order = {max_order!r}: {num_classes} classes have derivatives of order 0 to {num_classes - 1}.'
            )
        if not is_number(num_regions, 0, whole=True):
            raise ValueError(f'num_regions = {num_regions!r}: give 0 for no region propagation, or more.')
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.in_index = in_index
        self.max_order = max_order
        self.normalize = normalize
        self.num_regions = num_regions
        self.last_row = last_row
        self.conv = ConvModule(in_channels, channels, 3, padding=1, bias=True, norm_cfg=norm_cfg or dict(type='BN'))
        self.dropout = nn.Dropout2d(dropout_ratio)
        self.conv_q = nn.Conv2d(channels, num_classes, 1)
        self.conv_k = nn.Conv2d(channels, num_classes, 1)

    def forward(self, features: tuple[Tensor, ...]) -> Embedding:
        """Embeds the positions of a feature.

        Args:
            features (tuple[Tensor, ...]): Of which ``in_index`` is (N, in_channels, h, w).

        Raises:
            ValueError: If it has another number of channels.
        """
        feature = features[self.in_index]
        if feature.shape[1] != self.in_channels:
            raise ValueError(
                f'in_channels = {self.in_channels}, but the feature {self.in_index} has {feature.shape[1]}: give these.'
            )
        return self.embed(self.dropout(self.conv(feature)))

    def embed(self, feature: Tensor) -> Embedding:
        """The two projections of a feature (N, channels, h, w) that the 3x3 convolution has seen."""
        q, k = self.conv_q(feature), self.conv_k(feature)
        return Embedding(q.flatten(2), k.flatten(2), (q.shape[2], q.shape[3]))

    def propagate(self, embedding: Embedding, logits: Tensor) -> Tensor:
        """Logits propagated over the image (paper, section 3).

        Args:
            embedding (Embedding): Of N images.
            logits (Tensor): (N, K, H, W); no gradient reaches them.

        Returns:
            Tensor: (N, K, H, W).
        """
        sources = F.interpolate(logits.detach(), embedding.grid, mode='bilinear', align_corners=True).flatten(2)
        targets = propagate(embedding.q, embedding.k, sources, self.max_order, self.normalize)
        targets = targets.unflatten(2, embedding.grid)
        return F.interpolate(targets, logits.shape[-2:], mode='bilinear', align_corners=True)

    def draw_rows(self, embedding: Embedding) -> Tensor:
        """Positions whose similarity maps become regions, with replacement: (num_regions,) int64."""
        length = embedding.q.shape[-1] - (not self.last_row)
        return torch.randint(max(length, 1), (self.num_regions,), device=embedding.q.device)

    @torch.no_grad()
    def regions(self, embedding: Embedding, size: tuple[int, int], rows: Tensor | None = None) -> Tensor:
        """Regions of the positions drawn.

        Args:
            embedding (Embedding): Of N images.
            size (tuple[int, int]): (H, W).
            rows (Tensor, optional): (R,) int64 positions; drawn if left out.

        Returns:
            Tensor: (N, R, H, W) bool.
        """
        rows = self.draw_rows(embedding) if rows is None else rows
        maps = similarity_rows(embedding.q, embedding.k, rows, self.max_order)
        return region_masks(maps.unflatten(2, embedding.grid), size)
