"""Options of right and wrong types, through the registries; what is built from them works once."""

import builders
import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmseg.registry import DATA_SAMPLERS, HOOKS, MODELS, TRANSFORMS
from mutations import mostly
from own_errors import cases, ends_well

SMALL = st.integers(-3, 9)
SHARES = st.floats(0, 1) | st.sampled_from([0, 1])
NUMBERS = SMALL | st.floats(-3, 9) | st.sampled_from([0.5, 1e300, float('nan'), float('inf'), -float('inf')])
PAIRS = st.tuples(NUMBERS, NUMBERS) | st.lists(NUMBERS, max_size=3)
ANYTHING = st.none() | st.booleans() | NUMBERS | st.text(max_size=3) | PAIRS | st.just({}) | st.just({'a': 1})
FLAGS = st.booleans()


def options(known):
    """Up to three of some options, each of its own kind or of any."""
    values = {name: mostly(kind, ANYTHING) for name, kind in known.items()}
    chosen = st.lists(st.sampled_from(sorted(known)), max_size=3, unique=True)
    return chosen.flatmap(lambda names: st.fixed_dictionaries({name: values[name] for name in names}))


def choice(*values):
    return st.sampled_from(values)


HEAD = dict(
    num_classes=SMALL,
    in_channels=choice(8, 64),
    in_index=SMALL,
    channels=SMALL,
    dropout_ratio=SHARES,
    max_order=SMALL,
    normalize=choice('source', 'source_mean', 'target'),
    num_regions=SMALL,
    last_row=FLAGS,
)
TERMS = ('seg', 'prop', 'affinity', 'aux', 'hard', 'kl', 'soft', 'fp', 'smooth')
WEIGHTS = mostly(st.dictionaries(choice(*TERMS), mostly(st.floats(0, 2), ANYTHING), max_size=3), ANYTHING)
MODEL = dict(
    num_classes=SMALL,
    propagation_head=options(HEAD),
    loss_weight=st.fixed_dictionaries(dict(sup=WEIGHTS), optional=dict(unsup=WEIGHTS)),
    pseudo_labels=options(dict(tau=SHARES, momentum=SHARES)),
    labels_from=choice('student', 'teacher'),
    num_strong=choice(1, 2),
    complementary_dropout=FLAGS,
    joint_forward=FLAGS,
    strong_statistics=FLAGS,
    cutmix_partner=choice('batch', 'second_view'),
    cutmix_predictor=choice('own', 'teacher', 'student'),
    cutmix_target=FLAGS,
    affinity_pairs=choice('all', 'outside', 'inside'),
    label_affinity=choice('nearest', 'interpolated'),
    label_affinity_grad=FLAGS,
    smoothness=choice('absolute', 'softmax'),
    perturb_ratio=SHARES,
    sync_counts=FLAGS,
    predict_on=choice('teacher', 'student'),
    channels_last=FLAGS,
)
PRESETS = sorted(path.stem for path in builders.METHODS.glob('*.py') if path.stem != 'derprop_model')


def named(changes):
    """Options and those inside of them; of exclusive ones an error may name either."""
    inner = [name for value in changes.values() if isinstance(value, dict) for name in value]
    return [*changes, *inner, *(name for name in inner for name in ('sup', 'unsup')), 'propagation_head', 'num_strong']


@cases(300)
@given(st.sampled_from(PRESETS), options(MODEL), st.integers(2, 6))
def test_semi_segmentor(preset, changes, num_classes):
    config = builders.method(preset)
    head = changes.get('propagation_head')
    if isinstance(head, dict) and 'propagation_head' in config:
        changes = changes | dict(propagation_head=config['propagation_head'] | head)
    with ends_well(*(named(changes) if changes else ['max_order'])):  # fewer classes than a preset's order needs
        model = MODELS.build(dict(config | changes, segmentor=builders.segmentor(num_classes)))
        model.init_weights()
        inputs, samples = builders.batch(size=(17, 23), num_classes=model.num_classes, num_strong=2)
        losses = model.train().loss(inputs, samples)
        sum(losses.values()).backward()
        assert all(value.isfinite() for value in losses.values()), losses


@cases(20)
@given(ANYTHING)
def test_segmentor(segmentor):
    with ends_well('segmentor'):
        MODELS.build(dict(builders.method('derprop_paper'), segmentor=segmentor))


@cases(150)
@given(options(HEAD | dict(in_channels=choice(8))))
def test_propagation_head(changes):
    whole = dict(type='DerPropHead', num_classes=4, in_channels=8, channels=4, num_regions=3) | changes
    with ends_well(*changes, 'max_order'):  # too few classes for it
        head = MODELS.build(whole)
        embedding = head.train()([torch.randn(2, 8, 3, 4)] * 10)
        head.propagate(embedding, torch.randn(2, head.num_classes, 9, 12)).sum().backward()
        assert head.regions(embedding, (9, 12)).shape == (2, head.num_regions, 9, 12)


