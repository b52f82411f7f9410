"""Agreement with recorded runs of the public simulator: tables of collectives, of small programs, and of traces.

Tables are recognised by their columns; each row is simulated from what it says and compared with what was recorded,
to the nanosecond. A row that ended early is matched by a run in which as few ranks finish.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.simulate.compat import collective, run
from dse.simulate.compat.fixtures import Fixtures
from dse.simulate.compat.outcome import CompatRun
from dse.simulate.compat.programs import traces_of

if TYPE_CHECKING:
    import pandas as pd

NATURAL = {"Ring": "ring", "FullyConnected": "direct", "Switch": "halvingDoubling"}
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all")
# Networks that tables know by name only: topology, NPUs, GB/s, ns of each dimension.
NETWORKS = {
    "R8": (("Ring",), (8,), (50,), (500,)),
    "R16": (("Ring",), (16,), (50,), (500,)),
    "FC8": (("FullyConnected",), (8,), (50,), (500,)),
    "S8": (("Switch",), (8,), (400,), (936.25,)),
    "R4_S2": (("Ring", "Switch"), (4, 2), (200, 50), (250, 1000)),
    "R4_S4": (("Ring", "Switch"), (4, 4), (200, 50), (250, 1000)),
    "FC4_R4": (("FullyConnected", "Ring"), (4, 4), (100, 50), (250, 500)),
}
BASE = {
    "endpoint-delay": 10,
    "active-chunks-per-dimension": 1,
    "preferred-dataset-splits": 4,
    "collective-optimization": "localBWAware",
    "local-mem-bw": 1600,
}
# The memory that the shipped example has: 1 ns and 1000 GB/s for each NPU.
EXAMPLE_MEMORY = {"memory-type": "PER_NPU_MEMORY_EXPANSION", "remote-mem-latency": 1, "remote-mem-bw": 1000}
Row = dict[str, Any]
Answer = tuple[dict[str, Any], dict[str, Any]]  # recorded, simulated: values by name, "cycles" first


def table(path: Path | str) -> pd.DataFrame:
    """A table of recorded runs, CSV or Parquet.

    Raises:
        SpecError: it cannot be read.
    """
    import pandas as pd

    path = Path(path)
    try:
        return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise SpecError([Fault("table", str(path)[-200:], f"cannot be read: {str(error)[:160]}")]) from None


def _numbers(value: Any, sep: str | None = None) -> list[float]:
    return [float(part) for part in str(value).split(sep)]


def _network(row: Row, aware: bool) -> dict[str, Any]:
    if "topology" not in row:
        if row["net"] not in NETWORKS:
            raise SpecError([Fault("net", str(row["net"]), f"must be one of {', '.join(NETWORKS)}")])
        topology, npus, bandwidth, latency = NETWORKS[row["net"]]
    else:
        topology = str(row["topology"]).split("_")
        npus = [int(n) for n in _numbers(row["npus_count"] if "npus_count" in row else row["npus"], "x")]
        bandwidth, latency = _numbers(row["bandwidth_GBps"]), _numbers(row["latency_ns"])
    return {"topology": topology, "npus_count": npus, "bandwidth": bandwidth, "latency": latency, "aware": aware}


def _natural(topology: Any, algos: str = "natural") -> dict[str, list[str]]:
    """The algorithms of each collective: those of the topologies, or a ring everywhere."""
    names = [NATURAL[t] if algos == "natural" else algos for t in topology]
    out = {f"{kind}-implementation": names for kind in KINDS}
    return out | {"all-to-all-implementation": [name.replace("halvingDoubling", "direct") for name in names]}


def _whole(value: Any) -> int:
    return -1 if value is None or (isinstance(value, float) and not np.isfinite(value)) else int(value)


def _collective(row: Row) -> Answer:
    """A row of the collective tables (one dimension, several, inter-dimension scheduling)."""
    names = str(row.get("algo_per_dim", row.get("algo"))).split()
    system = BASE | {
        "active-chunks-per-dimension": int(row["active_chunks_per_dim"]),
        "preferred-dataset-splits": int(row["chunks"]),
        "endpoint-delay": int(row.get("endpoint_delay", 10)),
        "local-mem-bw": float(row.get("local_mem_bw", 1600)),
        "scheduling-policy": row.get("sched", "LIFO"),
        "collective-optimization": row.get("collective_optimization", "localBWAware"),
        "inter-dimension-scheduling": row.get("inter", "ascending"),
        "intra-dimension-scheduling": row.get("intra", "FIFO"),
        "num-queues-per-dim": int(row.get("queues_per_dim", 1)),
    }
    system |= {f"{kind}-implementation": names for kind in KINDS}
    network = _network(row, str(row["backend"]).startswith("aware"))
    most, least = collective(network, system, row["collective"], int(row["size_bytes"]))
    return {"cycles": _whole(row["cycles_ns"]), "least": _whole(row["cycles_min"])}, {"cycles": most, "least": least}


def _server(row: Row) -> Answer:
    """A row of the validated HGX-H100 configuration: both backends at once."""
    system = BASE | {"active-chunks-per-dimension": 2, "local-mem-bw": 3350, "all-reduce-implementation": ["ring"]}
    got = {}
    for name, aware in (("cycles", True), ("unaware", False)):
        network = {"topology": "Switch", "npus_count": 8, "bandwidth": 400, "latency": 936.25, "aware": aware}
        got[name] = collective(network, system, "all_reduce", int(row["size_bytes"]))[0]
    return {"cycles": int(row["aware_ns"]), "unaware": int(row["unaware_ns"])}, got


def _same(row: Row, out: CompatRun) -> Answer:
    """What a row recorded of a run, and what the run came to."""
    done = out.finished >= 0
    got = {
        "cycles_max": int(out.finished.max()) if done.any() else -1,
        "cycles_min": int(out.finished[done].min()) if done.any() else -1,
        "cycles_npu0": int(out.finished[0]),
        "exposed_npu0": int(out.exposed[0]),
        "n_finished": int(done.sum()),
    }
    want = {name: _whole(row[name]) for name in got if name in row}
    stats = json.loads(row.get("stats0") or "{}")
    for name, column in (("wall", "wall"), ("gpu", "gpu"), ("cpu", "cpu"), ("comm", "comm"), ("remote_mem", "memory")):
        if stats:
            want[name], got[name] = stats.get(name, 0), int(getattr(out, column)[0])
    if stats:
        want["overlap"], got["overlap"] = stats.get("overlap", 0), int(out.overlap[0])
    return {"cycles": want.pop("cycles_max"), **want}, {"cycles": got.pop("cycles_max"), **{k: got[k] for k in want}}


def _program(row: Row) -> Answer:
    """A row of the small programs, from its description."""
    given = row.get("comm_groups")
    groups = json.loads(given) if isinstance(given, str) else None
    network = _network(row, str(row["backend"]).startswith("aware"))
    npus = int(np.prod(network["npus_count"]))
    text = str(row["program"])
    system = json.loads(row["system"]) | {"rendezvous-protocol": "rendezvous" in text}
    traces = traces_of(text, npus, len(network["topology"]), groups)
    return _same(row, run(traces, network, system, json.loads(row["memory"])))


def _generated(row: Row, fixtures: Fixtures) -> Answer:
    """A row of the programs of Chakra's generator."""
    traces = fixtures.traces(f"{row['generator_program']}.0.et")
    system = BASE | _natural(["Ring"])
    return _same(row, run(traces, _network({"net": "R8"}, False), system, EXAMPLE_MEMORY))


