"""The best strategy by exhaustive enumeration on named axes, in blocks that fit the cache."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from dse.cost.graph import Evaluation, Quantity
from dse.errors import Fault, InfeasibleDesign, SpecError
from dse.explore.evaluate import RULES, BoundAxis, bind_axes, feasible, load_specs, own_quantities, price, violations
from dse.explore.result import Result
from dse.space import rules
from dse.space.axes import with_value
from dse.space.enumerate import strategy_axes

BLOCK = 1 << 20  # designs evaluated at once: few enough for memory, many enough to hide the cost of calls
# Objectives: quantity and whether less is better.
OBJECTIVES = {
    "step_time": True,
    "tokens_per_s": False,
    "mfu": False,
    "cost": True,
    "energy": True,
    "carbon": True,
    "memory_bytes": True,
    "tokens_per_dollar": False,
    "tokens_per_joule": False,
}


@dataclass(frozen=True)
class Space:
    """Bound axes of an enumeration and the specifications they vary."""

    specs: Mapping[str, Any]
    axes: tuple[BoundAxis, ...]
    devices_given: bool = True
    replace: tuple[Quantity, ...] = ()

    @property
    def size(self) -> int:
        """Designs in the space, legal or not."""
        return int(np.prod([len(b.values) for b in self.axes], dtype=np.int64))

    def blocks(self, limit: int = BLOCK) -> Iterator[tuple[slice, ...]]:
        """Slices of the axes, outermost first, each of at most about ``limit`` designs."""
        inner, split = 1, len(self.axes)
        for position in range(len(self.axes) - 1, -1, -1):
            if inner * len(self.axes[position].values) > limit:
                break
            inner *= len(self.axes[position].values)
            split = position
        outer = [_pieces(len(b.values), 1) for b in self.axes[: max(split - 1, 0)]]
        if split > 0:
            outer.append(_pieces(len(self.axes[split - 1].values), max(limit // inner, 1)))
        for choice in product(*outer):
            yield (*choice, *(slice(0, len(b.values)) for b in self.axes[split:]))

    def evaluate(self, block: Sequence[slice]) -> Evaluation:
        """Price one block: every axis keeps its position, cut to its slice."""
        changed = dict(self.specs)
        count = len(self.axes)
        for position, (b, part) in enumerate(zip(self.axes, block, strict=True)):
            shape = [1] * count
            values = np.asarray(b.values)[part]
            shape[position] = len(values)
            changed[b.place.root] = with_value(changed[b.place.root], b.place.steps, values.reshape(shape))
        return price(changed, devices_given=self.devices_given, replace=self.replace)

    def strategy_at(self, index: Sequence[int]) -> dict[str, Any]:
        """Field values of one design."""
        return {b.name: b.values[i] for b, i in zip(self.axes, index, strict=True)}


@dataclass
class Found:
    """Outcome of an enumeration."""

    evaluated: int
    feasible: int
    best: list[tuple[float, tuple[int, ...]]]
    closest: tuple[int, tuple[int, ...]] | None = None


def _pieces(length: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def enumerate_space(space: Space, objective: str, *, top: int = 1, workers: int | None = None) -> Found:
    """Evaluate every design of a space and keep the ``top`` feasible ones.

    Ties are broken by position: the first design in the axes' order wins.
    """
    sign = 1.0 if OBJECTIVES[objective] else -1.0

    def run(block: tuple[slice, ...]) -> Found:
        return _run_block(space, block, objective, sign, top)

    workers = workers or min(os.cpu_count() or 1, 8)
    blocks = list(space.blocks())
    if workers == 1 or len(blocks) == 1:
        parts = map(run, blocks)
        return _joined(parts, top, sign)
    with ThreadPoolExecutor(workers) as pool:
        return _joined(pool.map(run, blocks), top, sign)


def _run_block(space: Space, block: tuple[slice, ...], objective: str, sign: float, top: int) -> Found:
    evaluation = space.evaluate(block)
    shape = tuple(part.stop - part.start for part in block)
    allowed = np.broadcast_to(np.asarray(feasible(violations(evaluation))), shape)
    count = int(np.prod(shape))
    good = int(np.count_nonzero(allowed))
    if not good:
        return Found(count, 0, [])
    score = np.where(allowed, sign * evaluation[objective], np.inf)
    flat = score.ravel()
    if top == 1:
        order = np.array([int(np.argmin(flat))])
    else:
        kept = min(top, good)
        limit = np.partition(flat, kept - 1)[kept - 1]
        order = np.flatnonzero(flat <= limit)
        order = order[np.argsort(flat[order], kind="stable")][:kept]
    found = []
    for position in order:
        inside = np.unravel_index(int(position), shape)
        index = tuple(int(i) + part.start for i, part in zip(inside, block, strict=True))
        found.append((sign * float(flat[position]), index))
    return Found(count, good, found)


def _joined(parts: Any, top: int, sign: float) -> Found:
    total = Found(0, 0, [])
    for part in parts:
        total.evaluated += part.evaluated
        total.feasible += part.feasible
        total.best = sorted([*total.best, *part.best], key=lambda item: (sign * item[0], item[1]))[:top]
    return total


class Best(Result):
    """The best design of an enumeration: a :class:`Result` that knows what it was chosen from."""

    strategy: dict[str, Any]
    evaluated: int
    feasible_count: int
    objective: str
    ranking: list[dict[str, Any]]

    def summary(self) -> dict[str, Any]:
        return {
            "strategy": self.strategy,
            "objective": self.objective,
            "evaluated": self.evaluated,
            "feasible_designs": self.feasible_count,
            **super().summary(),
        }

    def __repr__(self) -> str:
        chosen = ", ".join(f"{name}={str(value).lower()}" for name, value in self.strategy.items())
        return (
            f"best of {self.evaluated:,} strategies ({self.feasible_count:,} feasible) by {self.objective}\n"
            f"{chosen}\n\n{super().__repr__()}"
        )


def strategy_space(
    model: Any,
    cluster: Any,
    *,
    devices: int,
    global_batch: int,
    base: Any = None,
    options: Mapping[str, Sequence[Any]] | None = None,
) -> Space:
    """The space of strategies for a model on ``devices`` accelerators.

    Raises:
        SpecError: with every fault of the inputs.
    """
    fixed = _base_strategy(base)
    both = sorted(set(fixed) & {*(options or {}), "global_batch"})
    if both:
        raise SpecError([Fault(f"base.{both[0]}", str(fixed[both[0]])[:40], "is given elsewhere too; name it once")])
    specs = load_specs(model, cluster, {**fixed, "global_batch": global_batch}, devices)
    axes = strategy_axes(specs["model"], specs["cluster"], devices, global_batch, options, fixed)
    bound = bind_axes(specs, axes)
    loops = [b.name for b in bound if b.structural]
    if loops:
        raise SpecError([Fault(f"options.{loops[0]}", "", "changes the model's structure; give one value in base")])
    return Space(specs, tuple(bound))


def _base_strategy(base: Any) -> dict[str, Any]:
    from dse.spec import Strategy, parse_strategy

    if base is None:
        return {}
    if isinstance(base, Strategy):
        raise SpecError([Fault("base", "Strategy", "must be text or a mapping of the fields that stay fixed")])
    return parse_strategy(base) if isinstance(base, str) else dict(base)


def best(
    model: Any,
    cluster: Any,
    *,
    devices: int,
    global_batch: int,
    objective: str = "step_time",
    top: int = 5,
    base: Any = None,
    options: Mapping[str, Sequence[Any]] | None = None,
    workers: int | None = None,
    replace: Any = (),
) -> Best:
    """Find the best feasible strategy by evaluating all of them.

    Args:
        model, cluster: as for :func:`dse.estimate`.
        devices: number of accelerators; data parallelism follows from the other degrees.
        global_batch: samples per step.
        objective: ``step_time``, ``tokens_per_s``, ``mfu``, ``cost``, ``energy``, ``carbon``, ``memory_bytes``,
            ``tokens_per_dollar`` or ``tokens_per_joule``.
        top: how many runners-up to keep in ``ranking``.
        base: strategy fields that stay fixed (precision, attention, overlap, ...).
        options: values to try for any strategy field, instead of the defaults.
        workers: threads; by default one a core.
        replace: quantities of your own, as for :func:`dse.estimate`.

    Raises:
        SpecError: with every fault of the inputs.
        InfeasibleDesign: no strategy satisfies the rules; names the rules that fail.
    """
    if objective not in OBJECTIVES:
        raise SpecError([Fault("objective", repr(objective)[:40], f"must be one of {', '.join(OBJECTIVES)}")])
    if not isinstance(top, int) or not 1 <= top <= 10_000:
        raise SpecError([Fault("top", repr(top)[:40], "must be a whole number from 1 to 10,000")])
    space = strategy_space(model, cluster, devices=devices, global_batch=global_batch, base=base, options=options)
    space = dataclasses.replace(space, replace=own_quantities(replace))
    found = enumerate_space(space, objective, top=top, workers=workers)
    if not found.best:
        raise InfeasibleDesign(_why_none(space))
    chosen = space.strategy_at(found.best[0][1])
    specs = {**space.specs, "strategy": space.specs["strategy"].replace(**chosen)}
    result = Best(specs, [], devices_given=True, replace=space.replace)
    fixed = {name: getattr(specs["strategy"], name) for name in _base_strategy(base)}
    result.strategy = {**fixed, **chosen, "dp": int(result["data_parallel"].item()), "global_batch": global_batch}
    result.evaluated, result.feasible_count, result.objective = found.evaluated, found.feasible, objective
    result.ranking = [{objective: value, **space.strategy_at(index)} for value, index in found.best]
    return result


def _why_none(space: Space) -> str:
    """Which rules no design satisfies, and how near the nearest design in memory comes."""
    failing: dict[str, int] = dict.fromkeys(RULES, 0)
    nearest = -np.inf
    for block in space.blocks():
        evaluation = space.evaluate(block)
        margins = violations(evaluation)
        legal = feasible({name: m for name, m in margins.items() if name != "memory_fits"})
        if np.any(legal):
            memory = np.where(legal, margins["memory_fits"], -np.inf)
            nearest = max(nearest, float(np.max(memory)))
        for name, margin in margins.items():
            failing[name] += bool(np.any(np.greater_equal(margin, 0)))
    never = [name for name, count in failing.items() if count == 0]
    if np.isfinite(nearest):
        return (
            f"none of the {space.size:,} strategies fits in memory: the nearest legal one lacks "
            f"{-nearest / 1e9:.1f} GB per device; use more devices, more memory, offload or a smaller batch"
        )
    names = never or _tightest(space)
    plain = {name: re.sub(r" ?=? ?\{[^}]*\}[^ ,;]*", "", text) for name, text in rules.texts().items()}
    texts = "; ".join(f"{name}: {plain[name]}" for name in names) or "no design satisfies all rules at once"
    return f"none of the {space.size:,} strategies is legal: {texts}"[:1500]


def _tightest(space: Space) -> list[str]:
    """Rules without any one of which some design would be legal."""
    found: set[str] = set()
    for block in space.blocks():
        margins = violations(space.evaluate(block))
        for name in margins:
            rest = {other: margin for other, margin in margins.items() if other not in (name, "memory_fits")}
            if name not in found and np.any(feasible(rest)):
                found.add(name)
    return [name for name in RULES if name in found and name != "memory_fits"]