HOOK_OPTIONS = {
    'PseudoLabelHook': dict(
        alpha=SHARES | choice('linear'),
        teacher_interval=choice('epoch', 'step'),
        teacher_momentum=SHARES,
        head_warmup=SMALL,
        interval=SMALL,
        leaks=choice('error', 'warn', 'ignore'),
    ),
    'NonFiniteHook': dict(action=choice('stop', 'skip'), limit=SMALL),
    'BrokenFilesHook': dict(limit=SMALL),
    'PseudoLabelVisualizationHook': dict(interval=SMALL, max_images=SMALL),
    'ExactCheckpointHook': dict(interval=SMALL, max_keep_ckpts=SMALL, by_epoch=FLAGS),
    'StrictLoadHook': dict(needed=st.lists(choice('', 'student.'))),
}


@cases(250)
@given(
    st.sampled_from(sorted(HOOK_OPTIONS)).flatmap(lambda kind: st.tuples(st.just(kind), options(HOOK_OPTIONS[kind])))
)
def test_hooks(case):
    kind, changes = case
    with ends_well(*changes):
        hook = HOOKS.build(dict(type=kind, **changes))
        # What an iteration does with them.
        interval = getattr(hook, 'interval', getattr(hook, 'length', 1))
        assert hook.every_n_inner_iters(3, interval) in (True, False)
        if kind == 'PseudoLabelHook':
            assert hook.alpha == 'linear' or 0 <= float(hook.alpha) <= 1
        if kind == 'BrokenFilesHook':
            assert len('abc') > hook.limit or hook.limit > 2
        if kind == 'StrictLoadHook':
            assert 'student.backbone'.startswith(hook.needed) in (True, False)
        if kind == 'ExactCheckpointHook':
            assert isinstance([3, 4, 5][: -hook.keep] if hook.keep > 0 else [], list)


class Images:
    """A data set of nothing but numbers of images."""

    def __init__(self, labeled, unlabeled):
        self.num_labeled, self.num_unlabeled = labeled, unlabeled

    def __len__(self):
        return self.num_labeled + self.num_unlabeled


@cases(150)
@given(
    choice('SemiSampler', 'LabeledSampler'),
    options(dict(num_labeled=SMALL, num_unlabeled=SMALL, seed=SMALL, shuffle=FLAGS)),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(0, 99),
)
def test_samplers(kind, changes, labeled, unlabeled, skipped):
    counts = dict(num_labeled=1) | (dict(num_unlabeled=1) if kind == 'SemiSampler' else {})
    with ends_well(*changes):
        sampler = DATA_SAMPLERS.build(dict(type=kind, dataset=Images(labeled, unlabeled), **(counts | changes)))
        sampler.skip(skipped)
        drawn = [index for index, _ in zip(sampler, range(20))]
        assert all(isinstance(index, int) and 0 <= index < labeled + unlabeled for index in drawn)
        assert len(sampler) > 0


RANGE = st.tuples(SHARES, st.floats(1, 4))
TRANSFORM_OPTIONS = {
    'StrongAugment': dict(
        jitter=st.tuples(SHARES, SHARES, SHARES, st.floats(0, 0.5)),
        jitter_prob=SHARES,
        gray_prob=SHARES,
        blur_prob=SHARES,
        blur_sigma=RANGE,
    ),
    'RandomCutMixBox': dict(prob=SHARES, area=st.tuples(SHARES, SHARES), aspect=RANGE | st.tuples(SHARES, SHARES)),
    'RandomRescale': dict(ratio_range=RANGE),
    'PadToCrop': dict(size=SMALL | st.tuples(SMALL, SMALL), pad_val=SMALL, seg_pad_val=SMALL),
    'CheckLabels': dict(num_classes=SMALL, ignore_index=SMALL),
}


@cases(350)
@given(
    st.sampled_from(sorted(TRANSFORM_OPTIONS)).flatmap(
        lambda kind: st.tuples(st.just(kind), options(TRANSFORM_OPTIONS[kind]))
    ),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(0, 9),
)
def test_transforms(case, height, width, seed):
    kind, changes = case
    np.random.seed(seed)
    image = np.random.randint(256, size=(height, width, 3), dtype=np.uint8)
    labels = np.random.randint(3, size=(height, width), dtype=np.uint8)
    results = dict(img=image, gt_seg_map=labels, seg_fields=['gt_seg_map'], img_shape=(height, width))
    changes = (dict(size=9) if kind == 'PadToCrop' else {}) | changes
    also = ['does not fit'] if kind == 'RandomCutMixBox' else ['allowed are'] if kind == 'CheckLabels' else []
    with ends_well(*changes, *also):
        results = TRANSFORMS.build(dict(type=kind, **changes))(results)
        assert results['img'].dtype == np.uint8 and results['img'].shape[:2] == results['gt_seg_map'].shape
        if kind == 'RandomCutMixBox':
            x1, y1, x2, y2 = results['cutmix_box']
            assert 0 <= x1 <= x2 <= width and 0 <= y1 <= y2 <= height
