"""Lines of items by a key: waiting lines, idle servers, agendas of what happens when.

All lines over the same items share their memory, as an item stands in one of them at most: thousands of lines cost no
more than one. The item of the least key comes first, the lower number among equals: with numbers in order of arrival,
equal keys are first come, first served, and every run is the same. (Pairing heaps: entering takes constant time, taking
the first a logarithm of the length.)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dse.simulate.heap import inner

NOBODY = -1


class Lines(NamedTuple):
    """``key``, ``child``, ``next`` [items]; ``first`` (-1: empty) and ``length`` [lines]."""

    key: np.ndarray
    child: np.ndarray
    next: np.ndarray
    first: np.ndarray
    length: np.ndarray


def lines(items: int, count: int = 1) -> Lines:
    """``count`` empty lines for items 0 ... items - 1."""
    links = np.full((2, items), NOBODY, np.int64)
    return Lines(np.zeros(items), *links, np.full(count, NOBODY, np.int64), np.zeros(count, np.int64))


@inner
def enter(lines, line, item, key):
    """Put an item that stands in no line into one."""
    lines.key[item], lines.child[item], lines.next[item] = key, NOBODY, NOBODY
    root = lines.first[line]
    lines.first[line] = item if root < 0 else _link(lines, root, item)
    lines.length[line] += 1


@inner
def take(lines, line):
    """Remove and return the first of a line that is not empty."""
    first = lines.first[line]
    lines.first[line] = _merge(lines, lines.child[first])
    lines.length[line] -= 1
    return first


@inner
def due(lines, line):
    """Key of the first of a line, infinite if it is empty: of an agenda, when something happens next."""
    first = lines.first[line]
    return lines.key[first] if first >= 0 else np.inf


@inner
def _link(lines, a, b):
    """Make of two trees one; returns its root."""
    if lines.key[b] < lines.key[a] or (lines.key[b] == lines.key[a] and b < a):
        a, b = b, a
    lines.next[b], lines.child[a], lines.next[a] = lines.child[a], b, NOBODY
    return a


@inner
def _merge(lines, tree):
    """Make of a row of siblings one tree: in pairs from the left, then all pairs from the right."""
    pairs = np.int64(NOBODY)  # those made so far, the last first, strung on ``next``
    while tree >= 0:
        other = lines.next[tree]
        if other < 0:
            pair, tree = tree, np.int64(NOBODY)
        else:
            rest = lines.next[other]
            pair, tree = _link(lines, tree, other), rest
        lines.next[pair] = pairs
        pairs = pair
    root = np.int64(NOBODY)
    while pairs >= 0:
        pair, pairs = pairs, lines.next[pairs]
        lines.next[pair] = NOBODY
        root = pair if root < 0 else _link(lines, root, pair)
    return root
