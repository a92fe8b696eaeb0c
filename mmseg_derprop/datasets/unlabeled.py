"""Images without labels, and checks of files before training."""

from __future__ import annotations

import os.path as osp
from collections.abc import Sequence

import mmengine
from mmengine import fileio
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff')


def check_files(paths: Sequence[str], what: str, source: str, backend_args: dict | None = None) -> None:
    """Checks that files exist, where they lie on a local disk.

    Remote storage is left alone: a request for each file would take longer than the failure it
    prevents.

    Args:
        paths (Sequence[str]): Files to look for.
        what (str): What they are, e.g. ``'labelled images'``.
        source (str): Who names them, e.g. the path of a list.
        backend_args (dict, optional): MMEngine's file backend. Defaults to the one that the path
            implies.

    Raises:
        FileNotFoundError: If some do not exist; names how many and the first three.
    """
    if not paths or not _is_local(paths[0], backend_args):
        return
    missing = [path for path in paths if not osp.isfile(path)]
    if missing:
        raise FileNotFoundError(
            f'{len(missing)} of {len(paths)} {what} named by {source} do not exist, first '
            f'{missing[:3]}: the list is longer than the data, or data_root, data_prefix or a '
            'suffix is wrong; mend the list or the config'
        )


def check_folder(path: str, what: str, backend_args: dict | None = None) -> None:
    """Checks that a folder exists, where it lies on a local disk.

    Args:
        path (str): The folder; '' is the current one.
        what (str): What it is, e.g. ``'data_root of the labelled images'``.
        backend_args (dict, optional): MMEngine's file backend. Defaults to the one that the path
            implies.

    Raises:
        FileNotFoundError: If it does not exist.
    """
    if path and _is_local(path, backend_args) and not osp.isdir(path):
        raise FileNotFoundError(
            f'{what} is {path!r}, which is no folder; download or link the data there, or change the config'
        )


def check_list(path: str, what: str, backend_args: dict | None = None) -> None:
    """Checks that a list of images exists, wherever it lies.

    Args:
        path (str): The list.
        what (str): What it lists, e.g. ``'labelled images'``.
        backend_args (dict, optional): MMEngine's file backend. Defaults to the one that the path
            implies.

    Raises:
        FileNotFoundError: If it does not exist.
    """
    if not fileio.isfile(path, backend_args=backend_args):
        raise FileNotFoundError(
            f'the list of {what} is {path!r}, which is no file; write it, change ann_file, or '
            'leave ann_file out to use all images of the folder'
        )


def _is_local(path: str, backend_args: dict | None) -> bool:
    backend = fileio.get_file_backend(path, backend_args=backend_args)
    return isinstance(backend, fileio.LocalBackend)


@DATASETS.register_module()
class UnlabeledDataset(BaseSegDataset):
    """Images that need no label file: those of a list, or all of a folder and its subfolders.

    Labels may exist. They are named if ``data_prefix`` has ``seg_map_path`` and serve the
    statistics of pseudo-labels only; a missing label file is no error.

    Args:
        ann_file (str): List with one id or image name a line. Defaults to '', all images of the
            folder.
        img_suffix (str | tuple[str]): Suffixes of images, in a folder regardless of case. A listed
            name that carries no image suffix gets the first one.
        seg_map_suffix (str): Suffix of label files.
        data_prefix (dict): ``img_path`` and, if labels exist, ``seg_map_path``.
        label_map (dict, optional): New class id for each old one in the label files.
            ``SemiDataset`` passes on that of the labelled images.
        lazy_init (bool): Whether to look for images only when they are needed. Defaults to False.
        **kwargs: Passed to ``BaseSegDataset``.

    Raises:
        FileNotFoundError: If the data root, the folder, the list or a listed image does not exist.
        ValueError: If the list or folder names no image.
    """

    def __init__(
        self,
        ann_file: str = '',
        img_suffix: str | Sequence[str] = IMAGE_SUFFIXES,
        seg_map_suffix: str = '.png',
        data_prefix: dict = dict(img_path=''),  # noqa: B006
        label_map: dict | None = None,
        lazy_init: bool = False,
        **kwargs,
    ) -> None:
        suffixes = (img_suffix,) if isinstance(img_suffix, str) else tuple(img_suffix)
        # Lazy at first, because load_data_list hands on the label map.
        super().__init__(
            ann_file=ann_file,
            img_suffix=suffixes,
            seg_map_suffix=seg_map_suffix,
            data_prefix=data_prefix,
            lazy_init=True,
            **kwargs,
        )
        if label_map is not None:
            self.label_map = label_map
        if not lazy_init:
            self.full_init()

    def load_data_list(self) -> list[dict]:
        """Names the images and, where labels may exist, the label files.

        Returns:
            list[dict]: As ``BaseSegDataset`` has them, without ``seg_map_path`` where there are no
            labels.
        """
        img_dir = self.data_prefix.get('img_path') or self.data_root or ''
        label_dir = self.data_prefix.get('seg_map_path')
        if self.data_root:
            check_folder(self.data_root, 'data_root of the unlabelled images', self.backend_args)
        check_folder(img_dir, 'the folder of unlabelled images', self.backend_args)
        names = self._listed_names() if self.ann_file else self._folder_names(img_dir)
        if not names:
            raise ValueError(
                f'{self.ann_file or osp.abspath(img_dir)} names no unlabelled image, at least 1 is '
                f'needed (suffixes {self.img_suffix}); fill it, or change ann_file, data_prefix or '
                'img_suffix'
            )
        data_list = []
        for stem, suffix in names:
            info = dict(
                img_path=osp.join(img_dir, stem + suffix),
                label_map=self.label_map,
                reduce_zero_label=self.reduce_zero_label,
                seg_fields=[],
            )
            if label_dir is not None:
                info['seg_map_path'] = osp.join(label_dir, stem + self.seg_map_suffix)
            data_list.append(info)
        if self.ann_file:
            paths = [info['img_path'] for info in data_list]
            check_files(paths, 'unlabelled images', self.ann_file, self.backend_args)
        return data_list

    def _listed_names(self) -> list[tuple[str, str]]:
        check_list(self.ann_file, 'unlabelled images', self.backend_args)
        lines = mmengine.list_from_file(self.ann_file, backend_args=self.backend_args)
        suffixes = (*self.img_suffix, *IMAGE_SUFFIXES)
        names = [line.strip() for line in lines if line.strip()]
        return [_split_suffix(name, suffixes) or (name, self.img_suffix[0]) for name in names]

    def _folder_names(self, folder: str) -> list[tuple[str, str]]:
        files = fileio.list_dir_or_file(folder or '.', list_dir=False, recursive=True, backend_args=self.backend_args)
        names = (_split_suffix(name, self.img_suffix) for name in files)
        return sorted(name for name in names if name)


def _split_suffix(name: str, suffixes: Sequence[str]) -> tuple[str, str] | None:
    """``name`` as (stem, suffix), or None if it ends in none of ``suffixes``."""
    for suffix in suffixes:
        if name.lower().endswith(suffix.lower()):
            return name[: -len(suffix)], name[-len(suffix) :]
    return None
