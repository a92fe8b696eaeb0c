"""Labelled and unlabelled sources as one data set."""

from __future__ import annotations

import copy
import logging
import os.path as osp
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset, ConcatDataset
from mmengine.logging import print_log
from mmengine.structures import BaseDataElement
from mmseg.registry import DATASETS

from ..utils.options import check_flags
from ..utils.randomness import SeededIndex, preserve_rng_state
from .checks.broken import BrokenData, Problem
from .checks.examine import check_headers, examine, header_problems
from .checks.files import check_files, check_folder, check_list
from .checks.labels import check_loaded_labels
from .outside import check_names
from .unlabeled import UnlabeledDataset

# Other images that are tried in place of one that cannot be used.
_TRIES = 20


@DATASETS.register_module()
class SemiDataset(ConcatDataset):
    """Labelled sources first, then unlabelled ones; what is wrong fails here, not in a worker.

    The augmentation of a :class:`SeededIndex` follows from it alone, and leaves the generators of the process as they
    were, with and without workers; that of a plain integer is drawn from them.

    An image that cannot be used, or whose labels cannot, raises an error or gives its place to another of its kind,
    which follows from the seeded index alone. The latter is told by ``replaced``, a list of :class:`Problem` in the
    meta information of the first data sample; :class:`BrokenFilesHook` counts them.

    The meta information is the first labelled source's. An ``UnlabeledDataset`` whose config names
    no classes takes over classes, palette, label map and ``reduce_zero_label`` from it.

    Args:
        labeled (dict | BaseDataset | Sequence): One or several labelled sources, any of MMSeg's
            data sets.
        unlabeled (dict | BaseDataset | Sequence): One or several unlabelled sources.
        lazy_init (bool): Whether to load and check the sources only when they are needed. Defaults
            to False.
        broken_labeled (str): What follows a labelled image that cannot be used: ``'stop'`` or ``'skip'``.
        broken_unlabeled (str): The same of an unlabelled one.
        allow_outside (bool): Whether lists may name files outside of the data root and of the folders in
            ``data_prefix``, by absolute paths or by ``..``.

    Attributes:
        labeled_sources, unlabeled_sources (list[BaseDataset]): What it was built from.
        num_labeled, num_unlabeled (int): Images of each kind, once it is loaded.

    Raises:
        NameLeaves: If ``allow_outside`` is False and a list names such a file.
        FileNotFoundError: If a data root or a list does not exist, or, unless ``broken_labeled`` is ``'skip'``, an
            image or a label file of a labelled source.
        BrokenData: Unless ``broken_labeled`` is ``'skip'``, if the headers or ends of labelled images or their label
            files show that they cannot be used. Later, where it is ``'stop'``, if a sample cannot be used; else, if
            many in a row cannot.
        ValueError: If there is no labelled or no unlabelled image, if sources define different
            classes, or an option is unknown.
    """

    def __init__(
        self,
        labeled: dict | BaseDataset | Sequence[dict | BaseDataset],
        unlabeled: dict | BaseDataset | Sequence[dict | BaseDataset],
        lazy_init: bool = False,
        broken_labeled: str = 'stop',
        broken_unlabeled: str = 'skip',
        allow_outside: bool = False,
    ) -> None:
        for name, policy in (('broken_labeled', broken_labeled), ('broken_unlabeled', broken_unlabeled)):
            if policy not in ('stop', 'skip'):
                raise ValueError(f"{name} is {policy!r}, allowed is 'stop' or 'skip'")
        check_flags(allow_outside=allow_outside)
        self.broken_labeled, self.broken_unlabeled = broken_labeled, broken_unlabeled
        self.allow_outside = allow_outside
        labeled, unlabeled = _as_list(labeled, 'labeled'), _as_list(unlabeled, 'unlabeled')
        self.labeled_sources = [build_labeled(source) for source in labeled]
        meta = self.labeled_sources[0].metainfo
        self.unlabeled_sources = [_build_unlabeled(source, meta, allow_outside) for source in unlabeled]
        sources = [*self.labeled_sources, *self.unlabeled_sources]
        for source in sources:
            _check_classes(meta.get('classes'), source)
        # Classes are checked above; raw labels, palettes and other keys may differ.
        keys = {key for source in sources for key in source.metainfo}
        super().__init__(sources, lazy_init=lazy_init, ignore_keys=sorted(keys))

    def full_init(self) -> None:
        """Loads and checks all sources."""
        if self._fully_initialized:
            return
        for source in self.labeled_sources:
            load_labeled(source, check=self.broken_labeled == 'stop', allow_outside=self.allow_outside)
        super().full_init()
        for source in self.unlabeled_sources:
            if not (self.allow_outside or isinstance(source, UnlabeledDataset)):  # that one looks at its names itself
                check_names(source)
        self.num_labeled = sum(map(len, self.labeled_sources))
        self.num_unlabeled = sum(map(len, self.unlabeled_sources))
        if not self.num_unlabeled:
            raise ValueError(
                'the unlabelled sources hold 0 images, at least 1 is needed; check their ann_file and data_prefix'
            )

    @property
    def skips(self) -> bool:
        """bool: Whether any images may give their place to others."""
        return 'skip' in (self.broken_labeled, self.broken_unlabeled)

    def __getitem__(self, index: int) -> Any:
        """The sample of a plain or seeded index, or one in place of it."""
        self.full_init()
        if not isinstance(index, SeededIndex):
            index = range(len(self))[index]
        labeled = index < self.num_labeled
        option = 'broken_labeled' if labeled else 'broken_unlabeled'
        stop = getattr(self, option) == 'stop'
        sample = self._sample(index, stop)
        if not isinstance(sample, Problem):
            return sample
        if stop:
            raise BrokenData(
                f'{sample}. tools/check_data.py lists all such files; to leave them out of training, and count them, '
                f"set train_dataloader.dataset.{option}='skip'."
            )
        problems = [sample]
        if not isinstance(index, SeededIndex):
            index = SeededIndex(index, np.random.randint(1 << 31), ())
        kind = range(self.num_labeled) if labeled else range(self.num_labeled, len(self))
        for other in index.others(kind, _TRIES):
            sample = self._sample(other, stop)
            if not isinstance(sample, Problem):
                return _with_replaced(sample, problems)
            problems.append(sample)
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
        problems = header_problems(source, info)
        if not problems:
            try:
                return source[index]
            except Exception as error:
                problems = examine(source, index).problems
                if not problems:
                    # Files are as they should be, but a transform does not take them: too narrow, for instance.
                    reason = f'cannot be made a sample: {type(error).__name__}: {error}'
                    problems = [Problem(info.get('img_path', 'an image'), 'fails in a transform', reason)]
                    if stop:
                        print_log(str(problems[0]), logger='current', level=logging.ERROR)
                        raise
        return problems[0]


