"""The teacher's moves, checkpoints, and what MMSegmentation's tools ask of a segmentor."""

import copy

import builders
import pytest
import torch
import torch.nn.functional as F
from builders import NUM_CLASSES, SIZE
from mmengine.runner import load_checkpoint
from mmseg.registry import MODELS


@pytest.fixture
def model():
    """A model whose student has moved away from its teacher."""
    model = builders.build()
    stir(model.student, 1)
    return model


def stir(network, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, entry in network.state_dict().items():
        if entry.is_floating_point():
            noise = torch.rand(entry.shape, generator=generator).to(entry)
            entry.copy_(entry + 0.5 * noise if 'var' in name else entry + 0.1 * (noise - 0.5))
        else:
            entry.add_(7 * seed)


def state(network):
    return {name: entry.clone() for name, entry in network.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- Teacher -----------------------------------------------------------------------------------------------------


def test_teacher_begins_as_the_student():
    model = builders.build(seed=3)
    assert same(state(model.student), state(model.teacher))
    student, teacher = ({p.data_ptr() for p in n.parameters()} for n in (model.student, model.teacher))
    assert not student & teacher


@pytest.mark.parametrize('momentum', [0.0, 0.5, 1.0])
def test_every_entry_moves(model, momentum):
    teacher, student = state(model.teacher), state(model.student)
    model.update_teacher(momentum)
    found = state(model.teacher)
    assert any('running_var' in name for name in found)
    for name, entry in found.items():
        if entry.is_floating_point():
            wanted = momentum * teacher[name] + (1 - momentum) * student[name]
            torch.testing.assert_close(entry, wanted, msg=name)
        else:
            assert torch.equal(entry, student[name]), name
    assert same(state(model.student), student)


@pytest.mark.parametrize(
    'options,event,steps,momentum',
    [
        (dict(interval='step', momentum=0.996), 'step', 0, 0.0),  # a copy of the student
        (dict(interval='step', momentum=0.996), 'step', 3, 0.75),
        (dict(interval='step', momentum=0.7), 'step', 99, 0.7),
        (dict(interval='step', momentum=0.7), 'epoch', 99, None),
        (dict(interval='epoch', momentum=0.5), 'epoch', 0, 0.5),
        (dict(interval='epoch', momentum=0.5), 'step', 3, None),
    ],
    ids=str,
)
def test_teacher_follows_by_step_or_by_epoch(options, event, steps, momentum):
    model = builders.build('fixmatch', options={'teacher': options})
    stir(model.student, 1)
    wanted = copy.deepcopy(model)
    if momentum is not None:
        wanted.update_teacher(momentum)
    model.follow_student(event, steps)
    for name, entry in wanted.teacher.state_dict().items():
        torch.testing.assert_close(model.teacher.state_dict()[name], entry, msg=name)
    assert same(state(model.teacher), state(model.student)) == (momentum == 0)


def test_teacher_neither_trains_nor_learns(model):
    assert not any(p.requires_grad for p in model.teacher.parameters())
    assert all(p.requires_grad for p in model.student.parameters())
    assert model.train() is model and model.training and model.student.training and model.propagation_head.training
    assert not any(m.training for m in model.teacher.modules())
    model.eval()
    assert not any(m.training for m in model.modules())
    before = state(model.teacher)
    model.train().loss(*builders.batch())
    assert same(state(model.teacher), before)


# --- Checkpoints -------------------------------------------------------------------------------------------------


@pytest.fixture
def plain():
    network = MODELS.build(builders.segmentor())
    network.init_weights()
    stir(network, 5)
    return network


@pytest.mark.parametrize('assign', [False, True])
def test_plain_state_dict_loads_into_both(model, plain, assign):
    head = state(model.propagation_head)
    result = model.load_state_dict(plain.state_dict(), strict=False, assign=assign)
    assert not result.unexpected_keys
    assert all(key.startswith(('propagation_head.', 'pseudo_labeler.')) for key in result.missing_keys)
    for network in (model.student, model.teacher):
        assert same(state(network), state(plain))
    assert same(state(model.propagation_head), head)
    assert not any(p.requires_grad for p in model.teacher.parameters())
    before = state(model.teacher)
    stir(model.student, 1)
    assert same(state(model.teacher), before), 'student and teacher share memory'


def test_own_state_round_trips(model, tmp_path):
    model.loss(*builders.batch())
    assert model.pseudo_labeler.threshold.value != 0.85
    path = tmp_path / 'own.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    by_torch, by_engine = builders.build(seed=9), builders.build(seed=9)
    by_torch.load_state_dict(model.state_dict(), strict=True)
    load_checkpoint(by_engine, str(path), strict=True)
    for other in (by_torch, by_engine):
        assert same(state(other), state(model))
    assert not same(state(model.teacher), state(model.student))


# --- Answers as a segmentor --------------------------------------------------------------------------------------


def both(model, name):
    model.predict_on = name
    model.eval()
    return getattr(model, name)


def normalized(images):
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([120.0, 110, 100], [60.0, 50, 40]))
    return torch.stack([(image[[2, 1, 0]].float() - mean) / std for image in images])


SLIDE = dict(mode='slide', crop_size=(33, 33), stride=(20, 20))


@pytest.mark.parametrize('test_cfg', [dict(mode='whole'), SLIDE], ids=['whole', 'slide'])
@pytest.mark.parametrize('name', ['teacher', 'student'])
def test_predicts_as_the_network_named(name, test_cfg):
    model = builders.build(network=dict(builders.segmentor(), test_cfg=test_cfg))
    stir(model.student, 1)
    network = both(model, name)
    data = builders.evaluation_data()
    found = model.test_step(copy.deepcopy(data))
    wanted = network.test_step(copy.deepcopy(data))
    assert len(found) == 2
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one.seg_logits.data, other.seg_logits.data)
        assert torch.equal(one.pred_sem_seg.data, other.pred_sem_seg.data)
    other = both(model, 'student' if name == 'teacher' else 'teacher').test_step(copy.deepcopy(data))
    assert not torch.equal(found[0].seg_logits.data, other[0].seg_logits.data)
    assert model.test_cfg['mode'] == test_cfg['mode']


