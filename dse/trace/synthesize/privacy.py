"""A private trace without its secrets: other names, sizes and structure, and a simulated time that stays."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dse.errors import DseError, Fault, SpecError
from dse.trace.columns import Ints, Trace, TraceSet
from dse.trace.dialects import WHOLE
from dse.trace.synthesize.leakage import Leakage, measure
from dse.trace.synthesize.structure import restructure

OPERATOR = 0.7  # share of the noise that all values of an operator have in common
TRIES = 6  # times that noise is halved before it is left out
LEAST_ERROR = 0.02  # of simulated time, allowed also where sizes do not change
QUANTITIES = ("flops", "bytes", "seconds", "size")


@dataclass
class Values:
    """Every distinct value of the traces, and what it becomes.

    A value gets one factor, however often it occurs: noise drawn for each node would average out over layers and
    ranks, and members of a collective or the two ends of a message would differ.

    Attributes:
        old, new: of each distinct value (quantity, operator, value).
        nodes: how often it occurs, ranks counted.
        code: for each class and quantity, the distinct value of each row (-1: 0 or absent).
    """

    old: NDArray[np.float64]
    new: NDArray[np.float64]
    nodes: Ints
    code: list[dict[str, Ints]]


def obfuscate(
    trace_set: TraceSet,
    *,
    names: bool = True,
    sizes: float = 0.05,
    structure: float = 0.1,
    seed: int = 0,
    system: Any = None,
    tolerance: float | None = None,
) -> tuple[TraceSet, Leakage]:
    """Take secrets out of traces, and say how much still leaks.

    Names of nodes, groups and streams become codes, one for all names that differ in digits alone; identifiers and tags
    count up; start times, versions and attributes that have no column are dropped. Names of memory tiers stay: they are
    the machine's, and a simulation needs them. FLOP, bytes, durations and message sizes change by up to ``sizes``,
    alike for equal values; all ranks of a collective agree, and so do both ends of a message. A ``structure`` share of
    the graph changes (:func:`~dse.trace.synthesize.structure.restructure`).

    Args:
        trace_set: the private traces.
        names: whether names are replaced.
        sizes: bound of the relative change, 0 ... 1.
        structure: share, 0 ... 1.
        seed: keep it secret: whoever has it can undo much.
        system: what simulated time is compared on (:class:`dse.simulate.System`); None: a plain one.
        tolerance: of the relative error of simulated time; None: ``sizes``, at least 2 %. Where it is exceeded, sizes
            and structure are changed half as much, until it holds.

    Returns:
        The traces to publish, and what they leak.

    Raises:
        SpecError: a number out of range, or no traces.
    """
    for name, value in (("sizes", sizes), ("structure", structure), ("tolerance", tolerance or 0.0)):
        if not (math.isfinite(value) and 0 <= value <= 1):
            raise SpecError([Fault(name, repr(value), "must be 0 to 1")])
    if not len(trace_set) or not sum(len(trace) for trace in trace_set.classes):
        raise SpecError([Fault("traces", "", "hold no nodes", trace_set.source)])
    allowed = max(sizes, LEAST_ERROR) if tolerance is None else tolerance
    before, why = _simulated(trace_set, system)
    error = None
    for step in range(TRIES + 1):
        share = 0.0 if step == TRIES else 0.5**step
        values = noise(trace_set, share * sizes, np.random.default_rng([seed, 1]))
        hidden = _published(trace_set, values, share * structure, seed)
        if before is None:
            break
        after, why = _simulated(hidden, system)
        error = None if after is None else abs(after / before - 1.0) if before else 0.0
        if error is None or error <= allowed:
            break
    hidden = _renamed(trace_set, hidden, np.random.default_rng([seed, 2])) if names else hidden
    found = measure(trace_set, hidden, values, share * sizes, share * structure, seed)
    return hidden, replace(found, time_error=error, time_tolerance=allowed, time_note=why)


def _simulated(traces: TraceSet, system: Any) -> tuple[float | None, str]:
    """Simulated seconds, or why there are none."""
    from dse.simulate import simulate

    try:
        return simulate(traces, system or reference(len(traces), tiers_of(traces)), record=False).time, ""
    except DseError as error:
        return None, f"cannot be simulated: {error}"[:300]


def reference(ranks: int, tiers: Iterable[str] = ()) -> Any:
    """A plain system to compare simulated times on: one switch with 100 GB/s and 1 us, 100 TFLOP/s and 1 TB/s each, and
    each tier a memory of its own with 100 GB/s and 1 us."""
    from dse.simulate import Device, System, Tier, dimension

    memories = tuple(Tier(name, 100e9, 1e-6, shared_by=1) for name in tiers)
    return System((dimension("switch", 100e9, latency=1e-6),), (ranks,), (Device(100e12, 1e12),), tiers=memories)


def tiers_of(traces: TraceSet) -> list[str]:
    """Names of the memories that traces use."""
    return list(dict.fromkeys(name for trace in traces.classes for name in trace.tiers))


# --- values ----------------------------------------------------------------------------------------------------------


def bare(name: str) -> str:
    """A name without its numbers: that of its operator."""
    return re.sub(r"\d+", "#", name)


def noise(traces: TraceSet, bound: float, rng: np.random.Generator) -> Values:
    """What every value becomes; at most ``bound`` from it, relative."""
    operators: dict[str, int] = {}
    users = np.bincount(traces.of, minlength=len(traces.classes))
    keys, olds, weights, where = [], [], [], []
    for at, trace in enumerate(traces.classes):
        table = np.array([operators.setdefault(bare(name), len(operators)) for name in trace.names] or [0], np.int64)
        for number, quantity in enumerate(QUANTITIES):
            old = getattr(trace, quantity).astype(float)
            rows = np.flatnonzero((old > 0) & np.isfinite(old))
            # All ranks of a collective must agree, whatever each calls it: sizes have no operator.
            operator = table[trace.name[rows]] if quantity != "size" else np.full(len(rows), -1, np.int64)
            keys.append(operator * len(QUANTITIES) + number)
            olds.append(old[rows])
            weights.append(np.full(len(rows), users[at], np.int64))
            where.append((at, quantity, rows))
    key, old, weight = (np.concatenate(part) for part in (keys, olds, weights))
    kinds, kind = np.unique(key, return_inverse=True)
    order = np.lexsort((old, kind))
    new_value = np.ones(len(order), bool)
    new_value[1:] = (np.diff(kind[order]) != 0) | (np.diff(old[order]) != 0)
    code = np.empty(len(order), np.int64)
    code[order] = np.cumsum(new_value) - 1
    distinct, of_kind = old[order][new_value], kind[order][new_value]
    common = rng.uniform(-1.0, 1.0, int(kinds.max(initial=-1)) // len(QUANTITIES) + 2)[kinds // len(QUANTITIES)]
    own = rng.uniform(-1.0, 1.0, len(distinct))
    sized = kinds[of_kind] < 0  # message sizes: no operator, so that all of the noise is their own
    change = bound * np.where(sized, own, OPERATOR * common[of_kind] + (1 - OPERATOR) * own)
    moved = distinct * change
    whole = kinds[of_kind] % len(QUANTITIES) != QUANTITIES.index("seconds")
    new = distinct + np.where(whole, np.trunc(moved), moved)
    nodes = np.bincount(code, weights=weight, minlength=len(distinct)).astype(np.int64)
    found: list[dict[str, Ints]] = [{} for _ in traces.classes]
    ends = np.cumsum([len(part) for part in olds])
    for (at, quantity, rows), end in zip(where, ends.tolist(), strict=True):
        found[at][quantity] = np.full(len(traces.classes[at]), -1, np.int64)
        found[at][quantity][rows] = code[end - len(rows) : end]
    return Values(distinct, new, nodes, found)


def _published(traces: TraceSet, values: Values, share: float, seed: int) -> TraceSet:
    """Values and structure changed; classes of equal structure change alike, so that they stay equal."""
    tags = np.unique(np.concatenate([trace.tag for trace in traces.classes]))
    changed = np.random.default_rng([seed, 3]).permutation(len(tags)) + 1
    changed = np.where(tags == 0, 0, changed)
    classes = []
    for trace, code in zip(traces.classes, values.code, strict=True):
        digest = hashlib.blake2b(digest_size=8)
        for column in (trace.kind, trace.data_ptr, trace.data, trace.ctrl_ptr, trace.ctrl):
            digest.update(np.ascontiguousarray(column).tobytes())
        rng = np.random.default_rng([seed, 4, int.from_bytes(digest.digest(), "little")])
        columns: dict[str, Any] = {}
        for quantity in QUANTITIES:
            old = getattr(trace, quantity)
            new = np.append(values.new, 0.0)[code[quantity]]
            columns[quantity] = np.where(code[quantity] >= 0, new, old).astype(old.dtype)
        columns["micros"] = np.rint(np.clip(columns["seconds"], 0, 1e12) * 1e6).astype(np.uint64)
        columns["tag"] = changed[np.searchsorted(tags, trace.tag)]
        columns["start"] = np.zeros(len(trace), np.uint64)
        classes.append(restructure(replace(trace, **columns, version="", dangling=0), share, rng))
    return TraceSet(tuple(classes), traces.of, traces.groups, "obfuscated")


# --- names -----------------------------------------------------------------------------------------------------------


def strings(traces: TraceSet) -> set[str]:
    """Every text of a trace set that can say something: names, labels of groups, streams, versions."""
    found = set(traces.groups)
    for trace in traces.classes:
        found.update(trace.names, trace.labels, trace.streams, (trace.version,))
    return {text for text in found if text and text not in WHOLE}


def _codes(texts: Iterable[str], prefix: str, known: set[str], rng: np.random.Generator) -> dict[str, str]:
    """A code for each text, in random order; no code is a known text."""
    texts = sorted(set(texts))
    while any(f"{prefix}{n}" in known for n in range(len(texts))):
        prefix += "_"
    order = rng.permutation(len(texts)).tolist()
    return {text: f"{prefix}{n}" for text, n in zip(texts, order, strict=True)}


def _renamed(old: TraceSet, traces: TraceSet, rng: np.random.Generator) -> TraceSet:
    known = strings(old)
    operators = _codes((bare(name) for trace in traces.classes for name in trace.names), "op", known, rng)
    labels = _codes({*old.groups, *(x for t in traces.classes for x in t.labels)} - set(WHOLE), "g", known, rng)
    streams = _codes((x for trace in traces.classes for x in trace.streams), "s", known, rng)
    classes = tuple(_with_names(trace, operators, labels, streams) for trace in traces.classes)
    groups = {labels.get(label, label): table for label, table in traces.groups.items()}
    return TraceSet(classes, traces.of, dict(sorted(groups.items())), traces.source)


def _with_names(
    trace: Trace, operators: Mapping[str, str], labels: Mapping[str, str], streams: Mapping[str, str]
) -> Trace:
    table = [operators[bare(name)] for name in trace.names]
    names = sorted(set(table))
    place = np.array([names.index(name) for name in table] or [0], np.int32)
    return replace(
        trace,
        name=place[trace.name],
        names=tuple(names),
        labels=tuple(labels.get(label, label) for label in trace.labels),
        streams=tuple(streams[stream] for stream in trace.streams),
    )
