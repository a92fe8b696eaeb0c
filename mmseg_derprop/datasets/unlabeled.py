"""Images without labels."""

from __future__ import annotations

import codecs
import copy
import io
import os
import os.path as osp
from collections.abc import Iterable, Iterator, Sequence

from mmengine import fileio
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from ..utils.options import check_flags, is_number
from .checks.files import check_files, check_folder, check_list, is_local
from .names import Names
from .outside import leaves, own_folders, refuse

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff')


@DATASETS.register_module()
class UnlabeledDataset(BaseSegDataset):
    """Images that need no label file: those of a list, or all of a folder and its subfolders but hidden ones.

    Labels may exist. They are named if ``data_prefix`` has ``seg_map_path`` and serve the
    statistics of pseudo-labels only; a missing label file is no error.

    Millions of images are held as one buffer of bytes, whatever ``serialize_data`` says.

    Args:
        ann_file (str): List with one id or image name a line. Defaults to '', all images of the
            folder.
        img_suffix (str | tuple[str]): Suffixes of images, in a folder regardless of case. A listed
            name that carries no image suffix gets the first one.
        seg_map_suffix (str): Suffix of label files.
        data_prefix (dict): ``img_path`` and, if labels exist, ``seg_map_path``.
        label_map (dict, optional): New class id for each old one in the label files.
            ``SemiDataset`` passes on that of the labelled images.
        indices (int | Sequence[int], optional): The first (or, negative, the last) so many, or
            these.
        lazy_init (bool): Whether to look for images only when they are needed. Defaults to False.
        allow_outside (bool): Whether the list may name files outside of the data root and of the folders in
            ``data_prefix``, by absolute paths or by ``..``.
        **kwargs: Passed to ``BaseSegDataset``.

    Raises:
        FileNotFoundError: If the data root, the folder, the list or a listed image does not exist.
        NameLeaves: If ``allow_outside`` is False and the list names a file outside.
        ValueError: If the list or folder names no image, or an option is of another type.
    """

    _fully_initialized = False

    def __init__(
        self,
        ann_file: str = '',
        img_suffix: str | Sequence[str] = IMAGE_SUFFIXES,
        seg_map_suffix: str = '.png',
        data_prefix: dict = dict(img_path=''),  # noqa: B006
        label_map: dict | None = None,
        indices: int | Sequence[int] | None = None,
        lazy_init: bool = False,
        allow_outside: bool = False,
        **kwargs,
    ) -> None:
        _check_paths(ann_file=ann_file, seg_map_suffix=seg_map_suffix, data_root=kwargs.get('data_root') or '')
        if not isinstance(data_prefix, dict):
            raise ValueError(f'data_prefix is {data_prefix!r}, allowed is a dict of img_path and seg_map_path')
        _check_paths(**{f'data_prefix.{name}': path for name, path in data_prefix.items() if path is not None})
        check_flags(allow_outside=allow_outside)
        suffixes = (img_suffix,) if isinstance(img_suffix, str) else img_suffix
        if not isinstance(suffixes, (list, tuple)) or not suffixes:
            raise ValueError(f'img_suffix is {img_suffix!r}, allowed is a suffix, or several')
        _check_paths(**{f'img_suffix {number}': suffix for number, suffix in enumerate(suffixes)})
        suffixes = tuple(suffixes)
        numbers = list(indices) if isinstance(indices, Iterable) else [0 if indices is None else indices]
        if not all(is_number(number, whole=True) for number in numbers):
            raise ValueError(f'indices is {indices!r}, allowed is a number of images, or a list of their indices')
        # Lazy at first, because entries hand on the label map.
        super().__init__(
            ann_file=ann_file,
            img_suffix=suffixes,
            seg_map_suffix=seg_map_suffix,
            data_prefix=data_prefix,
            lazy_init=True,
            **{**kwargs, 'serialize_data': True},
        )
        self.indices = indices
        self.allow_outside = allow_outside
        if label_map is not None:
            self.label_map = label_map
        if not lazy_init:
            self.full_init()

    def full_init(self, check_listed: bool = True) -> None:
        """Looks for the images.

        Args:
            check_listed (bool): Whether the images of a list must exist.
        """
        if self._fully_initialized:
            return
        img_dir = self._img_dir()
        if self.data_root:
            check_folder(self.data_root, 'data_root of the unlabelled images', self.backend_args)
        check_folder(img_dir, 'the folder of unlabelled images', self.backend_args)
        names = Names.pack(self._listed_names() if self.ann_file else self._folder_names(img_dir))
        if not len(names):
            folder = osp.abspath(img_dir) if is_local(img_dir, self.backend_args) else img_dir
            raise ValueError(
                f'{self.ann_file or folder} names no unlabelled image, at least 1 is '
                f'needed (suffixes {self.img_suffix}); fill it, or change ann_file, data_prefix or '
                'img_suffix'
            )
        # The base class takes subsets of these two, whatever the bytes mean.
        self.data_bytes, self.data_address = names.data, names.ends
        if self.ann_file and check_listed:
            check_files(self.image_paths(), 'unlabelled images', self.ann_file, self.backend_args)
        self._fully_initialized = True
        everything = isinstance(self.indices, int) and abs(self.indices) >= len(self)
        if self.indices is not None and not everything:
            self.get_subset_(self.indices)

    def image_paths(self) -> Sequence[str]:
        """The images' paths, without a Python object each.

        Returns:
            Sequence[str]: A path is made when it is asked for.
        """
        folder = self._img_dir()
        return Names(self.data_bytes, self.data_address, lambda name: osp.join(folder, name))

    def get_data_info(self, idx: int) -> dict:
        """Names an image and, where labels may exist, the label file.

        Args:
            idx (int): Index of the image; negative ones count from the end.

        Returns:
            dict: As ``BaseSegDataset`` has them, without ``seg_map_path`` where there are no labels.
        """
        self.full_init()
        name = Names(self.data_bytes, self.data_address)[idx]
        info = dict(
            img_path=osp.join(self._img_dir(), name),
            label_map=copy.copy(self.label_map),
            reduce_zero_label=self.reduce_zero_label,
            seg_fields=[],
            sample_idx=idx % len(self),
        )
        label_dir = self.data_prefix.get('seg_map_path')
        if label_dir is not None:
            stem, _ = _split_suffix(name, self._known_suffixes()) or (name, '')
            info['seg_map_path'] = osp.join(label_dir, stem + self.seg_map_suffix)
        return info

    def load_data_list(self) -> list[dict]:
        """All entries, for those who ask a data set for them; this one does not hold them."""
        return [self.get_data_info(index) for index in range(len(self))]

    def _img_dir(self) -> str:
        return self.data_prefix.get('img_path') or self.data_root or ''

    def _known_suffixes(self) -> tuple[str, ...]:
        return (*self.img_suffix, *IMAGE_SUFFIXES)

    def _listed_names(self) -> Iterator[str]:
        check_list(self.ann_file, 'unlabelled images', self.backend_args)
        content = fileio.get(self.ann_file, backend_args=self.backend_args)
        suffixes = self._known_suffixes()
        folders = own_folders(self)
        prefixes = [self._img_dir(), self.data_prefix.get('seg_map_path') or self._img_dir()]
        for number, line in enumerate(io.BytesIO(content.removeprefix(codecs.BOM_UTF8)), 1):
            name = os.fsdecode(line.strip())
            # There may be millions, and only such names can lead elsewhere.
            suspect = not self.allow_outside and ('..' in name or '://' in name or osp.isabs(name))
            if suspect and any(leaves(osp.join(prefix, name), folders) for prefix in prefixes):
                refuse(f'{self.ann_file}, line {number}', name, folders)
            if name:
                yield name if _split_suffix(name, suffixes) else name + self.img_suffix[0]

    def _folder_names(self, folder: str) -> list[str]:
        files = fileio.list_dir_or_file(folder or '.', list_dir=False, recursive=True, backend_args=self.backend_args)
        # Folders that are hidden hold thumbnails and the like; hidden files the engine leaves out itself.
        images = (name for name in files if _split_suffix(name, self.img_suffix) and '/.' not in f'/{name}')
        return sorted(images, key=lambda name: _split_suffix(name, self.img_suffix) or ())


def _check_paths(**paths: object) -> None:
    for name, path in paths.items():
        if not isinstance(path, (str, os.PathLike)):
            raise ValueError(f'{name} is {path!r}, allowed is a text')


def _split_suffix(name: str, suffixes: Sequence[str]) -> tuple[str, str] | None:
    """``name`` as (stem, suffix), or None if it ends in none of ``suffixes``."""
    lower = name.lower()
    for suffix in suffixes:
        if lower.endswith(suffix.lower()):
            return name[: len(name) - len(suffix)], name[len(name) - len(suffix) :]
    return None
