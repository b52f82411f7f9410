"""The catalogue as rows for a list."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from dse.errors import Fault, SpecError
from dse.spec import catalogue, load_accelerator, load_cluster, load_model, load_node, load_stack
from dse.units import engineering

ORDER = ("model", "cluster", "accelerator", "node", "stack", "engine", "subgraph-accelerator")


def catalogue_rows(kind: str | None = None) -> list[dict[str, Any]]:
    """One row an entry: kind, id, name and one line of what it is.

    Raises:
        SpecError: an unknown kind.
    """
    if kind is not None and kind.removesuffix("s") not in ORDER:
        raise SpecError([Fault("kind", repr(kind[:40]), f"must be one of {', '.join(ORDER)}")])
    kinds = [kind.removesuffix("s")] if kind else list(ORDER)
    return [{"kind": k, "id": entry, **_describe(k, entry)} for k in kinds for entry in catalogue.ids(k)]


def _describe(kind: str, entry: str) -> dict[str, str]:
    if kind == "model":
        model = load_model(entry)
        return {"name": model.name, "what": f"{float(model.parameters()) / 1e9:,.4g} B parameters"}
    if kind == "accelerator":
        device = load_accelerator(entry)
        peak = device.matrix.bf16 or device.matrix.fp16 or 0.0
        memory = f"{engineering(device.memory.capacity, 'B')} at {engineering(device.memory.bandwidth, 'B/s')}"
        return {"name": device.name, "what": f"{engineering(peak, 'FLOP/s')}, {memory}"}
    if kind == "stack":
        return {"name": load_stack(entry).name, "what": ""}
    if kind == "engine":
        from dse.domains.vegeta.engine import load_engine

        engine = load_engine(entry)
        ratios = ", ".join(f"{n}:{engine.block}" for n in sorted(engine.patterns, reverse=True))
        return {"name": engine.name, "what": f"{engine.macs} MACs at {engine.clock / 1e9:g} GHz, {ratios}"}
    if kind == "subgraph-accelerator":
        from dse.domains.sushi.accelerator import load_subgraph_accelerator

        array = load_subgraph_accelerator(entry)
        kept = f"{array.persistent_buffer / 2**20:.4g} MiB kept"
        return {
            "name": array.name,
            "what": f"{array.kernels * array.channels * array.taps:,} MACs at {array.clock / 1e6:g} MHz, {kept}",
        }
    if kind == "node":
        node = load_node(entry)
        return {"name": node.name, "what": f"{node.devices} × {node.accelerator.id}"}
    cluster = load_cluster(entry)
    network = " · ".join(
        f"{d.name} {d.size or '…'} × {engineering(d.bandwidth, 'B/s')}" for d in cluster.network.dimensions
    )
    return {"name": cluster.name, "what": network}


def find_entry(entry: str, kind: str | None = None) -> tuple[Path, list[str]]:
    """File of an entry, and the other kinds that have the same id.

    Raises:
        SpecError: no such entry; the message suggests the nearest ids.
    """
    if kind is not None and kind not in ORDER:
        raise SpecError([Fault("kind", repr(kind[:40]), f"must be one of {', '.join(ORDER)}")])
    found = [k for k in ORDER if entry in catalogue.ids(k) and kind in (None, k)]
    if not found:
        every = sorted({i for k in ORDER for i in catalogue.ids(k)})
        near = difflib.get_close_matches(entry[:80], every, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else "see 'dse catalogue list'"
        raise SpecError([Fault("entry", repr(entry[:80]), f"is not in the catalogue; {hint}")])
    return catalogue.locate(found[0], entry), found[1:]
