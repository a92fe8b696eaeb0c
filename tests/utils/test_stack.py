"""The stack check."""

from types import SimpleNamespace

import pytest

from mmseg_derprop.utils import stack

FORK = ['onedl-mmengine', 'onedl-mmcv', 'onedl_mmsegmentation', 'onedl-mmpretrain']
ORIGINAL = ['mmengine', 'mmcv', 'mmsegmentation', 'mmpretrain']


@pytest.fixture
def install(monkeypatch):
    """Returns a function that makes the given distributions the installed ones."""

    def install(names):
        found = [SimpleNamespace(metadata={'Name': name}) for name in ('torch', *names)]
        monkeypatch.setattr(stack, 'distributions', lambda: found)

    return install


@pytest.mark.parametrize(
    'names', [FORK, ORIGINAL, FORK[:3], ['mmengine-lite', 'mmcv-lite', 'MMSegmentation'], [None, *FORK]]
)
def test_one_stack_is_accepted(install, names):
    """None: a folder without metadata, as a broken uninstall leaves it."""
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
