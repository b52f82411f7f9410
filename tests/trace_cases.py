"""Traces for tests: the shipped fixtures, and small ones made here."""

from __future__ import annotations

import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np

import dse.trace as trace
from dse.trace import Attribute, Kind, Node, TraceSet

FIXTURES = Path(__file__).parents[1] / "data" / "reference" / "astrasim" / "fixtures"


def unpacked(folder: Path) -> Path:
    """The fixtures in ``folder``, each archive in a folder of its name."""
    for archive in sorted(FIXTURES.glob("*.tar.gz")):
        with tarfile.open(archive) as tar:
            tar.extractall(folder / archive.name.removesuffix(".tar.gz"), filter="data")
    return folder


def of(*ranks: list[Node], groups: dict[str, list[list[int]]] | None = None) -> TraceSet:
    tables = {label: np.array(rows) for label, rows in (groups or {}).items()}
    return TraceSet(tuple(map(trace.columns, ranks)), np.arange(len(ranks)), tables)


def coll(identifier: int, size: int = 8, kind: int = 0, group: str = "") -> Node:
    return Node(
        identifier,
        kind=Kind.COLL,
        attrs=[
            Attribute("comm_type", "int64", kind),
            Attribute("comm_size", "int64", size),
            Attribute("pg_name", "string", group),
        ],
    )


def peer(identifier: int, kind: Kind, rank: int, size: int = 8, tag: int = 0) -> Node:
    name = "comm_dst" if kind == Kind.SEND else "comm_src"
    return Node(
        identifier,
        kind=kind,
        attrs=[
            Attribute(name, "int64", rank),
            Attribute("comm_size", "int64", size),
            Attribute("comm_tag", "int64", tag),
        ],
    )


def pipeline() -> TraceSet:
    """Two pipeline stages of two replicas: one class a stage, peers and groups by label."""
    size = Attribute("comm_size", "int64", 4)
    reduce = Node(
        3,
        "reduce",
        Kind.COLL,
        data_deps=[1],
        attrs=[Attribute("comm_type", "int64", 0), size, Attribute("pg_name", "string", "dp")],
    )
    first = Node(1, "send", Kind.SEND, attrs=[Attribute("comm_dst", "int64", 2), size])
    last = Node(1, "recv", Kind.RECV, attrs=[Attribute("comm_src", "int64", -2), size])
    classes = tuple(replace(trace.columns([node, reduce]), relative=True) for node in (first, last))
    return TraceSet(classes, np.array([0, 0, 1, 1]), {"dp": np.array([[0, 1], [2, 3]])})
