"""Fitting physical constants to measured runs: one set per accelerator generation, fabric and software stack.

A constant has a place (a field of ``accelerator.efficiency``, of the software stack, or of a network dimension), a
range that physics allows, and a starting value that a weak prior holds on to. There are no factors of single rows,
publications or models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dse.accuracy.corpus import Batch
from dse.explore.evaluate import price

PRIOR = 0.1  # pull towards the starting value, in units of a relative error of one
GENERATIONS = {
    "a100": "A100",
    "h100": "H100",
    "h200": "H100",
    "b200": "Blackwell",
    "gb200": "Blackwell",
    "v100": "V100",
}


@dataclass(frozen=True)
class Constant:
    """One constant to fit: ``kind`` device, stack or link; ``owner`` a generation, stack id or dimension name."""

    kind: str
    owner: str
    field: str
    start: float
    low: float
    high: float

    @property
    def name(self) -> str:
        return f"{self.kind}.{self.owner}.{self.field}"


def constants() -> list[Constant]:
    """What is fitted, with the range that physics allows."""
    found = []
    for owner, attention in (("A100", 0.55), ("H100", 0.55), ("Blackwell", 0.45)):
        found += [
            Constant("device", owner, "sustained", 0.9, 0.7, 1.0),
            Constant("device", owner, "attention", attention, 0.25, 0.75),
            Constant("device", owner, "memory", 0.8, 0.6, 0.92),
        ]
    found += [
        Constant("device", "*", "attention_backward", 0.8, 0.6, 1.0),
        Constant("device", "*", "attention_first", 0.75, 0.5, 1.0),
        Constant("device", "*", "unaligned", 0.8, 0.3, 1.0),
        Constant("device", "*", "launch", 3e-6, 1e-6, 8e-6),
    ]
    for owner in ("megatron", "fsdp"):
        found += [
            Constant("stack", owner, "norm_passes", 1.5, 0.8, 4.0),
            Constant("stack", owner, "activation_passes", 1.5, 0.7, 4.0),
            Constant("stack", owner, "gradient_accumulation", 0.3, 0.05, 1.2),
            Constant("stack", owner, "loss_passes", 1.5, 0.5, 5.0),
            Constant("stack", owner, "launch", 6e-6, 2e-6, 20e-6),
            Constant("stack", owner, "overlap", 0.6, 0.05, 1.0),
            Constant("stack", owner, "straggling", 0.002, 0.0001, 0.02),
        ]
    found += [
        Constant("stack", "fsdp", "attention", 0.6, 0.25, 1.0),
        Constant("stack", "megatron", "norm_passes_unfused", 6.0, 2.0, 15.0),
        Constant("stack", "megatron", "rotary_passes", 2.0, 0.7, 6.0),
        Constant("stack", "megatron", "softmax_passes", 1.8, 0.8, 4.0),
        Constant("stack", "megatron", "softmax_passes_unfused", 5.0, 2.0, 10.0),
        Constant("stack", "megatron", "optimizer_passes", 1.3, 0.8, 4.0),
        Constant("stack", "megatron", "hop", 20e-6, 1e-6, 200e-6),
        Constant("link", "nvlink", "efficiency", 0.75, 0.6, 0.9),
        Constant("link", "nvlink", "overhead", 10e-6, 2e-6, 40e-6),
        Constant("link", "infiniband", "efficiency", 0.7, 0.3, 0.95),
        Constant("link", "omni_path", "efficiency", 0.7, 0.3, 0.95),
        Constant("link", "hdr", "efficiency", 0.7, 0.3, 0.95),
    ]
    return found


class Problem:
    """A batch of runs, with the constants of their devices, stacks and links as free values."""

    def __init__(self, batch: Batch, free: Sequence[Constant]) -> None:
        self.batch, self.free = batch, list(free)
        self.size = len(batch.ids)
        runs = batch.runs
        self.owners = {
            "device": np.array([generation(r.cluster.node.accelerator.id) for r in runs]),
            "stack": np.array([r.stack.id for r in runs]),
            "link": np.array([r.cluster.network.dimensions[-1].name for r in runs]),
        }

    def specs(self, values: Mapping[str, float]) -> dict[str, Any]:
        """The batch's specifications with these constants."""
        cluster, stack = self.batch.specs["cluster"], self.batch.specs["stack"]
        device = cluster.node.accelerator
        inner, outer = cluster.network.dimensions[0], cluster.network.dimensions[-1]
        changed = {"device": device.efficiency, "stack": stack, "outer": outer, "inner": inner}
        for constant in self.free:
            part = constant.kind
            if part == "link":
                part = "inner" if constant.owner == "nvlink" else "outer"
            everywhere = constant.owner in ("*", "nvlink")
            mask = np.ones(self.size, bool) if everywhere else self.owners[constant.kind] == constant.owner
            now = np.broadcast_to(np.asarray(getattr(changed[part], constant.field), float), (self.size,))
            array = np.where(mask, values[constant.name], now)
            changed[part] = changed[part].model_copy(update={constant.field: array})
        device = device.model_copy(update={"efficiency": changed["device"]})
        dimensions = (changed["inner"], *cluster.network.dimensions[1:-1], changed["outer"])
        network = cluster.network.model_copy(update={"dimensions": dimensions})
        node = cluster.node.model_copy(update={"accelerator": device})
        cluster = cluster.model_copy(update={"node": node, "network": network})
        return {**self.batch.specs, "cluster": cluster, "stack": changed["stack"]}

    def predict(self, values: Mapping[str, float]) -> np.ndarray:
        """Step time of every run, in seconds."""
        time = price(self.specs(values), devices_given=True)["step_time"]
        return np.broadcast_to(time, (self.size,))

    def fit(self, measured: np.ndarray, weights: np.ndarray, *, steps: int = 60) -> dict[str, float]:
        """Constants that explain ``measured`` seconds: robust least squares on log ratios within the ranges.

        Args:
            measured: seconds of each run; NaN leaves a run out.
            weights: of each run.
            steps: evaluations of the gradient at most.
        """
        from scipy.optimize import least_squares

        start = np.log([c.start for c in self.free])
        low, high = np.log([c.low for c in self.free]), np.log([c.high for c in self.free])
        used = np.isfinite(measured) & (weights > 0)

        def residuals(point: np.ndarray) -> np.ndarray:
            ratio = np.log(self.predict(self._named(np.exp(point)))[used] / measured[used])
            return np.concatenate([weights[used] * ratio, PRIOR * (point - start)])

        bounds = (low - 1e-9, high + 1e-9)
        found = least_squares(residuals, start, bounds=bounds, loss="soft_l1", f_scale=0.1, max_nfev=steps)
        return self._named(np.exp(found.x))

    def _named(self, values: np.ndarray) -> dict[str, float]:
        return {c.name: float(v) for c, v in zip(self.free, values, strict=True)}


def generation(accelerator: str) -> str:
    """Generation of an accelerator by its id."""
    return GENERATIONS.get(accelerator.partition("-")[0], accelerator)


def source_weights(sources: np.ndarray) -> np.ndarray:
    """Weights that let every publication count alike, within a factor that keeps tiny ones from dominating."""
    names, inverse, counts = np.unique(sources, return_inverse=True, return_counts=True)
    each = 1.0 / np.sqrt(np.maximum(counts, 5))
    return (each * np.sqrt(len(sources) / len(names)))[inverse]
