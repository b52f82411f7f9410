"""Measured collectives against the simulator, and against the public ASTRA-sim's validated configuration.

Run ``python -m dse.accuracy.simulated``. The simulator executes each row of the measured table as one collective on the
row's network, with the fabric's constants in use (see :mod:`dse.accuracy.collectives`). ASTRA-sim's settings are those it
ships as validated for HGX-H100 (``HGX``), so that only rows inside one node of H100 or H200 are held against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.accuracy.collectives import CollectiveReport, _in_use, _report, with_relatives
from dse.accuracy.corpus import measured, numeric, read_table
from dse.accuracy.fabrics import MESH, Case, cases_of

if TYPE_CHECKING:
    import pandas as pd

    from dse.simulate.system import System

# ASTRA-sim's shipped HGX-H100 files: a switch of 8 with 400 GB/s (GB = 2^30) and 936.25 ns, rings, 4 chunks, 2 active.
HGX = {
    "network": {"topology": "Switch", "bandwidth": 400.0, "latency": 936.25},
    "system": {"algorithm": "ring", "chunks": 4, "active": 2, "local_mem_bw": 3350.0, "endpoint_delay": 10},
}
CHUNKS = 64


def system_of(case: Case, constants: Any) -> System:
    """The network that a row was measured on, idle but for the collective."""
    from dse.simulate import System
    from dse.spec.hardware import NetworkDimension

    dimensions = []
    for i, (fabric, topology) in enumerate(zip(case.fabrics, case.topologies, strict=True)):
        size = MESH if topology == "fully_connected" else None
        plain = NetworkDimension(name=f"d{i}", topology=topology, bandwidth=case.bandwidths[i], size=size)
        switched = case.reduces and i == 0 and topology == "switch"
        update = {**constants[fabric], "in_network_reduction": switched, "loaded": 1.0}
        dimensions.append(plain.model_copy(update=update))
    return System(tuple(dimensions), tuple(int(share) for share in case.shares), chunks=CHUNKS)


def simulate_case(case: Case, constants: Any) -> float:
    """Seconds that the simulator gives a row."""
    from dse.simulate import collective

    return float(collective(case.kind, case.size, system_of(case, constants), record=False).time)


def validate_simulated(path: Path | str | None = None) -> CollectiveReport:
    """Simulate every usable row of a table of collectives (by default the shipped one).

    Raises:
        SpecError: the table cannot be read or lacks columns.
    """
    frame = measured("nccl") if path is None else read_table(path)
    frame = numeric(frame, ("time_us", "size_bytes", "n_gpus", "n_nodes", "gpus_per_node", "busbw_gbs"))
    cases, refused = cases_of(frame.assign(id=frame["id"].astype(str)))
    cases = [case for case in cases if case.kind != "point_to_point"]
    constants = with_relatives(_in_use(cases), {fabric for case in cases for fabric in case.fabrics})
    report = _report(cases, refused, constants)
    by_id = {case.id: case for case in cases}
    rows = report.rows
    rows["predicted [s]"] = [simulate_case(by_id[row], constants) for row in rows["id"]]
    rows["error"] = rows["predicted [s]"] / rows["measured [s]"] - 1.0
    return CollectiveReport(rows, report.refused)