def _with_replaced(sample: Any, problems: list[Problem]) -> Any:
    """Notes in a sample what it stands for, if it has data samples."""
    data_samples = sample.get('data_samples') if isinstance(sample, dict) else None
    branches = list(data_samples.values()) if isinstance(data_samples, dict) else [data_samples]
    if isinstance(branches[0], BaseDataElement):
        branches[0].set_metainfo(dict(replaced=problems))
    return sample


def _as_list(sources, name: str) -> list:
    sources = list(sources) if isinstance(sources, (list, tuple)) else [sources]
    if not sources:
        raise ValueError(f'{name} is an empty list, at least 1 source is needed; name a data set')
    return sources


def build_labeled(source: dict | BaseDataset, kind: str = 'labelled') -> BaseDataset:
    """Builds a source of images with labels without loading it, once its folders and list are known to exist.

    Args:
        source (dict | BaseDataset): A config, or what is built already.
        kind (str): What the images are, in errors.
    """
    if isinstance(source, BaseDataset):
        return source
    backend_args, root = source.get('backend_args'), source.get('data_root') or ''
    check_folder(root, f'data_root of the {kind} images', backend_args)
    ann_file = source.get('ann_file') or ''
    # Some data sets accept a folder here.
    if ann_file and not osp.isdir(osp.join(root, ann_file)):
        check_list(osp.join(root, ann_file), f'{kind} images', backend_args)
    source = copy.deepcopy(source)
    source['lazy_init'] = True
    return DATASETS.build(source)


