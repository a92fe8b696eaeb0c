"""What a wheel carries, and that it serves where nothing else of this repository is."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution, packages_distributions
from pathlib import Path

import pytest
from mmengine.registry import Registry
from mmseg import registry as mmseg_registry
from packaging.requirements import Requirement

from mmseg_derprop import registry
from mmseg_derprop_cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
BUILD = 'import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])'
PLAIN = """
_base_ = [
    'mmseg::_base_/models/fcn_unet_s5-d16.py',
    'mmseg::_base_/schedules/schedule_20k.py',
    'mmseg::_base_/default_runtime.py',
]
data_preprocessor = dict(size=(64, 64))
model = dict(data_preprocessor=data_preprocessor, test_cfg=dict(_delete_=True, mode='whole'))
model['backbone'] = dict(base_channels=8)
model['decode_head'] = dict(in_channels=8, channels=8, num_classes=6)
model['auxiliary_head'] = dict(in_channels=16, channels=8, num_classes=6)
load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
crop = dict(type='RandomCrop', crop_size=(64, 64), cat_max_ratio=0.75)
data = dict(type='ShapesDataset', data_root=DATA, ann_file='ImageSets/Segmentation/labeled.txt')
data.update(data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'))
data.update(pipeline=[*load, crop, dict(type='PackSegInputs')])
train_dataloader = dict(batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler'), dataset=data)
val_dataloader = val_cfg = val_evaluator = None
test_dataloader = dict(dataset=dict(data, pipeline=[*load, dict(type='PackSegInputs')]))
test_evaluator = dict(type='IoUMetric')
train_cfg = dict(max_iters=2)
log_level = 'WARNING'
"""
SEMI = """
_base_ = __import__('mmseg_derprop') and ['plain.py', 'mmseg_derprop::_base_/methods/derprop.py']
model = dict(_base_.method, _delete_=True, segmentor=_base_.model)
model['propagation_head'].update(in_index=0)
train_dataloader = dict(_base_.train_dataloader, _delete_=True, batch_size=4, collate_fn=dict(type='semi_collate'))
train_dataloader['sampler'] = dict(type='SemiSampler', num_labeled=2, num_unlabeled=2)
train_dataloader['dataset'] = dict(type='SplitDataset', supervised=_base_.train_dataloader.dataset)
train_dataloader['dataset'].update(unlabeled='ImageSets/Segmentation/unlabeled.txt')
optim_wrapper = dict(constructor='SemiOptimWrapperConstructor')
"""


def tracked_files():
    """Files of the working tree that belong to the project."""
    command = ['git', 'ls-files', '-co', '--exclude-standard']
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip('needs the git checkout')
    return [name for name in listed.stdout.splitlines() if os.path.lexists(ROOT / name)]


def build(kind, source, folder):
    command = [sys.executable, '-W', 'ignore', '-c', BUILD, f'build_{kind}', str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """A wheel of the checkout's source distribution."""
    pytest.importorskip('setuptools')
    folder = tmp_path_factory.mktemp('build')
    source = folder / 'source'
    for name in tracked_files():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name, follow_symlinks=False)
    build('sdist', source, folder)
    (archive,) = folder.glob('*.tar.gz')
    shutil.unpack_archive(archive, folder / 'unpacked')
    (unpacked,) = (folder / 'unpacked').iterdir()
    build('wheel', unpacked, folder)
    return next(folder.glob('*.whl'))


@pytest.fixture(scope='module')
def site(wheel, tmp_path_factory):
    """Folder with the unpacked wheel, as an installation leaves it."""
    folder = tmp_path_factory.mktemp('site')
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def run(site, folder, *command):
    environment = {**os.environ, 'PYTHONPATH': str(site), 'PYTHONWARNINGS': 'ignore', 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, *map(str, command)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_wheel_carries_package_configs_and_tools(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {f'mmseg_derprop/.mim/{n}' for n in tracked_files() if n.startswith(('configs/', 'tools/'))}
    wanted |= {name for name in tracked_files() if name.startswith('mmseg_derprop/') and name.endswith('.py')}
    wanted.add('mmseg_derprop/.mim/model-index.yml')
    assert len(wanted) > 80 and wanted <= names
    assert not [name for name in names if name.startswith(('tests/', 'configs/', 'tools/'))]


def test_all_imported_packages_are_declared(site):
    (info,) = site.glob('*.dist-info')
    requires = [Requirement(line) for line in Distribution.at(info).requires]
    declared = {r.name.lower() for r in requires if not re.search('test|dev', str(r.marker))}
    statement = re.compile(r'^ *(?:import|from) (\w+)(?:[\w.]* import | as |[.\w]*$)', re.M)
    imported = {name for path in site.rglob('*.py') for name in statement.findall(path.read_text())}
    own = {'mmseg_derprop', 'mmseg_derprop_cli', 'reference', 'make_split'}
    of_others = imported - sys.stdlib_module_names - own
    found = packages_distributions()  # of opencv-python-headless, where that is in place of opencv-python
    names = {module: {name.lower().removesuffix('-headless') for name in of} for module, of in found.items()}
    undeclared = [module for module in of_others if declared.isdisjoint(names.get(module, {module.lower()}))]
    assert len(of_others) > 12 and not undeclared


HELP = """
import contextlib, sys
from mmseg_derprop_cli import COMMANDS, main
for name in COMMANDS:
    sys.argv = ['mmseg-derprop', name, '--help']
    with contextlib.suppress(SystemExit):
        main()
"""


@pytest.mark.slow
def test_the_command_of_an_installation(site, tmp_path):
    points = next(site.glob('*.dist-info/entry_points.txt')).read_text()
    assert 'mmseg-derprop = mmseg_derprop_cli:main' in points
    text = run(site, tmp_path, '-c', HELP)
    assert all(f'usage: mmseg-derprop {name} ' in text for name in COMMANDS)


@pytest.mark.parametrize('name, words', [('tran', 'no command tran. Choose'), ('train', 'two MMSegmentation stacks')])
def test_a_command_that_cannot_run_says_why_in_a_sentence(site, tmp_path, name, words):
    for other in ('mmcv', 'onedl-mmcv'):
        (tmp_path / f'{other}-9.dist-info').mkdir()
        (tmp_path / f'{other}-9.dist-info/METADATA').write_text(f'Metadata-Version: 2.1\nName: {other}\nVersion: 9\n')
    with pytest.raises(AssertionError, match=words) as error:
        run(site, tmp_path, '-m', 'mmseg_derprop_cli', name)
    assert 'Traceback' not in str(error.value)


@pytest.mark.slow
def test_configs_of_an_installation_train(site, shapes, tmp_path):
    (tmp_path / 'plain.py').write_text(PLAIN.replace('DATA', repr(str(shapes))))
    (tmp_path / 'semi.py').write_text(SEMI)
    assert len(SEMI.strip().splitlines()) <= 10
    # As `mim train mmseg_derprop semi.py` calls it.
    run(site, tmp_path, site / 'mmseg_derprop/.mim/tools/train.py', 'semi.py', '--launcher', 'none')
    work = tmp_path / 'work_dirs/semi'
    assert (work / 'iter_2.pth').is_file()
    # MMSegmentation's own code finds this package through the config that the run left, and nothing else.
    image = next((shapes / 'JPEGImages').glob('val*'))
    code = (
        'import sys; from mmseg.apis import MMSegInferencer; assert "mmseg_derprop" not in sys.modules; '
        f'ask = MMSegInferencer({str(work / "semi.py")!r}, {str(work / "iter_2.pth")!r}, device="cpu"); '
        f'found = ask({str(image)!r}, show=False); '
        'print(sys.modules["mmseg_derprop"].__file__, found["predictions"].shape); '
        # Shipped configs are found by their names.
        'from mmseg_derprop.utils.config import load_config; from mmengine.config import Config; '
        'open("own.py", "w").write("_base_ = \'mmseg_derprop::derprop/r101_voc_1-4.py\'"); '
        'a, b = load_config("mmseg_derprop::derprop/r101_voc_1-4.py"), Config.fromfile("own.py"); '
        'print(a.filename, a.model.type, b.model.type, b.model._scope_)'
    )
    *_, line, names = run(site, tmp_path, '-c', code).splitlines()
    assert line == f'{site}/mmseg_derprop/__init__.py (64, 64)'
    path = site / 'mmseg_derprop/.mim/configs/derprop/r101_voc_1-4.py'
    assert names == f'{path} SemiSegmentor SemiSegmentor mmseg_derprop'


def test_every_registry_of_mmseg_has_a_child():
    """What is inherited from a base of this package is looked up in the scope of the package."""
    parents = {name: value for name, value in vars(mmseg_registry).items() if isinstance(value, Registry)}
    assert len(parents) > 15
    for name, parent in parents.items():
        child = getattr(registry, name)
        assert child.parent is parent and child.scope == 'mmseg_derprop' and not child.module_dict
    for name, part in dict(MODELS='SemiSegmentor', HOOKS='SegVisualizationHook', TRANSFORMS='PackSegInputs').items():
        assert getattr(registry, name).get(part) is getattr(mmseg_registry, name).get(part)


def test_a_config_whose_base_is_of_this_package_trains(make_runner, tmp_path):
    path = tmp_path / 'own.py'
    path.write_text("_base_ = 'mmseg_derprop::derprop/tiny_shapes.py'\n")
    runner = make_runner({'train_cfg.max_iters': 2}, path=path)
    assert runner.cfg.train_dataloader.dataset._scope_ == 'mmseg_derprop'
    runner.train()
    assert runner.iter == 2
