"""Chakra execution traces: read, write, convert, generate, inspect, synthesize."""

from __future__ import annotations

# The functions come after the modules of their names (columns, validate), so that these names mean the functions.
from dse.trace.columns import Trace, TraceSet
from dse.trace.dialects import columns
from dse.trace.files import read, stream, write
from dse.trace.generate import generate
from dse.trace.record import record
from dse.trace.scale import scale
from dse.trace.schema import Attribute, Collective, IOInfo, Kind, Metadata, Node
from dse.trace.sets import load, save
from dse.trace.validate import Finding, validate

__all__ = [
    "Attribute",
    "Collective",
    "Finding",
    "IOInfo",
    "Kind",
    "Metadata",
    "Node",
    "Trace",
    "TraceSet",
    "columns",
    "generate",
    "load",
    "read",
    "record",
    "save",
    "scale",
    "stream",
    "validate",
    "write",
]
