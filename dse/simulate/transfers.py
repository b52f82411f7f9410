"""Transfers of a problem: collectives of groups, messages between ranks, accesses to shared memories; their ports."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dse.errors import Fault, SpecError
from dse.simulate import fold, prepare, records
from dse.simulate.collectives import demand, phases
from dse.simulate.flows import Laid, lay
from dse.simulate.memory import Accesses
from dse.simulate.messages import Messages, match
from dse.simulate.plans import Table, starts
from dse.simulate.sets import Sets
from dse.simulate.system import System
from dse.simulate.topology import Network
from dse.trace.schema import Collective, Kind

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def capacity(system: System) -> Floats:
    """What a port of each dimension passes in long use, bytes/s."""
    return np.asarray([d.bandwidth * d.efficiency * d.loaded for d in system.dimensions], float)


def _port_names(problem: prepare.Problem) -> list[str]:
    names = [d.name for d in problem.system.dimensions]
    return [f"rank {rank} {name} {way}" for rank in problem.rank for name in names for way in ("out", "in")]


def ports(problem: prepare.Problem) -> Floats:
    """Capacity of every port: actor by actor, dimension by dimension, out and in."""
    share = np.asarray([np.broadcast_to(device.links, len(problem.system.sizes)) for device in problem.system.devices])
    return np.repeat((share[problem.kinds] * capacity(problem.system)).ravel(), 2)


def build(problem: prepare.Problem, gather: str, *, flows: bool) -> None:
    """Add transfers, plans, resources and jobs to the problem's arrays."""
    sets, table = Sets(), Table()
    network = Network(problem.system, sets) if flows else None
    if not flows:
        sets.resource(ports(problem), lambda: _port_names(problem))
    classes = _group_classes(problem)
    call = prepare.calls(problem, classes)
    memory = prepare.column(problem, call, "kind") != Kind.COLL
    parts = [
        _Collectives(problem, classes, _some(call, ~memory), table, sets, gather, network),
        Messages(problem, match(problem.layout, problem.rank), table, sets, network),
        Accesses(problem, classes, _some(call, memory), table, sets),
    ]
    firsts = starts([len(part.plan) for part in parts])

    def joined(name: str) -> Any:
        return np.concatenate([getattr(part, name) for part in parts])

    node, plans = joined("node"), table.arrays()
    of = np.concatenate([part.of + first for part, first in zip(parts, firsts, strict=False)])
    received = parts[1].received + firsts[1]
    problem.transfer = np.full(int(problem.base[-1]), -1, np.int64)
    problem.transfer[node] = of
    problem.transfer[parts[1].receiver] = received
    problem.group, problem.turn, plan = joined("group"), joined("turn"), joined("plan")
    problem.arrays |= {
        "transfers": records.Transfers(
            joined("need"), joined("queue"), joined("delay"),
            np.concatenate([np.zeros(firsts[1]), parts[1].landing, np.zeros(len(parts[2].plan))]),
            plan, starts(table.jobs()[plan])[:-1], starts(plans.chunks[plan])[:-1],
            *_rows(of, node, len(plan)), *_rows(received, parts[1].receiver, len(plan)),
        ),
        "plans": plans,
        "sets": sets,
        **_jobs(table, plan, joined("set"), parts[0].job_sets),
    }  # fmt: skip


def _jobs(table: Table, plan: Ints, first_set: Ints, known: list[Ints]) -> dict[str, Ints]:
    """Of each job its transfer, its lane there and its set: what is ``known`` of the first transfers, or the transfer's
    first set and the lane's dimension (other transfers than a group's have one set, and dimension 0)."""
    counts = table.jobs()[plan]
    owner = np.repeat(np.arange(len(plan)), counts)
    none = np.zeros(0, np.int64)
    lanes = [
        np.repeat(np.arange(len(s)), [len(x.share) for x in s]) if s else np.arange(len(found))
        for s, found in zip(table.schedules, table.lanes, strict=True)
    ]
    dimension = np.concatenate([none, *(table.lanes[p] for p in plan[len(known) :])])
    rest = first_set[owner[len(owner) - len(dimension) :]] + dimension
    return {
        "job_transfer": owner,
        "job_lane": np.concatenate([none, *(lanes[p] for p in plan)]),
        "job_set": np.concatenate([none, *known, rest]),
    }


