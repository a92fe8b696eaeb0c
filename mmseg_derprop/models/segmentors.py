"""What a segmentor must be to learn from unlabelled images, found out before training starts."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.model import revert_sync_batchnorm
from mmseg.models import BaseSegmentor
from torch import Tensor, nn


def decode_heads(segmentor: BaseSegmentor) -> list[Any]:
    """The decode heads of a segmentor, several if it is a cascade, the final one last."""
    head = segmentor.decode_head
    return list(head) if isinstance(head, nn.ModuleList) else [head]


def decode(segmentor: BaseSegmentor, features: tuple[Tensor, ...]) -> list[Tensor]:
    """Logits (N, K, h', w') of each decode head, the final one last, from what ``extract_feat`` gave."""
    stages: list[Tensor] = []
    for head in decode_heads(segmentor):
        try:
            logits = head(features, stages[-1]) if stages else head(features)
        except TypeError as error:  # mask classifiers also want the labels
            raise TypeError(_no_logits(head, f'nothing without more than features ({error})')) from error
        if not isinstance(logits, Tensor) or logits.ndim != 4:
            raise TypeError(_no_logits(head, type(logits).__name__))
        stages.append(logits)
    return stages


def _no_logits(head: nn.Module, given: str) -> str:
    return (
        f'{type(head).__name__} gives {given} instead of one (N, K, H, W) map of logits, and labels are propagated '
        'along logits. Mask classifiers and heads with several outputs do not fit; choose a head that classifies '
        'pixels, such as FCNHead, ASPPHead, UPerHead or SegformerHead.'
    )


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """While it lasts, forward passes leave the running statistics of batch normalisation as they are."""
    momenta = {part: part.momentum for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)}
    for part in momenta:
        part.momentum = 0.0
    try:
        yield
    finally:
        for part, momentum in momenta.items():
            part.momentum = momentum


def checkpoint_activations(backbone: nn.Module) -> None:
    """Lets a backbone compute activations again in place of keeping them; ValueError if it cannot."""
    parts: list[Any] = [*backbone.modules()]
    switches = [part for part in parts if hasattr(part, 'set_grad_checkpointing')]  # timm's
    blocks = [part for part in parts if hasattr(part, 'with_cp')]
    if not switches and not blocks:
        raise ValueError(
            f'model.views.activation_checkpointing must be False for {type(backbone).__name__}, which has no with_cp '
            'and no set_grad_checkpointing.'
        )
    for part in switches:
        part.set_grad_checkpointing()
    for part in blocks:
        part.with_cp = True


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """While it lasts, a module is in evaluation mode; afterwards each of its parts is in that which it was in."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def check_heads(segmentor: BaseSegmentor) -> None:
    """Raises unless all heads of a segmentor classify the same classes by several channels."""
    if not segmentor.with_decode_head:
        raise TypeError(f'{type(segmentor).__name__} has no decode_head, but labels are propagated along its logits.')
    auxiliary: Any = segmentor.auxiliary_head if segmentor.with_auxiliary_head else []
    others = list(auxiliary) if isinstance(auxiliary, (list, nn.ModuleList)) else [auxiliary]
    *stages, final = decode_heads(segmentor)
    if getattr(final, 'out_channels', None) == 1:
        raise ValueError(
            f"{type(final).__name__} has out_channels = 1, but the classes' probabilities are compared: at least 2 are "
            'needed. Set out_channels=2 (softmax over background and foreground).'
        )
    for head in stages + others:
        for name in ('num_classes', 'ignore_index'):
            ours, theirs = getattr(head, name, None), getattr(final, name, None)
            if ours != theirs:
                raise ValueError(
                    f'{type(head).__name__} has {name} = {ours}, but the final decode head has {theirs}: give all '
                    'heads the same (for classes, num_classes of the SemiSegmentor).'
                )


def probe(segmentor: BaseSegmentor) -> list[int]:
    """Channels of a new segmentor's features, from running a copy of it in training mode on two black images.

    The copy keeps the segmentor's batch statistics, and the generators are put back, so nothing moves.
    """
    check_heads(segmentor)
    # Synchronised normalisation refuses to run before the model is on its GPU.
    twin = revert_sync_batchnorm(copy.deepcopy(segmentor)).train()
    device = next(twin.parameters()).device
    # A network of fixed image size gets its second chance at the crop size.
    sizes = [(64, 64), getattr(segmentor.data_preprocessor, 'size', None)]
    channels, failure = None, None
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for size in filter(None, sizes):
            try:
                features = twin.extract_feat(torch.zeros(2, 3, *size, device=device))
                if not all(isinstance(feature, Tensor) and feature.ndim == 4 for feature in features):
                    kinds = ', '.join(type(feature).__name__ for feature in features)
                    raise TypeError(
                        f'{type(segmentor).__name__}.extract_feat must give (N, C, h, w) feature maps, but gives '
                        f"{kinds}. Vision transformers of mmpretrain give them with out_type='featmap'."
                    )
                channels = [feature.shape[1] for feature in features]
                decode(twin, features)
                return channels
            except (RuntimeError, AssertionError, ValueError, IndexError) as error:
                failure = error
    given = f'; the features have {channels} channels' if channels else ''
    raise ValueError(
        f'The segmentor cannot predict images of {size[0]}x{size[1]}{given}: {type(failure).__name__}: {failure}. '
        'Check in_index and in_channels of its heads, or set size of its data_preprocessor to the crop size.'
    ) from failure
