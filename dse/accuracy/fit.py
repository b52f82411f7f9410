"""Fitting physical constants to measured runs: robust least squares on log ratios, within physical ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dse.accuracy.constants import FAMILY, SCALE_OUT, Constant
from dse.accuracy.corpus import Batch
from dse.explore.evaluate import price

PRIOR = 0.12  # pull of a constant towards its starting value, in units of a relative error of one
STEP = 1e-4  # of the logarithm, for gradients
Values = Mapping[str, float]


class Problem:
    """Batches of runs with the constants of their devices, stacks and links as free values.

    A run is one entry of one batch; arrays over all runs have the batches one after another.
    """

    def __init__(self, batches: Sequence[Batch], free: Sequence[Constant]) -> None:
        self.batches = list(batches)
        self._owners = [owners(batch) for batch in batches]
        self._stated = {(c.kind, c.owner, c.field) for c in free}
        self.free = [c for c in free if any(np.any(self._mask(i, c)) for i in range(len(self.batches)))]
        self.size = sum(len(b.ids) for b in self.batches)
        self.ids = np.array([i for b in self.batches for i in b.ids])

    def _mask(self, index: int, constant: Constant) -> np.ndarray:
        """Which runs of a batch (and of which dimension, for links) a constant belongs to."""
        found = self._owners[index][constant.kind]
        if constant.owner == "*":
            return np.ones_like(found, bool)
        heirs = [heir for heir, parent in FAMILY.items() if parent == constant.owner]
        heirs = [heir for heir in heirs if (constant.kind, heir, constant.field) not in self._stated]
        return np.isin(found, [constant.owner, *heirs])

    def specs(self, index: int, values: Values) -> dict[str, Any]:
        """The specifications of one batch with these constants."""
        batch = self.batches[index]
        cluster, size = batch.specs["cluster"], len(batch.ids)
        device, network = cluster.node.accelerator, cluster.network
        parts = {"device": device.efficiency, "stack": batch.specs["stack"]}
        dimensions = list(network.dimensions)
        changed: dict[tuple[Any, str], np.ndarray] = {}

        def put(key: Any, spec: Any, constant: Constant, mask: np.ndarray) -> None:
            if np.any(mask):
                now = changed.get((key, constant.field))
                now = np.asarray(getattr(spec, constant.field), float) if now is None else now
                changed[key, constant.field] = np.where(mask, values[constant.name], np.broadcast_to(now, (size,)))

        for constant in self.free:
            mask = self._mask(index, constant)
            if constant.kind in parts:
                put(constant.kind, parts[constant.kind], constant, mask)
            else:
                for i, dimension in enumerate(dimensions):
                    put(i, dimension, constant, mask[i])
        update: dict[Any, dict[str, Any]] = {}
        for (key, name), array in changed.items():
            update.setdefault(key, {})[name] = array
        parts = {key: spec.model_copy(update=update.get(key, {})) for key, spec in parts.items()}
        dimensions = [d.model_copy(update=update.get(i, {})) for i, d in enumerate(dimensions)]
        node = cluster.node.model_copy(
            update={"accelerator": device.model_copy(update={"efficiency": parts["device"]})}
        )
        network = network.model_copy(update={"dimensions": tuple(dimensions)})
        cluster = cluster.model_copy(update={"node": node, "network": network})
        return {**batch.specs, "cluster": cluster, "stack": parts["stack"]}

    def predict(self, values: Values) -> np.ndarray:
        """Step time of every run, in seconds."""
        times = [
            np.broadcast_to(price(self.specs(i, values), devices_given=True)["step_time"], (len(batch.ids),))
            for i, batch in enumerate(self.batches)
        ]
        return np.concatenate(times)

    def members(self, constant: Constant) -> np.ndarray:
        """Runs that a constant can touch."""
        masks = [self._mask(i, constant) for i in range(len(self.batches))]
        return np.concatenate([m.any(axis=0) if m.ndim == 2 else m for m in masks])

    def gradient(self, values: Values) -> tuple[np.ndarray, np.ndarray]:
        """Log step times and their derivatives by the logarithm of each constant.

        Constants of one field whose owners share no run are moved together, which saves most evaluations.
        """
        base = np.log(self.predict(values))
        result = np.zeros((self.size, len(self.free)))
        together: dict[tuple[str, str, bool], list[int]] = {}
        for column, constant in enumerate(self.free):
            together.setdefault((constant.kind, constant.field, constant.owner == "*"), []).append(column)
        for columns in together.values():
            moved = {**values, **{self.free[c].name: values[self.free[c].name] * np.exp(STEP) for c in columns}}
            slope = (np.log(self.predict(moved)) - base) / STEP
            for column in columns:
                result[:, column] = np.where(self.members(self.free[column]), slope, 0.0)
        return base, result

    def fit(self, measured: np.ndarray, weights: np.ndarray, *, start: Values | None = None, steps: int = 30) -> Values:
        """Constants that explain ``measured`` seconds.

        Args:
            measured: seconds of each run; NaN leaves a run out.
            weights: of each run.
            start: where the search begins; the prior stays at each constant's own starting value.
            steps: evaluations of the gradient at most.
        """
        from scipy.optimize import least_squares

        prior = np.log([c.start for c in self.free])
        low, high = np.log([c.low for c in self.free]) - 1e-9, np.log([c.high for c in self.free]) + 1e-9
        first = prior if start is None else np.log([start.get(c.name, c.start) for c in self.free])
        used = np.isfinite(measured) & (weights > 0)
        target, w = np.log(measured[used]), weights[used]
        cache: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}

        def at(point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            key = point.tobytes()
            if key not in cache:
                cache.clear()
                cache[key] = self.gradient(self._named(point))
            return cache[key]

        def residuals(point: np.ndarray) -> np.ndarray:
            time = np.log(self.predict(self._named(point))) if point.tobytes() not in cache else at(point)[0]
            return np.concatenate([w * (time[used] - target), PRIOR * (point - prior)])

        def jacobian(point: np.ndarray) -> np.ndarray:
            return np.vstack([w[:, None] * at(point)[1][used], PRIOR * np.eye(len(point))])

        inside = np.clip(first, low + 1e-6, high - 1e-6)
        found = least_squares(
            residuals, inside, jacobian, bounds=(low, high), loss="soft_l1", f_scale=0.1, max_nfev=steps, xtol=1e-5
        )
        return self._named(found.x)

    def _named(self, point: np.ndarray) -> dict[str, float]:
        return {c.name: float(v) for c, v in zip(self.free, np.exp(point), strict=True)}


def owners(batch: Batch) -> dict[str, np.ndarray]:
    """Generation and stack of each run (n,), and its fabrics by dimension (dimensions, n): inside nodes, between."""
    runs = batch.runs
    count = len(runs[0].cluster.network.dimensions)
    fabrics = np.array([[r.cluster.network.dimensions[i].fabric or "" for r in runs] for i in range(count)])
    outside = np.isin(fabrics, SCALE_OUT)
    return {
        "device": np.array([r.cluster.accelerator.generation or "" for r in runs]),
        "stack": np.array([r.stack.id for r in runs]),
        "up": np.where(outside, "", fabrics),
        "out": np.where(outside, fabrics, ""),
    }


def source_weights(sources: np.ndarray) -> np.ndarray:
    """Weights that let every publication count alike, within a factor that keeps tiny ones from dominating."""
    names, inverse, counts = np.unique(sources, return_inverse=True, return_counts=True)
    each = 1.0 / np.sqrt(np.maximum(counts, 5))
    return (each * np.sqrt(len(sources) / len(names)))[inverse]
