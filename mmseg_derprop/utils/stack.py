"""Which MMSegmentation is installed.

Two families of distributions provide the same import names: OpenMMLab's originals and the maintained ``onedl-*`` fork.
Installed together, what imports is a blend of both. So neither is a requirement of this package; it checks on import.
"""

from __future__ import annotations

import re
from importlib.metadata import distributions

FORK = ('onedl-mmengine', 'onedl-mmcv', 'onedl-mmsegmentation', 'onedl-mmpretrain')
ORIGINAL = ('mmengine', 'mmengine-lite', 'mmcv', 'mmcv-lite', 'mmsegmentation', 'mmpretrain')

INSTALL = {
    'onedl': 'pip install torch torchvision onedl-mmengine onedl-mmcv onedl-mmsegmentation onedl-mmpretrain',
    'openmmlab': 'pip install "torch>=2.4,<2.6" mmengine "mmcv>=2.1,<2.2" "mmsegmentation>=1.2.2" mmpretrain',
}


def installed_distributions() -> set[str]:
    """Names of all installed distributions, normalised (lower case, single dashes)."""
    names = (dist.metadata['Name'] for dist in distributions())
    # A broken installation leaves folders whose metadata has no name.
    return {re.sub(r'[-_.]+', '-', name).lower() for name in names if name}


def check_stack() -> None:
    """Checks that exactly one MMSegmentation stack is installed.

    Raises:
        ImportError: If none is installed, if one lacks a part, or if distributions of both families are present.
    """
    installed = installed_distributions()
    fork = [name for name in FORK if name in installed]
    original = [name for name in ORIGINAL if name in installed]
    found = fork + original
    if fork and original:
        raise ImportError(
            f'two MMSegmentation stacks are mixed: {", ".join(fork)} and {", ".join(original)} provide the same import '
            f'names. Remove both, then install one:\n    pip uninstall -y {" ".join(found)}\n    {INSTALL["onedl"]}'
        )
    roles = {name.removeprefix('onedl-').removesuffix('-lite') for name in found}
    missing = [role for role in ('mmengine', 'mmcv', 'mmsegmentation') if role not in roles]
    if missing:
        raise ImportError(
            f'mmseg_derprop needs an MMSegmentation stack, but has only {", ".join(found) or "nothing"}; '
            f'missing: {", ".join(missing)}. Install it:\n    {INSTALL["openmmlab" if original else "onedl"]}'
        )


def extend_config_packages() -> None:
    """Teaches mmengine's table of scopes where configs named ``mmseg::`` and ``mmseg_derprop::`` lie."""
    from mmengine.config.utils import MODULE2PACKAGE

    # A module of the package, not its distribution: mmengine looks for the package in the folder of a distribution,
    # where an editable installation has none, and asks the import system only for names that no distribution has.
    MODULE2PACKAGE['mmseg_derprop'] = 'mmseg_derprop.version'
    installed = installed_distributions()
    for scope, name in (('mmseg', 'mmsegmentation'), ('mmpretrain', 'mmpretrain')):
        if f'onedl-{name}' in installed:
            MODULE2PACKAGE[scope] = f'onedl-{name}'
