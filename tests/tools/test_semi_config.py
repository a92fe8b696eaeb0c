"""tools/semi_config.py: what it writes for a base trains; what cannot work it says."""

import copy
import itertools
import re
import shutil

import pytest
import torch
from builders import cascade
from commands import ROOT, call
from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.registry import DATASETS, MODELS

from mmseg_derprop.apis.semi_config import make_semi_config
from mmseg_derprop.utils.config import load_config

LISTS = 'ImageSets/Segmentation'
HOOKS = ROOT / 'configs/_base_/semi_hooks.py'
_runs = itertools.count()
pytestmark = pytest.mark.usefixtures('quick_runs')


@pytest.fixture
def plain(shapes, small_segmentor):
    """A whole supervised config of the embedded data set."""
    load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
    crop = dict(type='RandomCrop', crop_size=(32, 32), cat_max_ratio=0.75)
    data = dict(
        type='ShapesDataset',
        data_root=str(shapes),
        ann_file=f'{LISTS}/labeled.txt',
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
        pipeline=[*load, crop, dict(type='PhotoMetricDistortion'), dict(type='PackSegInputs')],
    )
    val = dict(data, ann_file=f'{LISTS}/val.txt', pipeline=[*load, dict(type='PackSegInputs')])
    model = copy.deepcopy(small_segmentor)
    model['data_preprocessor']['size'] = (32, 32)
    return dict(
        default_scope='mmseg',
        model=model,
        train_dataloader=dict(batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler'), dataset=data),
        val_dataloader=dict(batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler'), dataset=val),
        val_evaluator=dict(type='IoUMetric', iou_metrics=['mIoU']),
        val_cfg=dict(type='ValLoop'),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=2, val_interval=2),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2)),
        log_processor=dict(by_epoch=False),
        log_level='WARNING',
    )


@pytest.fixture
def write(shapes, tmp_path, capsys):
    """Runs the tool on a base, a dict or a path; returns the path of its config and what it printed."""

    def make(base, *options, unlabeled=None):
        if isinstance(base, dict):
            Config(base).dump(tmp_path / 'base.py')
            base = tmp_path / 'base.py'
        unlabeled = unlabeled or shapes / LISTS / 'unlabeled.txt'
        lists = ['--labeled', shapes / LISTS / 'labeled.txt', '--unlabeled', unlabeled]
        capsys.readouterr()
        call('semi_config.py', '--base', base, *lists, '--out', tmp_path / 'semi.py', *options)
        return tmp_path / 'semi.py', capsys.readouterr().out

    return make


def train(path, work, **options):
    """Trains a written config; returns its runner."""
    config = load_config(str(path), options)
    name = f'semi_config_{next(_runs)}'
    config.merge_from_dict(dict(work_dir=str(work), experiment_name=name, visualizer=dict(name=name)))
    config.visualizer.setdefault('type', 'Visualizer')
    runner = Runner.from_cfg(config)
    start = {key: value.clone() for key, value in runner.model.state_dict().items()}
    runner.train()
    state = runner.model.state_dict()
    weights = [key for key in state if key.startswith('student.') and key.endswith('weight')]
    assert runner.iter == 2 and sum(not torch.equal(state[key], start[key]) for key in weights) > 0.9 * len(weights)
    assert all(torch.isfinite(value).all() for value in state.values())
    return runner


def test_a_plain_config(plain, write, tmp_path):
    path, output = write(plain, '--method', 'derprop')
    runner = train(path, tmp_path / 'work')
    assert runner.model.propagation_head.in_channels == 16 and runner.model.propagation_head.in_index == 1
    assert type(runner.val_loop).__name__ == 'TeacherStudentValLoop'
    sampler = runner.train_dataloader.sampler
    assert (sampler.num_labeled, sampler.num_unlabeled, runner.train_dataloader.batch_size) == (2, 2, 4)
    # Names lie in the data root, so that they move with it.
    data = runner.cfg.train_dataloader.dataset
    assert (data.labeled, data.unlabeled) == (f'{LISTS}/labeled.txt', f'{LISTS}/unlabeled.txt')
    for line in ('labelled    4 images', 'unlabelled  12 images', 'crop        32x32'):
        assert line in output
    assert 'feature 1   16 channels' in output and 'browse_dataset.py' in output and str(path) in output
    assert 'seconds an iteration on' in output and 'hours for 2 iterations' in output
    assert f'{path} --cfg-options load_from=work_dirs/{tmp_path.name}/base/iter_2.pth' in output


