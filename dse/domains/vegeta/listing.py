"""Listings as files: read, made from a product, timed a product of tiles at a time, and executed on bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.domains.vegeta.check import fault
from dse.errors import Fault, SpecError

if TYPE_CHECKING:
    from dse.domains.vegeta.engine import Engine
    from dse.domains.vegeta.program import Program
    from dse.domains.vegeta.timing import Timing

LONGEST = 1 << 24  # bytes of a listing
LINES = 200_000  # instructions of a product that are listed
MEMORY = 1 << 30


def read(file: Path) -> tuple[Program, list[str]]:
    """The program of a listing file, and the file and line of each instruction.

    Raises:
        SpecError: the file cannot be read, or its faults by line.
    """
    from dse.domains.vegeta.asm import assemble, instructions

    try:
        if file.stat().st_size > LONGEST:
            raise fault("file", file, f"must have at most {LONGEST:,} bytes")
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise fault("file", file, f"cannot be read: {str(error)[:120]}") from None
    name = str(file)[-80:]
    return assemble(text, name=name), [f"{name}, line {number}" for number, _ in instructions(text)]


def of_product(
    m: int, n: int, k: int, engine: Engine, pattern: str, *, sparsity: float | None = None, seed: int = 0,
    **settings: Any,
) -> Program:  # fmt: skip
    """The kernel of a product, if it is short enough to be listed.

    Args:
        m, n, k: rows of A, columns of B, columns of A.
        engine: it runs on.
        pattern, sparsity, seed: of the weights, as :func:`dse.domains.vegeta.running.weights`.
        settings: of :func:`dse.domains.vegeta.running.kernels`.

    Raises:
        SpecError: a product that is too long, or a pattern that does not run.
    """
    from dse.domains.vegeta.running import kernels, tiles_of, weights
    from dse.domains.vegeta.timing import simulate

    if tiles_of(m, n, k, engine) > LINES:
        raise fault("m, n, k", f"{m}, {n}, {k}", f"must have at most {LINES:,} products of tiles to be listed")
    a = weights(m, k, engine, pattern, sparsity=sparsity, seed=seed)
    found = list(kernels(m, n, k, engine, a=a, pattern=pattern, **settings).values())
    return found[0] if len(found) == 1 else min(found, key=lambda program: simulate(program, engine).seconds)


def describe(program: Program, engine: Engine, *, timing: bool = False, places: Sequence[str] = ()) -> dict[str, Any]:
    """A program's listing, how long it takes in engine cycles and seconds and, if asked for, when each product runs.

    ``places`` are where the instructions stand, for messages.
    """
    from dse.domains.vegeta.asm import disassemble
    from dse.domains.vegeta.machine import check
    from dse.domains.vegeta.registers import registers
    from dse.domains.vegeta.timing import simulate

    try:
        check(program, MEMORY, registers(engine))
    except SpecError as error:
        raise SpecError([_at_line(f, places) for f in error.faults]) from None
    found = simulate(program, engine)
    lines = disassemble(program, block=engine.block).splitlines()
    answer: dict[str, Any] = {"engine": engine.id, "instructions": len(program), "listing": lines}
    answer |= {"cycles": float(found.cycles), "seconds": float(found.seconds)}
    if timing:
        answer["starts"] = _starts(program, found)
    return answer


def _at_line(found: Fault, places: Sequence[str]) -> Fault:
    """A fault of an instruction, where it stands in its file."""
    number = found.location.removeprefix("instruction ")
    if number.isdecimal() and int(number) < len(places):
        return Fault(found.path, found.value, found.rule, places[int(number)])
    return found


def execute(program: Program, engine: Engine, memory: Path | None) -> tuple[np.ndarray, int]:
    """Run a program on the bytes of a file (zeros without one).

    Returns:
        The memory afterwards (uint8), as long as the file and at least as long as the program reaches; and how many of
        its bytes changed.
    """
    from dse.domains.vegeta.machine import run
    from dse.domains.vegeta.registers import ROW, registers

    held = b""
    try:
        if memory is not None:
            if memory.stat().st_size > MEMORY:
                raise fault("memory", memory, f"must have at most {MEMORY:,} bytes")
            held = memory.read_bytes()
    except OSError as error:
        raise fault("memory", memory, f"cannot be read: {str(error)[:120]}") from None
    r = registers(engine)
    rows = np.maximum(program.width, 1) * max(r.size // ROW, 1)
    reach = int(np.max(program.address + program.stride * rows + max(r.metadata_size, ROW), initial=ROW))
    if reach > MEMORY:
        raise fault("address", f"{reach:,}", f"must lie in the first {MEMORY:,} bytes")
    space = np.zeros(max(reach, len(held)), dtype=np.uint8)
    space[: len(held)] = np.frombuffer(held, dtype=np.uint8)
    before = space.copy()
    run(program, space, engine)
    return space, int(np.count_nonzero(space != before))


def _starts(program: Program, found: Timing) -> list[dict[str, Any] | None]:
    """Of each product of tiles: when columns of B begin to enter, when C has left, and what it waited for."""
    from dse.domains.vegeta.pipeline import CAUSES

    rows: list[dict[str, Any] | None] = [None] * len(program)
    ends = found.stages()["DR"][1]
    for at, start, end, cause in zip(found.instruction, found.starts, ends, found.cause, strict=True):
        waited = CAUSES[cause] if cause >= 0 else "nothing"
        rows[at] = {"start": float(start), "end": float(end), "waits": waited}
    return rows


def text(found: dict[str, Any]) -> str:
    """What :func:`describe` found, an instruction a line; comments carry the timing, so that it assembles again."""
    starts = found.get("starts") or [None] * len(found["listing"])
    lines = [
        line if at is None else f"{line:<40}; {at['start']:g} to {at['end']:g}, waits for {at['waits']}"
        for line, at in zip(found["listing"], starts, strict=True)
    ]
    lines.append(f"; {found['instructions']:,} instructions on {found['engine']}: {found['cycles']:,.0f} engine cycles")
    if "changed" in found:
        lines.append(f"; executed: {found['changed']:,} bytes of memory changed")
    return "\n".join(lines)
