"""What the student sees in one view of a batch."""

from __future__ import annotations

from functools import cached_property

import torch.nn.functional as F
from torch import Tensor

from .derprop_head import DerPropHead, Embedding


class View:
    """Predictions of a batch of N images; what no loss reads is never computed.

    Args:
        logits (Tensor): (N, K, H, W).
        perturbed_logits (Tensor, optional): (N, K, h', w') decoded from perturbed features.
        embedding (Embedding, optional): Of the images.
        head (DerPropHead, optional): The head that gave it.
        align_corners (bool): The segmentor's way of resizing logits.
    """

    def __init__(
        self,
        logits: Tensor,
        perturbed_logits: Tensor | None = None,
        embedding: Embedding | None = None,
        head: DerPropHead | None = None,
        align_corners: bool = False,
    ) -> None:
        self.logits = logits
        self.align_corners = align_corners
        self._perturbed_logits = perturbed_logits
        self._embedding = embedding
        self._head = head

    def __getitem__(self, images: slice) -> View:
        perturbed = None if self._perturbed_logits is None else self._perturbed_logits[images]
        embedding = None if self._embedding is None else self._embedding[images]
        return View(self.logits[images], perturbed, embedding, self._head, self.align_corners)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the images."""
        return (self.logits.shape[-2], self.logits.shape[-1])

    @property
    def head(self) -> DerPropHead:
        """The head that embedded the images."""
        assert self._head is not None
        return self._head

    @property
    def embedding(self) -> Embedding:
        """The images' vectors q and k."""
        assert self._embedding is not None
        return self._embedding

    @cached_property
    def propagated(self) -> Tensor:
        """(N, K, H, W), the logits propagated along the derivative similarity."""
        return self.head.propagate(self.embedding, self.logits)

    @cached_property
    def perturbed(self) -> Tensor:
        """(N, K, H, W), decoded from perturbed features."""
        assert self._perturbed_logits is not None
        return F.interpolate(self._perturbed_logits, self.size, mode='bilinear', align_corners=self.align_corners)
