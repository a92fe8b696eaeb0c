"""A training step of a tiny network: values against the reference, gradients, work done, odd batches, bad options."""

import copy
from types import SimpleNamespace

import builders
import pytest
import reference
import torch
from builders import NUM_CLASSES, SIZE
from mmseg.registry import MODELS
from torch.utils._python_dispatch import TorchDispatchMode

from mmseg_derprop.models.checks import decode_heads

TERMS = {'sup': ('seg', 'prop', 'affinity'), 'unsup': ('kl', 'soft', 'fp', 'prop', 'affinity', 'smooth')}
KEYS = {f'{group}.loss_{term}' for group, terms in TERMS.items() for term in terms}
MODULE = 'mmseg_derprop.models.terms'
PSEUDO_LABELS = dict(tau=0.5, momentum=0.9)


def build(preset='derprop_paper', alpha=0.3, **changes):
    model = builders.build(preset, **dict(dict(pseudo_labels=PSEUDO_LABELS), **changes))
    model.alpha = alpha
    return model


def tapped(model, inputs, samples):
    """Losses of a step, and what the student's heads gave in its two forwards."""
    tap = SimpleNamespace(z=[], feature=[], q=[], k=[], rows=[], target=None)
    head, draw = model.propagation_head, model.propagation_head.draw_rows
    head.draw_rows = lambda embedding: tap.rows.append(draw(embedding)) or tap.rows[-1]
    model.step_observer = lambda step: vars(tap).update(step)
    heads = model.student.decode_head
    final = heads[-1] if isinstance(heads, torch.nn.ModuleList) else heads
    hooks = [final.register_forward_hook(lambda _, __, out: tap.z.append(out))]
    hooks.append(head.conv_q.register_forward_hook(lambda _, args, __: tap.feature.append(args[0])))
    for name in ('q', 'k'):
        conv = getattr(head, f'conv_{name}')
        hooks.append(conv.register_forward_hook(lambda _, __, out, name=name: getattr(tap, name).append(out)))
    losses = model.loss(inputs, samples)
    for hook in hooks:
        hook.remove()
    del head.draw_rows
    return losses, tap


def maps(samples, field):
    return torch.cat([getattr(sample, field).data for sample in samples])


def boxes(samples, size):
    box = torch.zeros(len(samples), *size, dtype=torch.bool)
    for mask, sample in zip(box, samples, strict=True):
        x1, y1, x2, y2 = sample.cutmix_box
        mask[y1:y2, x1:x2] = True
    return box


def close(found, wanted):
    assert set(found) == set(wanted)
    for name in wanted:
        torch.testing.assert_close(found[name].detach(), wanted[name].detach(), rtol=3e-5, atol=1e-7, msg=name)


# --- Values ------------------------------------------------------------------------------------------------------


def test_published_preset_is_the_published_step():
    model = build('derprop_published')
    inputs, samples = builders.batch()
    with torch.no_grad():
        partner = model.teacher(inputs['weak_mix'], mode='tensor')
    tau = model.pseudo_labeler.tau.clone()
    losses, tap = tapped(model, inputs, samples)
    x, w, _, fp = reference.resize(tap.z[0], SIZE).split(2)
    head = model.propagation_head
    found = reference.published_step(
        dict(
            logits_x=x,
            logits_u_w=w,
            logits_u_w_fp=fp,
            logits_u_s=reference.resize(tap.z[1], SIZE),
            logits_mix_teacher=reference.resize(partner, SIZE),
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
            thresh_init=tau,
            thresh_momentum=torch.tensor(0.9),
        )
    )
    wanted = {
        'sup.loss_seg': found['loss_x'] / 4,
        'sup.loss_prop': found['loss_x_corr'] / 4,
        'sup.loss_affinity': found['loss_consistency'] / 4,
        'unsup.loss_kl': found['loss_u_kl'] / 8,
        'unsup.loss_soft': found['loss_u_s1'] / 8,
        'unsup.loss_fp': found['loss_u_w_fp'] / 8,
        'unsup.loss_prop': (found['loss_u_corr_s1'] + found['loss_u_corr_w']) / 16,
        'unsup.loss_affinity': found['loss_consistency_u_s1'] / 4,
        'unsup.loss_smooth': (found['loss_norm'] + found['loss_norm_u_s1']) / 8,
    }
    close(losses, wanted)
    torch.testing.assert_close(sum(losses.values()), found['loss'])
    torch.testing.assert_close(model.pseudo_labeler.tau, found['threshold_after'])
    assert torch.equal(tap.target.accepted, found['confident_after_regions'])
    assert torch.equal(tap.target.labels, found['labels_after_regions'])
    # The batch exercises what it should.
    assert 0.1 < tap.target.confident.float().mean() < 0.9
    assert (tap.target.accepted & ~tap.target.confident).any()
    assert (tap.target.labels != tap.target.mixed.labels).any()