@pytest.mark.parametrize('method', ['unimatch_v2', 'derprop_published'])
def test_a_method_has_its_views(plain, write, method):
    config = load_config(str(write(plain, '--method', method)[0]))
    model = MODELS.build(config.model)
    dataset = DATASETS.build(config.train_dataloader.dataset)
    assert {*dataset[0]['inputs'], *dataset[4]['inputs']} == set(model.branches) and len(model.branches) > 3


def test_folders_lists_and_another_crop(plain, write, tmp_path, shapes):
    (tmp_path / 'more').mkdir()
    for name in (shapes / LISTS / 'unlabeled.txt').read_text().split():
        shutil.copy(shapes / f'JPEGImages/{name}.jpg', tmp_path / 'more')
    path, output = write(plain, '--crop-size', 24, 40, unlabeled=tmp_path / 'more')
    assert 'unlabelled  12 images' in output
    dataset = Runner.build_dataloader(load_config(str(path)).train_dataloader).dataset
    assert dataset[0]['inputs']['sup'].shape == dataset[4]['inputs']['weak'].shape == (3, 24, 40)
    train(path, tmp_path / 'work')  # the base would pad crops to its own size
    both = ['--unlabeled', shapes / LISTS / 'unlabeled.txt', tmp_path / 'more']
    path, output = write(plain, '--force', *both)
    assert 'unlabelled  24 images' in output
    assert Runner.build_dataloader(load_config(str(path)).train_dataloader).dataset.num_unlabeled == 24


HAND = """
_base_ = ['base.py', 'mmseg_derprop::_base_/methods/aligned_teacher.py', 'mmseg_derprop::_base_/semi_hooks.py']
model = dict(_base_.method, _delete_=True, segmentor=_base_.model)
train_dataloader = dict(_base_.train_dataloader, _delete_=True, batch_size=4, collate_fn=dict(type='semi_collate'))
train_dataloader['sampler'] = dict(type='SemiSampler', num_labeled=2, num_unlabeled=2)
train_dataloader['dataset'] = dict(type='SplitDataset', supervised=_base_.train_dataloader.dataset)
train_dataloader['dataset'].update(labeled='ImageSets/Segmentation/labeled.txt', crop_size=(32, 32))
train_dataloader['dataset'].update(unlabeled='ImageSets/Segmentation/unlabeled.txt')
train_dataloader['dataset'].update(branches=('weak', 'strong', 'strong2'))
optim_wrapper = dict(constructor='SemiOptimWrapperConstructor')
val_cfg = dict(type='TeacherStudentValLoop')
default_hooks = dict(checkpoint=dict(type='ExactCheckpointHook', save_best=['mIoU', 'aAcc']))
"""


@pytest.mark.parametrize('joined', ['tool', '*_base_.custom_hooks, *_base_.semi_hooks', '*_base_.semi_hooks, own'])
def test_hooks_of_the_base(joined, plain, write, tmp_path):
    """They run beside ours, wherever they stand, and where the data set is wrapped and best checkpoints are kept."""
    plain['custom_hooks'] = [dict(type='EmptyCacheHook')]
    plain['default_hooks']['checkpoint']['save_best'] = ['mIoU', 'aAcc']
    data = plain['train_dataloader']
    data['dataset'] = dict(type='RepeatDataset', times=9, dataset=data['dataset'])
    path, _ = write(plain)
    if joined != 'tool':
        path.write_text(f"{HAND}own = dict(type='EmptyCacheHook')\ncustom_hooks = [{joined}]\n")
    runner = train(path, tmp_path / 'work', **{'model.losses.hard.loss_weight': 0, 'model.teacher.momentum': 0.5})
    hooks = [type(hook).__name__ for hook in runner.hooks]
    ours = [hook.type for hook in load_config(str(HOOKS)).semi_hooks]
    assert {'PseudoLabelHook', 'NonFiniteHook'} <= set(ours) and 'ExactCheckpointHook' in hooks
    assert all(hooks.count(name) == 1 for name in ['EmptyCacheHook', *ours])
    history = runner.message_hub.log_scalars
    assert 'train/seg' in history and 'train/hard' not in history and len(runner.train_dataloader) == 6
    assert {path.name for path in (tmp_path / 'work').glob('best*')} == {
        f'best_{metric}_iter_2.pth' for metric in ('mIoU', 'aAcc')
    }


