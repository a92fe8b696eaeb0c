"""The losses of each method of the family beside a direct rendering of its row in the papers."""

import builders
import pytest
import reference
import torch
from builders import NUM_CLASSES, SIZE

from mmseg_derprop.models.checks import decode_heads

STRONG = ('strong', 'strong2')


@pytest.fixture(params=[(2, 2), (3, 2), (2, 3)], ids=str)
def counts(request):
    return request.param


class Step:
    """Losses of one step of a method, and what its networks gave: each call of the student's decode head in order."""

    def __init__(self, preset, counts, tau=0.5):
        self.model = builders.build(preset, pseudo_labels=dict(tau=tau, momentum=1.0))
        head, embedding = decode_heads(self.model.student)[-1], self.model.propagation_head
        self.inputs, self.samples = builders.batch(*counts, num_strong=self.model.num_strong)
        with torch.no_grad():
            self.teacher = reference.resize(self.model.teacher(self.inputs['weak'], mode='tensor'), SIZE)
        self.logits, self.modes, self.q, self.k, self.rows = [], [], [], [], []

        def tap(module, _, out):
            self.logits.append(reference.resize(out, SIZE))
            self.modes.append(module.training)

        head.register_forward_hook(tap)
        if embedding is not None:
            embedding.dropout.p = 0.0
            for taps, conv in ((self.q, embedding.conv_q), (self.k, embedding.conv_k)):
                conv.register_forward_hook(lambda _, __, out, taps=taps: taps.append(out))
            draw = embedding.draw_rows
            embedding.draw_rows = lambda e: self.rows.append(draw(e)) or self.rows[-1]
        self.losses = self.model.loss(self.inputs, self.samples)
        self.truth = torch.cat([s.gt_sem_seg.data for s in self.samples['sup']])
        self.ignored = torch.cat([s.ignore_map.data for s in self.samples['weak']])
        self.labeled, self.unlabeled = counts
        self.following = [*range(1, self.unlabeled), 0]

    def box(self, branch):
        box = torch.zeros(self.unlabeled, *SIZE, dtype=torch.bool)
        for mask, sample in zip(box, self.samples[branch], strict=True):
            x1, y1, x2, y2 = sample.cutmix_box
            mask[y1:y2, x1:x2] = True
        return box

    def mixed(self, own, partner, branch):
        """Cut-mixed logits, their confidence and labels, and the pixels that are not ignored."""
        box = self.box(branch)
        logits = reference.mix(own, partner[self.following], box)
        confidence, labels = logits.softmax(1).max(1)
        return logits, confidence, labels, ~reference.mix(self.ignored, self.ignored[self.following], box)

    def x(self, logits):
        return reference.cross_entropy(logits, self.truth)

    def is_total(self, total):
        torch.testing.assert_close(sum(self.losses.values()), total, rtol=3e-5, atol=1e-6)


def hard(logits, labels, confidence, valid, tau=0.5):
    mask = (confidence >= tau) & valid
    assert mask.any() and (valid & ~mask).any()  # the batch exercises the threshold
    return reference.masked_cross_entropy(logits, labels, mask, valid)


def test_fixmatch(counts):
    step = Step('fixmatch', counts)
    first, partner, strong = step.logits
    assert step.modes == [True, False, True]
    x, w = first.split(counts)
    _, confidence, labels, valid = step.mixed(w.detach(), partner, 'strong')
    step.is_total((step.x(x) + hard(strong, labels, confidence, valid)) / 2)


def test_unimatch(counts):
    step = Step('unimatch', counts)
    first, partner, strong = step.logits
    assert step.modes == [True, False, True]
    x, w, _, fp = first.split(counts * 2)
    w = w.detach()
    total = step.x(x)
    for branch, s in zip(STRONG, strong.chunk(2), strict=True):
        _, confidence, labels, valid = step.mixed(w, partner, branch)
        total = total + 0.25 * hard(s, labels, confidence, valid)
    confidence, labels = w.softmax(1).max(1)
    step.is_total((total + 0.5 * hard(fp, labels, confidence, ~step.ignored)) / 2)


