"""The losses of each method of the family beside a direct rendering of its row in METHOD section 12."""

import builders
import pytest
import reference
import torch
from builders import SIZE
from stepping import boxes, close, maps, order_of_partners, tapped

STRONG = ('strong', 'strong2')
FIXED = {'pseudo_labels.threshold': dict(type='FixedThreshold', value=0.5, _delete_=True)}


@pytest.fixture(params=[(2, 2), (3, 2), (2, 3)], ids=str)
def counts(request):
    return request.param


class Naive:
    """A step of a preset with the threshold 0.5, and what a rendering of the method needs of it."""

    def __init__(self, preset, counts, options=None):
        self.model = builders.build(preset, options=FIXED | (options or {}))
        self.inputs, self.samples = builders.batch(*counts, num_strong=self.model.views.num_strong)
        self.losses, self.tap = tapped(self.model, self.inputs, self.samples)
        self.truth = maps(self.samples['sup'], 'gt_sem_seg')
        self.ignored = maps(self.samples['weak'], 'ignore_map')
        self.partner = order_of_partners(self.model, counts[1])
        self.teacher, self.student = (self.tap.partner[name, 'weak'] for name in ('teacher', 'student'))
        self.z = [reference.resize(z, SIZE) for z in self.tap.z]

    def mixed(self, own, partner, branch):
        """Cut-mixed logits, their confidence and labels, and the pixels that are not ignored."""
        box = boxes(self.samples[branch], SIZE)
        logits = reference.mix(own, partner[self.partner], box)
        confidence, labels = logits.softmax(1).max(1)
        return logits, confidence, labels, ~reference.mix(self.ignored, self.ignored[self.partner], box)

    def x(self, logits):
        return reference.cross_entropy(logits, self.truth)

    def strong(self, own, partner):
        """The mean of the strong views' cross entropy with the hard labels."""
        views = STRONG[: self.model.views.num_strong]
        parts = [self.mixed(own, partner, branch)[1:] for branch in views]
        return sum(hard(s, *part) for s, part in zip(self.z[-1].chunk(len(views)), parts)) / len(views)

    def weak(self, logits, own):
        """Cross entropy with the hard labels of the weak view."""
        return hard(logits, *own.softmax(1).max(1), ~self.ignored)


def hard(logits, confidence, labels, valid):
    mask = (confidence >= 0.5) & valid
    assert mask.any() and (valid & ~mask).any()  # the batch exercises the threshold
    return reference.masked_cross_entropy(logits, labels, mask, valid)


def test_fixmatch(counts):
    step = Naive('fixmatch', counts)
    x, w = step.z[0].split(counts)
    close(step.losses, dict(seg=step.x(x) / 2, hard=step.strong(w.detach(), step.student) / 2))


def test_unimatch(counts):
    step = Naive('unimatch', counts)
    x, w, _, fp = step.z[0].split(counts * 2)
    w = w.detach()
    wanted = dict(seg=step.x(x), hard=(0.25 + 0.25) * step.strong(w, step.student), fp=0.5 * step.weak(fp, w))
    close(step.losses, {name: value / 2 for name, value in wanted.items()})


def test_unimatch_v2(counts):
    step = Naive('unimatch_v2', counts)
    x, strong = step.z
    assert len(x) == counts[0] and len(strong) == 2 * counts[1]
    assert step.partner == list(range(counts[1]))[::-1]
    close(step.losses, dict(seg=step.x(x) / 2, hard=step.strong(step.teacher, step.teacher) / 2))


def test_corrmatch(counts):
    step = Naive('corrmatch', counts)
    x, w, _, fp = step.z[0].split(counts * 2)
    inputs = dict(logits_x=x, logits_u_w=w, logits_u_w_fp=fp, logits_u_s=step.z[1], logits_eval=step.student)
    for part, (clean, strong) in dict(q=step.tap.q, k=step.tap.k).items():
        inputs |= {f'{part}_{name}': value for name, value in zip(('x', 'u_w'), clean.split(counts))}
        inputs[f'{part}_u_s'] = strong
    inputs |= dict(labels_x=step.truth, ignore_u=255 * step.ignored, rows_w=step.tap.rows[0])
    inputs |= dict(thresh_init=torch.tensor(0.5), thresh_momentum=torch.tensor(1.0))
    found = reference.corrmatch_step(inputs, boxes(step.samples['strong'], SIZE))
    assert (found['accepted'] & ~found['confident']).any() and not found['confident'].all()
    names = dict(seg='x', seg_prop='x_corr', hard='s1', kl='kl', fp='fp', prop_s='corr_s', prop_w='corr_w')
    weights = dict(seg=0.5, seg_prop=0.5, hard=0.25, kl=0.25, fp=0.25, prop_s=0.125, prop_w=0.125)
    close(step.losses, {name: weights[name] * found[f'loss_{key}'] / 2 for name, key in names.items()})


