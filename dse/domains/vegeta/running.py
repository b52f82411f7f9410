"""One product on one engine: which instructions it takes at a sparsity, how long, why, and what energy."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.domains.vegeta import cost, prune
from dse.domains.vegeta.check import fault, share, sizes
from dse.domains.vegeta.registers import registers
from dse.units import engineering

if TYPE_CHECKING:
    from dse.domains.vegeta.engine import Engine

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

    def __str__(self) -> str:
        joules = sum(self.energy.values())
        lines = [
            ("product", f"{self.m:,} x {self.k:,} (weights, {self.sparsity:.1%} zeros) times {self.k:,} x {self.n:,}"),
            ("engine", f"{self.engine}, running {self.pattern}"),
            ("instructions", f"{self.instructions:,}, {self.matrix_instructions:,} of them products of tiles"),
            ("time", f"{engineering(self.seconds, 's')}, {self.cycles:,.0f} engine cycles"),
            ("speed-up", f"{self.speedup:.3f} over dense on this engine"),
            ("utilisation", f"{self.utilisation:.1%} of the time the array is fed"),
            ("waiting", _shares(self.stalls, self.cycles)),
            ("energy", f"{engineering(joules, 'J')}: {_shares(self.energy, joules)}"),
        ]
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
    """Weights with all but the N largest of each block set to zero."""
    return a * prune.n_of_m(a, native(pattern, engine), block=engine.block)


def native(pattern: str, engine: Engine) -> int:
    """The N of ``"N:M"``.

    Raises:
        SpecError: if it is no N:M, M is not the engine's block, or the engine does not run N.
    """
    n, colon, block = pattern.partition(":")
    if not (colon and n.isdecimal() and block.isdecimal() and len(pattern) < 9):
        raise fault("pattern", repr(pattern), f"must be auto, {ROW_WISE}, or N:M such as 2:4")
    if int(block) != engine.block:
        raise fault("pattern", pattern, f"must have M = {engine.block}, the block of {engine.id}")
    registers(engine).width(int(n))
    return int(n)


def run(
    m: int, n: int, k: int, engine: Engine, *, a: np.ndarray | None = None, pattern: str = "auto",
    order: str = "matrix", accumulators: int = 3, energies: cost.Energies = cost.ENERGIES,
) -> Run:  # fmt: skip
    """Time C += A B; row-wise, and the dense kernel it is held against, C = A B.

    Args:
        m, n, k: rows of A, columns of B, columns of A.
        engine: an :class:`~dse.domains.vegeta.engine.Engine`.
        a: the weights [m, k], of which only the zeros matter; None: only ``pattern`` is known of them.
        pattern: ``N:M``; ``row-wise``; or ``auto``: the smallest N that every block keeps, or rows of different N if
            the engine has them and that is quicker.
        order: of the rows of a row-wise cover, see :mod:`dse.domains.vegeta.cover`.
        accumulators: tiles of C that share a tile of B.
        energies: of the operations.

    Raises:
        SpecError: a pattern that the engine does not run or the weights do not keep.
    """
    from dse.domains.vegeta.cover import pack, row_patterns
    from dse.domains.vegeta.kernels import gemm_program, row_wise_program
    from dse.domains.vegeta.timing import simulate

    sizes(m=m, n=n, k=k, accumulators=accumulators)
    if tiles_of(m, n, k, engine) > PRODUCTS:
        raise fault("m, n, k", f"{m}, {n}, {k}", f"must have at most {PRODUCTS:,} products of tiles")
    block = engine.block
    programs = {}
    least = block if a is None else int(row_patterns(a, engine.patterns, block, None).max())
    if pattern == ROW_WISE or (pattern == "auto" and engine.row_wise and least == block and a is not None):
        if a is None:
            raise fault("pattern", ROW_WISE, "needs weights: a matrix, or a sparsity")
        packed = pack(a, engine, order=order)  # type: ignore[arg-type]
        programs[ROW_WISE] = row_wise_program(packed, n, engine, accumulators=accumulators)[0]
    dense = gemm_program(m, n, k, engine, accumulators=accumulators)[0]
    if pattern != ROW_WISE:
        chosen = least if pattern == "auto" else native(pattern, engine)
        if a is not None and chosen < least:
            raise fault("pattern", pattern, f"is not kept by the weights, whose fullest block needs N = {least}")
        program = gemm_program(m, n, k, engine, pattern=chosen, accumulators=accumulators)[0]
        programs[f"{chosen}:{block}"] = dense if chosen == block else program
    timed = {name: simulate(program, engine) for name, program in programs.items()}
    name = min(timed, key=lambda key: timed[key].seconds)
    best, work = timed[name], cost.work(programs[name], engine)
    if name == ROW_WISE:  # its sums start at zero
        dense = gemm_program(m, n, k, engine, accumulators=accumulators, accumulate=False)[0]
    base = best if name == f"{block}:{block}" else simulate(dense, engine)
    given = 1.0 - native(name, engine) / block if a is None else prune.sparsity_of(a)
    waits = {cause: cycles for cause, cycles in best.parts.items() if cause != "busy"}
    return Run(
        m, n, k, engine.id, name, given, len(programs[name]), int(work.instructions), float(best.cycles),
        float(best.seconds), float(base.seconds / best.seconds), float(best.utilisation), waits,
        cost.energy(work, cost.per_mac(engine), energies),
    )  # fmt: skip


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
