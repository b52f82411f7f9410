"""Event-driven execution of traces on a system: devices, network, memories."""

from __future__ import annotations

from dse.lazy import lazily

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

# The compiled engine takes a while to load: only who simulates waits for it.
__getattr__ = lazily(__name__, _HOME)
