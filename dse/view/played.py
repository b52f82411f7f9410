"""Nodes of a simulation as bars: whose, in which lane, of which colour; short ones that follow each other in one."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dse.errors import Fault, SpecError
from dse.trace.columns import Trace
from dse.trace.schema import Kind
from dse.units import engineering
from dse.view import theme

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
ALL, OTHERS = "all ranks", "other groups"
RANKS = 8  # that are drawn where nobody says which
GROUPS = 5  # that have a lane of their own
FIXED = {"host": "host", "compute": "compute", "messages": "pp_comm", "loads": "memory", "stores": "memory"}
TERMS = {"tp": "tp_comm_forward", "cp": "cp_comm", "ep": "ep_comm", "dp": "dp_comm"}  # label of a group: whose colour
LAST = ("messages", "loads", "stores")
GREY = "#888888"  # of waiting
REASONS = ("dependence", "stream", "peer")


def lanes_of(trace: Trace) -> NDArray[Any]:
    """The lane that each node is drawn in, by its title; empty: none."""
    titles = np.full(256, "", object)
    titles[[Kind.MEM_LOAD, Kind.MEM_STORE, Kind.COMP]] = ["loads", "stores", "compute"]
    titles[[Kind.SEND, Kind.RECV]] = "messages"
    found = titles[trace.kind.astype(np.uint8)]
    found[(trace.kind == Kind.COMP) & (trace.cpu == 1)] = "host"
    groups = np.asarray([*map(_group, trace.labels), ALL], object)  # -1 finds the last
    calls = trace.kind == Kind.COLL
    found[calls] = groups[trace.group[calls]]
    return found


def _group(label: str) -> str:
    if label in ("", "0"):
        return ALL
    label = escape(label[:24])
    return f"{label.upper()} comm." if label in TERMS else label if label.startswith("group") else f"group {label}"


def looks(titles: list[str]) -> dict[str, dict[str, Any]]:
    """Marker of each lane: what has a colour elsewhere keeps it, groups of other names take the spare ones."""
    fixed = FIXED | {_group(label): term for label, term in TERMS.items()}
    taken = {GREY, theme.colour_of("compute"), *(theme.colour_of(fixed[t]) for t in titles if t in fixed)}
    spare = [colour for colour in theme.SPARE if colour not in taken]
    found, position = {}, 0
    for title in titles:
        if title in fixed:
            found[title] = theme.fill(fixed[title])
        else:
            found[title] = {"color": spare[position % len(spare)]}
            position += 1
    if "stores" in found:
        found["stores"]["pattern"] = {**found["stores"]["pattern"], "shape": "/"}
    return found


def ordered(titles: set[str]) -> list[str]:
    """Lanes from the top down: host, compute, groups, messages, memory."""
    first = ("host", "compute", ALL)
    middle = sorted(titles - {*first, *LAST, OTHERS})
    return [title for title in (*first, *middle, OTHERS, *LAST) if title in titles]


@dataclass(frozen=True, eq=False)
class Played:
    """Nodes that take time; n nodes of a few ranks.

    Attributes:
        ranks, alike: the ranks, and how many each stands for.
        owner: [n], index into ``ranks``.
        titles: the lanes from the top down; ``lane`` [n] is an index into them.
        issued, begin, end: seconds [n].
        said: of a node (an index below n), what is known of it, for hover.
        end_of_all: seconds until the last node ends.
    """

    ranks: Ints
    alike: Ints
    owner: Ints
    titles: list[str]
    looks: dict[str, dict[str, Any]]
    lane: Ints
    issued: Floats
    begin: Floats
    end: Floats
    said: Any
    end_of_all: float

    @property
    def key(self) -> Ints:
        """Rank and lane as one number [n]."""
        return self.owner * len(self.titles) + self.lane


def played(simulation: Any, ranks: Any = None) -> Played:
    """Nodes of some ranks of a simulation, or of a run with the public simulator's semantics.

    Raises:
        SpecError: no such rank.
    """
    count = len(simulation.actor_of) if hasattr(simulation, "problem") else len(simulation.finished)
    usual = simulation.problem.rank if hasattr(simulation, "problem") else np.arange(count)
    shown = spread(usual) if ranks is None else np.atleast_1d(np.asarray(ranks))
    if not len(shown) or shown.dtype.kind not in "iu" or shown.min() < 0 or shown.max() >= count:
        raise SpecError([Fault("ranks", str(ranks)[:60], f"must be of 0 to {count - 1}")])
    if hasattr(simulation, "problem"):
        return _simulated(simulation, shown, folded=ranks is None)
    return _compatible(simulation, shown)


def spread(ranks: Ints) -> Ints:
    """All of a few, or :data:`RANKS` of them with the first and the last."""
    return ranks[np.unique(np.linspace(0, len(ranks) - 1, min(len(ranks), RANKS)).round().astype(int))]


def trace_of(simulation: Any, actor: int) -> Trace:
    """What a simulated rank runs."""
    known = simulation.problem.layout
    return known.programs[known.program[simulation.problem.rank[actor]]].trace


def _simulated(simulation: Any, shown: Ints, *, folded: bool) -> Played:
    actors = simulation.actor_of[shown]
    alike = np.bincount(simulation.actor_of)[actors] if folded else np.ones(len(shown), np.int64)
    base = simulation.base
    nodes = np.concatenate([np.arange(base[a], base[a + 1]) for a in actors])
    owner = np.repeat(np.arange(len(shown)), np.diff(base)[actors])
    titles = [lanes_of(trace_of(simulation, a)) for a in actors]

    def name(node: int) -> str:
        actor = int(np.searchsorted(base, node, side="right")) - 1
        trace, row = trace_of(simulation, actor), node - int(base[actor])
        return f"{_named(trace, row)} of rank {simulation.problem.rank[actor]}"

    def said(node: int) -> str:
        actor = int(np.searchsorted(base, node, side="right")) - 1
        text = _node(trace_of(simulation, actor), node - int(base[actor]))
        waited = simulation.begin[node] - simulation.issued[node]
        text += f"<br>waited {engineering(waited, 's')} from its issue on" if waited > 0 else ""
        cause = int(simulation._cause[node])
        return text + (f"<br>let go by a {REASONS[simulation._why[node]]}: {name(cause)}" if cause >= 0 else "")

    times = (simulation.issued, simulation.begin, simulation.end)
    return _made(shown, alike, owner, titles, nodes, *(t[nodes] for t in times), said, simulation.time)


def _compatible(run: Any, shown: Ints) -> Played:
    traces = [run.traces[int(rank)] for rank in shown]
    times = [run.times(int(rank)) for rank in shown]
    base = np.concatenate([[0], np.cumsum([len(trace) for trace in traces])])
    begin, end = (np.concatenate([pair[i] for pair in times]).astype(float) * 1e-9 for i in (0, 1))

    def said(node: int) -> str:
        which = int(np.searchsorted(base, node, side="right")) - 1
        return _node(traces[which], node - int(base[which]))

    titles = [lanes_of(trace) for trace in traces]
    owner = np.repeat(np.arange(len(shown)), np.diff(base))
    last = float(np.max(run.ends, initial=0)) * 1e-9
    return _made(shown, np.ones_like(shown), owner, titles, np.arange(base[-1]), begin, begin, end, said, last)


def _made(
    shown: Ints, alike: Ints, owner: Ints, titles: list[NDArray[Any]], nodes: Ints, issued: Floats, begin: Floats,
    end: Floats, said: Any, last: float,
) -> Played:  # fmt: skip
    """Lanes as numbers; without what takes no time or never ran; groups beyond the busiest in one lane."""
    title = np.concatenate([np.zeros(0, object), *titles])
    took = np.where(begin >= 0, end - begin, 0.0)
    kept = (title != "") & ((took > 0) | (begin > issued))
    names, code = np.unique(title[kept].astype(str), return_inverse=True)
    busy = np.bincount(code, took[kept], len(names))
    groups = [i for i in np.argsort(-busy, kind="stable") if names[i] not in FIXED]
    final = {**dict(enumerate(names.tolist())), **{int(i): OTHERS for i in groups[GROUPS:]}}
    order = ordered(set(final.values()))
    lane = np.asarray([order.index(final[i]) for i in range(len(names))], np.int64)[code]
    rows = nodes[kept]
    return Played(shown, alike, owner[kept], order, looks(order), lane, issued[kept], begin[kept], end[kept],
                  lambda i: said(int(rows[i])), last)  # fmt: skip


def _named(trace: Trace, row: int) -> str:
    name = trace.names[trace.name[row]] if trace.names else ""
    return escape(name[:80]) or f"node {trace.ids[row]}"


def _node(trace: Trace, row: int) -> str:
    kind = Kind(int(trace.kind[row])).name.lower().replace("_", " ")
    return f"<b>{_named(trace, row)}</b><br>node {trace.ids[row]}, {kind}"


class Bars(NamedTuple):
    """Bars to draw; b bars: the first node of each, how many nodes, from when to when, and for how long of it (s)."""

    first: Ints
    count: Ints
    begin: Floats
    end: Floats
    busy: Floats

    @property
    def share(self) -> Floats:
        """Of each bar's time, what its nodes take: 1 where it is one node."""
        return np.minimum(self.busy / (self.end - self.begin), 1.0)


