"""Names of files and texts from data: they do not leave their folder, and no shell, page or config runs them."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from tiny_checkpoints import call, save_checkpoint

from mmseg_derprop.apis.image_files import find_images
from mmseg_derprop.apis.label_folder import LabelFolder
from mmseg_derprop.datasets import NameLeaves, SemiDataset, UnlabeledDataset
from mmseg_derprop.datasets.outside import leaves
from mmseg_derprop.engine import CheckNamesHook

pytestmark = pytest.mark.usefixtures('quick_runs')
LISTS = 'ImageSets/Segmentation'
ODD = ['; touch x', '$(touch x)', '`touch x`', "' && touch x '", '-rf', '<script>x', '${x}', '%(x)s', '{0.x}']
LEAVE = ['../other/a', '/etc/passwd', 'deeper/../../../a', '..', 'http://127.0.0.1:9/a']


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The current folder, in which ``touch x`` would leave a file."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def odd(shapes, place):
    """A data set whose files have odd names."""
    for folder in ('JPEGImages', 'SegmentationClass', LISTS):
        (place / 'data' / folder).mkdir(parents=True)
    for split in ('labeled', 'unlabeled', 'val'):
        ids = [f'{split[:3]}{name}' if name[0] != '-' else f'-{split}' for name in ODD]
        for number, name in enumerate(ids):
            source = f'{split}_{number % 4:05d}'
            shutil.copy(shapes / f'JPEGImages/{source}.jpg', place / f'data/JPEGImages/{name}.jpg')
            shutil.copy(shapes / f'SegmentationClass/{source}.png', place / f'data/SegmentationClass/{name}.png')
        (place / 'data' / LISTS / f'{split}.txt').write_text(''.join(f'{name}\n' for name in ids))
    return place / 'data'


@pytest.fixture
def run(semi_config, odd):
    """A config of a run of two iterations on it, and a checkpoint."""
    config = semi_config({'train_cfg.max_iters': 2, 'train_cfg.val_interval': 2})
    config.dump('old.py')
    root = config.data_root
    Path('run.py').write_text(Path('old.py').read_text().replace(repr(root), repr(str(odd))))
    assert root not in Path('run.py').read_text()
    return 'run.py', save_checkpoint(config, 'run.pth')


def test_odd_names_go_through_the_tools(run, odd, place, capsys):
    images = odd / 'JPEGImages'
    call('train.py', 'run.py', '--work-dir', 'work')
    call('test.py', *run, '--work-dir', 'tested', '--out', 'maps', '--show-dir', 'shown', '--predict-on', 'student')
    call('image_demo.py', images, *run, '--out-dir', 'pictures', '--workers', 0, '--legend')
    call('pseudo_label.py', images, *run, '--out-dir', 'labels', '--workers', 0, '--threshold', 0)
    call('analysis_tools/browse_dataset.py', 'run.py', '--number', 1, '--out-dir', 'browsed')
    options = ['--images', images, '--labels', odd / 'SegmentationClass', '--num', 20, '--out', 'splits', '--nproc', 1]
    call('dataset_converters/make_split.py', *options, '--stratify')
    assert len(list(Path('maps').glob('*.png'))) == len(ODD)
    names = {path.relative_to(images) for path in images.rglob('*.jpg')}
    assert len(names) == 3 * len(ODD)
    assert {path.relative_to('pictures') for path in Path('pictures').rglob('*.jpg')} == names
    assert {path.relative_to('labels/labels').with_suffix('.jpg') for path in Path('labels/labels').glob('*')} == names
    assert len(Path('splits/20/labeled.txt').read_text().splitlines()) == 20
    assert not list(place.rglob('x'))


def plain_config(dataset=lambda data: data):
    """The supervised part of run.py."""
    config = Config.fromfile('run.py')
    data = config.train_dataloader.dataset.labeled.to_dict()
    crop = dict(type='RandomCrop', crop_size=(33, 33))
    load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
    data['pipeline'] = [*load, crop, dict(type='PackSegInputs')]
    plain = {key: value for key, value in config.to_dict().items() if key != 'method'}
    plain |= dict(model=config.model.segmentor.to_dict(), custom_hooks=[], val_cfg=dict(type='ValLoop'))
    plain['optim_wrapper'] = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))
    plain['train_dataloader'] = dict(
        batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler'), dataset=dataset(data)
    )
    Config(plain).dump('plain.py')


def test_commands_that_are_printed_can_be_copied(run, odd, place, capsys):
    plain_config()
    out = '$(touch x); touch x.py'
    lists = [odd / LISTS / 'labeled.txt', '--unlabeled', odd / LISTS / 'unlabeled.txt']
    call('semi_config.py', '--base', 'plain.py', '--labeled', *lists, '--out', out)
    commands = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith('  python ')]
    assert len(commands) == 2 and all(shlex.split(command)[-1] == out for command in commands)
    for command in commands:
        subprocess.run(command.replace('python', 'true', 1), shell=True, check=True)
    assert not (place / 'x').exists()


# Lists ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path):
    """Copies of a labelled image inside and beside of a data root."""
    root = tmp_path / 'root'
    for folder in ('root/images', 'root/labels', 'root/other', 'other'):
        (tmp_path / folder).mkdir(parents=True)
    return root


def unlabeled(root, *names, **options):
    (root / 'list.txt').write_text(''.join(f'{name}\n' for name in names))
    return UnlabeledDataset(data_root=str(root), ann_file='list.txt', data_prefix=dict(img_path='images'), **options)


@pytest.mark.parametrize('name', LEAVE)
def test_unlabelled_lists_stay_in_the_data_root(name, data):
    (data / 'images/a.jpg').touch()
    with pytest.raises(NameLeaves, match=r'list.txt, line 3: .* leads out of .*root, .* allow_outside=True') as error:
        unlabeled(data, 'a', '', name.replace('../other', '../../other'))
    assert repr(name.replace('../other', '../../other')) in str(error.value)


def test_names_within_the_data_root_are_no_matter(data):
    for path in ('images/a.jpg', 'other/b.jpg', 'images/c..d.jpg'):
        (data / path).touch()
    names = ['a', '../other/b', 'c..d', str(data / 'other/b.jpg'), '../images/a.jpg']
    assert len(unlabeled(data, *names)) == 5


def test_a_link_within_the_data_root_may_lead_elsewhere(data, tmp_path):
    (tmp_path / 'other/a.jpg').touch()
    (data / 'images/link').symlink_to(tmp_path / 'other')
    assert len(unlabeled(data, 'link/a')) == 1


def test_names_outside_on_demand(data, tmp_path):
    (tmp_path / 'other/a.jpg').touch()
    names = ['../../other/a', str(tmp_path / 'other/a.jpg')]
    assert len(unlabeled(data, *names, allow_outside=True)) == 2


@pytest.mark.parametrize('kind', ['labeled', 'unlabeled', 'val'])
@pytest.mark.parametrize('name', ['../../out', 'ABSOLUTE'])
def test_training_on_a_list_that_leaves(kind, name, run, odd, place):
    """The plain data sets of labelled and validation images are MMSegmentation's own."""
    name = name.replace('ABSOLUTE', str(place / 'out'))
    shutil.copy(odd / f'JPEGImages/lab{ODD[0]}.jpg', place / 'out.jpg')
    shutil.copy(odd / f'SegmentationClass/lab{ODD[0]}.png', place / 'out.png')
    path = odd / LISTS / f'{kind}.txt'
    path.write_text(f'{path.read_text()}{name}\n')
    with pytest.raises(SystemExit, match=rf'{kind}.txt, line {len(ODD) + 1}: .*{name}. leads out of'):
        call('train.py', 'run.py', '--work-dir', 'work')
    if kind == 'val':
        with pytest.raises(SystemExit, match='val.txt, line'):
            call('test.py', *run, '--work-dir', 'work')
    call('train.py', 'run.py', '--work-dir', 'again', '--cfg-options', 'train_dataloader.dataset.allow_outside=True')
    call('test.py', *run, '--work-dir', 'again', '--cfg-options', 'allow_outside=True')


