"""Checks that the parts of a model fit each other, before anything is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from .losses import NEEDS, SemiLoss
from .parts import build_part
from .segmentors import auxiliary_heads

if TYPE_CHECKING:
    from .semi_segmentor import SemiSegmentor

# Where options of SemiSegmentor that users may know from old configs stand now.
MOVED_OPTIONS = {
    'loss_weight': 'losses, a dict of dict(type=..., loss_weight=...)',
    'labels_from': 'pseudo_labels.source',
    'num_strong': 'views.num_strong',
    'complementary_dropout': 'views.complementary_dropout',
    'joint_forward': 'views.joint_forward',
    'strong_statistics': 'views.update_bn_on_strong',
    'perturb_ratio': 'views.perturb_ratio',
    'cutmix_partner': 'cutmix.partner',
    'cutmix_predictor': 'cutmix.predictor',
    'cutmix_target': "losses.kl.type, 'UnmixedConsistencyLoss' for False",
    'affinity_pairs': "losses.affinity_u.inside_box, or its type 'AllPairsAffinityLoss' for 'all'",
    'label_affinity': "losses.affinity_x.type, 'InterpolatedLabelAffinityLoss' for 'interpolated'",
    'label_affinity_grad': "losses.affinity_x.type, 'InterpolatedLabelAffinityLoss' for False",
    'smoothness': "losses.smooth.type, 'ConstantSmoothness' for 'softmax'",
    'compile': "compile at the config's top level, which MMEngine reads",
    'alpha': 'pseudo_labels.alpha',
}


def build_losses(configs: dict) -> nn.ModuleDict:
    """Builds the terms of the loss from their configs by name."""
    if not configs:
        raise ValueError("model.losses must name a loss, such as dict(seg=dict(type='SupervisedLoss')), but is {}.")
    losses = nn.ModuleDict()
    for name, config in configs.items():
        if not isinstance(name, str) or name == 'loss' or not name.replace('_', 'a').isalnum():
            raise ValueError(
                f"A name in model.losses must be of letters, digits and _, and not 'loss', which is the total, but is "
                f'{name!r}. Rename it.'
            )
        losses[name] = build_part(f'model.losses.{name}', config, SemiLoss)
    return losses


def check_model(model: SemiSegmentor) -> None:
    """Checks that the losses and the labeller have what they need, and that something is learned.

    Heads that no loss trains are frozen, so that distributed training does not wait for their gradients.
    """
    active = model.active_losses
    if not any(loss.trains for loss in active.values()):
        weights = {name: loss.loss_weight for name, loss in model.losses.items()}
        raise ValueError(
            f'model.losses must have a loss that trains with a loss_weight above 0, but the weights are {weights}. '
            'Set one, for instance model.losses.seg.loss_weight=1.0.'
        )

    def needing(need: str) -> str:
        return ', '.join(f'model.losses.{name}' for name, loss in active.items() if need in loss.needs)

    if unknown := sorted(model.needs - set(NEEDS)):
        raise ValueError(f'needs of {needing(unknown[0])} must be among {", ".join(NEEDS)}, but has {unknown[0]!r}.')
    if 'partner' in model.needs and model.cutmix.partner == 'second_view':
        raise ValueError(
            f"model.cutmix.partner must be an image of the batch for {needing('partner')}, but is 'second_view'. "
            "Set it to 'batch', or inside_box=False of an AffinityConsistencyLoss."
        )
    if 'auxiliary' not in model.needs:
        for head in auxiliary_heads(model.student):
            head.requires_grad_(False)
    _check_head(model, needing('embedding'))


def _check_head(model: SemiSegmentor, losses: str) -> None:
    """Whether there is a propagation head for what reads it, and losses that train it."""
    head, labeler = model.propagation_head, model.pseudo_labeler
    parts = [f'model.pseudo_labels.alpha={labeler.alpha_schedule!r}'] if labeler.alpha_schedule else []
    parts += ['model.pseudo_labels.regions'] if labeler.regions is not None else []
    readers = ', '.join([losses, *parts] if losses else parts)
    if head is None and readers:
        raise ValueError(
            f"model.propagation_head must be a config such as dict(type='DerPropHead') for {readers}, but is None. "
            'Give one, or take these out (a loss by loss_weight=0, alpha by 0, regions by None).'
        )
    if head is None or any(loss.trains and 'embedding' in loss.needs for loss in model.active_losses.values()):
        return
    if parts:
        raise ValueError(
            f'A loss must train the propagation head, which {readers} read, but none with a weight does. Add one, such '
            "as dict(type='SupervisedLoss', on='propagated'), or set propagation_head=None, alpha=0 and regions=None."
        )
    head.requires_grad_(False)
