"""A view computes what is asked of it, once; what was not computed says which need is missing."""

import builders
import pytest
import torch
import torch.nn.functional as F
from mmseg.registry import MODELS

from mmseg_derprop.models import DerPropHead, SemiLoss, StrongView, View


@pytest.fixture
def head():
    return DerPropHead(num_classes=4, in_channels=6, channels=8).eval()


@pytest.fixture
def view(head):
    embedding = head((torch.randn(3, 6, 4, 5),))
    return View(torch.randn(3, 4, 13, 18), torch.randn(3, 4, 7, 9), embedding, head, align_corners=True)


def test_nothing_is_computed_before_it_is_read(head, view, monkeypatch):
    calls = []

    def count(owner, name):
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **kwargs: calls.append(name) or original(*args, **kwargs))

    count(head, 'propagate')
    count(F, 'interpolate')
    part = view[1:]
    assert part.size == (13, 18) and part.head is head and not calls
    first = part.propagated
    assert part.propagated is first and calls.count('propagate') == 1
    calls.clear()
    assert part.perturbed is part.perturbed and calls == ['interpolate']


def test_part_of_a_view(head, view):
    part = view[1:]
    assert torch.equal(part.logits, view.logits[1:])
    assert torch.equal(part.embedding.q, view.embedding.q[1:]) and torch.equal(part.embedding.k, view.embedding.k[1:])
    assert part.embedding.grid == view.embedding.grid == (4, 5)
    torch.testing.assert_close(part.propagated, view.propagated[1:])
    torch.testing.assert_close(part.perturbed, view.perturbed[1:])
    assert part.propagated.shape == part.perturbed.shape == (2, 4, 13, 18)


def test_box_on_the_grid_of_the_embedding(view):
    box = torch.zeros(3, 13, 18, dtype=torch.bool)
    box[1, :5, :10] = True  # rows 0, 4, 8, 12 and columns 0, 4, 8, 13, 17 are nearest to the positions
    strong = StrongView(view, None, box, None, None)
    assert strong.box_on_grid.unflatten(1, (4, 5))[1].int().tolist() == [[1, 1, 1, 0, 0]] * 2 + [[0] * 5] * 2
    assert not strong.box_on_grid[[0, 2]].any()


@pytest.mark.parametrize(
    'what,need', [('propagated', 'embedding'), ('embedding', 'embedding'), ('perturbed', 'perturbed')]
)
def test_what_a_view_lacks(what, need):
    view = View(torch.randn(3, 4, 13, 18))[:2]
    assert len(view.logits) == 2
    with pytest.raises(ValueError, match=f"not computed: add '{need}' to its needs"):
        getattr(view, what)


class Agreement(SemiLoss):
    """A user's own: how far weak and labelled logits differ in the mean."""

    needs = frozenset({'weak'})

    def forward(self, step):
        return (step.weak.logits.mean() - step.labeled.logits.mean()).abs()


class Careless(Agreement):
    needs = frozenset()


@pytest.fixture
def own_losses(monkeypatch):
    for loss in (Agreement, Careless):
        monkeypatch.setitem(MODELS._module_dict, loss.__name__, loss)


def test_a_loss_of_ones_own(own_losses):
    """It is logged by its key, whatever that is, and counted in the total."""
    losses = dict(whatever_it_is=dict(type='Agreement', loss_weight=3.0))
    model = builders.build('fixmatch', options={'losses.whatever_it_is': losses['whatever_it_is']})
    steps = []
    model.step_observer = steps.append
    found = model.loss(*builders.batch())
    assert list(found) == ['seg', 'hard', 'whatever_it_is']
    torch.testing.assert_close(found['whatever_it_is'], 3 * Agreement()(steps[0]))
    total, log = model.parse_losses(found)
    torch.testing.assert_close(total, sum(found.values()))
    assert list(log) == ['loss', *found]
    found['whatever_it_is'].backward()
    assert model.student.backbone.stem[0].weight.grad.any()


def test_a_loss_of_ones_own_that_forgets_its_needs(own_losses):
    options = {'losses': dict(seg=dict(type='SupervisedLoss'), own=dict(type='Careless'), _delete_=True)}
    model = builders.build('fixmatch', options=options)
    with pytest.raises(ValueError, match="reads weak, but it was not computed: add 'weak' to its needs"):
        model.loss(*builders.batch())
