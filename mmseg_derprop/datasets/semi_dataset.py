"""Labelled and unlabelled sources as one data set."""

from __future__ import annotations

import copy
import os.path as osp
from collections.abc import Sequence

from mmengine.dataset import BaseDataset, ConcatDataset
from mmseg.registry import DATASETS

from ..randomness import SeededIndex, kept_generators
from .files import check_files, check_folder, check_list
from .labels import check_label_files, check_loaded_labels
from .outside import check_names
from .unlabeled import UnlabeledDataset


@DATASETS.register_module()
class SemiDataset(ConcatDataset):
    """Labelled sources first, then unlabelled ones; what is wrong fails here, not in a worker.

    The augmentation of a :class:`SeededIndex` follows from it alone, and leaves the generators of the process as they
    were, with and without workers; that of a plain integer is drawn from them.

    The meta information is the first labelled source's. An ``UnlabeledDataset`` whose config names
    no classes takes over classes, palette, label map and ``reduce_zero_label`` from it.

    Args:
        labeled (dict | BaseDataset | Sequence): One or several labelled sources, any of MMSeg's
            data sets.
        unlabeled (dict | BaseDataset | Sequence): One or several unlabelled sources.
        lazy_init (bool): Whether to load and check the sources only when they are needed. Defaults
            to False.
        allow_outside (bool): Whether lists may name files outside of the data root and of the folders in
            ``data_prefix``, by absolute paths or by ``..``.

    Raises:
        NameLeaves: If ``allow_outside`` is False and a list does.
        FileNotFoundError: If a data root, a list, an image or a label file of a labelled source
            does not exist.
        ValueError: If there is no labelled or no unlabelled image, if sources define different
            classes, or if label files are empty, in colours, or of another size than their images.
    """

    def __init__(
        self,
        labeled: dict | BaseDataset | Sequence[dict | BaseDataset],
        unlabeled: dict | BaseDataset | Sequence[dict | BaseDataset],
        lazy_init: bool = False,
        allow_outside: bool = False,
    ) -> None:
        self.allow_outside = allow_outside
        labeled, unlabeled = _as_list(labeled, 'labeled'), _as_list(unlabeled, 'unlabeled')
        self._labeled = [build_labeled(source) for source in labeled]
        meta = self._labeled[0].metainfo
        self._unlabeled = [_build_unlabeled(source, meta, allow_outside) for source in unlabeled]
        sources = [*self._labeled, *self._unlabeled]
        for source in sources:
            _check_classes(meta.get('classes'), source)
        # Classes are checked above; raw labels, palettes and other keys may differ.
        keys = {key for source in sources for key in source.metainfo}
        super().__init__(sources, lazy_init=lazy_init, ignore_keys=sorted(keys))

    def full_init(self) -> None:
        """Loads and checks all sources."""
        if self._fully_initialized:
            return
        for source in self._labeled:
            load_labeled(source, allow_outside=self.allow_outside)
        super().full_init()
        self.num_labeled = sum(map(len, self._labeled))
        self.num_unlabeled = sum(map(len, self._unlabeled))
        if not self.num_unlabeled:
            raise ValueError(
                'the unlabelled sources hold 0 images, at least 1 is needed; check their ann_file and data_prefix'
            )

    def __getitem__(self, index: int) -> dict:
        """The sample of a plain or seeded index."""
        if not isinstance(index, SeededIndex):
            return super().__getitem__(index)
        with kept_generators():
            index.seed_generators()
            return super().__getitem__(int(index))


def _as_list(sources, name: str) -> list:
    sources = list(sources) if isinstance(sources, (list, tuple)) else [sources]
    if not sources:
        raise ValueError(f'{name} is an empty list, at least 1 source is needed; name a data set')
    return sources


def build_labeled(source: dict | BaseDataset) -> BaseDataset:
    """Builds a labelled source without loading it, once its folders and list are known to exist."""
    if isinstance(source, BaseDataset):
        return source
    backend_args, root = source.get('backend_args'), source.get('data_root') or ''
    check_folder(root, 'data_root of the labelled images', backend_args)
    ann_file = source.get('ann_file') or ''
    # Some data sets accept a folder here.
    if ann_file and not osp.isdir(osp.join(root, ann_file)):
        check_list(osp.join(root, ann_file), 'labelled images', backend_args)
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


def load_labeled(source: BaseDataset, kind: str = 'labelled', allow_outside: bool = False) -> None:
    """Loads a source of images with labels and checks its files; their ids are checked when they are loaded."""
    name = source.ann_file or source.data_prefix.get('img_path') or type(source).__name__
    empty = ValueError(
        f'{name} names 0 {kind} images, at least 1 is needed; check ann_file, data_prefix and img_suffix'
    )
    try:
        source.full_init()
    except ValueError as error:
        # How MMEngine fails to serialise an empty list.
        if 'concatenate' in str(error):
            raise empty from None
        raise
    if not len(source):
        raise empty
    if not allow_outside:
        check_names(source)
    infos = [source.get_data_info(index) for index in range(len(source))]
    backend_args = getattr(source, 'backend_args', None)
    for key, what in (('img_path', f'{kind} images'), ('seg_map_path', 'label files')):
        paths = [info[key] for info in infos if info.get(key)]
        check_files(paths, what, f'the {kind} list {name}', backend_args)
    check_label_files(source)
    check_loaded_labels(source)
