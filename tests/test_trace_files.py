"""Trace files: the codec against the official library, files, dialects, the compiled reader, groups, validation."""

from __future__ import annotations

import gzip
import json
import os
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trace_cases import pipeline, unpacked

import dse.trace as trace
from dse.errors import SpecError
from dse.trace import Attribute, IOInfo, Kind, Metadata, Node, TraceSet, files, wire
from dse.trace.dialects import INTEGERS, REALS, TEXTS
from dse.trace.scan import _fast

U64, I64 = (1 << 64) - 1, 1 << 63


@pytest.fixture(scope="module")
def fixtures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked(tmp_path_factory.mktemp("fixtures"))


def distinct(folder: Path) -> list[Path]:
    return sorted({path.read_bytes(): path for path in sorted(folder.rglob("*.et"))}.values())


def same(left: trace.Trace, right: trace.Trace) -> None:
    for field in fields(trace.Trace):
        ours, theirs = getattr(left, field.name), getattr(right, field.name)
        if isinstance(ours, np.ndarray):
            assert ours.dtype == theirs.dtype, field.name
            np.testing.assert_array_equal(ours, theirs, field.name)
        else:
            assert ours == theirs, field.name


# --- random messages ---------------------------------------------------------------------------------------------------

KNOWN = [*INTEGERS, *REALS, *TEXTS, "involved_dim", "other"]
NAMES = st.sampled_from(KNOWN) | st.text(max_size=5)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["", "0", "5", "a\0b", "é", "\U0001f600"]
)


def numbers(low: int, high: int) -> st.SearchStrategy[int]:
    return st.sampled_from([low, high, 0, 1, 5]) | st.integers(low, high)


VALUES = {
    "double": st.floats(allow_nan=False),
    "float": st.floats(width=32, allow_nan=False),
    **dict.fromkeys(("int32", "sint32", "sfixed32"), numbers(-(1 << 31), (1 << 31) - 1)),
    **dict.fromkeys(("int64", "sint64", "sfixed64"), numbers(-I64, I64 - 1)),
    **dict.fromkeys(("uint32", "fixed32"), numbers(0, (1 << 32) - 1)),
    **dict.fromkeys(("uint64", "fixed64"), numbers(0, U64)),
    "bool": st.booleans(),
    "string": TEXT,
    "bytes": st.binary(max_size=6),
}


@st.composite
def attributes(draw: st.DrawFn) -> Attribute:
    kind = draw(st.sampled_from(["", *wire.KINDS]))
    scalar = kind.removesuffix("_list")
    value = None if not kind else draw(VALUES[scalar] if kind == scalar else st.lists(VALUES[scalar], max_size=3))
    return Attribute(draw(NAMES), kind, value, draw(st.sampled_from(["", "why"])))


IO = st.none() | st.builds(IOInfo, TEXT, TEXT, TEXT)
IDS = st.integers(0, 6) | numbers(0, U64)
NODES = st.builds(
    Node,
    IDS,
    TEXT,
    st.integers(1, 7) | numbers(-(1 << 31), (1 << 31) - 1),
    st.lists(IDS, max_size=4),
    st.lists(IDS, max_size=4),
    numbers(0, U64),
    numbers(0, U64),
    IO,
    IO,
    st.lists(attributes(), max_size=4),
).filter(lambda node: bool(wire.put_node(node)))
HEADS = st.builds(Metadata, st.sampled_from(["", "1.0.0", "0.0.4"]), st.lists(attributes(), max_size=2))


def file_bytes(head: Metadata, nodes: list[Node]) -> bytes:
    messages = [wire.put_metadata(head), *map(wire.put_node, nodes)]
    return b"".join(wire.put_varint(len(item)) + item for item in messages)


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(HEADS, st.lists(NODES, max_size=6))
def test_any_nodes_come_back_from_bytes_and_the_compiled_reader_agrees(
    tmp_path_factory: pytest.TempPathFactory, head: Metadata, nodes: list[Node]
) -> None:
    path = tmp_path_factory.getbasetemp() / "random.et"
    trace.write(path, head, nodes)
    assert trace.read(path) == (head, nodes)
    assert path.read_bytes() == file_bytes(head, nodes)
    fast = _fast(path.read_bytes())
    assert fast is not None
    same(fast.trace, trace.columns(nodes, head))


