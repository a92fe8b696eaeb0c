"""Labelled and unlabelled sources as one data set."""

from __future__ import annotations

import copy
import logging
import os.path as osp
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from mmengine.dataset import BaseDataset, ConcatDataset
from mmengine.logging import print_log
from mmseg.registry import DATASETS

from ..utils.options import check_options
from ..utils.randomness import SeededIndex, preserve_rng_state
from .checks.broken import TRANSFORM, BrokenData, Problem, SettingError
from .checks.examine import count_labels, examine, header_problem
from .checks.files import check_files, check_folder, check_list
from .checks.labels import IGNORED, check_loaded_labels
from .unlabeled import UnlabeledDataset

_TRIES = 20  # other images in place of one that cannot be used


@DATASETS.register_module()
class SemiDataset(ConcatDataset):
    """Labelled sources first, then unlabelled ones; what is wrong with them fails here, not in a worker.

    The augmentation of a :class:`SeededIndex` follows from it alone, and leaves the generators of the process as they
    were; that of a plain integer is drawn from them.

    An image that cannot be used, or whose labels cannot, raises an error or gives its place to another of its kind,
    which follows from the seeded index alone. Then ``replaced``, a list of :class:`Problem` in the meta information of
    the first data sample, names it; :class:`BrokenFilesHook` counts them.

    The meta information is the first labelled source's. An ``UnlabeledDataset`` whose config names no classes takes
    over classes, palette, label map and ``reduce_zero_label`` from it.

    Args:
        labeled (dict | BaseDataset | Sequence): One or several labelled sources, any of MMSegmentation's data sets.
        unlabeled (dict | BaseDataset | Sequence): One or several unlabelled sources.
        lazy_init (bool): Whether to load and check the sources only when they are needed.
        broken_labeled, broken_unlabeled (str): What happens at an image that cannot be used: ``'stop'`` or ``'skip'``.

    Raises:
        FileNotFoundError: If a data root, a list or, unless ``broken_labeled`` is ``'skip'``, a labelled image or its
            label file does not exist.
        BrokenData: If such a file or, later, a sample cannot be used (``'stop'``), or many in a row cannot.
        ValueError: If there is no labelled or no unlabelled image, or sources define different classes.
    """

    @check_options
    def __init__(
        self,
        labeled: dict | BaseDataset | Sequence[dict | BaseDataset],
        unlabeled: dict | BaseDataset | Sequence[dict | BaseDataset],
        lazy_init: bool = False,
        broken_labeled: Literal['stop', 'skip'] = 'stop',
        broken_unlabeled: Literal['stop', 'skip'] = 'skip',
    ) -> None:
        self.broken_labeled, self.broken_unlabeled = broken_labeled, broken_unlabeled
        labeled, unlabeled = (list(s) if isinstance(s, Sequence) else [s] for s in (labeled, unlabeled))
        if not (labeled and unlabeled):
            raise ValueError('labeled and unlabeled must have at least 1 source each. Name a data set.')
        self.labeled_sources = [build_labeled(source) for source in labeled]
        meta = self.labeled_sources[0].metainfo
        self.unlabeled_sources = [_build_unlabeled(source, self.labeled_sources[0]) for source in unlabeled]
        sources = [*self.labeled_sources, *self.unlabeled_sources]
        for source in sources:
            own = source.metainfo.get('classes')
            if own is not None and list(own) != list(meta.get('classes') or ()):
                raise ValueError(
                    f'The classes of a {type(source).__name__} must be those of the first labelled source, '
                    f'{meta.get("classes")}, but are {own}. Give all the same metainfo, or none to an UnlabeledDataset.'
                )
        # Raw labels, palettes and other keys may differ.
        keys = {key for source in sources for key in source.metainfo}
        super().__init__(sources, lazy_init=lazy_init, ignore_keys=sorted(keys))

    def full_init(self) -> None:
        if self._fully_initialized:
            return
        stop = self.broken_labeled == 'stop'
        self.label_counts: Any = sum(load_labeled(source, check=stop) for source in self.labeled_sources)
        super().full_init()
        self.num_labeled = sum(map(len, self.labeled_sources))
        self.num_unlabeled = sum(map(len, self.unlabeled_sources))

    def __getitem__(self, index: int) -> Any:
        self.full_init()
        if not isinstance(index, SeededIndex):
            index = range(len(self))[index]
        labeled = index < self.num_labeled
        option = 'broken_labeled' if labeled else 'broken_unlabeled'
        stop = getattr(self, option) == 'stop'
        kind = range(self.num_labeled) if labeled else range(self.num_labeled, len(self))
        problems: list[Problem] = []
        for candidate in _candidates(index, kind):
            sample = self._sample(candidate, stop)
            if not isinstance(sample, Problem):
                if problems:
                    next(iter(sample['data_samples'].values())).set_metainfo(dict(replaced=problems))
                return sample
            if stop:
                raise BrokenData(
                    f'{sample}. tools/check_data.py lists all such files; to leave them out of training, and count '
                    f"them, set train_dataloader.dataset.{option}='skip'."
                )
            problems.append(sample)
        if len({(problem.kind, problem.cause) for problem in problems}) == 1 and problems[0].kind == TRANSFORM:
            number = f'All of {len(problems)} images that were drawn fail'
            raise SettingError(f'{number} alike, so a setting is wrong, not the files: {problems[0].cause}')
        raise BrokenData(
            f'{len(problems)} of {len(problems)} images that were drawn cannot be used: '
            f'{"; ".join(map(str, problems))}. tools/check_data.py lists all such files.'
        )

    def _sample(self, index: int, stop: bool) -> Any:
        """The sample of an index, or a Problem of it; errors that are of no file are raised if they shall stop."""
        if not isinstance(index, SeededIndex):
            return self._load(index, stop)
        with preserve_rng_state():
            index.seed_generators()
            return self._load(index, stop)

    def _load(self, index: int, stop: bool) -> Any:
        number = bisect_right(self.cumulative_sizes, index)
        source = self.datasets[number]
        index = int(index) - self.cumulative_sizes[number] + len(source)
        info = source.get_data_info(index)
        if problem := header_problem(source, info):
            return problem
        try:
            return source[index]
        except SettingError:
            raise
        except Exception as error:
            problem = examine(source, index).problem
            if problem and problem.kind != TRANSFORM:
                return problem
            # Files are as they should be, but a transform does not take them: too narrow, for instance.
            reason = f'cannot be made a sample: {type(error).__name__}: {error}'
            problem = Problem(info.get('img_path', 'an image'), TRANSFORM, reason)
            if stop:
                print_log(str(problem), logger='current', level=logging.ERROR)
                raise
            return problem


