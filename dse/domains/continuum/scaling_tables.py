"""Tables of scaling runs, brought to one form: what ran where on how many nodes, and the seconds it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dse.errors import Fault, SpecError
from dse.spec.catalogue import asset_root

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
DAY = 86400.0
YEAR = 365.0  # days, of the models' calendar

FOLDER = "reference/continuum"
SCREAM, HOMME = "scream_v1_ne1024_runs", "homme_nh_summit_eul_vs_sl"
E3SM, DEVICES = "e3sm_v1v2_chrysalis_sypd", "hommexx_theta_single_device_saturation"
NEEDED: dict[str, tuple[str, ...]] = {
    SCREAM: ("machine", "nodes", "model_sdpd", "software_variant"),
    HOMME: ("ne", "qsize", "nmax", "transport_alg", "timer", "summit_nodes", "seconds"),
    E3SM: ("compset", "nodes", "sypd"),
}
# Timers of a SCREAM run that contain others: what is left is a part of its own.
PARTS = ("dirk", "caar", "other dycore", "physics", "other atmosphere", "rest")
HOMME_STEP = 10240.0  # seconds of simulated time in a step, times ne: what seconds and simulated years a day agree on
SEMI_LAGRANGIAN, EULERIAN = "semi-Lagrangian", "Eulerian"


@dataclass(frozen=True)
class Family:
    """Runs that one model describes.

    Attributes:
        table: the shipped table.
        title: for figures and messages.
        terms: of the time, see :func:`terms`; work comes first.
    """

    table: str
    title: str
    terms: tuple[str, ...]


# SCREAM has the dycore of the single-device table. That of the HOMME runs is older and has other levels, so its work is
# taken as even, and its problems grow with the machine. On CPUs the dycore's elements are whole, the physics' columns
# nearly even.
GROWING = ("even", "surface", "latency", "machine")
FAMILIES: dict[str, Family] = {
    "scream": Family(SCREAM, "SCREAM v1 at 3.25 km", ("device", "surface", "latency")),
    "homme-main_loop": Family(HOMME, "HOMME dycore", GROWING),
    "homme-advection": Family(HOMME, "HOMME transport of tracers", GROWING),
    "e3sm": Family(E3SM, "E3SM at one degree", ("even", "device", "latency")),
}


@dataclass(frozen=True)
class Machine:
    """Attributes:
    devices: a node has.
    nodes: in all.
    power: watts of a node under load; None: not known.
    curve: machine and variant in the table of single devices; None: none.
    """

    devices: int
    nodes: int
    power: float | None
    curve: tuple[str, str] | None
    source: str


def read(path: Path | str) -> pd.DataFrame:
    """A table, CSV or Parquet.

    Raises:
        SpecError: it cannot be read.
    """
    import pandas as pd

    path = Path(path)
    try:
        return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise SpecError([Fault("table", str(path)[-200:], f"cannot be read: {str(error)[:160]}")]) from None


@cache
def machines() -> Mapping[str, Machine]:
    """The machines that scaling tables name, by name."""
    from ruamel.yaml import YAML

    from dse.units import parse

    listed = YAML(typ="safe", pure=True).load(asset_root("data") / "continuum" / "machines.yaml")
    out = {}
    for name, entry in listed.items():
        device, power = entry.get("device"), entry.get("node_power")
        out[name] = Machine(
            devices=entry["devices_per_node"],
            nodes=entry["nodes"],
            power=None if power is None else parse(power, "W"),
            curve=None if device is None else (device["machine"], device["variant"]),
            source=entry["source"],
        )
    return out


def machine(name: str) -> Machine:
    """Raises:
    SpecError: no machine of that name.
    """
    known = machines()
    if name not in known:
        raise SpecError([Fault("machine", repr(name)[:60], f"must be one of {', '.join(known)}")])
    return known[name]


@cache
def shipped(family: str) -> pd.DataFrame:
    """The shipped runs of a family, see :func:`normalised`."""
    found = normalised(read(asset_root("data") / FOLDER / f"{FAMILIES[family].table}.csv"))
    return found[family]


def normalised(table: pd.DataFrame, *, where: str = "") -> dict[str, pd.DataFrame]:
    """Runs by family, in one form.

    Columns: machine, algorithm (what varies by choice: transport scheme, tracers, component set), variant (software
    stack), elements, nodes (NaN: not a number), seconds, days (simulated in those seconds), row (of the table); of
    SCREAM also atm, dycore and the seconds of each part, where the table has them.

    Raises:
        SpecError: the columns are those of no scaling table, or hold what is not a positive number.
    """
    for name, needed in NEEDED.items():
        if set(needed) <= set(table.columns):
            return {SCREAM: _scream, HOMME: _homme, E3SM: _e3sm}[name](table.reset_index(drop=True), where)
    rule = "must be those of a scaling table: " + "; or ".join(", ".join(needed) for needed in NEEDED.values())
    raise SpecError([Fault("columns", ", ".join(map(str, table.columns))[:120], rule, where)])


def _positive(table: pd.DataFrame, column: str, where: str) -> Floats:
    import pandas as pd

    values = pd.to_numeric(table[column], errors="coerce").to_numpy(float)
    bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
    if len(bad):
        shown = repr(table[column].iloc[bad[0]])[:40]
        raise SpecError([Fault(f"{column}[{bad[0]}]", shown, "must be a positive number", where)])
    return values


def _scream(table: pd.DataFrame, where: str) -> dict[str, pd.DataFrame]:
    import pandas as pd

    stack = table["software_variant"].fillna("").astype(str)
    eulerian = stack.str.endswith("-eul")
    out = pd.DataFrame(
        {
            "machine": table["machine"].astype(str),
            "algorithm": np.where(eulerian, EULERIAN, SEMI_LAGRANGIAN),
            "variant": stack.str.removesuffix("-eul"),
            "elements": 6.0 * 1024**2,
            "nodes": _positive(table, "nodes", where),
            "seconds": DAY / _positive(table, "model_sdpd", where),
            "days": 1.0,
            "row": table.index,
        }
    )
    timers = ("atm", "dycore", "dirk", "caar", "physics")
    if all(f"{timer}_sdpd" in table for timer in timers):
        at = {timer: DAY / table[f"{timer}_sdpd"].astype(float) for timer in timers}
        out["atm"], out["dycore"] = at["atm"], at["dycore"]
        out["dirk"], out["caar"], out["physics"] = at["dirk"], at["caar"], at["physics"]
        out["other dycore"] = at["dycore"] - at["dirk"] - at["caar"]
        out["other atmosphere"] = at["atm"] - at["dycore"] - at["physics"]
        out["rest"] = out["seconds"] - at["atm"]
    return {"scream": out}


def _homme(table: pd.DataFrame, where: str) -> dict[str, pd.DataFrame]:
    import pandas as pd

    ne = _positive(table, "ne", where)
    scheme = table["transport_alg"].map({"Eul": EULERIAN, "SL": SEMI_LAGRANGIAN})
    if scheme.isna().any() or not table["timer"].isin(["main_loop", "advection"]).all():
        rule = "transport_alg must be Eul or SL, timer main_loop or advection"
        raise SpecError([Fault("transport_alg, timer", "", rule, where)])
    steps = _positive(table, "nmax", where)
    out = pd.DataFrame(
        {
            "machine": "Summit",
            "algorithm": scheme + ", " + table["qsize"].astype(int).astype(str) + " tracers",
            "variant": "ne" + table["ne"].astype(int).astype(str),  # what runs of one problem share
            "elements": 6.0 * ne**2,
            "nodes": _positive(table, "summit_nodes", where),
            "seconds": _positive(table, "seconds", where) / steps * 1000.0,  # of a thousand steps
            "days": 1000.0 * HOMME_STEP / ne / DAY,
            "row": table.index,
        }
    )
    return {f"homme-{timer}": out[(table["timer"] == timer).to_numpy()] for timer in ("main_loop", "advection")}


def _e3sm(table: pd.DataFrame, where: str) -> dict[str, pd.DataFrame]:
    import pandas as pd

    out = pd.DataFrame(
        {
            "machine": "Chrysalis",
            "algorithm": table["compset"].astype(str),
            "variant": "",
            "elements": 6.0 * 30**2,
            "nodes": pd.to_numeric(table["nodes"], errors="coerce").astype(float),
            "seconds": DAY / YEAR / _positive(table, "sypd", where),  # of a simulated day
            "days": 1.0,
            "row": table.index,
        }
    )
    return {"e3sm": out}


@cache
def saturation(name: str, variant: str) -> Any:
    """Seconds of 500 dycore steps on one device by the elements that it holds: a function of an array.

    Between measured points it is smooth and monotone in logs; beyond the largest, time grows with the elements; below
    the smallest it stays, since launches and latencies then are all of it.
    """
    from scipy.interpolate import PchipInterpolator

    table = read(asset_root("data") / FOLDER / f"{DEVICES}.csv")
    points = table[(table["machine"] == name) & (table["variant"] == variant)].sort_values("elements")
    low, high = float(points["elements"].min()), float(points["elements"].max())
    inside = PchipInterpolator(np.log(points["elements"]), np.log(points["prim_main_loop_s"]))

    def seconds(elements: Floats) -> Floats:
        return np.exp(inside(np.log(np.clip(elements, low, high)))) * np.maximum(elements / high, 1.0)

    return seconds


def terms(names: tuple[str, ...], where: str, elements: Floats, nodes: Floats) -> Floats:
    """[run, term]: what the time of a run is made of, up to a factor each.

    ``device``: work of the fullest device, from its measured saturation curve where there is one, else its whole
    elements; ``even``: work that all devices share evenly; ``surface``: the rim of a device's elements, which it
    exchanges; ``latency``: what does not depend on nodes; ``machine``: exchange across the whole machine, taken to grow
    as the cube root of its nodes.
    """
    at = machine(where)
    held = np.ceil(elements / (nodes * at.devices))
    made = {
        "device": saturation(*at.curve)(held) if at.curve else held,
        "even": elements / (nodes * at.devices),
        "surface": np.sqrt(held),
        "latency": np.ones(len(held)),
        "machine": np.cbrt(nodes),
    }
    return np.stack([made[name] for name in names], axis=1)
