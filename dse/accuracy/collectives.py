"""Collective times by fabric: constants fitted to measured collectives, and predictions held against them.

Run ``python -m dse.accuracy.collectives`` to refit every fabric of the shipped table and to see the errors. A row is a
collective of nccl-tests' convention: ``size_bytes`` is the full buffer, also for all-gather and reduce-scatter.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.accuracy.corpus import measured, numeric, read_table
from dse.accuracy.fabrics import MESH, Case, cases_of
from dse.accuracy.report import GroupedReport, error_statistics
from dse.cost.network import Links
from dse.spec import calibration
from dse.spec.hardware import NetworkDimension

if TYPE_CHECKING:
    import pandas as pd

Constants = Mapping[str, Mapping[str, Any]]
# Where NCCL is in charge inside a node it runs rings; between nodes rings pass through all devices, and small
# all-reduces use trees. Latencies between nodes are NCCL's (2.19, src/graph/tuning.cc, NET: ring Simple and LL), as the
# measured groups have too few nodes to tell them from the start-up.
INSIDE = {"algorithm": "ring"}
SWITCHED = {**INSIDE, "in_network_pull": 1.0}
ROOT = {"algorithm": "ring", "flat": True, "latency": 5.7e-6, "small_latency": 1e-6}
BETWEEN = {"flat": True, "latency": 14e-6, "small_latency": 2.7e-6}
FIXED: Constants = {"nvlink3": INSIDE, "nvlink4": SWITCHED, "nvlink5": SWITCHED, "pcie4": ROOT, "pcie5": ROOT,
                    "xgmi": {}, "infiniband_staged": BETWEEN, "efa": BETWEEN}  # fmt: skip
ALL = ("overhead", "latency", "efficiency", "ramp", "small_overhead", "small_latency", "small_efficiency", "own_copy",
       "pair_efficiency")  # fmt: skip
IN_SWITCH = ("in_network_efficiency", "in_network_ramp")
STARTUP = ("overhead", "latency", "small_overhead", "small_latency", "small_efficiency", "pair_efficiency")
FREE = {
    "nvlink3": ALL,
    "nvlink4": (*ALL, *IN_SWITCH),
    "nvlink5": (*ALL, *IN_SWITCH),
    "pcie4": (*ALL, "contention"),
    "pcie5": ("overhead", "efficiency", "small_overhead", "small_efficiency"),
    "xgmi": ("efficiency",),
    "infiniband_staged": ("overhead", "efficiency", "ramp", "small_overhead", "small_efficiency"),
    "efa": ("overhead", "efficiency", "ramp"),
}
# Start and bounds of each constant. Start-up and steps take at least as long as in the protocol for small messages (the
# estimates in NCCL's tuning differ by factors of one to six), so that these are fitted as ratios where there is one.
RATIOS = {"overhead": "small_overhead", "latency": "small_latency"}
RANGES = {
    "overhead": (2e-5, 1e-6, 1e-3),
    "latency": (2e-6, 1e-7, 5e-5),
    "efficiency": (0.8, 0.05, 0.97),  # headers of packets take the rest
    "ramp": (2e-6, 1e-8, 1e-4),
    "small_overhead": (6e-6, 1e-6, 2e-4),
    "small_latency": (1e-6, 1e-7, 2e-5),
    "small_efficiency": (0.3, 0.01, 1.0),
    "pair_efficiency": (0.015, 0.002, 1.0),
    "own_copy": (0.4, 0.05, 1.0),
    "contention": (1.0, 0.01, 3.0),
    "in_network_efficiency": (0.7, 0.3, 1.0),
    "in_network_ramp": (5e-6, 1e-8, 1e-4),
}
RATIO = (2.0, 1.0, 8.0)
# Whose constants a fabric takes without measurements of its own.
RELATIVES = {"nvlink1": "nvlink2", "nvlink2": "nvlink3", "nvlink3": "nvlink4", "nvlink4": "nvlink5",
             "nvlink5": "nvlink4", "pcie3": "pcie4", "pcie4": "pcie5", "pcie5": "pcie4", "xgmi": "nvlink5",
             "neuronlink": "xgmi", "ici": "xgmi", "dojo": "xgmi", "roce": "infiniband", "omni_path": "infiniband",
             "ethernet": "infiniband", "gaudi_ethernet": "xgmi", "efa": "infiniband"}  # fmt: skip


# -- predictions --------------------------------------------------------------------------------------------


def predictor(cases: Sequence[Case]) -> Callable[[Constants], np.ndarray]:
    """A function from constants to the seconds of every case; cases of one structure are priced in one call."""
    groups: dict[Any, list[int]] = defaultdict(list)
    for index, case in enumerate(cases):
        groups[case.kind, case.fabrics, case.topologies].append(index)
    prepared = [(key, np.array(members), _arrays([cases[i] for i in members])) for key, members in groups.items()]

    def predict(constants: Constants) -> np.ndarray:
        seconds = np.empty(len(cases))
        for (kind, fabrics, topologies), members, (buffer, reduces, bandwidths, shares) in prepared:
            dimensions = []
            for i, (fabric, topology) in enumerate(zip(fabrics, topologies, strict=True)):
                switched = reduces if i == 0 and topology == "switch" else False
                dimensions.append(idle_dimension(i, topology, bandwidths[i], constants[fabric], switched))
            seconds[members] = Links(dimensions, {"all": shares}, 64).time(kind, "all", buffer)
        return seconds

    return predict


def idle_dimension(index: int, topology: str, bandwidth: Any, constants: Mapping[str, Any], switched: Any) -> Any:
    """A dimension of a benchmark's network: its links are idle but for the collective. Fields may be arrays."""
    size = MESH if topology == "fully_connected" else None
    plain = NetworkDimension(name=f"d{index}", topology=topology, bandwidth=1.0, size=size)
    update = {**constants, "bandwidth": bandwidth, "in_network_reduction": switched, "loaded": 1.0}
    return plain.model_copy(update=update)


