"""Checkpoints that are cut off, damaged, incomplete, or of anything else."""

import functools
import io
import shutil
from types import SimpleNamespace

import builders
import numpy as np
import pytest
import torch
from commands import call, load
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mutations import ANYTHING, EDITS, PLACE, WRONGS, damaged, edited, with_wrongs
from own_errors import cases, ends_well, folder

from mmseg_derprop.apis.inference import load_segmentor
from mmseg_derprop.datasets import SemiSampler
from mmseg_derprop.engine import StrictLoadHook
from mmseg_derprop.utils.checkpoints import newest_checkpoint, read_checkpoint, state_dict_of
from mmseg_derprop.utils.config import parse_config

META = dict(dataset_meta=dict(classes=('a', 'b', 'c', 'd', 'e'), palette=[[number, 0, 0] for number in range(5)]))


class Images:
    num_labeled, num_unlabeled = 5, 7


@functools.cache
def whole():
    """What a run saves."""
    hub = dict(
        log_scalars=dict(loss=HistoryBuffer([1.0, 2.0], [1, 1])),
        runtime_info=dict(iter=1, sampler=SemiSampler(Images, 1, 1, seed=0).state_dict(), teacher_steps=2),
        resumed_keys=dict(loss=True),
    )
    meta = dict(META, iter=2, epoch=0, time='20260101_000000', seed=0, cfg='model = dict()')
    state = dict(builders.build('fixmatch').state_dict())
    optimizer = dict(state={0: dict(momentum_buffer=torch.zeros(2))}, param_groups=[dict(lr=0.1, params=[0])])
    return dict(meta=meta, state_dict=state, message_hub=hub, optimizer=optimizer, param_schedulers=[{}])


def saved(checkpoint, **options):
    file = io.BytesIO()
    torch.save(checkpoint, file, **options)
    return file.getvalue()


@functools.cache
def files():
    small = dict(whole(), state_dict=dict(weight=torch.ones(3, 4), count=torch.tensor(3)))
    others = [[1, 2], torch.ones(2), dict(state_dict=dict(a=np.ones(2))), {}]
    kinds = [saved(small), saved(small, _use_new_zipfile_serialization=False), *map(saved, others)]
    return [*kinds, b'', b'\x80\x02.', b'PK\x05\x06' + bytes(18)]


@cases(300)
@given(st.data())
def test_damaged_bytes(data):
    content = data.draw(damaged(files()) | st.sampled_from(files()))
    with folder() as place:
        bad, good = place / 'iter_2.pth', place / 'iter_1.pth'
        bad.write_bytes(content)
        with ends_well():
            read_checkpoint(str(bad))
        good.write_bytes(files()[0])
        found, refused = newest_checkpoint(str(place))
        assert found == str(good) or (found == str(bad) and read_checkpoint(found)['optimizer'])
        assert all(refused.values()) and set(refused) <= {str(bad)}


@cases(200)
@given(WRONGS, WRONGS)
def test_newest_of_damaged_structures(wrongs, others):
    small = dict(whole(), state_dict=dict(weight=torch.ones(1)))
    with folder() as place:
        for number, parts in enumerate((wrongs, others)):
            torch.save(with_wrongs(small, parts), place / f'iter_{number}.pth')
        with ends_well():
            found, refused = newest_checkpoint(str(place))
            assert found is None or 'optimizer' in read_checkpoint(found)
            assert all(refused.values())


SHAPES = st.lists(st.integers(0, 9), max_size=4)
STATE_EDITS = st.lists(
    st.tuples(PLACE, st.sampled_from(['reshape', 'rename', 'drop', 'replace', 'dtype']), SHAPES, ANYTHING), max_size=3
)


def changed_state(state, edits):
    """A state dict with entries of other shapes, names, types, or none."""
    state = dict(state)
    for share, kind, shape, value in edits:
        if not state:
            break
        name = list(state)[int(share * len(state))]
        if kind == 'reshape':
            state[name] = torch.zeros(shape)
        elif kind == 'rename':
            state[value if isinstance(value, (str, int)) else 'backbone.other'] = state.pop(name)
        elif kind == 'drop':
            del state[name]
        elif kind == 'replace':
            state[name] = value
        else:
            state[name] = state[name].to(torch.int16) if isinstance(state[name], torch.Tensor) else state[name]
    return state


@functools.cache
def config():
    return Config(dict(model=dict(builders.method('fixmatch'), segmentor=builders.segmentor())))


@cases(200)
@given(STATE_EDITS, WRONGS, st.sampled_from([None, 'student', 'teacher']))
def test_inference_of_a_changed_checkpoint(edits, wrongs, network):
    checkpoint = with_wrongs(dict(meta=META), wrongs)
    checkpoint['state_dict'] = changed_state(whole()['state_dict'], edits)
    with folder() as place:
        torch.save(checkpoint, place / 'x.pth')
        with ends_well('x.pth'):
            model, loaded = load_segmentor(Config(config().to_dict()), str(place / 'x.pth'), 'cpu', network)
            meta = model.dataset_meta
            assert len(meta['classes']) == len(meta['palette']) == 5
            assert all(len(colour) == 3 for colour in meta['palette'])
            np.array(meta['palette'], np.uint8)
        pseudo_label = load('pseudo_label.py')
        with ends_well('x.pth'):
            assert isinstance(pseudo_label.checkpoint_tau(checkpoint, 'x.pth'), float)


