"""What an engine costs: area and power from what it is made of, and the energy of a program by cause.

Area and power of the published engines come out of a synthesis that was not seen. What is recalled of them stands in
the engines' files, with its confidence. To compare any two designs alike, :func:`relative` counts instead what the
geometry says each has (multipliers, adders, registers, multiplexers) and weighs it with gate equivalents: an estimate
of ours, of low confidence, and only ever a ratio to the same 512 multiply-adds as a plain systolic array (D-1-1,
"RASA-SM").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from dse.domains.vegeta.program import Op, Program
from dse.domains.vegeta.registers import registers
from dse.spec.base import Spec
from dse.spec.fields import JoulesPerByte, JoulesPerFlop, Multiple

PICO = 1e-12
CACHE = 2.0 * 1024**2  # bytes of L2: of a server core of 2023, assumed; the published study's is not known


class Gates(Spec):
    """Size of the parts in gate equivalents (two-input NANDs): round textbook figures, low confidence.

    Attributes:
        multiplier: a BF16 x BF16 multiplier (8 x 8 bit significands).
        adder: an FP32 adder.
        latch: one bit of a pipeline register.
        select: one bit of one two-way choice; an M-way multiplexer has M − 1 of them.
    """

    multiplier: Multiple = 400.0
    adder: Multiple = 1200.0
    latch: Multiple = 6.0
    select: Multiple = 2.5


class Energies(Spec):
    """Energy of the operations. Ratios between engines are more to be trusted than joules.

    The defaults are of 45 nm at 0.9 V (Horowitz, ISSCC 2014: FP16 multiply 1.1 pJ, FP32 add 0.9 pJ; 64 bit out of an
    SRAM of 8 KB 10 pJ, of 1 MB 100 pJ, out of DRAM 1.3 to 2.6 nJ). Confidence: high that these are the published
    values, low that they fit an engine of another process: multiply the first four by what your process saves.

    Attributes:
        multiply: of two BF16 numbers; that of FP16, whose significand is longer, is taken.
        add: in FP32.
        tile_register: the tile register file of 8 KiB, as an SRAM of that size.
        l2: the cache that tiles are loaded from.
        dram: memory beyond, for each distinct byte once read and once written; the lower of the published values.
    """

    multiply: JoulesPerFlop = 1.1 * PICO
    add: JoulesPerFlop = 0.9 * PICO
    tile_register: JoulesPerByte = 10.0 / 8.0 * PICO
    l2: JoulesPerByte = 100.0 / 8.0 * PICO
    dram: JoulesPerByte = 1300.0 / 8.0 * PICO


GATES, ENERGIES = Gates(), Energies()


@dataclass(frozen=True)
class Parts:
    """What an array is made of; numbers, or arrays over designs.

    Attributes:
        multipliers, adders: units.
        inputs, weights, metadata, sums: bits of pipeline registers: the operands that travel east, the stationary
            weights and their positions (double-buffered), and the partial sums that travel south.
        selects: bits of two-way choices that pick an input by its position.
    """

    multipliers: Any
    adders: Any
    inputs: Any
    weights: Any
    metadata: Any
    sums: Any
    selects: Any

    def gates(self, gates: Gates = GATES) -> Any:
        """Gate equivalents together."""
        bits = self.inputs + self.weights + self.metadata + self.sums
        return (
            self.multipliers * gates.multiplier + self.adders * gates.adder + bits * gates.latch
            + self.selects * gates.select
        )  # fmt: skip


def parts(alpha: Any, beta: Any, *, block: Any = 4, sparse: Any = True, tile_m: Any = 16, tile_k: Any = 32) -> Parts:
    """Count the parts of an array of tile_m · tile_k multiply-adds; every argument may be an array.

    A PE has alpha units that share its inputs, and each unit beta multiply-adds. Its inputs are beta BF16 numbers, or
    beta whole blocks if it is sparse, out of which each multiply-add picks one. Each column has beta partial sums
    that beta − 1 adders below the array reduce. Output forwarding is wiring and counts nothing.

    Args:
        alpha: units of a PE, broadcast.
        beta: multiply-adds of a unit, reduction.
        block: M of N:M.
        sparse: whether inputs are picked by metadata.
        tile_m, tile_k: columns of units, and rows of multiply-adds.
    """
    alpha, beta, block = (np.asarray(x, dtype=float) for x in (alpha, beta, block))
    macs = np.asarray(tile_m, dtype=float) * tile_k
    wide = np.where(sparse, block, 1.0)
    bits = np.where(sparse, np.ceil(np.log2(np.maximum(wide, 1.0))), 0.0)
    return Parts(
        multipliers=macs,
        adders=macs + (beta - 1.0) * tile_m,
        inputs=macs / alpha * wide * 16.0,
        weights=2.0 * macs * 16.0,
        metadata=2.0 * macs * bits,
        sums=macs * 32.0,
        selects=macs * (wide - 1.0) * 16.0,
    )


def relative(
    alpha: Any, beta: Any, *, block: Any = 4, sparse: Any = True, tile_m: Any = 16, tile_k: Any = 32,
    gates: Gates = GATES,
) -> np.ndarray:  # fmt: skip
    """Estimated area, and power at full rate, against the array D-1-1 with 16 x 32 multiply-adds (arguments as
    `parts`).

    Power goes with area: all gates are taken to switch alike.
    """
    own = parts(alpha, beta, block=block, sparse=sparse, tile_m=tile_m, tile_k=tile_k)
    return own.gates(gates) / parts(1, 1, sparse=False).gates(gates)


def of_engine(engine: Any, gates: Gates = GATES) -> float:
    """Estimated relative area and power of one engine."""
    return float(
        relative(
            engine.alpha, engine.beta, block=engine.block, sparse=is_sparse(engine), tile_m=engine.tile_m,
            tile_k=engine.tile_k, gates=gates,
        )
    )  # fmt: skip


def per_mac(engine: Any, gates: Gates = GATES) -> float:
    """Estimated power of one multiply-add of an engine at full rate against D-1-1's: what :func:`energy` takes."""
    return of_engine(engine, gates) * 512.0 / (engine.tile_m * engine.tile_k)


