"""Simulations in studies: systems x workloads x variants, each executed event by event, as one table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from dse.errors import Fault, SpecError
from dse.spec.base import Spec
from dse.spec.fields import Bandwidth, Bytes, Count, CountOrZero, Name, Seconds, Switch, Text

if TYPE_CHECKING:
    import pandas as pd

Beside = Callable[[Any], Any]
# Columns that say which simulation a row is; those of shares of a bandwidth come on top.
KEYS = ("system", "series", "workload", "variant", "size", "x")
OF_COLLECTIVES = ("network", "family", "npus", "collective", "algorithm", "fail", "sample")  # and the same of those
UNITS = {"size": "B", "time": "s", "bound": "s", "compute": "s", "comm": "s", "exposed": "s", "exposed_comm": "s",
         "exposed_memory": "s", "idle": "s", "algbw": "B/s"}  # fmt: skip


class Link(Spec):
    """A stage on the way to a memory: see :class:`dse.simulate.Hop`."""

    bandwidth: Bandwidth
    shared_by: Count = 1
    latency: Seconds = 0.0


class RemoteMemory(Spec):
    """A memory in the place of the cluster's tier of that name: see :class:`dse.simulate.Tier`."""

    name: Name
    bandwidth: Bandwidth
    latency: Seconds = 0.0
    capacity: Bytes = 1e21
    shared_by: CountOrZero = 1
    path: tuple[Link, ...] = ()
    reduces: Switch = True


class Split(Spec):
    """Every way to deal ``budget`` in equal ``parts`` to the dimensions of a network, one part each at least."""

    budget: Bandwidth
    parts: Count


class Machine(Spec):
    """A system: a cluster of ``dse``, or a network and system settings of ASTRA-sim, which run with its semantics.

    ``memories`` take the place of the cluster's tiers of the same name; ``in_switch`` names one through whose switches
    sharded parameters go (:func:`dse.study.pooled.through_switches`). ``x`` is a number for the axis of a figure, and
    ``series`` a name for several systems along it.
    """

    id: Name
    title: Text = ""
    cluster: Any = None
    devices: Count | None = None
    split: Split | None = None
    memories: tuple[RemoteMemory, ...] = ()
    in_switch: Name | None = None
    series: Text = ""
    x: float | None = None
    network: Any = None
    settings: Any = None
    memory: Any = None

    @model_validator(mode="after")
    def _one_kind(self) -> Machine:
        if (self.cluster is None) == (self.network is None) or (self.network is None) != (self.settings is None):
            raise ValueError("needs either a cluster, or network and settings of ASTRA-sim")
        if self.network is not None and (self.memories or self.split or self.devices or self.in_switch):
            raise ValueError("memories, split, devices and in_switch are for clusters")
        return self

    @property
    def compatible(self) -> bool:
        """Whether it runs with ASTRA-sim's semantics."""
        return self.network is not None


class Load(Spec):
    """What is executed: a lone collective of each of these sizes, a generated training step, or trace files.

    Sizes are those of the whole buffer; ``detail``: of the generated trace, see :func:`dse.trace.generate.generate`.
    """

    id: Name
    title: Text = ""
    collective: Text | None = None
    sizes: tuple[Bytes, ...] = ()
    model: Any = None
    strategy: dict[str, Any] = Field(default_factory=dict)
    detail: Literal["operator", "block", "pass"] = "block"
    traces: Text | None = None
    groups: Text | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Load:
        if sum(value is not None for value in (self.collective, self.model, self.traces)) != 1:
            raise ValueError("needs one of collective, model and traces")
        if (self.collective is None) != (not self.sizes):
            raise ValueError("a collective needs sizes, and nothing else has them")
        return self


class Variant(Spec):
    """How it is executed. Of these fields only ``chunks`` changes the settings of ASTRA-sim's systems."""

    id: Name = "plain"
    title: Text = ""
    schedule: Literal["ascending", "themis"] = "ascending"
    chunks: Count | None = None
    fidelity: Literal["analytical", "flows"] = "analytical"
    policy: Literal["fifo", "lifo", "priority"] = "fifo"


class Simulated(Spec):
    """Every workload with every variant on every system, in this order."""

    id: Name
    title: Text = ""
    systems: tuple[Machine, ...] = Field(min_length=1)
    workloads: tuple[Load, ...] = Field(min_length=1)
    variants: tuple[Variant, ...] = (Variant(),)

    @property
    def titles(self) -> dict[str, dict[str, str]]:
        """What the values of columns are called."""
        lists = {"system": self.systems, "workload": self.workloads, "variant": self.variants}
        return {column: {item.id: item.title or item.id for item in items} for column, items in lists.items()}

    @model_validator(mode="after")
    def _ids(self) -> Simulated:
        for what in ("systems", "workloads", "variants"):
            ids = [item.id for item in getattr(self, what)]
            if len(set(ids)) < len(ids):
                raise ValueError(f"the same id is given twice among the {what}")
        return self


