"""The training data of a supervised config, split into labelled and unlabelled images."""

from __future__ import annotations

import os.path as osp
from collections.abc import Sequence

from mmengine import fileio
from mmengine.dataset import BaseDataset
from mmseg.registry import DATASETS

from ..utils.options import PositiveInt, check_options
from .checks.files import read_list
from .pipelines import Kinds, semi_pipelines
from .semi_dataset import SemiDataset, build_labeled, list_labeled
from .unlabeled import IMAGE_SUFFIXES


@DATASETS.register_module()
class SplitDataset(SemiDataset):
    """A :class:`SemiDataset`, with its options, that takes its images, labels and geometry from a supervised config.

    Labelled images are read as the supervised data set reads them: class, folders, suffixes, label mapping and
    ``reduce_zero_label`` are its own. Around it RepeatDataset, ClassBalancedDataset and MultiImageMixDataset fall
    away, since the sampler repeats the labelled images; all parts of a ConcatDataset serve. :func:`semi_pipelines`
    makes the pipelines.

    Args:
        supervised (dict): Config of the supervised training data, ``_base_.train_dataloader.dataset``.
        unlabeled (str | dict | Sequence): One or several of: a list of unlabelled images in the folders of the
            labelled ones, or a folder of its own; as ``ann_file``, relative to the supervised data set's
            ``data_root``. A dict goes to ``UnlabeledDataset``.
        labeled (str): List of the images that serve, of all that the supervised data set loads: their paths or the
            ends of these, with or without suffix.
        crop_size (tuple[int, int], optional): (h, w); by default what the supervised pipeline ends in.
        branches (Sequence[str]): Of unlabelled images, those that the model reads (``SemiSegmentor.branches``).
        transforms (dict[str, str], optional): What own transforms are for, as :func:`semi_pipelines` says.
        **kwargs: ``lazy_init``, ``broken_labeled`` and ``broken_unlabeled`` of :class:`SemiDataset`.

    Raises as these do, and ValueError if a line of the list is none, or several, of the images.
    """

    @check_options
    def __init__(
        self,
        supervised: dict,
        unlabeled: str | dict | Sequence[str | dict],
        labeled: str = '',
        crop_size: tuple[PositiveInt, PositiveInt] | None = None,
        branches: Sequence[str] = ('weak', 'strong'),
        transforms: dict[str, Kinds] | None = None,
        **kwargs,
    ) -> None:
        parts = supervised_parts(supervised)
        pipelines = [semi_pipelines(part.get('pipeline') or [], crop_size, branches, transforms) for part in parts]
        configs = [{**part, 'pipeline': pipeline} for part, (pipeline, _) in zip(parts, pipelines)]
        sources = [build_labeled(config) for config in configs]
        sources = _selected(sources, labeled) if labeled else sources
        several = [unlabeled] if isinstance(unlabeled, (str, dict)) else unlabeled
        others = [_unlabeled_config(one, sources[0], pipelines[0][1]) for one in several]
        super().__init__(sources, others, **kwargs)


def supervised_parts(dataset: dict) -> list[dict]:
    """Configs of the data sets inside wrappers, each with the pipelines of its wrappers behind its own."""
    if not ('datasets' in dataset or 'dataset' in dataset):
        return [dict(dataset)]
    inner = dataset['datasets'] if 'datasets' in dataset else [dataset['dataset']]
    parts = [part for entry in inner for part in supervised_parts(entry)]
    outer = list(dataset.get('pipeline') or [])
    return [{**part, 'pipeline': [*(part.get('pipeline') or []), *outer]} for part in parts]


def _selected(sources: Sequence[BaseDataset], listed: str) -> list[BaseDataset]:
    """Loads sources, and leaves in each what a list names and none before it has."""
    path = osp.join(sources[0].data_root or '', listed)
    lines = left = read_list(path, 'labelled images', getattr(sources[0], 'backend_args', None))
    chosen = []
    for source in sources:
        list_labeled(source)  # whether files can be used is asked later, as broken_labeled says
        if found := _find(left, source):
            source.get_subset_([found[line] for line in left if line in found])
            chosen.append(source)
        left = [line for line in left if line not in found]
    if left or not chosen:
        classes = ', '.join(type(source).__name__ for source in sources)
        raise ValueError(
            f'{path}, the list of labelled images, must name images that the training data of the config ({classes}) '
            f'load, but {len(left)} of its {len(lines)} lines name none of them, first {left[:3]}. Fix the list, or '
            'let the config load all images that may be listed (ann_file, data_prefix, img_suffix).'
        )
    return chosen


def _find(lines: Sequence[str], source: BaseDataset) -> dict[str, int]:
    """Index of the image of each line, of the lines that name one of a source's images."""
    by_name: dict[str, dict[str, int]] = {}
    for index in range(len(source)):
        image = source.get_data_info(index)['img_path']
        for name in (image, osp.splitext(image)[0], image.removesuffix(getattr(source, 'img_suffix', ''))):
            by_name.setdefault(osp.basename(name), {}).setdefault(name, index)
    folder = source.data_prefix.get('img_path') or source.data_root or ''
    found = {}
    for line in lines:
        hits = {name: i for name, i in by_name.get(osp.basename(line), {}).items() if f'/{name}'.endswith(f'/{line}')}
        exact = osp.join(folder, line)
        if exact not in hits and len(set(hits.values())) > 1:
            raise ValueError(f'The labelled image {line!r} must be one, but is {" and ".join(hits)}. Write its path.')
        if hits:
            found[line] = hits.get(exact, next(iter(hits.values())))
    return found


def _unlabeled_config(unlabeled: str | dict, source: BaseDataset, pipeline: list[dict]) -> dict:
    config: dict = dict(type='UnlabeledDataset', pipeline=pipeline)
    if not isinstance(unlabeled, str):
        return config | unlabeled
    config['backend_args'] = backend_args = getattr(source, 'backend_args', None)
    path, suffix = osp.join(source.data_root or '', unlabeled), getattr(source, 'img_suffix', IMAGE_SUFFIXES[0])
    if fileio.isdir(path, backend_args=backend_args):
        suffixes = IMAGE_SUFFIXES if suffix.lower().endswith(IMAGE_SUFFIXES) else suffix
        return config | dict(data_prefix=dict(img_path=path), img_suffix=suffixes)
    # A list is of the same folders, which the data set has joined to its data_root; labels there serve statistics only.
    config |= dict(ann_file=path, data_prefix=dict(source.data_prefix), img_suffix=suffix)
    return config | dict(seg_map_suffix=getattr(source, 'seg_map_suffix', '.png'))