def _text(row: Row, fixtures: Fixtures) -> Answer:
    """A row of the workloads converted from text."""
    network = _network(row, str(row["backend"]).startswith("aware"))
    system = BASE | _natural(network["topology"]) | {"preferred-dataset-splits": int(row["chunks"])}
    return _same(row, run(fixtures.traces(f"{row['workload']}/w.0.et"), network, system))


def _transformer(row: Row, fixtures: Fixtures) -> Answer:
    """A row of the Transformer traces."""
    network = _network(row, str(row["backend"]).startswith("aware"))
    system = BASE | _natural(network["topology"], str(row["algos"]))
    system |= {
        "scheduling-policy": row["sched"],
        "peak-perf": float(row["peak_tflops"]),
        "local-mem-bw": float(row["local_mem_bw"]),
        "roofline-enabled": 1,
        "preferred-dataset-splits": int(row["chunks"]),
        "active-chunks-per-dimension": int(row["active"]),
        "endpoint-delay": int(row["endpoint_delay"]),
    }
    return _same(row, run(fixtures.traces(f"{row['workload']}/workload.0.et"), network, system))


def text(report: dict[str, Any]) -> str:
    """A report as lines: the fractions, each group, and the rows that differ."""
    lines = [
        f"{report['n']} runs: {report['exact_fraction']:.2%} to the nanosecond, "
        f"{report['within_2pct_fraction']:.2%} within 2 %"
    ]
    apart = {name: part for name, part in report["by_group"].items() if part["exact_fraction"] < 1}
    lines += [f"  {name}: {part['exact_fraction']:.1%} of {part['n']} exact" for name, part in apart.items()]
    for item in report["worst"]:
        told = ", ".join(f"{k} {a} recorded, {b} simulated" for k, (a, b) in item["recorded_and_simulated"].items())
        names = [str(value) for key, value in item.items() if key not in ("row", "relative", "recorded_and_simulated")]
        lines.append(f"  row {item['row']} ({' '.join(names)[:80]}): {told}")
    return "\n".join(lines)


