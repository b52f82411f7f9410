"""What is in a trace: nodes by kind, operators by family, communication by type and group."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.trace.columns import Trace, TraceSet
from dse.trace.critical import CriticalPath, critical_path, kind_name
from dse.trace.schema import Collective, Kind

if TYPE_CHECKING:
    import pandas as pd

TABLES = ("kinds", "communication", "operators")
COMMUNICATION = (Kind.SEND, Kind.RECV, Kind.COLL)
SHOWN = 12  # operators that the text lists
ALL = "all ranks"


@dataclass(frozen=True, eq=False)
class Summary:
    """The tables of a set of traces; sums are over all ranks.

    Attributes:
        traces: what was summed up.
        rank: whose critical path is given.
        kinds: a row a kind: nodes, duration [s], compute [FLOP], memory [B].
        communication: a row a type, group label and size: ranks in a group, calls, bytes of a call, bytes of all.
        operators: a row a family of names: nodes, duration [s], share of the duration, FLOP and bytes.
    """

    traces: TraceSet
    rank: int
    kinds: pd.DataFrame
    communication: pd.DataFrame
    operators: pd.DataFrame

    @cached_property
    def path(self) -> CriticalPath:
        """The longest chain of dependences of the rank, by recorded durations.

        Raises:
            SpecError: dependences in a circle.
        """
        return critical_path(self.traces, self.rank)

    def to_pandas(self, table: str = "kinds") -> pd.DataFrame:
        """One of the tables: kinds, communication or operators.

        Raises:
            SpecError: another name.
        """
        if table not in TABLES:
            raise SpecError([Fault("table", repr(table), f"must be one of {', '.join(TABLES)}")])
        return getattr(self, table)

    def to_dict(self) -> dict[str, Any]:
        """Counts, the tables as lists of rows, and the critical path."""
        out: dict[str, Any] = {
            "ranks": len(self.traces),
            "classes": len(self.traces.classes),
            "dangling": sum(trace.dangling for trace in self.traces.classes),
        }
        out |= {name: self.to_pandas(name).to_dict("records") for name in TABLES}
        return out | {"critical_path": {"rank": self.rank, **self.path.to_dict()}}

    def __repr__(self) -> str:
        from dse.units import engineering

        def table(frame: pd.DataFrame, most: int) -> str:
            units = {column: column.partition("[")[2].rstrip("]") for column in frame}
            shown = frame.head(most).copy()
            for column, unit in units.items():
                if unit:
                    shown[column] = [engineering(float(value), unit, 4) for value in frame[column].head(most)]
                elif column == "share":
                    shown[column] = [f"{value:.1%}" for value in frame[column].head(most)]
            shown.columns = [column.partition(" [")[0] for column in frame]
            more = f"\n... and {len(frame) - most:,} more" if len(frame) > most else ""
            return shown.to_string(index=False) + more

        ranks, classes = len(self.traces), len(self.traces.classes)
        head = f"{ranks:,} ranks, {classes:,} distinct traces, {int(self.kinds['nodes'].sum()):,} nodes"
        parts = [head, table(self.kinds, len(Kind))]
        if len(self.communication):
            parts.append("communication\n" + table(self.communication, SHOWN))
        parts.append("operators\n" + table(self.operators, SHOWN))
        path = self.path
        parts.append(f"critical path of rank {self.rank}: {engineering(path.total, 's')} over {len(path.rows):,} nodes")
        return "\n\n".join(parts)


def summary(traces: TraceSet | Trace, rank: int = 0) -> Summary:
    """Sum up a set of traces; equal ranks are summed once and counted.

    Args:
        traces: of all ranks, or one trace.
        rank: whose critical path is given.

    Raises:
        SpecError: there is no such rank.
    """
    if isinstance(traces, Trace):
        traces = TraceSet((traces,), np.zeros(1, np.int64))
    if rank not in traces:
        raise SpecError([Fault("rank", str(rank), f"must be 0 to {len(traces) - 1}")])
    ranks = np.bincount(traces.of, minlength=len(traces.classes))
    return Summary(traces, rank, _kinds(traces, ranks), _communication(traces, ranks), _operators(traces, ranks))


def _kinds(traces: TraceSet, ranks: np.ndarray) -> pd.DataFrame:
    import pandas as pd

    sums = np.zeros((4, 256))
    for trace, times in zip(traces.classes, ranks, strict=True):
        kind = trace.kind.astype(np.int64) + 128
        for row, weights in enumerate((None, trace.seconds, trace.flops, trace.bytes)):
            sums[row] += times * np.bincount(kind, weights, 256)
    there = np.flatnonzero(sums[0])
    columns = {"duration [s]": sums[1], "compute [FLOP]": sums[2], "memory [B]": sums[3]}
    rows = {"kind": [kind_name(k - 128) for k in there], "nodes": sums[0, there].astype(np.int64)}
    return pd.DataFrame(rows | {name: column[there] for name, column in columns.items()})


def _communication(traces: TraceSet, ranks: np.ndarray) -> pd.DataFrame:
    import pandas as pd

    parts = []
    for trace, times in zip(traces.classes, ranks, strict=True):
        rows = np.flatnonzero(np.isin(trace.kind, COMMUNICATION))
        keys = np.stack([trace.kind[rows], trace.coll[rows], trace.group[rows], trace.size[rows]], axis=1)
        values, calls = np.unique(keys.astype(np.int64), axis=0, return_counts=True)
        for (kind, coll, group, size), count in zip(values.tolist(), (calls * times).tolist(), strict=True):
            label = trace.labels[group] if group >= 0 else ""
            parts.append((type_name(kind, coll), label, max(size, 0), count))
    columns = ["type", "group", "size [B]", "calls"]
    found = pd.DataFrame(parts, columns=columns).groupby(columns[:3], as_index=False, sort=False).sum()
    members = [len(traces) if not label else width(traces, label) for label in found["group"]]
    found.insert(2, "ranks", np.array(members, np.int64))
    found["group"] = found["group"].replace("", ALL)
    found["volume [B]"] = found["size [B]"].astype(np.float64) * found["calls"]
    return found.sort_values("volume [B]", ascending=False, kind="stable", ignore_index=True)


def type_name(kind: int, coll: int) -> str:
    """``all_reduce``, ``send``: what a communication node does."""
    if kind != Kind.COLL:
        return kind_name(kind).lower()
    return Collective(coll).name.lower() if 0 <= coll <= max(Collective) else "unknown"


def width(traces: TraceSet, label: str) -> int:
    """Ranks in a group of that label; 0 where no group has it."""
    return int(traces.groups[label].shape[1]) if label in traces.groups else 0


def family(name: str) -> str:
    """A name without what tells one call from another: numbers, template arguments, signatures."""
    short = re.sub(r"^void\s+", "", name)
    for _ in range(8):  # nested <...> from the inside out
        short, changed = re.subn(r"<[^<>]*>|\([^()]*\)", "", short)
        if not changed:
            break
    # A number that is a part of a word is a part of the operator's name (Conv2d, f16); one between separators counts.
    return re.sub(r"(?<![A-Za-z])\d+(?![A-Za-z\d])|(?<=[a-z])\d+(?=[._/:]|$)", "#", short).strip() or name


def _operators(traces: TraceSet, ranks: np.ndarray) -> pd.DataFrame:
    import pandas as pd

    families: dict[tuple[str, str], np.ndarray] = {}
    for trace, times in zip(traces.classes, ranks, strict=True):
        kinds = trace.kind.astype(np.int64) + 128
        code, inverse = np.unique(trace.name.astype(np.int64) * 256 + kinds, return_inverse=True)
        sums = [np.bincount(inverse, w, len(code)) for w in (None, trace.seconds, trace.flops, trace.bytes)]
        for place, row in zip(code.tolist(), (times * np.stack(sums, axis=1)), strict=True):
            key = (family(trace.names[place // 256]), kind_name(place % 256 - 128))
            families[key] = families[key] + row if key in families else row
    sums = np.array(list(families.values())).reshape(-1, 4)
    columns = {
        "operator": [name for name, _ in families],
        "kind": [kind for _, kind in families],
        "nodes": sums[:, 0].astype(np.int64),
        "duration [s]": sums[:, 1],
        "share": sums[:, 1] / (sums[:, 1].sum() or 1.0),
        "compute [FLOP]": sums[:, 2],
        "memory [B]": sums[:, 3],
    }
    order = ["duration [s]", "nodes"]
    return pd.DataFrame(columns).sort_values(order, ascending=False, kind="stable", ignore_index=True)