def test_derprop(counts):
    """The teacher labels, without propagation at first; labelled images and weak views have forwards of their own."""
    step = Naive('derprop', counts, {'pseudo_labels.regions': None})
    x, weak, strong = step.z
    assert [len(z) for z in step.z] == [counts[0], 2 * counts[1], counts[1]]
    w, fp = weak.chunk(2)

    def propagated(q, k, z):
        grid = q.shape[2:]
        z = reference.resize(z.detach(), grid).flatten(2)
        z = reference.propagate(q.flatten(2), k.flatten(2), z, normalize='source_mean')
        return reference.resize(z.unflatten(2, grid), SIZE)

    (q_x, q_w, q_s), (k_x, k_w, k_s) = step.tap.q, step.tap.k
    mixture, confidence, labels, valid = step.mixed(step.teacher, step.teacher, 'strong')
    confident = (confidence >= 0.5) & valid
    wanted = dict(
        seg=0.5 * step.x(x),
        seg_prop=0.5 * step.x(propagated(q_x, k_x, x)),
        kl=0.25 * reference.masked_divergence(strong, mixture, confident, valid),
        soft=0.25 * reference.masked_soft_cross_entropy(strong, mixture, confident, valid),
        fp=0.25 * step.weak(fp, step.teacher),
        prop_s=0.25 * hard(propagated(q_s, k_s, strong), confidence, labels, valid) / 2,
        prop_w=0.25 * step.weak(propagated(q_w, k_w, w), step.teacher) / 2,
    )
    others = ('affinity_x', 'affinity_u', 'smooth', 'smooth_w', 'smooth_s')  # as in the paper's preset
    found = {name: loss for name, loss in step.losses.items() if name not in others}
    close(found, {name: value / 2 for name, value in wanted.items()})
    assert step.losses.keys() > set(others)


def test_aligned_teacher(counts):
    """Every pixel has a label, by the teacher's logits with a bias that each batch moves."""
    step = Naive('aligned_teacher', counts, {'pseudo_labels.threshold.value': 0.0})
    x, strong = step.z
    hard = []
    for s, branch in zip(strong.chunk(2), STRONG):
        _, _, labels, valid = step.mixed(step.teacher, step.teacher, branch)
        hard.append(reference.masked_cross_entropy(s, labels, valid, valid))
    close(step.losses, dict(seg=step.x(x), hard=sum(hard) / 2))
    bias = step.model.pseudo_labeler.alignment.bias.clone()
    assert bias.any()
    logits = step.model.logits_of(step.model.teacher, step.inputs['weak'])
    steps = []
    step.model.step_observer = steps.append
    step.model.loss(step.inputs, step.samples)
    torch.testing.assert_close(steps[0].target.own.logits, logits + bias[:, None, None])


def test_boxes_are_labelled_before_the_training_forward_moves_statistics():
    """The student in evaluation mode, by the running statistics that the step finds; it trains on in training mode."""
    step = Naive('fixmatch', (2, 2))
    box, target = boxes(step.samples['strong'], SIZE), step.tap.step.target
    inside = box[:, None].expand_as(step.student)
    torch.testing.assert_close(target.mixed.logits[inside], step.student[step.partner][inside])
    with torch.no_grad():
        moved = step.model.logits_of(step.model.student, step.inputs['weak'])
    assert not torch.allclose(target.mixed.logits[inside], moved[step.partner][inside], atol=1e-2)
    assert step.model.student.training


class Neck(torch.nn.Module):
    """Spreads each channel over its neighbours, so that dropped channels show before it only."""

    def forward(self, features):
        return tuple((f + f.roll(1, 1)) / 2 for f in features)


@pytest.mark.parametrize('neck', [False, True])
def test_complementary_channels_are_dropped_of_the_backbone_before_any_neck(neck):
    model, seen = builders.build('unimatch_v2'), []
    if neck:
        model.student.neck = Neck()
        model.student.neck.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    else:
        model.student.decode_head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    clean = []
    model.student.backbone.register_forward_hook(lambda _, __, out: clean.append(out))
    model.loss(*builders.batch(num_strong=2))
    before, after = clean[-1], seen[-1]
    assert len(clean) == 2  # labelled images, strong views
    for feature, dropped in zip(before, after, strict=True):
        alive = feature.abs().amax((2, 3)) > 0
        factor = (dropped.abs().amax((2, 3)) / feature.abs().amax((2, 3)))[:, :]
        one, two = factor.where(alive, torch.nan).chunk(2)
        whole = ((one == 1) | one.isnan()).all(1) & ((two == 1) | two.isnan()).all(1)
        assert whole.sum() == 1  # floor(2 / 2)
        both = ~one.isnan() & ~two.isnan()
        assert torch.equal((one + two)[both], torch.full_like(one, 2)[both])