def test_a_plain_config_whose_list_leaves(run, odd, place):
    plain_config(lambda data: dict(type='RepeatDataset', times=2, dataset=data))
    (odd / LISTS / 'labeled.txt').write_text('../../out\n')
    shutil.copy(odd / f'JPEGImages/lab{ODD[0]}.jpg', place / 'out.jpg')
    with pytest.raises(SystemExit, match=r"labeled.txt, line 1: '../../out' leads out of"):
        call('train.py', 'plain.py', '--work-dir', 'work')


@pytest.mark.parametrize('allowed', [False, True])
def test_unlabelled_images_of_any_data_set_stay(allowed, data, shapes):
    known = dict(type='ShapesDataset', pipeline=[], data_prefix=dict(img_path='JPEGImages'))
    labeled = dict(known, data_root=str(shapes), ann_file=f'{LISTS}/labeled.txt')
    (data / 'list.txt').write_text(f'{shapes}/JPEGImages/unlabeled_00000\n')
    unlabeled = dict(known, data_root=str(data), ann_file='list.txt', data_prefix=dict(img_path='images'))
    if allowed:
        assert SemiDataset(labeled, unlabeled, allow_outside=True).num_unlabeled == 1
    else:
        with pytest.raises(NameLeaves, match='list.txt, line 1: .*unlabeled_00000'):
            SemiDataset(labeled, unlabeled)


