"""Trained models out again: MMSegmentation uses them without this package, and gives the same labels."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import mmseg
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.registry import MODELS

import mmseg_derprop  # noqa: F401  (registers the parts)
from mmseg_derprop.utils.checkpoints import read_checkpoint
from mmseg_derprop.utils.config import load_config

ROOT = Path(__file__).resolve().parents[2]
TESTS = {  # name: network, exported model, options of our tools/test.py, of MMSegmentation's
    'teacher': ('published', 'teacher', [], []),
    'slide': (
        'published',
        'teacher',
        ['--mode', 'slide', '--crop-size', 48, 40, '--stride', 16, 24],
        [
            '--cfg-options',
            'model.test_cfg.mode=slide',
            'model.test_cfg.crop_size=(48,40)',
            'model.test_cfg.stride=(16,24)',
        ],
    ),
    'stock': ('stock', 'student', [], []),
}
STOCK = '''
"""Uses exported models as a machine would that has MMSegmentation only."""
import importlib.abc
import json
import runpy
import sys


class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] == 'mmseg_derprop':
            raise ModuleNotFoundError(f'{name} is not here')


sys.meta_path.insert(0, Blocker())
import torch
from mmseg.apis import MMSegInferencer, inference_model, init_model
from yapf.yapflib import yapf_api

yapf_api.FormatCode = lambda text, **kwargs: (text, True)  # takes most of the time
torch.set_num_threads(1)
jobs = json.load(open(sys.argv[1]))
for arguments in jobs['tests']:
    sys.argv = [jobs['tool'], *arguments]
    runpy.run_path(jobs['tool'], run_name='__main__')
labels = {}
for name, (config, weights) in jobs['models'].items():
    model = init_model(config, weights, device='cpu')
    labels[name] = inference_model(model, jobs['image']).pred_sem_seg.data[0]
    assert model.dataset_meta['classes'][1] == 'disc', model.dataset_meta
    inferred = MMSegInferencer(config, weights, device='cpu')(jobs['image'], show=False)['predictions']
    assert (torch.as_tensor(inferred) == labels[name]).all()
torch.save(labels, jobs['labels'])
assert not any(name.startswith('mmseg_derprop') for name in sys.modules)
'''
pytestmark = pytest.mark.usefixtures('quick_runs')


@pytest.fixture(scope='module')
def runs(run, make_checkpoint):
    """Checkpoint and config by network: the published decoder, and MMSegmentation's parts with aligned predictions."""
    from builders import fcn, segmentor

    stock = segmentor(num_classes=6)
    stock['decode_head'] = fcn(3, 64, num_classes=6)
    stock['auxiliary_head'] = fcn(2, 32, num_classes=6)
    alignment = dict(type='DistributionAlignment', rate=1.0, predict=True)
    return dict(published=run, stock=make_checkpoint(stock, **{'model.pseudo_labels.alignment': alignment}))


@pytest.fixture(scope='module')
def exported(runs, tool, tmp_path_factory):
    """Config and checkpoint by network and weights."""
    folder = tmp_path_factory.mktemp('exported')
    models = {}
    for network, weights in {(network, weights) for network, weights, *_ in TESTS.values()}:
        out = folder / f'{network}.{weights}'
        tool('model_converters/export_segmentor.py', runs[network][0], '--weights', weights, '--out', out)
        models[network, weights] = f'{out}.py', f'{out}.pth'
    return models