def test_a_base_in_pure_python(plain, write, tmp_path):
    """Its classes get their names, in a config that the written one can inherit."""
    path = tmp_path / 'pure.py'
    keys = [key for key in plain if key not in ('model', 'train_cfg', 'val_evaluator')]
    lines = [f'{key} = {plain[key]!r}' for key in keys]
    head = ['from mmengine.runner import IterBasedTrainLoop', 'from mmseg.evaluation import IoUMetric']
    head += ['from mmseg.models import EncoderDecoder', f'model = dict({plain["model"]!r}, type=EncoderDecoder)']
    head += ['train_cfg = dict(type=IterBasedTrainLoop, max_iters=2, val_interval=2)']
    path.write_text('\n'.join([*head, "val_evaluator = dict(type=IoUMetric, iou_metrics=['mIoU'])", *lines]))
    written, output = write(path)
    assert "'semi_base.py'" in written.read_text() and 'semi_base.py, which names the classes of' in output
    runner = train(written, tmp_path / 'work')
    assert type(runner.model.student).__name__ == 'EncoderDecoder'


def test_a_cascade_of_other_classes(plain, write, tmp_path):
    """The heads have five classes, the data six; the stem's features are finer than those of most channels."""
    plain['model'] = cascade()  # with a data_preprocessor that pads to no size
    path, output = write(plain)
    runner = train(path, tmp_path / 'work')
    assert runner.model.num_classes == 6 and 'num_classes=6' in path.read_text()
    assert 'classes     6, which the heads are given' in output


def test_a_base_of_the_model_zoo(write, tmp_path, shapes):
    """A stock network as it is: SyncBN, which is BN in one process, an auxiliary head, the finest feature last."""
    stock = 'mmseg::unet/unet-s5-d16_fcn_4xb4-40k_chase-db1-128x128.py'
    path, output = write(_zoo(tmp_path, stock, shapes), '--crop-size', 32, 32, '--method', 'derprop')
    assert 'in_index=0)  # of features of 128, 64, 32, 16, 8 channels' in path.read_text()
    small = {'train_cfg.max_iters': 2, 'log_level': 'WARNING'}  # and no validation, whose images it enlarges
    small |= dict.fromkeys(['val_cfg', 'val_dataloader', 'val_evaluator'])
    runner = train(path, tmp_path / 'work', **small)
    segmentor, data = runner.cfg.model.segmentor, runner.cfg.train_dataloader.dataset
    assert segmentor.backbone.norm_cfg.type == 'SyncBN' and segmentor._scope_ == 'mmseg'
    assert data.supervised.type == 'RepeatDataset' and runner.model.student.with_auxiliary_head
    assert type(runner.model.backbone).__name__ == 'UNet'


def _zoo(folder, stock, shapes):
    data = dict(
        type='ShapesDataset',
        data_root=str(shapes),
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
    )
    text = (
        f'_base_ = {stock!r}\n'
        f'data = {data!r}\n'
        "model = dict(data_preprocessor=dict(size=(64, 64)), test_cfg=dict(_delete_=True, mode='whole'))\n"
        "model['backbone'] = dict(base_channels=8)\n"
        "model['decode_head'] = dict(in_channels=8, channels=8, num_classes=6)\n"
        "model['auxiliary_head'] = dict(in_channels=16, channels=8, num_classes=6)\n"
        'train_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(dataset=data))\n'
        'val_dataloader = dict(num_workers=0, persistent_workers=False)\n'
        f"val_dataloader['dataset'] = dict(data, ann_file='{LISTS}/val.txt')\n"
        'test_dataloader = val_dataloader\n'
    )
    (folder / 'zoo.py').write_text(text)
    return folder / 'zoo.py'


def test_a_base_that_counts_epochs(plain, write, tmp_path):
    """Each of its epochs is two iterations."""
    plain['train_cfg'] = dict(by_epoch=True, max_epochs=3)
    plain['param_scheduler'] = [
        dict(type='LinearLR', start_factor=0.1, end=4, by_epoch=False),
        dict(type='MultiStepLR', milestones=[1, 2], begin=1),
        dict(type='ExponentialLR', gamma=0.25, by_epoch=True, convert_to_iter_based=True),
    ]
    plain['default_hooks'] = dict(checkpoint=dict(type='CheckpointHook', interval=3))
    plain.pop('log_processor')
    path, output = write(plain)
    assert 'training    6 iterations in place of 3 epochs' in output and 'base/epoch_3.pth' in output
    config = load_config(str(path))
    config.work_dir, config.experiment_name = str(tmp_path / 'work'), f'semi_config_{next(_runs)}'
    config.visualizer = dict(type='Visualizer', name=config.experiment_name)
    runner = Runner.from_cfg(config)
    runner.train()
    assert runner.iter == runner.max_iters == 6 and runner.train_loop.val_interval == 2
    assert [path.name for path in (tmp_path / 'work').glob('*.pth')] == ['iter_6.pth']
    warmup, steps, decay = runner.param_schedulers
    assert (warmup.end, sorted(steps.milestones), steps.begin, decay.gamma) == (4, [2, 4], 2, 0.5)
    assert not (warmup.by_epoch or steps.by_epoch or decay.by_epoch)