def _arrays(cases: Sequence[Case]) -> tuple[np.ndarray, np.ndarray, list[np.ndarray], list[np.ndarray]]:
    size = np.array([case.size for case in cases])
    reduces = np.array([case.reduces for case in cases])
    bandwidths = [np.array(column) for column in zip(*(case.bandwidths for case in cases), strict=True)]
    shares = [np.array(column) for column in zip(*(case.shares for case in cases), strict=True)]
    return size, reduces, bandwidths, shares


# -- fit ----------------------------------------------------------------------------------------------------


def fit_collectives(frame: pd.DataFrame | None = None) -> dict[str, dict[str, Any]]:
    """Constants of each fabric, as fields of ``NetworkDimension``, fitted to a table (by default the shipped one).

    Robust least squares of log(predicted / measured), every row alike. Inner fabrics come first and stay as they are
    when the outer ones are fitted. ``infiniband`` is composed: no row measures it with direct memory access, so it
    takes the efficiency from EFA, which NCCL drives alike, and the start-up from InfiniBand staged through the host.
    ``xgmi`` is measured in large messages only and takes its start-up from NVLink 4.
    """
    cases, _ = cases_of(measured("nccl") if frame is None else frame)
    found: dict[str, dict[str, Any]] = {}
    for fabric, names in FREE.items():
        mine = [case for case in cases if case.fabrics[-1] == fabric]
        inner = {name for case in mine for name in case.fabrics[:-1]}
        if mine and inner <= set(found):
            found[fabric] = _fit(fabric, names, mine, found)
    if {"efa", "infiniband_staged"} <= set(found):
        found["infiniband"] = {**found["efa"], "overhead": found["infiniband_staged"]["overhead"]}
    if {"xgmi", "nvlink4"} <= set(found):
        found["xgmi"] = {**{name: found["nvlink4"][name] for name in STARTUP}, **found["xgmi"]}
    return found


