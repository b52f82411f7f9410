"""Independent oracles: slow, literal simulations that share no code with the cost model they are held against.

Pipelines run slot by slot, matrix products tile by tile, the COMET training loops row by row, and group placements
are counted rank by rank. Collectives have a module of their own beside this one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

# -- group placement ----------------------------------------------------------------------------------------


def coordinates_spanned(order: Sequence[str], degrees: dict[str, int], sizes: Sequence[int], groups: Iterable[str],
                        part: slice | None = None) -> list[set[int]]:  # fmt: skip
    """How many distinct coordinates per dimension the groups of ranks span, over all such groups (a set a dimension).

    Ranks are laid out with ``order`` from the innermost outwards. ``part`` keeps some of each group's ranks.
    """
    grid = np.indices([degrees[name] for name in reversed(order)]).reshape(len(order), -1)[::-1]
    free = set(groups)
    found: list[set[int]] = [set() for _ in sizes]
    members = defaultdict(list)
    for rank in range(grid.shape[1]):
        members[tuple(int(grid[i, rank]) for i, name in enumerate(order) if name not in free)].append(rank)
    for ranks in members.values():
        for dimension, size in enumerate(sizes):
            inner = int(np.prod(sizes[:dimension]))
            found[dimension].add(len({rank // inner % size for rank in ranks[part or slice(None)]}))
    return found


# -- pipelines ----------------------------------------------------------------------------------------------

Task = tuple[str, int, int]  # kind F, B or W, model chunk, micro-batch


def pipeline_order(schedule: str, stage: int, p: int, m: int, v: int = 1) -> list[Task]:
    """The order in which one stage runs its tasks."""
    if schedule == "interleaved":
        return _interleaved_order(stage, p, m, v)
    order: list[Task] = []
    if schedule == "gpipe":
        return [("F", 0, i) for i in range(m)] + [("B", 0, i) for i in range(m)]
    zero_bubble = schedule.startswith("zero_bubble")
    ahead = 2 * (p - stage) - 2 if schedule == "zero_bubble_h2" else p - stage - 1
    behind = {"zero_bubble_h1": stage, "zero_bubble_h2": 2 * stage}.get(schedule, 0)  # weight gradients put off
    warm = min(ahead, m)
    order = [("F", 0, i) for i in range(warm)]
    owed: list[Task] = []
    for i in range(m):
        if warm + i < m:
            order.append(("F", 0, warm + i))
        order.append(("B", 0, i))
        owed.append(("W", 0, i))
        if zero_bubble and (len(owed) > behind or warm + i >= m):
            order.append(owed.pop(0))
    return order + (owed if zero_bubble else [])


def _interleaved_order(stage: int, p: int, m: int, v: int) -> list[Task]:
    """Megatron-LM: groups of p micro-batches through one model chunk after the other."""
    forward = [("F", k % (p * v) // p, k // (p * v) * p + k % p) for k in range(m * v)]
    backward = [("B", v - 1 - chunk, i) for _, chunk, i in forward]
    warm = min(2 * (p - stage - 1) + (v - 1) * p, m * v)
    order = forward[:warm]
    for k in range(m * v):
        order += [forward[warm + k]] if warm + k < m * v else []
        order.append(backward[k])
    return order


@dataclass(frozen=True)
class PipelineRun:
    """Outcome of a simulated step: when all is done, each stage's own span, and micro-batches held at most."""

    makespan: float
    spans: list[float]
    held: list[float]


def run_pipeline(schedule: str, m: int, forward: Sequence[float], input_grad: Sequence[float],
                 weight_grad: Sequence[float], v: int = 1) -> PipelineRun:  # fmt: skip
    """Run every task as soon as its stage and its inputs are free. ``held`` counts until the weight gradient."""
    p = len(forward)
    orders = [pipeline_order(schedule, s, p, m, v) for s in range(p)]
    split = schedule.startswith("zero_bubble")
    back = [b if split else b + w for b, w in zip(input_grad, weight_grad, strict=True)]
    seconds = {"F": forward, "B": back, "W": weight_grad}
    done: dict[tuple[str, int, int, int], float] = {}
    position, clock, first = [0] * p, [0.0] * p, [np.inf] * p

    def needs(kind: str, s: int, chunk: int, i: int) -> list[tuple[str, int, int, int]]:
        if kind == "W":
            return [("B", s, chunk, i)]
        if kind == "F":
            return [("F", s - 1, chunk, i)] if s else [("F", p - 1, chunk - 1, i)] if chunk else []
        own = [("F", s, chunk, i)]
        return own + ([("B", s + 1, chunk, i)] if s < p - 1 else [("B", 0, chunk + 1, i)] if chunk < v - 1 else [])

    while any(position[s] < len(orders[s]) for s in range(p)):
        moved = False
        for s in range(p):
            while position[s] < len(orders[s]):
                kind, chunk, i = orders[s][position[s]]
                inputs = needs(kind, s, chunk, i)
                if any(n not in done for n in inputs):
                    break
                start = max([clock[s], *(done[n] for n in inputs)])
                first[s] = min(first[s], start)
                clock[s] = done[kind, s, chunk, i] = start + seconds[kind][s] / v
                position[s], moved = position[s] + 1, True
        if not moved:
            raise AssertionError(f"{schedule} with p={p}, m={m}, v={v} is stuck")
    spans = [end - begin for end, begin in zip(clock, first, strict=True)]
    return PipelineRun(max(clock), spans, [_held(order, "W" if split else "B") / v for order in orders])


