"""A neck between plain vision transformers and MMSegmentation's DPT head."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class PairWithTokens(BaseModule):
    """Pairs each map of a vision transformer with a class token of zeros, as MMSegmentation's DPTHead takes them.

    For backbones whose maps come without tokens (mmpretrain's ``out_type='featmap'``) and ``readout_type='ignore'``,
    the setting of UniMatch V2 (arXiv 2410.10777).
    """

    def forward(self, maps: Sequence[Tensor]) -> tuple[tuple[Tensor, Tensor], ...]:
        """Pairs of maps (N, C, h, w), and tokens (N, C)."""
        if len({part.shape[1:] for part in maps}) > 1:
            shapes = ', '.join(str(tuple(part.shape[1:])) for part in maps)
            raise ValueError(
                f'Features for a DPT head must have one shape, but have (channels, height, width) {shapes}. Take '
                'several layers of a plain vision transformer (out_indices), not the stages of a pyramid.'
            )
        return tuple((part, part.new_zeros(part.shape[:2])) for part in maps)