@pytest.fixture(scope='module')
def elsewhere(exported, shapes, tmp_path_factory):
    """Folder with the results of MMSegmentation alone, in a process that cannot import this package."""
    folder = tmp_path_factory.mktemp('elsewhere')
    tests = [
        [*exported[network, weights], '--work-dir', str(folder / name), '--out', str(folder / name / 'out'), *options]
        for name, (network, weights, _, options) in TESTS.items()
    ]
    jobs = dict(
        tool=str(Path(mmseg.__file__).parent / '.mim/tools/test.py'),
        tests=tests,
        models={' '.join(key): value for key, value in exported.items()},
        image=str(shapes / 'JPEGImages/val_00002.jpg'),
        labels=str(folder / 'labels.pth'),
    )
    (folder / 'stock.py').write_text(STOCK)
    (folder / 'jobs.json').write_text(json.dumps(jobs))
    environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    environment |= dict(OMP_NUM_THREADS='1', PYTHONWARNINGS='ignore')
    command = [sys.executable, folder / 'stock.py', folder / 'jobs.json']
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize('name', TESTS)
def test_mmsegmentation_alone_gives_the_same_scores_and_labels(
    name, runs, elsewhere, tool, tmp_path, work_dir_scores, label_maps
):
    network, weights, options, _ = TESTS[name]
    checkpoint, config = runs[network]
    tool(
        *['test.py', config, checkpoint, '--predict-on', weights],
        *['--work-dir', tmp_path / 'work', '--out', tmp_path / 'out', *options],
    )
    found, wanted = work_dir_scores(elsewhere / name), work_dir_scores(tmp_path / 'work')
    assert found == wanted and {'mIoU', 'mAcc', 'aAcc'} <= set(found)
    maps, ours = label_maps(elsewhere / name / 'out'), label_maps(tmp_path / 'out')
    assert len(maps) == 6 and maps.keys() == ours.keys()
    assert all((maps[image] == ours[image]).all() for image in ours)
    assert len(np.unique(np.stack(list(maps.values())))) > 1  # the comparison means something


def test_the_exported_models_differ(elsewhere, label_maps):
    maps = {name: np.stack(list(label_maps(elsewhere / name / 'out').values())) for name in TESTS}
    for name in ('slide', 'stock'):
        assert (maps[name] != maps['teacher']).any(), name


def test_inference_of_one_image(elsewhere, label_maps):
    labels = torch.load(elsewhere / 'labels.pth', weights_only=True)
    for name in ('teacher', 'stock'):
        found = labels[' '.join(TESTS[name][:2])].numpy()
        np.testing.assert_array_equal(found, label_maps(elsewhere / name / 'out')['val_00002'])


def test_our_tools_take_an_exported_model(exported, elsewhere, tool, tmp_path, work_dir_scores):
    tool('test.py', *exported['stock', 'student'], '--work-dir', tmp_path, '--json', tmp_path / 'scores.json')
    assert work_dir_scores(elsewhere / 'stock').items() <= work_dir_scores(tmp_path).items()  # besides each class's
    assert list(json.loads((tmp_path / 'scores.json').read_text())) == ['segmentor']


def test_what_is_written(exported, runs, tmp_path):
    config, weights = exported['published', 'teacher']
    text = Path(config).read_text()
    assert 'SemiSegmentor' not in text and not re.search(r'\bmmseg_derprop', text) and 'Semi' not in text
    source, found = read_checkpoint(runs['published'][0]), read_checkpoint(weights)
    assert found['state_dict'].keys() == {n[8:] for n in source['state_dict'] if n.startswith('teacher.')}
    for name, value in found['state_dict'].items():
        assert torch.equal(value, source['state_dict'][f'teacher.{name}'])
    assert found['meta']['dataset_meta']['classes'][0] == 'background' and len(found['meta']['dataset_meta']) == 2
    origin = found['meta']['exported_from']
    assert origin['weights'] == 'teacher' and origin['iter'] == 2 and len(origin['sha256']) == 64
    stock = Config.fromfile(exported['stock', 'student'][0])
    name, trained = 'decode_head.conv_seg.bias', read_checkpoint(runs['stock'][0])['state_dict']
    folded = read_checkpoint(exported['stock', 'student'][1])['state_dict'][name] - trained[f'student.{name}']
    torch.testing.assert_close(folded, trained['pseudo_labeler.alignment.bias'])
    assert folded.abs().max() > 0.01
    assert stock.custom_imports.imports == ['exported_synthetic']  # the data set
    # The classes that the run set on its wrapper.
    assert [stock.model[head].num_classes for head in ('decode_head', 'auxiliary_head')] == [6, 6]