def written_out(model, tap, inputs, samples, partner, tau):
    """The weighted terms by the options of a model, each pair of positions formed."""
    labeled, size, head = len(inputs['sup']), inputs['sup'].shape[2:], model.propagation_head
    grid, order = tap.q[0].shape[2:], head.max_order
    (q, q_s), (k, k_s) = ([t.flatten(2) for t in taps] for taps in (tap.q, tap.k))
    (q_x, q_w), (k_x, k_w) = ((t[:labeled], t[labeled:]) for t in (q, k))
    z, z_fp = reference.resize(tap.z[0], size).chunk(2)
    z_x, z_w, z_fp, z_s = z[:labeled], z[labeled:], z_fp[labeled:], reference.resize(tap.z[1], size)

    def propagated(q, k, z):
        z = reference.resize(z.detach(), grid).flatten(2)
        return reference.resize(reference.propagate(q, k, z, order, head.normalize).unflatten(2, grid), size)

    zhat_w = propagated(q_w, k_w, z_w)
    p_w = ((1 - model.alpha) * z_w + model.alpha * zhat_w).detach()
    ignored_w, box = maps(samples['weak'], 'ignore_map'), boxes(samples['strong'], size)
    following = [*range(1, len(box)), 0]
    if model.cutmix_partner == 'second_view':
        p_mix, ignored_mix = reference.resize(partner['weak_mix'], size), maps(samples['weak_mix'], 'ignore_map')
    elif model.cutmix_predictor == 'teacher':
        p_mix, ignored_mix = reference.resize(partner['weak'], size)[following], ignored_w[following]
    else:
        p_mix, ignored_mix = p_w[following], ignored_w[following]
    valid_w, valid = ~ignored_w, ~reference.mix(ignored_w, ignored_mix, box)
    mixture = reference.mix(p_w, p_mix, box)
    (confidence_w, labels_w), (confidence, labels) = (p.softmax(1).max(1) for p in (p_w, mixture))
    maxima = reference.class_maxima(confidence_w, labels_w, valid, z.shape[1])
    tau = reference.move_threshold(tau, maxima, 0.9)
    confident_w, confident = (confidence_w >= tau) & valid_w, (confidence >= tau) & valid
    rows = reference.similarity(q_w, k_w, order).softmax(2)[:, tap.rows[0]].unflatten(2, grid)
    regions = reference.region_masks(rows.detach(), size) & (valid & ~box)[:, None]
    new_labels, accepted = reference.propagate_regions(labels, confident, regions, tau, z.shape[1])

    truth = maps(samples['sup'], 'gt_sem_seg')
    if model.term_options.label_affinity == 'nearest':
        affinity_x = reference.label_affinity_loss(q_x, k_x, truth, grid, max_order=order)
    else:
        affinity_x = reference.interpolated_label_affinity_loss(q_x, k_x, truth, grid, order)
    inside, kept = reference.nearest_labels(box, grid), None
    if model.affinity_pairs != 'all':
        kept = reference.kept_pairs(inside, keep_inside=model.affinity_pairs == 'inside')
    wanted = reference.affinities(q_w, k_w, order)
    if model.affinity_pairs == 'inside':
        both = inside[:, :, None] & inside[:, None, :]
        wanted = [torch.where(both, a[following], a) for a in wanted]
    affinity_u = reference.mean_over_orders(reference.affinities(q_s, k_s, order), wanted, kept)
    options = model.term_options
    smooth = reference.smoothness_loss if options.smoothness == 'absolute' else reference.published_smoothness_loss
    soft_target = mixture if options.cutmix_target else p_w
    on_strong = reference.masked_cross_entropy(propagated(q_s, k_s, z_s), new_labels, accepted, valid)
    on_weak = reference.masked_cross_entropy(zhat_w, labels_w, confident_w, valid_w)
    sup = {
        'seg': reference.cross_entropy(z_x, truth),
        'prop': reference.cross_entropy(propagated(q_x, k_x, z_x), truth),
        'affinity': affinity_x,
    }
    unsup = {
        'kl': reference.masked_divergence(z_s, soft_target, confident, valid),
        'soft': reference.masked_soft_cross_entropy(z_s, soft_target, accepted, valid),
        'hard': reference.masked_cross_entropy(z_s, new_labels, accepted, valid),
        'fp': reference.masked_cross_entropy(z_fp, labels_w, confident_w, valid_w),
        'prop': (on_strong + on_weak) / 2,
        'affinity': affinity_u,
        'smooth': smooth(q, k) + smooth(q_s, k_s),
    }
    weights = {'sup': (sup, model.sup_weight), 'unsup': (unsup, model.unsup_weight)}
    return {
        f'{group}.loss_{name}': weight[name] * value
        for group, (values, weight) in weights.items()
        for name, value in values.items()
        if name in weight
    }


BATCH = dict(cutmix_partner='batch')
ALONE = [
    dict(cutmix_target=True),
    dict(affinity_pairs='outside'),
    dict(label_affinity='nearest'),
    dict(label_affinity_grad=True),
    dict(smoothness='absolute'),
    dict(head=dict(normalize='source_mean')),
    dict(head=dict(normalize='target')),
    dict(head=dict(last_row=True)),
    dict(head=dict(max_order=0)),
    dict(head=dict(max_order=2)),
    dict(unsup=dict(hard=0.7)),
    BATCH,
    dict(BATCH, cutmix_predictor='own'),
    dict(BATCH, affinity_pairs='inside'),
]


