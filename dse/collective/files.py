"""Networks from files and to files: text, CSV, JSON node-link, GraphML, NCCL's topology XML; and from NetworkX."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from dse import units
from dse.collective.topology import Topology
from dse.errors import Fault, SpecError

if TYPE_CHECKING:
    import pandas as pd

GIB, US = 2.0**30, 1e-6
MAX_BYTES = 2**30
ENDINGS = (".txt", ".topo", ".csv", ".json", ".graphml", ".xml")
SWITCH = ("switch", "nvswitch", "router")


class Row(NamedTuple):
    """A link as a file has it: names of its ends, bytes/s, seconds."""

    source: Any
    destination: Any
    bandwidth: float
    latency: float


def load(source: Topology | str | os.PathLike[str] | Any) -> Topology:
    """A network from a file, from a shape in words (``"torus:8x8x8,fail=5%"``) or from a NetworkX graph.

    The ending of a file says its format: ``.txt`` and ``.topo`` (first line NPUs, links and perhaps nodes, then source,
    destination, GiB/s, microseconds), ``.csv`` (columns src, dst, bandwidth, latency with units), ``.json`` (node-link;
    nodes of kind switch are no NPUs), ``.graphml``, ``.xml`` (GraphML, or topology of NCCL).

    Raises:
        SpecError: no such file or shape, or a value that does not fit; file, line and allowed range are named.
    """
    if isinstance(source, Topology):
        return source
    if hasattr(source, "nodes") and hasattr(source, "edges"):
        return from_networkx(source)
    if not isinstance(source, str | os.PathLike):
        raise SpecError(
            [Fault("topology", repr(source)[:60], "must be a file, a shape in words, a network or a graph")]
        )
    path, text = Path(source), os.fspath(source)
    named = path.suffix.lower() in ENDINGS or isinstance(source, os.PathLike) or "/" in text.partition(",")[0]
    if named or (0 < len(text) < 200 and path.is_file()):
        return _from_file(path)
    from dse.collective.text import parse

    return parse(text)


def _from_file(path: Path) -> Topology:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise SpecError([Fault("topology", path.name, f"must be a file of at most {MAX_BYTES:,} bytes")])
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = (
            "is not text" if isinstance(error, UnicodeError) else getattr(error, "strerror", None) or "no such file"
        )
        raise SpecError([Fault("topology", str(path)[-80:], f"cannot be read: {reason}")]) from None
    kind = path.suffix.lower()
    if kind == ".xml":
        if "<graphml" in text[:2000]:
            return _graphml(text, path)
        from dse.collective.nccl import from_xml

        return from_xml(text, path)
    readers = {".csv": _csv, ".json": _json, ".graphml": _graphml}
    return readers.get(kind, _text)(text, path)


def _wrong(path: Path, line: int, field: str, value: object, rule: str) -> SpecError:
    return SpecError([Fault(field, str(value)[:80], rule, f"{path}:{line}" if line else str(path))])


def _text(text: str, path: Path) -> Topology:
    lines = [(i, found) for i, line in enumerate(text.splitlines(), 1) if (found := line.partition("#")[0].split())]
    if not lines:
        raise _wrong(path, 1, "topology", "", "is empty; the first line must be: NPUs links")
    first, head = lines[0]
    if len(head) not in (2, 3) or not all(word.isdecimal() for word in head):
        raise _wrong(
            path, first, "first line", " ".join(head), "must be whole numbers: NPUs links, or NPUs links nodes"
        )
    npus, links, nodes = (*map(int, head), int(head[0]))[:3]
    if npus < 1 or nodes < npus:
        raise _wrong(path, first, "first line", " ".join(head), "must have at least 1 NPU, and nodes with the NPUs")
    rows = np.empty((len(lines) - 1, 4))
    for row, (line, words) in zip(rows, lines[1:], strict=True):
        row[:] = _numbers(path, line, words, nodes)
    if len(rows) != links:
        raise _wrong(path, first, "links", links, f"must be the number of lines that follow, {len(rows)}")
    return Topology.of(rows * [1, 1, GIB, US], npus, nodes=nodes, name=path.stem)


def _numbers(path: Path, line: int, words: list[str], nodes: int) -> list[float]:
    if len(words) != 4:
        raise _wrong(path, line, "link", " ".join(words), "must be: source destination GiB/s microseconds")
    found = []
    for name, word in zip(("source", "destination", "bandwidth", "latency"), words, strict=True):
        rule = f"must be a node, 0 to {nodes - 1}" if name in ("source", "destination") else "must be a number"
        try:
            value = float(word) if rule == "must be a number" else int(word)
        except ValueError:
            raise _wrong(path, line, name, word, rule) from None
        found.append(value)
        if name in ("source", "destination") and not 0 <= value < nodes:
            raise _wrong(path, line, name, word, rule)
    _check(path, line, Row(*found))
    return found


def _check(path: Path, line: int, row: Row) -> Row:
    if row.source == row.destination:
        raise _wrong(path, line, "destination", row.destination, "must be another node than the source")
    if not 0 < row.bandwidth < np.inf:
        raise _wrong(path, line, "bandwidth", row.bandwidth, "must be more than 0, and finite")
    if not 0 <= row.latency < np.inf:
        raise _wrong(path, line, "latency", row.latency, "must be 0 or more, and finite")
    return row


def _quantity(path: Path, line: int, field: str, value: Any, unit: str) -> float:
    """A number in SI, or text with a unit."""
    try:
        if isinstance(value, str):
            try:
                return float(value)
            except ValueError:
                return units.parse(value, unit)
        return units.parse(value, unit)
    except units.UnitError as error:
        raise _wrong(path, line, field, value, str(error)) from None


def _csv(text: str, path: Path) -> Topology:
    reader = csv.DictReader(io.StringIO(text))
    wanted = {"src": "source", "dst": "destination"}
    columns = {name: wanted.get(name.strip().lower(), name.strip().lower()) for name in reader.fieldnames or ()}
    missing = set(Row._fields) - set(columns.values())
    if missing:
        raise _wrong(path, 1, "columns", ", ".join(columns), f"must have {', '.join(Row._fields)} (or src, dst)")
    rows = []
    for entry in reader:
        line, found = reader.line_num, {columns[key]: (value or "").strip() for key, value in entry.items() if key}
        for field, unit in (("bandwidth", "B/s"), ("latency", "s")):
            # A bare number could be anything: only text with a unit, or 0, is taken.
            try:
                found[field] = units.parse(found[field], unit)
            except units.UnitError as error:
                raise _wrong(path, line, field, found[field], str(error)) from None
        ends = [_name(found[end]) for end in ("source", "destination")]
        if "" in ends:
            raise _wrong(path, line, "source" if ends[0] == "" else "destination", "", "must be a node")
        rows.append(_check(path, line, Row(*ends, found["bandwidth"], found["latency"])))
    return _assembled(rows, (), path.stem)


def _name(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _assembled(rows: list[Row], kinds: Iterable[tuple[Any, str]], name: str) -> Topology:
    """Nodes numbered: NPUs first, whole numbers in their order, others as they come. Text without a kind: a switch."""
    seen: dict[Any, str] = {node: kind.lower() for node, kind in kinds}
    for row in rows:
        for node in (row.source, row.destination):
            seen.setdefault(node, "")
    npus = [node for node, kind in seen.items() if not kind.startswith(SWITCH) and (kind or not _switch(node))]
    if npus and all(isinstance(node, int) for node in npus):
        npus.sort()
    order = {node: i for i, node in enumerate([*npus, *(node for node in seen if node not in set(npus))])}
    links = [(order[row.source], order[row.destination], row.bandwidth, row.latency) for row in rows]
    if not npus:
        raise SpecError([Fault("topology", name, "must have at least 1 NPU")])
    return Topology.of(links, len(npus), nodes=len(order), name=name)


def _switch(node: Any) -> bool:
    return isinstance(node, str) and node.lower().startswith((*SWITCH, "sw"))


def _json(text: str, path: Path) -> Topology:
    try:
        data = json.loads(text)
        nodes = [(node["id"], node) for node in data["nodes"]]
        edges = data["edges"] if "edges" in data else data["links"]
        ends = [(edge["source"], edge["target"], edge) for edge in edges]
    except json.JSONDecodeError as error:
        raise _wrong(path, error.lineno, "JSON", error.msg, "must be JSON") from None
    except (KeyError, TypeError, AttributeError, RecursionError):
        raise _wrong(
            path, 0, "JSON", "", "must be node-link data: nodes with id, edges with source and target"
        ) from None
    return _graph(nodes, ends, bool(data.get("directed", False)), path)


def _graphml(text: str, path: Path) -> Topology:
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise _wrong(path, error.position[0], "XML", str(error)[:60], "must be well-formed") from None
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    graph = root.find("graph")
    if graph is None:
        raise _wrong(path, 0, "graphml", "", "must have a graph")
    names = {key.get("id"): key.get("attr.name") for key in root.iter("key")}

    def data(element: ElementTree.Element) -> dict[str | None, str]:
        return {names.get(d.get("key"), d.get("key")): (d.text or "").strip() for d in element.findall("data")}

    nodes = [(_name(node.get("id", "")), data(node)) for node in graph.findall("node")]
    ends = [(_name(e.get("source", "")), _name(e.get("target", "")), data(e)) for e in graph.findall("edge")]
    return _graph(nodes, ends, graph.get("edgedefault") == "directed", path)


def _graph(nodes: Iterable[Any], ends: Iterable[Any], directed: bool, path: Path) -> Topology:
    """From nodes (name, attributes) and edges (name, name, attributes); undirected ones count both ways."""
    rows, kinds = [], [(node, str(a.get("kind", a.get("type", "")))) for node, a in nodes]
    for a, b, data in ends:
        for field in ("bandwidth", "latency"):
            if field not in data:
                raise _wrong(path, 0, f"edge {a} - {b}", "", f"must have a {field}")
        values = [
            _quantity(path, 0, f"edge {a} - {b}: {f}", data[f], u) for f, u in (("bandwidth", "B/s"), ("latency", "s"))
        ]
        rows.append(_check(path, 0, Row(a, b, *values)))
        if not directed:
            rows.append(Row(b, a, *values))
    return _assembled(rows, kinds, path.stem)


def from_networkx(graph: Any) -> Topology:
    """A NetworkX graph: edges have ``bandwidth`` (bytes/s) and ``latency`` (s); nodes of kind switch are no NPUs."""
    name = Path(str(graph.name or "graph"))
    return _graph(graph.nodes(data=True), graph.edges(data=True), graph.is_directed(), name)


def save(topology: Topology, path: str | os.PathLike[str]) -> None:
    """Write a network, whole or not at all; the ending says how: ``.txt``, ``.csv`` or ``.json``.

    Raises:
        SpecError: another ending.
    """
    from dse.study.export import write_atomically

    path = Path(path)
    links = list(
        zip(
            topology.src.tolist(),
            topology.dst.tolist(),
            topology.bandwidth.tolist(),
            topology.latency.tolist(),
            strict=True,
        )
    )

    def name(node: int) -> str:
        return str(node) if node < topology.npus else f"switch{node}"

    if path.suffix.lower() == ".txt":
        lines = [f"{topology.npus} {topology.links}" + (f" {topology.nodes}" if topology.nodes > topology.npus else "")]
        text = "\n".join([*lines, *(f"{a} {b} {rate / GIB!r} {delay / US:.15g}" for a, b, rate, delay in links), ""])
    elif path.suffix.lower() == ".csv":
        lines = ["src,dst,bandwidth,latency"]
        text = "\n".join(
            [*lines, *(f"{name(a)},{name(b)},{rate!r} B/s,{delay!r} s" for a, b, rate, delay in links), ""]
        )
    elif path.suffix.lower() == ".json":
        nodes = [{"id": v, "kind": "npu" if v < topology.npus else "switch"} for v in range(topology.nodes)]
        edges = [{"source": a, "target": b, "bandwidth": rate, "latency": delay} for a, b, rate, delay in links]
        text = json.dumps({"directed": True, "multigraph": True, "nodes": nodes, "edges": edges})
    else:
        raise SpecError([Fault("topology", path.name[-80:], "must end in .txt, .csv or .json")])
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8") and None)


def _reference(name: str) -> pd.DataFrame:
    import pandas as pd

    from dse.spec.catalogue import asset_root

    return pd.read_parquet(asset_root("data") / "reference" / "tacos" / name)


@cache
def reference_topologies() -> dict[tuple[str, int], Topology]:
    """The networks of the recorded runs of TACOS, by family and NPUs."""
    found = {}
    for (family, npus), rows in _reference("topologies.parquet").groupby(["family", "npus"], sort=False):
        links = rows[["src", "dst", "bandwidth_gibps", "latency_us"]].to_numpy(float) * [1, 1, GIB, US]
        found[family, int(npus)] = Topology.of(links, int(npus), name=f"{family}_{npus}")
    return found


def reference_runs() -> pd.DataFrame:
    """The recorded runs of TACOS: times, bounds and cost of synthesis, a row a run."""
    return _reference("synthesis.parquet")
