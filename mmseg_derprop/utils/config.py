"""Configs as the tools read them."""

from __future__ import annotations

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


def _replace_data_root(part: Any, old: str, new: str) -> None:
    if isinstance(part, dict):
<<<<<<< HEAD
        part.update({key: new for key, value in part.items() if key == 'data_root' and value == old})
        part = part.values()
    elif not isinstance(part, (list, tuple)):
        return
    for value in part:
        _replace_data_root(value, old, new)


def parse_config(text: str) -> Config:
    """Reads the text of a config that a checkpoint carries, as ``Config.pretty_text`` writes it; nothing in it is run.

    Raises:
        ValueError: If it holds more than values, lists and dicts.
    """
    values = {}
    try:
        for statement in ast.parse(text).body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    values[name] = _literal(value)
                case _:
                    raise ValueError(f'{ast.unparse(statement)} is no assignment')
        return Config(values)
    # No Python, a list as a key, deep nesting, a name that the engine keeps for itself.
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError, KeyError) as error:
        raise ValueError(f'the config holds more than values, lists and dicts: {error}') from error


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(_DictCalls().visit(node))
    except ValueError:
        raise ValueError(f'{ast.unparse(node)} is no value') from None


class _DictCalls(ast.NodeTransformer):
    """Turns ``dict(a=1)`` into ``{'a': 1}``, and ``dict({...})`` into what it holds."""

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        match node:
            case ast.Call(func=ast.Name(id='dict'), args=[], keywords=items) if all(item.arg for item in items):
                return ast.Dict([ast.Constant(item.arg) for item in items], [item.value for item in items])
            case ast.Call(func=ast.Name(id='dict'), args=[ast.Dict() as mapping], keywords=[]):
                return mapping
        return node
=======
        for key, value in part.items():
            if key == 'data_root' and value == old:
                part[key] = new
            else:
                _replace_data_root(value, old, new)
    elif isinstance(part, (list, tuple)):
        for value in part:
            _replace_data_root(value, old, new)
>>>>>>> main
