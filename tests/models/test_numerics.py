"""Odd batches, thresholds at their ends, precisions, memory layout, and what a step asks of its device."""

import builders
import pytest
import reference
import torch
from mmengine.runner import Runner
from stepping import build, close, tapped
from torch.utils._python_dispatch import TorchDispatchMode

from mmseg_derprop.models.segmentors import decode_heads

BOTH = pytest.mark.parametrize('preset', ['derprop_paper', 'derprop_published'])
FAMILY = ('derprop', 'derprop_published', 'aligned_teacher', 'corrmatch', 'unimatch_v2')
HARD = {'losses.hard': dict(type='HardConsistencyLoss')}
NOTHING_RANDOM = {'losses.fp.loss_weight': 0.0, 'propagation_head.dropout_ratio': 0.0}


def finite_step(model, inputs, samples):
    losses = model.loss(inputs, samples)
    assert all(value.isfinite() for value in losses.values()), losses
    model.parse_losses(losses)[0].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert model.pseudo_labeler.threshold.value.isfinite()
    return losses


# --- Odd batches -------------------------------------------------------------------------------------------------


@BOTH
def test_one_image_of_each(preset):
    """Where normalisation allows it; the batch partner of a single image is the image."""
    network = builders.segmentor(norm_cfg=dict(type='GN', num_groups=2))
    finite_step(build(preset, network=network), *builders.batch(1, 1))


@BOTH
def test_two_classes(preset):
    losses = finite_step(build(preset, network=builders.segmentor(num_classes=2)), *builders.batch(num_classes=2))
    if preset == 'derprop_paper':
        assert losses['smooth'] == losses['smooth_w'] == losses['smooth_s'] == 0  # there is no second derivative


@pytest.mark.parametrize('ignore_index', [0, 11])
def test_ignore_index(ignore_index):
    """The same labels with another number for ignored give the same losses, and padding by 255 is ignored too."""

    def losses(index, preset='derprop_paper', padding=255):
        inputs, samples = builders.batch()
        for sample in samples['sup']:
            labels = sample.gt_sem_seg.data
            labels[labels == 0] = 255
            labels[labels == 255] = index
            labels[..., -9:] = padding
        found = finite_step(build(preset, network=builders.segmentor(ignore_index=index)), inputs, samples)
        assert all((sample.gt_sem_seg.data[..., -9:] == index).all() for sample in samples['sup'])
        return found

    wanted = losses(255)
    close(losses(ignore_index), wanted)
    close(losses(ignore_index, padding=ignore_index), wanted)
    losses(ignore_index, 'derprop_published')


@pytest.mark.parametrize('preset', FAMILY)
@pytest.mark.parametrize('label', [0, 4, 255])
def test_labelled_images_of_one_class_or_none(preset, label):
    inputs, samples = builders.batch(num_strong=2)
    for sample in samples['sup']:
        sample.gt_sem_seg.data[:] = label
    losses = finite_step(builders.build(preset), inputs, samples)
    assert (losses['seg'] == 0) == (label == 255)
    if label == 255:
        assert not any(losses.get(name, 0) for name in ('seg_prop', *(['affinity_x'] if preset == 'derprop' else [])))


@pytest.mark.parametrize('preset', FAMILY)
def test_nothing_unlabelled_is_valid(preset):
    inputs, samples = builders.batch(num_strong=2, truth=True)
    for sample in [sample for branch in samples if branch != 'sup' for sample in samples[branch]]:
        if 'ignore_map' in sample:
            sample.ignore_map.data[:] = True
    model = builders.build(preset)
    start = model.pseudo_labeler.threshold.value.clone()
    losses = finite_step(model, inputs, samples)
    on_labels = ('hard', 'kl', 'soft', 'fp', 'prop_s', 'prop_w')
    assert all(value == 0 for name, value in losses.items() if name in on_labels) and losses['seg'] > 0
    assert model.pseudo_labeler.threshold.value == start
    judged = {name: value.isfinite().item() for name, value in model.statistics.items()}
    assert judged == {name: not name.startswith('accuracy') for name in judged}  # no pixel, no accuracy


