"""Accesses to memory tiers: the links on the way and the memory itself are shared by all who use them.

A tier is a tree: devices hang on the links of its ``path``, each shared by some of them, and the last leads to the
memory. Loads and stores share the memory, and have the links each for their own direction. A node of a group that
says which collective it is (``pg_name``, ``comm_type``) goes together with the others of the group, and where the
switches of the tier reduce, a sum is stored and a copy is loaded once over every link that members share.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dse.errors import Fault, SpecError
from dse.simulate import fold, prepare
from dse.simulate.layout import Program
from dse.simulate.sets import Sets
from dse.simulate.system import System, Tier
from dse.trace.schema import Collective, Kind

if TYPE_CHECKING:
    from dse.simulate.plans import Table

Ints = NDArray[np.int64]
ONE_COPY = {
    Kind.MEM_STORE: (Collective.REDUCE, Collective.ALL_REDUCE, Collective.REDUCE_SCATTER),
    Kind.MEM_LOAD: (Collective.BROADCAST, Collective.ALL_GATHER),
}
LOCAL = "local"  # the first tier, whatever its name


def tier_of(program: Program, rows: Ints, system: System) -> Ints:
    """Index of the tier that each row loads from or stores to.

    Raises:
        SpecError: a tier that the system does not have.
    """
    trace = program.trace
    names = {LOCAL: 0, **{tier.name: i for i, tier in enumerate(system.tiers)}}
    codes = []
    for name in (*trace.tiers, LOCAL):  # -1 finds the last
        if name not in names and np.any(trace.tier[rows] == len(codes)):
            known = ", ".join(tier.name for tier in system.tiers)
            raise SpecError([Fault("dse.tier", repr(name)[:40], f"no such memory; the system has: {known}")])
        codes.append(names.get(name, 0))
    return np.asarray(codes)[trace.tier[rows]]


class Level(NamedTuple):
    """A link of a tier's path, or the memory itself: one for every ``shared_by`` ranks."""

    tier: int
    name: str
    bandwidth: float
    shared_by: int
    both: bool  # loads and stores together


@dataclass(frozen=True)
class Tree:
    """All links and memories. ``run`` [levels, actors]: the class of the one each actor hangs on; ``alike`` [levels,
    actors]: how many ranks that the actor stands for hang on the same; ``first`` [levels]: the first resource."""

    levels: tuple[Level, ...]
    run: Ints
    alike: Ints
    first: Ints

    def of(self, tier: int) -> list[int]:
        return [i for i, level in enumerate(self.levels) if level.tier == tier]

    def resource(self, level: int, run: Ints, load: bool) -> Ints:
        return self.first[level] + (run if self.levels[level].both else 2 * run + int(load))


def levels(tiers: tuple[Tier, ...], ranks: int) -> tuple[Level, ...]:
    """The links and memories of all tiers, nearest first."""
    found = []
    for index, tier in enumerate(tiers):
        for number, hop in enumerate(tier.path):
            name = f"{tier.name} link {number}"
            found.append(Level(index, name, hop.bandwidth, min(hop.shared_by, ranks), False))
        found.append(Level(index, tier.name, tier.bandwidth, min(tier.shared_by or ranks, ranks), True))
    return tuple(found)


