"""Cycle model of tile engines: how long a program takes, what its matrix instructions wait for, where each stage is.

Modelled: the four stages with one instruction an FF; weights that load while others compute; C from an earlier
instruction, drained or forwarded; loads and stores in lines at a rate, with a latency; entry and retirement in order at
the core's width, within a reorder buffer, a load buffer and free registers; reads after writes on all registers and on
memory; a store that waits for DR; matrix instructions in program order or as they get ready. The array starts stages at
edges of its own clock. SPMM_R passes the stages as any other instruction.

Not modelled: scalar instructions (addresses, loops, branches), caches (every line comes at the same rate and latency,
as after a prefetch into L2), bank and port conflicts, address translation, partial overlap of addresses (a load waits
for an earlier store that starts at the same line), and delays between core and array other than clock edges.

The stages and their lengths are RASA's, see :mod:`dse.domains.vegeta.engine`; the rest is re-derived. The published
studies used a cycle-level simulator of an out-of-order core whose settings are not known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dse.domains.vegeta.engine import Engine, as_engine
from dse.domains.vegeta.program import Op, Program
from dse.domains.vegeta.registers import registers

STAGES = ("WL", "FF", "FS", "DR")


@dataclass(frozen=True, repr=False)
class Timing:
    """How a program ran. Times are in engine cycles unless they say seconds.

    Attributes:
        engine: it ran on.
        cycles: until everything is done, the last store included.
        instruction: place in the program of each matrix instruction.
        wl_start, wl_end, starts: start and end of WL, and start of FF [matrix instruction].
        operand: what its FF waited for, index into ``pipeline.OPERANDS`` [matrix instruction].
        cause: and why that was late, index into ``pipeline.CAUSES``; -1 if FF followed on FF [matrix instruction].
        stalls: cycles between two FF by cause.
    """

    engine: Engine
    cycles: float
    instruction: np.ndarray
    wl_start: np.ndarray
    wl_end: np.ndarray
    starts: np.ndarray
    operand: np.ndarray
    cause: np.ndarray
    stalls: dict[str, float]

    def __repr__(self) -> str:
        return (
            f"Timing({self.engine.id}: {self.cycles:,.0f} engine cycles, {self.seconds:.4g} s, "
            f"{self.starts.size:,} products of tiles, utilisation {self.utilisation:.3f})"
        )

    @property
    def seconds(self) -> float:
        """The whole in seconds."""
        return self.cycles / self.engine.clock

    @property
    def busy(self) -> float:
        """Cycles with an FF in progress."""
        return float(self.engine.ff * self.starts.size)

    @property
    def utilisation(self) -> float:
        """Share of the cycles with an FF in progress: of the peak rate, padding counted as work."""
        return self.busy / self.cycles if self.cycles else 0.0

    @cached_property
    def parts(self) -> dict[str, float]:
        """All cycles: ``busy``, ``fill`` before the first FF, ``drain`` after the last one, and the stalls."""
        if not self.starts.size:
            return {"busy": 0.0, "fill": 0.0, "drain": self.cycles, **self.stalls}
        fill, last = float(self.starts.min()), float(self.starts.max())
        return {"busy": self.busy, "fill": fill, "drain": self.cycles - last - self.engine.ff, **self.stalls}

    def stages(self, first: int = 0, count: int | None = None) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Start and end of each stage of some matrix instructions [instruction], for a chart of the pipeline."""
        e, part = self.engine, slice(first, None if count is None else first + count)
        ff = self.starts[part]
        fs, dr = ff + e.ff, ff + e.ff + e.fs
        weights = self.wl_start[part], self.wl_end[part]
        return dict(zip(STAGES, (weights, (ff, fs), (fs, dr), (dr, dr + e.dr)), strict=True))


@dataclass(frozen=True)
class Sweep:
    """How one program ran on many engines [engine]; times in engine cycles unless they say seconds.

    Attributes:
        cycles: until everything is done.
        seconds: the same.
        utilisation: share of the cycles with an FF in progress.
        stalls: cycles between two FF by cause [engine, cause], as ``pipeline.CAUSES``.
    """

    cycles: np.ndarray
    seconds: np.ndarray
    utilisation: np.ndarray
    stalls: np.ndarray


