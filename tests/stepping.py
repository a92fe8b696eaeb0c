"""A training step of a tiny model: what its networks gave, and its terms written out of that by the naive reference."""

import copy
from types import SimpleNamespace

import builders
import reference
import torch

from mmseg_derprop.models.segmentors import decode_heads

DEFAULTS = {'pseudo_labels.alpha': 0.3, 'pseudo_labels.threshold.init': 0.5, 'pseudo_labels.threshold.momentum': 0.9}


def build(preset='derprop_paper', options=None, network=None):
    """A model of a DerProp preset whose threshold moves visibly and whose labels are partly propagated."""
    return builders.build(preset, network, DEFAULTS | (options or {}))


def tapped(model, inputs, samples):
    """Losses of a step, and what gave them.

    ``z``, ``feature``, ``q`` and ``k`` are lists of what the student's heads gave in its training forwards, ``rows``
    the positions drawn for regions, ``step`` what the losses saw, ``partner`` the logits of (network, branch) in
    evaluation mode before the step, ``threshold`` the one before it.
    """
    tap = SimpleNamespace(z=[], feature=[], q=[], k=[], rows=[], partner={}, step=None)
    tap.threshold = model.pseudo_labeler.threshold.value.clone()
    networks = dict(teacher=model.teacher, student=copy.deepcopy(model.student).eval())
    for name, network in networks.items():
        for branch in inputs.keys() - {'sup'}:
            with torch.no_grad():
                logits = network(inputs[branch], mode='tensor')
            tap.partner[name, branch] = reference.resize(logits, inputs[branch].shape[2:])
    model.step_observer = lambda step: setattr(tap, 'step', step)
    head, regions = model.propagation_head, model.pseudo_labeler.regions
    hooks = []

    def listen(module, note):
        def hook(module, args, out):
            if module.training:
                note(args[0], out)

        hooks.append(module.register_forward_hook(hook))

    listen(decode_heads(model.student)[-1], lambda _, out: tap.z.append(out))
    if head is not None:
        listen(head.conv_q, lambda feature, q: (tap.feature.append(feature), tap.q.append(q)))
        listen(head.conv_k, lambda _, k: tap.k.append(k))
    if regions is not None:
        draw = regions.draw_rows
        regions.draw_rows = lambda *args: tap.rows.append(draw(*args)) or tap.rows[-1]
    try:
        return model.loss(inputs, samples), tap
    finally:
        for hook in hooks:
            hook.remove()
        if regions is not None:
            del regions.draw_rows


def maps(samples, field):
    """(N, H, W) of a field of samples."""
    return torch.cat([getattr(sample, field).data for sample in samples])


def boxes(samples, size):
    """(N, H, W) bool, the samples' CutMix boxes."""
    box = torch.zeros(len(samples), *size, dtype=torch.bool)
    for mask, sample in zip(box, samples, strict=True):
        x1, y1, x2, y2 = sample.cutmix_box
        mask[y1:y2, x1:x2] = True
    return box


def order_of_partners(model, count):
    """The image of the batch that fills each image's box."""
    images = list(range(count))
    return images[::-1] if model.cutmix.partner == 'reversed' else images[1:] + images[:1]


def close(found, wanted):
    """Compares two dicts of losses."""
    assert set(found) == set(wanted)
    for name in wanted:
        torch.testing.assert_close(found[name].detach(), wanted[name].detach(), rtol=3e-5, atol=1e-7, msg=name)