def test_an_exported_model_and_this_package_in_one_process(exported):
    """In both orders: the copy registers over the package's part, and the package over the copy."""
    import mmseg_derprop.models.heads.deeplabv3plus_head as ours

    copy = Path(exported['published', 'teacher'][0]).with_name('exported_deeplabv3plus_head.py')
    spec = importlib.util.spec_from_file_location(copy.stem, copy)
    for loader, module in ((spec.loader, importlib.util.module_from_spec(spec)), (ours.__spec__.loader, ours)):
        loader.exec_module(module)
        assert MODELS.get('DeepLabV3PlusHead') is module.DeepLabV3PlusHead


# Refusals ------------------------------------------------------------------------------------------------------------


def refused(tool, match, *args):
    with pytest.raises(SystemExit, match=match) as error:
        tool('model_converters/export_segmentor.py', *args)
    assert isinstance(error.value.code, str)  # a message, no traceback


def test_existing_files_are_kept(run, tool, tmp_path):
    (tmp_path / 'x.py').write_text('mine')
    refused(tool, 'x.py exist.*--force', run[0], '--out', tmp_path / 'x')
    assert [path.name for path in tmp_path.iterdir()] == ['x.py']
    tool('model_converters/export_segmentor.py', run[0], '--out', tmp_path / 'x', '--force')
    # Another network of the same run shares the copies.
    tool('model_converters/export_segmentor.py', run[0], '--out', tmp_path / 'y', '--weights', 'student')
    assert {path.suffix for path in tmp_path.iterdir()} == {'.py', '.pth'} and len(list(tmp_path.iterdir())) == 6


def test_a_checkpoint_without_config_takes_one(run, tool, tmp_path):
    """As published2mmseg.py writes it."""
    checkpoint, config = run
    state = read_checkpoint(checkpoint)['state_dict']
    torch.save(dict(state_dict=state, meta=dict(kind='network')), tmp_path / 'bare.pth')
    refused(tool, 'must lie beside it.*--config', tmp_path / 'bare.pth')
    tool('model_converters/export_segmentor.py', tmp_path / 'bare.pth', '--config', config)
    assert read_checkpoint(tmp_path / 'bare_teacher.pth')['meta']['dataset_meta']['classes'][5] == 'star'
    (tmp_path / 'run.py').write_text(Path(config).read_text())  # beside it; what was exported is another model's
    tool('model_converters/export_segmentor.py', tmp_path / 'bare.pth', '--weights', 'student')
    wrong = ['--cfg-options', 'model.num_classes=5']
    refused(tool, 'conv_seg', tmp_path / 'bare.pth', '--config', config, '--out', tmp_path / 'z', *wrong)
    aligned = ['--cfg-options', 'model.pseudo_labels.alignment.predict=True']
    refused(tool, 'no pseudo_labeler.alignment.bias', tmp_path / 'bare.pth', '--config', config, *aligned)
    state = {name: value for name, value in state.items() if 'conv_seg.bias' not in name}
    torch.save(dict(state_dict=state), tmp_path / 'bare.pth')
    refused(tool, 'no decode_head.conv_seg.bias', tmp_path / 'bare.pth', '--config', config, *aligned)


@pytest.mark.parametrize('network', ['teacher', 'student'])
def test_the_network_that_the_config_evaluates_is_the_default(network, run, tool, tmp_path):
    options = ['--cfg-options', f'model.predict_on={network}']
    tool('model_converters/export_segmentor.py', run[0], '--config', run[1], '--out', tmp_path / 'x', *options)
    state = torch.load(tmp_path / 'x.pth', weights_only=True)['state_dict']
    trained = torch.load(run[0], weights_only=True)['state_dict']
    assert all(torch.equal(value, trained[f'{network}.{name}']) for name, value in state.items())


def test_another_kind_of_checkpoint(run, exported, tool, tmp_path):
    plain = exported['published', 'teacher'][1]
    refused(tool, 'of no SemiSegmentor: it holds no teacher, but backbone', plain, '--config', run[1])
    refused(tool, 'No such file', tmp_path / 'none.pth')
    plain = ROOT / 'configs/supervised/tiny_shapes.py'
    refused(tool, 'is a plain EncoderDecoder', run[0], '--config', plain, '--out', tmp_path / 'x')