@pytest.mark.parametrize('test_cfg', [dict(mode='whole'), SLIDE], ids=['whole', 'slide'])
def test_aligned_predictions(test_cfg):
    """The network's logits with the bias, of images without samples too."""
    model = builders.build('aligned_teacher', dict(builders.segmentor(), test_cfg=test_cfg))
    bias = torch.linspace(-3, 3, NUM_CLASSES)
    model.pseudo_labeler.alignment.bias.copy_(bias)
    network, data = both(model, 'teacher'), builders.evaluation_data()
    for one, other in zip(model.test_step(copy.deepcopy(data)), network.test_step(copy.deepcopy(data)), strict=True):
        torch.testing.assert_close(one.seg_logits.data, other.seg_logits.data + bias[:, None, None])
        assert torch.equal(one.pred_sem_seg.data[0], one.seg_logits.data.argmax(0))
        assert not torch.equal(one.pred_sem_seg.data, other.pred_sem_seg.data)
    images = builders.batch()[0]['weak']
    found, wanted = model.predict(images)[0].seg_logits.data, network.predict(images)[0].seg_logits.data
    torch.testing.assert_close(found, wanted + bias[:, None, None])


@pytest.mark.parametrize('name', ['teacher', 'student'])
def test_other_questions(model, name):
    network, images = both(model, name), builders.batch()[0]['sup']
    metas = [dict(ori_shape=SIZE, img_shape=SIZE, pad_shape=SIZE, padding_size=[0] * 4)] * 2
    for question in ('extract_feat', '_forward'):
        found, wanted = (getattr(asked, question)(images) for asked in (model, network))
        assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))
    assert torch.equal(model(images, mode='tensor'), network(images, mode='tensor'))
    assert model(images, mode='tensor').shape == (2, NUM_CLASSES, 9, 11)
    for question in ('encode_decode', 'whole_inference', 'inference'):
        assert torch.equal(getattr(model, question)(images, metas), getattr(network, question)(images, metas))
    network.test_cfg.update(SLIDE)
    assert torch.equal(model.slide_inference(images, metas), network.slide_inference(images, metas))
    for attribute in ('decode_head', 'backbone', 'test_cfg'):
        assert getattr(model, attribute) is getattr(network, attribute)
    assert (model.num_classes, model.out_channels, model.align_corners, model.ignore_index) == (5, 5, True, 255)


