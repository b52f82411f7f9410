"""Tables of SuperNet serving for studies: each class is what a ``tables:`` block of a study file may set."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field

from dse.domains.sushi.accelerator import Accounting, Overlap
from dse.domains.sushi.problem import machine, priced, stream
from dse.domains.sushi.scheduler import CACHING
from dse.domains.sushi.subnets import SPACES, load_subnets
from dse.domains.sushi.supernet import SubNet, stack
from dse.domains.tables import Say, Table
from dse.errors import Fault, SpecError
from dse.spec.base import Spec
from dse.spec.fields import Bandwidth, Bytes, Count, CountOrZero, Fraction, Name, Switch, Text, quantity

MIB = 2.0**20
Rate = quantity("1/s", 1e-6, 1e18)
UNITS = {"buffer": "B", "streaming": "B",
         "throughput": "1/s", "bandwidth": "B/s", "weights": "B", "time": "s", "predicted": "s",
         "latency": "s", "bare": "s", "p50": "s", "p95": "s", "p99": "s", "energy": "J", "off_chip": "B",
         "response": "s", "area": "m^2", "load_time": "s",
         **dict.fromkeys(("size", "latency_saving", "energy_saving", "accuracy_gain", "behind", "missed", "gain",
                          "over_static", "saving", "rise"), "%")}  # fmt: skip


def chosen(supernet: str, resolution: int | None = None) -> list[SubNet]:
    """SubNets by name or from a file; with a resolution, the same choices of the SuperNet at that size of image.

    Raises:
        SpecError: a resolution for SubNets that are given by their layers.
    """
    subnets = load_subnets(supernet)
    if resolution is None:
        return subnets
    spaces = [space for space in SPACES.values() if len(space.slots) == len(subnets[0].layers.k)]
    if not spaces or not all(subnet.config for subnet in subnets):
        raise SpecError([Fault("resolution", str(resolution), "needs SubNets that are choices of a known SuperNet")])
    return [
        spaces[0].subnet({**subnet.config, "resolution": resolution}, name=subnet.name, accuracy=subnet.accuracy)
        for subnet in subnets
    ]


class SubNets(Spec):
    """What SubNets have: multiply-adds, weights (INT8), accuracy; the row ``shared`` is what all of them have."""

    supernets: tuple[Text, ...] = ("resnet50", "mobilenetv3")

    def table(self, say: Say) -> Table:
        import pandas as pd

        from dse.domains.sushi.sharing import core, nbytes

        rows: list[dict[str, Any]] = []
        for name in self.supernets:
            subnets = load_subnets(name)
            for net in subnets:
                rows.append(
                    {"supernet": name, "subnet": net.name, "layers": int(net.layers.present.sum()),
                     "macs": float(net.macs), "weights": float(net.weights), "accuracy": net.accuracy,
                     "resolution": net.resolution}
                )  # fmt: skip
            common = core(stack(subnets))
            rows.append({"supernet": name, "subnet": "shared", "layers": int((common.weights > 0).sum()),
                         "weights": float(nbytes(common))})  # fmt: skip
            say(f"{name}: {len(subnets)} SubNets")
        return Table(pd.DataFrame(rows), ("supernet", "subnet"), UNITS)


class MeasuredLayers(Spec):
    """Measured layers against predictions by the constants fitted without their SubNet, and the sums of each SubNet.

    The rows of sums have the layer ``sum``; ``error`` is relative, ``size`` its absolute value.
    """

    accelerator: Text = "zcu104"
    border: CountOrZero = 0

    def table(self, say: Say) -> Table:
        import pandas as pd

        from dse.domains.sushi.calibrate import validate

        found = validate(base=self.accelerator, border=self.border)
        place = found.rows.groupby("subnet").cumcount() + 1
        layers = found.rows.assign(layer=place.astype(str))[["subnet", "layer", "time", "predicted", "error"]]
        sums = found.totals.assign(layer="sum")[["subnet", "layer", "time", "predicted", "error"]]
        rows = pd.concat([layers.assign(kind="layer"), sums.assign(kind="sum")], ignore_index=True)
        say(f"{len(layers)} layers, mean absolute error {found.mape:.2%}")
        return Table(rows.assign(size=rows["error"].abs()), ("kind", "subnet", "layer"), UNITS)


class Savings(Spec):
    """What a cached SubGraph saves of each SubNet: the best of the candidates, by size of the persistent buffer.

    ``rise`` is by how much any candidate makes a SubNet slower, or a larger part of the same SubNet caches less: not
    above 0 where more overlap never costs time.
    """

    supernet: Text = "resnet50"
    resolution: Count | None = None
    accelerator: Text = "sushi-roofline"
    overlap: Overlap | None = None
    buffers: tuple[Bytes, ...] = (1.6875 * MIB, 3.375 * MIB, 7.55 * MIB)
    candidates: Count = 32
    seed: CountOrZero = 0

    def table(self, say: Say) -> Table:
        import pandas as pd

        subnets, rows = chosen(self.supernet, self.resolution), []
        before: dict[str, Any] = {}
        for size in sorted(self.buffers):
            built = machine(self.accelerator, buffer=size, overlap=self.overlap)
            table = priced(built, subnets, count=self.candidates, seed=self.seed)
            cuts = {name: table.latency[:, j] for j, name in enumerate(table.subgraphs) if name.startswith("cut ")}
            rises = [cuts[name] - before[name] for name in cuts if name in before]
            before = cuts
            for i, net in enumerate(table.subnets):
                best = int(table.latency[i].argmin())
                rise = float(np.max(table.latency[i] - table.latency[i, 0]))
                rise = max([rise, *(float(r[i]) for r in rises)])
                rows.append(
                    {"supernet": self.supernet, "buffer": size, "subnet": net, "subgraph": table.subgraphs[best],
                     "bare": table.latency[i, 0], "latency": table.latency[i, best],
                     "latency_saving": table.saving[i, best],
                     "off_chip": table.off_chip[i, best],
                     "off_chip_saving": 1 - table.off_chip[i].min() / table.off_chip[i, 0],
                     "hit": table.hits[i, best] / table.weights[i], "rise": rise / table.latency[i, 0]}
                )  # fmt: skip
        say(f"{self.supernet} on {self.accelerator}: {len(rows)} rows")
        return Table(pd.DataFrame(rows), ("supernet", "buffer", "subnet", "subgraph"), UNITS)


class Unknowns(Spec):
    """Maps over the constants that are not public: ``latency``, off-chip ``energy``, or served ``accuracy``."""

    of: Literal["latency", "energy", "accuracy"]
    supernets: tuple[Text, ...] = ("resnet50", "mobilenetv3")
    resolution: Count | None = None
    accelerator: Text = "sushi-roofline"
    throughputs: tuple[Rate, ...] = ()
    bandwidths: tuple[Bandwidth, ...] = ()
    buffers: tuple[Bytes, ...] = ()
    overlaps: tuple[Overlap, ...] = ()
    accountings: tuple[Accounting, ...] = ()
    streaming: tuple[Bytes, ...] = ()
    streams: tuple[Name, ...] = ("random", "markov", "edge")
    windows: tuple[Count, ...] = (8,)
    queries: Count = 2000
    candidates: Count = 32
    seed: CountOrZero = 0

    def table(self, say: Say) -> Table:
        import pandas as pd

        from dse.domains.sushi import unknowns

        given = {"buffers": self.buffers, "count": self.candidates, "seed": self.seed}
        if self.of == "energy":
            given |= {"accountings": self.accountings, "streaming": self.streaming}
        else:
            given |= {"bandwidths": self.bandwidths, "overlaps": self.overlaps, "throughputs": self.throughputs}
        if self.of == "accuracy":
            given |= {"streams": self.streams, "windows": self.windows, "queries": self.queries}
        maker = {"latency": unknowns.latency_savings, "energy": unknowns.energy_savings,
                 "accuracy": unknowns.accuracy_gains}[self.of]  # fmt: skip
        parts = []
        for name in self.supernets:
            settings = {key: value for key, value in given.items() if value != ()}
            found = maker(_sized(name, self.resolution), self.accelerator, **settings)
            parts.append(found.assign(supernet=name))
            say(f"{self.of} of {name}: {len(found):,} points")
        rows = pd.concat(parts, ignore_index=True)
        keys = (
            "supernet",
            "overlap",
            "candidates",
            "accounting",
            "streaming",
            "stream",
            "window",
            "buffer",
            "throughput",
            "bandwidth",
        )
        return Table(rows, tuple(key for key in keys if key in rows), UNITS)


def _sized(supernet: str, resolution: int | None) -> list[SubNet]:
    """The six networks of ResNet-50 keep their own images."""
    return chosen(supernet, None if supernet == "resnet50" else resolution)


class Serving(Spec):
    """Streams served: every policy with every way to cache, one query at a time, or at ``rate`` arrivals a second.

    ``violations`` counts queries whose constraint some SubNet would have met under the SubGraph that was cached, and
    that got another: 0 of either policy. ``saving`` is of the mean response, ``gain`` of the accuracy, both against
    ``none``; ``behind`` (without a rate) is how much more a rule costs than the oracle in what its policy makes least:
    time as a fraction under ``strict-accuracy``, accuracy lost under ``strict-latency``.
    """

    supernet: Text = "resnet50"
    resolution: Count | None = None
    accelerator: Text = "sushi-roofline"
    overlap: Overlap | None = None
    buffer: Bytes | None = None
    bandwidth: Bandwidth | None = None
    streams: tuple[Name, ...] = ("random", "markov")
    stay: Fraction = 0.98
    rate: Rate | None = None
    slack: Switch = False
    policies: tuple[Literal["strict-accuracy", "strict-latency"], ...] = ("strict-accuracy", "strict-latency")
    caching: tuple[Name, ...] = CACHING
    window: Count = 8
    loading: Literal["blocking", "overlapped"] = "blocking"
    queries: Count = 10_000
    candidates: Count = 32
    seed: CountOrZero = 0

    def table(self, say: Say) -> Table:
        import pandas as pd

        from dse.domains.sushi.serve import serve

        built = machine(self.accelerator, buffer=self.buffer, bandwidth=self.bandwidth, overlap=self.overlap)
        table = priced(built, chosen(self.supernet, self.resolution), count=self.candidates, seed=self.seed)
        how = {"window": self.window, "loading": self.loading, "slack": self.slack}
        rows = []
        for kind in self.streams:
            asked = self._stream(table, kind)
            for policy in self.policies:
                done = {name: serve(table, asked, policy=policy, caching=name, loop=self._loop, **how)
                        for name in dict.fromkeys(("none", *self._kinds))}  # fmt: skip
                best = done.get("oracle")
                if self.rate is None and best is None:
                    best = serve(table, asked, policy=policy, caching="oracle", **how)
                for name in self._kinds:
                    told = _told(done[name], done["none"], best)
                    rows.append({"stream": kind, "policy": policy, "caching": name, **told})
            say(f"{self.supernet}, {kind}: {len(rows)} rows so far")
        return Table(pd.DataFrame(rows), ("stream", "policy", "caching"), UNITS)

    @property
    def _loop(self) -> str:
        return "closed" if self.rate is None else "open"

    @property
    def _kinds(self) -> tuple[str, ...]:
        """The oracle knows the best schedule of closed loops alone."""
        return tuple(name for name in self.caching if self.rate is None or name != "oracle")

    def _stream(self, table: Any, kind: str) -> Any:
        settings = {"stay": self.stay} if kind in ("markov", "bursty") else {}
        if self.rate is not None:
            settings["rate"] = self.rate
        return stream(table, kind, self.queries, seed=self.seed, **settings)


def _told(served: Any, none: Any, best: Any) -> dict[str, float]:
    told, count = served.summary(), len(served)
    strict = served.settings["policy"] == "strict-accuracy"
    found = {
        "response": told["response_mean"], "p50": told["response_p50"], "p95": told["response_p95"],
        "p99": told["response_p99"], "accuracy": told["accuracy"],
        "missed": told["accuracy_missed" if strict else "deadline_missed"], "hit": told["hit"],
        "hit_ratio": told["hit_ratio"], "energy": told["energy"] / count, "off_chip": told["off_chip"] / count,
        "loads": told["loads"] / count, "saving": 1 - told["response_mean"] / none.response.mean(),
        "gain": told["accuracy"] - none.accuracy.mean(), "violations": violations(served),
    }  # fmt: skip
    if best is not None:
        lost = best.accuracy.mean() - served.accuracy.mean()
        found["behind"] = served.response.mean() / best.response.mean() - 1 if strict else lost
    return found


def violations(served: Any) -> int:
    """Queries whose constraint could be met under the SubGraph that was cached, and was not."""
    table, asked = served.table, served.stream
    at = served.subgraph
    if served.settings["policy"] == "strict-accuracy":
        could = asked.accuracy <= np.max(table.accuracy)
        met = served.accuracy >= asked.accuracy
    else:
        allowed = asked.latency - (served.queueing if served.settings["slack"] else 0.0)
        could = allowed >= table.latency[:, at].min(axis=0)
        met = served.latency <= allowed
    return int((could & ~met).sum())


class BreakEven(Spec):
    """What following a stream saves, by its persistence and the buffer (:mod:`dse.domains.sushi.breakeven`)."""

    supernet: Text = "resnet50"
    accelerator: Text = "sushi-roofline"
    overlap: Overlap | None = None
    bandwidth: Bandwidth | None = None
    buffers: tuple[Bytes, ...] = ()
    stays: tuple[Fraction, ...] = ()
    windows: tuple[Count, ...] = (8,)
    caching: tuple[Name, ...] = ("average", "work-function", "oracle")
    policy: Literal["strict-accuracy", "strict-latency"] = "strict-accuracy"
    loading: Literal["blocking", "overlapped"] = "blocking"
    queries: Count = 4000
    candidates: Count = 32
    seed: CountOrZero = 0

    def table(self, say: Say) -> Table:
        from dse.domains.sushi.breakeven import break_even

        built = machine(self.accelerator, bandwidth=self.bandwidth, overlap=self.overlap)
        given = {"buffers": self.buffers, "stays": self.stays}
        rows = break_even(
            load_subnets(self.supernet), built, windows=self.windows, caching=self.caching, policy=self.policy,
            loading=self.loading, queries=self.queries, count=self.candidates, seed=self.seed,
            **{name: values for name, values in given.items() if values},
        )  # fmt: skip
        say(f"break-even of {self.supernet}: {len(rows)} points")
        return Table(rows, ("caching", "window", "buffer", "persistence"), UNITS)


class Searched(Spec):
    """The designs that a search has tried (:mod:`dse.domains.sushi.search`); ``kind`` says which are on the front."""

    supernet: Text = "resnet50"
    accelerator: Text = "zcu104"
    stream: Name = "markov"
    stay: Fraction = 0.98
    queries: Count = 2000
    policy: Literal["strict-accuracy", "strict-latency"] = "strict-accuracy"
    caching: Name = "average"
    objectives: tuple[Name, ...] = ("latency", "energy", "area")
    budgets: tuple[Text, ...] = ()
    trials: Count = 128
    seed: CountOrZero = 0

    def table(self, say: Say) -> Table:
        from dse.domains.sushi.search import budgets, problem, search

        given = problem(
            load_subnets(self.supernet), self.accelerator, kind=self.stream, stay=self.stay, queries=self.queries,
            seed=self.seed, policy=self.policy, caching=self.caching, objectives=self.objectives,
            budgets=budgets(self.budgets),
        )  # fmt: skip
        found = search(given, trials=self.trials, seed=self.seed)
        say(f"search: {len(found.frame)} designs, {len(found.front)} on the front")
        rows = found.frame.drop(columns=["feasible", "on_front"])
        kind = np.select([found.frame["on_front"], found.frame["feasible"]], ["front", "feasible"], "over budget")
        numbers = {name: rows[name].astype(float) for name in ("buffer", "missed")}
        rows = rows.assign(trial=range(len(rows)), kind=kind, **numbers)
        return Table(
            rows, ("trial", "kind", "buffer", "bandwidth", "kernels", "channels", "window", "count", "kinds"), UNITS
        )


class Gpus(Spec):
    """Weights resident in a faster tier of the catalogue's devices (:mod:`dse.domains.sushi.gpus`)."""

    supernet: Text = "resnet50"
    tier: Literal["buffer", "memory"] = "buffer"
    devices: tuple[Text, ...] = ("a100-80gb-sxm", "h100-80gb-sxm", "l40s-48gb")
    nodes: tuple[Text, ...] = ()
    resident: Bytes | None = None
    queries: Count = 2000
    window: Count = 8
    stay: Fraction = 0.98
    candidates: Count = Field(default=32)
    seed: CountOrZero = 0

    def table(self, say: Say) -> Table:
        from dse.domains.sushi.gpus import compared

        rows = compared(
            load_subnets(self.supernet), self.devices, tier=self.tier, nodes=self.nodes, resident=self.resident,
            queries=self.queries, window=self.window, stay=self.stay, count=self.candidates, seed=self.seed,
        )  # fmt: skip
        say(f"{self.tier}: {rows['device'].nunique()} devices")
        return Table(rows, ("device", "caching"), UNITS)
