"""Trace files: one a rank, ``PREFIX.<rank>.et``; messages, each behind its length, plain or compressed."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, cast

from dse.errors import Fault, SpecError
from dse.study.export import write_atomically
from dse.trace import wire
from dse.trace.schema import Metadata, Node

MAGIC = b"\x1f\x8b"
BLOCK = 1 << 20
MESSAGE = 64 << 20  # no node is larger; a length beyond it is damage
# What a compressed file may grow to: traces compress 10 to 50 times, so far more is an attack or damage.
GROWTH, GROWTH_FROM = 400, 16 << 20


def short(path: Path | str) -> str:
    """The end of a path, for messages."""
    return str(path)[-200:]


def fault(path: Path, rule: str, message: int = -1, at: int = -1) -> SpecError:
    """The error of a file that is not a trace, with the message (0 is the metadata) and byte where it is wrong."""
    where = "" if message < 0 else f"message {message}" + ("" if at < 0 else f" at byte {at}")
    return SpecError([Fault("trace", where, rule, short(path))])


def blocks(path: Path) -> Iterator[bytes]:
    """The bytes of a file, decompressed if it is compressed, a block at a time.

    Raises:
        SpecError: it cannot be read, or the compression is damaged.
    """
    path = Path(path)
    try:
        with path.open("rb") as raw:
            packed = raw.peek(2)[:2] == MAGIC
            grown = 0
            with cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if packed else raw as file:
                while block := file.read(BLOCK):
                    grown += len(block)
                    if packed and grown > max(GROWTH_FROM, GROWTH * path.stat().st_size):
                        raise fault(path, f"grows more than {GROWTH} times when decompressed: not a trace")
                    yield block
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise fault(path, f"the compression is damaged: {error}"[:200]) from None
    except OSError as error:
        raise SpecError([Fault("trace", short(path), f"cannot be read: {error.strerror or error}")]) from None


def messages(path: Path) -> Iterator[tuple[int, bytes]]:
    """The messages of a file and the byte at which each starts; holds one block and one message at a time.

    Raises:
        SpecError: a length that is damaged or beyond 64 MiB, or the file ends inside a message.
    """
    rest, base, count = b"", 0, 0
    more = blocks(path)
    ended = False
    while True:
        at = 0
        need = 1
        while at < len(rest):
            try:
                length, start = wire.varint(rest, at, min(len(rest), at + 10))
            except wire.WireError as error:
                if len(rest) - at >= 10 or ended:
                    raise fault(
                        path, f"a length that is {'cut off' if ended else 'damaged'}: {error}", count, base + at
                    ) from None
                break
            if length > MESSAGE:
                raise fault(path, f"a length of {length} bytes, more than {MESSAGE}", count, base + at)
            if start + length > len(rest):
                need = start + length - len(rest)
                if ended:
                    rule = f"the file ends {need} bytes too early, inside a message of {length}"
                    raise fault(path, rule, count, base + at)
                break
            yield base + start, rest[start : start + length]
            at = start + length
            count += 1
        base += at
        parts = [rest[at:]]
        while need > 0 and not ended:
            block = next(more, b"")
            ended = not block
            parts.append(block)
            need -= len(block)
        rest = b"".join(parts)
        if ended and not rest:
            return


def stream(path: Path | str) -> Iterator[Metadata | Node]:
    """The messages of a trace file, one at a time in bounded memory: its :class:`Metadata`, then each :class:`Node`.

    Raises:
        SpecError: not a trace; the message says where the file is wrong.
    """
    path = Path(path)
    if path.suffix == ".json":
        from dse.trace.dialects import from_json

        yield from from_json(path)
        return
    empty = True
    for count, (at, data) in enumerate(messages(path)):
        try:
            if not data and count:
                raise wire.WireError("an empty message: a node has at least a kind")
            yield wire.node(data) if count else wire.metadata(data)
        except wire.WireError as error:
            raise fault(path, str(error), count, at) from None
        empty = False
    if empty:
        raise fault(path, "is empty: a trace starts with its metadata")


def read(path: Path | str) -> tuple[Metadata, list[Node]]:
    """All of one trace file.

    Raises:
        SpecError: as :func:`stream`.
    """
    found = stream(path)
    head = cast(Metadata, next(found))
    return head, cast("list[Node]", list(found))


def write(path: Path | str, metadata: Metadata, nodes: Iterable[Node]) -> Path:
    """Write one trace file, compressed if the name ends in ``.gz``; never half a file, the same bytes each time.

    Raises:
        SpecError: a value that its kind cannot hold.
        StudyError: the file cannot be written.
    """

    def fill(file: IO[bytes]) -> None:
        data = wire.put_metadata(metadata)
        file.write(wire.put_varint(len(data)) + data)
        for node in nodes:
            data = wire.put_node(node)
            if not data:
                raise SpecError([Fault("node", "0", "needs a kind, an identifier or a name")])
            file.write(wire.put_varint(len(data)) + data)

    def to(temporary: Path) -> None:
        with temporary.open("wb") as raw:
            if Path(path).suffix == ".gz":
                with gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as file:
                    fill(cast(IO[bytes], file))
            else:
                fill(raw)

    return write_atomically(Path(path), to)
