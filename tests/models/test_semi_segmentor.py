"""Values of a step against the naive reference, the images of each forward, and what the log is told."""

import copy

import builders
import pytest
import reference
import torch
from builders import SIZE
from stepping import boxes, build, close, maps, order_of_partners, tapped, written_out

KEYS = [
    'seg',
    'seg_prop',
    'affinity_x',
    'kl',
    'soft',
    'fp',
    'prop_s',
    'prop_w',
    'affinity_u',
    'smooth',
    'smooth_w',
    'smooth_s',
]
SECOND_VIEW = {'cutmix.partner': 'second_view', 'cutmix.predictor': 'teacher', 'losses.affinity_u.inside_box': False}


def has_a_share_of_everything(step):
    """Whether a batch exercises thresholds and regions."""
    target = step.target
    assert 0.1 < target.confident.float().mean() < 0.9
    assert (target.accepted & ~target.confident).any()
    assert (target.labels != target.mixed.labels).any()


# --- Values ------------------------------------------------------------------------------------------------------


def test_published_preset_is_the_published_step():
    model = build('derprop_published')
    inputs, samples = builders.batch()
    losses, tap = tapped(model, inputs, samples)
    x, w, _, fp = reference.resize(tap.z[0], SIZE).split(2)
    head = model.propagation_head
    found = reference.published_step(
        dict(
            logits_x=x,
            logits_u_w=w,
            logits_u_w_fp=fp,
            logits_u_s=reference.resize(tap.z[1], SIZE),
            logits_mix_teacher=tap.partner['teacher', 'weak_mix'],
            feat_x=tap.feature[0][:2],
            feat_u_w=tap.feature[0][2:],
            feat_u_s=tap.feature[1],
            conv1_w=head.conv_q.weight,
            conv1_b=head.conv_q.bias,
            conv2_w=head.conv_k.weight,
            conv2_b=head.conv_k.bias,
            region_rows_w=tap.rows[0],
            labels_x=maps(samples['sup'], 'gt_sem_seg'),
            ignore_u=255 * maps(samples['weak'], 'ignore_map'),
            ignore_mix=255 * maps(samples['weak_mix'], 'ignore_map'),
            cutmix_box=boxes(samples['strong'], SIZE).int(),
            alpha=torch.tensor(0.3),
            thresh_init=tap.threshold,
            thresh_momentum=torch.tensor(0.9),
        )
    )
    wanted = {
        'seg': found['loss_x'] / 4,
        'seg_prop': found['loss_x_corr'] / 4,
        'affinity_x': found['loss_consistency'] / 4,
        'kl': found['loss_u_kl'] / 8,
        'soft': found['loss_u_s1'] / 8,
        'fp': found['loss_u_w_fp'] / 8,
        'prop_s': found['loss_u_corr_s1'] / 16,
        'prop_w': found['loss_u_corr_w'] / 16,
        'affinity_u': found['loss_consistency_u_s1'] / 4,
        'smooth': found['loss_norm'] / 16,
        'smooth_w': found['loss_norm'] / 16,
        'smooth_s': found['loss_norm_u_s1'] / 8,
    }
    assert list(losses) == list(wanted) == KEYS
    close(losses, wanted)
    total, log = model.parse_losses(losses)
    torch.testing.assert_close(total, found['loss'])
    assert list(log) == ['loss', *KEYS] and log['loss'] is total
    torch.testing.assert_close(model.pseudo_labeler.threshold.value, found['threshold_after'])
    assert torch.equal(tap.step.target.accepted, found['confident_after_regions'])
    assert torch.equal(tap.step.target.labels, found['labels_after_regions'])
    has_a_share_of_everything(tap.step)


BATCH = {'cutmix.partner': 'batch'}
ALONE = {
    'kl and soft cut-mixed': ({'losses.kl.type': 'SoftConsistencyLoss', 'losses.soft.type': 'SoftConsistencyLoss'}),
    'affinity_u outside the box': {
        'losses.affinity_u.type': 'AffinityConsistencyLoss',
        'losses.affinity_u.inside_box': False,
    },
    'affinity_u inside it too': BATCH | {'losses.affinity_u.type': 'AffinityConsistencyLoss'},
    'affinity_x': {'losses.affinity_x.type': 'LabelAffinityLoss'},
    'smooth': {f'losses.{name}.type': 'SmoothnessLoss' for name in ('smooth', 'smooth_w', 'smooth_s')},
    'hard': {'losses.hard': dict(type='HardConsistencyLoss', loss_weight=0.7)},
    'source_mean': {'propagation_head.normalize': 'source_mean'},
    'target': {'propagation_head.normalize': 'target'},
    'order 0': {'propagation_head.max_order': 0},
    'order 2': {'propagation_head.max_order': 2},
    'all rows': {'pseudo_labels.regions.type': 'RegionPropagation'},
    'batch, teacher': BATCH,
    'batch, student': BATCH | {'cutmix.predictor': 'student'},
    'reversed': {'cutmix.partner': 'reversed', 'cutmix.predictor': 'own'},
    'second view, student': {'cutmix.predictor': 'student'},
}
CASES = {'paper': ('derprop_paper', {})} | {name: ('derprop_published', options) for name, options in ALONE.items()}


