"""The terms of the total loss, each a method; one without a weight is never computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.structures import SegDataSample
from torch import Tensor

from ..ops import (
    affinity_consistency_loss,
    interpolated_label_affinity_loss,
    label_affinity_loss,
    labels_on_grid,
    smoothness_loss,
)
from .losses import hard_loss, labeled_losses, soft_losses
from .pseudo_labeler import PseudoLabels
from .shares import Shares
from .view import View

SUP_TERMS = ('seg', 'prop', 'affinity', 'aux')
UNSUP_TERMS = ('hard', 'kl', 'soft', 'fp', 'prop', 'affinity', 'smooth')
PROPAGATION_TERMS = {'prop', 'affinity', 'smooth'}


@dataclass
class TermOptions:
    """Options of SemiSegmentor that terms read; it says what they mean."""

    cutmix_target: bool
    affinity_pairs: str
    label_affinity: str
    label_affinity_grad: bool
    smoothness: str
    ignore_index: int


class StrongView(NamedTuple):
    """One strong view of a batch of N images.

    Attributes:
        view (View): What the student sees.
        target (PseudoLabels): What it should see.
        inside (Tensor): (N, H, W) bool, the CutMix boxes.
    """

    view: View
    target: PseudoLabels
    inside: Tensor


class SupTerms:
    """Terms of the labelled images.

    Args:
        options (TermOptions): How they are formed.
        decode_head (BaseDecodeHead): Whose loss the labelled images have.
        labeled (View): What the student sees.
        samples (list[SegDataSample]): With ``gt_sem_seg``.
        shares (Shares): This process's.
    """

    def __init__(
        self,
        options: TermOptions,
        decode_head: BaseDecodeHead,
        labeled: View,
        samples: list[SegDataSample],
        shares: Shares,
    ) -> None:
        self.options = options
        self.decode_head = decode_head
        self.labeled = labeled
        self.samples = samples
        self.shares = shares

    def seg(self) -> Tensor:
        """The segmentor's own loss."""
        return self._labeled_loss(self.labeled.logits)

    def prop(self) -> Tensor:
        """The same of the propagated prediction."""
        return self._labeled_loss(self.labeled.propagated)

    def affinity(self) -> Tensor:
        """Distance of the affinities from those of the labels."""
        options, e, order = self.options, self.labeled.embedding, self.labeled.head.max_order
        q, k = (e.q, e.k) if options.label_affinity_grad else (e.q.detach(), e.k.detach())
        labels = stack_maps(self.samples, 'gt_sem_seg')
        if options.label_affinity == 'interpolated':
            return interpolated_label_affinity_loss(q, k, labels, e.grid, options.ignore_index, order)
        return self.shares.label_pairs * label_affinity_loss(q, k, labels, e.grid, options.ignore_index, order)

    def _labeled_loss(self, logits: Tensor) -> Tensor:
        losses = labeled_losses(self.decode_head, logits, self.samples, self.shares.labeled)
        return torch.stack([*losses.values()]).sum()


