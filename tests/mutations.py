"""Fuzzing: damaged bytes, and structures with wrong parts."""

import copy
import math

from hypothesis import strategies as st

ODD_TEXT = st.sampled_from(['', ' ', '\0', '..', '/', 'é', '\ud800', '\ufeff', 'a' * 300, '1/8', 'nan', '1e9'])
ANYTHING = (
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.floats()
    | st.text(max_size=4)
    | ODD_TEXT
    | st.lists(st.integers(0, 3) | st.text(max_size=2), max_size=3)
    | st.dictionaries(st.text(max_size=2) | st.integers(0, 3), st.integers(0, 3), max_size=2)
)


def mostly(right, wrong=ANYTHING):
    """The other one time in five."""
    return st.integers(0, 4).flatmap(lambda number: right if number else wrong)


PLACE = st.floats(0, 1, exclude_max=True)  # in a file, as a share of its length
EDITS = st.lists(
    st.tuples(st.just('byte'), PLACE, st.integers(0, 255))
    | st.tuples(st.just('cut'), PLACE, st.none())
    | st.tuples(st.just('insert'), PLACE, st.binary(min_size=1, max_size=20))
    | st.tuples(st.just('drop'), PLACE, st.integers(1, 64)),
    min_size=1,
    max_size=4,
)


def edited(data, edits):
    """Bytes with some changed, inserted, left out or cut off."""
    data = bytearray(data)
    for kind, share, value in edits:
        place = math.floor(share * len(data))
        if kind == 'cut':
            del data[place:]
        elif kind == 'insert':
            data[place:place] = value
        elif kind == 'drop':
            del data[place : place + value]
        elif data:
            data[place] = value
    return bytes(data)


def damaged(files):
    """One of some files, edited, or bytes that are no file at all."""
    return st.builds(edited, st.sampled_from(files), EDITS) | st.binary(max_size=200)


WRONGS = st.lists(st.tuples(st.lists(PLACE, min_size=1, max_size=5), ANYTHING | st.just('<gone>')), max_size=3)


def with_wrongs(whole, wrongs):
    """A copy of dicts and lists in which parts, found by following shares of the keys, are replaced or gone."""
    whole = copy.deepcopy(whole)
    for path, value in wrongs:
        part, parent, key = whole, None, None
        for share in path:
            if not isinstance(part, (dict, list)) or not part:
                break
            keys = list(part) if isinstance(part, dict) else range(len(part))
            parent, key = part, keys[math.floor(share * len(keys))]
            part = parent[key]
        if parent is None:
            continue
        if value == '<gone>':
            del parent[key]
        else:
            parent[key] = copy.deepcopy(value)
    return whole
