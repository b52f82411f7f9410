"""One product on one engine: which instructions it takes at a sparsity, how long, why, and what energy."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.domains.vegeta import cost, prune
from dse.domains.vegeta.check import fault, share, sizes
from dse.domains.vegeta.registers import native as n_of
from dse.domains.vegeta.registers import registers
from dse.units import engineering

if TYPE_CHECKING:
    from dse.domains.vegeta.engine import Engine
    from dse.domains.vegeta.program import Program

ROW_WISE = "row-wise"
LARGEST = 1 << 28  # weights of a matrix that is made or read, 1 GiB in FP32
PRODUCTS = 10_000_000  # products of tiles in a kernel that is timed: some six gigabytes


@dataclass(frozen=True)
class Run:
    """A product and what it took.

    Attributes:
        m, n, k: its shape.
        engine: id of the engine.
        pattern: N:M or ``row-wise``, as it ran.
        sparsity: of the weights; of N:M alone, its 1 − N/M.
        instructions, matrix_instructions: of the kernel.
        cycles: of the engine's clock.
        seconds: the same as time.
        speedup: over the dense kernel on the same engine.
        utilisation: share of the time in which columns of B enter the array; padding counts as work.
        stalls: engine cycles in which no columns of B entered, by cause: fill, drain, and waits between.
        energy: joules by cause.
        accumulators: tiles of C (row-wise: groups of rows of C) in registers together, as it ran.
        notes: what a reader of the numbers must know: what was changed, what they leave out.
        name: of the layer, if it has one.
    """

    m: int
    n: int
    k: int
    engine: str
    pattern: str
    sparsity: float
    instructions: int
    matrix_instructions: int
    cycles: float
    seconds: float
    speedup: float
    utilisation: float
    stalls: dict[str, float]
    energy: dict[str, float]
    accumulators: int
    notes: tuple[str, ...] = ()
    name: str = ""

    def __str__(self) -> str:
        joules = sum(self.energy.values())
        layer = f"{self.name}: " if self.name else ""
        zeros = f"(weights, {self.sparsity:.1%} zeros)"
        lines = [
            ("product", f"{layer}{self.m:,} x {self.k:,} {zeros} times {self.k:,} x {self.n:,}"),
            ("engine", f"{self.engine}, running {self.pattern}"),
            ("instructions", f"{self.instructions:,}, {self.matrix_instructions:,} of them products of tiles"),
            ("time", f"{engineering(self.seconds, 's')}, {self.cycles:,.0f} engine cycles"),
            ("speed-up", f"{self.speedup:.3f} over dense on this engine"),
            ("utilisation", f"{self.utilisation:.1%} of the time the array is fed"),
            ("waiting", _shares(self.stalls, self.cycles)),
            ("energy", f"{engineering(joules, 'J')}: {_shares(self.energy, joules)}"),
        ]
        lines += [("note", note) for note in self.notes]
        return "\n".join(f"{name:<14}{text}" for name, text in lines)


def _shares(parts: dict[str, float], whole: float) -> str:
    named = sorted(((v, k) for k, v in parts.items() if v > 5e-4 * whole), reverse=True)
    return ", ".join(f"{name} {value / whole:.1%}" for value, name in named) or "none"


def weights(
    m: int, k: int, engine: Engine, pattern: str, *, sparsity: float | None = None, seed: int = 0
) -> np.ndarray | None:
    """Random weights [m, k] of a sparsity that fit a pattern; None where neither says that any weight is zero."""
    block = engine.block
    if sparsity is None and pattern in ("auto", f"{block}:{block}"):
        return None
    _fits_memory(m, k)
    a = prune.random(m, k, 0.0 if sparsity is None else sparsity, seed=seed)
    return a if pattern in ("auto", ROW_WISE) else pruned_to(a, pattern, engine)


def pruned_to(a: np.ndarray, pattern: str, engine: Engine) -> np.ndarray:
    """Weights with all but the N largest of each block set to zero.

    Raises:
        SpecError: a pattern that is no N:M, or that the engine does not run.
    """
    if pattern in ("auto", ROW_WISE):
        raise fault("pattern", pattern, "is nothing to prune to: give N:M such as 2:4")
    return a * prune.n_of_m(a, native(pattern, engine), block=engine.block)


def native(pattern: str, engine: Engine) -> int:
    """The N of ``"N:M"``.

    Raises:
        SpecError: if it is no N:M, M is not the engine's block, or the engine does not run N.
    """
    if ":" not in pattern:
        raise fault("pattern", repr(pattern), f"must be auto, {ROW_WISE}, or N:M such as 2:4")
    return n_of(pattern, registers(engine))


def kernels(
    m: int, n: int, k: int, engine: Engine, *, a: np.ndarray | None = None, pattern: str = "auto",
    order: str = "matrix", accumulators: int = 3,
) -> dict[str, Program]:  # fmt: skip
    """Instruction streams of a product, by N:M or ``row-wise``: two where ``auto`` has to time them (as :func:`run`).

    Raises:
        SpecError: a pattern that the engine does not run or the weights do not keep, or an unknown order.
    """
    from dse.domains.vegeta.cover import ORDERS, pack, row_patterns
    from dse.domains.vegeta.kernels import gemm_program, row_wise_program

    sizes(m=m, n=n, k=k, accumulators=accumulators)
    if order not in ORDERS:
        raise fault("order", repr(order), f"must be one of {', '.join(ORDERS)}")
    if tiles_of(m, n, k, engine) > PRODUCTS:
        raise fault("m, n, k", f"{m}, {n}, {k}", f"must have at most {PRODUCTS:,} products of tiles")
    block, programs = engine.block, {}
    least = block if a is None else int(row_patterns(a, engine.patterns, block, None).max())
    if pattern == ROW_WISE or (pattern == "auto" and engine.row_wise and least == block and a is not None):
        if a is None:
            raise fault("pattern", ROW_WISE, "needs weights: a matrix, or a sparsity")
        packed = pack(a, engine, order=order)  # type: ignore[arg-type]
        programs[ROW_WISE] = row_wise_program(packed, n, engine, accumulators=accumulators)[0]
    if pattern != ROW_WISE:
        chosen = least if pattern == "auto" else native(pattern, engine)
        if a is not None and chosen < least:
            raise fault("pattern", pattern, f"is not kept by the weights, whose fullest block needs N = {least}")
        programs[f"{chosen}:{block}"] = gemm_program(m, n, k, engine, pattern=chosen, accumulators=accumulators)[0]
    return programs


def run(
    m: int, n: int, k: int, engine: Engine, *, a: np.ndarray | None = None, pattern: str = "auto",
    order: str = "matrix", accumulators: int = 3, energies: cost.Energies = cost.ENERGIES, name: str = "",
) -> Run:  # fmt: skip
    """Time C += A B; row-wise, and the dense kernel it is held against, C = A B.

    Args:
        m, n, k: rows of A, columns of B, columns of A.
        engine: an :class:`~dse.domains.vegeta.engine.Engine`.
        a: the weights [m, k], of which only the zeros matter; None: only ``pattern`` is known of them.
        pattern: ``N:M``; ``row-wise``; or ``auto``: the smallest N that every block keeps or, where that is dense, rows
            of different N in ``order`` if the engine has them and that is quicker. Orders are not compared with each
            other: the times of ``panel`` and ``none`` lack the adding up of partial sums.
        order: of the rows of a row-wise cover, see :mod:`dse.domains.vegeta.cover`.
        accumulators: tiles of C that share a tile of B; fewer are taken where registers or tiles are fewer.
        energies: of the operations.
        name: of the layer.

    Raises:
        SpecError: as :func:`kernels`.
    """
    from dse.domains.vegeta.kernels import gemm_program
    from dse.domains.vegeta.timing import simulate

    block, result = engine.block, tiles_of(m, n, 1, engine) * 4.0 * engine.tile_m * engine.tile_n
    programs = kernels(m, n, k, engine, a=a, pattern=pattern, order=order, accumulators=accumulators)
    timed = {ran: simulate(program, engine) for ran, program in programs.items()}
    ran = min(timed, key=lambda key: timed[key].seconds)
    best, work = timed[ran], cost.work(programs[ran], engine, result=result)
    base = best
    if ran != f"{block}:{block}":  # the sums of row-wise kernels start at zero
        dense = gemm_program(m, n, k, engine, accumulators=accumulators, accumulate=ran != ROW_WISE)[0]
        base = simulate(dense, engine)
    given = 1.0 - native(ran, engine) / block if a is None else prune.sparsity_of(a)
    waits = {cause: cycles for cause, cycles in best.parts.items() if cause != "busy"}
    used = _accumulators(accumulators, m, n, engine, ran)
    return Run(
        m, n, k, engine.id, ran, given, len(programs[ran]), int(work.instructions), float(best.cycles),
        float(best.seconds), float(base.seconds / best.seconds), float(best.utilisation), waits,
        cost.energy(work, cost.per_mac(engine), energies), used, _notes(ran, order, accumulators, used, result), name,
    )  # fmt: skip


def _accumulators(asked: int, m: int, n: int, engine: Engine, ran: str) -> int:
    """Tiles of C, or groups of its rows, that are in registers together."""
    from dse.domains.vegeta.gemm import fitted
    from dse.domains.vegeta.rowwise import fitted_groups

    r = registers(engine)
    if ran == ROW_WISE:
        return fitted_groups(asked, r)
    return fitted(asked, -(-m // r.tile_m), -(-n // r.tile_n), r.width(native(ran, engine)), r)[0]


def _notes(ran: str, order: str, asked: int, used: int, result: float) -> tuple[str, ...]:
    notes = []
    if used != asked:
        notes.append(f"{asked} accumulators asked for, {used} taken: registers or tiles of C are fewer")
    if ran == ROW_WISE and order != "matrix":
        fits = result <= cost.CACHE
        place = "stay in L2" if fits else "go to DRAM"
        notes.append(
            f"partial sums of C {place}: C has {result / 2**20:.3g} MiB, L2 {cost.CACHE / 2**20:g} MiB; "
            "adding them up is in neither time nor energy"
        )
    return tuple(notes)


def pruned_more(found: Run, asked: float | None) -> Run:
    """A run, with a note if its N:M pruned more than the sparsity asked for."""
    if asked is None or found.pattern == ROW_WISE or found.sparsity < asked + 0.005:
        return found
    note = f"{asked:.1%} zeros asked for; {found.pattern} prunes to {found.sparsity:.1%}"
    return replace(found, notes=(*found.notes, note))


def tiles_of(m: int, n: int, k: int, engine: Engine) -> int:
    """Products of tiles in a dense kernel."""
    return -(-m // engine.tile_m) * -(-n // engine.tile_n) * -(-k // engine.tile_k)


@dataclass(frozen=True)
class Check:
    """How far a product on the machine is from NumPy's in double precision.

    Attributes:
        error: largest absolute difference.
        bound: what rounding in FP32 may amount to there: k · 2⁻²⁴ · Σ |a b|, doubled for good measure.
        equal: whether every element is within its bound.
    """

    error: float
    bound: float
    equal: bool

    def __str__(self) -> str:
        verdict = "within" if self.equal else "NOT within"
        return f"NumPy         differs by at most {self.error:.3g}, {verdict} FP32 rounding (there {self.bound:.3g})"


def check(a: np.ndarray, n: int, engine: Engine, pattern: str, *, order: str = "matrix", seed: int = 0) -> Check:
    """Run A times random B [k, n] on the functional machine and compare with NumPy on the same BF16 inputs."""
    from dse.domains.vegeta.bf16 import rounded
    from dse.domains.vegeta.kernels import matmul

    _fits_memory(a.shape[1], n)
    b = np.random.default_rng(seed).standard_normal((a.shape[1], n), dtype=np.float32)
    runs: Any = ROW_WISE if pattern == ROW_WISE else native(pattern, engine)
    own = matmul(a, b, engine, pattern=runs, order=order)  # type: ignore[arg-type]
    left, right = (rounded(x).astype(np.float64) for x in (a, b))
    differs = np.abs(own - left @ right)
    bound = 2.0 * a.shape[1] * 2.0**-24 * (np.abs(left) @ np.abs(right))
    worst = np.unravel_index(np.argmax(differs), differs.shape)
    return Check(float(differs[worst]), float(bound[worst]), bool(np.all(differs <= bound)))


def read_matrix(path: Path) -> np.ndarray:
    """Weights [m, k] from a ``.npy`` or ``.csv`` file (numbers separated by commas, a row a line), as float32.

    Raises:
        SpecError: the file cannot be read, or is no finite matrix.
    """
    try:
        if path.suffix.lower() == ".npy":
            a = np.load(path, mmap_mode="r", allow_pickle=False)
        elif path.suffix.lower() == ".csv":
            with warnings.catch_warnings(action="ignore"):  # an empty file is refused below
                a = np.loadtxt(path, delimiter=",", ndmin=2, dtype=np.float32)
        else:
            raise fault("matrix", path, "must end in .npy or .csv")
    except (OSError, ValueError, EOFError) as error:
        raise fault("matrix", path, f"cannot be read: {str(error)[:120]}") from None
    if a.ndim != 2 or not a.size or a.dtype.kind not in "fiub":
        raise fault("matrix", f"{a.dtype} {a.shape}", "must be a matrix of real numbers with rows and columns")
    _fits_memory(*a.shape)
    with np.errstate(over="ignore"):  # what float32 does not hold is refused below
        a = np.asarray(a, dtype=np.float32)
    if not np.all(np.isfinite(a)):
        raise fault("matrix", path, "must hold finite numbers, in the range of float32")
    return a


def prune_by_magnitude(a: np.ndarray, sparsity: float | None) -> np.ndarray:
    """Weights with the smallest magnitudes set to zero; as they are without a sparsity."""
    if sparsity is None:
        return a
    share("sparsity", sparsity)
    return a * prune.magnitude(a, sparsity)


def _fits_memory(m: int, k: int) -> None:
    if m * k > LARGEST:
        raise fault("matrix", f"{m} x {k}", f"must have at most {LARGEST:,} elements")


def to_dict(found: Run, checked: Check | None) -> dict[str, Any]:
    """A run, and what its check found, as plain data."""
    return asdict(found) | ({} if checked is None else {"check": asdict(checked)})
