"""Why ranks did not finish: which peer is missing, who waits for whom, what was never looked at."""

from __future__ import annotations

import numpy as np

from dse.simulate.compat import layout as L
from dse.simulate.compat.layout import State
from dse.simulate.compat.machine import Program
from dse.simulate.compat.outcome import WHY, node_name

SHOWN = 8


def blame(program: Program, w: State) -> list[str]:
    """Reasons, the most telling first: a cycle of ranks that wait for each other, missing peers, the rest."""
    waits: dict[int, set[int]] = {}
    missing: list[str] = []
    others: list[str] = []
    for rank in np.flatnonzero(w.ranks[:, L.R_END] < 0).tolist():
        edges, gone, rest = _of_rank(program, w, rank)
        waits[rank] = edges
        missing += gone
        others += rest
    cycle = _cycle(waits)
    head = [f"ranks wait for one another: {' -> '.join(map(str, cycle))}"] if cycle else []
    rest = missing + others
    if len(rest) > SHOWN:
        rest = [*rest[:SHOWN], f"and {len(rest) - SHOWN} more"]
    return head + rest or ["nothing is left that could happen"]


def _of_rank(program: Program, w: State, rank: int) -> tuple[set[int], list[str], list[str]]:
    r = w.ranks[rank]
    base, first = int(r[L.R_BASE]), int(program.class_ptr[r[L.R_CLASS]])
    n = int(program.class_ptr[r[L.R_CLASS] + 1]) - first
    start, end = w.start[base : base + n], w.end[base : base + n]
    edges: set[int] = set()
    missing, others = [], []
    for local in np.flatnonzero((start >= 0) & (end < 0)).tolist():
        row = program.nodes[first + local]
        where = f"rank {rank}, {node_name(program, rank, local)}"
        if row[L.N_KIND] == L.K_RECV:
            peer = int(row[L.N_PEER] + rank * row[L.N_MASK])
            what = f"waits for a message of {row[L.N_SIZE]} bytes with tag {row[L.N_TAG]} from rank {peer}"
            if not 0 <= peer < len(w.ranks):
                missing.append(f"{where} {what}, which there is not")
            elif w.ranks[peer, L.R_END] >= 0:
                missing.append(f"{where} {what}, which has finished without sending it")
            else:
                edges.add(peer)
                others.append(f"{where} {what}")
        elif row[L.N_KIND] == L.K_COLL:
            absent = _absent(program, w, rank, row)
            edges.update(absent)
            if absent:
                others.append(f"{where}: the collective waits for rank {', '.join(map(str, absent[:5]))}")
            elif w.plans[row[L.N_PLAN], L.P_HI] > w.plans[row[L.N_PLAN], L.P_LO]:
                rule = "all ranks take part, but its chunks meet in different orders, or no dimension is involved"
                if row[L.N_LABEL] < 0 and len(set(w.ranks[:, L.R_STREAMS].tolist())) > 1:
                    rule = "its ranks have had different numbers of chunks, by which they number their messages"
                others.append(f"{where}: {rule}")
        elif row[L.N_KIND] == L.K_BAD:
            missing.append(f"{where}: {WHY[int(row[L.N_BAD])]}")
        else:
            others.append(f"{where} has not ended")
    if r[L.R_ONGOING] == 0 and w.ready_n[rank].sum():
        slot = int(np.flatnonzero(w.ready_n[rank])[0])
        local = int(w.ready[base + w.slot_ptr[r[L.R_CLASS], slot]])
        rule = "is ready but never looked at: what it waited for had no work and ended at once"
        others.append(f"rank {rank}, {node_name(program, rank, local)} {rule}")
    return edges, missing, others


def _absent(program: Program, w: State, rank: int, row: np.ndarray) -> list[int]:
    """Members of a collective that are not in one of the same plan and group."""
    label = int(row[L.N_LABEL])
    network = program.tables.network
    if label >= 0:
        members = program.traces.members(rank, program.traces[rank].labels[label])
    else:
        bits, stride = program.tables.masks[int(row[L.N_MASK])], 1
        members = np.arange(len(w.ranks))
        for d, n in enumerate(network.npus_count):
            if not bits >> d & 1:
                members = members[members // stride % n == rank // stride % n]
            stride *= n
    return [other for other in members.tolist() if not _inside(program, w, other, row, rank)]


def _inside(program: Program, w: State, other: int, row: np.ndarray, rank: int) -> bool:
    r = w.ranks[other]
    base, first = int(r[L.R_BASE]), int(program.class_ptr[r[L.R_CLASS]])
    n = int(program.class_ptr[r[L.R_CLASS] + 1]) - first
    running = np.flatnonzero((w.start[base : base + n] >= 0) & (w.end[base : base + n] < 0))
    rows = program.nodes[first + running]
    mine = "" if row[L.N_LABEL] < 0 else program.traces[rank].labels[int(row[L.N_LABEL])]
    for candidate in rows[rows[:, L.N_KIND] == L.K_COLL]:
        theirs = "" if candidate[L.N_LABEL] < 0 else program.traces[other].labels[int(candidate[L.N_LABEL])]
        if candidate[L.N_PLAN] == row[L.N_PLAN] and mine == theirs:
            return True
    return False


def _cycle(waits: dict[int, set[int]]) -> list[int]:
    """A cycle of ranks that wait for each other, the first again at its end; none is []."""
    done: set[int] = set()
    for root in sorted(waits):
        path, onward = [root], [iter(sorted(waits[root]))]
        while path and root not in done:
            peer = next(onward[-1], None)
            if peer is None:
                done.add(path.pop())
                onward.pop()
            elif peer in path:
                return [*path[path.index(peer) :], peer]
            elif peer in waits and peer not in done:
                path.append(peer)
                onward.append(iter(sorted(waits[peer])))
    return []
