"""The training data of a supervised config, split into labelled and unlabelled images."""

from __future__ import annotations

import os.path as osp
from collections.abc import Sequence

from mmengine import fileio
from mmengine.dataset import BaseDataset
from mmseg.registry import DATASETS

from ..utils.options import PositiveInt, check_options
from .pipelines import semi_pipelines
from .semi_dataset import SemiDataset, build_labeled, check_listed, load_labeled


@DATASETS.register_module()
class SplitDataset(SemiDataset):
    """A :class:`SemiDataset`, with its options, that takes its images, labels and geometry from a supervised config.

    Labelled images are read as the supervised data set reads them: class, folders, suffixes, label mapping and
    ``reduce_zero_label`` are its own. Around it RepeatDataset, ClassBalancedDataset and MultiImageMixDataset fall
    away, since the sampler repeats the labelled images; of a ConcatDataset the list ``labeled`` chooses the first part
    that has all of its images and labels, and without a list all parts serve. :func:`semi_pipelines` makes the
    pipelines.

    Args:
        supervised (dict): Config of the supervised training data, ``_base_.train_dataloader.dataset``.
        unlabeled (str | dict | Sequence): One or several of: a list of unlabelled images in the folders of the
            labelled ones, or a folder of its own; as ``ann_file``, relative to the supervised data set's
            ``data_root``. A dict goes to ``UnlabeledDataset``.
        labeled (str): List of labelled images, in place of the supervised ``ann_file``; by default that.
        crop_size (tuple[int, int], optional): (h, w); by default that of the supervised pipeline's RandomCrop.
        branches (Sequence[str]): Of unlabelled images, those that the model reads (``SemiSegmentor.branches``).
        **kwargs: ``lazy_init``, ``broken_labeled`` and ``broken_unlabeled`` of :class:`SemiDataset`.

    Raises as :class:`SemiDataset` does, and ValueError if there is no crop size.
    """

    @check_options
    def __init__(
        self,
        supervised: dict,
        unlabeled: str | dict | Sequence[str | dict],
        labeled: str = '',
        crop_size: tuple[PositiveInt, PositiveInt] | None = None,
        branches: Sequence[str] = ('weak', 'strong'),
        **kwargs,
    ) -> None:
        parts = supervised_parts(supervised)
        pipelines = [semi_pipelines(part.get('pipeline') or [], crop_size, branches) for part in parts]
        configs = [{**part, 'pipeline': pipeline} for part, (pipeline, _) in zip(parts, pipelines)]
        sources = [_first_with(labeled, configs)] if labeled else [build_labeled(config) for config in configs]
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


def _first_with(ann_file: str, configs: list[dict]) -> BaseDataset:
    """The first source that has all images and labels of a list."""
    if len(configs) == 1:
        return build_labeled({**configs[0], 'ann_file': ann_file})
    reasons = ''
    for index, config in enumerate(configs):
        try:
            source = build_labeled({**config, 'ann_file': ann_file})
            load_labeled(source, check=False)
            check_listed(source)  # whether they can be used is asked later, as broken_labeled says
            return source
        except FileNotFoundError as error:
            reasons += f'\n  datasets[{index}]: {error}'
    raise FileNotFoundError(
        f'None of the {len(configs)} training data sets has all images and labels of {ann_file}; write a list for one '
        f'of them.{reasons}'
    )


def _unlabeled_config(unlabeled: str | dict, source: BaseDataset, pipeline: list[dict]) -> dict:
    config: dict = dict(type='UnlabeledDataset', pipeline=pipeline)
    if not isinstance(unlabeled, str):
        return config | unlabeled
    config['backend_args'] = backend_args = getattr(source, 'backend_args', None)
    path = osp.join(source.data_root or '', unlabeled)
    if fileio.isdir(path, backend_args=backend_args):
        return config | dict(data_prefix=dict(img_path=path))
    # A list is of the same folders, which the data set has joined to its data_root; labels there serve statistics only.
    folders = dict(ann_file=path, data_prefix=dict(source.data_prefix))
    return config | folders | dict(img_suffix=source.img_suffix, seg_map_suffix=source.seg_map_suffix)
