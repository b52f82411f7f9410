"""The bytes of ``et.proto``'s messages: a codec without dependences, byte for byte what the official library writes.

Encoding is canonical: fields by number, zero values left out, lists of numbers packed. Decoding takes what any writer
may send: fields in any order, lists packed or not, messages in several parts, unknown fields (skipped), 64-bit values
in 32-bit fields (cut, as Protocol Buffers does).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

from dse.errors import Fault, SpecError
from dse.trace.schema import Attribute, IOInfo, Metadata, Node

VARINT, FIXED64, BYTES, GROUP, END_GROUP, FIXED32 = 0, 1, 2, 3, 4, 5
U32, U64 = (1 << 32) - 1, (1 << 64) - 1
GROUP_DEPTH = 64  # groups of unknown fields inside each other


class WireError(ValueError):
    """Bytes that are not a message of the schema; who reads the file says which message of which file."""


# --- numbers --------------------------------------------------------------------------------------------------------


def varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The variable-length integer at ``at``, and where it ends.

    Raises:
        WireError: it does not end before ``end``, or is more than 64 bits long.
    """
    value = shift = 0
    while at < end:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value > U64:
                raise WireError("a number of more than 64 bits")
            return value, at
        shift += 7
        if shift > 63:
            raise WireError("a number of more than 64 bits")
    raise WireError("a number that is cut off")


def put_varint(value: int) -> bytes:
    """The variable-length form of 0 <= ``value`` < 2^64."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _zigzag(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return (value >> 1) ^ -(value & 1)


def _integer(low: int, high: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        number = int(value)
        if not low <= number <= high:
            raise OverflowError(f"must be within {low} ... {high}")
        return number

    return check


def _unpack(layout: str) -> Callable[[bytes], Any]:
    return lambda data: struct.unpack(layout, data)[0]


class Scalar:
    """How one scalar type is written: its wire type, from the wire, to the wire."""

    __slots__ = ("get", "put", "wire")

    def __init__(self, wire: int, get: Callable[[Any], Any], put: Callable[[Any], bytes]) -> None:
        self.wire, self.get, self.put = wire, get, put


def _varying(get: Callable[[int], Any], low: int, high: int, zigzag: bool = False) -> Scalar:
    check = _integer(low, high)

    def put(value: Any) -> bytes:
        number = check(value)
        return put_varint(number << 1 if zigzag and number >= 0 else ~(number << 1) if zigzag else number & U64)

    return Scalar(VARINT, get, put)


def _fixed(wire: int, layout: str, low: int, high: int) -> Scalar:
    check = _integer(low, high)
    return Scalar(wire, _unpack(layout), lambda value: struct.pack(layout, check(value)))


def _float(value: Any) -> bytes:
    """A double in four bytes: beyond the range it is infinite, as Protocol Buffers has it."""
    try:
        return struct.pack("<f", value)
    except OverflowError:
        return struct.pack("<f", float("inf") if value > 0 else float("-inf"))


def text(data: bytes) -> str:
    """A string of the schema.

    Raises:
        WireError: not UTF-8.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise WireError("text that is not UTF-8") from None


I32, I64 = 1 << 31, 1 << 63
SCALARS = {
    "double": Scalar(FIXED64, _unpack("<d"), lambda value: struct.pack("<d", value)),
    "float": Scalar(FIXED32, _unpack("<f"), _float),
    "int32": _varying(lambda value: _signed(value, 32), -I32, I32 - 1),
    "int64": _varying(lambda value: _signed(value, 64), -I64, I64 - 1),
    "uint32": _varying(lambda value: value & U32, 0, U32),
    "uint64": _varying(lambda value: value, 0, U64),
    "sint32": _varying(lambda value: _zigzag(value, 32), -I32, I32 - 1, zigzag=True),
    "sint64": _varying(lambda value: _zigzag(value, 64), -I64, I64 - 1, zigzag=True),
    "fixed32": _fixed(FIXED32, "<I", 0, U32),
    "fixed64": _fixed(FIXED64, "<Q", 0, U64),
    "sfixed32": _fixed(FIXED32, "<i", -I32, I32 - 1),
    "sfixed64": _fixed(FIXED64, "<q", -I64, I64 - 1),
    "bool": Scalar(VARINT, bool, lambda value: b"\1" if value else b"\0"),
    "string": Scalar(BYTES, text, lambda value: value.encode("utf-8")),
    "bytes": Scalar(BYTES, bytes, bytes),
}
KINDS = tuple(kind for scalar in SCALARS for kind in (scalar, f"{scalar}_list"))  # in the order of their field numbers
FIRST_VALUE = 3  # field number of the first kind


