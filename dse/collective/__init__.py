"""Collectives on real topologies: library, bounds, synthesis, verification, export."""

from __future__ import annotations

from dse.lazy import lazily

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

# Compiled functions take a while to load: only who synthesizes waits for them.
__getattr__ = lazily(__name__, _HOME)
