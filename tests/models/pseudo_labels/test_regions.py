"""Regions of rows drawn, and the rows."""

import pytest
import reference
import torch
from mmseg.registry import MODELS

from mmseg_derprop.models import Embedding

GRID, SIZE = (4, 5), (14, 19)


def build(num=400, kind='RegionPropagation'):
    return MODELS.build(dict(type=kind, num_classes=6, num=num))


def blank(length):
    return Embedding(torch.zeros(1, 6, length), torch.zeros(1, 6, length), (1, length))


@pytest.mark.parametrize('max_order', [0, 1, 2])
def test_regions_of_rows(max_order):
    embedding, rows = Embedding(*torch.randn(2, 2, 6, 20), GRID), torch.tensor([0, 3, 19, 3])
    embedding.q.requires_grad_()
    found = build().propose(embedding, SIZE, max_order, rows)
    assert found.shape == (2, 4, *SIZE) and found.dtype == torch.bool
    p = reference.similarity(embedding.q, embedding.k, max_order).softmax(2)[:, rows]
    assert torch.equal(found, reference.region_masks(p.unflatten(2, GRID), SIZE))


def test_rows_are_drawn_where_none_are_given(monkeypatch):
    regions, embedding = build(num=3), Embedding(*torch.randn(2, 2, 6, 20), GRID)
    monkeypatch.setattr(regions, 'draw_rows', lambda positions, device: torch.tensor([7, 1, positions - 1]))
    wanted = regions.propose(embedding, SIZE, 1, torch.tensor([7, 1, 19]))
    assert torch.equal(regions.propose(embedding, SIZE, 1), wanted)


@pytest.mark.parametrize('kind,highest', [('RegionPropagation', 11), ('RegionsWithoutLastRow', 10)])
def test_rows_drawn(kind, highest):
    rows = build(kind=kind).draw_rows(12, torch.device('cpu'))
    assert rows.shape == (400,) and rows.dtype == torch.int64
    assert set(rows.tolist()) == set(range(highest + 1))  # with replacement, all of them
    assert not torch.equal(rows, build(kind=kind).draw_rows(12, torch.device('cpu')))  # anew each time
    assert not build(5, kind).propose(blank(1), SIZE, 1).any()  # a single position