@pytest.mark.parametrize('momentum', [0.0, 1.0])
@pytest.mark.parametrize('threshold', [0.0, 1.0])
@BOTH
def test_the_ends_of_the_threshold(preset, threshold, momentum):
    options = {'pseudo_labels.threshold.init': threshold, 'pseudo_labels.threshold.momentum': momentum}
    model = build(preset, options)
    finite_step(model, *builders.batch())
    if momentum == 1.0:
        assert model.pseudo_labeler.threshold.value == threshold
        assert model.statistics['confident'] == 1 - threshold
    else:
        assert 0 < model.pseudo_labeler.threshold.value < 1


def test_pseudo_labels_of_class_0_are_learned_where_0_is_ignored():
    """ignore_index is about the truth; the pseudo-label 0 is a class like others."""
    options = HARD | {'pseudo_labels.alpha': 0.0}
    model = build(network=builders.segmentor(ignore_index=0), options=options)
    with torch.no_grad():
        model.student.decode_head.conv_seg.bias[0] = 50
    losses, tap = tapped(model, *builders.batch(ignore_index=0))
    target = tap.step.target
    assert (target.labels == 0).all() and target.accepted.any()
    z = reference.resize(tap.z[1], builders.SIZE)
    wanted = reference.masked_cross_entropy(z, target.labels, target.accepted, ~target.mixed.ignored)
    torch.testing.assert_close(losses['hard'], wanted)


# --- Precision ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
@BOTH
def test_half_precision(preset, dtype):
    model = build(preset)
    with torch.autocast('cpu', dtype):
        losses = model.loss(*builders.batch())
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    model.parse_losses(losses)[0].backward()
    assert all(p.grad.isfinite().all() for p in model.student.parameters())
    assert model.propagation_head.conv_q.weight.grad.any()
    assert model.pseudo_labeler.threshold.value.dtype == torch.float32


def test_predictions_leave_no_cast_weights_behind():
    """Training in the same step would take them up, and PyTorch before 2.10 gives those no gradient."""
    model, kept = builders.build('fixmatch'), []
    model.student.backbone.register_forward_hook(lambda *_: kept.append(torch.is_autocast_cache_enabled()))
    with torch.autocast('cpu', torch.bfloat16):
        model.logits_of(model.student, builders.batch()[0]['weak'])
        assert kept == [False] and torch.is_autocast_cache_enabled()


@pytest.mark.parametrize('dtype', [None, torch.bfloat16, torch.float16], ids=str)
@BOTH
def test_extreme_logits(preset, dtype):
    """Classifier, q and k give numbers beyond what an exponential bears, near the end of float16's range."""
    model = build(preset)
    heads = [decode_heads(network)[-1].conv_seg for network in (model.student, model.teacher)]
    convs = {conv: 0.0 for conv in (*heads, model.propagation_head.conv_q, model.propagation_head.conv_k)}

    def amplify(module, args, out):
        out = out * (30_000 / out.detach().float().abs().max())
        convs[module] = float(out.detach().abs().max())
        return out

    for conv in convs:
        conv.register_forward_hook(amplify)
    with torch.autocast('cpu', dtype, enabled=dtype is not None):
        losses = model.loss(*builders.batch())
    assert min(convs.values()) > 29_000 or (preset == 'derprop_paper' and not convs[heads[1]])
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    grads = torch.autograd.grad(sum(losses.values()), [*model.student.parameters()], allow_unused=True)
    # float16 overflows in the network's own backward pass, which is what a loss scaler watches for.
    assert dtype == torch.float16 or all(grad.isfinite().all() for grad in grads)
    assert 0 < model.pseudo_labeler.threshold.value <= 1


# --- Device ------------------------------------------------------------------------------------------------------


