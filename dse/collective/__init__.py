"""Collectives on real topologies: library, bounds, synthesis, verification, export."""

from __future__ import annotations

from typing import Any

_HOME = {
    "Bound": "bounds",
    "Chunks": "schedule",
    "Schedule": "schedule",
    "Synthesis": "synthesis",
    "Topology": "topology",
    "bound": "bounds",
    "improvements": "synthesis",
    "load": "files",
    "synthesize": "synthesis",
    "together": "concurrent",
    "verify": "verifier",
}

__all__ = [
    "Bound", "Chunks", "Schedule", "Synthesis", "Topology", "bound", "improvements", "load", "synthesize", "together",
    "verify",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    # Compiled functions take a while to load: only who synthesizes waits for them.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = found  # a function goes before the module of its name
    return found
