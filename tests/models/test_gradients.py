"""Where the gradient of each term goes (METHOD section 6), and that nothing is computed which no term reads."""

import builders
import pytest
import torch
from stepping import build, tapped

from mmseg_derprop import ops
from mmseg_derprop.models.segmentors import decode_heads

ROUTES = {
    'seg': {'z_x'},
    'seg_prop': {'q_x', 'k_x'},
    'affinity_x': {'q_x', 'k_x'},
    'hard': {'z_s'},
    'kl': {'z_s'},
    'soft': {'z_s'},
    'fp': {'z_fp_w'},
    'prop_s': {'q_s', 'k_s'},
    'prop_w': {'q_w', 'k_w'},
    'affinity_u': {'q_s', 'k_s'},
    'smooth': {'q_x', 'k_x'},
    'smooth_w': {'q_w', 'k_w'},
    'smooth_s': {'q_s', 'k_s'},
}
PUBLISHED = dict.fromkeys(['affinity_x', 'smooth', 'smooth_w', 'smooth_s'], set())
HARD = {'losses.hard': dict(type='HardConsistencyLoss')}


@pytest.mark.parametrize('alpha', [0.0, 0.3])
@pytest.mark.parametrize('preset', ['derprop_paper', 'derprop_published'])
def test_gradient_of_each_term_goes_where_the_method_says(preset, alpha):
    model = build(preset, HARD | {'pseudo_labels.alpha': alpha})
    losses, tap = tapped(model, *builders.batch(2, 3))
    routes = ROUTES | (PUBLISHED if preset == 'derprop_published' else {})
    assert set(losses) == set(routes)
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
        assert reached == routes[name], name
        assert model.losses[name].trains == bool(reached), name


@pytest.mark.parametrize('preset', sorted(path.stem for path in builders.METHODS.glob('*.py')))
def test_whole_gradient(preset):
    """It reaches all that is trained and nothing else, whoever labels."""
    options = {'pseudo_labels.threshold.type': 'FixedThreshold', 'pseudo_labels.threshold.value': 0.3}
    model = builders.build(preset, options=options | {'pseudo_labels.threshold._delete_': True})
    model.begin_iteration(1000)
    losses = model.loss(*builders.batch(num_strong=model.views.num_strong))
    assert list(losses) == list(model.losses)
    assert all(loss.ndim == 0 and loss.isfinite() and loss > 0 for loss in losses.values())
    model.parse_losses(losses)[0].backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith('teacher.'), name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    assert sum(p.grad.any().item() for p in model.student.parameters()) > 50
    assert model.propagation_head is None or all(p.grad.any() for p in model.propagation_head.conv_q.parameters())


def test_head_that_learns_alone():
    """In its warm-up its losses reach its own weights only, and labels are as without it."""
    inputs, samples = builders.batch(2, 3)
    fixed = {'pseudo_labels.threshold': dict(type='FixedThreshold', value=0.3, _delete_=True)}
    steps, gradients = [], []
    for warmup in (0, 5):
        model = build(options=fixed | {'propagation_head.warmup': warmup})
        model.step_observer = steps.append
        model.begin_iteration(4)
        losses = model.loss(inputs, samples)
        of_the_head = [losses[name] for name in ('seg_prop', 'affinity_x', 'prop_s', 'prop_w', 'affinity_u', 'smooth')]
        sum(of_the_head).backward()
        assert all(p.grad is not None and p.grad.any() for p in model.propagation_head.conv_q.parameters())
        gradients.append([name for name, p in model.student.backbone.named_parameters() if p.grad is not None])
    assert gradients[0] and not gradients[1]
    without = build(options=fixed | {'pseudo_labels.alpha': 0.0, 'pseudo_labels.regions': None})
    without.step_observer = steps.append
    without.loss(inputs, samples)
    joined, apart, plain = (step.target for step in steps)
    assert joined.regions is not None and apart.regions is None
    assert torch.equal(apart.labels, plain.labels) and torch.equal(apart.accepted, plain.accepted)
    torch.testing.assert_close(apart.own.logits, plain.own.logits)
    assert not torch.equal(joined.own.logits, apart.own.logits)
    model.begin_iteration(5)
    assert not model.propagation_head.warming_up and model.trusts_head


def forbid(*args, **kwargs):
    raise AssertionError('computed though no loss reads it')


@pytest.mark.parametrize(
    'names,module,function',
    [
        (('kl', 'soft'), 'step', 'soft_cross_entropy_map'),
        (('kl',), 'step', 'entropy_map'),
        (('affinity_x',), 'losses.derivative', 'label_affinity_loss'),
        (('affinity_u',), 'losses.derivative', 'affinity_consistency_loss'),
        (('smooth', 'smooth_w', 'smooth_s'), 'losses.derivative', 'smoothness_loss'),
        (('fp', 'prop_s', 'prop_w'), 'losses.consistency', 'cross_entropy_map'),
    ],
    ids=str,
)
def test_term_of_weight_0(monkeypatch, names, module, function):
    model = build(options={f'losses.{name}.loss_weight': 0.0 for name in names})
    monkeypatch.setattr(f'mmseg_derprop.models.{module}.{function}', forbid)
    losses = model.loss(*builders.batch())
    assert set(losses) == set(model.losses) - set(names)


