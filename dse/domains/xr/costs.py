"""What a run of a model costs on a sub-accelerator: recorded tables, a table of one's own, or a cost model of layers.

A cost table is a CSV with the columns ``model``, ``sub_accelerator``, ``latency [ms]`` and ``energy [mJ]``, and maybe
``layer``: then rows of one model and sub-accelerator are added up. Any tool or measurement can make it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from dse.domains.xr.layer import Layer
from dse.domains.xr.models import code, unit_model
from dse.domains.xr.systems import SubAccelerator
from dse.errors import Fault, SpecError
from dse.spec.catalogue import asset_root

Depthwise = Literal["dense", "grouped"]
Rules = Literal["maestro", "exact"]
_KEY = ("model", "sub_accelerator")
_UNITS = {"latency": "s", "energy": "J"}


class Costs(Protocol):
    """Anything that prices models on parts."""

    def of(self, models: Sequence[str], parts: Sequence[SubAccelerator]) -> tuple[np.ndarray, np.ndarray]:
        """Latency [s] and energy [J] of each model on each part, both [M, A].

        Raises:
            SpecError: a model or a part is not known.
        """
        ...


@dataclass(frozen=True)
class CostTable:
    """Attributes:
    latency, energy: seconds and joules by model (code or name) and name of the part.
    """

    latency: Mapping[tuple[str, str], float]
    energy: Mapping[tuple[str, str], float]

    def of(self, models: Sequence[str], parts: Sequence[SubAccelerator]) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`Costs`."""
        keys = [[self._key(model, part.name) for part in parts] for model in models]
        missing = {(models[m], parts[a].name) for m, row in enumerate(keys) for a, key in enumerate(row) if key is None}
        if missing:
            raise SpecError([self._fault(*pair) for pair in sorted(missing)[:8]])
        latency, energy = (
            np.array([[table[key] for key in row if key is not None] for row in keys])
            for table in (self.latency, self.energy)
        )
        return latency, energy

    def _key(self, model: str, part: str) -> tuple[str, str] | None:
        return next((key for key in ((model, part), (code(model), part)) if key in self.latency), None)

    def _fault(self, model: str, part: str) -> Fault:
        parts = sorted({known for _, known in self.latency})
        if part not in parts:
            near = difflib.get_close_matches(part, parts, n=3)
            return Fault("sub_accelerator", part, f"is in no row; near: {', '.join(near or parts[:8])}")
        return Fault("model", model, f"has no row for {part}")