@pytest.mark.parametrize('counts', [(2, 2), (1, 3)], ids=str)
@pytest.mark.parametrize('preset,changes', [('derprop_paper', {}), *(('derprop_published', c) for c in ALONE)], ids=str)
def test_every_option_alone(preset, changes, counts):
    model = build(preset, **changes)
    inputs, samples = builders.batch(*counts)
    with torch.no_grad():
        partner = {name: model.teacher(inputs[name], mode='tensor') for name in ('weak', 'weak_mix')}
    tau = model.pseudo_labeler.tau.clone()
    losses, tap = tapped(model, inputs, samples)
    close(losses, written_out(model, tap, inputs, samples, partner, tau))
    assert (tap.target.labels != tap.target.mixed.labels).any()


@pytest.mark.parametrize(
    'changes,terms',
    [
        (dict(cutmix_target=True), ['unsup.loss_kl', 'unsup.loss_soft']),
        (dict(affinity_pairs='outside'), ['unsup.loss_affinity']),
        (dict(label_affinity='nearest'), ['sup.loss_affinity']),
        (dict(label_affinity_grad=True), []),
        (dict(smoothness='absolute'), ['unsup.loss_smooth']),
        (dict(head=dict(normalize='source_mean')), ['sup.loss_prop', 'unsup.loss_prop']),
        (dict(unsup=dict(prop=0.25)), ['unsup.loss_prop']),
    ],
    ids=str,
)
def test_an_option_changes_its_terms_only(changes, terms):
    batch = builders.batch()
    published, changed = (build('derprop_published', alpha=0.0, **c).loss(*batch) for c in ({}, changes))
    assert {name for name in KEYS if not torch.equal(published[name], changed[name])} == set(terms)


def test_logits_are_resized_as_the_segmentor_does_and_propagated_ones_from_corner_to_corner():
    model = build(network=builders.segmentor(align_corners=False))
    inputs, samples = builders.batch()
    losses, tap = tapped(model, inputs, samples)
    z = torch.nn.functional.interpolate(tap.z[0][:2], SIZE, mode='bilinear', align_corners=False)
    truth, grid = maps(samples['sup'], 'gt_sem_seg'), tap.q[0].shape[2:]
    torch.testing.assert_close(losses['sup.loss_seg'], reference.cross_entropy(z, truth) / 4)
    q, k = tap.q[0][:2].flatten(2), tap.k[0][:2].flatten(2)
    zhat = reference.propagate(q, k, reference.resize(z, grid).flatten(2), normalize='source_mean').unflatten(2, grid)
    wanted = reference.cross_entropy(reference.resize(zhat, SIZE), truth) / 4
    torch.testing.assert_close(losses['sup.loss_prop'], wanted)


def test_labelled_loss_is_the_decode_heads_own():
    ohem = dict(type='OhemCrossEntropyLoss', min_kept=500, thresh=0.3)
    model = build(network=builders.segmentor(loss_decode=[builders.CROSS_ENTROPY, ohem]))
    inputs, samples = builders.batch()
    losses, tap = tapped(model, inputs, samples)
    z, truth = reference.resize(tap.z[0][:2], SIZE), maps(samples['sup'], 'gt_sem_seg')
    hard = reference.ohem_cross_entropy(z, truth, min_kept=500, threshold=0.3)
    torch.testing.assert_close(losses['sup.loss_seg'], (reference.cross_entropy(z, truth) + hard) / 4)
    assert hard > 1.1 * reference.cross_entropy(z, truth)


