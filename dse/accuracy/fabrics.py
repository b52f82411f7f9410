"""Rows of measured collectives as cases: the group of devices, and the network dimensions that it spans."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import Fault, SpecError

if TYPE_CHECKING:
    import pandas as pd

NEEDED = ("id", "source_key", "gpu", "interconnect", "n_gpus", "n_nodes", "gpus_per_node", "collective", "size_bytes",
          "time_us")  # fmt: skip
KINDS = {"all_reduce": "all_reduce", "all_gather": "all_gather", "reduce_scatter": "reduce_scatter",
         "alltoall": "all_to_all", "all_to_all": "all_to_all", "broadcast": "broadcast",
         "sendrecv": "point_to_point"}  # fmt: skip
# Nameplate bandwidth of one device per direction, in B/s (datasheets), where the GPU does not say otherwise.
BANDWIDTH = {"nvlink2": 150e9, "nvlink3": 300e9, "nvlink4": 450e9, "nvlink5": 900e9, "pcie3": 15.75e9,
             "pcie4": 31.5e9, "pcie5": 63e9}  # fmt: skip
CUT_DOWN = {"A800": 200e9, "H800": 200e9}
XGMI = {"MI300X": 448e9, "MI325X": 448e9, "MI350X": 537.6e9, "MI355X": 537.6e9}
MESH = 8  # devices of a node with direct links between all
BRIDGED = {"A100": (("nvlink3", 300e9), ("pcie4", 31.5e9)), "H100": (("nvlink4", 300e9), ("pcie5", 63e9))}
NODE_RATE = {"A100": 25e9, "H100": 50e9, "H200": 50e9, "B200": 50e9}  # one adapter of 200 or 400 Gb/s for each GPU
SWITCHED = ("NVSwitch", "NVL72", "NVL36")


class Refused(ValueError):
    """A row that cannot be predicted; the message is the reason."""


@dataclass(frozen=True)
class Case:
    """One measured collective and the network it ran on."""

    id: str
    source: str
    gpu: str
    kind: str
    size: float  # bytes
    seconds: float
    fabrics: tuple[str, ...]  # of the dimensions, innermost first
    topologies: tuple[str, ...]
    bandwidths: tuple[float, ...]  # B/s of one device
    shares: tuple[float, ...]  # ranks in each dimension
    reduces: bool  # in the switch
    note: str  # what had to be assumed


def cases_of(frame: pd.DataFrame) -> tuple[list[Case], dict[str, str]]:
    """The rows of a table as cases, and the reason for each row that is refused.

    Raises:
        SpecError: columns are missing.
    """
    lacking = [name for name in NEEDED if name not in frame.columns]
    if lacking:
        raise SpecError([Fault("file", "", f"lacks the columns {', '.join(lacking)}")])
    cases, refused = [], {}
    for row in frame.to_dict("records"):
        try:
            cases.append(_case(row))
        except Refused as reason:
            refused[str(row["id"])] = str(reason)
    return cases, refused


def _case(row: Mapping[str, Any]) -> Case:
    kind = KINDS.get(str(row["collective"]))
    if kind is None:
        raise Refused(f"unknown collective {row['collective']}")
    numbers = [float(row[name]) for name in ("time_us", "size_bytes", "n_gpus", "n_nodes", "gpus_per_node")]
    if not all(np.isfinite(numbers)) or min(numbers) <= 0:
        raise Refused("time, size, devices or nodes are missing or not positive")
    if "time_us" in str(row.get("derived")) and 0 < float(row.get("busbw_gbs", 1.0)) < 0.1:
        raise Refused("time derived from a bandwidth that was printed with one digit")
    fabrics, topologies, bandwidths, shares, note = _network(row)
    algorithm = str(row.get("algorithm"))
    forced = "NVLS" in algorithm and "off" not in algorithm
    # NVLS is NCCL's choice in a node of NVLink 4 but not on NVLink 5 below sizes of gigabytes (measured defaults).
    default = "Ring" not in algorithm and fabrics[0] == "nvlink4" and topologies[0] == "switch"
    return Case(str(row["id"]), str(row["source_key"]), str(row["gpu"]), kind, float(row["size_bytes"]),
                float(row["time_us"]) * 1e-6, fabrics, topologies, bandwidths, shares,
                kind == "all_reduce" and (forced or default), note)  # fmt: skip


Network = tuple[tuple[str, ...], tuple[str, ...], tuple[float, ...], tuple[float, ...], str]


def _network(row: Mapping[str, Any]) -> Network:
    """Fabrics, topologies, bandwidths and ranks of the dimensions that a row's group spans, and what is assumed."""
    text, gpu = row["interconnect"], row["gpu"]
    if not isinstance(text, str) or not text.strip():
        raise Refused("the interconnect is not stated")
    if not isinstance(gpu, str):
        raise Refused("the GPU is not stated")
    ranks, nodes = float(row["n_gpus"]), float(row["n_nodes"])
    parts = [part.strip() for part in text.split("+")]
    if parts[0].startswith("pairwise"):
        return _bridged(gpu, ranks, nodes)
    fabric, bandwidth, topology = _inner(parts[0], gpu)
    if nodes == 1 or "NVL72" in parts[0]:
        return (fabric,), (topology,), (bandwidth,), (ranks,), ""
    if len(parts) < 2:
        raise Refused("the network between the nodes is not stated")
    inside = ranks / nodes
    outer, rate, note = _outer(parts[1], gpu, float(row["gpus_per_node"]))
    return (fabric, outer), (topology, "switch"), (bandwidth, rate), (inside, nodes), note