def _fit(fabric: str, names: Sequence[str], cases: Sequence[Case], inner: Constants) -> dict[str, Any]:
    """One fabric's constants, from the best of a few starts."""
    from scipy.optimize import least_squares

    if not any(case.reduces for case in cases):
        names = [name for name in names if name not in IN_SWITCH]
    predict, seconds = predictor(cases), np.array([case.seconds for case in cases])

    ratios = {name: other for name, other in RATIOS.items() if {name, other} <= set(names)}

    def values(point: np.ndarray) -> dict[str, Any]:
        found = {**FIXED[fabric], **dict(zip(names, np.exp(point).tolist(), strict=True))}
        return {**found, **{name: found[name] * found[other] for name, other in ratios.items()}}

    def residuals(point: np.ndarray) -> np.ndarray:
        return np.log(predict({**inner, fabric: values(point)}) / seconds)

    start, low, high = np.log([RATIO if name in ratios else RANGES[name] for name in names]).T
    best = None
    for ramp in (2e-6, 4e-7, 1e-5):  # a short and a long way to full bandwidth: there are several optima
        first = np.where(np.array(names) == "ramp", np.log(ramp), start)
        found = least_squares(residuals, first, bounds=(low, high), loss="soft_l1", f_scale=0.1, max_nfev=200)
        best = found if best is None or found.cost < best.cost else best
    return {name: float(f"{v:.4g}") if isinstance(v, float) else v for name, v in values(best.x).items()}


def with_relatives(constants: Constants, needed: Iterable[str]) -> dict[str, Mapping[str, Any]]:
    """Constants of the fabrics needed, from a relative where there are none of their own; unknown ones are left out."""
    result = {}
    for fabric in needed:
        name = fabric
        for _ in range(4):
            if name in constants:
                result[fabric] = constants[name]
                break
            name = RELATIVES.get(name, "")
    return result


# -- reports ------------------------------------------------------------------------------------------------


class CollectiveReport(GroupedReport):
    """Measured collectives against predictions."""

    what = "the time of a collective"
    groups = ("source", "gpu", "fabric", "collective", "size", "scale")


def validate_collectives(path: Path | str | None = None, constants: Constants | None = None) -> CollectiveReport:
    """Predict every usable row of a table of collectives (by default the shipped one).

    Args:
        path: CSV or Parquet with the columns of the shipped table.
        constants: of each fabric; by default those of the calibration in use.

    Raises:
        SpecError: the table cannot be read or lacks columns.
    """
    cases, refused = read_cases(path)
    return report(cases, refused, in_use(cases) if constants is None else constants)


def read_cases(path: Path | str | None) -> tuple[list[Case], dict[str, str]]:
    """The cases of a table (None: the shipped one), and the reason for each row that is refused.

    Raises:
        SpecError: the table cannot be read or lacks columns.
    """
    frame = measured("nccl") if path is None else read_table(path)
    frame = numeric(frame, ("time_us", "size_bytes", "n_gpus", "n_nodes", "gpus_per_node", "busbw_gbs"))
    return cases_of(frame.assign(id=frame["id"].astype(str)))


def in_use(cases: Sequence[Case]) -> Constants:
    current = calibration.active()
    named = {fabric for case in cases for fabric in case.fabrics}
    found = {fabric: current.of(current.fabrics, fabric)[0] for fabric in named}
    return {fabric: _as_numbers(values) for fabric, values in found.items() if values}


