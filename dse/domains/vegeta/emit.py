"""Instruction streams of blocked kernels, made as columns: a panel of C once, then all panels by address arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dse.domains.vegeta.program import Op, Program
from dse.domains.vegeta.registers import ROW

FIELDS = ("op", "dst", "a", "b", "m", "width", "address", "down", "right")


def instruction(op: Op, dst: Any, *, a: Any = -1, b: Any = -1, m: Any = -1, width: Any = 1, at: Any = -1, **move: Any):
    """One instruction of a panel, or one for each step of its loop where arguments are arrays [step].

    Args:
        at: byte address in the first panel.
        move: ``down`` and ``right``, bytes to the same instruction one tile further in m and in n.
    """
    return int(op), dst, a, b, m, width, at, move.get("down", 0), move.get("right", 0)


def steps(body: Sequence[tuple], count: int) -> np.ndarray:
    """The columns [field, count · instruction] of a loop of ``count`` steps over the instructions of its body."""
    columns = np.empty((len(FIELDS), count, len(body)), np.int64)
    for i, entry in enumerate(body):
        for field, value in enumerate(entry):
            columns[field, :, i] = value
    return columns.reshape(len(FIELDS), -1)


def once(body: Sequence[tuple]) -> np.ndarray:
    """The columns [field, instruction] of instructions with plain numbers only."""
    return np.array(body, np.int64).reshape(-1, len(FIELDS)).T


def spread(panels: dict[Any, np.ndarray], kinds: Sequence[Any], down: np.ndarray, right: np.ndarray) -> Program:
    """The program that runs panels one after the other.

    Args:
        panels: columns [field, instruction] of each kind of panel, as of :func:`steps`.
        kinds: the kind of each panel, in program order.
        down, right: tiles in m and in n by which each panel is moved [panel].
    """
    place = {name: i for i, name in enumerate(panels)}
    kind = np.array([place[name] for name in kinds], np.int64)
    lengths = np.array([columns.shape[1] for columns in panels.values()], np.int64)[kind]
    ends = np.cumsum(lengths)
    out = np.empty((7, int(ends[-1]) if ends.size else 0), np.int64)
    for i, local in enumerate(panels.values()):
        mine = np.flatnonzero(kind == i)
        where = (ends[mine] - local.shape[1])[:, None] + np.arange(local.shape[1])
        out[:6, where] = local[:6, None, :]
        moved = local[6] + local[7] * down[mine, None] + local[8] * right[mine, None]
        out[6, where] = np.where(local[6] < 0, -1, moved)
    stride = np.where(out[6] < 0, 0, ROW)
    return Program.of(**dict(zip(Program._fields, (*out, stride), strict=True)))
