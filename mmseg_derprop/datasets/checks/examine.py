"""Whether the files of a sample can be used: training and tools/check_data.py ask the same functions."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import mmcv.transforms
import numpy as np
from mmengine.dataset import BaseDataset
from mmseg.datasets.transforms import LoadAnnotations

from .broken import TRANSFORM, BrokenData, Problem, file_problem
from .files import is_local
from .labels import CheckLabels, label_header_problem


class Examined(NamedTuple):
    """What the files of a sample hold."""

    problem: Problem | None  # None if image and labels can be used
    size: tuple[int, int] | None = None  # height and width of the image as it is read
    counts: np.ndarray | None = None  # pixels of each label id, (256,) int64
    label_problem: Problem | None = None  # why labels that only serve statistics cannot be used


def examine(source: BaseDataset, index: int, images: bool = True) -> Examined:
    """Decodes a sample's files by its loading transforms, and users' own among them; without ``images`` only labels.

    It looks at ids once :func:`check_loaded_labels` was called.
    """
    results = source.get_data_info(index)
    if problem := header_problem(source, results):
        return Examined(problem)
    steps, kinds = source.pipeline.transforms, (mmcv.transforms.LoadAnnotations, CheckLabels)
    labels = ['Annotation' in type(step).__name__ or isinstance(step, kinds) for step in steps]
    for number, (transform, is_label) in enumerate(zip(steps, labels)):
        loads = is_label or 'Load' in type(transform).__name__
        own = not loads and any(labels[number:]) and not type(transform).__module__.startswith(('mmseg', 'mmcv'))
        if not (is_label or (images and (own or loads))):
            continue
        path = (is_label and results.get('seg_map_path')) or results.get('img_path', '')
        try:
            results = transform(results)
        except BrokenData as error:
            return Examined(error.problem or Problem(path, 'unreadable', str(error)))
        except Exception as error:  # whatever decoders raise
            reason = ' '.join(f'{type(error).__name__}: {error}'.replace(path or ' ', 'the file').split())
            kind, fails = (TRANSFORM, 'be made a sample') if own else ('unreadable', 'be read')
            return Examined(Problem(path, kind, f'cannot {fails}: {reason}'))
    image, ids = results.get('img'), results.get('gt_seg_map')
    counts = None if ids is None else np.bincount(ids.ravel(), minlength=256)[:256]
    return Examined(None, None if image is None else image.shape[:2], counts, results.get('label_problem'))


def header_problem(source: BaseDataset, info: dict) -> Problem | None:
    """What headers and ends of the local files of a sample (its ``get_data_info``) tell, without decoding them."""
    image, labels = info.get('img_path'), info.get('seg_map_path')
    if not image or not is_local(image, getattr(source, 'backend_args', None)):
        return None
    problem = file_problem(image)
    loads = [type(t) for t in source.pipeline.transforms if isinstance(t, mmcv.transforms.LoadAnnotations)]
    if labels and loads:
        problem = problem or file_problem(labels)
        if LoadAnnotations in loads:  # a subclass may read what MMSegmentation does not
            problem = problem or label_header_problem(labels, image)
    return problem


def count_labels(source: BaseDataset, kind: str, check: bool = True) -> np.ndarray:
    """Reads all labels of a loaded source; returns the pixels of each id, (256,) int64.

    With ``check`` labels that cannot be used, or images of which headers or ends show it, raise BrokenData.
    """
    plain = all(type(t).__module__.startswith(('mmseg', 'mmcv')) for t in source.pipeline.transforms)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda index: examine(source, index, images=not plain), range(len(source))))
    problems = [one.problem for one in found if one.problem]
    if problems and check:
        raise BrokenData(
            f'{len(problems)} of {len(source)} {kind} images or their label files cannot be used, first: '
            f'{"; ".join(map(str, problems[:3]))}. tools/check_data.py lists all.'
        )
    return sum((one.counts for one in found if one.counts is not None), np.zeros(256, np.int64))
