"""Images without labels."""

from __future__ import annotations

import copy
import os
import os.path as osp
from collections.abc import Sequence

from mmengine import fileio
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from ..utils.options import check_options
from .checks.files import check_files, check_folder, read_list
from .checks.labels import label_check
from .transforms import LoadUnlabeledAnnotations

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff')


@DATASETS.register_module()
class UnlabeledDataset(BaseSegDataset):
    """Images that need no label file: those of a list, or all of a folder and its subfolders except hidden ones.

    Labels may exist. They are named if ``data_prefix`` has ``seg_map_path`` and only serve the statistics of
    pseudo-labels; a missing label file is not an error. Worker processes share the entries, which MMEngine serialises.

    Args:
        img_suffix (str | Sequence[str]): Suffixes of images, in a folder regardless of case. A listed name without an
            image suffix gets the first one.
        data_prefix (dict): ``img_path`` and, if labels exist, ``seg_map_path``.
        label_map (dict, optional): New class id for each old one in the label files. ``SemiDataset`` passes on that of
            the labelled images.
        lazy_init, **kwargs: As for ``BaseSegDataset``: ``ann_file``, a list with one id or image name a line (by
            default all images of the folder), ``data_root``, ``seg_map_suffix``, ``indices`` and so on.

    Raises:
        FileNotFoundError: If the data root, the folder, the list or a listed image does not exist.
        ValueError: If the list or folder names no image.
    """

    check_listed = True  # whether all images of a list must exist

    @check_options
    def __init__(
        self,
        img_suffix: str | Sequence[str] = IMAGE_SUFFIXES,
        data_prefix: dict[str, str | os.PathLike | None] = dict(img_path=''),  # noqa: B006
        label_map: dict | None = None,
        lazy_init: bool = False,
        **kwargs,
    ) -> None:
        suffixes = (img_suffix,) if isinstance(img_suffix, str) else tuple(img_suffix)
        super().__init__(img_suffix=suffixes, data_prefix=data_prefix, lazy_init=True, **kwargs)
        if label_map is not None:
            self.label_map = label_map
        for step in self.pipeline.transforms:
            if isinstance(step, LoadUnlabeledAnnotations):
                step.check_labels = label_check(self)
        if not lazy_init:
            self.full_init()

    def load_data_list(self) -> list[dict]:
        """Lists the images as dicts of ``img_path`` alone, because there may be millions."""
        folder = self._img_dir()
        check_folder(folder, 'the folder of unlabelled images', self.backend_args)
        names = self._listed_names() if self.ann_file else self._folder_names(folder)
        entries = [dict(img_path=osp.join(folder, name)) for name in names]
        if not entries:
            raise ValueError(
                f'{self.ann_file or folder} must name at least 1 unlabelled image, but names 0 (suffixes '
                f'{self.img_suffix}). Fill it, or change ann_file, data_prefix or img_suffix.'
            )
        if self.ann_file and self.check_listed:
            check_files([entry['img_path'] for entry in entries], 'unlabelled images', self.ann_file, self.backend_args)
        return entries

    def get_data_info(self, idx: int) -> dict:
        """What ``BaseSegDataset`` tells of an image, without ``seg_map_path`` where there can be no labels."""
        info = super().get_data_info(idx)
        info.update(label_map=copy.copy(self.label_map), reduce_zero_label=self.reduce_zero_label, seg_fields=[])
        label_dir = self.data_prefix.get('seg_map_path')
        if label_dir is not None:
            name = info['img_path'].removeprefix(osp.join(self._img_dir(), ''))
            stem = _stem(name, (*self.img_suffix, *IMAGE_SUFFIXES))
            info['seg_map_path'] = osp.join(label_dir, stem + self.seg_map_suffix)
        return info

    def _img_dir(self) -> str:
        return self.data_prefix.get('img_path') or self.data_root or ''

    def _listed_names(self) -> list[str]:
        names, suffixes = read_list(self.ann_file, 'unlabelled images', self.backend_args), self.img_suffix
        return [name + suffixes[0] * (_stem(name, (*suffixes, *IMAGE_SUFFIXES)) == name) for name in names]

    def _folder_names(self, folder: str) -> list[str]:
        files = fileio.list_dir_or_file(folder or '.', list_dir=False, recursive=True, backend_args=self.backend_args)
        # Folders that are hidden hold thumbnails and the like; hidden files the engine leaves out itself.
        images = (name for name in files if _stem(name, self.img_suffix) != name and '/.' not in f'/{name}')
        return sorted(images, key=lambda name: _stem(name, self.img_suffix))


def _stem(name: str, suffixes: Sequence[str]) -> str:
    """A name without that of ``suffixes`` in which it ends, regardless of case."""
    found = next((suffix for suffix in suffixes if name.lower().endswith(suffix.lower())), '')
    return name[: len(name) - len(found)]
