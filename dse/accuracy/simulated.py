"""Measured collectives against the simulator, and against the public ASTRA-sim's validated configuration.

Run ``python -m dse.accuracy.simulated``. The simulator executes each row of the measured table as one collective on the
row's network, with the fabric's constants in use (see :mod:`dse.accuracy.collectives`). ASTRA-sim's settings are those
it ships as validated for HGX-H100, so that only rows inside one node of H100 or H200 are held against it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.accuracy.collectives import CollectiveReport, idle_dimension, in_use, read_cases, report
from dse.accuracy.fabrics import Case

if TYPE_CHECKING:
    import pandas as pd

    from dse.simulate.system import System

# ASTRA-sim's shipped HGX-H100 files: a switch with 400 GB/s (GB = 2^30) and 936.25 ns, rings, 4 chunks, 2 at once.
NETWORK = {"topology": ["Switch"], "bandwidth": [400.0], "latency": [936.25], "aware": True}
SYSTEM = {
    "endpoint-delay": 10, "active-chunks-per-dimension": 2, "preferred-dataset-splits": 4, "local-mem-bw": 3350,
    "collective-optimization": "localBWAware",
    **{f"{kind}-implementation": ["ring"] for kind in ("all-reduce", "all-gather", "reduce-scatter", "all-to-all")},
}  # fmt: skip
DOCUMENTED = {
    2: 0.2063,
    4: 0.1201,
    8: 0.0969,
}  # geometric mean errors of all-reduce on H100 that its documentation gives
CHUNKS = 64


def system_of(case: Case, constants: Any) -> System:
    """The network that a row was measured on, idle but for the collective."""
    from dse.simulate import System

    parts = zip(case.fabrics, case.topologies, case.bandwidths, strict=True)
    dimensions = [
        idle_dimension(i, topology, rate, constants[fabric], case.reduces and i == 0 and topology == "switch")
        for i, (fabric, topology, rate) in enumerate(parts)
    ]
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
    cases, refused = read_cases(path)
    cases = [case for case in cases if case.kind != "point_to_point"]
    return report(cases, refused, in_use(cases), lambda known, found: [simulate_case(case, found) for case in known])


def against_astra_sim(simulated: CollectiveReport) -> pd.DataFrame:
    """Rows in a node of NVLink 4 with the prediction of ASTRA-sim's validated configuration beside the simulator's.

    Adds ``ranks``, ``astra-sim [s]`` and ``astra-sim error``; kinds that its rings cannot do are left out.
    """
    from dse.simulate.compat import collective

    rows = simulated.rows
    rows = rows[(rows["fabric"] == "nvlink4") & rows["collective"].isin(["all_reduce", "all_gather", "reduce_scatter"])]
    rows = rows.assign(ranks=rows["scale"].str.split().str[0].astype(int))
    seconds = []
    for row in rows.itertuples():
        network = NETWORK | {"npus_count": [row.ranks]}
        # An all-gather's size is what one NPU contributes there.
        size = int(row.bytes) // (row.ranks if row.collective == "all_gather" else 1)
        seconds.append(collective(network, SYSTEM, row.collective, max(size, 1))[0] * 1e-9)
    rows["astra-sim [s]"] = seconds
    rows["astra-sim error"] = rows["astra-sim [s]"] / rows["measured [s]"] - 1.0
    return rows


def errors_beside(rows: pd.DataFrame) -> pd.DataFrame:
    """Errors of both by source, collective and ranks: mean and geometric mean of |error|, and the count of rows."""
    import pandas as pd

    found = []
    for (source, kind, ranks), group in rows.groupby(["source", "collective", "ranks"]):
        line: dict[str, Any] = {"source": source.split()[0], "collective": kind, "ranks": ranks, "rows": len(group)}
        for name, column in (("simulated", "error"), ("ASTRA-sim", "astra-sim error")):
            size = group[column].abs()
            line |= {f"{name}, mean": size.mean(), f"{name}, geometric": float(np.exp(np.log(size.clip(1e-4)).mean()))}
        found.append(line)
    return pd.DataFrame(found)


def main() -> None:
    """Print the report and the comparison."""
    import sys

    simulated = validate_simulated()
    table = errors_beside(against_astra_sim(simulated)).to_string(index=False, float_format="{:.3f}".format)
    documented = ", ".join(f"{ranks} devices {error:.1%}" for ranks, error in DOCUMENTED.items())
    sys.stdout.write(f"{simulated}\n\n{table}\n\nASTRA-sim's own figures for all-reduce on H100: {documented}\n")


if __name__ == "__main__":
    main()