def _compare(row: Row, answer: Callable[[Row], Answer]) -> Row:
    """One row simulated: what differs, and by how much of the recorded cycles."""
    present = {key: value for key, value in row.items() if not (isinstance(value, float) and np.isnan(value))}
    try:
        want, got = answer(present | _empty(row))
    except SpecError as error:
        return {"exact": False, "gap": 1.0, "apart": {"cannot be simulated": ["", str(error)[:300]]}, "error": error}
    apart = {key: [want[key], got[key]] for key in want if want[key] != got[key]}
    gap = abs(got["cycles"] - want["cycles"]) / max(abs(want["cycles"]), 1)
    return {"exact": not apart, "gap": gap, "apart": apart, "error": None}


def _report(frame: pd.DataFrame, answer: Callable[[Row], Answer], names: list[str], by: list[str]) -> dict[str, Any]:
    """Compare every row; ``names`` are the columns that identify one, ``by`` those that group them."""
    import pandas as pd

    if frame.empty:
        raise SpecError([Fault("table", "", "has no rows")])
    rows = frame.to_dict("records")
    out = pd.DataFrame([_compare(row, answer) for row in rows])
    if out["error"].notna().all():
        raise out["error"][0]
    out["group"] = [" ".join(str(row[name]) for name in by) for row in rows]
    worst = out[~out["exact"]].sort_values("gap", ascending=False, kind="stable").head(10)
    return {
        "n": len(out),
        "exact_fraction": float(out["exact"].mean()),
        "within_2pct_fraction": float((out["gap"] <= 0.02).mean()),
        "worst": [
            {
                "row": at,
                **{name: _shown(rows[at][name]) for name in names},
                "relative": float(item["gap"]),
                "recorded_and_simulated": item["apart"],
            }
            for at, item in worst.to_dict("index").items()
        ],
        "by_group": {
            str(name): {
                "n": len(part),
                "exact_fraction": float(part["exact"].mean()),
                "max_relative": float(part["gap"].max()),
            }
            for name, part in out.groupby("group", sort=True)
        },
    }