def simulate(program: Program, engine: Engine | str | Path | Mapping[str, Any]) -> Timing:
    """Run a program through the cycle model.

    Args:
        program: of a kernel, or assembled.
        engine: with the geometry that the program was made for; or its id, file or mapping.

    Raises:
        SpecError: for an instruction that the engine does not have.
    """
    from dse.domains.vegeta.encode import encode
    from dse.domains.vegeta.pipeline import CAUSES

    engine = as_engine(engine)
    code = encode(program, registers(engine))
    cycles, out, stalls = _run(code, engine)
    cycles += 0.0  # an empty program takes 0 cycles, not -0
    wl, wl_end, ff, operand, cause = out.T
    return Timing(
        engine, cycles, np.flatnonzero(code[:, 0] >= Op.GEMM), wl, wl_end, ff, operand.astype(int), cause.astype(int),
        dict(zip(CAUSES, stalls.tolist(), strict=True)),
    )  # fmt: skip


def simulate_many(program: Program, engines: Sequence[Engine]) -> Sweep:
    """Run a program on engines that differ in anything but tiles, block and registers.

    Raises:
        SpecError: for an instruction that an engine does not have, or engines of another tile or register file.
    """
    from dse.domains.vegeta.encode import encode

    cycles, stalls, busy, codes = [], [], [], {}
    for engine in engines:
        r = registers(engine)
        if r not in codes:
            codes[r] = encode(program, r)
        taken, out, lost = _run(codes[r], engine)
        cycles.append(taken)
        stalls.append(lost)
        busy.append(float(engine.ff * len(out)))
    total = np.array(cycles)
    clock = np.array([engine.clock for engine in engines])
    return Sweep(total, total / clock, np.array(busy) / np.maximum(total, 1.0), np.array(stalls))


def time_gemm(
    m: int, n: int, k: int, engine: Engine | str | Path | Mapping[str, Any], pattern: int | str | None = None,
    **kernel: Any,
) -> Timing:  # fmt: skip
    """Time of C += A B.

    Args:
        m, n, k: rows of A, columns of B, columns of A.
        engine: it runs on; or its id, file or mapping.
        pattern: N:M that A keeps, or its N alone; dense by default.
        kernel: knobs of :func:`dse.domains.vegeta.kernels.gemm_program`.

    Raises:
        SpecError: for a shape, pattern or knob that the engine cannot run.
    """
    from dse.domains.vegeta.gemm import gemm_program

    engine = as_engine(engine)
    return simulate(gemm_program(m, n, k, engine, pattern=pattern, **kernel)[0], engine)


def setting(engine: Engine, instructions: int) -> np.ndarray:
    """An engine as the numbers that the compiled model takes (``pipeline.SETTING``)."""
    core = engine.core
    values = (
        engine.wl, engine.ff, max(engine.ff, engine.fs, engine.dr) if engine.exclusive_stages else engine.ff,
        engine.ff + engine.fs + engine.dr, engine.dependence, 0 if engine.double_buffered else engine.ff + engine.fs,
        engine.weight_bypass, engine.clock / core.clock, core.issue_width, min(core.run_ahead, max(instructions, 1)),
        core.load_lines, core.load_latency, core.load_buffer, core.stores == "shared",
        -1 if core.rename_registers is None else core.rename_registers, core.engine_order == "ready",
    )  # fmt: skip
    return np.array(values, np.float64)


def _run(code: np.ndarray, engine: Engine) -> tuple[float, np.ndarray, np.ndarray]:
    from dse.domains.vegeta.pipeline import run

    slots, matrix = int(code[:, 6].max(initial=0)) + 1, int((code[:, 0] >= Op.GEMM).sum())
    metadata = max(engine.metadata_registers, 1)
    return run(code, setting(engine, len(code)), engine.tile_registers, metadata, slots, matrix)