def is_sparse(engine: Any) -> bool:
    """Whether an engine runs any pattern but the dense one."""
    return min(engine.patterns) < engine.block


@dataclass(frozen=True)
class Work:
    """What a program does, whatever engine of its geometry it runs on.

    Attributes:
        macs: multiply-adds that the array performs (padding included, pruned weights not).
        register_bytes: into and out of the tile registers.
        l2_bytes: that loads and stores move.
        dram_bytes: distinct bytes among them, read and written counted apart; partial sums as :func:`work` says.
        instructions: matrix instructions.
    """

    macs: float
    register_bytes: float
    l2_bytes: float
    dram_bytes: float
    instructions: float


COUNTS = tuple(field.name for field in fields(Work))


def work(program: Program, engine: Any, *, result: float | None = None, cache: float = CACHE) -> Work:
    """Count the work of a program: arithmetic, register traffic, and memory traffic.

    Args:
        program: of a kernel.
        engine: it runs on.
        result: bytes of C in whole tiles. A program that stores more has partial sums, which software adds up; where
            C fits the cache they stay there and C alone goes on, else all of them go to DRAM. By default all do.
        cache: bytes of L2.
    """
    r = registers(engine)
    op, width = np.asarray(program.op), np.asarray(program.width, dtype=float)
    moved = np.zeros(len(program))
    for kind, each in ((Op.LOAD, r.size), (Op.STORE, r.size)):
        moved = np.where(op == kind, width * each, moved)
    moved = np.where(op == Op.LOAD_M, r.metadata_size, moved)
    moved = np.where(op == Op.LOAD_RP, r.pattern_size, moved)
    gemm, spmm, rows = (op == kind for kind in (Op.GEMM, Op.SPMM, Op.SPMM_R))
    a, b, c = 2.0 * r.values, 2.0 * r.tile_k * r.tile_n, 4.0 * r.tile_m * r.tile_n
    used = gemm * (a + b + 2.0 * c) + spmm * (a + r.metadata_size + width * b + 2.0 * c)
    used = used + rows * (a + r.metadata_size + r.pattern_size + r.span_width * b + 2.0 * width * c)
    matrix = gemm | spmm | rows
    place = 2 * np.asarray(program.address)[moved > 0] + (op == Op.STORE)[moved > 0]
    _, first = np.unique(place, return_index=True)
    distinct = moved[moved > 0][first]
    read, stored = (float(distinct[place[first] % 2 == odd].sum()) for odd in (0, 1))
    if result is not None and result <= cache:
        stored = min(stored, result)
    return Work(
        macs=float(matrix.sum()) * r.values * r.tile_n,
        register_bytes=float(used.sum() + moved.sum()),
        l2_bytes=float(moved.sum()),
        dram_bytes=read + stored,
        instructions=float(matrix.sum()),
    )


def energy(work: Work | Mapping[str, Any], power: Any = 1.0, energies: Energies = ENERGIES) -> dict[str, Any]:
    """Energy by cause in J: ``engine``, ``registers``, ``l2``, ``dram``; arrays where the arguments are.

    Args:
        work: of :func:`work`, or a mapping with its fields as arrays over designs.
        power: relative power of the engine by multiply-add at full rate, as :func:`per_mac` estimates it or its file
            states: what its pipeline registers and multiplexers add to the arithmetic.
        energies: of the operations. Leakage is left out: nothing is known of it.
    """
    counts = work if isinstance(work, Mapping) else {field.name: getattr(work, field.name) for field in fields(work)}
    return {
        "engine": counts["macs"] * (energies.multiply + energies.add) * power,
        "registers": counts["register_bytes"] * energies.tile_register,
        "l2": counts["l2_bytes"] * energies.l2,
        "dram": counts["dram_bytes"] * energies.dram,
    }
