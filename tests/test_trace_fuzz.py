"""10,000 damaged trace files: a clear error or a valid trace, in bounded memory, without a hang."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from trace_cases import FIXTURES

import dse.trace as trace
from dse.errors import SpecError
from dse.trace import files, wire
from dse.trace.scan import _fast

CASES = 10_000
MEMORY = 400 << 20


def seeds() -> list[bytes]:
    """The beginning of files of every dialect, and one with a message of every attribute kind."""
    out = []
    wanted = {"stage_llama_s2": ("workload.0.et",), "text_workloads_et": ("DLRM_HybridParallel/w.0.et",)}
    wanted["chakra_generator_et"] = (
        "all_types.0.et",
        "ALL_REDUCE.0.et",
        "two_comp_nodes_dependent.0.et",
        "send_node.0.et",
    )
    for archive, names in wanted.items():
        with tarfile.open(FIXTURES / f"{archive}.tar.gz") as tar:
            for member in tar:
                file = tar.extractfile(member) if member.name.endswith(names) else None
                if file is not None:
                    out.append(head(file.read()))
    assert len(out) == 6
    return out


def head(data: bytes, nodes: int = 14) -> bytes:
    at = 0
    for _ in range(nodes):
        if at < len(data):
            length, at = wire.varint(data, at, len(data))
            at += length
    return data[:at]


Rng = np.random.Generator


def flip(data: bytes, rng: Rng) -> bytes:
    out = bytearray(data)
    for at in rng.integers(0, len(out), rng.integers(1, 9)):
        out[at] ^= 1 << rng.integers(8)
    return bytes(out)


def cut(data: bytes, rng: Rng) -> bytes:
    return data[: rng.integers(len(data))]


def drop(data: bytes, rng: Rng) -> bytes:
    at, end = sorted(rng.integers(0, len(data), 2))
    return data[:at] + data[end:]


def bomb(data: bytes, rng: Rng) -> bytes:
    """A length or number of up to 70 bits somewhere."""
    at = rng.integers(len(data))
    return data[:at] + b"\xff" * rng.integers(1, 11) + bytes([rng.integers(128)]) + data[at + rng.integers(2) :]


def noise(data: bytes, rng: Rng) -> bytes:
    at = rng.integers(len(data))
    return data[:at] + rng.bytes(rng.integers(1, 60)) + data[at:]


def random_bytes(data: bytes, rng: Rng) -> bytes:
    return rng.bytes(rng.integers(0, 300))


def message(data: bytes, rng: Rng) -> bytes:
    """A well-delimited message of random fields, so that damage sits deep inside."""
    body = b"".join(field(rng, 3) for _ in range(rng.integers(1, 6)))
    return data + wire.put_varint(len(body)) + body


def field(rng: Rng, depth: int) -> bytes:
    number, kind = int(rng.integers(0, 34)), int(rng.integers(0, 8))
    tag = wire.put_varint(number << 3 | kind)
    if kind == wire.BYTES:
        body = b"".join(field(rng, depth - 1) for _ in range(rng.integers(3))) if depth else rng.bytes(rng.integers(8))
        return tag + wire.put_varint(len(body)) + body
    if kind in (wire.FIXED32, wire.FIXED64):
        return tag + rng.bytes(4 if kind == wire.FIXED32 else 8)
    if kind == wire.VARINT:
        return tag + wire.put_varint(int(rng.integers(1 << 63)) >> int(rng.integers(64)))
    return tag * int(rng.choice([1, 1, 300]))  # groups in groups


def packed(data: bytes, rng: Rng) -> bytes:
    damage = (flip, cut, drop, noise)[rng.integers(4)]
    return damage(gzip.compress(data, 1), rng)


def inside(data: bytes, rng: Rng) -> bytes:
    damage = (flip, cut, bomb, message)[rng.integers(4)]
    return gzip.compress(damage(data, rng), 1)


DAMAGE: tuple[Callable[[bytes, Rng], bytes], ...] = (
    flip, flip, cut, drop, bomb, bomb, noise, random_bytes, message, message, packed, inside,
)  # fmt: skip


def sound(found: trace.Trace) -> None:
    n = len(found)
    for pointers, rows in ((found.data_ptr, found.data), (found.ctrl_ptr, found.ctrl)):
        assert len(pointers) == n + 1 and pointers[0] == 0 and pointers[-1] == len(rows)
        assert (np.diff(pointers) >= 0).all() and (rows >= 0).all() and (rows < n).all()
    for codes, table in (
        (found.name, found.names),
        (found.group, found.labels),
        (found.dims, found.involved),
        (found.stream, found.streams),
        (found.tier, found.tiers),
    ):
        assert len(codes) == n and (codes >= -1).all() and (codes < len(table)).all()
    assert np.isfinite(found.seconds).all() and np.isfinite(found.flops).all() and np.isfinite(found.bytes).all()


def same(left: trace.Trace, right: trace.Trace) -> bool:
    pairs = ((getattr(left, item.name), getattr(right, item.name)) for item in fields(trace.Trace))
    return all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in pairs)


@pytest.mark.slow
def test_damaged_files_are_refused_clearly_or_read_soundly(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    rng = np.random.default_rng(6)
    starts = seeds()
    path = tmp_path / "x.0.et"
    for data in starts:  # compile before memory is measured
        path.write_bytes(data)
        trace.validate(trace.load(path))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = valid = 0
    for case in range(CASES):
        data = DAMAGE[case % len(DAMAGE)](starts[rng.integers(len(starts))], rng)
        path.write_bytes(data)
        try:
            found = trace.load(path)
        except SpecError as error:
            refused += 1
            assert "x.0.et" in str(error) and len(str(error)) < 1000
            continue
        valid += 1
        sound(found[0])
        assert all(str(item) for item in trace.validate(found))
        fast = _fast(b"".join(files.blocks(path)))
        if fast is not None and case % 4 == 0:  # what the compiled reader takes, the plain one takes, and alike
            assert same(fast.trace, trace.columns(*reversed(trace.read(path))))
    used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert used < MEMORY
    assert refused > CASES // 4 and valid > CASES // 20, (refused, valid)


@pytest.mark.parametrize("size", [1 << 20, 64 << 20, (64 << 20) + 1, 1 << 31, 1 << 40, (1 << 64) - 1])
def test_a_length_bomb_reserves_no_memory(tmp_path: Path, size: int) -> None:
    import tracemalloc

    path = tmp_path / "x.0.et"
    path.write_bytes(b"\0" + wire.put_varint(size) + b"\x08\x01")
    tracemalloc.start()
    with pytest.raises(SpecError, match=r"ends \d+ bytes too early|more than 67108864"):
        trace.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * files.BLOCK


def test_a_decompression_bomb_is_stopped(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "x.0.et"
    path.write_bytes(gzip.compress(b"\0" * (80 << 20)))
    tracemalloc.start()
    with pytest.raises(SpecError, match="grows more than 400 times"):
        trace.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * files.GROWTH_FROM


def test_damaged_groups_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    trace.write(tmp_path / "x.0.et", trace.Metadata(), [])
    text = b'{"1": [0], "22": [0], "3": {"ranks": [0]}}'
    for case in range(1000):
        (tmp_path / "g.json").write_bytes((flip, cut, drop, noise, bomb)[case % 5](text, rng))
        try:
            found = trace.load(tmp_path / "x", tmp_path / "g.json")
        except SpecError as error:
            assert "group" in str(error)
        else:
            assert all(table.tolist() == [[0]] for table in found.groups.values())