@pytest.mark.parametrize('counts', [(3, 2), (1, 3)], ids=str)
@pytest.mark.parametrize('case', CASES)
def test_every_part_alone(case, counts):
    model = build(*CASES[case])
    inputs, samples = builders.batch(*counts)
    losses, tap = tapped(model, inputs, samples)
    close(losses, written_out(model, tap, inputs, samples))
    assert (tap.step.target.labels != tap.step.target.mixed.labels).any()


CHANGED = {
    'kl and soft cut-mixed': ['kl', 'soft'],
    'affinity_u outside the box': ['affinity_u'],
    'affinity_x': ['affinity_x'],
    'smooth': ['smooth', 'smooth_w', 'smooth_s'],
    'source_mean': ['seg_prop', 'prop_s', 'prop_w'],
}


def test_a_part_changes_its_terms_only():
    inputs, samples = builders.batch()

    def losses(options):
        return build('derprop_published', options | {'pseudo_labels.alpha': 0.0}).loss(inputs, samples)

    published = losses({})
    for case, terms in CHANGED.items():
        changed = losses(ALONE[case])
        assert [name for name in KEYS if not torch.equal(published[name], changed[name])] == terms, case


def test_logits_are_resized_as_the_segmentor_does_and_propagated_ones_from_corner_to_corner():
    model = build(network=builders.segmentor(align_corners=False))
    inputs, samples = builders.batch()
    losses, tap = tapped(model, inputs, samples)
    z = torch.nn.functional.interpolate(tap.z[0][:2], SIZE, mode='bilinear', align_corners=False)
    truth, grid = maps(samples['sup'], 'gt_sem_seg'), tap.q[0].shape[2:]
    torch.testing.assert_close(losses['seg'], reference.cross_entropy(z, truth) / 4)
    q, k = tap.q[0][:2].flatten(2), tap.k[0][:2].flatten(2)
    zhat = reference.propagate(q, k, reference.resize(z, grid).flatten(2), normalize='source_mean').unflatten(2, grid)
    torch.testing.assert_close(losses['seg_prop'], reference.cross_entropy(reference.resize(zhat, SIZE), truth) / 4)


@pytest.mark.parametrize('source', ['student', 'teacher'])
@pytest.mark.parametrize('second_view', [False, True])
def test_two_strong_views_of_one_picture_weigh_as_one(source, second_view):
    """Equal views with equal boxes: every term is what a single view gives."""
    options = {'pseudo_labels.source': source, 'losses.fp.loss_weight': 0.0, 'propagation_head.dropout_ratio': 0.0}
    options |= {'losses.hard': dict(type='HardConsistencyLoss')} | (SECOND_VIEW if second_view else {})
    inputs, samples = builders.batch()
    for branch in ('strong', 'strong_mix'):
        inputs[branch.replace('strong', 'strong2')] = inputs[branch]
    samples['strong2'] = samples['strong']
    one, two = build(options=options), build(options=options | {'views.num_strong': 2})
    losses = []
    for model in (one, two):
        torch.manual_seed(1)
        losses.append(model.loss(inputs, samples))
    assert losses[0].keys() == losses[1].keys()
    for name, value in losses[0].items():
        torch.testing.assert_close(losses[1][name], value, rtol=1e-4, atol=1e-6, msg=name)
    assert torch.equal(one.pseudo_labeler.threshold.value, two.pseudo_labeler.threshold.value)


def test_two_strong_views_have_their_own_boxes_partners_and_losses():
    model = build(options=SECOND_VIEW | {'views.num_strong': 2, 'losses.hard': dict(type='HardConsistencyLoss')})
    inputs, samples = builders.batch(num_strong=2)
    losses, tap = tapped(model, inputs, samples)
    terms = []
    for strong, z, branch in zip(tap.step.strong, tap.z[1].chunk(2), ('strong', 'strong2'), strict=True):
        box = boxes(samples[branch], SIZE)
        assert torch.equal(strong.images, reference.mix(inputs[branch], inputs[f'{branch}_mix'], box))
        mixed = reference.mix(strong.target.own.logits, tap.partner['teacher', 'weak_mix'], box)
        torch.testing.assert_close(strong.target.mixed.logits, mixed)
        valid, logits = ~strong.target.mixed.ignored, reference.resize(z, SIZE)
        terms.append(reference.masked_cross_entropy(logits, strong.target.labels, strong.target.accepted, valid))
    assert terms[0] != terms[1]
    torch.testing.assert_close(losses['hard'], sum(terms) / 2)


