"""Pipelines of labelled and unlabelled images, made from that of a supervised config."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

from ..utils.options import PositiveInt, check_options

# What moves pixels and treats every one of the seg_fields, the ignore map among them, as it treats the image.
SCALING = ('Resize', 'RandomResize', 'RandomChoiceResize', 'ResizeShortestEdge', 'RandomRescale')
# Not RandomRotFlip, which fills the corners of a turned ignore map with 0: they would count as image.
TURNING = ('RandomRotate',)
FLIPPING = ('RandomFlip',)
REPLACED = ('RandomCrop', 'Pad', 'PadToCrop', 'PackSegInputs')  # by PadToCrop, RandomCrop and PackSemiInputs
PACK = dict(type='PackSemiInputs')


def crop_size_of(pipeline: Sequence[dict]) -> tuple[int, int] | None:
    """Crop size (h, w) of a supervised training pipeline, None if it has no RandomCrop."""
    for transform in reversed(pipeline):
        if transform_name(transform) == 'RandomCrop':
            size = transform['crop_size']
            return (size, size) if isinstance(size, int) else (size[0], size[1])
    return None


def left_out_of(pipeline: Sequence[dict]) -> list[str]:
    """Names of the transforms that :func:`semi_pipelines` leaves out, such as colour distortion."""
    kept = SCALING + TURNING + FLIPPING + REPLACED
    names = [transform_name(transform) for transform in _split(pipeline)[1]]
    return [name for name in names if name not in kept]


@check_options
def semi_pipelines(
    pipeline: Sequence[dict],
    crop_size: tuple[PositiveInt, PositiveInt] | None = None,
    branches: Sequence[str] = ('weak', 'strong'),
) -> tuple[list[dict], list[dict]]:
    """Makes the pipelines of a labelled and an unlabelled source.

    Both load as the supervised pipeline does and keep its scaling, turning and flipping; its crop is padded to full
    size, and on unlabelled images drops its look at the labels (``cat_max_ratio``). Anything else is left out: the weak
    view has its natural colours, and the strong view brings its own distortion. A pipeline without any of these gets
    RandomRescale and RandomFlip.

    ``crop_size`` (h, w) is by default that of the pipeline's RandomCrop. The ``branches`` of unlabelled images are
    views of one crop, and those ending in ``_mix`` of another one.
    """
    crop_size = crop_size or crop_size_of(pipeline)
    if crop_size is None:
        names = ', '.join(map(transform_name, pipeline)) or 'nothing'
        raise ValueError(
            f'The training pipeline ({names}) has no RandomCrop that would tell the crop size. Give crop_size=(h, w).'
        )
    loading, rest = _split(pipeline)
    moving = [t for t in rest if transform_name(t) in SCALING + TURNING]
    crops = [t for t in rest if transform_name(t) == 'RandomCrop']
    flipping = [t for t in rest if transform_name(t) in FLIPPING]
    if not (moving or crops or flipping):
        moving, flipping = [dict(type='RandomRescale')], [dict(type='RandomFlip', prob=0.5)]
    crop = dict(type='RandomCrop', crop_size=tuple(crop_size))
    labeled_crop = {**crops[-1], **crop} if crops else crop
    pad = dict(type='PadToCrop', size=tuple(crop_size))
    labeled = [*loading, *moving, pad, labeled_crop, *flipping, dict(type='MultiBranch', sup=[PACK])]

    geometry = [*moving, pad, crop, *flipping]
    images = [t for t in loading if 'Annotation' not in transform_name(t)]
    annotations: dict = next((t for t in loading if 'Annotation' in transform_name(t)), {})
    options = {key: annotations[key] for key in ('imdecode_backend', 'backend_args') if key in annotations}
    first = [*geometry, _views(name for name in branches if not name.endswith('_mix'))]
    second = [name for name in branches if name.endswith('_mix')]
    if second:
        first = [dict(type='MultiBranch', first=first, second=[*geometry, _views(second)])]
    unlabeled = [*images, dict(type='LoadUnlabeledAnnotations', **options), *first]
    return copy.deepcopy(labeled), copy.deepcopy(unlabeled)


def transform_name(transform: dict) -> str:
    """A transform's class name, whether its config names it, with a scope or without, or holds the class."""
    kind = transform['type']
    return kind.rpartition('.')[2] if isinstance(kind, str) else kind.__name__


def _split(pipeline: Sequence[dict]) -> tuple[list[dict], list[dict]]:
    """Up to the last transform that loads, and what follows."""
    loads = [index for index, transform in enumerate(pipeline) if 'Load' in transform_name(transform)]
    end = loads[-1] + 1 if loads else 0
    return list(pipeline[:end]), list(pipeline[end:])


def _views(branches: Iterable[str]) -> dict:
    strong = [dict(type='StrongAugment'), dict(type='RandomCutMixBox'), PACK]
    return dict(type='MultiBranch', **{name: strong if name.startswith('strong') else [PACK] for name in branches})
