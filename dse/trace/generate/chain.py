"""A chain of nodes that grows node by node: what runs in order, what runs beside it, and what waits for what."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple, TypeAlias

from dse.trace.generate.parts import Comm, Part, Work
from dse.trace.schema import Kind


class Outside(IntEnum):
    """What a node of one pass can wait for in others."""

    PREVIOUS = -1  # the end of the pass before, in the order of the schedule
    BEFORE = -2  # the end of the pass before that one
    MATCH = -3  # the pass of the same micro-batch whose results this one continues
    GATHERED = -4  # parameters gathered at the start of the step
    MARKED = -5  # the point from which gradients are reduced


@dataclass(eq=False, slots=True)
class Piece:
    """A node in the making; ``expected`` is its time in seconds where nothing contends.

    ``lag`` is the wait before it for what ran beside the spine. ``peer`` is the offset to the other rank in steps of
    pipeline stages, ``tag`` that of micro-batch 0.
    """

    name: str
    kind: Kind
    expected: float = 0.0
    lag: float = 0.0
    flops: float = 0.0
    bytes: float = 0.0
    comm: Comm | None = None
    stream: str = "compute"
    tier: str = ""
    peer: int = 0
    tag: int = 0
    size: float = 0.0
    data: list[Dependence] = field(default_factory=list)
    ctrl: list[Dependence] = field(default_factory=list)


Dependence: TypeAlias = Piece | Outside


class Cut(NamedTuple):
    """A moment on a spine: what is done by then, what comes next (None: nothing yet), and the seconds from it on."""

    done: list[Dependence]
    before: Piece | None
    window: float


class Chain:
    """Nodes of one pass.

    Attributes:
        pieces: all nodes in the order of their ids.
        spine: those that run one after the other.
        wait: what the next node on the spine waits for, by order; flow: what it computes from.
        lag: seconds that it waits for what runs beside the spine; debt: seconds of that too many so far.
        mark: where :meth:`mark_at` put its mark.
    """

    def __init__(self, wait: Sequence[Dependence] = (), flow: Sequence[Dependence] = ()) -> None:
        self.pieces: list[Piece] = []
        self.spine: list[Piece] = []
        self.wait: list[Dependence] = list(wait)
        self.flow: list[Dependence] = list(flow)
        self.mark: list[Dependence] = []
        self.lag = self.debt = 0.0

    @property
    def length(self) -> float:
        """Seconds of the spine, and of what sticks out beside it."""
        return sum(piece.expected + piece.lag for piece in self.spine) + self.lag

    def add(self, piece: Piece, *, data: Sequence[Dependence] | None = None, passes_on: bool = True) -> Piece:
        """Put a node at the end of the spine. ``passes_on``: what follows computes from its result."""
        piece.data = list(self.flow if data is None else data)
        piece.ctrl = [one for one in self.wait if one not in piece.data]
        piece.lag, self.lag = self.lag, 0.0
        self.pieces.append(piece)
        self.spine.append(piece)
        self.wait = [piece]
        if passes_on:
            self.flow = [piece]
        return piece

    def free(self, piece: Piece) -> Piece:
        """Put a node beside the spine; its dependences are its own."""
        self.pieces.append(piece)
        return piece

    def emit(self, part: Part, where: str) -> None:
        """All nodes of a part: steps on the spine, collectives beside them, then the wait for the host."""
        start, core = len(self.spine), -1
        source = list(self.flow)
        cores = sum(isinstance(step, Work) and step.core for step in part.steps) if part.ring else 0
        for step in part.steps:
            name = f"{where}.{step.name}" if step.name else where
            if isinstance(step, Comm):
                self.add(collective(name, step))
                continue
            if step.core and core < 0:
                core = len(self.spine)
            if not step.grad:
                source = list(self.flow)
            piece = Piece(name, Kind.COMP, step.seconds, flops=step.flops, bytes=step.bytes)
            self.add(piece, data=source, passes_on=not step.grad)
            cores -= step.core
            if part.ring and step.core and cores == 0:
                self.beside(core, [collective(f"{where}.{comm.name}", comm) for comm in part.ring], part.behind)
        if part.aside:
            self.beside(start, [collective(f"{where}.{comm.name}", comm) for comm in part.aside], part.hidden)
        self.idle(f"{where}.host", part.host)

    def idle(self, name: str, seconds: float) -> None:
        """Time in which the device computes nothing useful."""
        if seconds > 0:
            self.add(Piece(name, Kind.COMP, seconds), data=[], passes_on=False)

    def beside(self, start: int, pieces: list[Piece], window: float, *, flows: bool = True) -> None:
        """Run nodes, one after the other, beside the last ``window`` seconds of the spine from ``start`` on.

        What comes next on the spine waits for them. ``flows``: it also computes from their results. Where no
        computation can be cut, more or less of them than wanted sticks out at the end; the next ones make up for it.
        """
        if not pieces:
            return
        total = sum(piece.expected for piece in pieces)
        covered = self.lag + sum(piece.expected + piece.lag for piece in self.spine[start:])
        wanted = max(total - min(window, covered), 0.0)
        aim = max(wanted - self.debt, 0.0)
        room = total - aim if aim else max(total, min(window, covered))
        cut = self._cut(start, room, room)
        exposed = max(total - cut.window, 0.0)
        self.debt += exposed - wanted
        self.lag += exposed
        where = len(self.pieces) if cut.before is None else self.pieces.index(cut.before)
        needs = cut.done
        for piece in pieces:
            piece.data, needs = needs, [piece]
        self.pieces[where:where] = pieces
        self.wait = [*self.wait, pieces[-1]]
        if flows:
            self.flow = [*self.flow, pieces[-1]]

    def mark_at(self, window: float) -> None:
        """Remember what is done when the last ``window`` seconds of the spine begin (its first node, at the latest)."""
        done = self._cut(0, window).done
        self.mark = [one for one in done if isinstance(one, Piece)] or self.spine[:1]

    def join_at(self, elapsed: float, dependence: Outside, idle: Piece) -> None:
        """Let the spine wait for something once ``elapsed`` seconds of it are over, and then idle."""
        cut = self._cut(0, self.length - elapsed)
        if cut.before is None:
            self.add(idle, data=[dependence], passes_on=False)
            return
        idle.data, idle.ctrl = [dependence], cut.done
        cut.before.ctrl.append(idle)
        self.pieces.insert(self.pieces.index(cut.before), idle)
        self.spine.insert(self.spine.index(cut.before), idle)

    def _cut(self, start: int, window: float, most: float = math.inf) -> Cut:
        """Where the last ``window`` seconds of the spine from ``start`` on begin.

        A computation that goes on at that moment becomes two nodes; of a communication or a wait it is the nearer end,
        where more than ``most`` seconds count as no more.
        """
        passed, lag, following = 0.0, self.lag, None
        for index in range(len(self.spine) - 1, start - 2, -1):
            least = 1e-9 * (passed + lag)
            wait = self.wait if following is None else _needs(following)
            if window <= passed + least:
                return Cut(list(wait), following, passed)
            passed += lag
            if window < passed - least and 2 * window < 2 * passed - lag:
                return Cut(list(wait), following, passed - lag)
            if window <= passed + least or index < start:
                return Cut([self.spine[index]] if lag and index >= 0 else list(wait), following, passed)
            piece = self.spine[index]
            left = window - passed
            if left < piece.expected * (1 - 1e-9):
                if piece.kind == Kind.COMP:
                    return self._split(index, 1.0 - left / piece.expected, window)
                if left < min(passed + piece.expected, most) - window:
                    return Cut([piece] if lag else list(wait), following, passed)
            passed, lag, following = passed + piece.expected, piece.lag, piece
        raise AssertionError("the loop ends where the segment does")

    def _split(self, index: int, share: float, window: float) -> Cut:
        rest = self.spine[index]
        parts = {name: share * getattr(rest, name) for name in ("expected", "flops", "bytes")}
        first = Piece(f"{rest.name}.begin", Kind.COMP, lag=rest.lag, **parts)
        first.data, first.ctrl = rest.data, rest.ctrl
        rest.name = f"{rest.name}.end"
        for name, value in parts.items():
            setattr(rest, name, getattr(rest, name) - value)
        rest.lag, rest.data, rest.ctrl = 0.0, [first], []
        self.spine.insert(index, first)
        self.pieces.insert(self.pieces.index(rest), first)
        return Cut([first], rest, window)


def _needs(piece: Piece) -> list[Dependence]:
    return list(dict.fromkeys([*piece.data, *piece.ctrl]))


def collective(name: str, comm: Comm, stream: str = "") -> Piece:
    """A collective as a node, on the stream of its group."""
    return Piece(name, Kind.COLL, comm.seconds, comm=comm, stream=stream or comm.group)
