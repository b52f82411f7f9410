"""The fitted device as files for the other commands: an accelerator, and a machine with one of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dse.measure.tables import Tables

MATRIX_TYPES = ("bf16", "fp16", "tf32", "fp32", "fp8")


def write_files(
    folder: Path, tables: Tables, peaks: Mapping[str, float], efficiency: Mapping[str, Any]
) -> tuple[Path, Path]:
    """Write ``accelerator.yaml`` (based on the catalogue's entry, where there is one) and ``cluster.yaml``.

    Both are read back before they are written: a file that no command would take is a fault of this program.
    """
    from dse.spec import load_accelerator, load_cluster

    accelerator = _accelerator(tables, peaks, efficiency)
    cluster = _cluster(accelerator)
    load_accelerator(accelerator)
    load_cluster(cluster)
    texts = {"accelerator": accelerator, "cluster": cluster}
    paths = [_write(folder / f"{kind}.yaml", {"kind": kind, **data}) for kind, data in texts.items()]
    return paths[0], paths[1]


def _write(path: Path, data: dict[str, Any]) -> Path:
    from ruamel.yaml import YAML

    from dse.study.export import write_atomically

    writer = YAML()
    writer.default_flow_style = False
    writer.width = 110

    def put(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as file:
            writer.dump(data, file)

    return write_atomically(path, put)


def _accelerator(tables: Tables, peaks: Mapping[str, float], efficiency: Mapping[str, Any]) -> dict[str, Any]:
    device, date = tables.device, tables.manifest["runs"][-1]["ended"][:7]
    limits = {name: f"{value!r} s" if name == "launch" else value for name, value in efficiency.items()}
    title = f"dse measure on {device['name'][:120]}, torch {device['torch']}, driver {device['driver']}"
    source = {"title": title, "date": date, "kind": "measured", "covers": [f"efficiency.{name}" for name in limits]}
    if device["catalogue"]:
        return {
            "base": device["catalogue"],
            "id": f"{device['catalogue']}-measured",
            "name": f"{device['name']}, measured",
            "efficiency": limits,
            "sources": [source],
        }
    own = _own_entry(device, peaks)
    source["covers"] += ["matrix", "vector", "cores", "buffer", "memory"]
    unknown = {"title": "Not measured", "date": date, "kind": "assumed", "covers": ["*"]}
    return {**own, "efficiency": limits, "sources": [source, unknown]}


def _own_entry(device: Mapping[str, Any], peaks: Mapping[str, float]) -> dict[str, Any]:
    """A device outside the catalogue, with what it was seen to reach as its peaks; power and price unknown: zero."""
    rates = {name: f"{peaks[name]:.5g} FLOP/s" for name in MATRIX_TYPES if name in peaks}
    # Element-wise kernels are limited by memory: the rate of plain products is far enough above to not matter.
    vector = peaks.get("fp32", max(value for name, value in peaks.items() if name != "bandwidth"))
    memory = {
        "name": "memory",
        "kind": "ddr" if device["type"] == "cpu" else "hbm",
        "capacity": f"{device['memory']} B",
        "bandwidth": f"{peaks['bandwidth']:.5g} B/s",
    }
    return {
        "id": f"{device['gpu'][:60]}-measured",
        "name": f"{device['name']}, measured",
        "matrix": rates,
        "vector": {"fp32": f"{vector:.5g} FLOP/s"},
        "cores": device["cores"],
        "buffer": f"{device['cache']} B",
        "memory": memory,
        "idle_power": "0 W",
        "tdp": "0 W",
        "price": "0 USD",
    }


def _cluster(accelerator: Mapping[str, Any]) -> dict[str, Any]:
    """One node with one device. Its network is never used, but the specification asks for one."""
    inner = {name: value for name, value in accelerator.items() if name != "sources"}
    return {
        "id": "measured-device",
        "name": f"One {accelerator['name']}",
        "devices": 1,
        "node": {"id": "measured-device", "name": "one device", "devices": 1, "accelerator": inner},
        "network": {"dimensions": [{"name": "none", "topology": "switch", "bandwidth": "1 GB/s"}]},
    }