@pytest.mark.parametrize('momentum', [0.1, None])
def test_strong_views_can_leave_the_running_statistics(momentum):
    """They are as a step leaves them that ends before the strong views."""
    losses, statistics = [], []
    for changes in ({}, dict(strong_statistics=False)):
        model = build(unsup=dict(fp=None), **changes)
        model.propagation_head.dropout.p = 0.0
        inputs, samples = builders.batch()
        norms = [m for m in model.student.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = momentum
        clean = copy.deepcopy(model.student)
        clean.decode_head(clean.extract_feat(torch.cat([inputs['sup'], inputs['weak']])))
        torch.manual_seed(1)
        losses.append(model.loss(inputs, samples))
        assert all(norm.momentum == momentum for norm in norms)
        statistics.append(
            [
                torch.equal(a, b)
                for (name, a), (_, b) in zip(model.student.named_buffers(), clean.named_buffers())
                if 'running' in name
            ]
        )
    close(losses[1], losses[0])
    assert not any(statistics[0]) and all(statistics[1])


@pytest.mark.parametrize('counts', [(2, 2), (1, 3)], ids=str)
@pytest.mark.parametrize(
    'preset,changes,teacher_forwards',
    [('derprop_paper', {}, 0), ('derprop_paper', dict(cutmix_predictor='teacher'), 1), ('derprop_published', {}, 1)],
    ids=str,
)
def test_images_of_each_forward(preset, changes, teacher_forwards, counts):
    """Labelled and weak images together, then the cut-mixed strong ones; the teacher where it predicts."""
    model, seen = build(preset, **changes), dict(student=[], teacher=[])
    for name, images in seen.items():
        backbone = getattr(model, name).backbone
        backbone.register_forward_pre_hook(lambda _, args, images=images: images.append(args[0]))
    inputs, samples = builders.batch(*counts)
    model.loss(inputs, samples)
    following = [*range(1, counts[1]), 0]
    partner = inputs['strong'][following] if preset == 'derprop_paper' else inputs['strong_mix']
    first, second = seen['student']
    assert torch.equal(first, torch.cat([inputs['sup'], inputs['weak']]))
    assert torch.equal(second, reference.mix(inputs['strong'], partner, boxes(samples['strong'], SIZE)))
    assert len(seen['teacher']) == teacher_forwards
    if teacher_forwards:
        assert torch.equal(seen['teacher'][0], inputs['weak_mix' if preset == 'derprop_published' else 'weak'])


def test_forwards_of_their_own():
    """Labelled images and weak views apart: only weak ones are perturbed, and nothing but normalisation changes."""
    losses, decoded = [], []
    inputs, samples = builders.batch(2, 3)
    for joint in (True, False):
        model = build(joint_forward=joint, unsup=dict(fp=0.1), perturb_ratio=0.0)
        model.propagation_head.dropout.p = 0.0
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


def test_head_that_learns_alone():
    """Its losses reach its own weights only, and labels are as without it."""
    inputs, samples = builders.batch(2, 3)
    labels, gradients = [], []
    for alone in (False, True):
        model = build(pseudo_labels=dict(tau=0.3, momentum=1.0))
        model.head_alone = alone
        model.step_observer = lambda step: labels.append(step['target'])
        losses = model.loss(inputs, samples)
        head_losses = [value for name, value in losses.items() if name.split('_')[1] in ('prop', 'affinity', 'smooth')]
        assert len(head_losses) == 5
        sum(head_losses).backward()
        assert all(p.grad is not None and p.grad.any() for p in model.propagation_head.conv_q.parameters())
        gradients.append([name for name, p in model.student.backbone.named_parameters() if p.grad is not None])
    assert gradients[0] and not gradients[1]
    joined, apart = labels
    assert joined.regions is not None and apart.regions is None
    plain = build(alpha=0.0, head=dict(num_regions=0), pseudo_labels=dict(tau=0.3, momentum=1.0))
    plain.step_observer = lambda step: labels.append(step['target'])
    plain.loss(inputs, samples)
    assert torch.equal(apart.labels, labels[2].labels) and torch.equal(apart.accepted, labels[2].accepted)
    torch.testing.assert_close(apart.own.logits, labels[2].own.logits)
    assert not torch.equal(joined.own.logits, apart.own.logits)


# --- Gradients ---------------------------------------------------------------------------------------------------

GRADIENTS = {
    'sup.loss_seg': {'z_x'},
    'sup.loss_prop': {'q_x', 'k_x'},
    'sup.loss_affinity': {'q_x', 'k_x'},
    'unsup.loss_hard': {'z_s'},
    'unsup.loss_kl': {'z_s'},
    'unsup.loss_soft': {'z_s'},
    'unsup.loss_fp': {'z_fp_w'},
    'unsup.loss_prop': {'q_w', 'k_w', 'q_s', 'k_s'},
    'unsup.loss_affinity': {'q_s', 'k_s'},
    'unsup.loss_smooth': {'q_x', 'k_x', 'q_w', 'k_w', 'q_s', 'k_s'},
}


@pytest.mark.parametrize('alpha', [0.0, 0.3])
@pytest.mark.parametrize('preset', ['derprop_paper', 'derprop_published'])
def test_gradient_of_each_term_goes_where_the_method_says(preset, alpha):
    model = build(preset, alpha, unsup=dict(hard=1.0))
    losses, tap = tapped(model, *builders.batch(2, 3))
    expected = dict(GRADIENTS)
    if preset == 'derprop_published':
        expected |= {'sup.loss_affinity': set(), 'unsup.loss_smooth': set()}
    assert set(losses) == set(expected)
    parts = ('x', 'w', 'fp_x', 'fp_w')
    for name, loss in losses.items():
        reached = set()
        if loss.requires_grad:
            outputs = [*tap.z, *tap.q, *tap.k]
            grads = torch.autograd.grad(loss, outputs, retain_graph=True, allow_unused=True)
            for kind, (first, strong) in zip('zqk', zip(grads[::2], grads[1::2], strict=True), strict=True):
                pieces = [] if first is None else first.split([2, 3, 2, 3] if kind == 'z' else [2, 3])
                reached |= {f'{kind}_{part}' for part, piece in zip(parts, pieces, strict=False) if piece.any()}
                if strong is not None and strong.any():
                    reached.add(f'{kind}_s')
        assert reached == expected[name], name


@pytest.mark.parametrize('preset', ['derprop_paper', 'derprop_published'])
def test_whole_gradient(preset):
    model = build(preset)
    losses = model.loss(*builders.batch())
    assert set(losses) == KEYS
    assert all(loss.ndim == 0 and loss.isfinite() and loss > 0 for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith('teacher.'), name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    student, head = model.student, model.propagation_head
    for module in (student.backbone.stem, student.backbone.layer1, student.backbone.layer4, student.decode_head):
        assert any(p.grad.any() for p in module.parameters())
    for module in (student.decode_head.conv_seg, head.conv, head.conv_q, head.conv_k):
        assert module.weight.grad.any() if hasattr(module, 'weight') else module.conv.weight.grad.any()


def test_parse_losses_sums_the_terms():
    model = build()
    losses = model.loss(*builders.batch())
    total, log = model.parse_losses(losses)
    torch.testing.assert_close(total, sum(losses.values()))
    assert set(log) == KEYS | {'loss'}


# --- What has no weight is not computed --------------------------------------------------------------------------


def forbid(*args, **kwargs):
    raise AssertionError('computed though no loss reads it')


@pytest.mark.parametrize('weight', [None, 0.0])
@pytest.mark.parametrize(
    'sup,unsup,functions',
    [
        ((), ('kl', 'soft'), ['soft_losses']),
        (('affinity',), (), ['label_affinity_loss']),
        ((), ('affinity',), ['affinity_consistency_loss']),
        ((), ('smooth',), ['smoothness_loss']),
        ((), ('fp', 'prop'), ['hard_loss']),
    ],
)
def test_term_without_weight(monkeypatch, sup, unsup, functions, weight):
    model = build(sup=dict.fromkeys(sup, weight), unsup=dict.fromkeys(unsup, weight))
    for function in functions:
        monkeypatch.setattr(f'{MODULE}.{function}', forbid)
    losses = model.loss(*builders.batch())
    assert set(losses) == KEYS - {f'sup.loss_{t}' for t in sup} - {f'unsup.loss_{t}' for t in unsup}


@pytest.mark.parametrize(
    'alpha,sup,unsup,sizes',
    [
        (0.3, 1.0, 1.0, [2, 3, 3]),  # the weak views' are needed twice and formed once
        (0.0, 1.0, 1.0, [2, 3, 3]),
        (0.0, 0.0, 1.0, [3, 3]),
        (0.0, 1.0, 0.0, [2]),
        (0.3, 0.0, 0.0, [3]),
        (0.0, 0.0, 0.0, []),
    ],
)
def test_only_what_is_read_is_propagated(alpha, sup, unsup, sizes):
    model = build(alpha=alpha, sup=dict(prop=sup), unsup=dict(prop=unsup))
    head, found = model.propagation_head, []
    propagate = head.propagate
    head.propagate = lambda embedding, logits: found.append(len(logits)) or propagate(embedding, logits)
    model.loss(*builders.batch(2, 3))
    assert sorted(found) == sizes


def test_nothing_is_perturbed_without_fp():
    for weight, images in ((0.1, 10), (0.0, 5)):
        _, tap = tapped(build(unsup=dict(fp=weight)), *builders.batch(2, 3))
        assert [len(z) for z in tap.z] == [images, 3]


def test_perturbation_drops_whole_channels_of_every_feature():
    model = build(perturb_ratio=0.4)
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


def test_num_regions_0_takes_none():
    model = build(head=dict(num_regions=0))
    model.propagation_head.regions = forbid
    losses, tap = tapped(model, *builders.batch())
    assert set(losses) == KEYS and tap.target.regions is None
    assert torch.equal(tap.target.accepted, tap.target.confident)
    assert torch.equal(tap.target.labels, tap.target.mixed.labels)


def test_without_a_head():
    changes = dict(propagation_head=None, loss_weight=dict(sup=dict(seg=0.5), unsup=dict(hard=0.5, fp=0.25)))
    model = build(**changes)
    losses = model.loss(*builders.batch())
    assert set(losses) == {'sup.loss_seg', 'unsup.loss_hard', 'unsup.loss_fp'}
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.student.parameters())


def test_second_views_are_read_by_their_option_only():
    for preset in ('derprop_paper', 'derprop_published'):
        inputs, samples = builders.batch()
        for branch in ('weak_mix', 'strong_mix'):
            del inputs[branch], samples[branch]
        if preset == 'derprop_paper':
            build(preset).loss(inputs, samples)
        else:
            with pytest.raises(KeyError):
                build(preset).loss(inputs, samples)


# --- Other heads -------------------------------------------------------------------------------------------------


def test_auxiliary_heads_see_labelled_images_only():
    network = dict(builders.segmentor(), auxiliary_head=[builders.fcn(1, 16), builders.fcn(2, 32)])
    seen = []
    model = build(network=network, sup=dict(aux=0.4))
    for head in model.student.auxiliary_head:
        head.conv_seg.register_forward_hook(lambda _, __, out: seen.append(out))
    inputs, samples = builders.batch(2, 3)
    losses = model.loss(inputs, samples)
    assert [len(out) for out in seen] == [2, 2]
    truth = maps(samples['sup'], 'gt_sem_seg')
    for index, out in enumerate(seen):
        wanted = 0.4 * reference.cross_entropy(reference.resize(out, SIZE), truth)
        torch.testing.assert_close(losses[f'sup.aux_{index}.loss_ce'], wanted)
    seen.clear()
    model.sup_weight['aux'] = 0.0
    assert set(model.loss(inputs, samples)) == KEYS and not seen


def test_auxiliary_heads_weigh_as_the_segmentors_loss():
    network = dict(builders.segmentor(), auxiliary_head=builders.fcn(2, 32))
    by_default, stated = (build(network=network, sup=sup).loss(*builders.batch()) for sup in ({}, dict(aux=0.25)))
    assert torch.equal(by_default['sup.aux_0.loss_ce'], stated['sup.aux_0.loss_ce'])


def test_cascade():
    model = build(network=builders.cascade())
    inputs, samples = builders.batch(2, 3)
    first = []
    model.student.decode_head[0].register_forward_hook(lambda _, __, out: first.append(out))
    losses, tap = tapped(model, inputs, samples)
    truth = maps(samples['sup'], 'gt_sem_seg')
    seg, stage = (reference.cross_entropy(reference.resize(z[:2], SIZE), truth) / 4 for z in (tap.z[0], first[0]))
    torch.testing.assert_close(losses['sup.loss_seg'], seg)
    torch.testing.assert_close(losses['sup.stage_0.loss_ce'], stage)
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.student.parameters())


