"""Configs as the tools read them."""

from __future__ import annotations

import ast
from typing import Any

from mmengine.config import Config
from mmengine.hub import get_config


def load_config(path: str, options: dict | None = None) -> Config:
    """Reads a config and merges options into it.

    Besides what mmengine does, an option ``data_root`` reaches every part that has the config's top-level data root.

    Args:
        path (str): Of the config; ``package::path`` is one that an installed package carries.
        options (dict, optional): Dotted keys and values, as of ``--cfg-options``.

    Returns:
        Config: The merged config.

    Raises:
        ValueError: If ``data_root`` is given but the config has none at its top level.
    """
    return merge_options(get_config(path) if '::' in path else Config.fromfile(path), options, path)


def merge_options(config: Config, options: dict | None, name: str) -> Config:
    """Merges options into a config, as :func:`load_config` does; ``name`` is the config's in errors."""
    options = options or {}
    old = config.get('data_root')
    if 'data_root' in options and old is None:
        raise ValueError(
            f'{name} has no data_root at its top level that data_root={options["data_root"]} could replace: name the '
            'part, for instance train_dataloader.dataset.data_root.'
        )
    config.merge_from_dict(options)
    if 'data_root' in options:
        _replace_data_root(config._cfg_dict, old, options['data_root'])
    return config


def _replace_data_root(part: Any, old: str, new: str) -> None:
    if isinstance(part, dict):
        for key, value in part.items():
            if key == 'data_root' and value == old:
                part[key] = new
            else:
                _replace_data_root(value, old, new)
    elif isinstance(part, (list, tuple)):
        for value in part:
            _replace_data_root(value, old, new)


def parse_config(text: str) -> Config:
    """Reads the text of a config that a checkpoint carries, which is values, lists and dicts; nothing in it is run.

    Args:
        text (str): As ``Config.pretty_text`` writes it.

    Returns:
        Config: Of these values; modules that it names are not imported.

    Raises:
        ValueError: If there is anything else in it.
    """
    values = {}
    try:
        statements = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # NUL, surrogates, deep nesting
        raise ValueError(f'the config is no Python: {error}') from error
    for statement in statements:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                try:
                    values[name] = _literal(value)
                except (TypeError, RecursionError) as error:  # a list as a key
                    raise ValueError(f'the config holds {name}, which is no value ({error})') from error
            case _:
                raise ValueError(f'the config holds {ast.unparse(statement)}, which is no assignment')
    try:
        return Config(values)
    except KeyError as error:  # a name that the engine keeps for itself
        raise ValueError(f'the config holds a name that it cannot have: {error.args[0]}') from error


def _literal(node: ast.expr) -> Any:
    match node:
        case ast.Call(func=ast.Name(id='dict'), args=[], keywords=keywords) if all(k.arg for k in keywords):
            return {keyword.arg: _literal(keyword.value) for keyword in keywords}
        case ast.Call(func=ast.Name(id='dict'), args=[ast.Dict() as mapping], keywords=[]):
            return _literal(mapping)
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {_literal(key): _literal(value) for key, value in zip(keys, values) if key}
        case ast.List(elts=items):
            return [_literal(item) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_literal(item) for item in items)
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ValueError(f'the config holds {ast.unparse(node)}, which is no value') from None