def _inner(text: str, gpu: str) -> tuple[str, float, str]:
    """Fabric, bandwidth of one device and topology inside a node."""
    link = re.match(r"(NVLink|PCIe)\s?(\d)", text)
    if link:
        fabric = f"{link[1].lower()}{link[2]}"
        if fabric not in BANDWIDTH:
            raise Refused(f"unknown interconnect {text}")
        if link[1] == "NVLink" and not any(word in text for word in SWITCHED):
            raise Refused("NVLink without a switch, of unknown wiring")
        return fabric, CUT_DOWN.get(gpu.split("-")[0], BANDWIDTH[fabric]), "switch"
    if text.startswith("XGMI") and gpu in XGMI:
        return "xgmi", XGMI[gpu], "fully_connected"
    raise Refused(f"unknown interconnect {text}")


def _bridged(gpu: str, ranks: float, nodes: float) -> Network:
    """Pairs of devices with an NVLink bridge, the pairs on PCIe."""
    name = gpu.split("-")[0]
    if name not in BRIDGED or nodes > 1:
        raise Refused("pairs with NVLink bridges of unknown rates")
    (fabric, bandwidth), (outer, rate) = BRIDGED[name]
    if ranks <= 2:
        return (fabric,), ("ring",), (bandwidth,), (ranks,), ""
    return (fabric, outer), ("ring", "switch"), (bandwidth, rate), (2.0, ranks / 2.0), ""


def _outer(text: str, gpu: str, per_node: float) -> tuple[str, float, str]:
    """Fabric between nodes, bandwidth of one device, and what was assumed."""
    found = re.match(r"(EFA|IB|InfiniBand|RoCE|Omni-Path|Ethernet)\w*(?:\s+(\d+)x(\d+)G)?", text)
    if not found:
        raise Refused(f"unknown network between nodes {text}")
    fabric = {"EFA": "efa", "IB": "infiniband", "InfiniBand": "infiniband", "RoCE": "roce", "Omni-Path": "omni_path",
              "Ethernet": "ethernet"}[found[1]]  # fmt: skip
    if found[2]:
        return fabric, float(found[2]) * float(found[3]) * 1e9 / 8.0 / per_node, ""
    rate = NODE_RATE.get(gpu.split("-")[0])
    if fabric != "infiniband" or rate is None:
        raise Refused("the rate of the network between the nodes is not stated")
    return "infiniband_staged", rate, "rate of InfiniBand not stated: an adapter a GPU, staged through host memory"