@settings(max_examples=150, deadline=None)
@given(HEADS, st.lists(NODES, max_size=4))
def test_any_nodes_are_what_the_official_library_writes(head: Metadata, nodes: list[Node]) -> None:
    chakra = official()
    for ours, message in [
        (wire.put_metadata(head), chakra.GlobalMetadata()),
        *((wire.put_node(n), chakra.Node()) for n in nodes),
    ]:
        message.ParseFromString(ours)
        assert message.SerializeToString(deterministic=True) == ours


# --- the official library ----------------------------------------------------------------------------------------------


def official():
    if not os.environ.get("CI"):
        pytest.importorskip("chakra.schema.protobuf.et_def_pb2")
    from chakra.schema.protobuf import et_def_pb2

    return et_def_pb2


def attribute_of(message) -> Attribute:
    field = message.WhichOneof("value")
    if field is None:
        return Attribute(message.name, "", None, message.doc_string)
    value = getattr(message, field)
    return Attribute(
        message.name,
        field.removesuffix("_val"),
        list(value.values) if field.endswith("_list") else value,
        message.doc_string,
    )


def node_of(message) -> Node:
    io = [
        IOInfo(part.values, part.shapes, part.types) if message.HasField(name) else None
        for name, part in (("inputs", message.inputs), ("outputs", message.outputs))
    ]
    return Node(
        message.id, message.name, message.type, list(message.ctrl_deps), list(message.data_deps),
        message.start_time_micros, message.duration_micros, *io, [attribute_of(item) for item in message.attr],
    )  # fmt: skip


def test_every_fixture_reads_as_in_the_official_library_and_is_stable_after_one_normalisation(
    fixtures: Path, tmp_path: Path
) -> None:
    chakra = official()
    paths = distinct(fixtures)
    assert len(paths) > 50
    for path in paths:
        head, nodes = trace.read(path)
        messages = [data for _, data in files.messages(path)]
        theirs = [chakra.GlobalMetadata.FromString(messages[0]), *map(chakra.Node.FromString, messages[1:])]
        assert (head.version, head.attrs) == (theirs[0].version, [attribute_of(item) for item in theirs[0].attr])
        assert nodes == [node_of(message) for message in theirs[1:]]
        # The other way round: what we write, they read, node for node, and would write the same bytes.
        ours = [wire.put_metadata(head), *map(wire.put_node, nodes)]
        assert ours == [message.SerializeToString(deterministic=True) for message in theirs]
        once, twice = trace.write(tmp_path / "once.et", head, nodes), tmp_path / "twice.et"
        trace.write(twice, *trace.read(once))
        assert once.read_bytes() == twice.read_bytes()


def test_files_are_what_the_official_tool_reads(fixtures: Path, tmp_path: Path) -> None:
    chakra = official()
    from chakra.src.third_party.utils.protolib import decodeMessage, openFileRd

    path = fixtures / "stage_llama_s2" / "llama_s2" / "workload.0.et"
    head, nodes = trace.read(path)
    for name in ("again.et", "again.et.gz"):
        written = trace.write(tmp_path / name, head, nodes)
        file, count, message = openFileRd(str(written)), 0, chakra.Node()
        assert decodeMessage(file, chakra.GlobalMetadata())
        while decodeMessage(file, message):
            assert node_of(message) == nodes[count]
            count += 1
        file.close()
        assert count == len(nodes)


def test_our_schema_has_the_official_names_and_numbers(tmp_path: Path) -> None:
    protobuf = official().DESCRIPTOR
    text = (
        (Path(trace.__file__).parent / "et.proto")
        .read_text(encoding="utf-8")
        .replace("{", "{\n")
        .replace("}", "\n}\n")
        .replace(";", ";\n")
    )
    found: dict[tuple[str, str], int] = {}
    owner = ""
    for line in map(str.strip, text.splitlines()):
        words = line.rstrip(";{ ").split()
        if words[:1] in (["message"], ["enum"]):
            owner = words[1]
        elif len(words) >= 3 and words[-2] == "=" and words[0] != "syntax":
            found[owner, words[-3]] = int(words[-1])
    theirs = {
        (message.name, field.name): field.number
        for message in protobuf.message_types_by_name.values()
        for field in message.fields
    }
    theirs |= {
        (enum.name, value.name): value.number for enum in protobuf.enum_types_by_name.values() for value in enum.values
    }
    assert found == theirs
    assert [f"{kind}" for kind in wire.KINDS] == [
        field.name.removesuffix("_val")
        for field in protobuf.message_types_by_name["AttributeProto"].oneofs_by_name["value"].fields
    ]


