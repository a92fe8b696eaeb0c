"""What moves between optimiser steps: alpha, the threshold, the teacher; the log; the checks before a run."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import MODELS
from PIL import Image

from mmseg_derprop.engine.preflight import branches_of, check_batch
from mmseg_derprop.models import SemiSegmentor

EPOCH = 3  # iterations
BY_STEP = {'model.teacher.interval': 'step', 'model.teacher.momentum': 0.6}


class Recorder(Hook):
    """What the model holds and does in each iteration."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.before, self.after, self.steps, self.alphas, self.batches = [], [], [], [], []

    @staticmethod
    def state(runner):
        model = runner.model
        return {
            name: torch.cat([v.flatten() for v in getattr(model, name).state_dict().values() if v.is_floating_point()])
            for name in ('student', 'teacher')
        }

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.before.append(self.state(runner))
        self.alphas.append(runner.model.pseudo_labeler.alpha)
        self.batches.append(data_batch)
        runner.model.step_observer = self.steps.append

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        threshold = runner.model.pseudo_labeler.threshold.value.item()
        self.after.append(dict(self.state(runner), threshold=threshold))


@pytest.fixture
def train(make_runner):
    """Trains with options; returns the recorder and the runner."""

    def run(options=None, hook=None, **kwargs):
        hooks = [dict(type='PseudoLabelHook', **(hook or {}))]
        runner = make_runner({'custom_hooks': hooks, **(options or {})}, **kwargs)
        runner.register_hook(recorder := Recorder())
        runner.train()
        return recorder, runner

    return run


