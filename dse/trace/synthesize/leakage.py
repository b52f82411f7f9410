"""How much an obfuscated trace says about the private one, under stated attacks."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dse.trace.columns import Trace, TraceSet
from dse.trace.synthesize.structure import restructure

if TYPE_CHECKING:
    from dse.trace.synthesize.privacy import Values

DECOYS, TRIALS = 15, 24
GRAPH_DECOYS, GRAPH_TRIALS, GRAPH_DRAWS = 7, 12, 4
SPREAD = (0.005, 0.5)  # of decoys around the source
MOST = 2000  # distinct values looked at
GRAM = 3


@dataclass(frozen=True)
class Leakage:
    """What is left to find out. Nothing here is a proof of privacy: it says what these attacks find.

    Attributes:
        names: share of the original texts (names, labels, streams, version) that survive.
        values: share of the distinct values (FLOP, bytes, durations, message sizes) that are told right by taking the
            original value next to the published one; ``values_chance``: by guessing.
        entropy, information: bits of a node's value, and how many of them its published value tells an attacker who
            knows all original values and the distribution of the noise (mutual information).
        sources: attack -> share of trials in which the private trace is found among candidates: itself and variants
            of it (like other versions of the same model), whose values or graphs differ by 0.5 ... 50 %. The attacker
            has all candidates and knows how much noise there is. ``sizes`` asks which candidates could have become
            what is published; ``sequences`` and ``degrees`` take the candidate that looks most like it once obfuscated
            alike, by counts of three successive kinds of nodes and by numbers of parents and children.
        chance: the same by guessing, for each attack.
        sizes, structure: noise as applied (less than asked for where time would have been wrong).
        time_error: relative error of simulated time; None where nothing could be simulated (``time_note`` says why).
        time_tolerance: what it was held to.
    """

    names: float
    values: float
    values_chance: float
    entropy: float
    information: float
    sources: dict[str, float]
    chance: dict[str, float]
    sizes: float
    structure: float
    time_error: float | None = None
    time_tolerance: float = 0.0
    time_note: str = ""
    strings: int = field(default=0, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        time = f"{self.time_error:.2%}" if self.time_error is not None else self.time_note or "not simulated"
        lines = [
            f"names that survive          {self.names:.1%} of {self.strings:,}",
            f"values told right           {self.values:.1%} (guessing: {self.values_chance:.1%})",
            f"what a value tells          {self.information:.2f} of {self.entropy:.2f} bits",
        ]
        for name, rate in self.sources.items():
            lines.append(f"found by {name:<18} {rate:.1%} of trials (guessing: {self.chance[name]:.1%})")
        lines.append(f"error of simulated time     {time} (allowed: {self.time_tolerance:.1%})")
        lines.append(f"noise                       sizes {self.sizes:.2%}, structure {self.structure:.2%}")
        return "\n".join(lines)


def measure(old: TraceSet, new: TraceSet, values: Values, sizes: float, structure: float, seed: int) -> Leakage:
    """Attack what is published."""
    from dse.trace.synthesize.privacy import strings

    rng = np.random.default_rng([seed, 5])
    before = strings(old)
    told, chance = _told(values)
    entropy, information = _information(values, sizes, rng)
    largest = max(old.classes, key=len)
    sources = {"sizes": _found_by_sizes(values, sizes, rng), **_found_by_graph(largest, structure, rng)}
    guess = {name: 1 / ((DECOYS if name == "sizes" else GRAPH_DECOYS) + 1) for name in sources}
    return Leakage(
        names=len(before & strings(new)) / max(len(before), 1),
        values=told,
        values_chance=chance,
        entropy=entropy,
        information=information,
        sources=sources,
        chance=guess,
        sizes=sizes,
        structure=structure,
        strings=len(before),
    )


def _told(values: Values) -> tuple[float, float]:
    """Share of distinct values whose original is the nearest of all, in logarithms; and 1 / number of values."""
    old = np.unique(values.old)
    if not len(old):
        return 0.0, 0.0
    edges = np.sqrt(old[1:]) * np.sqrt(old[:-1])
    nearest = old[np.searchsorted(edges, values.new)]
    return float(np.mean(nearest == values.old)), 1 / len(old)


def _few(values: Values, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Some of the distinct values, and the share of nodes that has each."""
    at = np.arange(len(values.old))
    if len(at) > MOST:
        at = np.sort(rng.choice(at, MOST, replace=False))
    old, place = np.unique(values.old[at], return_inverse=True)
    weight = np.bincount(place, weights=values.nodes[at])
    return old, weight / max(weight.sum(), 1.0)


