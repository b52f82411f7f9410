"""Sequences with their repetitions written as loops: ``a b a b a b c`` is ``( a b )3 c``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LONGEST = 4096  # no longer body is looked for
LEAST = 4  # tokens that a loop must save


@dataclass(frozen=True)
class Loop:
    """A body that is repeated ``count`` times."""

    body: tuple[Item, ...]
    count: int


Item = int | Loop


def fold(sequence: Sequence[int]) -> list[Item]:
    """Repetitions that follow one another as loops, short bodies first, so that loops nest; deterministic.

    The answer unfolds to the sequence it was made from. The sequence is compared with itself shifted by each period:
    O(n * LONGEST) in NumPy, and once more for each repetition found.
    """
    known: dict[Item, int] = {}
    items: list[Item] = []

    def code(item: Item) -> int:
        if item not in known:
            known[item] = len(items)
            items.append(item)
        return known[item]

    codes = np.array([code(int(one)) for one in sequence], np.int64)
    period = 1
    while period <= min(len(codes) // 2, LONGEST):
        runs = _runs(codes, period)
        if runs:
            codes = _replace(codes, runs, period, lambda body, n: code(Loop(tuple(items[c] for c in body), n)))
        period = 1 if runs else period + 1  # what is shorter now may repeat with a shorter period
    return [items[c] for c in codes.tolist()]


def _runs(codes: np.ndarray, period: int) -> list[tuple[int, int]]:
    """(start, repetitions) of the stretches that repeat with the period and are worth a loop; none overlap."""
    same = codes[period:] == codes[:-period]
    if np.count_nonzero(same) < period:
        return []
    edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(np.int8)))
    starts, lengths = edges[::2], edges[1::2] - edges[::2]
    counts = lengths // period + 1
    found, free = [], 0
    for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
        begin = max(start, free)
        count -= -(-(begin - start) // period)
        if count >= 2 and (count - 1) * period >= LEAST:
            found.append((begin, count))
            free = begin + count * period
    return found


def _replace(codes, runs, period, code):  # type: ignore[no-untyped-def]
    parts, at = [], 0
    for start, count in runs:
        parts += [codes[at:start], [code(codes[start : start + period].tolist(), count)]]
        at = start + count * period
    return np.concatenate([*parts, codes[at:]]).astype(np.int64)


def unfold(items: Sequence[Item]) -> tuple[list[int], list[int]]:
    """The sequence, and for each of its elements the place in the written form (loops open and close there too)."""
    tokens: list[int] = []
    places: list[int] = []

    def walk(part: Sequence[Item], place: int) -> int:
        for item in part:
            if isinstance(item, Loop):
                begin = len(tokens)
                end = walk(item.body, place + 1)
                body, where = tokens[begin:], places[begin:]
                tokens.extend(body * (item.count - 1))
                places.extend(where * (item.count - 1))
                place = end + 1
            else:
                tokens.append(item)
                places.append(place)
                place += 1
        return place

    walk(items, 0)
    return tokens, places


def write(items: Sequence[Item], opens: int, closes: int) -> tuple[list[int], list[int]]:
    """Loops as marks in the text: ``opens``, body, ``closes``; and the counts in the order of the closing marks."""
    text: list[int] = []
    counts: list[int] = []
    for item in items:
        if isinstance(item, Loop):
            inner, nested = write(item.body, opens, closes)
            text += [opens, *inner, closes]
            counts += [*nested, item.count]
        else:
            text.append(item)
    return text, counts


def parse(text: Sequence[int], counts: Sequence[int], opens: int, closes: int) -> list[Item]:
    """What :func:`write` wrote, again as items; the brackets must match."""
    stack: list[list[Item]] = [[]]
    left = iter(counts)
    for symbol in text:
        if symbol == opens:
            stack.append([])
        elif symbol == closes:
            body, count = tuple(stack.pop()), next(left)
            if body:
                stack[-1].append(Loop(body, count))
        else:
            stack[-1].append(symbol)
    return stack[0]
