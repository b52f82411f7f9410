"""Sizes and durations, given what a node does: sizes repeat, so most of their probability is on values seen."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

EXACT = ("flops", "bytes", "size")  # and the priority, which is kept as it is
LEAST_SPREAD, LEAST_NOISE = 0.05, 0.01  # of logarithms
Sizes = tuple[float, float, float, float]  # relative logarithms, -inf for 0; then the priority


@dataclass
class Token:
    """Sizes and durations of the nodes of one token, relative to their trace set (logarithms).

    Attributes:
        seen: sizes, places in the text of each trace set that have them, mean logarithm of seconds (nan: no duration).
        novel: probability of sizes that were not seen (Good and Turing: nodes whose sizes were seen once, over nodes).
        changes: probability that a node has not the sizes of the node before it at the same place of the text.
        mean, spread: of the logarithms of FLOP, bytes, message bytes, seconds (normal, for what was not seen).
        noise: standard deviation of the logarithm of seconds among nodes of equal sizes.
    """

    seen: list[tuple[Sizes, dict[int, int], float]] = field(default_factory=list)
    novel: float = 0.5
    changes: float = 0.5
    mean: tuple[float, ...] = (math.nan,) * 4
    spread: tuple[float, ...] = (1.0,) * 4
    noise: float = 0.1

    def to_dict(self) -> dict[str, Any]:
        """For JSON, where what is not a number is null."""
        seen = [[[_json(x) for x in sizes], list(n.items()), _json(mean)] for sizes, n, mean in self.seen]
        mean = [_json(x) for x in self.mean]
        return {"seen": seen, "novel": self.novel, "changes": self.changes, "mean": mean, "spread": list(self.spread),
                "noise": self.noise}  # fmt: skip

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Token:
        """What :meth:`to_dict` gave, after JSON."""
        seen = [
            (tuple(-math.inf if x is None else x for x in sizes), dict(places), math.nan if mean is None else mean)
            for sizes, places, mean in data["seen"]
        ]
        mean = tuple(math.nan if x is None else x for x in data["mean"])
        return cls(seen, data["novel"], data["changes"], mean, tuple(data["spread"]), data["noise"])


def _json(x: float) -> float | None:
    return x if math.isfinite(x) else None


@dataclass
class Leaf:
    """The nodes of one token at one place of the text of one job (its number)."""

    token: int
    job: int
    sizes: NDArray[np.float64]  # [nodes, 4] relative
    seconds: NDArray[np.float64]  # [nodes, ranks] relative, nan for 0
    centres: tuple[float, float, float, float]  # what they are relative to


def relative(exact: NDArray[np.float64], seconds: NDArray[np.float64], centres: NDArray[np.float64]) -> tuple[Any, Any]:
    """Logarithms over the trace set's scales ([n, 4], see :meth:`Scale.centres`); nan for 0. [n, 4] and [n, ranks]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        sizes = np.log(exact[:, :3]) - centres[:, :3]
        times = np.log(seconds) - centres[:, 3:]
    sizes[~np.isfinite(sizes)] = np.nan
    times[~np.isfinite(times)] = np.nan
    return np.concatenate([np.round(sizes, 6), exact[:, 3:]], axis=1), times


def key_of(row: Sequence[float]) -> Sizes:
    """Sizes that can be compared, which nan cannot."""
    return tuple(-math.inf if value != value else value + 0.0 for value in row)  # type: ignore[return-value]


def fit(leaves: Sequence[Leaf], tokens: int) -> list[Token]:
    """The distributions of every token."""
    by_token: dict[int, list[Leaf]] = defaultdict(list)
    for leaf in leaves:
        by_token[leaf.token].append(leaf)
    return [_fit(by_token[token]) if token in by_token else Token() for token in range(tokens)]


