"""What nodes depend on: parents named by what they are and how long they have waited, not by their place.

Forward passes leave results that backward passes take last in, first out; pipelines and optimizers take them first in,
first out. So a parent is named by its token u and its place among the nodes of token u *that no node of the child's
token has used yet*: the newest of them is 0, the oldest -1; a node used before is named by how recent it is. Both
patterns then always read the same, however many layers or micro-batches there are.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dse.trace.synthesize.backoff import Backoff

NEWEST, OLDEST, AGAIN = 0, 1, 2
Reference = tuple[int, int, int, int]  # token of the parent, way of counting, count, 1 for a control dependence
Signature = tuple[Reference, ...]


class Waiting:
    """Nodes of one role by token, and which of them nodes of each token have used."""

    def __init__(self) -> None:
        self._seen: dict[int, list[int]] = defaultdict(list)
        self._unused: dict[tuple[int, int], list[int]] = defaultdict(list)
        self._known: dict[tuple[int, int], int] = defaultdict(int)

    def add(self, token: int, node: int) -> None:
        """A node more; nodes come in ascending order."""
        self._seen[token].append(node)

    def _pair(self, child: int, parent: int) -> tuple[list[int], list[int]]:
        seen, unused = self._seen[parent], self._unused[child, parent]
        unused.extend(seen[self._known[child, parent] :])
        self._known[child, parent] = len(seen)
        return seen, unused

    def name(self, child: int, parents: Iterable[tuple[int, int, int]]) -> Signature:
        """Parents (node, its token, 1 for control) of a node of token ``child``, the newest first."""
        out = []
        for node, token, control in sorted(parents, reverse=True):
            seen, unused = self._pair(child, token)
            at = bisect_left(unused, node)
            if at < len(unused) and unused[at] == node:
                newest, oldest = len(unused) - 1 - at, at
                out.append((token, NEWEST, newest, control) if newest <= oldest else (token, OLDEST, oldest, control))
                del unused[at]
            else:
                out.append((token, AGAIN, len(seen) - 1 - bisect_left(seen, node), control))
        return tuple(out)

    def find(self, child: int, signature: Signature) -> list[tuple[int, int]]:
        """(node, control) that a signature names; what is not there is left out."""
        out: dict[int, int] = {}
        for token, way, count, control in signature:
            seen, unused = self._pair(child, token)
            if way == AGAIN or not unused:
                node = seen[-1 - count] if count < len(seen) else -1
            else:
                count = min(count, len(unused) - 1)
                node = unused.pop(-1 - count if way == NEWEST else count)
            if node >= 0:
                out[node] = min(control, out.get(node, 1))
        return list(out.items())


@dataclass
class References:
    """Signatures given the child's token t and the last signature of a node of token t.

    A :class:`~dse.trace.synthesize.backoff.Backoff` of histories (last signature, t) and (t); below that references are
    independent: P(signature | t) = P(degree | t) prod P(token of parent | t) P(way, count) P(control).
    """

    signatures: list[Signature]
    model: Backoff
    degrees: dict[int, dict[int, int]] = field(default_factory=dict)
    parents: dict[int, dict[int, int]] = field(default_factory=dict)
    counted: dict[int, dict[int, int]] = field(default_factory=dict)  # way -> count -> times
    control: float = 0.5
    tokens: int = 0

    @classmethod
    def fit(cls, streams: Sequence[Sequence[tuple[int, Signature]]], tokens: int) -> References:
        """From the (token, signature) of each role's nodes in order."""
        known: dict[Signature, int] = {}
        pairs: list[tuple[tuple[int, ...], int]] = []
        degrees, parents, counted = defaultdict(Counter), defaultdict(Counter), defaultdict(Counter)
        controls = Counter()
        for stream in streams:
            last: dict[int, int] = {}
            for token, signature in stream:
                code = known.setdefault(signature, len(known))
                pairs.append(((last.get(token, -1), token), code))
                last[token] = code
                degrees[token][len(signature)] += 1
                for parent, way, count, control in signature:
                    parents[token][parent] += 1
                    counted[way][count] += 1
                    controls[control] += 1
        model = Backoff.of_pairs(pairs, 2, len(known), shortest=1)
        control = (controls[1] + 0.5) / (controls[0] + controls[1] + 1)
        tables = [{key: dict(found) for key, found in table.items()} for table in (degrees, parents, counted)]
        return cls(list(known), model, *tables, control, tokens)

    def __post_init__(self) -> None:
        self._code = {signature: code for code, signature in enumerate(self.signatures)}

    def log_likelihood(self, stream: Sequence[tuple[int, Signature]]) -> float:
        """Of one role's signatures given its tokens, in nats."""
        total, last = 0.0, {}
        for token, signature in stream:
            code = self._code.get(signature, len(self.signatures))
            base = math.exp(max(self.independent(token, signature), -700.0))
            total += math.log(
                max(self.model.probability((last.get(token, -1), token), code, lambda _, b=base: b), 1e-300)
            )
            last[token] = code
        return total

    def independent(self, token: int, signature: Signature) -> float:
        """Log-likelihood of a signature whose references are independent of each other, in nats."""
        degrees, parents = self.degrees.get(token, {}), self.parents.get(token, {})
        total = math.log(_smooth(degrees, len(signature)))
        for parent, way, count, control in signature:
            total += math.log((parents.get(parent, 0) + 0.1) / (sum(parents.values()) + 0.1 * (self.tokens + 1)))
            counts = self.counted.get(way, {})
            ways = sum(sum(found.values()) for found in self.counted.values())
            total += math.log((sum(counts.values()) + 0.5) / (ways + 1.5)) + math.log(_smooth(counts, count))
            total += math.log(self.control if control else 1 - self.control)
        return total

    def draw(self, token: int, last: int, rng: np.random.Generator) -> tuple[Signature, int]:
        """A signature and its code (-1: put together of independent references)."""
        code = self.model.draw((last, token), rng)
        if code >= 0:
            return self.signatures[code], code
        degrees, parents = self.degrees.get(token, {1: 1}), self.parents.get(token, {})
        if not parents:
            return (), -1
        out = []
        for _ in range(_pick(degrees, rng)):
            way = _pick({key: sum(found.values()) for key, found in self.counted.items()}, rng)
            control = int(rng.random() < self.control)
            out.append((_pick(parents, rng), way, _pick(self.counted[way], rng), control))
        return tuple(out), -1

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        tables = {name: getattr(self, name) for name in ("degrees", "parents", "counted")}
        return {"signatures": self.signatures, "model": self.model.to_dict(), "control": self.control,
                "tokens": self.tokens, **tables}  # fmt: skip

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> References:
        """What :meth:`to_dict` gave, after JSON."""
        signatures = [tuple(tuple(r) for r in signature) for signature in data["signatures"]]
        tables = [
            {int(key): {int(x): n for x, n in found.items()} for key, found in data[name].items()}
            for name in ("degrees", "parents", "counted")
        ]
        return cls(signatures, Backoff.from_dict(data["model"]), *tables, data["control"], data["tokens"])


def _smooth(counts: dict[int, int], value: int) -> float:
    """Share of a count, half a time more spread over all counts as 1/2, 1/4, ..."""
    return (counts.get(value, 0) + 0.5 ** min(value + 2, 1000)) / (sum(counts.values()) + 0.5)


def _pick(counts: dict[int, int], rng: np.random.Generator) -> int:
    at = rng.random() * sum(counts.values())
    for value, times in counts.items():
        at -= times
        if at < 0:
            return value
    return value
