"""Which MMSegmentation is installed.

Two families of distributions provide the same import names: OpenMMLab's originals and the
maintained ``onedl-*`` fork. Installed together, the later one overwrites files of the earlier, and
what imports is a blend of both. So neither is a requirement of this package; it checks on import
instead.
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
        ImportError: If none is installed, if one lacks a part, or if distributions of both
            families are present, even a single stray one.
    """
    installed = installed_distributions()
    fork = [name for name in FORK if name in installed]
    original = [name for name in ORIGINAL if name in installed]
    if fork and original:
        raise ImportError(
            f'two MMSegmentation stacks are mixed: {", ".join(fork)} and {", ".join(original)} '
            'provide the same import names; one family is allowed. Remove both, then install one:\n'
            f'    pip uninstall -y {" ".join(fork + original)}\n'
            f'    {INSTALL["onedl"]}'
        )
    found = fork + original
    roles = ('mmengine', 'mmcv', 'mmsegmentation')
    missing = [role for role in roles if not any(_role(name) == role for name in found)]
    if missing:
        has = f'only {", ".join(found)} found' if found else 'none of its parts found'
        extra = 'openmmlab' if original else 'onedl'
        raise ImportError(
            f'mmseg_derprop needs an MMSegmentation stack, {has}; '
            f'missing: {", ".join(missing)}. Install it:\n'
            f'    {INSTALL[extra]}'
        )


def _role(name: str) -> str:
    """The original's name for what a distribution provides: ``onedl-mmcv`` gives ``mmcv``."""
    return name.removeprefix('onedl-').removesuffix('-lite')


def extend_config_packages() -> None:
    """Teaches mmengine where configs named ``mmseg::`` and ``mmseg_derprop::`` lie.

    mmengine looks the distribution of a scope up in a table that knows neither this package nor
    the fork's names.
    """
    from mmengine.config.utils import MODULE2PACKAGE

    # A module of the package, not its distribution: mmengine looks for the package in the folder of a distribution,
    # where an editable installation has none, and asks the import system only for names that no distribution has.
    MODULE2PACKAGE['mmseg_derprop'] = 'mmseg_derprop.version'
    installed = installed_distributions()
    for scope, name in (('mmseg', 'mmsegmentation'), ('mmpretrain', 'mmpretrain')):
        if f'onedl-{name}' in installed:
            MODULE2PACKAGE[scope] = f'onedl-{name}'