def near(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def class_maxima(target):
    """Highest confidence by class, 0 where a class is absent."""
    probabilities = target.own.logits.double().softmax(1).permute(0, 2, 3, 1)[~target.mixed.ignored]
    confidence, labels = probabilities.max(1)
    return torch.stack([confidence[labels == k].max() if (labels == k).any() else torch.tensor(0.0) for k in range(6)])


def test_the_log_has_means_of_the_interval(train):
    """Of shares and accuracies, over the iterations in which there is one; of the threshold the last."""
    shares = []

    def statistics(model, step, samples):
        shares.append(float('nan') if len(shares) in (1, 4) else len(shares) / 8)
        return dict(accuracy_confident=torch.tensor(shares[-1]), threshold=torch.tensor(shares[-1]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmseg_derprop.models.semi_segmentor.step_statistics', statistics)
        runner = train({'train_cfg.max_iters': 6}, dict(interval=3))[1]
    logged = {name: history.data[0] for name, history in runner.message_hub.log_scalars.items()}
    assert logged['train/accuracy_confident'] == pytest.approx([1 / 8, 4 / 8])  # 0, -, 2 and 3, -, 5
    assert logged['train/threshold'] == pytest.approx([2 / 8, 5 / 8])


def test_alpha_is_epoch_over_epochs_or_constant(train):
    assert train()[0].alphas == pytest.approx([0, 0, 0, 1 / 3, 1 / 3, 1 / 3, 2 / 3])
    assert train({'model.pseudo_labels.alpha': 0.25, 'train_cfg.max_iters': 4})[0].alphas == [0.25] * 4


def test_head_learns_alone_first(train):
    recorder, runner = train({'model.propagation_head.warmup': 2, 'train_cfg.max_iters': 4})
    assert [step.target.regions is None for step in recorder.steps] == [True, True, False, False]
    assert not runner.model.propagation_head.warming_up


def test_teacher_by_epoch(train):
    recorder, runner = train()
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


def test_teacher_by_step(train):
    recorder, _ = train(BY_STEP)
    teacher = recorder.before[0]['student']
    near(recorder.before[0]['teacher'], teacher)
    for state, momentum in zip(recorder.after, (0, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6)):
        teacher = momentum * teacher + (1 - momentum) * state['student']
        near(state['teacher'], teacher)


@pytest.mark.parametrize('counts', [2, 3])
def test_accumulation_moves_everything_once_per_step(train, counts):
    options = {'optim_wrapper.accumulative_counts': counts, 'model.pseudo_labels.threshold.momentum': 0.5}
    recorder, _ = train({**BY_STEP, **options})
    starts = [iteration // counts * counts for iteration in range(7)]
    assert recorder.alphas == pytest.approx([start // EPOCH / 3 for start in starts])

    threshold = 0.85
    for start in sorted(set(starts)):
        maxima = torch.zeros(6)
        for iteration in (i for i in range(7) if starts[i] == start):
            maxima = torch.maximum(maxima, class_maxima(recorder.steps[iteration].target))
            moved = 0.5 * threshold + 0.5 * maxima[maxima > 0].mean().item()
            assert recorder.after[iteration]['threshold'] == pytest.approx(moved, abs=1e-5)
        threshold = moved

    # The optimiser makes its last step with what there is.
    ends = [i for i in range(7) if (i + 1) % counts == 0 or i == 6]
    teacher = recorder.before[0]['teacher']
    for iteration, state in enumerate(recorder.after):
        if iteration in ends:
            momentum = min(1 - 1 / (ends.index(iteration) + 1), 0.6)
            teacher = momentum * teacher + (1 - momentum) * state['student']
        near(state['teacher'], teacher)


# Before the first iteration ------------------------------------------------------------------------------------------

ONE = {'train_dataloader.batch_size': 5, 'train_dataloader.sampler.num_unlabeled': 1}
SECOND_VIEW = dict(partner='second_view', predictor='teacher')
REFUSED = {
    'sampler': (ValueError, r'SemiSampler', {'train_dataloader.sampler': dict(_delete_=True, type='InfiniteSampler')}),
    'batch size': (ValueError, r'batch_size must be 8.*is 6', {'train_dataloader.batch_size': 6}),
    'branches': (
        ValueError,
        'must make the branches.*weak_mix, strong_mix',
        {'model.cutmix': SECOND_VIEW, 'model.losses.affinity_u.inside_box': False},
    ),
    'crops': (
        ValueError,
        r'(?s)one size.*49, 49.*33, 33',
        {f'train_dataloader.dataset.labeled.pipeline.{i}': (49, 49) for i in ('3.size', '4.crop_size')},
    ),
    'padding': (ValueError, r'33x33.*size=\(48, 48\)', {'model.segmentor.data_preprocessor.size': (48, 48)}),
    'box': (
        ValueError,
        'RandomCutMixBox.*33x33.*does not fit',
        {'train_dataloader.dataset.unlabeled.pipeline.6.strong.1.area': (0.5, 0.9)}
        | {'train_dataloader.dataset.unlabeled.pipeline.6.strong.1.aspect': (3.0, 3.3)},
    ),
    'no partner': (ValueError, r"num_unlabeled must be at least 2, but is 1.*partner='second_view'", ONE),
}


@pytest.fixture
def refuse(train, monkeypatch):
    """Checks that a run ends with an error before its first forward."""

    def check(error, message, options=None, **kwargs):
        def loss(*args):
            raise AssertionError('training began')

        monkeypatch.setattr(SemiSegmentor, 'loss', loss)
        with pytest.raises(error, match=message):
            train(options, **kwargs)

    return check


@pytest.mark.parametrize('what', REFUSED)
def test_refuses_what_does_not_fit(refuse, what):
    refuse(*REFUSED[what])


@pytest.mark.parametrize('item', [dict(img=0), dict(inputs=torch.zeros(3, 2, 2))])
def test_a_pipeline_without_branches(item):
    with pytest.raises(ValueError, match='must give inputs by branch.*MultiBranch'):
        branches_of(item)


def test_refuses_labels_outside_the_classes(refuse, shapes, tmp_path):
    root = tmp_path / 'mislabelled'
    shutil.copytree(shapes, root)
    Image.fromarray(np.full((64, 64), 9, np.uint8)).save(root / 'SegmentationClass/labeled_00000.png')
    options = {'train_dataloader.dataset.labeled.data_root': str(root)}
    refuse(ValueError, r'labeled_00000.png.*from 0 to 5.*\[9\]', options)


def test_a_class_that_no_label_has(train, shapes, tmp_path, capsys):
    root = tmp_path / 'shapes'
    shutil.copytree(shapes, root)
    for path in (root / 'SegmentationClass').glob('labeled_*.png'):
        labels = np.array(Image.open(path))
        Image.fromarray(np.where(labels == 5, 255, labels).astype(np.uint8)).save(path)
    options = {'train_dataloader.dataset.labeled.data_root': str(root), 'train_cfg.max_iters': 1}
    with pytest.raises(ValueError, match='no pixel of star.*absent_classes'):
        train(options)
    assert train(options, dict(absent_classes='warn'))[1].iter == 1 and 'no pixel of star' in capsys.readouterr().out


@pytest.mark.parametrize('number', [2, 4])
def test_few_images_for_batch_normalisation_are_warned_of(train, number, capsys):
    sampler = {f'train_dataloader.sampler.num_{kind}': number for kind in ('labeled', 'unlabeled')}
    train({**sampler, 'train_dataloader.batch_size': 2 * number, 'train_cfg.max_iters': 1})
    assert (
        'num_labeled and num_unlabeled of train_dataloader.sampler should be at least 4' in capsys.readouterr().out
    ) == (number == 2)


def test_refuses_one_image_for_normalised_image_pooling(refuse):
    refuse(ValueError, 'too few for the normalisation.*GN', ONE, segmentor=None, second_view=True)


def test_a_fine_grid_is_told_with_its_time(train, monkeypatch):
    told = []
    monkeypatch.setattr('mmseg_derprop.engine.preflight.print_log', lambda text, *args: told.append(text))
    train({'model.propagation_head.in_index': 0, 'train_cfg.max_iters': 1})
    assert not told
    monkeypatch.setattr('mmseg_derprop.engine.preflight.MANY_POSITIONS', 63)
    train({'model.propagation_head.in_index': 0, 'train_cfg.max_iters': 1})
    # 33x33 images at stride 4; 4 labelled and 4 unlabelled ones in two views
    assert len(told) == 1 and '8x8 = 64 positions' in told[0] and 'seconds an iteration' in told[0], told


def test_checking_leaves_generators_and_model_as_they_were(semi_config):
    config = semi_config(ONE, second_view=True)
    loader = Runner.build_dataloader(config.train_dataloader, seed=0)
    model = MODELS.build(config.model).train()
    weights = {key: value.clone() for key, value in model.state_dict().items()}

    def seed():
        random.seed(1), np.random.seed(2), torch.manual_seed(3)

    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    seed()
    wanted = draw()
    seed()
    check_batch(model, loader)
    assert draw() == wanted
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize('leaks', ['error', 'ignore'])
def test_validation_images_among_training_images(train, leaks):
    options = {'val_dataloader.dataset.ann_file': 'ImageSets/Segmentation/labeled.txt', 'train_cfg.max_iters': 1}
    if leaks == 'ignore':
        assert train(options, dict(leaks=leaks), val=True)[1].iter == 1
        return
    with pytest.raises(ValueError, match='4 of 4 validation images are among the labelled images'):
        train(options, val=True)


@pytest.mark.parametrize('joined', [False, True])
def test_refuses_validation_labels_that_do_not_fit(refuse, shapes, tmp_path, semi_config, joined):
    """Found before the first iteration, not by the first validation."""
    root = tmp_path / 'shapes'
    shutil.copytree(shapes, root)
    (name,) = (root / 'ImageSets/Segmentation/val.txt').read_text().split()[:1]
    Image.fromarray(np.zeros((5, 7), np.uint8)).save(root / f'SegmentationClass/{name}.png')
    data = dict(semi_config().val_dataloader.dataset, data_root=str(root))
    data = dict(type='ConcatDataset', datasets=[data]) if joined else data
    refuse(ValueError, f'{name}.png.*5x7', {'val_dataloader.dataset': dict(data, _delete_=True)}, val=True)


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'val_dataloader.dataset.pipeline.1.type': 'LoadImageFromFile'}, 'gt_sem_seg'),
        ({'model.segmentor.test_cfg': dict(mode='slide', crop_size=(40, 40))}, 'stride'),
    ],
)
def test_refuses_a_validation_that_cannot_work(refuse, options, words):
    refuse(ValueError, f'first image cannot be validated.*{words}.*Compare val_dataloader', options, val=True)


class Scores(Hook):
    """What validations measured."""

    def __init__(self):
        self.metrics = []

    def after_val_epoch(self, runner, metrics=None):
        self.metrics.append(metrics)


def test_the_log_has_means_of_terms_and_each_validation_as_it_is(make_runner):
    runner = make_runner(
        {
            'custom_hooks': [dict(type='PseudoLabelHook')],
            'train_cfg.max_iters': 4,
            'train_cfg.val_interval': 2,
            'default_hooks.logger': dict(type='LoggerHook', interval=1, log_metric_by_epoch=False),
            'log_processor.window_size': 4,
        },
        val=True,
    )
    runner.register_hook(scores := Scores())
    runner.train()
    text = next(Path(runner.work_dir).glob('*/vis_data/scalars.json')).read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    logged = [line for line in lines if 'teacher/mIoU' in line]
    assert len(logged) == len(scores.metrics) == 2 and scores.metrics[0] != scores.metrics[1]
    for line, metrics in zip(logged, scores.metrics, strict=True):
        assert {name: line[name] for name in metrics} == metrics
    steps = [line for line in lines if 'kl' in line]
    for name in runner.model.active_losses:
        values = [value for value, _ in zip(*runner.message_hub.log_scalars[f'train/{name}'].data, strict=True)]
        assert steps[-1][name] == pytest.approx(sum(values) / 4, rel=1e-5)
