"""The same work as another graph: nodes split and merged, redundant dependences added and removed, order changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from dse.trace.columns import Ints, Trace
from dse.trace.schema import Kind

WINDOW = 16  # places that a node moves at most
PATHS = 4_000_000  # two-step paths that are looked at for redundant dependences


def restructure(trace: Trace, share: float, rng: np.random.Generator) -> Trace:
    """A trace that computes and communicates the same.

    A ``share`` of the computing nodes is split in two (FLOP, bytes and time too) or merged with the node that alone
    follows it; of the dependences that others imply a ``share`` is left out, and as many (of all dependences) are
    added; a ``share`` of the computing nodes moves up to ``WINDOW`` places in the file and in the identifiers.
    Communication keeps its order. Identifiers become 0, 1, ...
    """
    return _reordered(_rewired(_resized(trace, share, rng), share, rng), share, rng)


def _edges(trace: Trace) -> tuple[Ints, Ints, Ints]:
    """(child, parent, 1 for control) of all dependences."""
    n = np.arange(len(trace))
    child = np.concatenate([np.repeat(n, np.diff(p)) for p in (trace.data_ptr, trace.ctrl_ptr)])
    return child, np.concatenate([trace.data, trace.ctrl]), np.repeat([0, 1], [len(trace.data), len(trace.ctrl)])


def _with_edges(trace: Trace, child: Ints, parent: Ints, control: Ints) -> Trace:
    n = len(trace)
    found: dict[str, Any] = {}
    for name, which in (("data", 0), ("ctrl", 1)):
        pairs = np.unique(child[control == which] * max(n, 1) + parent[control == which])
        pointers = np.zeros(n + 1, np.int64)
        np.cumsum(np.bincount(pairs // max(n, 1), minlength=n), out=pointers[1:])
        found |= {name: pairs % max(n, 1), f"{name}_ptr": pointers}
    return replace(trace, **found)


def _taken(trace: Trace, rows: Ints) -> Trace:
    """The columns at some rows, dependences apart."""
    return replace(trace, **{name: getattr(trace, name)[rows] for name in COLUMNS})


COLUMNS = ("ids", "kind", "name", "start", "micros", "seconds", "cpu", "flops", "bytes", "coll", "size", "src", "dst",
           "tag", "priority", "group", "dims", "stream", "tier")  # fmt: skip


def _resized(trace: Trace, share: float, rng: np.random.Generator) -> Trace:
    """Some computing nodes split, some merged."""
    n = len(trace)
    child, parent, control = _edges(trace)
    computes = (trace.kind == Kind.COMP) & ((trace.flops > 0) | (trace.bytes > 0) | (trace.seconds > 0))
    chance = rng.random(n)
    split = computes & (chance < share / 2)
    into = np.full(n, -1, np.int64)  # the node that each is merged into
    into_of = _chains(trace, child, parent, computes & ~split & (chance > 1 - share / 2))
    into[into_of[1]] = into_of[0]
    kept = into < 0
    pieces = np.where(split, 2, kept.astype(int))
    first = np.cumsum(pieces) - pieces
    first[~kept] = first[into[~kept]]
    last = first + (split & kept)
    source = np.repeat(np.arange(n), pieces)
    second = np.zeros(len(source), bool)
    second[last[split]] = True
    part = rng.uniform(0.3, 0.7, n)
    out = _taken(trace, source)
    amounts = {}
    for name in ("flops", "bytes", "seconds"):
        whole = getattr(trace, name).copy()
        np.add.at(whole, into[~kept], getattr(trace, name)[~kept])
        one = np.rint(whole * part) if name != "seconds" else whole * part
        amounts[name] = np.where(split[source], np.where(second, (whole - one)[source], one[source]), whole[source])
    micros = np.rint(amounts["seconds"] * 1e6).astype(np.uint64)
    out = replace(out, **amounts, micros=micros)
    inside = first[child] == last[parent]
    child, parent, control = first[child][~inside], last[parent][~inside], control[~inside]
    halves = np.flatnonzero(split)
    child = np.concatenate([child, last[halves]])
    parent = np.concatenate([parent, first[halves]])
    control = np.concatenate([control, np.zeros(len(halves), np.int64)])
    return _with_edges(out, child, parent, control)


def _chains(trace: Trace, child: Ints, parent: Ints, wanted: Any) -> tuple[Ints, Ints]:
    """Pairs (node, the node that alone follows it and alone follows only it) that can be one node; none overlap."""
    n = len(trace)
    pairs = np.unique(child * max(n, 1) + parent)
    child, parent = pairs // max(n, 1), pairs % max(n, 1)
    alone = (np.bincount(child, minlength=n)[child] == 1) & (np.bincount(parent, minlength=n)[parent] == 1)
    same = (trace.cpu[child] == trace.cpu[parent]) & (trace.stream[child] == trace.stream[parent])
    timed = (trace.seconds[child] > 0) == (trace.seconds[parent] > 0)
    plain = (trace.kind[child] == Kind.COMP) & (trace.kind[parent] == Kind.COMP)
    ok = alone & same & timed & plain & wanted[child] & wanted[parent]
    child, parent = child[ok], parent[ok]
    middle = np.isin(parent, child)  # already merged into the node before it
    return parent[~middle & ~np.isin(child, parent[middle])], child[~middle & ~np.isin(child, parent[middle])]


def _rewired(trace: Trace, share: float, rng: np.random.Generator) -> Trace:
    """Dependences that others imply come and go."""
    n = len(trace)
    child, parent, control = _edges(trace)
    if not len(child) or not share:
        return trace
    pointers, parents = trace.parents
    pairs = np.unique(child * n + parent)
    steps = np.diff(pointers)[pairs % n]
    if steps.sum() > PATHS:
        pairs = pairs[rng.random(len(pairs)) < PATHS / steps.sum()]
        steps = np.diff(pointers)[pairs % n]
    at = np.arange(steps.sum()) - np.repeat(np.cumsum(steps) - steps, steps) + np.repeat(pointers[pairs % n], steps)
    implied = np.unique(np.repeat(pairs // n, steps) * n + parents[at])
    codes = child * n + parent
    drop = np.isin(codes, implied) & (rng.random(len(codes)) < share)
    new = np.setdiff1d(implied, codes)
    new = rng.choice(new, min(len(new), int(share * len(codes))), replace=False)
    sort = (rng.random(len(new)) < control.mean()).astype(np.int64)
    child = np.concatenate([child[~drop], new // n])
    parent = np.concatenate([parent[~drop], new % n])
    return _with_edges(trace, child, parent, np.concatenate([control[~drop], sort]))


def _reordered(trace: Trace, share: float, rng: np.random.Generator) -> Trace:
    """Computing nodes change places, rows and identifiers each for themselves."""
    n = len(trace)
    moves = (trace.kind == Kind.COMP) & (rng.random(n) < share)

    def order(at: Any) -> Ints:
        return np.lexsort((np.arange(n), at + np.where(moves, rng.uniform(-WINDOW, WINDOW, n), 0.0)))

    by_id = np.empty(n, np.int64)
    by_id[np.lexsort((np.arange(n), trace.ids))] = np.arange(n)
    ids = np.empty(n, np.uint64)
    ids[order(by_id)] = np.arange(n)
    rows = order(np.arange(n))
    place = np.empty(n, np.int64)
    place[rows] = np.arange(n)
    child, parent, control = _edges(trace)
    moved = _taken(replace(trace, ids=ids), rows)
    return _with_edges(moved, place[child], place[parent], control)