def written_out(model, tap, inputs, samples):
    """The weighted terms of a model with a propagation head and one strong view; each pair of positions is formed."""
    size, head = inputs['sup'].shape[2:], model.propagation_head
    images, grid, order = [len(inputs['sup']), len(inputs['weak'])], tap.q[0].shape[2:], head.max_order
    (q, q_s), (k, k_s) = ([t.flatten(2) for t in taps] for taps in (tap.q, tap.k))
    (q_x, q_w), (k_x, k_w) = q.split(images), k.split(images)
    z_x, z_w, _, z_fp = reference.resize(tap.z[0], size).split(images * 2)
    z_s = reference.resize(tap.z[1], size)

    def propagated(q, k, z):
        z = reference.resize(z.detach(), grid).flatten(2)
        return reference.resize(reference.propagate(q, k, z, order, head.normalize).unflatten(2, grid), size)

    # Pseudo-labels.
    alpha, zhat_w = model.pseudo_labeler.alpha, propagated(q_w, k_w, z_w)
    p_w = ((1 - alpha) * z_w + alpha * zhat_w).detach()
    ignored_w, box = maps(samples['weak'], 'ignore_map'), boxes(samples['strong'], size)
    if model.cutmix.partner == 'second_view':
        p_mix, ignored_mix = tap.partner[model.cutmix.predictor, 'weak_mix'], maps(samples['weak_mix'], 'ignore_map')
    else:
        partner = order_of_partners(model, len(box))
        own = model.cutmix.predictor == 'own'
        p_mix = (p_w if own else tap.partner[model.cutmix.predictor, 'weak'])[partner]
        ignored_mix = ignored_w[partner]
    valid_w, valid = ~ignored_w, ~reference.mix(ignored_w, ignored_mix, box)
    mixture = reference.mix(p_w, p_mix, box)
    (confidence_w, labels_w), (confidence, labels) = (p.softmax(1).max(1) for p in (p_w, mixture))
    maxima = reference.class_maxima(confidence_w, labels_w, valid, z_x.shape[1])
    tau = reference.move_threshold(tap.threshold, maxima, model.pseudo_labeler.threshold.momentum)
    confident_w, confident = (confidence_w >= tau) & valid_w, (confidence >= tau) & valid
    rows = reference.similarity(q_w, k_w, order).softmax(2)[:, tap.rows[0]].unflatten(2, grid)
    regions = reference.region_masks(rows.detach(), size) & (valid & ~box)[:, None]
    new_labels, accepted = reference.propagate_regions(labels, confident, regions, tau, z_x.shape[1])

    # Terms.
    truth, inside = maps(samples['sup'], 'gt_sem_seg'), reference.nearest_labels(box, grid)

    def affinity_u(kept=None, mixed=False):
        wanted = reference.affinities(q_w, k_w, order)
        if mixed:
            both = inside[:, :, None] & inside[:, None, :]
            wanted = [torch.where(both, a[partner], a) for a in wanted]
        return reference.mean_over_orders(reference.affinities(q_s, k_s, order), wanted, kept)

    def soft(kind, target):
        if kind == 'kl':
            return reference.masked_divergence(z_s, target, confident, valid)
        return reference.masked_soft_cross_entropy(z_s, target, accepted, valid)

    def masked(logits, where):
        if where == 'weak':
            return reference.masked_cross_entropy(logits, labels_w, confident_w, valid_w)
        return reference.masked_cross_entropy(logits, new_labels, accepted, valid)

    vectors = dict(labeled=(q_x, k_x), weak=(q_w, k_w), strong=(q_s, k_s))
    terms = {
        'SupervisedLoss': lambda t: reference.cross_entropy(
            z_x if t.on == 'prediction' else propagated(q_x, k_x, z_x), truth
        ),
        'LabelAffinityLoss': lambda t: reference.label_affinity_loss(q_x, k_x, truth, grid, max_order=order),
        'InterpolatedLabelAffinityLoss': lambda t: reference.interpolated_label_affinity_loss(
            q_x, k_x, truth, grid, order
        ),
        'SoftConsistencyLoss': lambda t: soft(t.kind, mixture),
        'UnmixedConsistencyLoss': lambda t: soft(t.kind, p_w),
        'HardConsistencyLoss': lambda t: masked(z_s, 'strong'),
        'PerturbedConsistencyLoss': lambda t: masked(z_fp, 'weak'),
        'PropagatedConsistencyLoss': lambda t: masked(zhat_w if t.on == 'weak' else propagated(q_s, k_s, z_s), t.on),
        'AllPairsAffinityLoss': lambda t: affinity_u(),
        'AffinityConsistencyLoss': lambda t: affinity_u(
            reference.kept_pairs(inside, keep_inside=t.inside_box), t.inside_box
        ),
        'SmoothnessLoss': lambda t: reference.smoothness_loss(*vectors[t.on]),
        'ConstantSmoothness': lambda t: reference.published_smoothness_loss(*vectors[t.on]),
    }
    return {
        name: loss.loss_weight * terms[type(loss).__name__](loss)
        for name, loss in model.losses.items()
        if loss.loss_weight
    }
