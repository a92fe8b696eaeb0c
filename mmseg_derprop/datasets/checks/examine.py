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
from .labels import CheckLabels, header_problem


class Examined(NamedTuple):
    """What the files of a sample hold.

    Attributes:
        problems (list[Problem]): Empty if image and labels can be used.
        size (tuple[int, int] | None): Height and width of the image as it is read, unless it cannot be.
        counts (np.ndarray | None): Pixels of each label id, (256,) int64, unless there are no labels to be used.
    """

    problems: list[Problem]
    size: tuple[int, int] | None
    counts: np.ndarray | None


def examine(source: BaseDataset, index: int) -> Examined:
    """Reads and decodes the image and the labels of a sample, as the pipeline of its data set does.

    Transforms that load (their names say so) are those of the pipeline; what crops and turns is left out.

    Args:
        source (BaseDataset): Loaded, with :func:`check_loaded_labels` behind it if ids shall be looked at.
        index (int): Of the sample.
    """
    results = source.get_data_info(index)
    problems = header_problems(source, results)
    for transform in source.pipeline.transforms:
        name = type(transform).__name__
        reads_labels = isinstance(transform, (mmcv.transforms.LoadAnnotations, CheckLabels))
        if not ('Load' in name or reads_labels):
            continue
        key = 'seg_map_path' if 'Annotation' in name or reads_labels else 'img_path'
        path = results.get(key) or results.get('img_path', '')
        # Labels are looked at where there is no image, too; what else loads may need it.
        if any(problem.path == path for problem in problems) or (problems and not reads_labels):
            continue
        try:
            loaded = transform(results)
        except BrokenData as error:
            problems.append(error.problem or Problem(path, 'unreadable', str(error)))
        except Exception as error:  # whatever decoders raise
            problems.append(Problem(path, 'unreadable', f'cannot be read: {_reason(error, path)}'))
        else:
            if loaded is None:  # what LoadImageFromFile(ignore_empty=True) says
                problems.append(Problem(path, 'unreadable', 'is given up by the pipeline'))
            results = loaded or results
    image, labels = results.get('img'), results.get('gt_seg_map')
    if any(problem.path == results.get('seg_map_path') for problem in problems):
        labels = None
    return Examined(
        problems,
        None if image is None else image.shape[:2],
        None if labels is None else np.bincount(labels.ravel(), minlength=256)[:256],
    )


def _reason(error: Exception, path: str) -> str:
    lines = str(error).replace(path, 'the file').strip().splitlines() if path else []
    return f'{type(error).__name__}: {lines[0]}' if lines else type(error).__name__


def header_problems(source: BaseDataset, info: dict) -> list[Problem]:
    """What headers and ends of a sample's files tell, without decoding them.

    Labels are looked at where MMSegmentation's or MMCV's ``LoadAnnotations`` reads them, or a subclass; their headers
    only where it is MMSegmentation's own. Files of other storage are left alone.

    Args:
        source (BaseDataset): The sample's.
        info (dict): Of its ``get_data_info``.
    """
    image, labels = info.get('img_path'), info.get('seg_map_path')
    if not image or not is_local(image, getattr(source, 'backend_args', None)):
        return []
    problems = [file_problem(image)]
    loads = [t for t in source.pipeline.transforms if isinstance(t, mmcv.transforms.LoadAnnotations)]
    if labels and loads:
        problems.append(file_problem(labels))
        if not any(problems) and any(type(transform) is LoadAnnotations for transform in loads):
            problems.append(header_problem(labels, image))
    return [problem for problem in problems if problem]


def check_headers(source: BaseDataset, kind: str) -> None:
    """Looks at headers and ends of all files of a source.

    Args:
        source (BaseDataset): Loaded.
        kind (str): What its images are, e.g. ``'labelled'``.

    Raises:
        BrokenData: Names how many files cannot be used, and the first three.
    """

    def problems(index: int) -> list[Problem]:
        return header_problems(source, source.get_data_info(index))

    with ThreadPoolExecutor(16) as pool:
        found = [problem for several in pool.map(problems, range(len(source))) for problem in several]
    if found:
        images = {source.get_data_info(index)['img_path'] for index in range(len(source))}
        of_images = sum(problem.path in images for problem in found)
        counts = [(of_images, f'{kind} images'), (len(found) - of_images, 'label files')]
        shown = ' and '.join(f'{count} of {len(source)} {what}' for count, what in counts if count)
        raise BrokenData(
            f'{shown} cannot be used, first: {"; ".join(map(str, found[:3]))}. tools/check_data.py lists all.'
        )
