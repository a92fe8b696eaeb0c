"""What moves between optimiser steps: alpha, the threshold, the teacher; the log; the checks before a run."""

import random
import shutil

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import MODELS
from PIL import Image

from mmseg_derprop.engine import PseudoLabelHook
from mmseg_derprop.engine.preflight import check_batch
from mmseg_derprop.models import SemiSegmentor

EPOCH = 3  # iterations


class Recorder(Hook):
    """What the model holds and does in each iteration."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.before, self.after, self.steps, self.batches = [], [], [], []

    @staticmethod
    def state(runner):
        model = runner.model
        return {
            name: torch.cat([v.flatten() for v in getattr(model, name).state_dict().values() if v.is_floating_point()])
            for name in ('student', 'teacher')
        }

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        model = runner.model
        self.before.append(self.state(runner))
        self.batches.append(data_batch)
        tau = model.pseudo_labeler.tau.item()
        model.step_observer = lambda step: self.steps.append(dict(step, alpha=model.alpha, tau_before=tau))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.after.append(dict(self.state(runner), tau=runner.model.pseudo_labeler.tau.item()))


@pytest.fixture
def train(make_runner):
    """Trains with a hook and options; returns the recorder and the runner."""

    def run(hook=None, options=None, **kwargs):
        hook = dict(type='PseudoLabelHook', **(hook or {}))
        runner = make_runner({'custom_hooks': [hook], **(options or {})}, **kwargs)
        recorder = Recorder()
        runner.register_hook(recorder)
        runner.train()
        return recorder, runner

    return run


def alphas(recorder):
    return [step['alpha'] for step in recorder.steps]


def near(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def class_maxima(step):
    """Highest confidence by class, 0 where a class is absent."""
    own, valid = step['target'].own, ~step['target'].mixed.ignored
    probabilities = own.logits.double().softmax(1).permute(0, 2, 3, 1)[valid]
    confidence, labels = probabilities.max(1)
    return torch.stack([confidence[labels == k].max() if (labels == k).any() else torch.tensor(0.0) for k in range(6)])


def test_alpha_is_epoch_over_epochs(train):
    recorder, _ = train()
    assert alphas(recorder) == pytest.approx([0, 0, 0, 1 / 3, 1 / 3, 1 / 3, 2 / 3])


def test_alpha_constant(train):
    recorder, _ = train(dict(alpha=0.25), {'train_cfg.max_iters': 4})
    assert alphas(recorder) == [0.25] * 4


def test_head_learns_alone_first(train):
    recorder, runner = train(dict(alpha=0.5, head_warmup=2), {'train_cfg.max_iters': 4})
    assert [step['target'].regions is None for step in recorder.steps] == [True, True, False, False]
    assert not runner.model.head_alone


def test_teacher_by_epoch(train):
    recorder, runner = train(dict(teacher_interval='epoch', teacher_momentum=0.5))
    teacher = recorder.before[0]['student']
    for iteration, state in enumerate(recorder.before):
        if iteration in (EPOCH, 2 * EPOCH):
            teacher = (teacher + state['student']) / 2
        near(state['teacher'], teacher)
    assert (recorder.before[-1]['student'] != recorder.before[-1]['teacher']).any()
    # Batch statistics are among what moves, and counts are the student's at the last move.
    student, moved = runner.model.student.backbone.bn1, runner.model.teacher.backbone.bn1
    assert moved.num_batches_tracked == 2 * 2 * EPOCH < student.num_batches_tracked
    assert not torch.equal(moved.running_mean, torch.zeros_like(moved.running_mean))


def test_teacher_momentum_is_the_teachers_own_share(train):
    recorder, _ = train(dict(teacher_momentum=0.9), {'train_cfg.max_iters': 4})
    start, end = recorder.before[0], recorder.before[3]
    near(end['teacher'], 0.9 * start['student'] + 0.1 * end['student'])


def test_teacher_by_step(train):
    recorder, _ = train(dict(teacher_interval='step', teacher_momentum=0.6))
    teacher = recorder.before[0]['student']
    near(recorder.before[0]['teacher'], teacher)
    for t, state in enumerate(recorder.after):
        momentum = min(1 - 1 / (t + 1), 0.6)
        assert momentum == (0, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6)[t]
        teacher = momentum * teacher + (1 - momentum) * state['student']
        near(state['teacher'], teacher)


@pytest.mark.parametrize('counts', [2, 3])
def test_accumulation_moves_everything_once_per_step(train, counts):
    options = {'optim_wrapper.accumulative_counts': counts, 'model.pseudo_labels.momentum': 0.5}
    recorder, _ = train(dict(teacher_interval='step', teacher_momentum=0.6), options)
    starts = [iteration // counts * counts for iteration in range(7)]
    assert alphas(recorder) == pytest.approx([start // EPOCH / 3 for start in starts])

    tau = 0.85
    for start in sorted(set(starts)):
        maxima = torch.zeros(6)
        for iteration in (i for i in range(7) if starts[i] == start):
            maxima = torch.maximum(maxima, class_maxima(recorder.steps[iteration]))
            moved = 0.5 * tau + 0.5 * maxima[maxima > 0].mean().item()
            assert recorder.after[iteration]['tau'] == pytest.approx(moved, abs=1e-5)
        tau = moved

    # The optimiser makes its last step with what there is.
    ends = [i for i in range(7) if (i + 1) % counts == 0 or i == 6]
    teacher = recorder.before[0]['teacher']
    for iteration, state in enumerate(recorder.after):
        if iteration in ends:
            momentum = min(1 - 1 / (ends.index(iteration) + 1), 0.6)
            teacher = momentum * teacher + (1 - momentum) * state['student']
        near(state['teacher'], teacher)


@pytest.mark.parametrize('counts, moves', [(2, (4, 6)), (3, (3, 6)), (4, (4,))])
def test_accumulation_with_a_teacher_by_epoch(train, counts, moves):
    recorder, _ = train(dict(teacher_interval='epoch'), {'optim_wrapper.accumulative_counts': counts})
    teachers = [state['teacher'] for state in recorder.before]
    moved = [i for i in range(1, 7) if not torch.equal(teachers[i], teachers[i - 1])]
    assert moved == list(moves)
    assert all(torch.equal(recorder.before[i]['teacher'], recorder.after[i]['teacher']) for i in range(7))


@pytest.mark.parametrize('interval, counts, until', [('step', 1, 2), ('epoch', 1, 3), ('epoch', 2, 4), ('epoch', 2, 5)])
def test_a_resumed_run_goes_on(train, tmp_path, interval, counts, until):
    hook = dict(teacher_interval=interval, teacher_momentum=0.6)
    options = {'optim_wrapper.accumulative_counts': counts}
    saving = dict(type='CheckpointHook', by_epoch=False, interval=until)
    first, _ = train(hook, {**options, 'train_cfg.max_iters': until, 'default_hooks.checkpoint': saving})
    saved = str(tmp_path / f'work/iter_{until}.pth')
    recorder, runner = train(hook, {**options, 'resume': True, 'load_from': saved})
    assert runner.iter == 7 and len(recorder.steps) == 7 - until
    # A step begins where the engine begins one, which after a resumption within a step is at the multiple.
    starts = [i // counts * counts for i in range(until, 7)]
    assert alphas(recorder) == pytest.approx([start // EPOCH / 3 for start in starts])

    teacher = first.after[-1]['teacher']
    for i, before, after in zip(range(until, 7), recorder.before, recorder.after):
        if interval == 'epoch' and i in {-(-e // counts) * counts for e in (EPOCH, 2 * EPOCH)}:
            teacher = 0.6 * teacher + 0.4 * before['student']
        near(before['teacher'], teacher)
        if interval == 'step':
            momentum = min(1 - 1 / (i + 1), 0.6)
            teacher = momentum * teacher + (1 - momentum) * after['student']
        near(after['teacher'], teacher)


def test_statistics_reach_the_message_hub(train):
    options = {'model.pseudo_labels': dict(tau=0.17, momentum=0.99), 'train_cfg.max_iters': 5}
    recorder, runner = train(dict(alpha=0.5, interval=1), options)
    scalars = runner.message_hub.log_scalars
    values = {
        key: scalars[f'train/{key}'].data[0] for key in ('alpha', 'tau', 'confident', 'accepted', 'region_changes')
    }
    assert all(len(v) == 5 for v in values.values())
    assert list(values['alpha']) == [0.5] * 5
    assert list(values['tau']) == pytest.approx([state['tau'] for state in recorder.after])
    for i, (step, batch) in enumerate(zip(recorder.steps, recorder.batches)):
        target, inside = step['target'], step['inside'].numpy()
        valid = ~target.mixed.ignored.numpy()
        truth = np.stack([sample.gt_sem_seg.data[0].numpy() for sample in batch['data_samples']['weak']])
        truth = np.where(inside, np.roll(truth, -1, 0), truth)
        known = valid & (truth != 255)
        expected = {
            'confident': target.confident.numpy().sum() / valid.sum(),
            'accepted': target.accepted.numpy().sum() / valid.sum(),
            'region_changes': (target.labels != target.mixed.labels).numpy().sum() / valid.sum(),
        }
        for key, labels in (('confident', target.mixed.labels), ('accepted', target.labels)):
            mask = getattr(target, key).numpy() & known
            expected[f'accuracy_{key}'] = (labels.numpy() == truth)[mask].mean() if mask.any() else np.nan
        for key, value in expected.items():
            assert scalars[f'train/{key}'].data[0][i] == pytest.approx(value, abs=1e-5, nan_ok=True), key
        assert 0 <= expected['confident'] <= expected['accepted'] <= 1
    # How many are confident differs by version of torch.
    assert sum(0 < share < 1 for share in values['confident']) >= 3
    assert np.isfinite(scalars['train/accuracy_accepted'].data[0]).sum() >= 3


def test_statistics_every_so_often_and_without_labels(train):
    options = {'train_dataloader.dataset.unlabeled.data_prefix': dict(_delete_=True, img_path='JPEGImages')}
    _, runner = train(dict(interval=3), options)
    scalars = runner.message_hub.log_scalars
    assert len(scalars['train/tau'].data[0]) == 2
    assert not any('accuracy' in key for key in scalars)


def test_statistics_of_a_second_view(train):
    recorder, runner = train(
        dict(interval=1), {'train_cfg.max_iters': 1, 'model.pseudo_labels.tau': 0.0}, second_view=True
    )
    step, samples = recorder.steps[0], recorder.batches[0]['data_samples']
    truth, partner = (
        np.stack([sample.gt_sem_seg.data[0].numpy() for sample in samples[branch]]) for branch in ('weak', 'weak_mix')
    )
    assert step['inside'].any()
    truth = np.where(step['inside'].numpy(), partner, truth)
    known = ~step['target'].mixed.ignored.numpy() & (truth != 255) & step['target'].confident.numpy()
    accuracy = (step['target'].mixed.labels.numpy() == truth)[known].mean()
    logged = runner.message_hub.log_scalars['train/accuracy_confident'].current()
    assert logged == pytest.approx(accuracy, abs=1e-5)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(alpha='cosine'), 'alpha'),
        (dict(alpha=1.5), 'alpha = 1.5'),
        (dict(alpha=-0.1), 'alpha'),
        (dict(teacher_interval='iter'), "'epoch', 'step'"),
        (dict(teacher_momentum=1.1), 'teacher_momentum = 1.1'),
    ],
)
def test_unknown_options(options, message):
    with pytest.raises(ValueError, match=message):
        PseudoLabelHook(**options)


# Before the first iteration ------------------------------------------------------------------------------------------


@pytest.fixture
def refuse(train, monkeypatch):
    """Checks that a run ends with an error before its first forward."""

    def check(error, message, options=None, **kwargs):
        def loss(*args):
            raise AssertionError('training began')

        with monkeypatch.context() as patch:
            patch.setattr(SemiSegmentor, 'loss', loss)
            with pytest.raises(error, match=message):
                train(options=options, **kwargs)

    return check


def test_refuses_another_sampler(refuse):
    sampler = dict(_delete_=True, type='InfiniteSampler')
    refuse(TypeError, r"(?s)InfiniteSampler.*type='SemiSampler'", {'train_dataloader.sampler': sampler})


def test_refuses_a_batch_size_that_is_not_the_samplers(refuse):
    refuse(ValueError, r'batch_size = 6.*set batch_size=8', {'train_dataloader.batch_size': 6})


def test_refuses_missing_branches(refuse):
    model = {
        'model.cutmix_partner': 'second_view',
        'model.cutmix_predictor': 'teacher',
        'model.affinity_pairs': 'outside',
    }
    refuse(ValueError, 'reads weak_mix, strong_mix', model)


def test_refuses_different_crops(refuse):
    options = {f'train_dataloader.dataset.labeled.pipeline.{i}': (49, 49) for i in ('3.size', '4.crop_size')}
    refuse(ValueError, r'(?s)one size.*49, 49.*33, 33', options)


def test_refuses_crops_that_the_network_would_pad(refuse):
    refuse(ValueError, r'33x33.*size=\(48, 48\)', {'model.segmentor.data_preprocessor.size': (48, 48)})


def test_refuses_labels_outside_the_classes(refuse, shapes, tmp_path):
    root = tmp_path / 'mislabelled'
    shutil.copytree(shapes, root)
    Image.fromarray(np.full((64, 64), 9, np.uint8)).save(root / 'SegmentationClass/labeled_00000.png')
    refuse(
        ValueError,
        r'labeled_00000.*ids \[9\].*6 classes, 0 to 5',
        {'train_dataloader.dataset.labeled.data_root': str(root)},
    )


ONE = {'train_dataloader.batch_size': 5, 'train_dataloader.sampler.num_unlabeled': 1}


def test_refuses_one_image_without_partner(refuse):
    refuse(ValueError, "(?s)partner.*num_unlabeled to 2.*cutmix_partner='second_view'", ONE)


def test_refuses_one_image_for_normalised_image_pooling(refuse):
    refuse(ValueError, 'too few for the normalisation.*GN', ONE, segmentor=None, second_view=True)


def test_one_image_is_enough_without_normalised_image_pooling(train):
    recorder, _ = train(options={**ONE, 'train_cfg.max_iters': 1}, second_view=True)
    assert len(recorder.steps[0]['inside']) == 1


def test_checking_leaves_generators_and_model_as_they_were(semi_config):
    config = semi_config(ONE, second_view=True)
    loader = Runner.build_dataloader(config.train_dataloader, seed=0)
    model = MODELS.build(config.model).train()
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    wanted = random.random(), np.random.rand(), torch.rand(1).item()
    for fails in (False, True):
        random.seed(1), np.random.seed(2), torch.manual_seed(3)
        if fails:
            model.cutmix_partner = 'batch'
            with pytest.raises(ValueError):
                check_batch(model, loader)
        else:
            check_batch(model, loader)
        assert (random.random(), np.random.rand(), torch.rand(1).item()) == wanted
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def test_loading_draws_from_generators(semi_config):
    """Else the test above would say nothing."""
    loader = Runner.build_dataloader(semi_config().train_dataloader, seed=0)
    first, second = loader.dataset[4]['inputs']['weak'], loader.dataset[4]['inputs']['weak']
    assert not torch.equal(first, second)


def test_refuses_another_model(make_runner, small_segmentor):
    runner = make_runner()
    runner.model = MODELS.build(small_segmentor)
    runner.optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))
    with pytest.raises(TypeError, match='EncoderDecoder.*SemiSegmentor'):
        runner.train()


@pytest.mark.parametrize('leaks', ['error', 'warn', 'ignore'])
def test_validation_images_among_training_images(train, leaks):
    options = {'val_dataloader.dataset.ann_file': 'ImageSets/Segmentation/labeled.txt', 'train_cfg.max_iters': 1}
    if leaks != 'error':
        assert train(dict(leaks=leaks), options, val=True)[1].iter == 1
        return
    with pytest.raises(ValueError, match='4 are among the labelled images'):
        train(None, options, val=True)


def test_refuses_validation_labels_that_do_not_fit(refuse, shapes, tmp_path):
    """Found before the first iteration, not by the first validation."""
    root = tmp_path / 'shapes'
    shutil.copytree(shapes, root)
    (name,) = (root / 'ImageSets/Segmentation/val.txt').read_text().split()[:1]
    Image.fromarray(np.zeros((5, 7), np.uint8)).save(root / f'SegmentationClass/{name}.png')
    refuse(ValueError, f'{name}.png.*5x7', {'val_dataloader.dataset.data_root': str(root)}, val=True)
    (root / f'SegmentationClass/{name}.png').unlink()
    options = {'val_dataloader.dataset.data_root': str(root)}
    refuse(FileNotFoundError, f'1 of 6 label files.*the validation list.*{name}.png', options, val=True)
