"""The head that learns along which positions labels propagate (DerProp, arXiv 2508.02254)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn

from ..ops import check_order, propagate
from ..utils.options import NonNegativeInt, PositiveInt, Share, check_options


@dataclass
class Embedding:
    """The vectors q and k (N, K, L) of a batch that :class:`DerPropHead` gives; ``grid`` is (h, w), L = h * w."""

    q: Tensor
    k: Tensor
    grid: tuple[int, int]

    def __getitem__(self, images: slice) -> Embedding:
        return Embedding(self.q[images], self.k[images], self.grid)

    def detach(self) -> Embedding:
        """The same vectors without their graphs."""
        return Embedding(self.q.detach(), self.k.detach(), self.grid)


@MODELS.register_module()
class DerPropHead(BaseModule):
    """Projects a feature to the two vectors q and k of each position, and propagates along their similarity.

    A 3x3 convolution with normalisation, ReLU and channel dropout is followed by two 1x1 convolutions to K
    channels. The head is used in training only.

    Args:
        num_classes (int): K; SemiSegmentor gives it.
        in_channels (int): Channels of the feature; SemiSegmentor finds them out.
        in_index (int): Which of the features that the segmentor's ``extract_feat`` gives; where the config leaves it
            out, SemiSegmentor takes the deepest (:func:`mmseg_derprop.models.decoding.deepest`).
        channels (int): Channels of the 3x3 convolution.
        dropout_ratio (float): Of the channel dropout, within 0 .. 1.
        max_order (int): Highest order of derivative in the similarity and the affinities; 0 takes none.
        normalize (str): How propagated predictions are normalised, see :func:`mmseg_derprop.ops.propagate`;
            ``'source'`` is the published way.
        warmup (int): Iterations at the start for which the head learns alone: from nothing, its losses would undo what
            the network has learned, so their gradients do not reach it, and pseudo-labels do without the head.
        norm_cfg (dict): Normalisation of the 3x3 convolution.

    Attributes:
        warming_up (bool): Whether it learns alone now.
    """

    moved_options = {
        'num_regions': 'pseudo_labels.regions.num',
        'last_row': "pseudo_labels.regions.type='RegionsWithoutLastRow'",
    }

    @check_options
    def __init__(
        self,
        num_classes: PositiveInt,
        in_channels: PositiveInt,
        in_index: int = -1,
        channels: PositiveInt = 256,
        dropout_ratio: Share = 0.1,
        max_order: NonNegativeInt = 1,
        normalize: Literal['source', 'source_mean', 'target'] = 'source_mean',
        warmup: NonNegativeInt = 0,
        norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_order(max_order, num_classes)
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.in_index = in_index
        self.max_order = max_order
        self.normalize = normalize
        self.warmup = warmup
        self.warming_up = False
        self.conv = ConvModule(in_channels, channels, 3, padding=1, bias=True, norm_cfg=norm_cfg or dict(type='BN'))
        self.dropout = nn.Dropout2d(dropout_ratio)
        self.conv_q = nn.Conv2d(channels, num_classes, 1)
        self.conv_k = nn.Conv2d(channels, num_classes, 1)

    def forward(self, features: tuple[Tensor, ...]) -> Embedding:
        """Embeds the positions of the feature ``in_index``, (N, in_channels, h, w)."""
        feature = features[self.in_index]
        return self.embed(self.dropout(self.conv(feature.detach() if self.warming_up else feature)))

    def embed(self, feature: Tensor) -> Embedding:
        """The two projections of a feature (N, channels, h, w) that the 3x3 convolution has seen."""
        q, k = self.conv_q(feature), self.conv_k(feature)
        return Embedding(q.flatten(2), k.flatten(2), (q.shape[2], q.shape[3]))

    def propagate(self, embedding: Embedding, logits: Tensor) -> Tensor:
        """(N, K, H, W), logits (N, K, H, W) propagated over the image; no gradient reaches these (paper, section 3)."""
        sources = F.interpolate(logits.detach(), embedding.grid, mode='bilinear', align_corners=True).flatten(2)
        targets = propagate(embedding.q, embedding.k, sources, self.max_order, self.normalize)
        targets = targets.unflatten(2, embedding.grid)
        return F.interpolate(targets, logits.shape[-2:], mode='bilinear', align_corners=True)