def train_tool(base, *options):
    name = f'semi_config_{next(_runs)}'
    names = f'experiment_name={name}', f'visualizer.name={name}', 'visualizer.type=Visualizer'
    call('train.py', base, *options, '--cfg-options', *names)


def test_one_command_makes_it_and_trains_it(plain, write, tmp_path, shapes, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    written = load_config(str(write(plain, '--method', 'fixmatch')[0]))
    unlabeled = ['--unlabeled', shapes / LISTS / 'unlabeled.txt', '--method', 'fixmatch']
    train_tool(tmp_path / 'base.py', *unlabeled, '--labeled', shapes / LISTS / 'labeled.txt')
    said, work = capsys.readouterr().err, tmp_path / 'work_dirs/base_fixmatch'
    assert 'learns from 4 labelled and 12 unlabelled images with the method fixmatch' in said
    assert 'Batches of 2 + 2 images, crops of 32x32.\nConfig: work_dirs/base_fixmatch/base_fixmatch.py' in said
    trained = load_config(str(work / 'base_fixmatch.py'))
    assert (work / 'iter_2.pth').is_file()
    assert (trained.model, trained.train_dataloader) == (written.model, written.train_dataloader)


def test_a_base_of_this_package(tmp_path, shapes):
    """It has the hooks of this package already."""
    options, lists = dict(data_root=str(shapes)), [str(shapes / LISTS / 'unlabeled.txt')]
    found = make_semi_config('mmseg_derprop::supervised/tiny_shapes.py', lists, options=options)
    assert (found.dataset.num_labeled, found.dataset.num_unlabeled) == (4, 12)  # without a list, all of the base
    (tmp_path / 'semi.py').write_text(found.text(tmp_path / 'semi.py'))
    hooks = [hook.type for hook in load_config(str(tmp_path / 'semi.py'), options).custom_hooks]
    assert hooks == [hook.type for hook in load_config(str(HOOKS)).semi_hooks]


# Refusals ------------------------------------------------------------------------------------------------------------


def refused(capsys, run):
    with pytest.raises(SystemExit) as error:
        run()
    return f'{error.value} {capsys.readouterr().err}'


def change(config, name, value):
    *path, last = name.split('.')
    for key in path:
        config = config[key]
    if value is None:
        config.pop(last)
    else:
        config[last] = value


@pytest.mark.parametrize(
    'name, value, message',
    [
        ('train_cfg', dict(type='OwnLoop', max_epochs=2), 'must be IterBasedTrainLoop or .*, but is OwnLoop'),
        ('optim_wrapper', None, 'has no optim_wrapper: give a whole config'),
        ('model.type', None, 'model.segmentor must be a config'),
        ('model.type', 'SemiSegmentor', 'semi-supervised already'),
        ('model.decode_head', dict(type='Unheard'), 'Unheard'),
        ('model.decode_head.in_channels', 99, 'cannot predict .*8, 16'),
        ('model.data_preprocessor.size', (64, 64), 'crops are 32x32, but the data_preprocessor has size=.64, 64'),
        ('train_dataloader.dataset.data_root', '/nowhere', "'/nowhere', which is not a folder"),
    ],
)
def test_bases_that_cannot_work(plain, write, tmp_path, capsys, name, value, message):
    change(plain, name, value)
    text = refused(capsys, lambda: write(plain))
    assert re.search(message, text, re.S), text
    assert not (tmp_path / 'semi.py').exists()


@pytest.mark.parametrize(
    'options, message',
    [
        (['--unlabeled', 'empty'], 'must name at least 1 unlabelled image, but names 0'),
        (['--unlabeled', 'nowhere'], 'must be a folder of images or a list of ids, but nowhere does not exist'),
        (['--unlabeled', 'empty', '--method', 'unheard'], "'unheard'.*aligned_teacher.*unimatch_v2"),
        (['--method', 'fixmatch'], 'give --unlabeled too'),
        (['--log-to', 'wandb'], 'needs its package: pip install wandb'),
    ],
)
def test_training_that_cannot_begin(plain, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    Config(plain).dump('base.py')
    (tmp_path / 'empty').mkdir()
    text = refused(capsys, lambda: call('train.py', 'base.py', *options))
    assert re.search(message, text, re.S), text
    assert not (tmp_path / 'work_dirs').exists()


def test_nothing_is_overwritten_without_being_told(plain, write, tmp_path, capsys):
    path = tmp_path / 'semi.py'
    path.write_text('mine')
    assert '--force' in refused(capsys, lambda: write(plain)) and path.read_text() == 'mine'
    write(plain, '--force')
    assert 'SplitDataset' in path.read_text()
