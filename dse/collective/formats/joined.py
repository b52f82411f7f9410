"""Chunks that travel as one message, as one operation at either end."""

from __future__ import annotations

from collections.abc import Sequence

from dse.collective.formats.moves import Op, Program, Slot


def joined(made: Program, most: int, group: Sequence[int] | None = None) -> Program:
    """The program with the moves of a message as one where their data lies side by side at both ends.

    The operations of the first move stand for those of all.

    Args:
        most: units that one operation may move.
        group: of each chunk; moves of different groups stay apart.
    """
    m = made.moves
    ends: dict[int, list[int]] = {}  # numbers of the send and of the receive of each move
    for number, op in enumerate(made.ops):
        if op.move >= 0:
            ends.setdefault(op.move, [-1, -1])[op.kind != "send"] = number
    ops: list[Op] = list(made.ops)
    stands: dict[int, int] = {}  # operation that another one stands for
    heads: dict[tuple[int, ...], int] = {}
    columns = (m.message, m.src, m.dst, m.chunk)
    for i, (message, u, v, chunk) in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        key = (message, u, v, group[chunk] if group is not None else 0)
        head = heads.get(key)
        same = head is not None and (m.start[head], m.end[head]) == (m.start[i], m.end[i])
        pairs = list(zip(ends[head], ends[i], strict=True)) if head is not None and same else []
        if pairs and all(_fits(made.ops, ops, a, b, most) for a, b in pairs):
            for a, b in pairs:
                ops[a] = ops[a]._replace(
                    src=_longer(ops[a].src, ops[b].src),
                    dst=_longer(ops[a].dst, ops[b].dst),
                    after=tuple(sorted({*ops[a].after, *ops[b].after})),
                )
                stands[b] = a
        else:
            heads[key] = i
    if not stands:
        return made
    left = [number for number in range(len(ops)) if number not in stands]
    place = {number: k for k, number in enumerate(left)}
    place |= {b: place[a] for b, a in stands.items()}
    moved = [ops[n]._replace(after=tuple(sorted({place[k] for k in ops[n].after} - {place[n]}))) for n in left]
    return made._replace(ops=moved)


def _fits(given: list[Op], ops: list[Op], head: int, other: int, most: int) -> bool:
    """Whether an operation goes on where another one, as it has become, ends, and waits for nothing that is later."""
    a, b = ops[head], ops[other]
    fine = a.kind == b.kind and all(k < head for k in given[other].after)
    for one, more in ((a.src, b.src), (a.dst, b.dst)):
        fine &= one.buffer == more.buffer and more.first == one.first + one.count * bool(one.buffer)
        fine &= one.count + more.count <= most
    return fine


def _longer(one: Slot, more: Slot) -> Slot:
    return Slot(one.buffer, one.first, one.count + more.count)