# --- reading -----------------------------------------------------------------------------------------------------------


def test_the_compiled_reader_equals_the_plain_one_on_every_fixture(fixtures: Path) -> None:
    for path in distinct(fixtures):
        fast = _fast(path.read_bytes())
        assert fast is not None
        head, nodes = trace.read(path)
        same(fast.trace, trace.columns(nodes, head))


def test_what_may_be_on_the_wire() -> None:
    put, varint = wire._put, wire.put_varint
    data = b"".join(
        [
            put(99, wire.BYTES, b"unknown"),
            varint(50 << 3 | wire.GROUP) + put(1, wire.VARINT, b"\1") + varint(50 << 3 | wire.END_GROUP),
            put(5, wire.VARINT, b"\7"),  # unpacked
            put(5, wire.BYTES, b"\x08\x09"),  # and packed
            put(1, wire.FIXED32, b"1234"),  # an identifier of a foreign type is unknown
            put(3, wire.VARINT, varint((5 << 32) + 4)),  # cut to 32 bits
            put(8, wire.BYTES, wire._put_text(1, "in")),
            put(8, wire.BYTES, wire._put_text(3, "types")),  # two parts of one message
            put(10, wire.BYTES, wire._put_text(1, "a") + put(9, wire.VARINT, b"\1") + put(30, wire.BYTES, b"")),
            put(1, wire.VARINT, b"\3"),
        ]
    )
    want = Node(
        3, kind=4, data_deps=[7, 8, 9], inputs=IOInfo("in", "", "types"), attrs=[Attribute("a", "string_list", [])]
    )
    assert wire.node(data) == want
    assert wire.node(wire.put_node(want)) == want


def test_dialects_mean_the_same() -> None:
    kinds = ("int32", "int64", "uint64", "uint32", "sint64", "fixed32", "double")
    nodes = [
        Node(
            index,
            kind=Kind.COLL,
            attrs=[
                Attribute("comm_size"),  # without a value
                Attribute("comm_size", kind, 64),
                Attribute("is_cpu_op", "bool" if index % 2 else "int32", index % 2),
                Attribute("comm_type", kind, 2),
                Attribute("pg_name", *(("int32", 5) if index % 2 else ("string", "5"))),
                Attribute("involved_dim", "bool_list", [True, False]),
            ],
        )
        for index, kind in enumerate(kinds)
    ]
    out = trace.columns(nodes)
    assert out.size.tolist() == [64] * len(kinds) and out.coll.tolist() == [2] * len(kinds)
    assert out.cpu.tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert out.labels == ("5",) and not out.group.any() and out.involved == ((True, False),)
    fast = _fast(file_bytes(Metadata(), nodes))
    assert fast is not None
    same(fast.trace, out)


def test_dependences_on_what_is_not_there_are_left_out_and_counted() -> None:
    out = trace.columns([Node(7, kind=4, data_deps=[9, 3], ctrl_deps=[4]), Node(9, kind=4, ctrl_deps=[7])])
    assert (out.data.tolist(), out.data_ptr.tolist(), out.ctrl.tolist(), out.dangling) == ([1], [0, 1, 1], [0], 2)


def test_compressed_and_plain_files_are_one_class(tmp_path: Path) -> None:
    nodes = [Node(1, kind=4)]
    trace.write(tmp_path / "x.0.et", Metadata(), nodes)
    trace.write(tmp_path / "x.1.et.gz", Metadata(), nodes)
    assert (tmp_path / "x.1.et.gz").read_bytes()[:2] == files.MAGIC
    traces = trace.load(tmp_path / "x")
    assert (len(traces), len(traces.classes)) == (2, 1)
    assert list(trace.stream(tmp_path / "x.1.et.gz")) == [Metadata(), *nodes]