@dataclass
class SimulationTable:
    """What a block of simulations, of collectives or of a domain's table gave.

    Attributes:
        rows: one row each, columns in SI units (those of ``units``).
        keys: columns that tell rows apart; those of shares of a bandwidth come on top.
        units: SI unit of columns; ``%`` for fractions that figures show as percentages.
        titles: what the values of columns are called.
    """

    block: Any
    rows: pd.DataFrame = field(repr=False)
    keys: tuple[str, ...] = (*KEYS, *OF_COLLECTIVES)
    units: Mapping[str, str] = field(default_factory=lambda: UNITS)
    titles: Mapping[str, Mapping[str, str]] | None = None

    def __post_init__(self) -> None:
        if self.titles is None:
            self.titles = self.block.titles

    def is_key(self, name: str) -> bool:
        """Whether a column tells rows apart."""
        return name in self.keys or name.startswith("share_")

    def unit(self, name: str) -> str:
        """SI unit of a column, 1 for what has none."""
        return self.units.get(name, "1").replace("%", "1")

    def frame(self) -> pd.DataFrame:
        """The table for people: units in the headers."""
        return self.rows.rename(columns={n: f"{n} [{unit}]" for n, unit in self.units.items() if unit != "%"})


@dataclass(frozen=True)
class _Site:
    """A system ready to run: the cluster with its split, and the shares of the budget."""

    machine: Machine
    cluster: Any = None
    shares: tuple[float, ...] = ()


def run_simulations(block: Simulated, beside: Beside, say: Callable[[str], None]) -> SimulationTable:
    """Run all simulations of a block.

    Args:
        beside: finds files in the study's folder.
        say: told about every workload on every system.

    Raises:
        SpecError: with every fault of the block; the path names system or workload.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    faults: list[Fault] = []
    for number, machine in enumerate(block.systems):
        before = len(rows)
        try:
            for site in _sites(machine, beside):
                for index, load in enumerate(block.workloads):
                    path = f"workloads.{index} ({load.id}) on {machine.id}: "
                    rows += _runs(block, site, load, beside, path, faults)
        except SpecError as error:
            faults += [replace(f, path=f"systems.{number} ({machine.id}): {f.path}") for f in error.faults]
        say(f"simulation {block.id}: {machine.id}, {len(rows) - before} runs")
    if faults:
        raise SpecError(faults)
    return SimulationTable(block, pd.DataFrame(rows))


def _sites(machine: Machine, beside: Beside) -> Iterator[_Site]:
    """The machine with each split of its bandwidth."""
    if machine.compatible:
        yield _Site(machine)
        return
    from dse.spec import load_cluster

    cluster = load_cluster(_based(machine.cluster, beside))
    if machine.split is None:
        yield _Site(machine, cluster)
        return
    names, split = [d.name for d in cluster.network.dimensions], machine.split
    if split.parts < len(names):
        raise SpecError([Fault("split.parts", str(split.parts), f"must be at least {len(names)}, one a dimension")])
    for parts in _compositions(split.parts, len(names)):
        shares = tuple(part / split.parts for part in parts)
        dimensions = tuple(
            d.model_copy(update={"bandwidth": split.budget * share})
            for d, share in zip(cluster.network.dimensions, shares, strict=True)
        )
        network = cluster.network.model_copy(update={"dimensions": dimensions})
        yield _Site(machine, cluster.model_copy(update={"network": network}), shares)


def _based(cluster: Any, beside: Beside) -> Any:
    """A cluster, or what it is based on, as a file of the study's folder."""
    if isinstance(cluster, dict) and "base" in cluster:
        return {**cluster, "base": beside(cluster["base"])}
    return beside(cluster)


def _compositions(total: int, count: int) -> Iterator[tuple[int, ...]]:
    if count == 1:
        yield (total,)
        return
    for first in range(1, total - count + 2):
        for rest in _compositions(total - first, count - 1):
            yield (first, *rest)


def _runs(
    block: Simulated, site: _Site, load: Load, beside: Beside, path: str, faults: list[Fault]
) -> list[dict[str, Any]]:
    """The rows of one workload on one system; what goes wrong is added to the faults."""
    rows = []
    try:
        traces = _traces(site, load, beside)
        for variant in block.variants:
            for size in load.sizes or (float("nan"),):
                told = _keys(site.machine, load, variant, size)
                told |= {f"share_{i}": share for i, share in enumerate(site.shares, 1)}
                rows.append(told | _run(site, load, variant, traces, size, beside))
    except SpecError as error:
        faults += [replace(f, path=f"{path}{f.path}") for f in error.faults]
    return rows


