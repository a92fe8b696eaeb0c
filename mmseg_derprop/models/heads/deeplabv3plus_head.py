"""The DeepLabV3+ decoder that the field's semi-supervised methods share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmseg.models.decode_heads.aspp_head import ASPPModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module(force=True)  # exported models bring a copy of this file
class DeepLabV3PlusHead(BaseDecodeHead):
    """DeepLabV3+ with plain 3x3 convolutions (arXiv 1802.02611, as used by UniMatch, CorrMatch and DerProp).

    ASPP (a 1x1 branch, atrous 3x3 branches, image pooling, a 1x1 projection) on the deep feature; the shallow
    feature reduced to ``c1_channels``; two 3x3 convolutions on both; a 1x1 classifier. MMSegmentation's
    DepthwiseSeparableASPPHead is another network: depthwise convolutions and a 3x3 ASPP projection.

    Args:
        in_channels (Sequence[int]): Of the shallow and of the deep feature.
        in_index (Sequence[int]): Of the shallow (stride 4) and of the deep feature.
        c1_channels (int): Channels that the shallow feature is reduced to.
        dilations (Sequence[int]): Of the atrous branches; (12, 24, 36) at output stride 8, half of it at 16.
        dropout_ratio (float): Before the classifier; the published network has none.
        align_corners (bool): In every resizing.
        **kwargs: As for MMSegmentation's BaseDecodeHead.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        in_index: Sequence[int] = (0, 3),
        c1_channels: int = 48,
        dilations: Sequence[int] = (12, 24, 36),
        dropout_ratio: float = 0.0,
        align_corners: bool = True,
        **kwargs,
    ) -> None:
        super().__init__(
            in_channels=list(in_channels),
            in_index=list(in_index),
            input_transform='multiple_select',
            dropout_ratio=dropout_ratio,
            align_corners=align_corners,
            **kwargs,
        )
        shallow, deep = in_channels
        layer = dict(conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg)
        self.aspp_modules = ASPPModule((1, *dilations), deep, self.channels, **layer)
        self.image_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvModule(deep, self.channels, 1, **layer))
        self.bottleneck = ConvModule((len(dilations) + 2) * self.channels, self.channels, 1, **layer)
        self.c1_bottleneck = ConvModule(shallow, c1_channels, 1, **layer)
        self.fuse = nn.Sequential(
            ConvModule(self.channels + c1_channels, self.channels, 3, padding=1, **layer),
            ConvModule(self.channels, self.channels, 3, padding=1, **layer),
        )

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Logits (N, K, h, w) at the size of the shallow feature."""
        shallow, deep = self._transform_inputs(inputs)
        pooled = self._resize(self.image_pool(deep), deep)
        context = self.bottleneck(torch.cat([*self.aspp_modules(deep), pooled], dim=1))
        fused = self.fuse(torch.cat([self.c1_bottleneck(shallow), self._resize(context, shallow)], dim=1))
        return self.cls_seg(fused)

    def _resize(self, feature: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(feature, like.shape[-2:], mode='bilinear', align_corners=self.align_corners)
