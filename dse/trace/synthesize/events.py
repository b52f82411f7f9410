"""Nodes of all roles in one order: which happen together, and which after which."""

from __future__ import annotations

import heapq
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from dse.trace.columns import Ints
from dse.trace.schema import Kind
from dse.trace.synthesize.tokens import Token

if TYPE_CHECKING:
    from dse.trace.synthesize.job import Job


def spans(table: Ints, roles: Ints) -> list[tuple[int, ...]]:
    """The sets of roles that meet in groups of a table, each role in at most one."""
    above = list(range(int(roles.max()) + 1))

    def root(role: int) -> int:
        while above[role] != role:
            role = above[role]
        return role

    for row in np.unique(np.sort(roles[table], axis=1), axis=0).tolist():
        for role in row[1:]:
            above[root(role)] = root(row[0])
    found: dict[int, list[int]] = defaultdict(list)
    for role in np.unique(roles[table]).tolist():
        found[root(role)].append(role)
    return [tuple(members) for members in found.values()]


def joint(job: Job) -> dict[tuple[int, int], tuple[tuple[int, int], ...]]:
    """The nodes that are one collective, for each of them; surplus calls become computing."""
    out: dict[tuple[int, int], tuple[tuple[int, int], ...]] = {}
    for name, sets in job.spans.items():
        for span in sets:
            if len(span) < 2:
                continue
            calls = [[row for row, g in enumerate(job.programs[role].groups) if g == name] for role in span]
            for rows in zip(*calls, strict=False):
                nodes = tuple(zip(span, rows, strict=True))
                out.update(dict.fromkeys(nodes, nodes))
            common = min(len(rows) for rows in calls)
            for role, rows in zip(span, calls, strict=True):
                for row in rows[common:]:
                    program = job.programs[role]
                    program.tokens[row] = Token(Kind.COMP, "other", cpu=program.tokens[row].cpu)
                    program.groups[row] = ""
                    job.lost += 1
    return out


def arrange(job: Job, sent_by: dict, together: dict) -> bool:  # type: ignore[type-arg]
    """Put all nodes in one order, each role as far as it can go before the next; False if some can never run."""
    base = np.cumsum([0, *(len(program) for program in job.programs)])
    waits = np.concatenate([np.diff(program.parents[0]) for program in job.programs])
    after: list[list[int]] = [[] for _ in range(int(base[-1]))]
    for role, program in enumerate(job.programs):
        child = np.repeat(np.arange(len(program)), np.diff(program.parents[0]))
        for c, p in zip((base[role] + child).tolist(), (base[role] + program.parents[1]).tolist(), strict=True):
            after[p].append(c)
    for (b, other), (a, row) in sent_by.items():
        after[base[a] + row].append(int(base[b] + other))
        waits[base[b] + other] += 1
    owner = np.repeat(np.arange(len(job.programs)), np.diff(base)).tolist()
    groups = {int(base[r] + row): [int(base[q] + x) for q, x in nodes] for (r, row), nodes in together.items()}
    left = waits.tolist()
    ready: list[list[int]] = [[] for _ in job.programs]
    arrived: dict[int, int] = defaultdict(int)  # members that could start, by the first of them
    done = 0

    def release(node: int) -> None:
        members = groups.get(node, [node])
        arrived[members[0]] += 1
        if arrived[members[0]] == len(members):
            heapq.heappush(ready[owner[members[0]]], members[0])

    for node in np.flatnonzero(waits == 0).tolist():
        release(node)
    role = 0
    while any(ready):
        if not ready[role]:
            role = next(r % len(ready) for r in range(role + 1, role + 1 + len(ready)) if ready[r % len(ready)])
        node = heapq.heappop(ready[role])
        job.events.append((role, node - int(base[role])))
        for member in groups.get(node, [node]):
            done += 1
            for child in after[member]:
                left[child] -= 1
                if not left[child]:
                    release(child)
    return done == int(base[-1])