def test_unimatch_v2(counts):
    step = Step('unimatch_v2', counts)
    x, strong = step.logits
    assert step.modes == [True, True] and len(x) == step.labeled and len(strong) == 2 * step.unlabeled
    parts = []
    for branch, s in zip(STRONG, strong.chunk(2), strict=True):
        _, confidence, labels, valid = step.mixed(step.teacher, step.teacher, branch)
        parts.append(hard(s, labels, confidence, valid))
    step.is_total((step.x(x) + sum(parts) / 2) / 2)


def test_corrmatch(counts):
    step = Step('corrmatch', counts)
    first, partner, strong = step.logits
    x, w, _, fp = first.split(counts * 2)
    w, grid = w.detach(), step.q[0].shape[2:]
    (q, q_s), (k, k_s) = ([t.flatten(2) for t in taps] for taps in (step.q, step.k))

    def spread(q, k):  # softmax over the last index of q^T k / sqrt(K)
        return ((q.mT @ k) / NUM_CLASSES**0.5).softmax(2)

    def propagated(p, z):
        z = reference.resize(z.detach(), grid).flatten(2)
        return reference.resize((z @ p).unflatten(2, grid), SIZE)

    p_x, p_w = spread(q, k).split(counts)
    mixture, confidence, labels, valid = step.mixed(w, partner, 'strong')
    confident = (confidence >= 0.5) & valid
    maps = p_w[:, step.rows[0]].unflatten(2, grid).detach()
    regions = reference.region_masks(maps, SIZE) & (valid & ~step.box('strong'))[:, None]
    new_labels, accepted = reference.propagate_regions(labels, confident, regions, torch.tensor(0.5), NUM_CLASSES)
    assert (accepted & ~confident).any()
    own_confidence, own_labels = w.softmax(1).max(1)
    on_strong = reference.masked_cross_entropy(propagated(spread(q_s, k_s), strong), new_labels, accepted, valid)
    on_weak = hard(propagated(p_w, w), own_labels, own_confidence, ~step.ignored)
    terms = (
        0.5 * step.x(x),
        0.5 * step.x(propagated(p_x, x)),
        0.25 * reference.masked_cross_entropy(strong, new_labels, accepted, valid),
        0.25 * reference.masked_divergence(strong, mixture, confident, valid),
        0.25 * hard(fp, own_labels, own_confidence, ~step.ignored),
        0.25 * (on_strong + on_weak) / 2,
    )
    step.is_total(sum(terms) / 2)


def test_derprop(counts):
    """The teacher labels, without propagation; labelled images and weak views have forwards of their own."""
    step = Step('derprop', counts)
    x, weak, strong = step.logits
    assert step.modes == [True] * 3 and [len(x), len(weak), len(strong)] == [
        step.labeled,
        2 * step.unlabeled,
        counts[1],
    ]
    w, fp = weak.chunk(2)
    _, confidence, labels, valid = step.mixed(step.teacher, step.teacher, 'strong')
    own_confidence, own_labels = step.teacher.softmax(1).max(1)

    def propagated(q, k, z):
        grid = q.shape[2:]
        z = reference.resize(z.detach(), grid).flatten(2)
        z = reference.propagate(q.flatten(2), k.flatten(2), z, normalize='source_mean')
        return reference.resize(z.unflatten(2, grid), SIZE)

    (q_x, q_w, q_s), (k_x, k_w, k_s) = step.q, step.k
    on_strong = hard(propagated(q_s, k_s, strong), labels, confidence, valid)
    on_weak = hard(propagated(q_w, k_w, w), own_labels, own_confidence, ~step.ignored)
    wanted = {
        'sup.loss_seg': step.x(x),
        'sup.loss_prop': 0.1 * step.x(propagated(q_x, k_x, x)),
        'unsup.loss_hard': 0.5 * hard(strong, labels, confidence, valid),
        'unsup.loss_fp': 0.5 * hard(fp, own_labels, own_confidence, ~step.ignored),
        'unsup.loss_prop': 0.1 * (on_strong + on_weak) / 2,
    }
    assert step.losses.keys() - wanted.keys() == {'sup.loss_affinity', 'unsup.loss_affinity', 'unsup.loss_smooth'}
    for name, value in wanted.items():
        torch.testing.assert_close(step.losses[name], value, rtol=3e-5, atol=1e-6, msg=name)