def tree(problem: prepare.Problem, sets: Sets) -> Tree:
    """Add links and memories to the resources."""
    ranks, actors = problem.layout.ranks, len(problem.rank)
    known = levels(problem.system.tiers, ranks)
    run, alike = np.zeros((len(known), actors), np.int64), np.ones((len(known), actors), np.int64)
    first = np.zeros(len(known), np.int64)
    for i, level in enumerate(known):
        members = np.sort(fold._padded(problem.actor_of, level.shared_by), axis=1)
        code = fold._rows(members) if level.shared_by > 1 else problem.actor_of
        run[i] = code[problem.rank // level.shared_by] if level.shared_by > 1 else np.arange(actors)
        if len(problem.rank) < ranks:
            mine = members[problem.rank // level.shared_by]
            alike[i] = (mine == np.arange(actors)[:, None]).sum(axis=1)
        many = (int(run[i].max()) + 1) * (1 if level.both else 2)
        first[i] = sets.resource(np.full(many, level.bandwidth), partial(_names, level, run[i], problem.rank))
    return Tree(known, run, alike, first)


def _names(level: Level, run: Ints, rank: Ints) -> list[str]:
    """Of a level's links or memories: by the first rank that hangs on each."""
    head = np.zeros(int(run.max()) + 1, np.int64)
    head[run[::-1]] = rank[::-1]
    return [f"{level.name} of rank {r}{way}" for r in head for way in (("",) if level.both else (" store", " load"))]


class Accesses:
    """A transfer for every access of an actor, or of a group.

    Attributes:
        node, of: the nodes that access memory, and the transfer of each.
        need, queue, plan, set, delay: of each transfer.
        group, turn: of each transfer of a group; -1 and 0.
    """

    def __init__(self, problem: prepare.Problem, classes: Ints, call: prepare.Call, table: Table, sets: Sets) -> None:
        found = tree(problem, sets) if problem.system.tiers else None
        self.parts: dict[str, list[Any]] = {
            n: [] for n in ("node", "of", "need", "queue", "plan", "set", "delay", "group", "turn")
        }
        self.count = 0
        if found is not None:
            self._alone(problem, found, table, sets)
        self._together(problem, found, classes, call, table, sets)
        for name, values in self.parts.items():
            setattr(self, name, np.asarray(values, float if name == "delay" else np.int64))

    def _alone(self, problem: prepare.Problem, found: Tree, table: Table, sets: Sets) -> None:
        lengths, resources, counts = [], [], []
        for actor, rank in enumerate(problem.rank):
            program = problem.layout.programs[problem.layout.program[rank]]
            rows = np.flatnonzero(prepare.moves(program) & (program.slot < 0))
            for row, tier in zip(rows, tier_of(program, rows, problem.system) if len(rows) else (), strict=True):
                load = program.trace.kind[row] == Kind.MEM_LOAD
                way = found.of(int(tier))
                lengths.append(len(way))
                resources += [int(found.resource(i, found.run[i, actor], load)) for i in way]
                counts += [int(found.alike[i, actor]) for i in way]
                node = int(problem.base[actor] + row)
                self._add([node], problem.system.tiers[tier], float(program.trace.bytes[row]), table)
        self.parts["set"] += sets.add(np.asarray(lengths), np.asarray(resources), np.asarray(counts)).tolist()

    def _add(self, nodes: list[int], tier: Tier, size: float, table: Table, **more: int) -> None:
        values = {"need": 1, "queue": -1, "group": -1, "turn": 0, **more}
        for name, value in values.items():
            self.parts[name].append(value)
        self.parts["node"] += nodes
        self.parts["of"] += [self.count] * len(nodes)
        self.parts["plan"].append(table.add(("memory", size), np.zeros((1, 1), np.int64), np.full((1, 1), size)))
        self.parts["delay"].append(tier.latency + sum(hop.latency for hop in tier.path))
        self.count += 1

    def _together(
        self, problem: prepare.Problem, found: Tree | None, classes: Ints, call: prepare.Call, table: Table, sets: Sets
    ) -> None:
        if not len(call.node):
            return
        if found is None:
            rule = "the system has no memory tiers that a group could share"
            raise SpecError([Fault(prepare.where(problem, int(call.node[0])), "", rule)])
        from dse.simulate.transfers import members

        queues, first = np.unique(classes, return_index=True)
        key = call.group * (int(call.turn.max()) + 1) + call.turn
        for value in np.unique(key):
            these = np.flatnonzero(key == value)
            what = [self._what(problem, int(call.actor[i]), int(call.row[i])) for i in these]
            if len(set(what)) > 1:
                rule = f"the others of its group do something else: {next(w for w in what if w != what[0])}"
                raise SpecError([Fault(prepare.where(problem, int(call.node[these[0]])), "", rule)])
            kind, coll, size, tier = what[0]
            group = int(first[np.searchsorted(queues, call.group[these[0]])])
            resources, counts = self._links(problem, found, classes, group, tier, kind, coll)
            self.parts["set"] += sets.add(np.asarray([len(resources)]), resources, counts).tolist()
            need = int(members(problem, np.asarray([group])).need[0])
            queue = int(np.searchsorted(queues, call.group[these[0]])) if problem.system.comm_streams is None else -1
            self._add(
                call.node[these].tolist(), problem.system.tiers[tier], size, table,
                need=need, queue=queue, group=group, turn=int(call.turn[these[0]]),
            )  # fmt: skip

    def _what(self, problem: prepare.Problem, actor: int, row: int) -> tuple[Any, ...]:
        program = problem.layout.programs[problem.layout.program[problem.rank[actor]]]
        trace = program.trace
        tier = int(tier_of(program, np.asarray([row]), problem.system)[0])
        return Kind(int(trace.kind[row])), Collective(int(trace.coll[row])), float(trace.bytes[row]), tier

    def _links(
        self, problem: prepare.Problem, found: Tree, classes: Ints, group: int, tier: int, kind: Kind, coll: Collective
    ) -> tuple[Ints, Ints]:
        """Resources of an access of a group, and how often each is used: once by every group, or by every member."""
        once = problem.system.tiers[tier].reduces and coll in ONE_COPY[kind]
        groups = problem.layout.groups
        alike = np.flatnonzero(classes == classes[group])
        of = np.repeat(alike, np.diff(groups.ptr)[alike])
        rank = np.concatenate([groups.of(g) for g in alike])
        resources, counts = [], []
        for i in found.of(tier):
            place = rank // found.levels[i].shared_by
            if once:
                pairs = np.unique(np.stack([of, place], axis=1), axis=0)
                used, many = np.unique(pairs[:, 1], return_counts=True)
            else:
                used, many = np.unique(place, return_counts=True)
            mine = np.unique(groups.of(group) // found.levels[i].shared_by)
            head = mine * found.levels[i].shared_by
            run = found.run[i, problem.actor_of[np.minimum(head, problem.layout.ranks - 1)]]
            some = np.unique(run, return_index=True)[1]
            resources.append(found.resource(i, run[some], kind == Kind.MEM_LOAD))
            counts.append(many[np.searchsorted(used, mine[some])])
        return np.concatenate(resources), np.concatenate(counts)
