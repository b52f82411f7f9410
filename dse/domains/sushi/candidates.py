"""SubGraphs worth caching: parts of SubNets that fit the persistent buffer. The paper's own set is not known.

Kinds:
    cuts: each SubNet, its first layers as far as they fit.
    orders: a random SubNet, its layers taken in random order.
    shared: what all SubNets share, its first layers, and its last ones (which hold the most weights for their work).
    average: the mean of the SubNets, of random subsets of them later on, its layers in random order.
    greedy: what saves the most per byte for a mix of SubNets: each alone, all alike, random mixes later on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.domains.sushi import latency, sharing
from dse.domains.sushi.layers import Layers
from dse.domains.sushi.sharing import SubGraph
from dse.domains.sushi.supernet import SubNet, shortcuts_of, stack
from dse.errors import Fault, SpecError

if TYPE_CHECKING:
    from dse.domains.sushi.accelerator import SubGraphAccelerator

Named = Iterator[tuple[str, SubGraph]]
KINDS = ("cuts", "orders", "shared", "average", "greedy")
_SHARES = np.arange(1, 17) / 16  # of a layer's kernels that greedy considers
_TRIES = 50  # draws in a row that bring nothing new, before a kind is taken to be exhausted


def candidates(
    subnets: Sequence[SubNet],
    persistent_buffer: float,
    count: int,
    seed: int,
    *,
    kinds: Sequence[str] = KINDS,
    accelerator: SubGraphAccelerator | None = None,
) -> list[SubGraph]:
    """Up to ``count`` different SubGraphs that fit the buffer; see :func:`named_candidates`."""
    found = named_candidates(subnets, persistent_buffer, count, seed, kinds=kinds, accelerator=accelerator)
    return list(found.values())


def named_candidates(
    subnets: Sequence[SubNet],
    persistent_buffer: float,
    count: int,
    seed: int,
    *,
    kinds: Sequence[str] = KINDS,
    accelerator: SubGraphAccelerator | None = None,
) -> dict[str, SubGraph]:
    """Up to ``count`` different, non-empty SubGraphs that fit the buffer, by name; fewer where no more are found.

    Args:
        subnets: of one SuperNet.
        persistent_buffer: bytes.
        count: of SubGraphs; kinds take turns.
        seed: of the random ones.
        kinds: some of ``KINDS``, in the order of their turns.
        accelerator: for which ``greedy`` counts the seconds that are saved; without one, the bytes that hit.

    Raises:
        SpecError: an unknown kind, a count below 1, a negative buffer.
    """
    known = f"must be one of {', '.join(KINDS)}"
    faults = [Fault("kinds", repr(kind)[:60], known) for kind in kinds if kind not in KINDS]
    if not kinds:
        faults.append(Fault("kinds", "", f"must be one or more of {', '.join(KINDS)}"))
    if count < 1:
        faults.append(Fault("count", repr(count), "must be 1 or more"))
    if not persistent_buffer >= 0:
        faults.append(Fault("persistent_buffer", repr(persistent_buffer), "must be 0 bytes or more"))
    if faults:
        raise SpecError(faults)
    layers, names = stack(subnets), [subnet.name for subnet in subnets]
    makers: dict[str, Callable[[np.random.Generator], Named]] = {
        "cuts": lambda _: _cuts(layers, names, persistent_buffer),
        "orders": lambda random: _orders(layers, names, persistent_buffer, random),
        "shared": lambda _: _shared(layers, persistent_buffer),
        "average": lambda random: _averages(layers, persistent_buffer, random),
        "greedy": lambda random: _greedy(layers, names, persistent_buffer, random, accelerator, shortcuts_of(subnets)),
    }
    turns = {kind: makers[kind](np.random.default_rng([seed, KINDS.index(kind)])) for kind in dict.fromkeys(kinds)}
    found: dict[str, SubGraph] = {}
    seen: set[bytes] = {_key(_empty(layers))}
    while turns and len(found) < count:
        for kind in list(turns):
            fresh = _next(turns[kind], seen)
            if fresh is None:
                del turns[kind]
            elif len(found) < count:
                found[fresh[0]] = fresh[1]
    return found


def _next(turn: Named, seen: set[bytes]) -> tuple[str, SubGraph] | None:
    """The next SubGraph that nobody has made yet."""
    for _, (name, subgraph) in zip(range(_TRIES), turn, strict=False):
        key = _key(subgraph)
        if key not in seen:
            seen.add(key)
            return name, subgraph
    return None


def _key(subgraph: SubGraph) -> bytes:
    return np.stack(subgraph).astype(np.int64).tobytes()


def _empty(layers: Layers) -> SubGraph:
    return SubGraph(*(np.zeros(layers.k.shape[-1], dtype=np.int64) for _ in SubGraph._fields))


def _of(layers: Layers, i: int) -> SubGraph:
    return SubGraph(layers.k[i], layers.c[i], layers.r[i])


def _cuts(layers: Layers, names: list[str], budget: float) -> Named:
    for i, name in enumerate(names):
        yield f"cut {name}", sharing.truncated(_of(layers, i), budget)


def _orders(layers: Layers, names: list[str], budget: float, random: np.random.Generator) -> Named:
    number = 0
    while True:
        i, number = int(random.integers(len(names))), number + 1
        order = random.permutation(layers.k.shape[-1])
        yield f"order {number} {names[i]}", sharing.truncated(_of(layers, i), budget, order)


def _shared(layers: Layers, budget: float) -> Named:
    common = sharing.core(layers)
    yield "shared first", sharing.truncated(common, budget)
    yield "shared last", sharing.truncated(common, budget, np.arange(layers.k.shape[-1])[::-1])


def _averages(layers: Layers, budget: float, random: np.random.Generator) -> Named:
    count, slots = layers.k.shape
    yield "average", sharing.truncated(_average(layers, np.arange(count)), budget)
    number = 0
    while True:
        number += 1
        chosen = random.choice(count, int(random.integers(1, count + 1)), replace=False)
        order = random.permutation(slots)
        yield f"average {number}", sharing.truncated(_average(layers, chosen), budget, order)


def _average(layers: Layers, chosen: np.ndarray) -> SubGraph:
    """Mean kernels, channels and (odd or even as those it is the mean of) window of some SubNets, 0 where absent."""
    k, c, r = (np.rint(column[chosen].mean(axis=0)).astype(np.int64) for column in (layers.k, layers.c, layers.r))
    nearest = np.abs(layers.r[chosen] - r).argmin(axis=0)
    r = np.where(r > 0, np.take_along_axis(layers.r[chosen], nearest[None], axis=0)[0], 0)
    held = (k > 0) & (c > 0) & (r > 0)
    return SubGraph(*(np.where(held, column, 0) for column in (k, c, r)))


def _greedy(
    layers: Layers, names: list[str], budget: float, random: np.random.Generator, machine: SubGraphAccelerator | None,
    shortcuts: np.ndarray | None,
) -> Named:  # fmt: skip
    options, size, saved = _options(layers, machine, shortcuts)
    count = len(names)
    for name, mix in zip([*names, "all"], [*np.eye(count), np.full(count, 1 / count)], strict=True):
        yield f"greedy {name}", _packed(options, size, np.einsum("i,ios->os", mix, saved), budget)
    number = 0
    while True:
        number += 1
        mix = random.dirichlet(np.full(count, 0.5))
        yield f"greedy {number}", _packed(options, size, np.einsum("i,ios->os", mix, saved), budget)


def _options(
    layers: Layers, machine: SubGraphAccelerator | None, shortcuts: np.ndarray | None
) -> tuple[SubGraph, np.ndarray, np.ndarray]:
    """What may be cached of a slot, a share of some SubNet's kernels.

    Returns:
        SubGraphs [option, slot], their bytes [option, slot], and what they save each SubNet [i, option, slot].
    """
    k = np.floor(layers.k[:, None, :] * _SHARES[:, None]).astype(np.int64).reshape(-1, layers.k.shape[-1])
    c, r = (np.repeat(column, len(_SHARES), axis=0) for column in (layers.c, layers.r))
    options = SubGraph(k, np.where(k > 0, c, 0), np.where(k > 0, r, 0))
    hits = sharing.cached_weights(layers, options).astype(float)
    if machine is None:
        return options, options.weights, hits
    wide = Layers(*(column[:, None, :] for column in layers))
    added = None if shortcuts is None else shortcuts[:, None, :]
    bare, less = (latency.layer_times(machine, wide, cached, shortcuts=added).total for cached in (0.0, hits))
    return options, options.weights, bare - less


def _packed(options: SubGraph, size: np.ndarray, value: np.ndarray, budget: float) -> SubGraph:
    """One option a slot, by value per byte: the multiple-choice knapsack without its last fraction.

    Along the concave hull of a slot's options each step up has a value per byte below that of the step before, so that
    the steps of all slots can be taken in the order of that ratio. What is left goes to kernels of the next step.
    """
    steps = [step for slot in range(size.shape[1]) for step in _hull(size[:, slot], value[:, slot], slot)]
    steps.sort(key=lambda step: -step[0])
    chosen = [np.zeros(size.shape[1], dtype=np.int64) for _ in range(3)]
    left = float(budget)
    for _, slot, option in steps:
        k, c, r = (int(column[option, slot]) for column in options)
        held = int(chosen[0][slot] * chosen[1][slot] * chosen[2][slot] ** 2)
        kernels = min(k, int((left + held) // (c * r * r)))
        more = kernels * c * r * r - held
        alike = held == 0 or (chosen[1][slot] == c and chosen[2][slot] == r)
        if more <= 0 or (kernels < k and not alike):  # part of a step must add kernels, not trade them for channels
            continue
        left -= more
        for column, new in zip(chosen, (kernels, c, r), strict=True):
            column[slot] = new
    return SubGraph(*chosen)


def _hull(size: np.ndarray, value: np.ndarray, slot: int) -> list[tuple[float, int, int]]:
    """Steps along the upper concave hull of options from nothing: value per byte, slot, option."""
    hull: list[tuple[float, float, int]] = [(0.0, 0.0, -1)]
    for option in np.lexsort((-value, size)):
        x, y = float(size[option]), float(value[option])
        if x == hull[-1][0] or y <= hull[-1][1]:
            continue
        while len(hull) > 1 and _slope(hull[-2], (x, y)) >= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append((x, y, int(option)))
    return [(_slope(a, b), slot, b[2]) for a, b in pairwise(hull)]


def _slope(a: Sequence[Any], b: Sequence[Any]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])
