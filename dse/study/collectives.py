"""Collectives in studies: networks x collectives x sizes x algorithms as one table, with failures drawn at random, and
training steps on the same networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field, field_validator, model_validator

from dse.errors import Fault, SpecError
from dse.spec.base import Spec
from dse.spec.fields import Bytes, Count, Fraction, Name, Switch, Text
from dse.study.simulations import Beside, SimulationTable

if TYPE_CHECKING:
    from dse.collective.topology import Topology

OWN, RECORDED, BEST = "synthesized", "recorded", "best_known"
LIBRARY = (
    "ring", "bidirectional_ring", "direct", "halving_doubling", "double_binary_tree", "bruck", "hierarchical", "themis",
    "multitree",
)  # fmt: skip
KINDS = {"AllGather": "all_gather", "ReduceScatter": "reduce_scatter", "AllReduce": "all_reduce"}
Say = Callable[[str], None]


class Wired(Spec):
    """Networks: one in words (or a file), perhaps with failures; or those of the recorded runs.

    Attributes:
        id, title: of the networks in tables and figures; recorded ones are called by family and NPUs.
        topology: see ``dse collective``; with ``fails``, shares of its cables that fail, each in ``samples`` ways.
        families, npus: of the recorded networks, every one that there is of these.
    """

    id: Name | None = None
    title: Text = ""
    topology: Text = ""
    fails: tuple[Fraction, ...] = (0.0,)
    samples: Count = 1
    families: tuple[Name, ...] = ()
    npus: tuple[Count, ...] = ()

    @model_validator(mode="after")
    def _one_kind(self) -> Wired:
        if bool(self.topology) == bool(self.families) or bool(self.topology) != bool(self.id):
            raise ValueError("needs either id and topology, or families and npus")
        if bool(self.families) != bool(self.npus):
            raise ValueError("families need npus, and nothing else has them")
        return self


class Training(Spec):
    """A training step on each network: the cluster with the network in the place of its dimension of that name."""

    id: Name
    title: Text = ""
    model: Any
    cluster: Any
    strategy: dict[str, Any]
    dimension: Name


class Collectives(Spec):
    """Every algorithm for every collective of every size, and every step, on every network.

    An algorithm that a network or group cannot run has no row there. ``recorded`` is the best recorded time of the
    public synthesizer, with its breaches of causality repaired; it is there for recorded networks alone.
    ``best_known`` is the quickest of the library's algorithms that are listed.

    Attributes:
        merge: whether what waits for a link may leave as one message; steps always do so.
        seeds: tries of what is random in synthesis.
    """

    id: Name
    title: Text = ""
    networks: tuple[Wired, ...] = Field(min_length=1)
    collectives: tuple[Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "reduce"], ...]
    sizes: tuple[Bytes, ...] = ()
    algorithms: tuple[Text, ...] = (OWN, *LIBRARY)
    steps: tuple[Training, ...] = ()
    merge: Switch = False
    seeds: Count = 4

    @field_validator("algorithms")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        known = (OWN, RECORDED, BEST, *LIBRARY)
        for name in value:
            if name not in known:
                raise ValueError(f"{name[:40]!r} must be one of {', '.join(known)}")
        return value

    @model_validator(mode="after")
    def _something(self) -> Collectives:
        if bool(self.collectives) != bool(self.sizes) or not (self.collectives or self.steps):
            raise ValueError("needs collectives with sizes, or steps")
        return self

    @property
    def systems(self) -> tuple[Wired, ...]:
        """What the collectives run on, as of a block of simulations."""
        return self.networks

    @property
    def titles(self) -> dict[str, dict[str, str]]:
        """What the values of columns are called."""
        return {
            "network": {item.id: item.title for item in self.networks if item.id and item.title},
            "collective": {item.id: item.title for item in self.steps if item.title},
            "algorithm": {name: name.replace("_", " ") for name in self.algorithms},
        }


class Site(NamedTuple):
    """One network: the columns that say which, its links, and how it is given in words (empty: it is not)."""

    told: dict[str, Any]
    topology: Topology
    text: str


def run_collectives(block: Collectives, beside: Beside, say: Say) -> SimulationTable:
    """Run a block.

    Args:
        beside: finds files in the study's folder.
        say: told about every network.

    Raises:
        SpecError: with every fault of the block; the path names the network.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    faults: list[Fault] = []
    for number, wired in enumerate(block.networks):
        before = len(rows)
        try:
            for site in _sites(wired, beside):
                for kind in block.collectives:
                    for size in block.sizes:
                        rows += _with_best(block, list(_times(block, site, kind, size)))
                for step in block.steps:
                    rows += _with_best(block, list(_steps(block, site, step, beside)))
        except SpecError as error:
            faults += [replace(f, path=f"networks.{number}: {f.path}"[:160]) for f in error.faults]
        say(f"collectives {block.id}: {wired.id or ', '.join(wired.families)[:60]}, {len(rows) - before} rows")
    if faults:
        raise SpecError(faults)
    return SimulationTable(block, pd.DataFrame(rows))