def _as_numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Constants of a calibration file, quantities in text with units included, as fields of a dimension."""
    plain = {"name": "d", "topology": "switch", "bandwidth": 1.0}
    parsed = NetworkDimension.parse({**plain, **values})
    return {name: getattr(parsed, name) for name in values}


def report(
    cases: Sequence[Case], refused: dict[str, str], constants: Constants,
    predict: Callable[[Sequence[Case], Constants], Any] = lambda cases, constants: predictor(cases)(constants),
) -> CollectiveReport:  # fmt: skip
    """Cases against what ``predict`` makes of them: seconds of each; by default the closed form."""
    import pandas as pd

    found = with_relatives(constants, {fabric for case in cases for fabric in case.fabrics})
    known = [case for case in cases if set(case.fabrics) <= set(found)]
    refused = {**refused, **{case.id: f"no constants of fabric {_lacking(case, found)}" for case in cases
                             if not set(case.fabrics) <= set(found)}}  # fmt: skip
    seconds = predict(known, found)
    rows = pd.DataFrame({
        "id": [case.id for case in known],
        "source": [case.source for case in known],
        "gpu": [case.gpu for case in known],
        "fabric": ["+".join(case.fabrics) for case in known],
        "collective": [case.kind for case in known],
        "size": [_size_class(case.size) for case in known],
        "scale": [_scale(case) for case in known],
        "bytes": [case.size for case in known],
        "measured [s]": [case.seconds for case in known],
        "predicted [s]": seconds,
    })  # fmt: skip
    rows["error"] = rows["predicted [s]"] / rows["measured [s]"] - 1.0
    rows["reason"] = _reasons(rows, [case.note for case in known])
    return CollectiveReport(rows, refused)


def _lacking(case: Case, found: Mapping[str, Any]) -> str:
    return next(fabric for fabric in case.fabrics if fabric not in found)


def _size_class(size: float) -> str:
    limits = ((2**16, "1: up to 64 KiB"), (2**22, "2: up to 4 MiB"), (2**27, "3: up to 128 MiB"))
    return next((name for limit, name in limits if size <= limit), "4: above 128 MiB")


def _scale(case: Case) -> str:
    ranks = int(np.prod(case.shares))
    between = case.fabrics[-1] in ("infiniband", "infiniband_staged", "efa", "roce", "omni_path", "ethernet")
    return f"{ranks:>2} ranks" + (f" on {int(case.shares[-1])} nodes" if between else "")


def _reasons(rows: pd.DataFrame, notes: Sequence[str]) -> list[str]:
    """What may explain an error: the row against other rows of the same configuration, an assumption, or its size."""
    if not len(rows):
        return []
    alike = rows.groupby(["gpu", "fabric", "collective", "scale", np.round(np.log2(rows["bytes"]))])["measured [s]"]
    usual, number = alike.transform("median").to_numpy(), alike.transform("size").to_numpy()
    ratio = rows["measured [s]"].to_numpy() / usual
    reasons = []
    for i, note in enumerate(notes):
        if number[i] > 2 and max(ratio[i], 1.0 / ratio[i]) > 1.5:
            reasons.append(f"{ratio[i]:.1f} times the median of {number[i]} rows alike, {usual[i] * 1e6:.0f} us")
        elif note:
            reasons.append(note)
        elif rows["bytes"].iloc[i] <= 2**20:
            reasons.append("start-up, which depends on the measuring program and its version")
        else:
            reasons.append("this system or protocol choice differs from the fabric's usual")
    where = rows["fabric"] + " " + rows["collective"] + ", " + rows["scale"].str.strip()
    sizes = (rows["bytes"] / 2**20).map("{:.3g} MiB".format)
    return [f"{at}, {size}: {why}" for at, size, why in zip(where, sizes, reasons, strict=True)]


def held_out_collectives(frame: pd.DataFrame | None = None) -> dict[str, dict[str, dict[str, Any]]]:
    """Errors of rows predicted with constants fitted to all other sources, and to all other GPUs.

    Returns:
        ``{"source": {name: statistics}, "gpu": {...}}``; ``n`` counts predicted rows, ``n_refused`` those whose
        fabric nothing else measures, directly or through a relative.
    """
    frame = measured("nccl") if frame is None else frame
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for label, column in (("source", "source_key"), ("gpu", "gpu")):
        result[label] = {}
        for name in frame[column].dropna().unique():
            out = frame[column] == name
            cases, _ = cases_of(frame[out])
            found = report(cases, {}, fit_collectives(frame[~out]))
            counts = {"n": len(found.rows), "n_refused": len(found.refused)}
            result[label][str(name)] = {**counts, **error_statistics(found.rows["error"])}
    return result


def main() -> None:
    """Refit and print."""
    import sys

    constants = fit_collectives()
    lines = [f"{fabric}: {values}" for fabric, values in constants.items()]
    lines += ["", str(validate_collectives(constants=constants)), "", "held out"]
    for label, groups in held_out_collectives().items():
        lines += [f"{label} {name}: {values}" for name, values in groups.items()]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
