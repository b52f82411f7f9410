"""Why designs side by side break rules: the sentences of each, with its numbers."""

from __future__ import annotations

from functools import lru_cache
from string import Formatter
from typing import Any

import numpy as np

from dse.explore.evaluate import RULES
from dse.space import rules
from dse.units import engineering


def reasons(evaluation: Any, count: int) -> list[str]:
    """Sentences of the rules that each of ``count`` designs side by side breaks, with its numbers."""
    texts: list[list[str]] = [[] for _ in range(count)]
    for rule in RULES if count else ():
        rows = np.flatnonzero(np.broadcast_to(np.less(evaluation[rule], 0), (count,)))
        if not len(rows):
            continue
        sentence = rules.texts()[rule]
        names = [name for _, name, _, _ in Formatter().parse(sentence) if name]
        written = [_written(evaluation, name, rows, count) for name in names]
        for position, row in enumerate(rows):
            numbers = {name: column[position] for name, column in zip(names, written, strict=True)}
            texts[row].append(sentence.format_map(numbers))
    return ["; ".join(found) for found in texts]


def _written(evaluation: Any, name: str, rows: np.ndarray, count: int) -> list[str]:
    """A quantity of some designs, as it stands in a sentence."""
    value = evaluation[name]
    if name != "tier_overflow":
        q = evaluation.graph.quantities.get(name)
        column = np.broadcast_to(value, (count,))[rows].tolist()
        return [_number(item, q.unit if q else "1") for item in column]
    tiers = {t: [np.broadcast_to(side, (count,))[rows].tolist() for side in pair] for t, pair in value.items()}
    return [
        "; ".join(
            f"{tier} memory needs {engineering(held[i], 'B')} of {engineering(capacity[i], 'B')}"
            for tier, (held, capacity) in tiers.items()
            if held[i] > capacity[i]
        )
        for i in range(len(rows))
    ]


@lru_cache(maxsize=4096)
def _number(value: Any, unit: str) -> str:
    return engineering(value, unit) if isinstance(value, int | float) else str(value)
