"""Why a simulation cannot go on: who waits for whom, until there is a cycle or a peer that does not come."""

from __future__ import annotations

import numpy as np

from dse.errors import DseError
from dse.simulate import records
from dse.simulate.prepare import Problem, where

SHOWN = 8  # nodes of a cycle, peers that are missing


class Deadlock(DseError):
    """Nodes that wait for ever.

    Attributes:
        time: when the last thing happened, in seconds.
        unfinished: how many nodes do not end.
        cycle: the nodes of a cycle of waiting, in words; empty where peers are missing.
        missing: who waits for which peers that do not come, in words.
    """

    def __init__(self, time: float, unfinished: int, nodes: int, cycle: list[str], missing: list[str]) -> None:
        self.time, self.unfinished, self.cycle, self.missing = time, unfinished, cycle, missing
        lines = missing or [f"{node} waits for" for node in cycle[:SHOWN]]
        if len(cycle) > SHOWN:
            lines.append(f"... {len(cycle) - SHOWN} more ...")
        if cycle:
            lines.append(f"{cycle[0]}: a cycle")
        head = f"deadlock: after {time:.9g} s nothing can go on, and {unfinished} of {nodes} nodes have not ended"
        super().__init__("\n  ".join([head, *lines]))


class _Waits:
    """What each node that has not ended waits for."""

    def __init__(self, problem: Problem, state: records.State) -> None:
        self.problem, self.state = problem, state
        self.programs, self.transfers = problem.arrays["programs"], problem.arrays["transfers"]

    def row(self, node: int) -> int:
        actor = int(self.state.actor[node])
        return int(self.programs.base[self.state.program[actor]] + node - self.state.base[actor])

    def on(self, node: int) -> list[int]:
        """The nodes it waits for; none where it waits for somebody who does not come."""
        s = self.state
        if np.isnan(s.ready[node]):
            return self._parents(node)
        if np.isnan(s.issued[node]):
            return self._stream(node)
        o = int(s.transfer[node])
        if o < 0:
            return []
        members = self.transfers.node[self.transfers.node_ptr[o] : self.transfers.node_ptr[o + 1]]
        return [int(m) for m in members if m != node and np.isnan(s.issued[m])]

    def _parents(self, node: int) -> list[int]:
        actor = int(self.state.actor[node])
        known = self.problem.layout
        trace = known.programs[known.program[self.problem.rank[actor]]].trace
        pointers, rows = trace.parents
        base = int(self.state.base[actor])
        mine = rows[pointers[node - base] : pointers[node - base + 1]]
        return [base + int(row) for row in mine if np.isnan(self.state.end[base + row])]

    def _stream(self, node: int) -> list[int]:
        actor = int(self.state.actor[node])
        first, last = int(self.state.base[actor]), int(self.state.base[actor + 1])
        row = self.programs.base[self.state.program[actor]]
        stream = self.programs.stream[row : row + last - first]
        s = self.state
        holds = ~np.isnan(s.issued[first:last]) & np.isnan(s.end[first:last]) & (stream == stream[node - first])
        return (first + np.flatnonzero(holds)).tolist()

    def lacks(self, node: int) -> str:
        """Who does not come to a node that nothing in the traces will set free; "" where it waits for nodes."""
        s = self.state
        if np.isnan(s.issued[node]):
            return ""
        o = int(s.transfer[node])
        if o < 0:
            actor = int(s.actor[node])
            known = self.problem.layout
            rank = int(self.problem.rank[actor])
            program = known.programs[known.program[rank]]
            row = node - int(s.base[actor])
            peer, tag = int(known.peers[rank, program.peer[row]]), int(program.trace.tag[row])
            return f"{where(self.problem, node)} waits for a message from rank {peer} (tag {tag}) that is never sent"
        members = self.transfers.node[self.transfers.node_ptr[o] : self.transfers.node_ptr[o + 1]]
        if self.problem.group[o] < 0 or len(members) == self.transfers.need[o]:
            return ""
        present = set(s.actor[members].tolist())
        ranks = [int(r) for r in self.problem.layout.groups.of(self.problem.group[o])]
        lacking = [rank for rank in ranks if int(self.problem.actor_of[rank]) not in present]
        shown = ", ".join(map(str, lacking[:SHOWN])) + (", ..." if len(lacking) > SHOWN else "")
        turn = int(self.problem.turn[o]) + 1
        who = f"{where(self.problem, node)} waits for rank{'s' * (len(lacking) > 1)} {shown}"
        return f"{who}, whose traces have fewer than {turn} collectives of this group of {len(ranks)}"


def explain(problem: Problem, state: records.State) -> Deadlock:
    """Follow who waits for whom from every node that has not ended."""
    waits = _Waits(problem, state)
    open_nodes = np.flatnonzero(np.isnan(state.end))
    time = float(np.nanmax(np.append(state.end, 0.0)))
    missing = list(dict.fromkeys(text for node in open_nodes if (text := waits.lacks(int(node)))))
    if missing:
        more = [f"... and {len(missing) - SHOWN} more"] if len(missing) > SHOWN else []
        return Deadlock(time, len(open_nodes), len(state.end), [], [*missing[:SHOWN], *more])
    chain: dict[int, int] = {}
    node = int(open_nodes[0])
    while node not in chain:
        chain[node] = len(chain)
        node = waits.on(node)[0]
    cycle = [where(problem, n) for n, place in chain.items() if place >= chain[node]]
    return Deadlock(time, len(open_nodes), len(state.end), cycle, [])
