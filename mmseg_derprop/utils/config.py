"""Configs as the tools read them."""

from __future__ import annotations

import os.path as osp
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.hub import get_config


def load_config(path: str, options: dict | None = None) -> Config:
    """Reads a config, ``package::path`` where an installed package carries it, and merges ``--cfg-options`` into it.

    Besides what mmengine does, an option ``data_root`` reaches every part that has the config's top-level data root.

    Raises:
        ValueError: If ``data_root`` is given but the config has none at its top level.
    """
    config = get_config(path) if '::' in path else Config.fromfile(path)
    options, old = options or {}, config.get('data_root')
    if 'data_root' in options and old is None:
        raise ValueError(
            f'{path} must have a data_root at its top level that data_root={options["data_root"]} can replace, but has '
            'none. Name the part, for instance train_dataloader.dataset.data_root.'
        )
    config.merge_from_dict(options)
    if 'data_root' in options:
        _replace_data_root(config._cfg_dict, old, options['data_root'])
    return config


def default_work_dir(path: str) -> str:
    """``work_dirs/derprop/r50_voc_1-8`` for ``configs/derprop/r50_voc_1-8.py``: methods share names."""
    folder, name = osp.split(path.rpartition('::')[2])
    folder = osp.basename(osp.abspath(folder)) if folder else ''  # of ../name.py too
    return osp.join('work_dirs', folder, osp.splitext(name)[0])


def type_name(part: Mapping[str, Any]) -> str:
    """The class that a config names, ``'IoUMetric'``, whether by its name, with its scope or module, or itself."""
    kind = part.get('type')
    return getattr(kind, '__name__', str(kind)).rpartition('.')[2]


def _replace_data_root(part: Any, old: str, new: str) -> None:
    if isinstance(part, dict):
        if part.get('data_root') == old:
            part['data_root'] = new
        part = list(part.values())
    for value in part if isinstance(part, (list, tuple)) else ():
        _replace_data_root(value, old, new)
