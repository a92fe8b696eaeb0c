"""Registered parts of a model, built from their configs, and its small groups of options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import torch
from mmseg.registry import MODELS
from torch import Tensor, nn

from ..utils.options import Bounds, Share, check_options

Part = TypeVar('Part', bound=nn.Module)


def build_part(place: str, config: Any, kind: type[Part], **given: Any) -> Part:
    """Builds a registered module that derives from ``kind``; ``place``, as ``'model.losses.kl'``, is for errors."""
    if not isinstance(config, Mapping) or 'type' not in config:
        raise ValueError(f"{place} must be a config such as dict(type='{kind.__name__}', ...), but is {config!r}.")
    name = config['type']
    found = MODELS.module_dict.get(name) or MODELS.get(name) if isinstance(name, str) else name
    if not (isinstance(found, type) and issubclass(found, kind)):
        classes = {key: part for key, part in MODELS.module_dict.items() if isinstance(part, type)}
        known = sorted(key for key, part in classes.items() if issubclass(part, kind))
        raise ValueError(
            f'{place}.type must be one of {", ".join(known)}, but is {getattr(name, "__name__", name)!r}. If it is '
            f'your own, derive it from {kind.__name__}, register it in mmseg.registry.MODELS, and name its module in '
            'custom_imports.'
        )
    return MODELS.build({**config, **given})


@check_options
@dataclass(frozen=True)
class TeacherOptions:
    """How the EMA teacher follows the student.

    Attributes:
        momentum (float): Share of the teacher's own state, within 0 .. 1. By steps it is at most 1 - 1 / (t + 1) at
            step t, counted from 0 (UniMatch V2, arXiv 2410.10777).
        interval (str): ``'step'``: it moves after each optimiser step. ``'epoch'``: it is a copy of the student in
            epoch 0 and moves at the start of each later one (DerProp).
    """

    momentum: Share = 0.996
    interval: Literal['step', 'epoch'] = 'step'


@check_options
@dataclass(frozen=True)
class CutMixOptions:
    """What fills the CutMix boxes of the strong views.

    Attributes:
        partner (str): ``'batch'``: the next image of the process's unlabelled batch. ``'reversed'``: the batch in
            reverse (UniMatch V2). ``'second_view'``: another augmentation of the same image, the branches ``weak_mix``
            and ``strong_mix`` (published by UniMatch, CorrMatch and DerProp).
        predictor (str): Whose prediction labels it: ``'own'``, that which labels the partner itself, without another
            forward; or, in evaluation mode, that of the ``'teacher'`` or of the ``'student'`` before the training
            forward. A second view needs one of these.
    """

    partner: Literal['batch', 'reversed', 'second_view'] = 'batch'
    predictor: Literal['own', 'teacher', 'student'] = 'own'

    def __post_init__(self) -> None:
        if self.partner == 'second_view' and self.predictor == 'own':
            raise ValueError(
                "cutmix.predictor must be 'teacher' or 'student' with partner='second_view', but is 'own': nothing "
                'else predicts the second view.'
            )

    def partner_of(self, count: int, device: torch.device) -> Tensor | None:
        """(count,) int64, the image of the batch that fills each image's box; None if a second view does."""
        images = torch.arange(count, device=device)
        return {'batch': images.roll(-1), 'reversed': images.flip(0)}.get(self.partner)


@check_options
@dataclass(frozen=True)
class ViewOptions:
    """How the student sees the views.

    Attributes:
        num_strong (int): Strong views of each unlabelled image, 1 or 2, each with its own box; the branches ``strong``
            and ``strong2``. Terms on them are means over the views.
        complementary_dropout (bool): Whether the two strong views keep complementary halves of the backbone's channels
            (UniMatch V2); needs two.
        joint_forward (bool): Whether labelled images and weak views share a forward, and so the statistics of its batch
            normalisation; else each have their own.
        update_bn_on_strong (bool): Whether strong views move the running statistics of batch normalisation. They are
            normalised by their own in any case; but evaluation sees images without strong augmentation.
        perturb_ratio (float): Channel dropout of the perturbed features, at least 0 and below 1.
        staged_backward (bool): Whether gradients of labelled images, weak and strong views are taken one after the
            other, each as soon as it can be, which saves memory and changes nothing else.
        activation_checkpointing (bool): Whether the student's backbone computes its activations again in the backward
            pass in place of keeping them: less memory for more time.
    """

    num_strong: Literal[1, 2] = 1
    complementary_dropout: bool = False
    joint_forward: bool = True
    update_bn_on_strong: bool = True
    perturb_ratio: Annotated[float, Bounds(0, below=1)] = 0.5
    staged_backward: bool = True
    activation_checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.complementary_dropout and self.num_strong != 2:
            raise ValueError('views.num_strong must be 2 with complementary_dropout=True, but is 1.')
