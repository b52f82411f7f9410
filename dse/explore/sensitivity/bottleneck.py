"""What bounds a design, and what bounds it next: the time that each resource takes, found by making it unlimited."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.cost.graph import Quantity
from dse.errors import Fault, SpecError
from dse.explore.evaluate import graph_of, price
from dse.explore.result import Result
from dse.explore.sensitivity.forecast import planned
from dse.explore.sensitivity.samples import single
from dse.explore.sensitivity.text import as_text
from dse.space.axes import Place, locate, with_value
from dse.spec.hardware import MatrixPeak, VectorPeak
from dse.units import engineering

if TYPE_CHECKING:
    import pandas as pd

UNLIMITED = 1e12  # times the present rate
MOST = 14  # resources told apart: 16,384 combinations
CHUNK = 1 << 12
SAME = 1e-9  # share of the step time below which nothing has changed
# Quantities that are waiting and not a resource's work.
WAITING = {"bubble": "pipeline bubble", "imbalance": "stage imbalance"}
DELAYS = ("latency", "overhead", "ramp", "small_latency", "small_overhead")


@dataclass(frozen=True)
class Resource:
    """What can be unlimited at once.

    Attributes:
        rates: fields that grow without limit.
        delays: fields that become 0.
        waits: quantities that become 0.
    """

    name: str
    rates: tuple[str, ...] = ()
    delays: tuple[str, ...] = ()
    waits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bottlenecks:
    """How the time of a step divides among resources.

    Attributes:
        table: a row a resource, the greatest first: ``alone``, seconds saved if it alone were unlimited, and
            ``speed-up`` then; ``shapley``, its part of the time, seconds that add up to the step time less the floor;
            its ``share`` of the step time.
        ladder: what bounds the design, and what bounds it next: each row makes unlimited what saves most beside the
            rows above it, with the seconds ``saved`` and the time ``left``.
        step_time: of the design.
        floor: what is left with everything unlimited.
    """

    table: pd.DataFrame
    ladder: pd.DataFrame
    step_time: float
    floor: float

    def __str__(self) -> str:
        lines = [f"step time {engineering(self.step_time, 's')}"]
        for i, row in self.ladder.iterrows():
            word = "bound by" if i == 0 else "then by"
            left = f"without limit there {engineering(row['left [s]'], 's')} would be left"
            times = f" ({row['speed-up']:.4g} times as fast)" if row["left [s]"] > 0 else ""
            lines.append(f"  {word} {row['resource']}: {left}{times}")
        rows = [
            [r["resource"], engineering(r["shapley [s]"], "s"), f"{r['share']:.1%}", f"{r['speed-up']:.3f}"]
            for _, r in self.table.iterrows()
        ]
        if self.floor > SAME * self.step_time:
            rows.append(["(floor)", engineering(self.floor, "s"), f"{self.floor / self.step_time:.1%}", ""])
        return "\n".join(lines) + "\n\n" + as_text(["resource", "time", "share", "speed-up if it were unlimited"], rows)


def bottlenecks(design: Result, depth: int = 4) -> Bottlenecks:
    """Which resources a design's step time goes to.

    All 2^n combinations of n resources made unlimited (rates 10^12 times as high, delays and waiting 0) are priced
    along one axis. From the times T(S) follow what each is worth alone, the ladder, and exact Shapley values::

        φ_i = Σ_S |S|! (n − |S| − 1)! / n! · ( T(S) − T(S ∪ i) ),      Σ_i φ_i = T(∅) − T(all)

    Time in which two resources are busy at once is so divided between them, whatever the order they are named in.

    Args:
        design: one design.
        depth: rungs of the ladder.

    Raises:
        SpecError: a space of designs, or a depth below 1.

    Source: Shapley, A value for n-person games (1953); the rest re-derived.
    """
    import pandas as pd

    single(design)
    if not isinstance(depth, int) or depth < 1:
        raise SpecError([Fault("depth", repr(depth)[:40], "must be a whole number from 1")])
    found = _that_matter(design, _resources(design))
    sets = np.arange(1 << len(found))
    planned(len(sets), len(sets), lambda size: len(_times(design, found, sets[:size])))
    times = _times(design, found, sets)
    base, floor = float(times[0]), float(times[-1])
    alone = base - times[1 << np.arange(len(found))]
    shapley = shapley_values(times)
    names = [r.name for r in found]
    table = pd.DataFrame(
        {
            "resource": names,
            "alone [s]": alone,
            "speed-up": base / (base - alone),
            "shapley [s]": shapley,
            "share": shapley / base,
        }
    ).sort_values(["shapley [s]", "resource"], ascending=[False, True], ignore_index=True)
    return Bottlenecks(table, _ladder(times, names, depth), base, floor)


def shapley_values(times: np.ndarray) -> np.ndarray:
    """Exact Shapley values of the savings T(∅) − T(S).

    Args:
        times: shape (2^n,); bit i of the position says whether i is in S.

    Returns:
        Shape (n,), in the unit of ``times``; adds up to ``times[0] - times[-1]``.
    """
    n = int(times.size).bit_length() - 1
    sets = np.arange(1 << n)
    size = _members(sets, n)
    weight = np.array([1.0 / (n * math.comb(n - 1, k)) for k in range(n)])
    values = []
    for i in range(n):
        without = sets[(sets >> i) & 1 == 0]
        values.append(np.sum(weight[size[without]] * (times[without] - times[without | 1 << i])))
    return np.array(values)


def _members(sets: np.ndarray, n: int) -> np.ndarray:
    return ((sets[:, None] >> np.arange(n)) & 1).sum(axis=1) if n else np.zeros(len(sets), dtype=np.int64)


def _ladder(times: np.ndarray, names: list[str], depth: int) -> pd.DataFrame:
    """Greedy order; where no single resource saves anything (two are equally slow), the fewest that do together."""
    import pandas as pd

    n, base, done = len(names), float(times[0]), 0
    sets = np.arange(1 << n)
    size = _members(sets, n)
    rows: list[list[Any]] = []
    while len(rows) < depth:
        open_ = sets[(sets & done) == 0][1:]
        saved = times[done] - times[open_ | done]
        telling = saved > SAME * base
        if not telling.any():
            break
        fewest = size[open_][telling].min()
        few = np.flatnonzero(telling & (size[open_] == fewest))
        best = few[np.argmax(saved[few])]
        chosen = [name for i, name in enumerate(names) if open_[best] >> i & 1]
        done |= int(open_[best])
        left = float(times[done]) if times[done] > SAME * base else 0.0
        rows.append([" with ".join(chosen), float(saved[best]), left, base / left if left > 0 else math.inf])
    return pd.DataFrame(rows, columns=["resource", "saved [s]", "left [s]", "speed-up"])


# -- resources ----------------------------------------------------------------------------------------------


def _resources(design: Result) -> list[Resource]:
    """All that a design's time may depend on."""
    cluster: Any = design.specs["cluster"]
    matrix = tuple(f"cluster.accelerator.matrix.{name}" for name in MatrixPeak.model_fields)
    vector = tuple(f"cluster.accelerator.vector.{name}" for name in VectorPeak.model_fields)
    tiers = tuple(f"cluster.node.expansion.{i}.bandwidth" for i in range(len(cluster.node.expansion)))
    lines = {f"cluster.network.dimensions.{i}": d.name for i, d in enumerate(cluster.network.dimensions)}
    host = ("stack.launch", "stack.stall", "stack.hop", "stack.step_overhead", "cluster.accelerator.efficiency.launch")
    waits = [q for q in WAITING if q in graph_of(design.execution()).quantities]
    return [
        Resource("matrix engine", rates=matrix),
        Resource("vector units", rates=vector),
        Resource("memory bandwidth", rates=("cluster.memory.bandwidth",)),
        Resource("expansion memory bandwidth", rates=tiers),
        *(Resource(f"{name} bandwidth", rates=(f"{path}.bandwidth",)) for path, name in lines.items()),
        Resource("network latency", delays=tuple(f"{path}.{field}" for path in lines for field in DELAYS)),
        Resource("host and kernel launch", delays=host),
        *(Resource(WAITING[name], waits=(name,)) for name in waits),
        Resource("stragglers", delays=tuple(f"{path}.jitter" for path in lines)),
    ]


