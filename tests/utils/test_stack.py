"""The stack check, and configs named by package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution

import pytest
from mmengine.config import Config

from mmseg_derprop.utils import stack

FORK = ['onedl-mmengine', 'onedl-mmcv', 'onedl_mmsegmentation', 'onedl-mmpretrain']
ORIGINAL = ['mmengine', 'mmcv', 'mmsegmentation', 'mmpretrain']


class _Distribution:
    def __init__(self, name: str | None) -> None:
        self.metadata = {'Name': name}


@pytest.fixture
def install(monkeypatch):
    """Returns a function that makes the given distributions the installed ones."""

    def install(names):
        monkeypatch.setattr(stack, 'distributions', lambda: map(_Distribution, ['torch', *names]))

    return install


@pytest.mark.parametrize(
    'names',
    [
        FORK,
        ORIGINAL,
        FORK[:3],
        ['mmengine-lite', 'mmcv-lite', 'MMSegmentation'],
        [None, *FORK],  # a folder without metadata, as a broken uninstall leaves it
    ],
)
def test_one_stack_is_accepted(install, names):
    install(names)
    stack.check_stack()


@pytest.mark.parametrize(
    ('names', 'extra'), [([], 'onedl'), (['onedl-mmengine'], 'onedl'), (['mmengine', 'mmcv'], 'openmmlab')]
)
def test_half_a_stack_names_the_missing_part(install, names, extra):
    install(names)
    with pytest.raises(ImportError, match='missing: .*mmsegmentation') as error:
        stack.check_stack()
    assert stack.INSTALL[extra] in str(error.value)


@pytest.mark.parametrize('names', [FORK + ORIGINAL, [*FORK, 'mmcv-lite'], [*ORIGINAL, 'onedl-mmpretrain']])
def test_mixed_stacks_name_what_to_uninstall(install, names):
    install(names)
    with pytest.raises(ImportError, match='mixed') as error:
        stack.check_stack()
    command = next(line for line in str(error.value).splitlines() if 'pip uninstall -y' in line)
    assert set(command.split()[3:]) == {name.replace('_', '-') for name in names}


def test_mmseg_bases_resolve(tmp_path):
    stack.extend_config_packages()
    for base in ('_base_/models/deeplabv3plus_r50-d8.py', 'pspnet/pspnet_r50-d8_4xb4-20k_voc12aug-512x512.py'):
        file = tmp_path / 'config.py'
        file.write_text(f'_base_ = [{"mmseg::" + base!r}]\nmodel = dict(test_cfg=dict(mode="slide"))\n')
        config = Config.fromfile(file)
        assert config.model.test_cfg.mode == 'slide' and 'type' in config.model.decode_head


def test_own_bases_are_looked_up_in_the_package():
    from mmengine.config.utils import MODULE2PACKAGE
    from mmengine.utils import get_installed_path, is_installed

    stack.extend_config_packages()
    name = MODULE2PACKAGE['mmseg_derprop']
    assert is_installed(name)
    with pytest.raises(PackageNotFoundError):  # whose folder would lack the package in an editable installation
        distribution(name)
    assert get_installed_path(name).endswith('mmseg_derprop')
