"""Draws labelled images: by a seed, nested, with every class in them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def draw_order(ids: Sequence[str], seed: int) -> list[int]:
    """A random order of images that depends on their ids and the seed only.

    It is that of the SHA-256 of seed and id, so no machine, library or order of the list changes it.

    Args:
        ids (Sequence[str]): Different ids.
        seed (int): Any integer.

    Returns:
        list[int]: Indices into ``ids``.
    """
    keys = [hashlib.sha256(f'{seed}:{name}'.encode('utf-8', 'surrogateescape')).digest() for name in ids]
    return sorted(range(len(ids)), key=keys.__getitem__)


def draw_splits(
    ids: Sequence[str], sizes: Sequence[int], seed: int, presence: np.ndarray | None = None
) -> list[np.ndarray]:
    """Draws labelled images of several sizes, the smaller ones within the larger ones.

    With ``presence`` it stratifies: first each class, rarest first, gets an image in the smallest draw, one with as
    many further absent classes as possible. Then images are dealt as in iterative stratification (Sechidis,
    Tsoumakas, Vlahavas 2011), those of the class with the fewest images left first, but each to the draw that lacks
    the largest shares of all its classes, so that common classes stay even as well.

    Args:
        ids (Sequence[str]): Ids of all N images.
        sizes (Sequence[int]): Numbers of labelled images, ascending, each within 1 .. N.
        seed (int): Any integer.
        presence (np.ndarray, optional): (N, K) bool, whether a class is in an image.

    Returns:
        list[np.ndarray]: Ascending indices into ``ids`` of each draw, (sizes[i],) int64.

    Raises:
        ValueError: If ids occur twice, or a size is out of range or not above the one before.
    """
    if len(set(ids)) != len(ids):
        twice = sorted({name for name in ids if ids.count(name) > 1})[:3] if len(ids) < 10000 else ''
        raise ValueError(f'{len(ids) - len(set(ids))} ids occur more than once{twice and f", first {twice}"}')
    for smaller, size in zip([0, *sizes], sizes):
        if not smaller < size <= len(ids):
            raise ValueError(f'Numbers of labelled images must ascend from 1 to {len(ids)}, but are {list(sizes)}.')
    order = np.array(draw_order(ids, seed))
    # What a draw has beyond the one before; the last share stays unlabelled.
    shares = np.diff([0, *sizes, len(ids)])
    if presence is None:
        share = np.repeat(np.arange(len(shares)), shares)
    else:
        share = _deal(np.asarray(presence, bool)[order], shares)
    return [np.sort(order[share <= number]) for number in range(len(sizes))]


def _deal(presence: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Which share each image falls to, (N,); images come in random order, so the first of equals is a random one."""
    count = len(presence)
    dealt = np.full(count, -1)
    # Wanted images of each class in each share, times N, so that all numbers are integers.
    goal = shares[:, None] * presence.sum(0, dtype=np.int64)
    wanted, room = goal.copy(), shares.copy()

    def give(image: int, share: int) -> None:
        dealt[image] = share
        room[share] -= 1
        wanted[share, presence[image]] -= count

    absent = presence.any(0)
    while absent.any() and room[0]:
        rarest = min(np.flatnonzero(absent), key=lambda k: (presence[:, k].sum(), k))
        having = np.flatnonzero(presence[:, rarest])
        image = having[np.argmax(presence[having][:, absent].sum(1))]
        give(int(image), 0)
        absent &= ~presence[image]

    left = presence & (dealt < 0)[:, None]
    while left.any():
        counts = left.sum(0)
        rarest = min(np.flatnonzero(counts), key=lambda k: (counts[k], k))
        for image in np.flatnonzero(left[:, rarest]):
            places = np.ix_(np.flatnonzero(room), np.flatnonzero(presence[image]))
            # In whole numbers: rounding must not depend on the machine.
            lack = ((wanted[places] << 20) // goal[places]).sum(1)
            give(int(image), int(places[0][np.argmax(lack), 0]))
        left[dealt >= 0] = False
    # Images without a class fill what is open.
    dealt[dealt < 0] = np.repeat(np.arange(len(shares)), room)
    return dealt