# --- reading --------------------------------------------------------------------------------------------------------


def _skip_group(data: bytes, at: int, end: int, number: int) -> int:
    open_groups = [number]
    while open_groups:
        tag, at = varint(data, at, end)
        wire = tag & 7
        if wire == GROUP:
            open_groups.append(tag >> 3)
            if len(open_groups) > GROUP_DEPTH:
                raise WireError(f"groups more than {GROUP_DEPTH} deep")
        elif wire == END_GROUP:
            if tag >> 3 != open_groups.pop():
                raise WireError("a group that ends as another")
        else:
            _, at = _payload(data, at, end, wire)
    return at


def _payload(data: bytes, at: int, end: int, wire: int) -> tuple[Any, int]:
    if wire == VARINT:
        return varint(data, at, end)
    if wire == BYTES:
        length, at = varint(data, at, end)
    elif wire in (FIXED32, FIXED64):
        length = 4 if wire == FIXED32 else 8
    else:
        raise WireError(f"wire type {wire}, which there is not")
    if length > end - at:
        raise WireError(f"a field of {length} bytes where {end - at} are left")
    return data[at : at + length], at + length


def fields(data: bytes) -> Iterator[tuple[int, int, Any]]:
    """The fields of a message: (number, wire type, integer or bytes); groups are skipped.

    Raises:
        WireError: malformed.
    """
    at, end = 0, len(data)
    while at < end:
        tag, at = varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        if number == 0 or tag > U32:
            raise WireError(f"field number {number}, which there is not")
        if wire == GROUP:
            at = _skip_group(data, at, end, number)
            continue
        value, at = _payload(data, at, end, wire)
        yield number, wire, value


def _numbers(scalar: Scalar, wire: int, value: Any) -> list[Any]:
    """Values of a repeated field from one occurrence, single or packed; none if the wire type is foreign."""
    if wire == scalar.wire:
        return [scalar.get(value)]
    if wire != BYTES:
        return []
    if scalar.wire == VARINT:
        out, at = [], 0
        while at < len(value):
            number, at = varint(value, at, len(value))
            out.append(scalar.get(number))
        return out
    step = 4 if scalar.wire == FIXED32 else 8
    if len(value) % step:
        raise WireError(f"packed numbers of {step} bytes in {len(value)} bytes")
    return [scalar.get(value[at : at + step]) for at in range(0, len(value), step)]


def attribute(data: bytes) -> Attribute:
    """Decode ``AttributeProto``; of several values the last stands, and parts of one list are joined.

    Raises:
        WireError: malformed.
    """
    out = Attribute("")
    for number, wire, value in fields(data):
        if number in (1, 2):
            if wire == BYTES:
                setattr(out, "name" if number == 1 else "doc", text(value))
            continue
        index = number - FIRST_VALUE
        if not 0 <= index < len(KINDS):
            continue
        kind = KINDS[index]
        scalar = SCALARS[kind.removesuffix("_list")]
        if not kind.endswith("_list"):
            if wire == scalar.wire:
                out.kind, out.value = kind, scalar.get(value)
        elif wire == BYTES:
            if out.kind != kind:
                out.kind, out.value = kind, []
            for inner, inner_wire, item in fields(value):
                if inner == 1:
                    out.value += _numbers(scalar, inner_wire, item)
    return out


def _info(data: bytes, into: IOInfo | None) -> IOInfo:
    out = into or IOInfo()
    for number, wire, value in fields(data):
        if wire == BYTES and 1 <= number <= 3:
            setattr(out, ("values", "shapes", "types")[number - 1], text(value))
    return out


def metadata(data: bytes) -> Metadata:
    """Decode ``GlobalMetadata``.

    Raises:
        WireError: malformed, or the message is a node.
    """
    out = Metadata()
    for number, wire, value in fields(data):
        if number == 1 and wire == VARINT:
            raise WireError(
                "a node where the file's metadata should be: perhaps of schema 0.0.1, which is another format"
            )
        if wire == BYTES and number == 1:
            try:
                out.version = text(value)
            except WireError:  # before there was a version, its place was taken by the attributes
                out.attrs.append(attribute(value))
        elif wire == BYTES and number == 2:
            out.attrs.append(attribute(value))
    return out