@pytest.mark.parametrize('network', [builders.segmentor, builders.cascade])
def test_normalisation_sees_each_image_once(network):
    """Labelled and weak images in one forward, strong ones in another, whatever the heads."""
    model = build(network=network())
    model.loss(*builders.batch())
    counts = {n: int(b) for n, b in model.student.named_buffers() if n.endswith('num_batches_tracked')}
    assert set(counts.values()) == {2}, counts


# --- Odd batches -------------------------------------------------------------------------------------------------


def finite_step(model, inputs, samples):
    losses = model.loss(inputs, samples)
    assert all(value.isfinite() for value in losses.values()), losses
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    return losses


@pytest.mark.parametrize('preset', ['derprop_paper', 'derprop_published'])
@pytest.mark.parametrize('counts', [(1, 3), (3, 2)], ids=str)
def test_numbers_of_images(preset, counts):
    _, tap = tapped(build(preset), *builders.batch(*counts))
    assert len(tap.target.labels) == counts[1]
    finite_step(build(preset), *builders.batch(*counts, size=(33, 57)))


@pytest.mark.parametrize('preset', ['derprop_paper', 'derprop_published'])
def test_one_image_of_each(preset):
    """Where normalisation allows it; the batch partner of a single image is the image."""
    network = builders.segmentor(norm_cfg=dict(type='GN', num_groups=2))
    finite_step(build(preset, network=network), *builders.batch(1, 1))


