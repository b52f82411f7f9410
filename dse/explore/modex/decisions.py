"""Decisions that measurements are made for, and what a wrong one costs.

A decision has options in groups; of every group one option is taken, the one of least expected loss. An option's loss
depends on one quantity: the logarithm of a row's value, or the difference of two. Losses are logarithms too, so a
regret of 0.01 is 1 % of what the best option costs, whatever the unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dse.errors import Fault, SpecError

Array = np.ndarray


@dataclass(frozen=True)
class Decision:
    """Options, by group.

    Args:
        names: of the options, (options,).
        rows: candidate whose value the option depends on, (options,); −1 where on none.
        group: of each option, from 0, (options,).
        tolerance: a mean regret over the groups up to this is the same decision, in logarithms.
        against: candidate whose value is subtracted (logarithms), (options,); −1 where none is.
    """

    names: tuple[str, ...]
    rows: Array
    group: Array
    tolerance: float = 0.01
    against: Array = field(default_factory=lambda: np.zeros(0, int))

    def __post_init__(self) -> None:
        if not len(self.against):
            object.__setattr__(self, "against", np.full(len(self.rows), -1))

    @property
    def groups(self) -> int:
        """Options that are taken."""
        return int(self.group.max()) + 1

    def loss(self, value: Array) -> Array:
        """Of every option where its quantity is known, (..., options)."""
        raise NotImplementedError

    def expected(self, mean: Array, variance: Array) -> Array:
        """Expected loss where the quantity is normal, (..., options)."""
        raise NotImplementedError

    def quantity(self, logarithms: Array) -> Array:
        """What the options depend on, from logarithms of the rows' values: (..., rows) to (..., options)."""
        first = np.where(self.rows < 0, 0.0, logarithms[..., np.maximum(self.rows, 0)])
        return first - np.where(self.against < 0, 0.0, logarithms[..., np.maximum(self.against, 0)])

    def least(self, loss: Array) -> Array:
        """Least loss of every group, (..., options) to (..., groups)."""
        order, starts = self._blocks()
        return np.minimum.reduceat(loss[..., order], starts, axis=-1)

    def take(self, loss: Array) -> Array:
        """The option of least loss of every group, (options,) to (groups,); the first of equals."""
        order = np.lexsort((np.arange(len(loss)), loss, self.group))
        return order[np.searchsorted(self.group[order], np.arange(self.groups))]

    def regret(self, taken: Array, loss: Array) -> Array:
        """Mean over the groups of what the options taken lose against the best, (..., options) to (...)."""
        return np.mean(loss[..., taken] - self.least(loss), axis=-1)

    def of(self, options: Array) -> Decision:
        """The same losses for some of the options."""
        whole = {k: v for k, v in vars(self).items() if isinstance(v, np.ndarray) and len(v) == len(self.rows)}
        part = {k: v[options] for k, v in whole.items()}
        return replace(self, names=tuple(self.names[i] for i in options), **part)

    def _blocks(self) -> tuple[Array, Array]:
        order = np.argsort(self.group, kind="stable")
        return order, np.searchsorted(self.group[order], np.arange(self.groups))

    def text(self, taken: Array, most: int = 6) -> str:
        """The options taken, in words."""
        shown = ", ".join(self.names[i] for i in taken[:most])
        return shown + (f", and {len(taken) - most} more" if len(taken) > most else "")


@dataclass(frozen=True)
class Lowest(Decision):
    """The option with the least (or, with ``sign`` −1, greatest) value times a weight; loss: its logarithm.

    Args:
        weight: logarithm of the weight, (options,), such as nodes times price where the value is a time.
    """

    weight: Array = field(default_factory=lambda: np.zeros(0))
    sign: int = 1

    def loss(self, value: Array) -> Array:
        return self.sign * value + (self.weight if len(self.weight) else 0.0)

    def expected(self, mean: Array, variance: Array) -> Array:
        return self.loss(mean)


@dataclass(frozen=True)
class Cheapest(Decision):
    """The cheapest option whose value meets a target; the last option of a group is that none does.

    Who takes an option that misses pays for it, and for the dearest one as well: loss log(cost), or
    log(cost + dearest). That none meets costs the dearest and half the cheapest, so it is right only where it is true.

    Args:
        cost: of each option, (options,); of the last, "none", what that answer costs.
        dearest: cost of the dearest of the option's group, (options,).
        target: logarithm of the value to meet, (options,).
        sign: 1 where the value must be at most the target, −1 where at least.
    """

    cost: Array = field(default_factory=lambda: np.zeros(0))
    dearest: Array = field(default_factory=lambda: np.zeros(0))
    target: Array = field(default_factory=lambda: np.zeros(0))
    sign: int = 1

    def loss(self, value: Array) -> Array:
        missed = (self.sign * (value - self.target) > 0) & (self.rows >= 0)
        return np.log(self.cost + missed * self.dearest)

    def expected(self, mean: Array, variance: Array) -> Array:
        from scipy.special import ndtr

        deviation = np.sqrt(np.maximum(variance, 1e-18))
        missed = ndtr(self.sign * (mean - self.target) / deviation) * (self.rows >= 0)
        return np.log(self.cost) + missed * (np.log(self.cost + self.dearest) - np.log(self.cost))


