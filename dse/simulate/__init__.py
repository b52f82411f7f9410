"""Event-driven execution of traces on a system: devices, network, memories."""

from __future__ import annotations

from typing import Any

_HOME = {
    "simulate": "run",
    "collective": "run",
    "System": "system",
    "Device": "system",
    "Tier": "system",
    "Hop": "system",
    "dimension": "system",
    "Simulation": "result",
    "Deadlock": "deadlock",
}

__all__ = ["Deadlock", "Device", "Hop", "Simulation", "System", "Tier", "collective", "dimension", "simulate"]


def __getattr__(name: str) -> Any:
    # The compiled engine takes a while to load: only who simulates waits for it.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