# --- Forwards ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('counts', [(2, 2), (1, 3)], ids=str)
@pytest.mark.parametrize(
    'partner,predictor', [('batch', 'own'), ('batch', 'teacher'), ('reversed', 'student'), ('second_view', 'teacher')]
)
def test_images_of_each_forward(partner, predictor, counts):
    """The partner's prediction, labelled and weak images together, then the cut-mixed strong ones."""
    options = {'cutmix.partner': partner, 'cutmix.predictor': predictor, 'losses.affinity_u.inside_box': False}
    model, seen = build(options=options), []
    for name in ('student', 'teacher'):
        backbone = getattr(model, name).backbone
        backbone.register_forward_pre_hook(
            lambda module, args, name=name: seen.append((name, module.training, args[0]))
        )
    inputs, samples = builders.batch(*counts)
    model.loss(inputs, samples)
    second = partner == 'second_view'
    other = inputs['strong_mix'] if second else inputs['strong'][order_of_partners(model, counts[1])]
    wanted = [] if predictor == 'own' else [(predictor, False, inputs['weak_mix' if second else 'weak'])]
    wanted += [
        ('student', True, torch.cat([inputs['sup'], inputs['weak']])),
        ('student', True, reference.mix(inputs['strong'], other, boxes(samples['strong'], SIZE))),
    ]
    assert [one[:2] for one in seen] == [one[:2] for one in wanted]
    assert all(torch.equal(one[2], two[2]) for one, two in zip(seen, wanted))


def test_second_views_are_read_where_they_are_partners_only():
    inputs, samples = builders.batch()
    for branch in ('weak_mix', 'strong_mix'):
        del inputs[branch], samples[branch]
    build('derprop_paper').loss(inputs, samples)
    with pytest.raises(KeyError, match='_mix'):
        build('derprop_published').loss(inputs, samples)


def test_forwards_of_their_own():
    """Labelled images and weak views apart: only weak ones are perturbed, and nothing but normalisation changes."""
    losses, decoded = [], []
    inputs, samples = builders.batch(2, 3)
    for joint in (True, False):
        options = {'views.joint_forward': joint, 'views.perturb_ratio': 0.0, 'propagation_head.dropout_ratio': 0.0}
        model = build(options=options)
        for part in model.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.eval()  # statistics are given, not the batch's
        images, decodes = [], []
        model.student.backbone.register_forward_pre_hook(lambda _, args, to=images: to.append(args[0]))
        model.student.decode_head.register_forward_hook(lambda _, __, out, to=decodes: to.append(len(out)))
        torch.manual_seed(1)
        losses.append(model.loss(inputs, samples))
        decoded.append(decodes)
    first, second, _ = images
    assert torch.equal(first, inputs['sup']) and torch.equal(second, inputs['weak'])
    assert decoded == [[10, 3], [2, 6, 3]]
    close(losses[1], losses[0])


@pytest.mark.parametrize('network', [builders.segmentor, builders.cascade])
def test_normalisation_sees_each_image_once(network):
    """Labelled and weak images in one forward, strong ones in another, whatever the heads."""
    model = build(network=network())
    model.loss(*builders.batch())
    counts = {n: int(b) for n, b in model.student.named_buffers() if n.endswith('num_batches_tracked')}
    assert set(counts.values()) == {2}, counts


@pytest.mark.parametrize('momentum', [0.1, None])
def test_strong_views_can_leave_the_running_statistics(momentum):
    """They are as a step leaves them that ends before the strong views."""
    losses, same = [], []
    for update in (True, False):
        options = {'losses.fp.loss_weight': 0.0, 'propagation_head.dropout_ratio': 0.0}
        model = build(options=options | {'views.update_bn_on_strong': update})
        inputs, samples = builders.batch()
        norms = [m for m in model.student.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = momentum
        clean = copy.deepcopy(model.student)
        clean.decode_head(clean.extract_feat(torch.cat([inputs['sup'], inputs['weak']])))
        torch.manual_seed(1)
        losses.append(model.loss(inputs, samples))
        assert all(norm.momentum == momentum for norm in norms)
        running = [(n, b) for n, b in model.student.named_buffers() if 'running' in n]
        same.append([torch.equal(buffer, clean.get_buffer(name)) for name, buffer in running])
    close(losses[1], losses[0])
    assert not any(same[0]) and all(same[1])


def test_perturbation_drops_whole_channels_of_every_feature():
    model = build(options={'views.perturb_ratio': 0.4})
    seen = []
    model.student.decode_head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.loss(*builders.batch(2, 3))
    for feature in seen[0]:
        clean, perturbed = feature.chunk(2)
        kept = perturbed.flatten(2).abs().sum(2) > 0
        dead = clean.flatten(2).abs().sum(2) == 0
        torch.testing.assert_close(perturbed, clean / 0.6 * kept[:, :, None, None])
        assert 0.3 < kept.float().sum() / (~dead).float().sum() < 0.9
    assert all(len(feature) == 3 for feature in seen[1])