def test_properties_are_those_of_a_cascades_last_head():
    cascade = builders.build(network=builders.cascade())
    assert (cascade.num_classes, cascade.out_channels, cascade.align_corners) == (NUM_CLASSES, NUM_CLASSES, True)
    assert cascade.eval()(builders.batch()[0]['sup'], mode='tensor').shape[:2] == (2, NUM_CLASSES)


def test_test_time_augmentation(model):
    """The mean probability of the image and of its mirror image."""
    network = both(model, 'student')
    image = builders.evaluation_data(count=1)
    flipped = copy.deepcopy(image)
    flipped['inputs'] = [flipped['inputs'][0].flip(-1)]
    flipped['data_samples'][0].set_metainfo(dict(flip=True, flip_direction='horizontal'))
    image['data_samples'][0].set_metainfo(dict(flip=False))
    data = {key: [image[key], flipped[key]] for key in image}
    tta = MODELS.build(dict(type='SegTTAModel', module=model)).eval()
    (found,) = tta.test_step(data)
    images = normalized([image['inputs'][0], flipped['inputs'][0]])
    logits = F.interpolate(network(images, mode='tensor'), SIZE, mode='bilinear', align_corners=True)
    probability = logits.softmax(1)
    wanted = (probability[0] + probability[1].flip(-1)) / 2
    assert torch.equal(found.pred_sem_seg.data[0], wanted.argmax(0))


def test_training_data_pass_the_preprocessor(model):
    """The runner's way: lists of uint8 images by branch."""
    inputs, samples = builders.batch()
    raw = {b: [((i * 40 + 120).clamp(0, 255)).to(torch.uint8) for i in images] for b, images in inputs.items()}
    data = model.data_preprocessor(dict(inputs=raw, data_samples=samples), training=True)
    for branch, images in raw.items():
        torch.testing.assert_close(data['inputs'][branch], normalized(images))
    losses = model(**data, mode='loss')
    assert all(value.isfinite() for value in losses.values())


def test_the_segmentor_needs_no_preprocessor_of_its_own():
    network = builders.segmentor()
    given = network.pop('data_preprocessor')
    config = dict(builders.method(), segmentor=network, data_preprocessor=given)
    data = builders.evaluation_data()
    model = MODELS.build(config)
    for asked in (model, model.student, model.teacher):
        torch.testing.assert_close(
            asked.data_preprocessor(copy.deepcopy(data), False)['inputs'], normalized(data['inputs'])
        )


def test_number_of_classes_reaches_all_heads():
    network = builders.segmentor()
    network['auxiliary_head'] = [builders.fcn(1, 16), builders.fcn(2, 32)]
    model = builders.build(network=network, options={'num_classes': 3})
    assert model.out_channels == model.propagation_head.num_classes == 3
    assert [head.num_classes for head in model.student.auxiliary_head] == [3, 3]
    assert network['decode_head']['num_classes'] == builders.NUM_CLASSES  # the config given stays as it was


def test_synchronised_normalisation_builds_in_a_process_group(tmp_path):
    network = builders.segmentor()
    for part in (network['backbone'], network['decode_head']):
        part['norm_cfg'] = dict(type='SyncBN')
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        model = builders.build(network=network)
    finally:
        torch.distributed.destroy_process_group()
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in model.student.modules())


def test_weights_that_cannot_be_fetched():
    url = 'http://127.0.0.1:9/weights.pth'
    network = builders.segmentor()
    network['backbone'] = dict(network['backbone'], init_cfg=dict(type='Pretrained', checkpoint=url))
    with pytest.raises(ConnectionError, match=f'could not be fetched .*{url}.* init_cfg'):
        builders.build(network=network)
