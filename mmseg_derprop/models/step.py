"""What one training iteration has: the only thing that a loss sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import torch.nn.functional as F
from mmseg.models import BaseSegmentor
from mmseg.structures import SegDataSample
from torch import Tensor

from ..ops import entropy_map, labels_on_grid, soft_cross_entropy_map
from .decoding import map_tensors
from .derprop_head import DerPropHead, Embedding
from .pseudo_labels import PseudoLabels

Part = TypeVar('Part')


@dataclass(eq=False)
class View:
    """Predictions of a batch of N images; what no loss reads is never computed.

    Attributes:
        logits (Tensor): (N, K, H, W).
        perturbed_logits (Tensor, optional): (N, K, h', w') decoded from perturbed features.
        maybe_embedding (Embedding, optional): Of the images.
        maybe_head (DerPropHead, optional): The head that gave it.
        align_corners (bool): How the segmentor resizes logits.
    """

    logits: Tensor
    perturbed_logits: Tensor | None = None
    maybe_embedding: Embedding | None = None
    maybe_head: DerPropHead | None = None
    align_corners: bool = False

    def __getitem__(self, images: slice) -> View:
        return self._changed(lambda part: part[images])

    def detach(self) -> View:
        """The same predictions, without their graphs."""
        view = self._changed(lambda part: part.detach())
        if 'propagated' in vars(self):
            view.propagated = self.propagated.detach()
        return view

    def _changed(self, change: Callable[[Any], Any]) -> View:
        parts = dict(logits=self.logits, perturbed_logits=self.perturbed_logits, maybe_embedding=self.maybe_embedding)
        changed: dict[str, Any] = {name: change(part) for name, part in parts.items() if part is not None}
        return replace(self, **changed)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the images."""
        return (self.logits.shape[-2], self.logits.shape[-1])

    @property
    def head(self) -> DerPropHead:
        """The head that embedded the images."""
        return present(self.maybe_head, 'the propagation head', 'embedding')

    @property
    def embedding(self) -> Embedding:
        """The images' vectors q and k."""
        return present(self.maybe_embedding, 'an embedding', 'embedding')

    @cached_property
    def propagated(self) -> Tensor:
        """(N, K, H, W), the logits propagated along the derivative similarity."""
        return self.head.propagate(self.embedding, self.logits)

    @cached_property
    def perturbed(self) -> Tensor:
        """(N, K, H, W), decoded from perturbed features."""
        logits = present(self.perturbed_logits, 'perturbed logits', 'perturbed')
        return F.interpolate(logits, self.size, mode='bilinear', align_corners=self.align_corners)


@dataclass(frozen=True)
class StrongView:
    """One strong view of a batch of N unlabelled images, cut-mixed.

    Attributes:
        view (View): What the student predicts.
        target (PseudoLabels): What it should predict.
        box (Tensor): (N, H, W) bool, the CutMix boxes.
        images (Tensor): (N, C, H, W), the cut-mixed images, normalised.
        partner (Tensor | None): (N,) int64, the image of the batch that fills each box; None where another view does.
    """

    view: View
    target: PseudoLabels
    box: Tensor
    images: Tensor
    partner: Tensor | None

    @cached_property
    def soft_cross_entropy(self) -> Tensor:
        """(N, H, W), cross entropy with the probabilities of the cut-mixed target."""
        return soft_cross_entropy_map(self.view.logits, self.target.mixed.logits)

    @cached_property
    def divergence(self) -> Tensor:
        """(N, H, W), KL(target || prediction), the target cut-mixed."""
        return self.soft_cross_entropy - entropy_map(self.target.mixed.logits)

    @cached_property
    def box_on_grid(self) -> Tensor:
        """(N, L) bool, the positions of the embedding that lie inside the box."""
        return labels_on_grid(self.box, self.view.embedding.grid)


@dataclass(frozen=True)
class Step:
    """One training iteration.

    What no loss needs is not computed; to read it is an error that says what ``needs`` lacks.

    Attributes:
        student (BaseSegmentor): The segmentor that learns.
        samples (list[SegDataSample]): Of the M labelled images, with ``gt_sem_seg``.
        labels (Tensor): (M, H, W) int64, the same as a tensor.
        ignore_index (int): The label that does not count.
        labeled (View): Of the labelled images.
        features (Any): Of the labelled images, what ``extract_feat`` gave, as a rule a tuple of (M, C, h, w).
        outputs (Sequence[Any]): Of the labelled images, what each decode head gave for its loss, the final one last: as
            a rule logits (M, K, h, w); None of a head that is asked for its loss.
        strong (tuple[StrongView, ...]): The strong views; empty unless a loss needs them.
    """

    student: BaseSegmentor
    samples: list[SegDataSample]
    labels: Tensor
    ignore_index: int
    labeled: View
    features: Any = ()
    outputs: Sequence[Any] = ()
    maybe_weak: View | None = None
    maybe_target: PseudoLabels | None = None
    strong: tuple[StrongView, ...] = ()

    def detach(self) -> Step:
        """The same, without the graphs of labelled images and weak views."""
        return replace(
            self,
            labeled=self.labeled.detach(),
            features=map_tensors(Tensor.detach, self.features),
            outputs=map_tensors(Tensor.detach, self.outputs),
            maybe_weak=None if self.maybe_weak is None else self.maybe_weak.detach(),
        )

    @property
    def weak(self) -> View:
        """The student's prediction of the N weak views."""
        return present(self.maybe_weak, 'weak', 'weak')

    @property
    def target(self) -> PseudoLabels:
        """Labels of the N unlabelled images as the first strong view has them; ``own`` is the same for all views."""
        return present(self.maybe_target, 'target', 'weak')


def present(value: Part | None, what: str, need: str) -> Part:
    """The value; an error if there is none, because no loss needs it."""
    if value is None:
        raise ValueError(f"A loss reads {what}, but it was not computed: add '{need}' to its needs.")
    return value