def _some(call: prepare.Call, chosen: NDArray[np.bool_]) -> prepare.Call:
    return prepare.Call(*(column[chosen] for column in call))


def _rows(of: Ints, values: Ints, count: int) -> tuple[Ints, Ints]:
    """Values by what they belong to, as compressed rows."""
    order = np.lexsort((values, of))
    return starts(np.bincount(of, minlength=count)), values[order]


def _group_classes(problem: prepare.Problem) -> Ints:
    """Which groups are one: by the colours of their members, or every one for itself where nothing is folded."""
    known = problem.layout
    if len(problem.rank) == known.ranks:
        return np.arange(len(known.groups))
    return fold.group_colours(known, problem.system, problem.actor_of)


class _Collectives:
    """Transfers of groups: one for each class of groups and turn."""

    def __init__(
        self,
        problem: prepare.Problem,
        classes: Ints,
        call: prepare.Call,
        table: Table,
        sets: Sets,
        gather: str,
        network: Network | None,
    ) -> None:
        groups = problem.layout.groups
        labels, first = np.unique(classes, return_index=True)
        of = np.searchsorted(labels, call.group)
        turns = int(call.turn.max()) + 1 if len(call.turn) else 1
        pairs, head, self.of = np.unique(of * turns + call.turn, return_index=True, return_inverse=True)
        self.node = call.node
        self.group, self.turn = first[pairs // turns], pairs % turns
        kind, size = _sizes(problem, call)
        _agree(problem, call, self.of, head, kind, size)
        kind, size = kind[head], size[head].astype(float)
        if gather == "input":
            size = np.where(kind == Collective.ALL_GATHER, size * np.diff(groups.ptr)[self.group], size)
        found = members(problem, first)
        self.need = found.need[pairs // turns]
        self.queue = pairs // turns if problem.system.comm_streams is None else np.full(len(pairs), -1)
        self.job_sets: list[Ints] = []
        if network is not None:
            self.set = np.zeros(len(pairs), np.int64)
            self._lay(network, problem, kind, size, table)
            return
        dimensions = len(problem.system.sizes)
        self.set = sets.add_ports(found.ptr, found.actor, found.times, dimensions)[pairs // turns]
        self.plan, self.delay = _plans(problem.system, kind, groups.shares[self.group], size, table)

    def _lay(self, network: Network, problem: prepare.Problem, kind: Ints, size: Floats, table: Table) -> None:
        """Plans of messages, and the links of each message of each transfer."""
        groups = problem.layout.groups
        self.plan, self.delay = np.zeros(len(kind), np.int64), np.zeros(len(kind))
        known: dict[Any, tuple[int, float, Ints]] = {}
        for o, group in enumerate(self.group):
            key = (int(kind[o]), int(group), float(size[o]))
            if key not in known:
                ranks = np.sort(groups.of(group))
                laid = lay(network, Collective(int(kind[o])), ranks, groups.shares[group], float(size[o]))
                plan = table.add(("flows", *key), laid.lane, laid.size, laid.schedules)
                known[key] = plan, laid.delay, _routes(network, laid, ranks)
            self.plan[o], self.delay[o], routes = known[key]
            self.job_sets.append(routes)


def _routes(network: Network, laid: Laid, ranks: Ints) -> Ints:
    """The set of links of each message."""
    if laid.routes is not None:
        return laid.routes
    ends = [(int(ranks[a]), int(ranks[b])) for s in laid.schedules for a, b in zip(s.source, s.target, strict=True)]
    return np.asarray([network.route(*pair) for pair in ends], np.int64)


class Members(NamedTuple):
    """Who carries out the transfers of classes of groups.

    An actor can stand for members that know the group by different slots: it then takes part once for each, and as
    many groups of the class use its ports.
    """

    need: Ints  # of each class, how many take part
    ptr: Ints  # actors of each class, as compressed rows
    actor: Ints
    times: Ints


def members(problem: prepare.Problem, groups: Ints) -> Members:
    """The members of each of these groups."""
    known = problem.layout.groups
    lengths = np.diff(known.ptr)[groups]
    of = np.repeat(np.arange(len(groups)), lengths)
    at = np.arange(len(of)) - np.repeat(starts(lengths)[:-1], lengths) + known.ptr[groups][of]
    actors, slots = len(problem.rank), problem.layout.slots.shape[1] + 1
    parts = np.unique((of * actors + problem.actor_of[known.rank[at]]) * slots + known.slot[at] + 1) // slots
    pairs, times = np.unique(parts, return_counts=True)
    need = np.bincount(parts // actors, minlength=len(groups))
    return Members(need, starts(np.bincount(pairs // actors, minlength=len(groups))), pairs % actors, times)


def _sizes(problem: prepare.Problem, call: prepare.Call) -> tuple[Ints, Ints]:
    """Kind and bytes of each call."""
    kind = prepare.column(problem, call, "coll").astype(np.int64)
    size = prepare.column(problem, call, "size").astype(np.int64)
    size[kind == Collective.BARRIER] = 0
    for wrong, what, rule in (
        (~np.isin(kind, list(Collective)), "comm_type", "a collective must say which it is (0 to 9)"),
        (size < 0, "comm_size", "a collective must say how many bytes it moves (at least 0)"),
    ):
        if wrong.any():
            raise SpecError([Fault(what, prepare.where(problem, int(call.node[np.argmax(wrong)])), rule)])
    return kind, size


def _agree(problem: prepare.Problem, call: prepare.Call, of: Ints, head: Ints, kind: Ints, size: Ints) -> None:
    """The members of a collective must mean the same one."""
    wrong = np.flatnonzero((kind != kind[head][of]) | (size != size[head][of]))
    if not len(wrong):
        return
    one, other = wrong[0], head[of[wrong[0]]]
    names = [f"{Collective(int(kind[i])).name} of {int(size[i])} bytes" for i in (one, other)]
    rule = (
        f"{prepare.where(problem, int(call.node[other]))} has {names[1]} as the {int(call.turn[one]) + 1}th collective "
        "of the same group: members must issue the same ones in the same order"
    )
    raise SpecError([Fault(prepare.where(problem, int(call.node[one])), names[0], rule)])


def _plans(system: System, kind: Ints, shares: Floats, size: Floats, table: Table) -> tuple[Ints, Floats]:
    """The plan of each collective, and the seconds before its bytes flow."""
    columns = [fold._codes(column) for column in (size, *shares.T)]
    code = fold.factorize(kind, *columns) if len(kind) else kind
    some, of = np.unique(code, return_index=True)[1], code
    plan, delay = np.zeros(len(some), np.int64), np.zeros(len(some))
    rate = capacity(system)
    for value in np.unique(kind[some]):
        these = np.flatnonzero(kind[some] == value)
        need = demand(system, int(value), shares[some[these]], size[some[these]])
        alone = (shares[some[these]].prod(axis=1) <= 1) | ((size[some[these]] == 0) & (value != Collective.BARRIER))
        delay[these] = np.where(alone, 0.0, need.fixed)
        for i, busy in zip(these, np.where(alone[:, None], 0.0, need.busy), strict=True):
            way = phases(int(value), busy, shares[some[i]], system)
            key = (int(value), *shares[some[i]], float(size[some[i]]))
            plan[i] = table.add(key, way.dimension, way.busy * rate[way.dimension])
    return plan[of], delay[of]