@pytest.mark.parametrize('part', [CheckNamesHook, UnlabeledDataset])
def test_the_permission_is_true_or_false(part):
    with pytest.raises(ValueError, match="allow_outside = 'no'"):
        part(allow_outside='no')


def test_paths_by_their_text():
    assert not leaves('a/b', ['']) and not leaves('/data/a', ['/data']) and not leaves('s3://x/a/b', ['s3://x/a'])
    assert leaves('/database/a', ['/data']) and leaves('a/../../b', ['a']) and leaves('s3://x/b', ['s3://x/a'])
    assert leaves('../a', ['']) and leaves('s3://x/a', ['/data']) and leaves('/etc/passwd', ['s3://x/a'])


def test_a_draw_reads_no_label_elsewhere(shapes, place):
    Path('list.txt').write_text('labeled_00000\n\n../JPEGImages/labeled_00001\n')
    words = [
        '--list',
        'list.txt',
        '--labels',
        shapes / 'SegmentationClass',
        '--num',
        1,
        '--out',
        'splits',
        '--nproc',
        1,
    ]
    with pytest.raises(SystemExit, match=r"list.txt, line 3: '../JPEGImages/labeled_00001' leads out of"):
        call('dataset_converters/make_split.py', *words)
    assert not Path('splits').exists()
    with pytest.raises(SystemExit, match='No such file'):
        call('dataset_converters/make_split.py', *words, '--allow-outside')


# Outputs -------------------------------------------------------------------------------------------------------------


def test_results_of_a_pattern_stay_in_their_folder(place):
    for folder in ('a/b', 'c'):
        (place / folder).mkdir(parents=True)
    (place / 'c/x.jpg').touch()
    with pytest.raises(ValueError, match='leads out of a, to ../c/x.jpg'):
        find_images('a/*/../../c/*.jpg')
    assert [image.name for image in find_images('a/../c/*.jpg')] == ['x.jpg']


def test_a_label_map_stays_in_its_folder(place):
    folder = LabelFolder('out', {}, ['a'], [[0, 0, 0]], 0.5)
    with pytest.raises(ValueError, match='../../x.jpg leads out of'):
        folder.label_path('../../x.jpg')


def test_a_name_that_breaks_a_line_gets_no_pseudo_label(run, odd, place, capsys):
    Path('images').mkdir()
    shutil.copy(odd / f'JPEGImages/lab{ODD[0]}.jpg', 'images/a\n..\\..\\b.jpg')
    with pytest.raises(SystemExit):
        call('pseudo_label.py', 'images', *run, '--out-dir', 'labels')
    assert 'cannot stand in images.txt' in capsys.readouterr().err


def test_a_resumed_run_removes_its_own_files_only(make_runner, tmp_path):
    """The names of outdated checkpoints are in the checkpoint that it goes on from."""
    hook = dict(type='ExactCheckpointHook', interval=2, max_keep_ckpts=1)
    make_runner({'train_cfg.max_iters': 2, 'default_hooks.checkpoint': hook}).train()
    path = tmp_path / 'work/iter_2.pth'
    victims = [tmp_path / 'victim.pth', tmp_path / 'work/notes.txt', tmp_path / 'work/old/iter_1.pth']
    own = tmp_path / 'work/best_mIoU_iter_1.pth'
    for file in (*victims, own):
        file.parent.mkdir(exist_ok=True)
        file.write_text('mine')
    checkpoint = torch.load(path, weights_only=False)
    names = [*map(str, victims), str(own), f'{tmp_path}/work/../victim.pth']
    info = checkpoint['message_hub']['runtime_info']
    info |= dict(outdated_checkpoints=names, keep_ckpt_ids=['../../victim', 2])
    checkpoint['message_hub']['resumed_keys'] |= dict(outdated_checkpoints=True, keep_ckpt_ids=True)
    torch.save(checkpoint, path)
    options = {'train_cfg.max_iters': 3, 'default_hooks.checkpoint': hook, 'resume': True, 'load_from': str(path)}
    make_runner(options).train()
    assert all(file.exists() for file in victims) and not own.exists()


def test_semi_dataset_hands_the_permission_on(data, tmp_path, shapes):
    sources = dict(
        labeled=dict(
            type='ShapesDataset',
            data_root=str(shapes),
            ann_file=f'{LISTS}/labeled.txt',
            data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
            pipeline=[],
        ),
        unlabeled=dict(
            type='UnlabeledDataset',
            data_root=str(data),
            ann_file='list.txt',
            data_prefix=dict(img_path='images'),
            pipeline=[],
        ),
    )
    (data / 'list.txt').write_text(f'{shapes}/JPEGImages/unlabeled_00000.jpg\n')
    with pytest.raises(NameLeaves):
        SemiDataset(**sources)
    assert len(SemiDataset(**sources, allow_outside=True)) == 5