def _empty(row: Row) -> Row:
    """The result columns that are empty: a run that ended early."""
    return {
        key: None
        for key in ("cycles_ns", "cycles_min", "cycles_max", "cycles_npu0", "exposed_npu0")
        if key in row and row[key] != row[key]
    }


def _shown(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _needs(frame: pd.DataFrame, path: Path | str, kinds: dict[str, tuple[str, ...]]) -> str:
    """Which kind of table it is, by the columns that each kind has."""
    for kind, columns in kinds.items():
        if set(columns) <= set(frame.columns):
            return kind
    listed = "; ".join(f"{kind}: {', '.join(columns)}" for kind, columns in kinds.items())
    raise SpecError(
        [
            Fault(
                "table",
                ", ".join(map(str, frame.columns))[:120],
                f"must have the columns of a known kind ({listed})",
                str(path)[-200:],
            )
        ]
    )


def validate_collectives(path: Path | str) -> dict[str, Any]:
    """Agreement with a table of collectives, or of the HGX-H100 configuration.

    Returns:
        ``n``, ``exact_fraction``, ``within_2pct_fraction``, ``worst`` (rows that differ), ``by_group``.

    Raises:
        SpecError: the table cannot be read or has other columns.
    """
    frame = table(path)
    kind = _needs(
        frame,
        path,
        {
            "server": ("size_bytes", "aware_ns", "unaware_ns"),
            "several dimensions": ("collective", "algo_per_dim", "npus_count", "size_bytes", "chunks", "cycles_ns"),
            "one dimension": ("collective", "algo", "npus", "size_bytes", "chunks", "cycles_ns"),
        },
    )
    if kind == "server":
        return _report(frame, _server, ["size_bytes"], [])
    names = (
        ["topology", "collective", "algo", "npus"] if kind == "one dimension" else ["net", "collective", "algo_per_dim"]
    )
    more = [
        name for name in ("backend", "size_bytes", "chunks", "active_chunks_per_dim", "inter", "intra") if name in frame
    ]
    return _report(frame, _collective, names + more, names[:3])


def validate_programs(path: Path | str, fixtures: Path | str | None = None) -> dict[str, Any]:
    """Agreement with a table of small programs, of Chakra's generator programs, or of text workloads.

    ``fixtures`` holds the traces of the last two (archives or unpacked); by default those of the repository.

    Raises:
        SpecError: as :func:`validate_collectives`, a description that says nothing known, or traces that are missing.
    """
    frame = table(path)
    kind = _needs(
        frame,
        path,
        {
            "programs": ("program", "system", "memory", "topology", "cycles_max"),
            "generator programs": ("generator_program", "backend", "cycles_max"),
            "text workloads": ("workload", "net", "chunks", "cycles_max"),
        },
    )
    if kind == "programs":
        return _report(frame, _program, ["case", "program"], ["backend", "topology"])
    with Fixtures(fixtures) as opened:
        if kind == "generator programs":
            return _report(frame, lambda row: _generated(row, opened), ["generator_program", "backend"], ["backend"])
        return _report(frame, lambda row: _text(row, opened), ["workload", "net", "backend"], ["workload"])


def validate_traces(path: Path | str, fixtures: Path | str | None = None) -> dict[str, Any]:
    """Agreement with a table of Transformer traces; ``fixtures`` as :func:`validate_programs`.

    Raises:
        SpecError: as :func:`validate_programs`.
    """
    frame = table(path)
    columns = ("workload", "net", "algos", "sched", "peak_tflops", "topology", "npus_count", "cycles_max")
    if not set(columns) <= set(frame.columns) and {"workload", "net", "chunks"} <= set(frame.columns):
        return validate_programs(path, fixtures)
    _needs(frame, path, {"traces": columns})
    with Fixtures(fixtures) as opened:
        return _report(
            frame,
            lambda row: _transformer(row, opened),
            ["workload", "net", "backend", "algos", "sched"],
            ["workload", "backend"],
        )