def _that_matter(design: Result, resources: list[Resource]) -> list[Resource]:
    """Resources that some time is spent on: those whose limit is felt when they alone, or all others, are unlimited.

    Where still too many are left, all network bandwidths count as one.
    """
    n = len(resources)
    every = (1 << n) - 1
    single_bits = 1 << np.arange(n)
    times = _times(design, resources, np.concatenate([[0, every], single_bits, every - single_bits]))
    base, floor, alone, last = times[0], times[1], times[2 : n + 2], times[n + 2 :]
    telling = (np.abs(base - alone) > SAME * base) | (np.abs(last - floor) > SAME * base)
    kept = [r for r, matters in zip(resources, telling, strict=True) if matters]
    if len(kept) > MOST:
        links = [r for r in kept if any(p.startswith("cluster.network") for p in r.rates)]
        joint = Resource("network bandwidth", rates=tuple(p for r in links for p in r.rates))
        kept = [joint, *(r for r in kept if r not in links)]
    return kept


def _times(design: Result, resources: list[Resource], sets: np.ndarray) -> np.ndarray:
    """Step time of the design with sets of resources unlimited (bit i of a set: resource i); shape of ``sets``."""
    parts = [sets[start : start + CHUNK] for start in range(0, len(sets), CHUNK)]
    return np.concatenate([_priced(design, resources, part) for part in parts])


def _priced(design: Result, resources: list[Resource], sets: np.ndarray) -> np.ndarray:
    specs: dict[str, Any] = dict(design.specs)
    own = {q.name: q for q in design.replace}
    for i, resource in enumerate(resources):
        free = (sets >> i & 1).astype(bool)
        for paths, factor in ((resource.rates, UNLIMITED), (resource.delays, 0.0)):
            for path in paths:
                place = locate(path, design.specs)
                value = _field(place)
                if value:  # a field may be absent, or 0 already
                    array = np.where(free, value * factor, value)
                    specs[place.root] = with_value(specs[place.root], place.steps, array)
        for name in resource.waits:
            original = own.get(name) or graph_of(design.execution()).quantities[name]
            own[name] = dataclasses.replace(original, function=_without(original, ~free))
    evaluation = price(specs, devices_given=design.devices_given, replace=tuple(own.values()))
    return np.array(np.broadcast_to(np.asarray(evaluation["step_time"], dtype=float), sets.shape))


def _field(place: Place) -> Any:
    return getattr(place.parent, place.field)


def _without(original: Quantity, kept: np.ndarray) -> Callable[..., Any]:
    """The quantity where ``kept``, and 0 elsewhere."""
    return lambda *arguments: np.where(kept, original.function(*arguments), 0.0)
