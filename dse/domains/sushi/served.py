"""What became of the queries of a stream, as columns and as a summary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dse.domains.sushi.streams import Stream

if TYPE_CHECKING:
    import pandas as pd

    from dse.domains.sushi.table import LatencyTable


COLUMNS = {
    "arrival": "s", "asked_accuracy": "1", "deadline": "s", "issued": "s", "start": "s", "finish": "s", "subnet": "1",
    "subgraph": "1", "replica": "1", "latency": "s", "queueing": "s", "response": "s", "accuracy": "1", "energy": "J",
    "off_chip": "B", "hit": "1", "hit_ratio": "1", "accuracy_missed": "1", "deadline_missed": "1",
}  # fmt: skip
"""Columns of :meth:`Served.frame` and their SI units, which the headers carry: ``latency [s]``."""
SUMMARY = {
    "queries": "1", "dropped": "1", "latency_mean": "s", "latency_p50": "s", "latency_p95": "s", "latency_p99": "s",
    "response_mean": "s", "response_p50": "s", "response_p95": "s", "response_p99": "s", "queueing_mean": "s",
    "accuracy": "1", "hit": "1", "hit_ratio": "1", "accuracy_missed": "1", "deadline_missed": "1", "span": "s",
    "throughput": "1/s", "utilisation": "1", "loads": "1", "load_time": "s", "load_energy": "J", "load_bytes": "B",
    "energy": "J", "off_chip": "B",
}  # fmt: skip
"""Numbers of :meth:`Served.summary` and their SI units."""


class Loads(NamedTuple):
    """What going from one SubGraph to another takes [from, to]: s, J, bytes; nothing on the diagonal."""

    time: np.ndarray
    energy: np.ndarray
    size: np.ndarray


def loads_of(table: LatencyTable, reuse: np.ndarray | None = None) -> Loads:
    """Loads between the SubGraphs of a table: all of the new one, or what ``reuse`` [from, to] (shares) leaves."""
    rest = 1.0 - (np.zeros((len(table.size),) * 2) if reuse is None else np.asarray(reuse, float))
    np.fill_diagonal(rest, 0.0)
    return Loads(*(np.asarray(column, float) * rest for column in (table.load_time, table.load_energy, table.size)))


@dataclass(frozen=True, eq=False)
class Served:
    """What became of each query [q]. SubNet, SubGraph and replica are -1, and times not a number, where it was dropped.

    Attributes:
        table: what was served with.
        stream: what was asked for.
        settings: how it was served.
        issued: when the query came, s.
        start: when it was taken up, s.
        finish: when it was done, s.
        subnet: that served it.
        subgraph: that was cached meanwhile.
        replica: that served it.
        loaded: [load] the SubGraphs brought in, in order of time.
        before: [load] the SubGraph that was there before each.
        loads: what going from one SubGraph to another takes.
    """

    table: LatencyTable
    stream: Stream
    settings: Mapping[str, Any]
    issued: np.ndarray
    start: np.ndarray
    finish: np.ndarray
    subnet: np.ndarray
    subgraph: np.ndarray
    replica: np.ndarray
    loaded: np.ndarray
    before: np.ndarray
    loads: Loads

    def __len__(self) -> int:
        return len(self.start)

    @property
    def served(self) -> np.ndarray:
        """[q] whether the query was served at all."""
        return self.subnet >= 0

    @property
    def latency(self) -> np.ndarray:
        """[q] s, service alone."""
        return self._cell(self.table.latency)

    @property
    def queueing(self) -> np.ndarray:
        """[q] s, from arrival to start."""
        return self.start - self.issued

    @property
    def response(self) -> np.ndarray:
        """[q] s, from arrival to finish."""
        return self.finish - self.issued

    @property
    def energy(self) -> np.ndarray:
        """[q] J, of service; loads of SubGraphs are apart."""
        return self._cell(self.table.energy)

    @property
    def off_chip(self) -> np.ndarray:
        """[q] bytes to and from memory in service; loads of SubGraphs are apart."""
        return self._cell(self.table.off_chip)

    @property
    def hit(self) -> np.ndarray:
        """[q] share of the SubNet's bytes that were cached."""
        return self._cell(self.table.hits / np.asarray(self.table.weights, float)[:, None])

    @property
    def hit_ratio(self) -> np.ndarray:
        """[q] the paper's measure: |SubNet and SubGraph| / |SubNet|, of the vectors of kernels and channels."""
        return self._cell(hit_ratios(self.table))

    @property
    def accuracy(self) -> np.ndarray:
        """[q] top-1 accuracy of the SubNet that served."""
        return np.where(self.served, np.asarray(self.table.accuracy)[self.subnet], np.nan)

    @property
    def accuracy_missed(self) -> np.ndarray:
        """[q] whether the answer was less accurate than asked for, or there was none."""
        return ~(self.accuracy >= self.stream.accuracy)

    @property
    def deadline_missed(self) -> np.ndarray:
        """[q] whether the response took longer than asked for, or there was none."""
        return ~(self.response <= self.stream.latency)

    def frame(self) -> pd.DataFrame:
        """One row a query, with the columns of ``COLUMNS``, units in the headers, and fractions as such.

        ``arrival`` is the stream's (a closed loop issues the query later or sooner), ``deadline`` the response that was
        asked for. SubNets and SubGraphs stand by name, and are empty where the query was dropped.
        """
        import pandas as pd

        from dse.domains.sushi.table import header

        asked = {"arrival": self.stream.arrival, "asked_accuracy": self.stream.accuracy,
                 "deadline": self.stream.latency}  # fmt: skip
        # A dropped query has the place -1: the name after the last one.
        asked |= {name: np.array([*names, ""], dtype=object)[getattr(self, name)]
                  for name, names in (("subnet", self.table.subnets), ("subgraph", self.table.subgraphs))}  # fmt: skip
        columns = {name: asked[name] if name in asked else getattr(self, name) for name in COLUMNS}
        return pd.DataFrame({header(name, COLUMNS[name]): column for name, column in columns.items()})

    def summary(self) -> dict[str, float]:
        """Means, percentiles and totals in SI units; percentiles and means are of the queries that were served."""
        done, count = self.served, max(len(self), 1)
        result: dict[str, float] = {"queries": len(self), "dropped": int((~done).sum())}
        for name in ("latency", "response", "queueing"):
            values = getattr(self, name)[done]
            result[f"{name}_mean"] = _mean(values)
            if name != "queueing":
                points = np.percentile(values, (50, 95, 99)) if len(values) else [np.nan] * 3
                result |= {f"{name}_p{p}": float(v) for p, v in zip((50, 95, 99), points, strict=True)}
        for name in ("accuracy", "hit", "hit_ratio"):
            result[name] = _mean(getattr(self, name)[done])
        result["accuracy_missed"] = float(self.accuracy_missed.sum() / count)
        result["deadline_missed"] = float(self.deadline_missed.sum() / count)
        span = float(np.nanmax(self.finish) - np.nanmin(self.issued)) if done.any() else 0.0
        result["span"], result["throughput"] = span, done.sum() / span if span else np.nan
        result["utilisation"] = float(self.latency[done].sum()) / (span * self.settings["replicas"]) if span else np.nan
        taken = Loads(*(float(of[self.before, self.loaded].sum()) for of in self.loads))
        result |= {"loads": len(self.loaded), "load_time": taken.time, "load_energy": taken.energy,
                   "load_bytes": taken.size}  # fmt: skip
        result["energy"] = float(self.energy[done].sum()) + taken.energy
        result["off_chip"] = float(self.off_chip[done].sum()) + taken.size
        return {name: float(value) if isinstance(value, np.floating) else value for name, value in result.items()}

    def _cell(self, values: np.ndarray) -> np.ndarray:
        return np.where(self.served, np.asarray(values, float)[self.subnet, self.subgraph], np.nan)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else np.nan


def hit_ratios(table: LatencyTable) -> np.ndarray:
    """|SubNet and SubGraph| / |SubNet| [i, j]: lengths of the vectors of kernels and channels, the lesser of each."""
    nets, graphs = (np.asarray(vectors, float) for vectors in (table.subnet_vectors, table.subgraph_vectors))
    both = np.stack([np.linalg.norm(np.minimum(nets, graph), axis=1) for graph in graphs], axis=1)
    return both / np.linalg.norm(nets, axis=1, keepdims=True)