@pytest.mark.parametrize('preset', ['derprop_paper', 'derprop_published'])
def test_two_classes(preset):
    model = build(preset, network=builders.segmentor(num_classes=2))
    losses = finite_step(model, *builders.batch(num_classes=2))
    if preset == 'derprop_paper':
        assert losses['unsup.loss_smooth'] == 0  # there is no second derivative


@pytest.mark.parametrize('ignore_index', [0, 11])
def test_ignore_index(ignore_index):
    """The same labels with another number for ignored give the same losses."""

    def losses(index, preset='derprop_paper'):
        inputs, samples = builders.batch()
        for sample in samples['sup']:
            labels = sample.gt_sem_seg.data
            labels[labels == 0] = 255
            labels[labels == 255] = index
        return finite_step(build(preset, network=builders.segmentor(ignore_index=index)), inputs, samples)

    close(losses(ignore_index), losses(255))
    losses(ignore_index, 'derprop_published')


@pytest.mark.parametrize('preset', ['derprop_paper', 'derprop_published'])
def test_nothing_labelled(preset):
    inputs, samples = builders.batch()
    for sample in samples['sup']:
        sample.gt_sem_seg.data[:] = 255
    losses = finite_step(build(preset), inputs, samples)
    assert losses['sup.loss_seg'] == 0 and losses['sup.loss_prop'] == 0
    if preset == 'derprop_paper':
        assert losses['sup.loss_affinity'] == 0


@pytest.mark.parametrize('preset', ['derprop_paper', 'derprop_published'])
def test_nothing_unlabelled_is_valid(preset):
    inputs, samples = builders.batch(truth=True)
    for sample in samples['weak'] + samples['weak_mix']:
        sample.ignore_map.data[:] = True
    model = build(preset, unsup=dict(hard=1.0))
    losses = finite_step(model, inputs, samples)
    assert all(losses[f'unsup.loss_{term}'] == 0 for term in ('hard', 'kl', 'soft', 'fp', 'prop'))
    assert model.pseudo_labeler.tau == PSEUDO_LABELS['tau']
    judged = {name: value.isfinite().item() for name, value in model.statistics.items()}
    assert judged == {name: not name.startswith('accuracy') for name in judged}  # no pixel, no accuracy