def test_derprop_labelled_by_an_averaged_teacher(counts):
    """The labels are the teacher's; everything else is as without it."""
    step = Step('derprop_ema', counts)
    assert step.modes == [True, True] and len(step.logits[0]) == 2 * sum(counts)
    confidence, labels = step.teacher.softmax(1).max(1)
    fp = hard(step.logits[0][-step.unlabeled :], labels, confidence, ~step.ignored)
    torch.testing.assert_close(step.losses['unsup.loss_fp'], fp / 8)
    mixture, confidence, _, valid = step.mixed(step.teacher, step.teacher, 'strong')
    kl = reference.masked_divergence(step.logits[1], mixture, (confidence >= 0.5) & valid, valid)
    torch.testing.assert_close(step.losses['unsup.loss_kl'], kl / 8)


@pytest.mark.parametrize('preset', ['fixmatch', 'unimatch', 'corrmatch', 'unimatch_v2', 'derprop', 'derprop_ema'])
def test_gradient_reaches_the_student_only(preset):
    model = builders.build(preset, pseudo_labels=dict(tau=0.5, momentum=1.0))
    sum(model.loss(*builders.batch(num_strong=model.num_strong)).values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.student.parameters())
    assert all(p.grad is None for p in model.teacher.parameters())
    assert model.student.training and not model.teacher.training


@pytest.mark.parametrize('labels_from', ['student', 'teacher'])
def test_two_strong_views_of_one_picture_weigh_as_one(labels_from):
    """Equal views with equal boxes: every term is what a single view gives."""
    options = dict(labels_from=labels_from, unsup=dict(fp=None, hard=0.3))
    one, two = builders.build(**options), builders.build(num_strong=2, **options)
    inputs, samples = builders.batch()
    inputs['strong2'], samples['strong2'] = inputs['strong'], samples['strong']
    losses = []
    for model in (one, two):
        model.alpha = 0.3
        model.propagation_head.dropout.p = 0.0
        torch.manual_seed(1)
        losses.append(model.loss(inputs, samples))
    assert losses[0].keys() == losses[1].keys()
    for name, value in losses[0].items():
        torch.testing.assert_close(losses[1][name], value, rtol=1e-4, atol=1e-6, msg=name)
    assert torch.equal(one.pseudo_labeler.tau, two.pseudo_labeler.tau)


@pytest.mark.parametrize(
    'regions,alpha,seen', [(0, 0.0, False), (0, 0.3, True), (4, 0.0, True)], ids=['nothing', 'alpha', 'regions']
)
def test_the_student_sees_weak_views_only_where_something_reads_them(regions, alpha, seen):
    """A teacher labels, and the propagation's terms are of labelled images."""
    unsup = dict(kl=None, soft=None, fp=None, prop=None, affinity=None, smooth=None, hard=0.5)
    model = builders.build(labels_from='teacher', unsup=unsup, head=dict(num_regions=regions))
    model.alpha = alpha
    forwards = []
    decode_heads(model.student)[-1].register_forward_hook(lambda _, __, out: forwards.append(len(out)))
    losses = model.loss(*builders.batch(3, 2))
    assert forwards == [5 if seen else 3, 2]
    assert {'sup.loss_prop', 'sup.loss_affinity'} < losses.keys()


@pytest.mark.parametrize(
    'changes,words',
    [
        (dict(num_strong=3), ('num_strong = 3', '1 or 2')),
        (
            dict(num_strong=2, cutmix_partner='second_view', cutmix_predictor='teacher', affinity_pairs='all'),
            ('batch',),
        ),
        (dict(complementary_dropout=True), ('complementary_dropout', 'num_strong=2')),
        (dict(labels_from='nobody'), ('labels_from', "'nobody'", "'student', 'teacher'")),
    ],
    ids=str,
)
def test_options_that_do_not_fit(changes, words):
    with pytest.raises(ValueError) as caught:
        builders.build(**changes)
    assert all(word in str(caught.value) for word in words)


def test_complementary_channels_reach_the_decoder():
    model = builders.build('unimatch_v2')
    seen = []
    model.student.decode_head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.loss(*builders.batch(num_strong=2))
    features = seen[1]
    for feature in features:
        first, second = feature.abs().sum((2, 3)).chunk(2)
        assert ((first == 0) | (second == 0))[(first == 0).any(1)].float().mean() > 0.9
