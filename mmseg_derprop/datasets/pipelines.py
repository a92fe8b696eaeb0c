"""Pipelines of labelled and unlabelled images, made from that of a supervised config."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from mmcv.transforms import LoadAnnotations
from mmseg.registry import TRANSFORMS

from ..utils.config import type_name
from ..utils.options import PositiveInt, check_options

Kinds = Literal['both', 'labeled', 'strong', 'drop']
RESIZING = ('Resize', 'RandomResize', 'RandomChoiceResize', 'ResizeShortestEdge', 'ResizeToMultiple', 'RandomRescale')
KINDS = {
    # What moves pixels and treats every one of the seg_fields, the ignore map among them, as it treats the image, and
    # what treats each image the same. Not RandomRotFlip, which fills a turned ignore map with 0: that counts as image.
    **dict.fromkeys((*RESIZING, 'RandomCrop', 'Pad', 'PadToCrop', 'RandomRotate', 'RandomFlip'), 'both'),
    **dict.fromkeys(('AdjustGamma', 'CLAHE', 'Normalize', 'RGB2Gray', 'Rerange'), 'both'),
    **dict.fromkeys(('PhotoMetricDistortion', 'RandomGrayscale', 'BioMedicalRandomGamma'), 'strong'),
    **dict.fromkeys(('BioMedicalGaussianNoise', 'BioMedicalGaussianBlur'), 'strong'),
    **dict.fromkeys(('GenerateEdge', 'CheckLabels'), 'labeled'),
    'PackSegInputs': 'pack',
}
SIZES = dict(RandomCrop='crop_size', PadToCrop='size', Pad='size', Resize='scale')


def crop_size_of(pipeline: Sequence[dict]) -> tuple[int, int] | None:
    """Size (h, w) of the images that a supervised training pipeline ends in, None if they have none in common."""
    size = None
    for step in pipeline:
        name = type_name(step)
        given = step.get(SIZES.get(name)) if not step.get('keep_ratio') else None
        if given:
            h, w = (given, given) if isinstance(given, int) else given
            h, w = (w, h) if name in ('Pad', 'Resize') else (h, w)
            size = (max(h, size[0]), max(w, size[1])) if size and 'Pad' in name else (h, w)
        elif name in RESIZING or step.get('auto_bound') or 'transforms' in step:
            size = None
    return size


@check_options
def semi_pipelines(
    pipeline: Sequence[dict],
    crop_size: tuple[PositiveInt, PositiveInt] | None = None,
    branches: Sequence[str] = ('weak', 'strong'),
    transforms: dict[str, Kinds] | None = None,
) -> tuple[list[dict], list[dict]]:
    """Makes the pipelines of a labelled and an unlabelled source.

    The labelled one is the supervised pipeline in its order, padded to the crop size and packed. The unlabelled one is
    the same without what only concerns labels; random photometric distortion moves to its strong view.

    Args:
        pipeline (Sequence[dict]): The supervised training pipeline.
        crop_size (tuple[int, int], optional): (h, w), by default what the pipeline ends in. Its RandomCrop, or a new
            one at its end, gets another one.
        branches (Sequence[str]): Of unlabelled images: views of one crop, and those ending in ``_mix`` of another one.
        transforms (dict[str, str], optional): Whether a transform, by class name, is for images of ``'both'`` kinds,
            for ``'labeled'`` ones, for these and the ``'strong'`` views, or for none (``'drop'``).

    Raises:
        ValueError: If nothing tells what images a transform is for; if the crop size is not known or cannot be.
    """

    def those(kind: str) -> list[dict]:
        return [step for step in steps if _kind_of(step, transforms or {}) == kind]

    steps = list(pipeline)
    pack = {**next(iter(those('pack')), {}), 'type': 'PackSemiInputs'}
    steps = _cropped([step for step in steps if step not in (*those('pack'), *those('drop'))], crop_size)
    labeled = [*steps, dict(type='MultiBranch', sup=[pack])]

    strong = [*those('strong'), dict(type='StrongAugment'), dict(type='RandomCutMixBox'), pack]
    common = [_for_unlabeled(step) for step in those('both')]
    end = 1 + max((index for index, step in enumerate(common) if 'Load' in type_name(step)), default=-1)
    geometry, second = common[end:], [name for name in branches if name.endswith('_mix')]
    views = [*geometry, _views((name for name in branches if name not in second), strong, pack)]
    if second:
        views = [dict(type='MultiBranch', first=views, second=[*geometry, _views(second, strong, pack)])]
    return copy.deepcopy(labeled), copy.deepcopy([*common[:end], *views])


def _kind_of(step: dict, given: Mapping[str, Kinds]) -> str:
    """Which images a transform is for; ValueError if that is not known."""
    name = type_name(step)
    if name in given:
        return given[name]
    if 'Load' in name:
        return 'both'
    # A namesake, such as MMCV's own Resize, may not know the ignore map.
    known = TRANSFORMS.get(name) if name in KINDS else None
    if known is not None and _class_of(step) is known and known.__module__.startswith(('mmseg', 'mmcv')):
        return KINDS[name]
    raise ValueError(
        f'The training pipeline has {name}, but it is not known whether {name} takes images without labels, and treats '
        f"ignore_map, one of the seg_fields, as it treats the image. If so, set transforms=dict({name}='both') of the "
        "SplitDataset; or 'labeled' for labelled images only, 'strong' for these and the strong views, 'drop' for none."
    )


def _class_of(step: dict) -> Any:
    return TRANSFORMS.get(step['type']) if isinstance(step['type'], str) else step['type']


def _cropped(steps: list[dict], crop_size: Sequence[int] | None) -> list[dict]:
    """Steps whose images have the crop size, padded where they are smaller; what is added stands last."""
    found = crop_size_of(steps)
    size = (crop_size[0], crop_size[1]) if crop_size else found
    names = [type_name(step) for step in steps]
    if size is None:
        raise ValueError(
            f'The training pipeline ({", ".join(names)}) does not end in images of one size. Give crop_size=(h, w).'
        )
    if found and found != size and 'RandomCrop' in names:
        for i, name in enumerate(names):
            if name in ('RandomCrop', 'Pad', 'PadToCrop') and crop_size_of([steps[i]]) == found:
                steps[i] = {**steps[i], SIZES[name]: size[::-1] if name == 'Pad' else size}
        found = crop_size_of(steps)
    if found and (found[0] < size[0] or found[1] < size[1]):
        raise ValueError(
            f'crop_size must be at most {found}, in which the pipeline ({", ".join(names)}) ends, but is {size}. Leave '
            'it out, or change the sizes in the pipeline.'
        )
    crop = [] if found == size and 'RandomCrop' in names else [dict(type='RandomCrop', crop_size=size)]
    return [*steps, *crop, dict(type='PadToCrop', size=size)]


def _for_unlabeled(step: dict) -> dict:
    """A step for images that may have no labels, and whose ignore map is to be 1 where it fills in."""
    name, kind = type_name(step), _class_of(step)
    if 'Annotation' in name or (isinstance(kind, type) and issubclass(kind, LoadAnnotations)):
        return {**step, 'type': 'LoadUnlabeledAnnotations', 'loader': step['type']}
    if name == 'RandomCrop':
        return {key: value for key, value in step.items() if key != 'cat_max_ratio'}  # a look at the labels
    filling: dict[str, dict] = dict(RandomRotate=dict(seg_pad_val=255), Pad=dict(type='PadWithIgnoreMap'))
    return {**step, **filling.get(name, {})}


def _views(branches: Iterable[str], strong: Sequence[dict], pack: dict) -> dict:
    return dict(type='MultiBranch', **{name: [*strong] if name.startswith('strong') else [pack] for name in branches})
