"""Sequences by their last symbols: a variable-order Markov model, interpolated over the orders."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Context = tuple[int, ...]
Base = Callable[[int], float]


@dataclass
class Backoff:
    """Interpolated absolute discounting (Ney, Essen and Kneser 1994) of all orders up to ``order``.

    With n(h, x) the times that x followed the history h, N(h) their sum and D(h) the number of different x,

        P(x | h) = max(n(h, x) - d_m, 0) / N(h) + d_m D(h) / N(h) P(x | h without its oldest symbol),

    m the length of h; below order 0 is ``base``, uniform if not given. The discounts are d_m = n1 / (n1 + 2 n2) of the
    counts of order m (times a pair was seen once and twice), kept within 0.05 ... 0.95.
    """

    order: int
    symbols: int  # size of the alphabet; one more is the unknown symbol
    counts: dict[Context, dict[int, int]] = field(default_factory=dict)
    discounts: list[float] = field(default_factory=list)
    shortest: int = 0  # shortest history that counts

    @classmethod
    def fit(cls, texts: Sequence[Sequence[int]], order: int, symbols: int) -> Backoff:
        """Count all texts; each symbol is predicted from those before it in its text."""
        counts: dict[Context, Counter[int]] = defaultdict(Counter)
        for text in texts:
            for at, symbol in enumerate(text):
                for length in range(min(order, at) + 1):
                    counts[tuple(text[at - length : at])][symbol] += 1
        return cls(order, symbols, {h: dict(found) for h, found in counts.items()}, _discounts(counts, order))

    @classmethod
    def of_pairs(cls, pairs: Sequence[tuple[Context, int]], order: int, symbols: int, shortest: int = 0) -> Backoff:
        """Count symbols under given histories (oldest first), and under what is left without their oldest symbols."""
        counts: dict[Context, Counter[int]] = defaultdict(Counter)
        for context, symbol in pairs:
            for length in range(shortest, len(context) + 1):
                counts[context[len(context) - length :]][symbol] += 1
        return cls(order, symbols, {h: dict(found) for h, found in counts.items()}, _discounts(counts, order), shortest)

    def _levels(self, history: Sequence[int]) -> list[tuple[float, dict[int, int], int]]:
        """Of each known history, the shortest first: discount, counts and their sum."""
        out = []
        for length in range(self.shortest, min(self.order, len(history)) + 1):
            found = self.counts.get(tuple(history[len(history) - length :]))
            if found:
                out.append((self.discounts[length], found, sum(found.values())))
        return out

    def probability(self, history: Sequence[int], symbol: int, base: Base | None = None) -> float:
        """P(symbol | history); the unknown symbol is ``self.symbols``."""
        p = base(symbol) if base else 1.0 / (self.symbols + 1)
        for discount, found, total in self._levels(history):
            p = max(found.get(symbol, 0) - discount, 0.0) / total + discount * len(found) / total * p
        return p

    def log_likelihood(self, text: Sequence[int]) -> float:
        """Of a text, in nats."""
        return sum(math.log(self.probability(text[max(at - self.order, 0) : at], x)) for at, x in enumerate(text))

    def draw(self, history: Sequence[int], rng: np.random.Generator, allowed: Collection[int] | None = None) -> int:
        """A symbol, among those ``allowed``; -1 where the draw goes below order 0 (or nothing seen is allowed)."""
        levels = self._levels(history)
        while levels:
            discount, found, _ = levels.pop()
            kept = [(x, n - discount) for x, n in found.items() if allowed is None or x in allowed]
            mass = sum(n for _, n in kept)
            if mass <= 0:
                continue
            # What is not allowed drops out of both branches alike, so the odds of going on stay as they are.
            at = rng.random() * (mass + discount * len(kept))
            for symbol, weight in kept:
                at -= weight
                if at < 0:
                    return symbol
        return -1

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        rows = [[list(context), list(found), list(found.values())] for context, found in self.counts.items()]
        heads = {name: getattr(self, name) for name in ("order", "symbols", "discounts", "shortest")}
        return {**heads, "counts": rows}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Backoff:
        """What :meth:`to_dict` gave."""
        counts = {tuple(c): dict(zip(x, n, strict=True)) for c, x, n in data["counts"]}
        return cls(data["order"], data["symbols"], counts, data["discounts"], data["shortest"])


def _discounts(counts: dict[Context, Counter[int]], order: int) -> list[float]:
    out = []
    for length in range(order + 1):
        seen = Counter(n for context, found in counts.items() if len(context) == length for n in found.values())
        out.append(min(max(seen[1] / max(seen[1] + 2 * seen[2], 1), 0.05), 0.95))
    return out