def _sites(wired: Wired, beside: Beside) -> Iterator[Site]:
    from dse.collective.files import load, reference_topologies

    if wired.families:
        known = reference_topologies()
        found = [(family, n) for family in wired.families for n in wired.npus if (family, n) in known]
        if not found:
            there = ", ".join(sorted({family for family, _ in known}))
            raise SpecError([Fault("families", ", ".join(wired.families)[:60], f"must be of the recorded: {there}")])
        for family, n in found:
            yield Site(_told(f"{family}_{n}", family, n, 0.0, 0), known[family, n], "")
        return
    text = beside(wired.topology)
    for share in wired.fails:
        for sample in range(wired.samples if share else 1):
            changed = f"{text},fail={share!r},seed={sample}" if share else text
            topology = load(changed)
            yield Site(_told(wired.id or "", wired.id or "", len(topology.members), share, sample), topology, changed)


def _with_best(block: Collectives, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of one case, and that of the quickest known algorithm once more where it is asked for."""
    known = [row for row in rows if row["algorithm"] in LIBRARY]
    if BEST not in block.algorithms or not known:
        return rows
    return [*rows, {**min(known, key=lambda row: row["time"]), "algorithm": BEST}]


def _told(network: str, family: str, npus: int, fail: float, sample: int) -> dict[str, Any]:
    return {"network": network, "family": family, "npus": npus, "fail": fail, "sample": sample}


def _times(block: Collectives, site: Site, kind: str, size: float) -> Iterator[dict[str, Any]]:
    """The algorithms of one collective of one size on one network."""
    from dse.collective.bounds import bound

    limit = bound(site.topology, kind, size)
    least = limit.any if block.merge else limit.best
    for name in block.algorithms:
        time, made = _one(block, site, kind, size, name) if name != BEST else (None, None)
        if time is None:
            continue
        known = {"collective": kind, "size": size, "algorithm": name, "time": time, "bound": least}
        more = {"ratio": time / least if least else 1.0, "algbw": size / time if time else np.nan}
        yield {**site.told, **known, **more, "transfers": np.nan if made is None else made.transfers}


def _one(block: Collectives, site: Site, kind: str, size: float, name: str) -> tuple[float | None, Any]:
    """Seconds of an algorithm and its schedule (None: recorded); no time where it cannot run."""
    if name == RECORDED:
        return _recorded(site.told["family"], site.told["npus"], kind, size), None
    if name == OWN:
        from dse.collective import synthesize

        made = synthesize(site.topology, kind, size, merge=block.merge, seeds=block.seeds).schedule
        return made.time, made
    from dse.collective.library import LIBRARY as known
    from dse.collective.merge import merged

    if not known[name].does(kind):
        return None, None
    try:
        made = known[name](site.topology, kind, size)
    except SpecError:
        return None, None
    made = merged(made) if block.merge else made
    return made.time, made


def _recorded(family: str, npus: int, kind: str, size: float) -> float | None:
    """The best recorded time whose schedule can be executed, in seconds."""
    from dse.collective.files import reference_runs

    runs = reference_runs()
    mine = runs[(runs["family"] == family) & (runs["n_npus"] == npus) & (runs["total_bytes"] == size)]
    mine = mine[mine["collective"].map(KINDS) == kind]
    causal = mine["tacos_causal_time_us"].where(
        mine["tacos_causal_time_us"].notna(), mine["tacos_time_us"].where(mine["heterogeneous"] == 0)
    )
    return float(causal.min()) * 1e-6 if causal.notna().any() else None


def _steps(block: Collectives, site: Site, step: Training, beside: Beside) -> Iterator[dict[str, Any]]:
    """A training step with each algorithm on one network."""
    from dse.api import estimate
    from dse.spec import load_cluster

    if not site.text:
        raise SpecError([Fault("steps", step.id, "are for networks in words or in files, not for recorded ones")])
    cluster = load_cluster(beside(step.cluster))
    for name in block.algorithms:
        if name in (RECORDED, BEST):
            continue
        result = estimate(beside(step.model), _on(cluster, step, site, name), step.strategy)
        parts = result.breakdown()
        exposed = float(parts[[term for term in parts.index if "_comm" in term]].sum())
        known = {"collective": step.id, "size": np.nan, "algorithm": name, "time": float(result["step_time"])}
        yield {**site.told, **known, "exposed_comm": exposed}


def _on(cluster: Any, step: Training, site: Site, algorithm: str) -> Any:
    """The cluster with this network, and this algorithm on it."""
    names = [d.name for d in cluster.network.dimensions]
    if step.dimension not in names:
        raise SpecError([Fault(f"steps.{step.id}.dimension", step.dimension, f"must be one of {', '.join(names)}")])
    place = names.index(step.dimension)
    fields = {"graph": site.text, "algorithm": algorithm, "size": site.told["npus"]}
    dimensions = list(cluster.network.dimensions)
    old = {name: getattr(dimensions[place], name) for name in type(dimensions[place]).model_fields}
    dimensions[place] = type(dimensions[place]).parse({**old, **fields})
    network = cluster.network.model_copy(update={"dimensions": tuple(dimensions)})
    return cluster.model_copy(update={"network": network})