def test_a_stream_holds_one_node_at_a_time(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "long.et"
    blob = "x" * 1000
    trace.write(path, Metadata(), (Node(i, blob, 4) for i in range(20_000)))
    tracemalloc.start()
    count = sum(isinstance(item, Node) for item in trace.stream(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000 and peak < 8 * files.BLOCK < path.stat().st_size


def test_older_forms(tmp_path: Path) -> None:
    item = {
        "Id": 2,
        "Name": "ar",
        "NodeType": 7,
        "is_cpu_op": False,
        "runtime": 3,
        "data_deps": [1],
        "comm_type": 0,
        "comm_size": 8,
    }
    (tmp_path / "old.0.json").write_text(json.dumps({"workload_graph": [{"Id": 1, "NodeType": 4}, item]}))
    out = trace.load(tmp_path / "old")[0]
    assert (out.kind.tolist(), out.size.tolist(), out.micros.tolist(), out.data.tolist()) == (
        [4, 7],
        [-1, 8],
        [0, 3],
        [0],
    )
    nodes_first = wire.put_node(Node(1, "first", 4))
    (tmp_path / "older.0.et").write_bytes(wire.put_varint(len(nodes_first)) + nodes_first)
    with pytest.raises(SpecError, match=r"0\.0\.1"):
        trace.load(tmp_path / "older")
    # Before the metadata had a version, its attributes were field 1.
    head = wire._put(1, wire.BYTES, wire.put_attribute(Attribute("schema", "string", "s" * 200)))
    assert wire.metadata(head).attrs == [Attribute("schema", "string", "s" * 200)]


# --- sets of files -----------------------------------------------------------------------------------------------------


def test_ranks_missing_twice_or_of_two_prefixes_are_refused(tmp_path: Path) -> None:
    for name in ("a.0.et", "a.2.et"):
        trace.write(tmp_path / name, Metadata(), [])
    with pytest.raises(SpecError, match="no file for rank 1"):
        trace.load(tmp_path / "a")
    trace.write(tmp_path / "a.1.et", Metadata(), [])
    assert len(trace.load(tmp_path)) == len(trace.load(sorted(tmp_path.glob("*.et")))) == 3
    assert len(trace.load(tmp_path / "a.2.et")) == 1
    trace.write(tmp_path / "a.1.et.gz", Metadata(), [])
    with pytest.raises(SpecError, match="rank 1 has two files"):
        trace.load(tmp_path / "a")
    trace.write(tmp_path / "b.0.et", Metadata(), [])
    with pytest.raises(SpecError, match="several prefixes, give one: a, b"):
        trace.load(tmp_path)
    for nothing in (tmp_path / "c", tmp_path / "none" / "c", []):
        with pytest.raises(SpecError, match="no file"):
            trace.load(nothing)


def test_groups_beside_the_traces_given_or_carried_by_them(fixtures: Path, tmp_path: Path) -> None:
    traces = trace.load(fixtures / "stage_llama_dp2tp4pp2" / "llama_dp2tp4pp2")
    assert len(traces) == 16 and traces.groups
    for rank in (0, 9):
        for label in traces[rank].labels:
            assert rank in traces.members(rank, label)
    init = 'x[\'[{"pg_name": "0", "ranks": []}, {"pg_name": "7", "ranks": [0, 1]}, {"pg_name": "9", "ranks": [5]}]\']'
    node = Node(1, "## process_group:init ##", Kind.METADATA, inputs=IOInfo(init))
    for rank in range(2):
        trace.write(tmp_path / f"t.{rank}.et", Metadata(), [node, Node(2, str(rank), 4)])
    carried = trace.load(tmp_path)
    assert {label: rows.tolist() for label, rows in carried.groups.items()} == {"7": [[0, 1]]}  # 9 is of other ranks
    (tmp_path / "t.json").write_text('{"3": [1]}')
    assert set(trace.load(tmp_path).groups) == {"3", "7"}
    assert trace.load(tmp_path, {"7": [1]}).groups["7"].tolist() == [[1]]
    for bad, rule in (
        ({"1": [0, 0]}, "only once"),
        ({"1": [2]}, "below 2"),
        ({"1": "0"}, "list of ranks"),
        ({"1": [0.5]}, "integer"),
        ({"1": []}, "at least one"),
        ([1], "label"),
    ):
        with pytest.raises(SpecError, match=rule):
            trace.load(tmp_path, bad)
    (tmp_path / "g.json").write_text("{")
    with pytest.raises(SpecError, match="not JSON"):
        trace.load(tmp_path, tmp_path / "g.json")


@pytest.mark.parametrize(
    "name",
    ["stage_llama_dp2tp4pp2", "stage_gpt_dp4tp4", "stage_llama_dp8", "text_workloads_et/out/Resnet50_DataParallel"],
)
def test_a_saved_set_loads_as_it_was(fixtures: Path, tmp_path: Path, name: str) -> None:
    folder = fixtures / name
    traces = trace.load(folder if next(folder.glob("*.et"), None) else next(folder.iterdir()))
    trace.save(traces, tmp_path / "again", gzip=True)
    again = trace.load(tmp_path / "again")
    assert len(again.classes) == len(traces.classes)
    for rank in traces:
        same(traces[rank], again[rank])
    assert {k: v.tolist() for k, v in again.groups.items()} == {k: v.tolist() for k, v in traces.groups.items()}


def test_relative_peers_and_labels_become_ranks_and_groups(tmp_path: Path) -> None:
    traces = pipeline()
    assert trace.validate(traces) == []
    trace.save(traces, tmp_path / "w")
    plain = trace.load(tmp_path)
    assert trace.validate(plain) == []
    assert [int(plain[rank].dst[0]) for rank in (0, 1)] == [2, 3] and [int(plain[rank].src[0]) for rank in (2, 3)] == [
        0,
        1,
    ]
    assert {k: v.tolist() for k, v in plain.groups.items()} == {"dp.0": [[0, 1]], "dp.1": [[2, 3]]}
    trace.save(traces, tmp_path / "numbers" / "w", numbered=True)
    assert set(trace.load(tmp_path / "numbers").groups) == {"1", "2"}
    with pytest.raises(SpecError, match="peer is rank 3"):
        trace.save(
            TraceSet(traces.classes[:1], np.zeros(3, np.int64), {"dp": np.array([[0, 1, 2]])}), tmp_path / "bad" / "w"
        )


# --- damage ----------------------------------------------------------------------------------------------------------


def test_values_that_do_not_fit_are_refused_when_writing(tmp_path: Path) -> None:
    for item in (
        Attribute("a", "int32", 1 << 31),
        Attribute("a", "uint64", -1),
        Attribute("a", "strange", 1),
        Attribute("a", "string", 3),
        Attribute("a", "double_list", ["x"]),
    ):
        with pytest.raises(SpecError, match="attribute 'a'"):
            trace.write(tmp_path / "x.et", Metadata(), [Node(1, attrs=[item])])
    for node in (Node(-1), Node(1 << 64), Node(1, data_deps=[-4]), Node(0)):
        with pytest.raises(SpecError):
            trace.write(tmp_path / "x.et", Metadata(), [node])
    assert list(tmp_path.iterdir()) == []


def test_damage_is_located(tmp_path: Path) -> None:
    path = tmp_path / "x.0.et"
    good = file_bytes(Metadata("1.0.0"), [Node(1, "a", 4), Node(2, "b", 4)])
    cases = {
        "": "is empty",
        "message 2 at byte 16: the file ends 1 bytes too early": good[:-1],
        "message 1 at byte 9: text that is not UTF-8": good.replace(b"a", b"\xff"),
        "message 3 at byte 24: a length of 137438953471 bytes": good + b"\xff\xff\xff\xff\xff\3",
        "an empty message": good + b"\0",
        "compression is damaged": gzip.compress(good)[:-3],
        "grows more than 400 times": gzip.compress(file_bytes(Metadata(), []) + b"\2\x18\4" * (30 << 20 >> 1)),
    }
    for message, data in cases.items():
        path.write_bytes(data if isinstance(data, bytes) else b"")
        with pytest.raises(SpecError, match=message or "is empty") as caught:
            trace.load(path)
        assert "x.0.et" in str(caught.value)
