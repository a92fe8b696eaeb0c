"""A view computes what is asked of it, once."""

import pytest
import torch
import torch.nn.functional as F

from mmseg_derprop.models import DerPropHead, View


@pytest.fixture
def head():
    return DerPropHead(num_classes=4, in_channels=6, channels=8, num_regions=3).eval()


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


@pytest.mark.parametrize('align_corners', [False, True])
def test_perturbed_logits_are_resized_as_the_segmentor_does(align_corners):
    coarse = torch.randn(2, 4, 7, 9)
    view = View(torch.randn(2, 4, 13, 18), coarse, align_corners=align_corners)
    assert torch.equal(view.perturbed, F.interpolate(coarse, (13, 18), mode='bilinear', align_corners=align_corners))


def test_without_head_and_perturbation():
    view = View(torch.randn(3, 4, 13, 18))[:2]
    assert len(view.logits) == 2
    for name in ('propagated', 'perturbed', 'embedding', 'head'):
        with pytest.raises(AssertionError):
            getattr(view, name)