@cases(100)
@given(STATE_EDITS, st.sampled_from([[], [''], ['student.']]), st.none() | ANYTHING)
def test_resume_of_a_changed_checkpoint(edits, needed, other):
    checkpoint = dict(whole(), state_dict=changed_state(whole()['state_dict'], edits))
    if other is not None:
        checkpoint['state_dict'] = other
    model = builders.build('fixmatch')
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with ends_well():
        StrictLoadHook(needed).after_load_checkpoint(SimpleNamespace(model=model), checkpoint)
        return
    assert set(before) == set(model.state_dict())


@cases(100)
@given(WRONGS, st.integers(0, 99))
def test_resume_of_a_changed_sampler(wrongs, iteration):
    state = with_wrongs([whole()['message_hub']['runtime_info']['sampler']], wrongs)
    sampler = SemiSampler(Images, 2, 2, seed=1)
    with ends_well('sampler'):
        sampler.load_state_dict(state[0] if state else None, iteration)
        assert [0 <= index < 12 for index, _ in zip(sampler, range(9))]


@functools.cache
def published():
    """Names of a published network, of tensors that take no memory."""
    shapes = load('../tests/tools/test_published2mmseg.py').network_shapes()
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}


@cases(100)
@given(STATE_EDITS, st.sampled_from(['', 'module.']))
def test_conversion_of_published_weights(edits, prefix):
    state = {f'{prefix}{name}': value for name, value in changed_state(published(), edits).items()}
    tool = load('model_converters/published2mmseg.py')
    with ends_well():
        tool.convert(state_dict_of({'model': state}))


@cases(60)
@given(st.data())
def test_conversion_of_damaged_files(data):
    content = data.draw(damaged(files()) | st.sampled_from(files()))
    with folder() as place:
        (place / 'in.pth').write_bytes(content)
        with ends_well('in.pth'):
            call('model_converters/published2mmseg.py', place / 'in.pth', place / 'out.pth')


TEXT = (
    'model = dict('
    + ', '.join(f'{key}={value!r}' for key, value in builders.method().items())
    + ')\nx = dict({1: 2})\n'
)
TOKENS = st.lists(
    st.sampled_from(
        [
            'a',
            '=',
            'dict(',
            ')',
            '[',
            ']',
            '{',
            '}',
            ',',
            ':',
            '1',
            '-1',
            'None',
            '"x"',
            '**',
            '*',
            'lambda',
            '\n',
            '(',
            ')',
            '+',
            '\x00',
            '\\',
            'é',
        ]
    )
)


@cases(200)
@given(st.builds(edited, st.just(TEXT.encode()), st.just([]) | EDITS))
def test_texts_of_configs(text):
    with ends_well('the config'):
        parse_config(text.decode(errors='surrogateescape'))


@cases(200)
@given(TOKENS.map(''.join) | st.text() | st.integers(1, 3000).map(lambda n: 'a = ' + '[' * n + ']' * n))
def test_any_texts_of_configs(text):
    with ends_well('the config'):
        parse_config(text)


@functools.cache
def exported():
    """What export_segmentor.py reads of a run: weights, and a config."""
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]
    data = dict(batch_size=1, dataset=dict(type='ShapesDataset', data_root='x', pipeline=pipeline))
    run = dict(model=config().model.to_dict(), test_dataloader=data, test_evaluator=dict(type='IoUMetric'))
    return run | dict(val_dataloader=data, val_evaluator=dict(type='IoUMetric'), test_cfg=dict(type='TestLoop'))


@cases(60)
@given(WRONGS, WRONGS, STATE_EDITS | st.just([]))
def test_export_of_changed_runs(config_wrongs, wrongs, edits):
    run = with_wrongs(exported(), config_wrongs)
    text = '\n'.join(f'{key} = {value!r}' for key, value in run.items())
    checkpoint = with_wrongs(dict(meta=dict(META, cfg=text.encode(errors='replace').decode(), iter=3)), wrongs)
    with folder() as place:
        torch.save(dict(checkpoint, state_dict=changed_state(whole()['state_dict'], edits)), place / 'x.pth')
        with ends_well('x.pth'):
            call('model_converters/export_segmentor.py', place / 'x.pth', '--out', place / 'plain')
            assert (place / 'plain.py').exists() and (place / 'plain.pth').exists()


def test_the_whole_checkpoint_is_accepted(tmp_path):
    """Else the targets above would say nothing."""
    torch.save(whole(), tmp_path / 'x.pth')
    model, _ = load_segmentor(Config(config().to_dict()), str(tmp_path / 'x.pth'), 'cpu')
    assert model.dataset_meta['classes'] == ['a', 'b', 'c', 'd', 'e']
    assert newest_checkpoint(str(tmp_path))[0] == str(tmp_path / 'x.pth')
    shutil.copy(tmp_path / 'x.pth', tmp_path / 'y.pth')
    assert load('model_converters/published2mmseg.py').convert(dict(published()))[1]['num_classes'] == 7
    with pytest.raises(ValueError, match='does not fit'):
        changed = dict(whole(), state_dict=changed_state(whole()['state_dict'], [(0.0, 'drop', [], None)]))
        torch.save(changed, tmp_path / 'x.pth')
        load_segmentor(Config(config().to_dict()), str(tmp_path / 'x.pth'), 'cpu', 'student')
