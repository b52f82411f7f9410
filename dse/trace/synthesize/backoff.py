"""Sequences by their last symbols: a variable-order Markov model, interpolated over the orders."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Context = tuple[int, ...]
STYLED = 2
Base = Callable[[int], float]


@dataclass
class Backoff:
    """Interpolated absolute discounting (Ney, Essen and Kneser 1994) of all orders up to ``order``.

    With n(h, x) the times that x followed the history h, N(h) their sum and D(h) the number of different x,

        P(x | h) = max(n(h, x) - d_m, 0) / N(h) + d_m D(h) / N(h) P(x | h without its oldest symbol),

    m the length of h; below order 0 is ``base``, uniform if not given. The discounts are d_m = n1 / (n1 + 2 n2) of the
    counts of order m (times a pair was seen once and twice), kept within 0.05 ... 0.75.

    Texts can have a style, s. Where it is known, histories (s, h) of at least ``STYLED`` symbols come on top of all
    others: P(x | s, h) backs off to shorter h, and then to P(x | h) of all styles together.
    """

    order: int
    symbols: int  # size of the alphabet; one more is the unknown symbol
    counts: dict[Context, dict[int, int]] = field(default_factory=dict)
    discounts: list[float] = field(default_factory=list)
    shortest: int = 0  # shortest history that counts
    texts: list[list[int]] = field(default_factory=list)  # what :meth:`fit` counted, with their styles
    styles: list[int] = field(default_factory=list)

    @classmethod
    def fit(cls, texts: Sequence[Sequence[int]], order: int, symbols: int, styles: Sequence[int] = ()) -> Backoff:
        """Count all texts; each symbol is predicted from those before it in its text. Styles are 0, 1, ..."""
        counts: dict[Context, Counter[int]] = defaultdict(Counter)
        styles = list(styles) or [-1] * len(texts)
        for text, style in zip(texts, styles, strict=True):
            for at, symbol in enumerate(text):
                for length in range(min(order, at) + 1):
                    history = tuple(text[at - length : at])
                    counts[history][symbol] += 1
                    if style >= 0 and length >= STYLED:
                        counts[_styled(style, history)][symbol] += 1
        kept = {h: dict(found) for h, found in counts.items()}
        return cls(order, symbols, kept, _discounts(counts, order), texts=list(map(list, texts)), styles=styles)

    @classmethod
    def of_pairs(cls, pairs: Sequence[tuple[Context, int]], order: int, symbols: int, shortest: int = 0) -> Backoff:
        """Count symbols under given histories (oldest first), and under what is left without their oldest symbols."""
        counts: dict[Context, Counter[int]] = defaultdict(Counter)
        for context, symbol in pairs:
            for length in range(shortest, len(context) + 1):
                counts[context[len(context) - length :]][symbol] += 1
        return cls(order, symbols, {h: dict(found) for h, found in counts.items()}, _discounts(counts, order), shortest)

    def _levels(self, history: Sequence[int], style: int = -1) -> list[tuple[float, dict[int, int], int]]:
        """Of each known history, in the order of the sum above from its end: discount, counts and their sum."""
        tails = [tuple(history[len(history) - n :]) for n in range(self.shortest, min(self.order, len(history)) + 1)]
        found = [(self.counts.get(tail), len(tail)) for tail in tails]
        if style >= 0:
            found += [(self.counts.get(_styled(style, tail)), len(tail)) for tail in tails if len(tail) >= STYLED]
        return [(self.discounts[n], counts, sum(counts.values())) for counts, n in found if counts]

    def probability(self, history: Sequence[int], symbol: int, base: Base | None = None, style: int = -1) -> float:
        """P(symbol | history); the unknown symbol is ``self.symbols``."""
        p = base(symbol) if base else 1.0 / (self.symbols + 1)
        for discount, found, total in self._levels(history, style):
            p = max(found.get(symbol, 0) - discount, 0.0) / total + discount * len(found) / total * p
        return p

    def log_likelihood(self, text: Sequence[int], style: int = -1, start: int = 0) -> float:
        """Of a text from ``start`` on, in nats."""
        pairs = ((text[max(at - self.order, 0) : at], text[at]) for at in range(start, len(text)))
        return sum(math.log(self.probability(history, symbol, style=style)) for history, symbol in pairs)

    def draw(
        self, history: Sequence[int], rng: np.random.Generator, allowed: Collection[int] | None = None, style: int = -1
    ) -> int:
        """A symbol, among those ``allowed``; -1 where the draw goes below order 0 (or nothing seen is allowed)."""
        levels = self._levels(history, style)
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
        heads = {name: getattr(self, name) for name in ("order", "symbols", "shortest")}
        if self.texts:  # shorter than the counts, which say the same
            return {**heads, "texts": self.texts, "styles": self.styles}
        rows = [[list(context), list(found), list(found.values())] for context, found in self.counts.items()]
        return {**heads, "discounts": self.discounts, "counts": rows}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Backoff:
        """What :meth:`to_dict` gave."""
        if "texts" in data:
            return cls.fit(data["texts"], data["order"], data["symbols"], data["styles"])
        counts = {tuple(c): dict(zip(x, n, strict=True)) for c, x, n in data["counts"]}
        return cls(data["order"], data["symbols"], counts, data["discounts"], data["shortest"])


def _styled(style: int, history: Context) -> Context:
    return (-2 - style, *history)


def _discounts(counts: dict[Context, Counter[int]], order: int) -> list[float]:
    out = []
    for length in range(order + 1):
        seen = Counter(n for context, found in counts.items() if _length(context) == length for n in found.values())
        out.append(min(max(seen[1] / max(seen[1] + 2 * seen[2], 1), 0.05), 0.75))
    return out


def _length(context: Context) -> int:
    return len(context) - (bool(context) and context[0] <= -2)