def node(data: bytes) -> Node:
    """Decode ``Node``.

    Raises:
        WireError: malformed.
    """
    out = Node(0)
    dependence = SCALARS["uint64"]
    for number, wire, value in fields(data):
        if wire == VARINT and number == 1:
            out.id = value
        elif wire == VARINT and number == 3:
            out.kind = _signed(value, 32)
        elif wire == VARINT and number == 6:
            out.start_micros = value
        elif wire == VARINT and number == 7:
            out.duration_micros = value
        elif number == 4:
            out.ctrl_deps += _numbers(dependence, wire, value)
        elif number == 5:
            out.data_deps += _numbers(dependence, wire, value)
        elif wire != BYTES:
            continue
        elif number == 2:
            out.name = text(value)
        elif number == 8:
            out.inputs = _info(value, out.inputs)
        elif number == 9:
            out.outputs = _info(value, out.outputs)
        elif number == 10:
            out.attrs.append(attribute(value))
    return out


# --- writing --------------------------------------------------------------------------------------------------------


def _put(number: int, wire: int, payload: bytes) -> bytes:
    head = put_varint(number << 3 | wire)
    return head + put_varint(len(payload)) + payload if wire == BYTES else head + payload


def _put_text(number: int, value: str) -> bytes:
    return _put(number, BYTES, value.encode("utf-8")) if value else b""


def _put_count(number: int, value: int) -> bytes:
    return _put(number, VARINT, SCALARS["uint64"].put(value)) if value else b""


def _put_value(item: Attribute) -> bytes:
    if not item.kind:
        return b""
    number = KINDS.index(item.kind) + FIRST_VALUE
    scalar = SCALARS[item.kind.removesuffix("_list")]
    if not item.kind.endswith("_list"):
        return _put(number, scalar.wire, scalar.put(item.value))
    if scalar.wire == BYTES:
        inner = b"".join(_put(1, BYTES, scalar.put(value)) for value in item.value)
    else:
        packed = b"".join(map(scalar.put, item.value))
        inner = _put(1, BYTES, packed) if packed else b""
    return _put(number, BYTES, inner)


def put_attribute(item: Attribute) -> bytes:
    """Encode ``AttributeProto``.

    Raises:
        SpecError: no such kind, or a value that its kind cannot hold.
    """
    try:
        return _put_text(1, item.name) + _put_text(2, item.doc) + _put_value(item)
    except (ValueError, TypeError, OverflowError, AttributeError, struct.error) as error:
        rule = str(error) if item.kind in KINDS else f"kind must be one of {', '.join(KINDS)}"
        shown = f"{item.kind} {item.value!r}"[:80]
        raise SpecError([Fault(f"attribute {item.name!r}"[:80], shown, rule)]) from None


def put_metadata(item: Metadata) -> bytes:
    """Encode ``GlobalMetadata``.

    Raises:
        SpecError: as :func:`put_attribute`.
    """
    return _put_text(1, item.version) + b"".join(_put(2, BYTES, put_attribute(a)) for a in item.attrs)


def _put_info(number: int, item: IOInfo | None) -> bytes:
    if item is None:
        return b""
    return _put(number, BYTES, _put_text(1, item.values) + _put_text(2, item.shapes) + _put_text(3, item.types))


def put_node(item: Node) -> bytes:
    """Encode ``Node``.

    Raises:
        SpecError: as :func:`put_attribute`, or a number beyond 64 bits.
    """
    dependence = SCALARS["uint64"].put
    try:
        ctrl, data = b"".join(map(dependence, item.ctrl_deps)), b"".join(map(dependence, item.data_deps))
        head = [
            _put_count(1, item.id),
            _put_text(2, item.name),
            _put(3, VARINT, SCALARS["int32"].put(item.kind)) if item.kind else b"",
            _put(4, BYTES, ctrl) if ctrl else b"",
            _put(5, BYTES, data) if data else b"",
            _put_count(6, item.start_micros),
            _put_count(7, item.duration_micros),
            _put_info(8, item.inputs),
            _put_info(9, item.outputs),
        ]
    except (ValueError, TypeError, OverflowError, AttributeError) as error:
        raise SpecError([Fault("node", str(item.id)[:40], str(error)[:200])]) from None
    return b"".join(head) + b"".join(_put(10, BYTES, put_attribute(a)) for a in item.attrs)
