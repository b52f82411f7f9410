"""Networks of a SuperNet that no other beats in both accuracy and cost."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from dse.domains.sushi.layers import Layers
from dse.domains.sushi.supernet import Config, SubNet, SuperNet
from dse.errors import Fault, SpecError
from dse.spec.catalogue import asset_root

Accuracy = Callable[[Config, Layers], np.ndarray]
"""Top-1 as a fraction [n] of configurations and their layers [n, slot]."""
Cost = Callable[[Layers], np.ndarray]
"""What a network costs [n], of its layers [n, slot]: seconds, bytes, anything of which less is better."""

COSTS: dict[str, Cost] = {
    "macs": lambda layers: layers.macs.sum(axis=-1),
    "weights": lambda layers: layers.weights.sum(axis=-1),
}


class Curve(NamedTuple):
    """Top-1 accuracy over the logarithm of multiply-adds, a parabola through published networks.

    Attributes:
        coefficients: of the square, the logarithm and the constant.
        low, high: multiply-adds of the smallest and the largest of the networks; the curve is level outside.
        deviation: standard deviation of the networks from the curve.
    """

    coefficients: tuple[float, float, float]
    low: float
    high: float
    deviation: float

    def __call__(self, macs: Any) -> np.ndarray:
        return np.polyval(self.coefficients, np.log(np.clip(macs, self.low, self.high)))


@lru_cache
def published_curve(family: str) -> Curve:
    """The curve of the networks that Once-for-All published in the ``resnet`` or ``mobilenet`` space.

    Least squares over 8 and 34 networks. Most of them were tuned by themselves after they had been cut out of the
    SuperNet, and the mobile ones are of two widths: what shared weights reach is lower, by an amount not published.
    """
    with (asset_root("data") / "sushi" / "once-for-all.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["space"] == family]
    macs = np.array([float(row["macs_millions"]) * 1e6 for row in rows])
    top1 = np.array([float(row["top1_percent"]) / 100 for row in rows])
    coefficients = np.polyfit(np.log(macs), top1, 2)
    deviation = float(np.std(top1 - np.polyval(coefficients, np.log(macs))))
    return Curve(tuple(coefficients.tolist()), float(macs.min()), float(macs.max()), deviation)


def published_accuracy(supernet: SuperNet) -> Accuracy:
    """Accuracy as :func:`published_curve` tells it from the multiply-adds of the whole network, uncounted parts too.

    To it all networks of the same multiply-adds are equally accurate: every one is on the front of accuracy over
    multiply-adds, and a search for few weights puts the multiply-adds where weights are few, in the first stages. What
    is found is as good as this model; with accuracies of your own, measured or predicted, hand in another.
    """
    whole = supernet.replace(counted=("squeeze-excite", "final-expand", "feature-mix", "classifier"))
    curve = published_curve(supernet.to_plain()["family"])
    return lambda config, _: curve(whole.layers(config).macs.sum(axis=-1))


def front(accuracy: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Places [m] of the networks that none beats in both, from the cheapest to the most accurate.

    Args:
        accuracy, cost: [n]; of networks with equal values the first counts.
    """
    order = np.lexsort((-accuracy, cost))
    best_before = np.append(-np.inf, np.maximum.accumulate(accuracy[order])[:-1])
    return order[accuracy[order] > best_before]


def spaced(cost: np.ndarray, count: int) -> np.ndarray:
    """Places of ``count`` of the rising values [m], about evenly spaced in their logarithm, the ends among them."""
    if count >= len(cost):
        return np.arange(len(cost))
    wanted = np.linspace(np.log(cost[0]), np.log(cost[-1]), count)
    chosen: list[int] = []
    for i, target in enumerate(wanted):
        first, last = (chosen[-1] + 1 if chosen else 0), len(cost) - (count - i)  # leave one for each that follows
        chosen.append(first + int(np.argmin(np.abs(np.log(cost[first : last + 1]) - target))))
    return np.array(chosen)


def pareto(
    supernet: SuperNet,
    count: int,
    *,
    accuracy: Accuracy | None = None,
    cost: str | Cost = "weights",
    population: int = 2000,
    rounds: int = 30,
    seed: int = 0,
) -> list[SubNet]:
    """Search a SuperNet for the front of accuracy over cost, and take networks about evenly spaced in cost from it.

    An evolution: what is on the front has offspring in which each choice is drawn anew with a small probability, or
    comes from another network of the front. It starts from random networks, the smallest, and the largest.

    Args:
        supernet: the space.
        count: networks wanted.
        accuracy: the model of accuracy; :func:`published_accuracy` where not given.
        cost: ``macs``, ``weights``, or a function of layers (a latency on an accelerator, for one).
        population: networks looked at in each round.
        rounds: of the evolution.
        seed: of the random choices.

    Returns:
        Up to ``count`` networks named P1, P2, ... from the cheapest to the most accurate.
    """
    for name, value in (("count", count), ("population", population)):
        if value < 1:
            raise SpecError([Fault(name, str(value), "must be 1 or more")])
    judge, price = accuracy or published_accuracy(supernet), _cost(cost)
    draw = np.random.default_rng(seed)
    ends = [supernet.smallest(), supernet.largest()]
    fresh = supernet.sample(population, seed)
    pool = {knob: np.concatenate([fresh[knob], *(end[knob][None] for end in ends)]) for knob in fresh}
    for step in range(rounds + 1):
        layers = supernet.layers(pool)
        gains, prices = np.asarray(judge(pool, layers), dtype=float), np.asarray(price(layers), dtype=float)
        best = front(gains, prices)
        parents = {knob: values[best] for knob, values in pool.items()}
        if step < rounds:
            pool = _next(supernet, parents, population, draw)
    gains, prices = gains[best], prices[best]
    return [
        supernet.subnet({knob: values[i] for knob, values in parents.items()}, name=f"P{n}", accuracy=float(gains[i]))
        for n, i in enumerate(spaced(prices, count), start=1)
    ]


def _next(supernet: SuperNet, parents: Config, population: int, draw: np.random.Generator) -> dict[str, np.ndarray]:
    """The parents and their offspring."""
    fresh = supernet.sample(population, int(draw.integers(2**63)))
    count = len(parents["resolution"])
    mother, father = draw.integers(count, size=(2, population))
    rate = draw.choice([0.02, 0.05, 0.1, 0.3], population)[:, None]
    pool = {}
    for knob, values in parents.items():
        child = np.where(draw.random((population, values.shape[-1])) < 0.2, values[father], values[mother])
        child = np.where(draw.random(child.shape) < rate, fresh[knob], child)
        pool[knob] = np.concatenate([values, child])
    return pool


def _cost(cost: str | Cost) -> Cost:
    if callable(cost):
        return cost
    if cost not in COSTS:
        raise SpecError([Fault("cost", repr(cost)[:60], f"must be one of {', '.join(COSTS)}, or a function of layers")])
    return COSTS[cost]