def _fit(leaves: list[Leaf]) -> Token:
    places: dict[Sizes, Counter[int]] = defaultdict(Counter)
    nodes: Counter[Sizes] = Counter()
    times: dict[Sizes, list[float]] = defaultdict(list)
    changed = compared = 0
    for leaf in leaves:
        keys = [key_of(row) for row in leaf.sizes.tolist()]
        for key, row in zip(keys, leaf.seconds, strict=True):
            nodes[key] += 1
            times[key] += [x for x in row.tolist() if x == x]
        for key in dict.fromkeys(keys):
            places[key][leaf.job] += 1
        compared += len(keys) - 1
        changed += sum(a != b for a, b in pairwise(keys))
    total = sum(nodes.values())
    once = sum(n == 1 for n in nodes.values())
    means = {key: float(np.mean(found)) if found else math.nan for key, found in times.items()}
    rest = np.array([x - means[key] for key, found in times.items() for x in found])
    columns = [np.array([key[a] for key in nodes for _ in range(nodes[key])]) for a in range(3)]
    columns = [column[np.isfinite(column)] for column in columns] + [np.array([x for f in times.values() for x in f])]
    return Token(
        [(key, dict(n), means[key]) for key, n in places.items()],
        (once + 0.1) / (total + 1),
        (changed + 0.1) / (compared + 1),
        tuple(float(np.mean(c)) if len(c) else math.nan for c in columns),
        tuple(max(float(np.std(c)), LEAST_SPREAD) if len(c) else 1.0 for c in columns),
        max(float(np.sqrt(np.mean(rest**2))) if len(rest) else 0.0, LEAST_NOISE),
    )


def draw(token: Token, job: int, rng: np.random.Generator) -> tuple[Sizes, float]:
    """Sizes and the mean logarithm of seconds (nan: none), relative; of those of trace set ``job`` if it had any."""
    if token.seen and rng.random() >= token.novel:
        weights = np.array([places.get(job, 0) for _, places, _ in token.seen], float)
        if not weights.any():
            weights = np.array([sum(places.values()) for _, places, _ in token.seen], float)
        sizes, _, seconds = token.seen[int(rng.choice(len(weights), p=weights / weights.sum()))]
        return sizes, seconds
    z = rng.standard_normal(4)
    at = [m + s * x if m == m else -math.inf for m, s, x in zip(token.mean, token.spread, z.tolist(), strict=True)]
    priority = token.seen[0][0][3] if token.seen else 0.0
    return (at[0], at[1], at[2], priority), at[3] if math.isfinite(at[3]) else math.nan


def log_likelihood(token: Token, leaf: Leaf) -> tuple[float, float]:
    """Of a leaf's sizes (as whole numbers) and of its seconds (mean over ranks), in nats."""
    exact = timed = 0.0
    known = {sizes: (sum(places.values()), mean) for sizes, places, mean in token.seen}
    total = sum(places for places, _ in known.values())
    before: Sizes | None = None
    for row, times in zip(leaf.sizes.tolist(), leaf.seconds, strict=True):
        key = key_of(row)
        fresh = (1 - token.novel) * known[key][0] / total if key in known else 0.0
        fresh += token.novel * math.exp(max(_novel(token, key, leaf.centres), -600.0))
        again = 1.0 if before is None else token.changes
        exact += math.log(max(again * fresh + (1 - again) * (key == before), 1e-300))
        before = key
        found = times[times == times]
        mean = known[key][1] if key in known else token.mean[3]
        if len(found) and mean == mean:
            noise = token.noise if key in known else token.spread[3]
            timed += float(np.mean(_normal(found, mean, noise) - found - leaf.centres[3]))
        elif len(found):
            timed += float(np.mean(_normal(found, 0.0, 3.0) - found - leaf.centres[3])) + math.log(token.novel)
    return exact, timed


def _novel(token: Token, key: Sizes, centres: Sequence[float]) -> float:
    """Log-normal, rounded to whole numbers: the density at the value times 1."""
    out = 0.0
    for value, mean, spread, s in zip(key[:3], token.mean, token.spread, centres, strict=False):
        if (mean == mean) != math.isfinite(value):
            out -= 10.0  # a size where none was ever seen, or none where there always was one
        elif mean == mean:
            out += float(_normal(value, mean, spread)) - (value + s)
    return out


def _normal(x: Any, mean: float, spread: float) -> Any:
    return -0.5 * ((x - mean) / spread) ** 2 - math.log(spread * math.sqrt(2 * math.pi))
