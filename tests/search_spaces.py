"""Random small search problems, and what each must find: every design priced by sweeps, its own fronts, no search code."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

import dse
from dse.explore.evaluate import feasible, violations
from dse.explore.objectives import objective
from dse.explore.search.variables import coupling, span
from dse.spec.hardware import Cluster

MODELS = ("gpt-1.7b", "gpt-3.6b", "llama2-7b", "gpt2-xl", "mixtral-8x7b", "bert-large")
CLUSTERS = ("dgx-a100", "dgx-h100", "mi300x-pod", "dgx-v100", "h100-roce-3200g", "tpu-v4-pod")
TORUS = "tpu-v4-pod"
ACCELERATORS = ("a100-80gb-sxm", "h100-80gb-sxm", "h200-141gb-sxm")
# (path, kind of values); the fields of one entry are reached in plain data by the keys that follow.
FIELDS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "cluster.accelerator.memory.capacity": ("scale", ("node", "accelerator", "memory", "capacity")),
    "cluster.memory.bandwidth": ("scale", ("node", "accelerator", "memory", "bandwidth")),
    "cluster.network.inter.bandwidth": ("scale", ("network", "dimensions", -1, "bandwidth")),
    "cluster.accelerator.tdp": ("scale", ("node", "accelerator", "tdp")),
    "cluster.facility.pue": ("scale", ("facility", "pue")),
    "cluster.network.intra.size": ("double", ("network", "dimensions", 0, "size")),
    "cluster.node.accelerator": ("ids", ("node", "accelerator")),
    "cluster": ("ids", ()),
    "cluster.devices": ("devices", ("devices",)),
}
OBJECTIVES = (
    "step_time", "max tokens_per_s", "mfu", "cost", "min energy", "tco", "capital", "peak_power", "memory_headroom",
    "goodput", "step_time@90%", "mean cost", "P(step_time <= 2 s)", "min time.bubble",
)  # fmt: skip
PRICE, CAPACITY = ("node", "accelerator", "price"), ("node", "accelerator", "memory", "capacity")


def reach(data: Any, keys: tuple[Any, ...]) -> Any:
    for key in keys:
        data = data[key]
    return data


@dataclass
class Random:
    """One random problem: the arguments of a search, and its designs in the order of hardware, then strategy."""

    seed: int
    arguments: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        draw = random.Random(self.seed)
        self.model, self.base = draw.choice(MODELS), draw.choice(CLUSTERS)
        self.devices, self.global_batch = draw.choice((8, 16, 32)), draw.choice((32, 64))
        self.paths = draw.sample(list(FIELDS), draw.choice((1, 2, 2, 3)))
        if self.base == TORUS or "cluster" in self.paths:  # the sides of a torus follow the number of devices
            self.paths = [path for path in self.paths if not path.endswith("size")] or ["cluster.devices"]
        self.values = {path: self._values(draw, path) for path in self.paths}
        self.rate = draw.choice((None, None, 5e-9, 40e-9))  # USD/B: what memory beyond the base costs
        self.options = self._options(draw)
        self.objectives = draw.sample(OBJECTIVES, 1 + self.seed % 3)
        self.arguments = {
            "model": self.model,
            "cluster": self.base,
            "hardware": [self._entry(draw, path) for path in self.paths],
            "devices": None if "cluster.devices" in self.paths else self.devices,
            "global_batch": self.global_batch,
            "objective": self.objectives,
            "options": self.options,
            "couplings": [] if self.rate is None else [
                coupling("cluster.accelerator.price", "cluster.accelerator.memory.capacity", self.rate)
            ],
        }  # fmt: skip
        self.budgets = self._budgets(draw)
        self.arguments["budget"] = self.budgets

    # -- what varies ------------------------------------------------------------------------------------------

    def _values(self, draw: random.Random, path: str) -> list[Any]:
        kind, keys = FIELDS[path]
        if kind == "ids":
            return draw.sample(ACCELERATORS if keys else CLUSTERS, 2)
        if kind == "devices":
            return sorted(draw.sample((8, 16, 32, 64), draw.choice((2, 3))))
        now = reach(dse.load_cluster(self.base).model_dump(), keys)
        if kind == "double":
            return [now, 2 * now]
        scales = (1.0, 1.1, 1.3, 1.6, 2.0) if path.endswith("pue") else (0.25, 0.5, 0.8, 1.0, 1.7, 3.0)
        return [now * s for s in sorted(draw.sample(scales, draw.choice((2, 3))))]

    def _entry(self, draw: random.Random, path: str) -> Any:
        """An axis, its values in any order; now and then a span with the same two ends."""
        values = self.values[path]
        if FIELDS[path][0] == "scale" and draw.random() < 0.4:
            self.values[path] = [float(f"{v:.12g}") for v in np.linspace(values[0], values[-1], 3)]
            return span(path, values[0], values[-1], log=False, steps=3)
        return dse.axis(path, values if FIELDS[path][0] == "ids" else draw.sample(values, len(values)))

    def _options(self, draw: random.Random) -> dict[str, list[Any]]:
        options: dict[str, list[Any]] = {
            "pp": [1, 2, 4],
            "tp": draw.choice(([1, 2], [1, 4, 8], [2])),
            "micro_batch": draw.choice(([1, 2], [1, 4])),
            "virtual_stages": draw.choice(([1], [1, 2])),
            "recompute": draw.choice((["none"], ["none", "full"], ["selective", "full"])),
            "zero_stage": draw.choice(([1], [0, 3], [0, 1])),
            "sequence_parallel": draw.choice(([False], [False, True])),
        }
        if self.model.startswith("mixtral"):
            options["ep"] = [1, 4]
            options["sequence_parallel"] = [False]
        if dse.load_model(self.model).seq_len >= 16_384:
            options["cp"] = [1, 2]
        return options

    def _budgets(self, draw: random.Random) -> list[str]:
        found = []
        for name, sense in draw.sample(
            [("capital", "<="), ("peak_power", "<="), ("memory_headroom", ">="), ("step_time", "<=")], 2
        ):
            if draw.random() < 0.5:
                values = np.concatenate([self.quantity(number, name) for number in range(len(self.points))])
                unit = {"capital": " USD", "peak_power": " W", "step_time": " s"}.get(name, "")
                found.append(f"{name} {sense} {float(np.quantile(values, 0.6)):.6g}{unit}")
        return found

    # -- what must be found -----------------------------------------------------------------------------------

    @cached_property
    def points(self) -> list[dict[str, Any]]:
        """Hardware by path, the last one fastest."""
        return [dict(zip(self.paths, choice, strict=True)) for choice in product(*(self.values[p] for p in self.paths))]

    @cached_property
    def strategies(self) -> list[dict[str, Any]]:
        return [dict(zip(self.options, choice, strict=True)) for choice in product(*self.options.values())]

    def hardware(self, number: int) -> tuple[Cluster, int]:
        """The cluster of one hardware design, built from plain data, and its number of devices."""
        point = self.points[number]
        data = dse.load_cluster(point.get("cluster", self.base)).model_dump()
        if "cluster.node.accelerator" in point:
            data["node"]["accelerator"] = dse.load_accelerator(point["cluster.node.accelerator"]).model_dump()
        before = reach(data, CAPACITY)
        for path, value in point.items():
            if FIELDS[path][0] != "ids":
                keys = FIELDS[path][1]
                reach(data, keys[:-1])[keys[-1]] = value
        if self.rate is not None:
            grown = reach(data, PRICE) + self.rate * (reach(data, CAPACITY) - before)
            data["node"]["accelerator"]["price"] = max(grown, 0.0)
        return Cluster.parse(data), int(point.get("cluster.devices", self.devices))

    def sweep(self, number: int) -> dse.Result:
        """All strategies on one hardware design."""
        if number not in self._swept:
            cluster, devices = self.hardware(number)
            axes = [dse.axis(name, values) for name, values in self.options.items()]
            self._swept[number] = dse.sweep(
                self.model, cluster, f"global_batch={self.global_batch}", *axes, devices=devices
            )
        return self._swept[number]

    @cached_property
    def _swept(self) -> dict[int, dse.Result]:
        return {}

    def quantity(self, number: int, name: str) -> np.ndarray:
        """A value a strategy."""
        return self._spread(self.sweep(number).cells[0].evaluation[name])

    def _spread(self, value: Any) -> np.ndarray:
        return np.broadcast_to(value, [len(values) for values in self.options.values()]).ravel()

    def allowed(self, number: int) -> np.ndarray:
        """Which strategies keep the rules and the budgets."""
        evaluation = self.sweep(number).cells[0].evaluation
        good = self._spread(feasible(violations(evaluation)))
        for text in self.budgets:
            name, sense, value = text.split()[:3]
            held = self.quantity(number, name)
            good = good & (held <= float(value) if sense == "<=" else held >= float(value))
        return good

    def goals(self, number: int) -> np.ndarray:
        """(strategies, objectives), as asked."""
        columns = []
        for text in self.objectives:
            name = text.removeprefix("min ").removeprefix("max ")
            if name in ("time.bubble",):
                value = self.sweep(number).cells[0].evaluation["breakdown"]["bubble"]
            elif "@" in name or "(" in name or " " in name:
                value = objective(text).value(self.sweep(number).cells[0].evaluation)
            else:
                value = self.sweep(number).cells[0].evaluation[name]
            columns.append(self._spread(value))
        return np.stack(columns, axis=1)

    @cached_property
    def signs(self) -> np.ndarray:
        more = ("max", "mfu", "memory_headroom", "goodput", "P(")
        return np.array([-1.0 if text.startswith(more) else 1.0 for text in self.objectives])

    @cached_property
    def front(self) -> list[tuple[int, int, tuple[float, ...]]]:
        """Hardware, strategy and objectives of every design on the front, in order; of equal ones the first."""
        rows = [
            (number, place, tuple(values))
            for number in range(len(self.points))
            for place, (good, values) in enumerate(zip(self.allowed(number), self.goals(number).tolist(), strict=True))
            if good
        ]
        if not rows:
            return []
        points = np.array([values for _, _, values in rows]) * self.signs
        _, first = np.unique(points, axis=0, return_index=True)  # of equal ones the first, in lexicographic order
        distinct = points[first]
        beaten = [bool((np.all(distinct <= p, axis=1) & np.any(distinct < p, axis=1)).any()) for p in distinct]
        front = [rows[i] for i, lost in zip(first, beaten, strict=True) if not lost]
        return front[:1] if len(self.objectives) == 1 else front
