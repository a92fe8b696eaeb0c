"""What a segmentor must be for labels to be propagated on it, found out before training starts."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from mmseg.models import BaseSegmentor
from torch import Tensor, nn


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raises ValueError, with what is allowed, if an option has an unknown value."""
    choices = tuple(choices)
    if value not in choices:
        raise ValueError(f'{name} = {value!r} is unknown; choose one of {", ".join(map(repr, choices))}.')


def check_keys(name: str, given: Mapping, allowed: Iterable[str]) -> None:
    """Raises ValueError, with what is allowed, if a mapping has an unknown key."""
    allowed = tuple(allowed)
    unknown = sorted(set(given) - set(allowed))
    if unknown:
        raise ValueError(f'{name} has no {", ".join(map(repr, unknown))}; it has {", ".join(map(repr, allowed))}.')


def decode_heads(segmentor: BaseSegmentor) -> list[Any]:
    """The decode heads of a segmentor, several if it is a cascade, the final one last."""
    head = segmentor.decode_head
    return list(head) if isinstance(head, nn.ModuleList) else [head]


def decode(segmentor: BaseSegmentor, features: tuple[Tensor, ...]) -> list[Tensor]:
    """Logits of each decode head of a segmentor, the final one last.

    Args:
        segmentor (BaseSegmentor): A segmentor with one decode head, or a cascade of them.
        features (tuple[Tensor, ...]): What its ``extract_feat`` gave.

    Returns:
        list[Tensor]: (N, K, h', w') each.

    Raises:
        TypeError: If a head gives anything but a map of logits.
    """
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


def probe(segmentor: BaseSegmentor) -> list[int]:
    """Runs a copy of a segmentor in training mode on two black images.

    The copy keeps the segmentor's batch statistics, and the generators are put back, so nothing moves.

    Args:
        segmentor (BaseSegmentor): Freshly built.

    Returns:
        list[int]: Channels of the features that ``extract_feat`` gives.

    Raises:
        TypeError: If the segmentor gives no logits that could be propagated.
        ValueError: If it has a single output channel.
    """
    if not segmentor.with_decode_head:
        raise TypeError(f'{type(segmentor).__name__} has no decode_head, but labels are propagated along its logits.')
    for head in decode_heads(segmentor):
        if getattr(head, 'out_channels', None) == 1:
            raise ValueError(
                f"{type(head).__name__} has out_channels = 1, but the classes' probabilities are compared: at least 2 "
                'are needed. Set out_channels=2 (softmax over background and foreground).'
            )
    twin = copy.deepcopy(segmentor).train()
    device = next(twin.parameters()).device
    size = getattr(segmentor.data_preprocessor, 'size', None)
    sizes = [(64, 64)] + ([tuple(size)] if size else [])
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for attempt, image_size in enumerate(sizes, 1):
            try:
                features = twin.extract_feat(torch.zeros(2, 3, *image_size, device=device))
                decode(twin, features)
                return [f.shape[1] for f in features]
            except (RuntimeError, AssertionError, ValueError):
                if attempt == len(sizes):  # a network of fixed image size gets its second chance at the crop size
                    raise
    raise AssertionError('unreachable')