def _build_unlabeled(source: dict | BaseDataset, meta: dict, allow_outside: bool) -> BaseDataset:
    """Builds an unlabelled source without loading it; its classes default to those of ``meta``."""
    if isinstance(source, BaseDataset):
        return source
    source = copy.deepcopy(source)
    source['lazy_init'] = True
    kind = DATASETS.get(source['type']) if isinstance(source['type'], str) else source['type']
    own_meta = source.get('metainfo') or {}
    if not isinstance(own_meta, dict):
        raise ValueError(f'metainfo is {own_meta!r}, allowed is a dict of classes and palette')
    if kind and issubclass(kind, UnlabeledDataset) and allow_outside:
        source.setdefault('allow_outside', True)
    if kind and issubclass(kind, UnlabeledDataset) and 'classes' not in own_meta:
        shared = {key: meta[key] for key in ('classes', 'palette') if key in meta}
        source['metainfo'] = {**shared, **own_meta}
        source.setdefault('label_map', meta.get('label_map'))
        source.setdefault('reduce_zero_label', meta.get('reduce_zero_label', False))
    return DATASETS.build(source)


def _check_classes(classes: Sequence[str] | None, source: BaseDataset) -> None:
    own = source.metainfo.get('classes')
    if own is not None and list(own) != list(classes or ()):
        raise ValueError(
            f'a {type(source).__name__} has the classes {tuple(own)}, allowed are those of the '
            f'first labelled source, {classes and tuple(classes)}; give all sources the same '
            'metainfo, or none to an UnlabeledDataset'
        )


def load_labeled(source: BaseDataset, kind: str = 'labelled', check: bool = True, allow_outside: bool = False) -> None:
    """Loads a source of images with labels; their ids are checked when they are loaded.

    Args:
        source (BaseDataset): Built.
        kind (str): What the images are, in errors.
        check (bool): Whether its files must exist, and headers and ends must tell nothing against them.
        allow_outside (bool): Whether its names may leave its folders.
    """
    name = _name(source)
    empty = ValueError(
        f'{name} names 0 {kind} images, at least 1 is needed; check ann_file, data_prefix and img_suffix'
    )
    try:
        source.full_init()
    except UnicodeDecodeError as error:
        raise ValueError(f'{name}, the list of {kind} images, is no UTF-8 text ({error}): save it as UTF-8') from error
    except ValueError as error:
        # How MMEngine fails to serialise an empty list.
        if 'concatenate' in str(error):
            raise empty from None
        raise
    if not len(source):
        raise empty
    if not allow_outside:
        check_names(source)
    check_loaded_labels(source)
    if check:
        check_listed(source, kind)
        check_headers(source, kind)


def check_listed(source: BaseDataset, kind: str = 'labelled') -> None:
    """Raises FileNotFoundError unless all images and label files of a loaded source exist."""
    name = _name(source)
    infos = [source.get_data_info(index) for index in range(len(source))]
    backend_args = getattr(source, 'backend_args', None)
    for key, what in (('img_path', f'{kind} images'), ('seg_map_path', 'label files')):
        paths = [info[key] for info in infos if info.get(key)]
        check_files(paths, what, f'the {kind} list {name}', backend_args)


def _name(source: BaseDataset) -> str:
    return source.ann_file or source.data_prefix.get('img_path') or type(source).__name__