@dataclass(frozen=True)
class Ranking(Decision):
    """The order of rows by value: for every pair which comes first; loss: the logarithm of their ratio if wrong."""

    def loss(self, value: Array) -> Array:
        return np.maximum(value, 0.0)

    def expected(self, mean: Array, variance: Array) -> Array:
        from scipy.special import ndtr

        deviation = np.sqrt(np.maximum(variance, 1e-18))
        z = mean / deviation
        return mean * ndtr(z) + deviation * np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)


def lowest(
    names: Sequence[str], group: Sequence[object] | None = None, weight: Sequence[float] | None = None, *,
    greatest: bool = False, tolerance: float = 0.01, rows: Sequence[int] | None = None,
) -> Lowest:  # fmt: skip
    """Which row has the least value, of all or of each group.

    Args:
        names: of the rows, (rows,); group: of each row; weight: factor of each value (price, nodes).
        rows: candidates that are options; all by default. ``group`` and ``weight`` are those of the options.
    """
    which = np.arange(len(names)) if rows is None else np.asarray(rows, int)
    factor = np.zeros(0) if weight is None else _logarithm("weight", weight)
    return Lowest(
        tuple(str(names[i]) for i in which), which, _numbered(group, len(which)), tolerance, weight=factor,
        sign=-1 if greatest else 1,
    )  # fmt: skip


def cheapest(
    names: Sequence[str], cost: Sequence[float], target: float | Sequence[float], *, at_least: bool = False,
    group: Sequence[object] | None = None, against: int | None = None, tolerance: float = 0.01,
) -> Cheapest:  # fmt: skip
    """Which row of least cost meets a target with its value, of all or of each group; or that none does.

    Args:
        names: of the rows, (rows,); cost: of taking each, such as its nodes; target: one for all or one a row.
        at_least: the value must reach the target (a throughput), not stay below it (a time).
        against: a row; the target is then for the ratio of a row's value to that row's.
    """
    own, price = _numbered(group, len(names)), np.exp(_logarithm("cost", cost))
    aim = np.broadcast_to(_logarithm("target", target), price.shape)
    kinds = np.arange(own.max() + 1)
    dearest = np.array([price[own == k].max() for k in kinds])
    none = dearest + 0.5 * np.array([price[own == k].min() for k in kinds])
    over = np.full(len(names) + len(kinds), -1)
    if against is not None:
        over[: len(names)] = against
    return Cheapest(
        (*map(str, names), *["none"] * len(kinds)), np.concatenate([np.arange(len(names)), np.full(len(kinds), -1)]),
        np.concatenate([own, kinds]), tolerance, over, cost=np.concatenate([price, none]),
        dearest=np.concatenate([dearest[own], dearest]), target=np.concatenate([aim, np.zeros(len(kinds))]),
        sign=-1 if at_least else 1,
    )  # fmt: skip


def ranking(names: Sequence[str], rows: Sequence[int] | None = None, *, tolerance: float = 0.01) -> Ranking:
    """The order of rows, least value first."""
    which = np.arange(len(names)) if rows is None else np.asarray(rows, int)
    if len(which) < 2:
        raise SpecError([Fault("decision.rows", str(len(which)), "a ranking needs at least 2 rows")])
    a, b = np.triu_indices(len(which), 1)
    first, second = np.stack([which[a], which[b]], 1).ravel(), np.stack([which[b], which[a]], 1).ravel()
    text = tuple(f"{names[i]} < {names[j]}" for i, j in zip(first, second, strict=True))
    return Ranking(text, first, np.repeat(np.arange(len(a)), 2), tolerance, second)


def _numbered(group: Sequence[object] | None, size: int) -> Array:
    if group is None:
        return np.zeros(size, int)
    if len(group) != size:
        raise SpecError([Fault("decision.group", str(len(group)), f"must have one entry an option ({size})")])
    return np.unique(np.asarray(group).astype(str), return_inverse=True)[1].reshape(-1)


def _logarithm(name: str, values: object) -> Array:
    array = np.asarray(values, float)
    if not (np.isfinite(array).all() and (array > 0).all()):
        raise SpecError([Fault(f"decision.{name}", str(values)[:40], "must be positive and finite")])
    return np.log(array)
