"""Draws labelled images: by a seed, nested, with every class in them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

_CANDIDATES = 100  # images that are compared for each one that is drawn


def draw_order(ids: Sequence[str], seed: int) -> list[int]:
    """Indices into ``ids`` in the order of the SHA-256 of seed and id, which no machine, library or list changes."""
    keys = [hashlib.sha256(f'{seed}:{name}'.encode('utf-8', 'surrogateescape')).digest() for name in ids]
    return sorted(range(len(ids)), key=keys.__getitem__)


def draw_splits(
    ids: Sequence[str], sizes: Sequence[int], seed: int, presence: np.ndarray | None = None
) -> list[np.ndarray]:
    """Draws labelled images of several sizes, the smaller within the larger; gives ascending indices into ``ids``.

    With ``presence``, (N, K) bool, whether a class is in an image, it stratifies: first each class, rarest first, gets
    an image, one with as many further absent classes as possible. Then each image is the one of the next 100 of the
    random order that leaves all classes as frequent as in the whole, so that every draw is even.
    """
    if len(set(ids)) != len(ids):
        raise ValueError(f'{len(ids) - len(set(ids))} of {len(ids)} ids occur more than once. Leave them out.')
    for smaller, size in zip([0, *sizes], sizes):
        if not smaller < size <= len(ids):
            raise ValueError(f'Numbers of labelled images must ascend from 1 to {len(ids)}, but are {list(sizes)}.')
    order = np.array(draw_order(ids, seed))
    if presence is not None:
        order = order[_stratified(np.asarray(presence, bool)[order], sizes[-1])]
    return [np.sort(order[:size]) for size in sizes]


def _stratified(presence: np.ndarray, size: int) -> list[int]:
    """The first ``size`` images, indices of rows; these come in random order."""
    count, frequency = len(presence), presence.sum(0)
    rest = list(range(count))
    drawn: list[int] = []
    absent = frequency > 0
    while absent.any() and len(drawn) < size:
        rarest = min(np.flatnonzero(absent), key=lambda k: (frequency[k], k))
        having = np.flatnonzero(presence[:, rarest])
        drawn.append(int(having[np.argmax(presence[having][:, absent].sum(1))]))
        rest.remove(drawn[-1])
        absent &= ~presence[drawn[-1]]
    counts = presence[drawn].sum(0)
    while len(drawn) < size:
        candidates = rest[:_CANDIDATES]
        # In 1024ths of an image and whole numbers: rounding must not depend on the machine.
        wanted = (len(drawn) + 1) * frequency * 1024 // count
        surplus = (counts + presence[candidates]) * 1024 - wanted
        drawn.append(candidates[np.argmin((surplus**2 // np.maximum(frequency, 1)).sum(1))])
        rest.remove(drawn[-1])
        counts = counts + presence[drawn[-1]]
    return drawn