def build_labeled(source: dict | BaseDataset, kind: str = 'labelled') -> BaseDataset:
    """Builds a source of images with labels without loading it, once its folders and list are known to exist."""
    if isinstance(source, BaseDataset):
        return source
    backend_args, root = source.get('backend_args'), source.get('data_root') or ''
    check_folder(root, f'data_root of the {kind} images', backend_args)
    ann_file = source.get('ann_file') or ''
    # Some data sets accept a folder here.
    if ann_file and not osp.isdir(osp.join(root, ann_file)):
        check_list(osp.join(root, ann_file), f'{kind} images', backend_args)
    return DATASETS.build({**copy.deepcopy(source), 'lazy_init': True})


def _build_unlabeled(source: dict | BaseDataset, labeled: BaseDataset) -> BaseDataset:
    """Builds an unlabelled source without loading it; what its labels mean defaults to a labelled source's."""
    if isinstance(source, BaseDataset):
        return source
    source = {**copy.deepcopy(source), 'lazy_init': True}
    kind = DATASETS.get(source['type']) if isinstance(source['type'], str) else source['type']
    own_meta = source.get('metainfo') or {}
    if kind and issubclass(kind, UnlabeledDataset) and 'classes' not in own_meta:
        meta = labeled.metainfo
        shared = {key: meta[key] for key in ('classes', 'palette') if key in meta}
        source['metainfo'] = {**shared, **own_meta}
        source.setdefault('label_map', meta.get('label_map'))
        source.setdefault('ignore_index', getattr(labeled, 'ignore_index', IGNORED))
        source.setdefault('reduce_zero_label', meta.get('reduce_zero_label', False))
    return DATASETS.build(source)


def load_labeled(source: BaseDataset, kind: str = 'labelled', check: bool = True) -> np.ndarray:
    """Loads a built source and returns the pixels of each label id; with ``check`` files must exist and be usable."""
    list_labeled(source, kind)
    if check:
        infos = [source.get_data_info(index) for index in range(len(source))]
        for key, what in (('img_path', f'{kind} images'), ('seg_map_path', 'label files')):
            paths = [info[key] for info in infos if info.get(key)]
            check_files(paths, what, f'the {kind} list {_name(source)}', getattr(source, 'backend_args', None))
    return count_labels(source, kind, check)


def list_labeled(source: BaseDataset, kind: str = 'labelled') -> None:
    """Loads a built source of images with labels; raises ValueError if it names none."""
    try:
        source.full_init()
        images = len(source)
    except ValueError as error:
        if 'concatenate' not in str(error):  # how MMEngine fails to serialise an empty list
            raise ValueError(f'{_name(source)}, the list of {kind} images, cannot be read: {error}') from error
        images = 0
    if not images:
        raise ValueError(
            f'{_name(source)} must name at least 1 {kind} image, but names 0. Check ann_file, data_prefix and '
            'img_suffix.'
        )
    check_loaded_labels(source)


def _candidates(index: int, kind: range) -> Iterator[int]:
    """An index, and then others of its kind to take in its place."""
    yield index
    if not isinstance(index, SeededIndex):
        index = SeededIndex(index, np.random.randint(1 << 31), ())
    yield from index.others(kind, _TRIES)


def _name(source: BaseDataset) -> str:
    return source.ann_file or source.data_prefix.get('img_path') or type(source).__name__