def bars(key: Ints, begin: Floats, end: Floats, most: int) -> tuple[Bars, float]:
    """At most ``most`` bars, or one a lane: nodes of a lane that begin in the same stretch of time and are shorter than
    it are one bar.

    Returns:
        The bars, and the stretch in seconds; 0 where every node has its own.
    """
    order = np.lexsort((begin, key))
    key, begin, end = key[order], begin[order], end[order]
    span = float(end.max() - begin.min()) if len(key) else 0.0
    stretch = 0.0
    starts = np.ones(len(key), bool)
    while starts.sum() > most and stretch <= span:
        stretch = 1.2 * stretch or span * 1e-6
        apart = end - begin > stretch
        place = np.floor((begin - begin.min()) / stretch)
        starts[1:] = (np.diff(key) != 0) | (np.diff(place) != 0) | apart[1:] | apart[:-1]
    first = np.flatnonzero(starts)
    if not len(first):
        return Bars(first, first, begin, end, end), 0.0
    count, busy = np.diff(np.append(first, len(key))), np.add.reduceat(end - begin, first)
    return Bars(order[first], count, begin[first], np.maximum.reduceat(end, first), busy), stretch


def unions(key: Ints, begin: Floats, end: Floats) -> tuple[Ints, Floats, Floats]:
    """Intervals of each key that overlap or touch, joined: key, begin, end."""
    order = np.lexsort((begin, key))
    key, begin, end = key[order], begin[order], end[order]
    if not len(key):
        return key, begin, end
    reach = np.empty_like(end)
    for one in np.flatnonzero(np.diff(key, prepend=key[0] - 1)):
        last = int(np.searchsorted(key, key[one], side="right"))
        reach[one:last] = np.maximum.accumulate(end[one:last])
    first = np.flatnonzero(np.append(True, (np.diff(key) != 0) | (begin[1:] > reach[:-1])))
    return key[first], begin[first], reach[np.append(first[1:], len(key)) - 1]