@pytest.fixture(scope='module')
def module():
    sys.path.insert(0, str(ROOT / 'tools/model_converters'))
    try:
        import export_segmentor
    finally:
        sys.path.pop(0)
    return export_segmentor


def test_shipped_configs_can_be_exported(module):
    # A third of them: sizes and splits differ by numbers alone.
    for path in sorted(ROOT.glob('configs/derprop/*.py'))[::3]:
        plain = module.plain_run(load_config(str(path)))
        imports, copies = module.bring_parts(plain)
        # MMSegmentation's own configs import mmpretrain for its backbones, too.
        assert {name for name in imports if name.partition('.')[0] != 'mmpretrain'} == set(copies), path
        # So that this package can be imported after an exported model.
        for name in copies:  # of the package, or of a model exported earlier
            original = next(ROOT.glob(f'mmseg_derprop/**/{name.removeprefix("exported_")}.py')).read_text()
            assert '.register_module()' not in original and '.register_module(force=True)' in original
        assert 'pretrained' not in plain['model'] and 'checkpoint' not in str(plain['model']), path


def test_bias_of_a_head_with_one_channel_that_is_the_last_of_several(module):
    names = ('teacher.decode_head.0.conv_seg.bias', 'teacher.decode_head.1.conv_seg.bias')
    state = {name: torch.zeros(1) for name in names} | {'pseudo_labeler.alignment.bias': torch.tensor([-0.25, 0.5])}
    found = module.take_weights(dict(state_dict=state), 'teacher', aligned=True)
    assert {name: value.item() for name, value in found.items()} == {names[0][8:]: 0.0, names[1][8:]: 0.75}


def test_losses_become_stock_ones(module):
    head = dict(type='FCNHead', loss_decode=[dict(type='OhemCrossEntropyLoss', loss_weight=0.4), dict(type='DiceLoss')])
    found = module.for_inference(dict(decode_head=head))['decode_head']['loss_decode']
    assert found == [dict(type='CrossEntropyLoss', avg_non_ignore=True, loss_weight=0.4), dict(type='DiceLoss')]


def test_onnx_gives_the_same_labels(exported, elsewhere, tool, shapes, tmp_path, capsys):
    onnxruntime = pytest.importorskip('onnxruntime')
    model = exported['stock', 'student']
    tool('model_converters/export_onnx.py', *model, tmp_path / 'x.onnx', '--size', 64, 64, '--dynamic')
    assert capsys.readouterr().out.count('labels differ') == 2
    assert [path.name for path in tmp_path.iterdir()] == ['x.onnx']
    session = onnxruntime.InferenceSession(str(tmp_path / 'x.onnx'), providers=['CPUExecutionProvider'])
    image = cv2.imread(str(shapes / 'JPEGImages/val_00002.jpg')).transpose(2, 0, 1)[None]
    labels, logits = session.run(['labels', 'logits'], {'image': image})
    wanted = torch.load(elsewhere / 'labels.pth', weights_only=True)['stock student'].numpy()
    first, second = np.sort(logits[0], axis=0)[[-1, -2]]
    differ = labels[0] != wanted
    assert labels.shape == (1, 64, 64) and not differ[first - second > 1e-5 * np.abs(logits).max()].any()
    assert json.loads(session.get_modelmeta().custom_metadata_map['classes'])[1] == 'disc'


def test_onnx_of_another_kind(run, exported, tool, tmp_path):
    pytest.importorskip('onnxruntime')
    out = [tmp_path / 'x.onnx', '--size', 64, 64]
    with pytest.raises(SystemExit, match='export_segmentor.py first'):
        tool('model_converters/export_onnx.py', run[1], run[0], *out)
    with pytest.raises(SystemExit, match='export_segmentor.py writes a plain one'):
        tool('model_converters/export_onnx.py', exported['stock', 'student'][0], run[0], *out)
    padded = ['--cfg-options', 'model.data_preprocessor.test_cfg.size_divisor=48']
    with pytest.raises(SystemExit, match='needs no padding'):
        tool('model_converters/export_onnx.py', *exported['stock', 'student'], *out, *padded)
    assert not list(tmp_path.iterdir())