class UnsupTerms:
    """Terms of the unlabelled images.

    Those on strong views are means over the views.

    Args:
        options (TermOptions): How they are formed.
        labeled (View): Of the labelled images, which ``smooth`` takes too.
        weak (View): Of the weak views, or of no image where nothing reads them.
        strong (list[StrongView]): The strong views.
        shares (Shares): This process's.
    """

    def __init__(
        self, options: TermOptions, labeled: View, weak: View, strong: list[StrongView], shares: Shares
    ) -> None:
        self.options = options
        self.labeled = labeled
        self.weak = weak
        self.strong = strong
        self.shares = shares

    def hard(self) -> Tensor:
        """Cross entropy with the pseudo-labels, on accepted pixels."""

        def term(view: View, target: PseudoLabels, inside: Tensor) -> Tensor:
            return hard_loss(view.logits, target.labels, target.accepted, target.mixed.ignored)

        return self._mean(term, self.shares.mixed)

    def kl(self) -> Tensor:
        """Divergence from the soft target, on confident pixels."""
        return self._soft[0]

    def soft(self) -> Tensor:
        """Cross entropy with the soft target, on accepted pixels."""
        return self._soft[1]

    def fp(self) -> Tensor:
        """Cross entropy of what is decoded from perturbed features, on confident pixels of the weak view."""
        return self._on_weak(self.weak.perturbed)

    def prop(self) -> Tensor:
        """Cross entropy of the propagated predictions, the mean of the strong and the weak view's."""

        def term(view: View, target: PseudoLabels, inside: Tensor) -> Tensor:
            return hard_loss(view.propagated, target.labels, target.accepted, target.mixed.ignored)

        return (self._mean(term, self.shares.mixed) + self._on_weak(self.weak.propagated)) / 2

    def affinity(self) -> Tensor:
        """Distance of the strong view's affinities from the weak view's."""
        pairs = self.options.affinity_pairs

        def term(view: View, target: PseudoLabels, inside: Tensor) -> Tensor:
            s, w = view.embedding, self.weak.embedding
            target_q, target_k = w.q.detach(), w.k.detach()
            box = None if pairs == 'all' else labels_on_grid(inside, s.grid)
            if box is not None and pairs == 'inside':
                target_q, target_k = (t.roll(-1, 0).where(box[:, None], t) for t in (target_q, target_k))
            return affinity_consistency_loss(
                s.q, s.k, target_q, target_k, view.head.max_order, box, keep_inside=pairs == 'inside'
            )

        return self._mean(term, self.shares.box_pairs)

    def smooth(self) -> Tensor:
        """Size of the second derivative; once for labelled images and weak views, once for strong views."""
        x, w = self.labeled.embedding, self.weak.embedding
        first = smoothness(torch.cat([x.q, w.q]), torch.cat([x.k, w.k]), self.options.smoothness)
        views = [strong.view.embedding for strong in self.strong]
        return first + torch.stack([smoothness(view.q, view.k, self.options.smoothness) for view in views]).mean(0)

    @cached_property
    def _soft(self) -> Tensor:
        def term(view: View, target: PseudoLabels, inside: Tensor) -> Tensor:
            soft_target = target.mixed if self.options.cutmix_target else target.own
            masks = (target.confident, target.accepted, target.mixed.ignored)
            return torch.stack(soft_losses(view.logits, soft_target.logits, *masks))

        return self._mean(term, self.shares.mixed)

    def _mean(self, term: Callable[[View, PseudoLabels, Tensor], Tensor], factors: list) -> Tensor:
        return torch.stack([factor * term(*one) for one, factor in zip(self.strong, factors)]).mean(0)

    def _on_weak(self, logits: Tensor) -> Tensor:
        target = self.strong[0].target  # all have the same of the weak view
        own = target.own
        return self.shares.own * hard_loss(logits, own.labels, target.own_confident, own.ignored)


def smoothness(q: Tensor, k: Tensor, kind: str) -> Tensor:
    """Size of the second derivative of vectors (N, K, L), ``'absolute'`` or (published) ``'softmax'``."""
    if kind == 'softmax':
        return q.new_tensor(1 / q.shape[-1], dtype=torch.float32)  # the mean over L positions of what sums to 1
    return smoothness_loss(q, k)


def weigh(group: str, weights: dict[str, float], terms: SupTerms | UnsupTerms) -> dict[str, Tensor]:
    """The terms that have a weight, each under its key of the log; ``aux`` is no term of a view."""
    names = [name for name, weight in weights.items() if weight and name != 'aux']
    return {f'{group}.loss_{name}': weights[name] * getattr(terms, name)() for name in names}


def stack_maps(samples: list[SegDataSample], field: str) -> Tensor:
    """(N, H, W) of a field of samples, each (1, H, W)."""
    return torch.stack([getattr(sample, field).data[0] for sample in samples])
