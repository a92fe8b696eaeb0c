"""What a segmentor must be to learn from unlabelled images, found out before training starts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from typing import Any

from mmseg.models import BaseSegmentor
from mmseg.models.decode_heads.cascade_decode_head import BaseCascadeDecodeHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses import CrossEntropyLoss, cross_entropy
from mmseg.registry import MODELS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

# What parts of any kind raise at a network that cannot work.
FAILURES = (RuntimeError, AssertionError, ValueError, LookupError, TypeError, AttributeError)


def build_segmentor(config: dict) -> BaseSegmentor:
    """Builds a segmentor; raises ValueError, which names parts of packages that are not installed."""
    try:
        segmentor = MODELS.build(config)
    except (ImportError, *FAILURES) as error:
        packages = sorted(set(re.findall(r"'type': '(\w+)\.", str(config))))
        raise ValueError(f'model.segmentor cannot be built: {error}.{"".join(map(missing, packages))}') from error
    for part in segmentor.modules():
        if isinstance(part, CrossEntropyLoss) and part.class_weight is not None and part.cls_criterion is cross_entropy:
            part.avg_non_ignore = False  # it fails with both; its mean with weights is over labelled pixels in any case
    return segmentor


def missing(package: str) -> str:
    """A sentence if a package cannot be imported."""
    try:
        import_module(package)
    except ImportError as error:
        return f' It has parts of {package}, which cannot be imported: {error}.'
    return ''


def decode_heads(segmentor: BaseSegmentor) -> list[Any]:
    """The decode heads of a segmentor, several if it is a cascade, the final one last."""
    head = segmentor.decode_head
    return list(head) if isinstance(head, nn.ModuleList) else [head]


@contextmanager
def _with_attribute(parts: Iterable[Any], name: str, value: Any) -> Iterator[None]:
    """While it lasts, an attribute of modules has another value."""
    before = [(part, getattr(part, name)) for part in parts]
    for part, _ in before:
        setattr(part, name, value)
    try:
        yield
    finally:
        for part, old in before:
            setattr(part, name, old)


def frozen_statistics(module: nn.Module) -> AbstractContextManager[None]:
    """While it lasts, forward passes leave the running statistics of batch normalisation as they are."""
    norms = (part for part in module.modules() if isinstance(part, _BatchNorm))
    return _with_attribute(norms, 'momentum', 0.0)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """While it lasts, a module and all its parts are in evaluation mode."""
    with _with_attribute(module.modules(), 'training', False):  # which sets them back
        module.eval()  # some prepare themselves, as LeViT's attention does
        yield


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


def check_heads(segmentor: BaseSegmentor) -> None:
    """Raises unless the heads of a segmentor classify the same classes; one with a loss of its own may learn others."""
    if not segmentor.with_decode_head:
        raise TypeError(f'{type(segmentor).__name__} has no decode_head, but labels are propagated along its logits.')
    *stages, final = decode_heads(segmentor)
    if final.num_classes < 2:
        raise ValueError(
            f'num_classes of {type(final).__name__} must be at least 2, but is {final.num_classes}. For foreground and '
            'background set num_classes=2; out_channels may be 1.'
        )
    _check_losses(segmentor)
    for head in stages + [head for head in auxiliary_heads(segmentor) if not has_own_labels(head)]:
        for name in ('num_classes', 'ignore_index'):
            ours, theirs = getattr(head, name, None), getattr(final, name, None)
            if ours != theirs:
                raise ValueError(
                    f'{type(head).__name__} has {name} = {ours}, but the final decode head has {theirs}: give all '
                    'heads the same (for classes, num_classes of the SemiSegmentor).'
                )


def _check_losses(segmentor: BaseSegmentor) -> None:
    for head in segmentor.modules():
        losses: Any = getattr(head, 'loss_decode', None) if isinstance(head, BaseDecodeHead) else None
        for loss in losses if isinstance(losses, nn.ModuleList) else [losses]:
            if getattr(loss, 'use_sigmoid', None) is False and head.out_channels == 1:
                raise ValueError(
                    f'out_channels of {type(head).__name__} must be {head.num_classes} with {type(loss).__name__}, '
                    "which is no binary loss, but is 1. Leave it out, or set loss_decode=dict(type='CrossEntropyLoss', "
                    'use_sigmoid=True).'
                )
            weights = getattr(loss, 'class_weight', None)
            if weights is not None and len(weights) != head.num_classes:
                raise ValueError(
                    f'class_weight of {type(loss).__name__} in {type(head).__name__} must have {head.num_classes} '
                    f'numbers, one a class, but has {len(weights)}. Give one for each class, or leave it out.'
                )


def auxiliary_heads(segmentor: BaseSegmentor) -> list[Any]:
    """The auxiliary heads of a segmentor, none, one or several."""
    heads: Any = segmentor.auxiliary_head if segmentor.with_auxiliary_head else []
    return list(heads) if isinstance(heads, (list, nn.ModuleList)) else [heads]


def has_own_loss(head: Any) -> bool:
    """Whether a head is to be asked for its loss, with more than what its forward pass gives."""
    return getattr(type(head), 'loss', None) not in (BaseDecodeHead.loss, BaseCascadeDecodeHead.loss)


def has_own_labels(head: Any) -> bool:
    """Whether a head may learn something else than the classes of the labels, as boundaries."""
    return has_own_loss(head) or type(head).loss_by_feat is not BaseDecodeHead.loss_by_feat