def _held(order: list[Task], release: str) -> int:
    now = most = 0
    for kind, _, _ in order:
        now += (kind == "F") - (kind == release)
        most = max(most, now)
    return most


# -- matrix products ----------------------------------------------------------------------------------------


def tiled_traffic(m: int, k: int, n: int, buffer: int) -> dict[str, int]:
    """Elements moved between memory and chip by the three loop orders that keep a part of one matrix on chip.

    Each loop computes the product it claims to, from the elements it counts; parts are whole rows or columns.
    """
    rng = np.random.default_rng(m * 10_007 + k * 101 + n)
    a, b = rng.integers(-9, 9, (m, k)), rng.integers(-9, 9, (k, n))
    found: dict[str, int] = {}
    for keep, rows in {"B": k, "A": k, "C down": m, "C across": n}.items():
        width = buffer // rows
        if not width:
            continue
        c, moved = np.zeros((m, n), dtype=int), 0
        along = n if keep in ("B", "C down") else m
        for start in range(0, along, width):
            part = slice(start, min(start + width, along))
            left, right = (a, b[:, part]) if along == n and keep in ("B", "C down") else (a[part], b)
            block = np.zeros((left.shape[0], right.shape[1]), dtype=int)
            moved += left.size + right.size + block.size
            for inner in range(k):  # what is not kept streams by, one column or row at a time
                block += np.outer(left[:, inner], right[inner])
            if along == n and keep in ("B", "C down"):
                c[:, part] = block
            else:
                c[part] = block
        if not np.array_equal(c, a @ b):
            raise AssertionError("the loop does not compute the product")
        found[keep] = moved
    return found


# -- COMET's training loops ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoopRow:
    """One row of the layer list: compute of three phases and its collectives, in seconds."""

    forward: float
    input_grad: float
    weight_grad: float
    forward_comm: float = 0.0
    input_comm: float = 0.0
    weight_comm: float = 0.0


def transformer_loop(stacks: Sequence[Sequence[LoopRow]], passes: int, *, recompute: bool) -> float:
    """Seconds until the backward pass of the last iteration ends, in the loop of COMET's simulator."""
    rows = [(s, r, row) for s, stack in enumerate(stacks) for r, row in enumerate(stack)]
    clock = queue = 0.0
    reduced = [0.0] * len(rows)
    for _ in range(passes):
        for index, (_, _, row) in enumerate(rows):
            clock = max(clock, reduced[index]) + row.forward
            clock += row.forward_comm
        for index in range(len(rows) - 1, -1, -1):
            s, r, row = rows[index]
            if recompute and r == len(stacks[s]) - 1:
                for again in stacks[s]:
                    clock += again.forward + again.forward_comm
            clock += row.input_grad
            arrives = clock + row.input_comm
            clock += row.weight_grad
            if row.weight_comm:
                queue = max(queue, clock) + row.weight_comm
                reduced[index] = queue
            else:
                reduced[index] = 0.0
            clock = max(clock, arrives)
    return clock


def dlrm_loop(embedding: LoopRow, bottom: Sequence[LoopRow], top: Sequence[LoopRow], exchange: tuple[float, float],
              passes: int) -> tuple[float, float]:  # fmt: skip
    """Seconds until the last backward pass ends, and until its last reduction does. All-to-alls pre-empt reductions."""
    clock, jobs, pauses = 0.0, [], []  # jobs: (issued, length, row) in order; pauses: when the links are taken

    def finished(upto: int) -> float:
        now = 0.0
        for issued, length, _ in jobs[: upto + 1]:
            now, left = max(now, issued), length
            for begin, end in pauses:
                if now >= end or left <= 0:
                    continue
                if now + left <= begin:
                    break
                left -= max(begin - now, 0.0)
                now = max(now, end)
            now += left
        return now

    rows = [*bottom, *top]
    for _ in range(passes):
        last = {row: number for number, (_, _, row) in enumerate(jobs)}
        clock += embedding.forward
        arrives = clock + exchange[0]
        pauses.append((clock, arrives))
        for index, row in enumerate(rows):
            if index == len(bottom):
                clock = max(clock, arrives)
            clock = max(clock, finished(last[index]) if index in last else 0.0) + row.forward
        for index in range(len(rows) - 1, -1, -1):
            clock += rows[index].weight_grad
            jobs.append((clock, rows[index].weight_comm, index))
            clock += rows[index].input_grad
            if index == len(bottom):
                arrives = clock + exchange[1]
                pauses.append((clock, arrives))
        clock = max(clock, arrives) + embedding.input_grad
    return clock, finished(len(jobs) - 1)
