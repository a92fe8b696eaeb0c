"""What every term of the total loss has."""

from __future__ import annotations

from torch import Tensor, nn

from ...utils.options import NonNegativeFloat, check_options
from ..step import Step

NEEDS = ('auxiliary', 'embedding', 'partner', 'perturbed', 'strong', 'weak')
Weight = NonNegativeFloat


class SemiLoss(nn.Module):
    """A term of the total loss; a user's own derives from it and is registered in ``mmseg.registry.MODELS``.

    ``model.losses`` is a dict of configs of such terms, by the names that the log has. A term of weight 0 is not
    computed, and neither is what only it needs.

    Args:
        loss_weight (float): Factor of the term, at least 0.

    Attributes:
        needs (frozenset[str]): What must be computed for :meth:`forward`, besides the labelled images' prediction:
            ``'weak'``, the student's view of the unlabelled images; ``'perturbed'``, what is decoded from their
            perturbed features; ``'strong'``, the strong views; ``'partner'``, that an image of the batch fills the
            CutMix boxes; ``'embedding'``, q and k of the views that the term reads; ``'auxiliary'``, the auxiliary
            heads, which are frozen if no term does.
        trains (bool): Whether it has a gradient.
        teaches (frozenset[str] | None): The views, of ``'labeled'``, ``'weak'`` and ``'strong'``, that its gradient
            reaches; others are targets, or not read. None stands for all that it may read. The graphs of views that no
            later term teaches are freed early (:mod:`mmseg_derprop.models.stages`).
    """

    needs: frozenset[str] = frozenset()
    trains = True
    teaches: frozenset[str] | None = None

    @check_options
    def __init__(self, loss_weight: Weight = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, step: Step) -> Tensor:
        """The term without its weight, a scalar."""
        raise TypeError(f'{type(self).__name__} must define forward(step).')
