"""SUSHI: SuperNets served from a SubGraph that stays on the chip (Tong et al., MLSys 2023)."""

from __future__ import annotations

from dse.lazy import lazily

_HOME = {
    "LatencyTable": "table",
    "Served": "served",
    "Stream": "streams",
    "SubGraph": "sharing",
    "SubGraphAccelerator": "accelerator",
    "SubNet": "supernet",
    "build": "table",
    "load_subgraph_accelerator": "accelerator",
    "load_subnets": "subnets",
}

__all__ = [
    "LatencyTable", "Served", "Stream", "SubGraph", "SubGraphAccelerator", "SubNet", "build",
    "load_subgraph_accelerator", "load_subnets",
]  # fmt: skip

__getattr__ = lazily(__name__, _HOME)