def _keys(machine: Machine, load: Load, variant: Variant, size: float) -> dict[str, Any]:
    """What tells a row from the others."""
    x = float("nan") if machine.x is None else machine.x
    return dict(zip(KEYS, (machine.id, machine.series, load.id, variant.id, size, x), strict=True))


def _traces(site: _Site, load: Load, beside: Beside) -> Any:
    """The traces of a workload; none of a lone collective."""
    if load.model is not None:
        if site.cluster is None:
            raise SpecError(
                [Fault("model", str(load.model)[:60], "a trace is generated for a cluster, not ASTRA-sim's network")]
            )
        from dse.study.pooled import through_switches
        from dse.trace.generate import generate

        devices = site.machine.devices
        traces = generate(beside(load.model), site.cluster, load.strategy, devices=devices, detail=load.detail)
        return traces if site.machine.in_switch is None else through_switches(traces, site.machine.in_switch)
    if load.traces is not None:
        from dse.trace import load as read

        return read(beside(load.traces), beside(load.groups))
    return None


def _run(site: _Site, load: Load, variant: Variant, traces: Any, size: float, beside: Beside) -> dict[str, float]:
    if site.machine.compatible:
        return _compatible(site.machine, load, variant, traces, size, beside)
    from dse.simulate import collective, simulate

    system = _system(site, variant)
    if traces is None:
        done = collective(load.collective or "", size, system, fidelity=variant.fidelity)
    else:
        done = simulate(traces, system, fidelity=variant.fidelity)
    mean = {name: float(np.mean(values)) for name, values in done.per_rank().items()}
    known = {name: mean[name] for name in ("compute", "comm", "exposed_comm", "exposed_memory", "idle")}
    known["exposed"] = known["exposed_comm"] + known["exposed_memory"]
    shares = {f"use_{i}": share for i, share in enumerate(_use(done, len(system.sizes)), 1)}
    return {"ranks": len(done.actor_of), "time": done.time, **known, "algbw": size / done.time, **shares}


def _system(site: _Site, variant: Variant) -> Any:
    from dse.simulate import Hop, System, Tier

    changes: dict[str, Any] = {"schedule": variant.schedule, "policy": variant.policy}
    if variant.chunks is not None:
        changes["chunks"] = variant.chunks
    system = System.of(site.cluster, site.machine.devices, **changes)
    if not site.machine.memories:
        return system
    own = {
        m.name: Tier(m.name, m.bandwidth, m.latency, m.capacity, m.shared_by,
                     tuple(Hop(h.bandwidth, h.shared_by, h.latency) for h in m.path), reduces=m.reduces)
        for m in site.machine.memories
    }  # fmt: skip
    kept = tuple(own.pop(tier.name, tier) for tier in system.tiers)
    return system.replace(tiers=(*kept, *own.values()))


def _use(done: Any, dimensions: int) -> list[float]:
    """Mean share of the bandwidth in use over the whole time, of the outgoing ports of each dimension."""
    bins, _ = done.utilization(1)
    ports = 2 * dimensions * len(done.problem.rank)
    if len(bins) < ports:
        return [float("nan")] * dimensions
    by_rank = bins[:ports, 0].reshape(-1, dimensions, 2)[:, :, 0]
    return np.average(by_rank, axis=0, weights=np.bincount(done.actor_of)).tolist()


def _compatible(
    machine: Machine, load: Load, variant: Variant, traces: Any, size: float, beside: Beside
) -> dict[str, float]:
    """The same with ASTRA-sim's semantics; its clock counts whole nanoseconds."""
    from dse.simulate import compat
    from dse.simulate.formats import System, checked

    chunks = {} if variant.chunks is None else {"preferred_dataset_splits": variant.chunks}
    network, settings = beside(machine.network), checked(System, beside(machine.settings))
    settings = settings.model_copy(update=chunks)
    if traces is None:
        longest, _ = compat.collective(network, settings, load.collective or "", int(size))
        if longest < 0:
            raise SpecError([Fault("settings", "", "the chunks of the collective wait for each other for ever")])
        return {"time": longest * 1e-9, "algbw": size / (longest * 1e-9)}
    done = compat.run(traces, network, settings, memory=beside(machine.memory)).check()
    times = {"time": done.finished.max(), "compute": done.gpu.mean(), "comm": done.comm.mean(),
             "exposed_comm": done.exposed.mean(), "exposed": done.exposed.mean()}  # fmt: skip
    return {"ranks": len(done.finished), **{name: float(ns) * 1e-9 for name, ns in times.items()}}