def _information(values: Values, bound: float, rng: np.random.Generator) -> tuple[float, float]:
    """Entropy of a node's value X, and I(X; Y) = E log2 p(y | x) / p(y) of its published value Y, by drawing.

    The noise is taken as uniform within the bound.
    """
    old, share = _few(values, rng)
    if not len(old):
        return 0.0, 0.0
    entropy = float(-np.sum(share * np.log2(share)))
    if bound == 0:
        return entropy, entropy
    x = rng.choice(len(old), 1000, p=share)
    y = old[x] * (1 + rng.uniform(-bound, bound, len(x)))
    likely = (np.abs(y[:, None] / old - 1) <= bound * (1 + 1e-12)) / old  # p(y | x'), up to 1 / (2 bound)
    return entropy, float(np.mean(np.log2(1 / old[x] / (likely @ share))))


def _found_by_sizes(values: Values, bound: float, rng: np.random.Generator) -> float:
    """The best that an attacker can do who knows which value is which: all candidates that could have become what is
    published, within the bound in every value, are equally likely, so the source is found once in their number."""
    old, _ = _few(values, rng)
    found = 0.0
    for _ in range(TRIALS):
        published = 1 + rng.uniform(-bound, bound, len(old))
        spread = np.exp(rng.uniform(*np.log(SPREAD), (DECOYS, 1)))
        decoys = np.exp(rng.uniform(-spread, spread, (DECOYS, len(old))))
        could = (np.abs(published / decoys - 1) <= bound).all(axis=1)
        found += 1.0 / (1 + np.count_nonzero(could))
    return float(found / TRIALS)


def _found_by_graph(trace: Trace, share: float, rng: np.random.Generator) -> dict[str, float]:
    """How often the source is nearer to what is published than all variants, as they look when obfuscated alike."""
    spread = np.exp(rng.uniform(*np.log(SPREAD), GRAPH_DECOYS))
    candidates = [trace, *(restructure(trace, float(s), rng) for s in spread)]
    draws = GRAPH_DRAWS if share else 1
    expected = [[_profiles(restructure(one, share, rng)) for _ in range(draws)] for one in candidates]
    trials = [_profiles(restructure(trace, share, rng)) for _ in range(GRAPH_TRIALS if share else 1)]
    found = {}
    for name in trials[0]:
        means = np.array([np.mean([profile[name] for profile in profiles], axis=0) for profiles in expected])
        far = np.array([np.abs(trial[name] - means).sum(axis=1) for trial in trials])
        nearest = far <= far.min(axis=1, keepdims=True) + 1e-12
        found[name] = float(np.mean(nearest[:, 0] / nearest.sum(axis=1)))
    return found


def _profiles(trace: Trace) -> dict[str, NDArray[np.float64]]:
    """Counts of three successive kinds (in the order of identifiers), and of degrees, each as shares."""
    order = np.argsort(trace.ids, kind="stable")
    what = (trace.kind[order].astype(np.int64) + 8 * (trace.coll[order] + 1)) % 97
    grams = sum(what[i : len(what) - GRAM + 1 + i] * 97**i for i in range(GRAM)) if len(what) >= GRAM else what
    counts = np.bincount(np.asarray(grams) % 4093, minlength=4093)
    degrees = [np.bincount(np.minimum(np.diff(p), 63), minlength=64) for p in (trace.parents[0], trace.children[0])]
    return {"sequences": counts / max(counts.sum(), 1), "degrees": np.concatenate(degrees) / max(len(trace), 1)}