@dataclass(frozen=True)
class LayerModel:
    """Prices models with the cost model of layers (:func:`dse.domains.xr.analysis.layer_costs`).

    Attributes:
        depthwise: ``grouped``, as these layers are; ``dense``, as the published model files state them.
        networks: layers of models of one's own, by name.
        dram: also count DRAM at the parts' off-chip bandwidth, with their L2 as large as it is
            (elements of one byte). The published costs do not.
        rules: of the cost model: ``maestro`` or ``exact``.
    """

    depthwise: Depthwise = "grouped"
    networks: Mapping[str, Layer] = field(default_factory=dict)
    dram: bool = False
    rules: Rules = "maestro"

    def of(self, models: Sequence[str], parts: Sequence[SubAccelerator]) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`Costs`. Each layer shape is priced once, on all parts of a dataflow at a time."""
        loads = [self._layers(model) for model in models]
        starts = np.cumsum([0, *(layers.k.size for layers in loads[:-1])])
        every = np.stack([np.concatenate(columns) for columns in zip(*loads, strict=True)])
        shapes, which = np.unique(every, axis=1, return_inverse=True)
        latency, energy = np.empty((len(models), len(parts))), np.empty((len(models), len(parts)))
        for dataflow in dict.fromkeys(part.dataflow for part in parts):
            same = [a for a, part in enumerate(parts) if part.dataflow == dataflow]
            cycles, joules = self._priced(Layer(*shapes), dataflow, [parts[a] for a in same])
            clock = np.array([parts[a].clock for a in same])
            latency[:, same] = np.add.reduceat(cycles[:, which], starts, axis=1).T / clock
            energy[:, same] = np.add.reduceat(joules[:, which], starts, axis=1).T
        return latency, energy

    def _layers(self, model: str) -> Layer:
        layers = self.networks[model] if model in self.networks else unit_model(model).layers
        return layers.as_dense() if self.depthwise == "dense" else layers

    def _priced(
        self, layers: Layer, dataflow: str | None, parts: list[SubAccelerator]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cycles and joules of every layer on every part, [A, layers]."""
        from dse.domains.xr.analysis import layer_costs

        needed = ["dataflow", "num_pes", "noc_bandwidth", *(["offchip_bandwidth", "l2"] if self.dram else [])]
        faults = [
            Fault(f"{part.name}.{name}", "", "is needed for layers to be priced on it")
            for part in parts for name in needed if getattr(part, name) is None
        ]  # fmt: skip
        if faults:
            raise SpecError(faults)
        pes, noc, offchip, l2 = (
            np.array([[getattr(part, name)] for part in parts])
            for name in ("num_pes", "noc_bandwidth", "offchip_bandwidth", "l2")
        )
        memory = {"dram_bandwidth": offchip, "l2_size": l2} if self.dram else {}
        found = layer_costs(layers, str(dataflow), pes, noc, rules=self.rules, **memory)
        return np.asarray(found.latency, dtype=float), np.asarray(found.energy, dtype=float)


@lru_cache(maxsize=2)
def recorded(depthwise: Depthwise = "dense") -> CostTable:
    """What the artifact's own cost model says of the unit models on the parts of XRBench's accelerators.

    Args:
        depthwise: ``dense``, as published; ``grouped``, with depthwise layers priced as such.
    """
    name = "model-costs.csv" if depthwise == "dense" else "model-costs-depthwise.csv"
    return from_csv(asset_root("data") / "xrbench" / name)


def default(depthwise: Depthwise, parts: Sequence[SubAccelerator], *, dram: bool = False) -> Costs:
    """Recorded costs where all parts are in them, and the cost model of layers where some are not or DRAM counts."""
    table = recorded(depthwise)
    known = {name for _, name in table.latency}
    return table if not dram and all(part.name in known for part in parts) else LayerModel(depthwise, dram=dram)


def from_csv(path: Path | str) -> CostTable:
    """Read a cost table.

    Raises:
        SpecError: the file is not there, lacks a column, a cell is not a positive number, or a row stands twice.
    """
    import pandas as pd

    from dse.domains.xr.cells import columns, number

    path = Path(path)
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except (OSError, ValueError) as error:
        raise SpecError([Fault("costs", str(path)[-200:], f"cannot be read: {str(error).strip()[:200]}")]) from None
    heads = columns(frame, (*_KEY, *_UNITS), path.name)
    if frame.empty:
        raise SpecError([Fault("costs", path.name, "holds no rows")])
    key = [frame[heads[name][0]].str.strip() for name in _KEY]
    own = [frame["layer"].str.strip()] if "layer" in frame else []
    twice = pd.concat([*key, *own], axis=1).duplicated()
    if twice.any():
        at = int(np.flatnonzero(twice)[0])
        told = ", ".join(column.iloc[at] for column in (*key, *own))
        raise SpecError([Fault("row", told[:80], "stands twice", f"{path.name}, line {at + 2}")])
    values = {
        name: number(frame[heads[name][0]], name, heads[name][1], unit, path.name) for name, unit in _UNITS.items()
    }
    sums = pd.DataFrame({**dict(zip(_KEY, key, strict=True)), **values}).groupby(list(_KEY), sort=False).sum()
    return CostTable(sums["latency"].to_dict(), sums["energy"].to_dict())
