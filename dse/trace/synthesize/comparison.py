"""How good a learnt model is: held-out likelihood against simpler models, and samples against real traces."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dse.errors import DseError, Fault, SpecError
from dse.trace.columns import TraceSet
from dse.trace.synthesize import values
from dse.trace.synthesize.backoff import Backoff
from dse.trace.synthesize.fit import Reading, closings, read
from dse.trace.synthesize.job import describe
from dse.trace.synthesize.layout import Layout
from dse.trace.synthesize.model import START, TraceModel

if TYPE_CHECKING:
    import pandas as pd

WINDOW, WINDOWS = 64, 100  # tokens of a window, windows looked at on each side
PERMUTATIONS = 200
LEVEL = 0.05
SAME = 0.05  # logarithms of sizes are rounded to it: what differs by less counts as equal


@dataclass(frozen=True)
class Likelihood:
    """Mean log-likelihood of a held-out node in bits; higher is better. Densities can be above 0."""

    part: str
    model: str
    bits: float


@dataclass(frozen=True)
class Test:
    """A two-sample test of samples against held-out traces; ``statistic`` 0: alike, 1: nothing in common."""

    quantity: str
    method: str
    statistic: float
    p: float
    n: int
    m: int


@dataclass(frozen=True)
class Evidence:
    """What speaks for a model and what against it.

    Attributes:
        likelihood: of held-out traces, by part and model.
        tests: samples against held-out traces.
        time_ratio: simulated time per node of samples over that of held-out traces (median); nan: not simulated.
        unknown: share of held-out nodes with a token that was not learnt.
    """

    likelihood: tuple[Likelihood, ...]
    tests: tuple[Test, ...]
    time_ratio: float
    unknown: float

    @property
    def gain(self) -> float:
        """Bits per node by which the model's operators beat the best of the simpler models."""
        found = {row.model: row.bits for row in self.likelihood if row.part == "operators"}
        return found["model"] - max(bits for name, bits in found.items() if name != "model")

    @property
    def fails(self) -> tuple[str, ...]:
        """Quantities in which samples can be told from held-out traces at the 5 % level."""
        return tuple(test.quantity for test in self.tests if test.p < LEVEL)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "gain": self.gain, "fails": list(self.fails)}

    def to_pandas(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Likelihoods (part by model, bits per node) and tests."""
        import pandas as pd

        rows = pd.DataFrame([asdict(row) for row in self.likelihood])
        return rows.pivot(index="part", columns="model", values="bits"), pd.DataFrame([asdict(t) for t in self.tests])

    def __str__(self) -> str:
        lines = ["log-likelihood of held-out nodes [bits per node]"]
        for part in dict.fromkeys(row.part for row in self.likelihood):
            found = "  ".join(f"{row.model} {row.bits:.3f}" for row in self.likelihood if row.part == part)
            lines.append(f"  {part:<12} {found}")
        lines.append("samples against held-out traces")
        for test in self.tests:
            verdict = "differs" if test.p < LEVEL else "alike"
            lines.append(f"  {test.quantity:<14} {test.method} {test.statistic:.3f}  p {test.p:.3f}  {verdict}")
        lines.append(f"simulated time per node: samples / held-out {self.time_ratio:.3f}")
        lines.append(f"held-out nodes of unknown tokens: {self.unknown:.1%}")
        return "\n".join(lines)


def evidence(
    model: TraceModel, held_out: TraceSet | Sequence[TraceSet], *, samples: int = 4, seed: int = 0, system: Any = None
) -> Evidence:
    """Hold a model against traces that it was not learnt from.

    Sizes and durations are relative to each trace set's own scale, and count as equal within 5 %.
    Nodes of a loop are not independent, so the tests of Kolmogorov and Smirnov count each place in a loop's body once,
    and the test of sequences (maximum mean discrepancy of counts of 1, 2 and 3 successive tokens) permutes windows.

    Args:
        samples: drawn for each held-out set, with its number of ranks where the model can have it.
        system: what simulated time is taken on; None: a plain one.

    Raises:
        SpecError: nothing held out, or traces that cannot be executed.
    """
    sets = [held_out] if isinstance(held_out, TraceSet) else list(held_out)
    if not sets or samples < 1:
        raise SpecError([Fault("held_out", "", "at least one trace set and one sample are needed")])
    code_of = model.code_of()
    real = [read(describe(traces), code_of, grow=False) for traces in sets]
    drawn = [_drawn(model, len(traces), seed + k) for traces in sets for k in range(samples)]
    made = [read(describe(traces), code_of, grow=False) for traces in drawn]
    rng = np.random.default_rng(seed)
    symbols = [symbol for reading in real for stream in reading.streams for symbol, _ in stream]
    return Evidence(
        (*_operators(model, real), *_dependences(model, real), *_values(model, real)),
        tuple(_tests(real, made, rng)),
        _time_ratio(sets, drawn, system),
        sum(symbol > len(model.tokens) for symbol in symbols) / max(len(symbols), 1),
    )


def _drawn(model: TraceModel, ranks: int, seed: int) -> TraceSet:
    try:
        return model.sample(ranks=ranks, seed=seed)
    except SpecError:
        return model.sample(seed=seed)


def _operators(model: TraceModel, readings: list[Reading]) -> list[Likelihood]:
    """Bits per node of token sequences; every model has the same alphabet and one symbol for what it does not know."""
    nodes = sum(reading.job.nodes for reading in readings) * math.log(2)
    found: dict[str, float] = defaultdict(float)
    single = Backoff(0, model.plain.symbols, {(): model.plain.counts[()]}, model.plain.discounts[:1])
    marks = {-1: model.opens, -2: model.closes}
    for reading in readings:
        style = model.style_of(Layout.of(reading.job))
        text = [model.ends] * START + [marks.get(symbol, symbol) for symbol in reading.text] + [model.ends]
        found["model"] += model.text.log_likelihood(text, style, START)
        for context, count in closings(text, reading.counts, model.closes, style):
            p = model.loops.probability(context, count, base=lambda k: 0.3 * 0.7 ** min(k - 2, 500))
            found["model"] += math.log(max(p, 1e-300))
        plain = [*reading.plain, model.ends]
        found["order 1"] += model.plain.log_likelihood(plain)
        found["order 0"] += single.log_likelihood(plain)
        found["uniform"] -= len(plain) * math.log(model.plain.symbols + 1)
    return [Likelihood("operators", name, total / nodes) for name, total in found.items()]


def _dependences(model: TraceModel, readings: list[Reading]) -> list[Likelihood]:
    """Given the tokens. ``uniform``: any degree up to the largest learnt, any earlier node of the role."""
    nodes = sum(reading.job.nodes for reading in readings) * math.log(2)
    degrees: Counter[int] = Counter()
    for table in model.references.degrees.values():
        degrees.update(table)
    most = max(degrees, default=0) + 1
    found: dict[str, float] = defaultdict(float)
    for reading in readings:
        for stream in reading.streams:
            found["model"] += model.references.log_likelihood(stream)
            for at, (token, signature) in enumerate(stream):
                found["independent"] += model.references.independent(token, signature)
                found["uniform"] -= math.log(max(most, len(signature) + 1)) + len(signature) * math.log(max(at, 1))
    return [Likelihood("dependences", name, total / nodes) for name, total in found.items()]


def _values(model: TraceModel, readings: list[Reading]) -> list[Likelihood]:
    """Given the tokens. ``log-normal``: one for each kind of node."""
    kinds = _by_kind(model)
    exact: dict[str, float] = defaultdict(float)
    timed: dict[str, float] = defaultdict(float)
    count = 0
    for reading in readings:
        for leaf in reading.leaves:
            known = leaf.token < len(model.tokens)
            kind = kinds[model.tokens[leaf.token].kind] if known else kinds[None]
            count += len(leaf.sizes)
            for name, table in (("model", model.values[leaf.token] if known else kind), ("log-normal", kind)):
                sizes, seconds = values.log_likelihood(table, leaf)
                exact[name] += sizes
                timed[name] += seconds
    found = [("sizes", exact), ("durations", timed)]
    timeless = not any(np.isfinite(leaf.seconds).any() for reading in readings for leaf in reading.leaves)
    bits = max(count, 1) * math.log(2)
    return [
        Likelihood(part, name, total / bits)
        for part, totals in found
        if part == "sizes" or not timeless
        for name, total in totals.items()
    ]


def _by_kind(model: TraceModel) -> dict[int | None, values.Token]:
    """One log-normal for each kind of node, and for all (None)."""
    rows: dict[int | None, list[tuple[float, ...]]] = defaultdict(list)
    for token, table in zip(model.tokens, model.values, strict=True):
        for sizes, places, mean in table.seen:
            for key in (token.kind, None):
                rows[key] += [(*sizes[:3], mean)] * sum(places.values())
    out = {}
    for key, found in rows.items():
        columns = [column[np.isfinite(column)] for column in np.array(found).T]
        means = tuple(float(np.mean(c)) if len(c) else math.nan for c in columns)
        spreads = tuple(max(float(np.std(c)), values.LEAST_SPREAD) if len(c) else 1.0 for c in columns)
        out[key] = values.Token([], 1.0, 1.0, means, spreads)
    return out


def _tests(real: list[Reading], made: list[Reading], rng: np.random.Generator) -> list[Test]:
    out = []
    for name, column in (("FLOP", 0), ("bytes", 1), ("message size", 2), ("duration", 3)):
        out += _smirnov(name, _column(real, column), _column(made, column), _places(real), _places(made))
    for name in ("degree", "depth"):
        a, b = (np.concatenate([_shape(reading, name) for reading in side]) for side in (real, made))
        out += _smirnov(f"in-{name}" if name == "degree" else name, a, b, _places(real), _places(made))
    return [*out, _discrepancy(real, made, rng)]


def _column(readings: list[Reading], column: int) -> NDArray[np.float64]:
    """Relative logarithms, one for each place in a text."""
    parts = [
        leaf.sizes[:1, column] if column < 3 else leaf.seconds[:1, 0] for reading in readings for leaf in reading.leaves
    ]
    found = np.concatenate(parts) if parts else np.zeros(0)
    return np.rint(found[np.isfinite(found)] / SAME) * SAME


def _shape(reading: Reading, name: str) -> NDArray[np.float64]:
    found = np.array(getattr(reading, name), float)
    return found / max(found.max(initial=1.0), 1.0) if name == "depth" else found


def _places(readings: list[Reading]) -> int:
    return sum(len(reading.leaves) for reading in readings)


def _smirnov(name: str, a: NDArray[np.float64], b: NDArray[np.float64], most_a: int, most_b: int) -> list[Test]:
    """Largest distance of the two distribution functions, and its asymptotic p-value; none if both are empty."""
    if not len(a) and not len(b):
        return []
    if not len(a) or not len(b):
        return [Test(name, "KS", 1.0, 0.0, len(a), len(b))]
    at = np.unique(np.concatenate([a, b]))
    distance = np.abs(
        np.searchsorted(np.sort(a), at, side="right") / len(a) - np.searchsorted(np.sort(b), at, side="right") / len(b)
    ).max()
    n, m = min(len(a), most_a), min(len(b), most_b)
    root = math.sqrt(n * m / (n + m))
    x = (root + 0.12 + 0.11 / root) * distance
    p = 1.0 if x < 0.3 else 2 * sum((-1) ** (k - 1) * math.exp(-2 * (k * x) ** 2) for k in range(1, 101))
    return [Test(name, "KS", float(distance), min(max(p, 0.0), 1.0), n, m)]


def _discrepancy(real: list[Reading], made: list[Reading], rng: np.random.Generator) -> Test:
    """Maximum mean discrepancy of windows' counts of successive tokens, Gaussian kernel of the median distance."""
    sides = [_windows(side, rng) for side in (real, made)]
    known: dict[tuple[int, ...], int] = {}
    rows = []
    for window in [*sides[0], *sides[1]]:
        grams = Counter(tuple(window[i : i + k]) for k in (1, 2, 3) for i in range(len(window) - k + 1))
        rows.append({known.setdefault(gram, len(known)): n for gram, n in grams.items()})
    table = np.zeros((len(rows), len(known)))
    for at, row in enumerate(rows):
        table[at, list(row)] = list(row.values())
    table /= np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
    squares = np.maximum(2 - 2 * table @ table.T, 0.0)
    kernel = np.exp(-squares / max(float(np.median(squares)), 1e-3))
    n = len(sides[0])

    def discrepancy(order: NDArray[np.int64]) -> float:
        a, b = order[:n], order[n:]
        return float(kernel[np.ix_(a, a)].mean() + kernel[np.ix_(b, b)].mean() - 2 * kernel[np.ix_(a, b)].mean())

    own = discrepancy(np.arange(len(rows)))
    others = [discrepancy(rng.permutation(len(rows))) for _ in range(PERMUTATIONS)]
    p = (1 + sum(other >= own - 1e-12 for other in others)) / (PERMUTATIONS + 1)
    return Test("sequences", "MMD", own, p, n, len(rows) - n)


def _windows(readings: list[Reading], rng: np.random.Generator) -> list[list[int]]:
    found = []
    for reading in readings:
        for stream in reading.streams:
            tokens = [token for token, _ in stream]
            found += [tokens[at : at + WINDOW] for at in range(0, max(len(tokens) - WINDOW // 2, 1), WINDOW)]
    if len(found) <= WINDOWS:
        return found
    return [found[at] for at in sorted(rng.choice(len(found), WINDOWS, replace=False).tolist())]


def _time_ratio(sets: list[TraceSet], drawn: list[TraceSet], system: Any) -> float:
    """Simulated time per node of the longest rank: samples over held-out."""
    from dse.simulate import simulate
    from dse.trace.synthesize.privacy import reference, tiers_of

    def per_node(traces: TraceSet) -> float:
        try:
            time = simulate(traces, system or reference(len(traces), tiers_of(traces)), record=False).time
        except DseError:
            return math.nan
        return time / max(len(trace) for trace in traces.classes)

    real, made = ([x for x in map(per_node, side) if x == x] for side in (sets, drawn))
    return float(np.median(made) / np.median(real)) if real and made and np.median(real) else math.nan