class DeviceReads(TorchDispatchMode):
    """Notes operators whose result's size or value the host must know: on a GPU it waits for them."""

    WAITS = {'_local_scalar_dense', 'item', 'nonzero', 'masked_select', 'equal', '_unique2', 'unique_dim', 'bincount'}

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masks = args[1] if name.startswith(('index', '_index_put')) and len(args) > 1 else ()
        boolean = isinstance(masks, (list, tuple)) and any(t is not None and t.dtype == torch.bool for t in masks)
        if name in self.WAITS or boolean:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def test_device_reads_are_found():
    with DeviceReads() as reads:
        x = torch.arange(3.0)
        x[x > 0], x.sum().item(), x.nonzero()
    assert {'index', '_local_scalar_dense', 'nonzero'} <= set(reads.found)


@pytest.mark.parametrize('preset', FAMILY)
def test_a_step_reads_nothing_from_its_device(preset):
    loss = [dict(type='PixelCrossEntropyLoss'), dict(type='OhemCrossEntropyLoss', min_kept=500)]
    network = builders.segmentor(loss_decode=loss) | dict(auxiliary_head=builders.fcn(2, 32, loss_decode=loss))
    model = builders.build(preset, network=network)
    inputs, samples = builders.batch(truth=True, num_strong=2)
    with DeviceReads() as reads:
        model.parse_losses(model.loss(inputs, samples))[0].backward()
    assert not reads.found
    assert 'accuracy_confident' in model.statistics


@BOTH
def test_channels_last_is_kept_and_changes_nothing(preset):
    usual, last = (build(preset, NOTHING_RANDOM | {'channels_last': option}) for option in (False, True))
    last.load_state_dict(usual.state_dict())
    maps = []
    for part in (*decode_heads(last.student), last.propagation_head.conv):
        part.register_forward_hook(lambda _, args, out: maps.append((args[0], out)))
    inputs, samples = builders.batch()
    losses = []
    for model in (usual, last):
        torch.manual_seed(1)
        losses.append(model.loss(inputs, samples))
    close(losses[1], losses[0])
    assert len(maps) == 4
    for read, out in maps:
        for one in (*read, out) if isinstance(read, tuple) else (read, out):
            assert one.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize('preset', FAMILY)
def test_equal_seeds_give_equal_steps(preset):
    def step():
        model = builders.build(preset)
        losses = model.loss(*builders.batch(num_strong=2))
        model.parse_losses(losses)[0].backward()
        return [*losses.values(), *(p.grad for p in model.parameters() if p.grad is not None)]

    assert all(torch.equal(one, two) for one, two in zip(step(), step(), strict=True))


@pytest.mark.slow
def test_mmengines_compile_trains(semi_config, small_segmentor):
    """``compile`` at the top level of a config is MMEngine's; a run with it ends in the same weights.

    MMSegmentation's CrossEntropyLoss reads a number in the midst of the step, and torch fails to compile the rest.
    """
    shallow = dict(num_stages=1, strides=(1,), dilations=(1,), out_indices=(0,))
    backbone = dict(small_segmentor['backbone'], **shallow)
    head = dict(small_segmentor['decode_head'], in_channels=8, loss_decode=dict(type='PixelCrossEntropyLoss'))
    network = small_segmentor | dict(backbone=backbone, decode_head=head)
    fixmatch = dict(builders.method('fixmatch'), segmentor=network)
    states = []
    for option in (False, dict(backend='aot_eager')):
        config = semi_config({'compile': option, 'train_cfg.max_iters': 1, 'randomness': dict(seed=0)})
        config.model = fixmatch
        config.val_dataloader = config.val_cfg = config.val_evaluator = None
        config.test_dataloader = config.test_cfg = config.test_evaluator = None
        runner = Runner.from_cfg(config)
        start = runner.model.student.state_dict()['decode_head.conv_seg.weight'].clone()
        runner.train()
        states.append(runner.model.state_dict())
        assert not torch.equal(states[-1]['student.decode_head.conv_seg.weight'], start)
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-3, atol=1e-4, msg=name)
