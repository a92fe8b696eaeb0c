"""Whether the files of a sample can be used: training and tools/check_data.py ask the same functions."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import mmcv.transforms
import numpy as np
from mmengine.dataset import BaseDataset
from mmseg.datasets.transforms import LoadAnnotations

from .broken import BrokenData, Problem, file_problem
from .files import is_local
from .labels import CheckLabels, label_header_problem


class Examined(NamedTuple):
    """What the files of a sample hold."""

    problem: Problem | None  # None if image and labels can be used
    size: tuple[int, int] | None = None  # height and width of the image as it is read
    counts: np.ndarray | None = None  # pixels of each label id, (256,) int64


def examine(source: BaseDataset, index: int) -> Examined:
    """Decodes a sample's files by its loading transforms; looks at ids once :func:`check_loaded_labels` was called."""
    results = source.get_data_info(index)
    if problem := header_problem(source, results):
        return Examined(problem)
    for transform in source.pipeline.transforms:
        name = type(transform).__name__
        is_label = 'Annotation' in name or isinstance(transform, (mmcv.transforms.LoadAnnotations, CheckLabels))
        if not ('Load' in name or is_label):
            continue
        path = (is_label and results.get('seg_map_path')) or results.get('img_path', '')
        try:
            results = transform(results)
        except BrokenData as error:
            return Examined(error.problem or Problem(path, 'unreadable', str(error)))
        except Exception as error:  # whatever decoders raise
            reason = f'{type(error).__name__}: {error}'.replace(path or ' ', 'the file')
            return Examined(Problem(path, 'unreadable', f'cannot be read: {" ".join(reason.split())}'))
    image, labels = results.get('img'), results.get('gt_seg_map')
    counts = None if labels is None else np.bincount(labels.ravel(), minlength=256)[:256]
    return Examined(None, None if image is None else image.shape[:2], counts)


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


def check_headers(source: BaseDataset, kind: str) -> None:
    """Raises BrokenData if headers or ends of files of a loaded source show that they cannot be used."""
    with ThreadPoolExecutor(16) as pool:
        found = pool.map(lambda index: header_problem(source, source.get_data_info(index)), range(len(source)))
        problems = list(filter(None, found))
    if problems:
        raise BrokenData(
            f'{len(problems)} of {len(source)} {kind} images or their label files cannot be used, first: '
            f'{"; ".join(map(str, problems[:3]))}. tools/check_data.py lists all.'
        )