def test_kl_and_soft_share_their_softmax(monkeypatch):
    calls = []
    for name in ('soft_cross_entropy_map', 'entropy_map'):
        function = getattr(ops, name)
        monkeypatch.setattr(
            f'mmseg_derprop.models.step.{name}', lambda *args, f=function, n=name: calls.append(n) or f(*args)
        )
    build().loss(*builders.batch())
    assert sorted(calls) == ['entropy_map', 'soft_cross_entropy_map']


@pytest.mark.parametrize(
    'alpha,off,sizes',
    [
        (0.3, (), [2, 3, 3]),  # the weak views' are needed twice and formed once
        (0.0, (), [2, 3, 3]),
        (0.0, ('seg_prop',), [3, 3]),
        (0.0, ('prop_s', 'prop_w'), [2]),
        (0.3, ('seg_prop', 'prop_s', 'prop_w'), [3]),
        (0.0, ('seg_prop', 'prop_s', 'prop_w'), []),
    ],
)
def test_only_what_is_read_is_propagated(alpha, off, sizes):
    model = build(options={'pseudo_labels.alpha': alpha} | {f'losses.{name}.loss_weight': 0.0 for name in off})
    head, found = model.propagation_head, []
    propagate = head.propagate
    head.propagate = lambda embedding, logits: found.append(len(logits)) or propagate(embedding, logits)
    model.loss(*builders.batch(2, 3))
    assert sorted(found) == sizes


@pytest.mark.parametrize('weight', [0.1, 0.0])
def test_perturbed_features_are_decoded_for_fp_only(weight):
    _, tap = tapped(build(options={'losses.fp.loss_weight': weight}), *builders.batch(2, 3))
    assert [len(z) for z in tap.z] == [10 if weight else 5, 3]


ON_WEAK = ('kl', 'soft', 'fp', 'prop_s', 'prop_w', 'affinity_u', 'smooth', 'smooth_w', 'smooth_s')


@pytest.mark.parametrize(
    'regions,alpha,source,forwards',
    [
        (None, 0.0, 'teacher', [3, 2]),  # nothing reads what the student makes of weak views
        (None, 0.3, 'teacher', [5, 2]),
        (dict(type='RegionPropagation', num=4), 0.0, 'teacher', [5, 2]),
        (None, 0.0, 'student', [5, 2]),
    ],
    ids=['nothing', 'alpha', 'regions', 'labels'],
)
def test_the_student_sees_weak_views_only_where_something_reads_them(regions, alpha, source, forwards):
    options = HARD | {f'losses.{name}.loss_weight': 0.0 for name in ON_WEAK}
    options |= {'pseudo_labels.source': source, 'pseudo_labels.regions': regions, 'pseudo_labels.alpha': alpha}
    model, seen = build(options=options), []
    decode_heads(model.student)[-1].register_forward_hook(lambda _, __, out: seen.append(len(out)))
    losses = model.loss(*builders.batch(3, 2))
    assert seen == forwards
    assert set(losses) == {'seg', 'seg_prop', 'affinity_x', 'hard'}


def test_supervised_terms_alone_read_labelled_images_alone():
    model = build(options={f'losses.{name}.loss_weight': 0.0 for name in ON_WEAK})
    inputs, samples = builders.batch(2, 3)
    inputs, samples = dict(sup=inputs['sup']), dict(sup=samples['sup'])
    assert set(model.loss(inputs, samples)) == {'seg', 'seg_prop', 'affinity_x'}
    assert not model.statistics and not model.needs_labels


def test_strong_views_are_predicted_only_for_terms_on_them():
    """Perturbed features are trained by the labels of weak views alone; labels, and the threshold, move as ever."""
    off = ('seg_prop', 'affinity_x', 'kl', 'soft', 'prop_s', 'prop_w', 'affinity_u', 'smooth', 'smooth_w', 'smooth_s')
    options = {'propagation_head': None, 'pseudo_labels.regions': None, 'pseudo_labels.alpha': 0.0}
    model, seen = build(options=options | {f'losses.{name}.loss_weight': 0.0 for name in off}), []
    model.student.backbone.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    assert set(model.loss(*builders.batch(2, 3))) == {'seg', 'fp'}
    assert seen == [5] and model.pseudo_labeler.threshold.value != 0.5


def test_without_regions(monkeypatch):
    monkeypatch.setattr('mmseg_derprop.models.pseudo_labels.regions.region_masks', forbid)
    model = build(options={'pseudo_labels.regions': None})
    _, tap = tapped(model, *builders.batch())
    target = tap.step.target
    assert target.regions is None and 'accepted' not in model.statistics
    assert torch.equal(target.accepted, target.confident) and torch.equal(target.labels, target.mixed.labels)