def test_labels_of_label_0_are_learnt_where_0_is_ignored():
    """ignore_index is about the truth; the pseudo-label 0 is a class like others."""
    model = build(network=builders.segmentor(ignore_index=0), alpha=0.0, unsup=dict(hard=1.0))
    with torch.no_grad():
        model.student.decode_head.conv_seg.bias[0] = 50
    losses, tap = tapped(model, *builders.batch(ignore_index=0))
    assert (tap.target.labels == 0).all() and tap.target.accepted.any()
    wanted = reference.masked_cross_entropy(
        reference.resize(tap.z[1], SIZE), tap.target.labels, tap.target.accepted, ~tap.target.mixed.ignored
    )
    torch.testing.assert_close(losses['unsup.loss_hard'], wanted)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize('preset', ['derprop_paper', 'derprop_published'])
def test_half_precision(preset, dtype):
    model = build(preset)
    with torch.autocast('cpu', dtype):
        losses = model.loss(*builders.batch())
    assert set(losses) == KEYS
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.student.parameters())
    assert model.propagation_head.conv_q.weight.grad.any()
    assert model.pseudo_labeler.tau.dtype == torch.float32


@pytest.mark.parametrize('dtype', [None, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize('preset', ['derprop_paper', 'derprop_published'])
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
    assert min(convs.values()) > 29_000 or preset == 'derprop_paper' and not convs[heads[1]]
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    grads = torch.autograd.grad(sum(losses.values()), [*model.student.parameters()], allow_unused=True)
    # float16 overflows in the network's own backward pass, which is what a loss scaler watches for.
    assert dtype == torch.float16 or all(grad.isfinite().all() for grad in grads)
    assert 0 < model.pseudo_labeler.tau <= 1


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


@pytest.mark.parametrize('preset', ['derprop_paper', 'derprop_published'])
def test_a_step_reads_nothing_from_its_device(preset):
    loss = [dict(type='PixelCrossEntropyLoss'), dict(type='OhemCrossEntropyLoss', min_kept=500)]
    network = builders.segmentor(loss_decode=loss) | dict(auxiliary_head=builders.fcn(2, 32, loss_decode=loss))
    model = build(preset, network=network)
    inputs, samples = builders.batch(truth=True)
    with DeviceReads() as reads:
        losses = model.loss(inputs, samples)
        sum(losses.values()).backward()
    assert not reads.found
    assert len(losses) == len(KEYS) + 2


@pytest.mark.parametrize('preset', ['derprop_paper', 'derprop_published'])
def test_channels_last_is_kept_and_changes_nothing(preset):
    usual, last = build(preset, unsup=dict(fp=None)), build(preset, unsup=dict(fp=None), channels_last=True)
    last.load_state_dict(usual.state_dict())
    for model in (usual, last):
        model.propagation_head.dropout.p = 0.0
    maps = []
    for part in (*decode_heads(last.student), last.propagation_head.conv):
        part.register_forward_hook(lambda _, args, out: maps.append((args[0], out)))
    inputs, samples = builders.batch()
    torch.manual_seed(1)
    wanted = usual.loss(inputs, samples)
    torch.manual_seed(1)
    found = last.loss(inputs, samples)
    close(found, wanted)
    assert len(maps) == 4
    for read, out in maps:
        for one in (*read, out) if isinstance(read, tuple) else (read, out):
            assert one.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize('compiled', [dict(backend='aot_eager'), dict(backend='aot_eager', fullgraph=True)], ids=str)
def test_compiled_networks_give_the_same(compiled):
    network = builders.segmentor() | dict(auxiliary_head=[builders.fcn(1, 16)])
    usual, model = (build(network=network, compile=option) for option in (False, compiled))
    assert usual.state_dict().keys() == model.state_dict().keys()
    losses = []
    for one in (usual, model):
        torch.manual_seed(1)
        one.propagation_head.dropout.p = 0.0
        losses.append(one.loss(*builders.batch()))
        sum(losses[-1].values()).backward()
    close(losses[1], losses[0])
    for (name, one), two in zip(usual.named_parameters(), model.parameters()):
        if one.grad is not None:
            torch.testing.assert_close(two.grad, one.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_double_precision():
    single, double = (build(unsup=dict(fp=None)) for _ in range(2))  # random masks depend on the dtype
    double.double()
    inputs, samples = builders.batch()
    wanted = single.loss(inputs, samples)
    found = double.loss({branch: images.double() for branch, images in inputs.items()}, samples)
    assert all(value.isfinite() for value in found.values())
    torch.testing.assert_close(found['sup.loss_seg'].float(), wanted['sup.loss_seg'], rtol=1e-4, atol=0)


# --- Statistics --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('preset', ['derprop_paper', 'derprop_published'])
def test_statistics(preset):
    model = build(preset)
    inputs, samples = builders.batch(2, 3, truth=True)
    samples['weak'][0].gt_sem_seg.data[:, :20] = 255
    _, tap = tapped(model, inputs, samples)
    truth = maps(samples['weak'], 'gt_sem_seg')
    other = truth[[1, 2, 0]] if preset == 'derprop_paper' else maps(samples['weak_mix'], 'gt_sem_seg')
    truth, target = reference.mix(truth, other, boxes(samples['strong'], SIZE)), tap.target
    valid = ~target.mixed.ignored
    known = valid & (truth != 255)
    confident, accepted = target.confident & known, target.accepted & known
    wanted = {
        'tau': model.pseudo_labeler.tau,
        'confident': target.confident.sum() / valid.sum(),
        'accepted': target.accepted.sum() / valid.sum(),
        'region_changes': (target.labels != target.mixed.labels).sum() / valid.sum(),
        'accuracy_confident': (target.mixed.labels == truth)[confident].float().mean(),
        'accuracy_accepted': (target.labels == truth)[accepted].float().mean(),
    }
    close(model.statistics, wanted)
    assert torch.equal(tap.inside, boxes(samples['strong'], SIZE))
    partner = inputs['strong'][[1, 2, 0]] if preset == 'derprop_paper' else inputs['strong_mix']
    assert torch.equal(tap.partner_images, partner)


def test_unlabelled_images_need_no_truth():
    model = build()
    model.loss(*builders.batch())
    assert not any('accuracy' in name for name in model.statistics)


# --- Bad options -------------------------------------------------------------------------------------------------

CHOICES = {
    'cutmix_partner': ('batch', 'second_view'),
    'cutmix_predictor': ('own', 'teacher', 'student'),
    'affinity_pairs': ('all', 'outside', 'inside'),
    'label_affinity': ('nearest', 'interpolated'),
    'smoothness': ('absolute', 'softmax'),
    'predict_on': ('teacher', 'student'),
}


def error_of(raised=ValueError, network=None, **changes):
    config = dict(builders.method(**changes), segmentor=network or builders.segmentor())
    with pytest.raises(raised) as caught:
        MODELS.build(config)
    return str(caught.value)


@pytest.mark.parametrize('option', CHOICES)
def test_unknown_choice(option):
    message = error_of(**{option: 'bogus'})
    assert option in message and 'bogus' in message
    assert all(choice in message for choice in CHOICES[option])


@pytest.mark.parametrize(
    'changes,words',
    [
        (dict(sup=dict(bogus=1.0)), ('loss_weight.sup', 'bogus', *TERMS['sup'], 'aux')),
        (dict(unsup=dict(bogus=1.0)), ('loss_weight.unsup', 'bogus', *TERMS['unsup'], 'hard')),
        (dict(loss_weight=dict(semi={})), ('loss_weight', 'semi', "'sup'", "'unsup'")),
        (dict(perturb_ratio=1.0), ('perturb_ratio', '1.0', '0 .. 1')),
        (dict(pseudo_labels=dict(tau=1.5)), ('tau', '1.5', '0 .. 1')),
        (dict(pseudo_labels=dict(momentum=-1)), ('momentum', '-1', '0 .. 1')),
        (dict(head=dict(normalize='bogus')), ('normalize', 'bogus', 'source', 'source_mean', 'target')),
        (dict(head=dict(max_order=5)), ('max_order', '5', '0 to 4')),
        (dict(head=dict(max_order=-1)), ('max_order', '-1', '0 to 4')),
        (dict(head=dict(num_regions=-3)), ('num_regions', '-3', '0')),
        (dict(head=dict(num_classes=21)), ('num_classes', '21', '5', 'leave')),
        (dict(head=dict(in_channels=9)), ('in_channels', '9', '64', 'leave')),
        (dict(head=dict(in_index=4)), ('in_index', '4', '[8, 16, 32, 64]', '0 to 3')),
        (dict(head=dict(in_index=-5)), ('in_index', '-5', '0 to 3')),
        (dict(propagation_head=None), ('propagation_head', 'sup.prop', 'unsup.smooth', 'drop')),
        (
            dict(cutmix_partner='second_view', affinity_pairs='all'),
            ("cutmix_partner='second_view'", "cutmix_predictor='teacher'"),
        ),
        (
            dict(cutmix_partner='second_view', cutmix_predictor='teacher'),
            ("affinity_pairs='inside'", "cutmix_partner='batch'", "'outside'"),
        ),
    ],
    ids=str,
)
def test_options_that_do_not_fit(changes, words):
    message = error_of(**changes)
    assert all(word in message for word in words), message


def test_pseudo_labels_of_unknown_name():
    assert 'treshold' in error_of((TypeError, ValueError), pseudo_labels=dict(treshold=0.5))


@pytest.mark.parametrize('index,channels', [(-1, 64), (0, 8), (1, 16), (-2, 32)])
def test_head_finds_out_channels_and_classes(index, channels):
    model = builders.build(head=dict(in_index=index))
    assert model.propagation_head.in_channels == model.propagation_head.conv.conv.in_channels == channels
    assert model.propagation_head.num_classes == NUM_CLASSES
    assert model.propagation_head.conv.conv.out_channels == 16


def test_head_may_state_what_is_right():
    builders.build(head=dict(in_channels=64, num_classes=NUM_CLASSES))


def test_a_single_output_channel():
    sigmoid = dict(type='CrossEntropyLoss', use_sigmoid=True)
    network = builders.segmentor(num_classes=2, out_channels=1, threshold=0.3, loss_decode=sigmoid)
    message = error_of(network=network)
    assert all(word in message for word in ('DeepLabV3PlusHead', 'out_channels = 1', 'out_channels=2'))
