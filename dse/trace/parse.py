"""The compiled part of :mod:`dse.trace.scan`: bytes of trace files to plain arrays.

What is malformed, or too rare to be worth code here, ends the pass with a status other than 0; the plain reader then
says what is wrong, or reads it. So each rule below must be at least as strict as :mod:`dse.trace.wire`.
"""

from __future__ import annotations

import numpy as np

from dse.jit import njit

OK, BAD, RARE = 0, 1, 2
MESSAGE = 64 << 20
VARINT, FIXED64, BYTES, GROUP, FIXED32 = 0, 1, 2, 3, 5
# Wire type of the scalar kinds by field number (3, 5, ..., 31); the list of a kind is the next number.
WIRE = np.zeros(33, np.int64)
WIRE[[3, 21, 25]] = FIXED64
WIRE[[5, 19, 23]] = FIXED32
WIRE[[29, 31]] = BYTES
WIRE[4:33:2] = BYTES
# Columns of integers, reals and texts, and the names of their attributes.
INT_COLUMNS = ("kind", "cpu", "coll", "size", "src", "dst", "tag", "priority")
REAL_COLUMNS = ("flops", "bytes", "seconds")
TEXT_COLUMNS = ("name", "group", "stream", "thread", "tier", "dims")


@njit(cache=True)
def _varint(buf, at, end):
    """(value, next byte); the next byte is -1 if malformed."""
    if at < end and buf[np.uint64(at)] < 0x80:
        return np.uint64(buf[np.uint64(at)]), at + 1
    value = np.uint64(0)
    shift = np.uint64(0)
    while at < end:
        byte = buf[np.uint64(at)]
        at += 1
        if shift == np.uint64(63) and byte > 1:
            return value, -1
        value |= np.uint64(byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += np.uint64(7)
    return value, -1


@njit(cache=True)
def _fixed(buf, at, length):
    value = np.uint64(0)
    for i in range(length):
        value |= np.uint64(buf[at + i]) << np.uint64(8 * i)
    return value


@njit(cache=True)
def _field(buf, at, end):
    """(number, wire type, integer, start, stop) of the next field; stop is -1 if malformed or a group."""
    tag, at = _varint(buf, at, end)
    if at < 0 or tag > np.uint64(0xFFFFFFFF) or tag < np.uint64(8):
        return 0, 0, np.uint64(0), 0, -1
    number, wire = np.int64(tag >> np.uint64(3)), np.int64(tag & np.uint64(7))
    if wire == BYTES:
        size, at = _varint(buf, at, end)
        if at < 0 or size > np.uint64(end - at):
            return 0, 0, size, 0, -1
        return number, wire, size, at, at + np.int64(size)
    if wire == VARINT:
        value, stop = _varint(buf, at, end)
        return number, wire, value, at, stop
    length = 8 if wire == FIXED64 else 4
    if (wire != FIXED64 and wire != FIXED32) or length > end - at:
        return 0, 0, np.uint64(0), 0, -1
    return number, wire, _fixed(buf, at, length), at, at + length


@njit(cache=True)
def _utf8(buf, at, end):
    """Whether the bytes are UTF-8 (without surrogates and overlong forms)."""
    every = np.uint8(0)
    for i in range(np.uint64(at), np.uint64(end)):
        every |= buf[i]
    if every < 0x80:
        return True
    while at < end:
        lead = buf[at]
        at += 1
        if lead < 0x80:
            continue
        more, low, high = 1, 0x80, 0xBF
        if lead < 0xC2 or lead > 0xF4:
            return False
        if lead >= 0xF0:
            more = 3
            low = 0x90 if lead == 0xF0 else 0x80
            high = 0x8F if lead == 0xF4 else 0xBF
        elif lead >= 0xE0:
            more = 2
            low = 0xA0 if lead == 0xE0 else 0x80
            high = 0x9F if lead == 0xED else 0xBF
        if at + more > end or buf[at] < low or buf[at] > high:
            return False
        for i in range(1, more):
            if buf[at + i] < 0x80 or buf[at + i] > 0xBF:
                return False
        at += more
    return True


@njit(cache=True)
def _packed_ok(buf, at, end, wire):
    """Whether packed numbers are well formed."""
    if wire == VARINT:
        while at < end:
            _, at = _varint(buf, at, end)
            if at < 0:
                return False
        return True
    return (end - at) % (4 if wire == FIXED32 else 8) == 0


@njit(cache=True)
def _texts_ok(buf, at, end, numbers):
    """Whether a message is well formed whose fields 1 ... ``numbers`` are strings."""
    while at < end:
        number, wire, _, start, at = _field(buf, at, end)
        if at < 0 or (number <= numbers and wire == BYTES and not _utf8(buf, start, at)):
            return False
    return True


@njit(cache=True)
def _list_ok(buf, at, end, kind):
    """Whether a list of values of the kind with that field number is well formed."""
    if kind == 30:
        return _texts_ok(buf, at, end, 1)
    scalar = WIRE[kind - 1]
    while at < end:
        number, wire, _, start, at = _field(buf, at, end)
        if at < 0:
            return False
        packed = number == 1 and wire == BYTES and scalar != BYTES
        if packed and not _packed_ok(buf, start, at, scalar):
            return False
    return True


@njit(cache=True)
def _attribute(buf, at, end):
    """(status, name start, stop, kind's field number or 0, integer, value start, stop)."""
    name, name_end, kind, value, first, last = 0, 0, 0, np.uint64(0), 0, 0
    while at < end:
        number, wire, bits, start, at = _field(buf, at, end)
        if at < 0:
            return RARE, 0, 0, 0, value, 0, 0
        if number <= 2:
            if wire == BYTES:
                if not _utf8(buf, start, at):
                    return BAD, 0, 0, 0, value, 0, 0
                if number == 1:
                    name, name_end = start, at
        elif number <= 32 and wire == WIRE[number]:
            if number % 2 == 0 and (number == kind or not _list_ok(buf, start, at, number)):
                return RARE, 0, 0, 0, value, 0, 0
            if number == 29 and not _utf8(buf, start, at):
                return BAD, 0, 0, 0, value, 0, 0
            kind, value, first, last = number, bits, start, at
    return OK, name, name_end, kind, value, first, last


@njit(cache=True)
def _column(buf, at, end, texts, ends):
    """Which of the names that have columns this is, -1 if none."""
    begin = 0
    for which in range(len(ends)):
        if ends[which] - begin == end - at:
            same = True
            for i in range(end - at):
                if buf[np.uint64(at + i)] != texts[np.uint64(begin + i)]:
                    same = False
                    break
            if same:
                return which
        begin = ends[which]
    return -1


@njit(cache=True)
def _number(kind, bits, scratch):
    """(whether it is one, as integer within 64 bits, as real) of a scalar kind's bits."""
    if kind == 3 or kind == 5:
        scratch[0] = bits
        real = scratch.view(np.float64)[0] if kind == 3 else np.float64(scratch.view(np.float32)[0])
        if not np.isfinite(real):
            return False, np.int64(0), 0.0
        if real >= 9223372036854775808.0:
            return True, np.int64(9223372036854775807), real
        if real < -9223372036854775808.0:
            return True, np.int64(-9223372036854775808), real
        return True, np.int64(real), real
    if kind == 13 or kind == 21:
        top = np.uint64(9223372036854775807)
        return True, np.int64(min(bits, top)), np.float64(bits)
    if kind == 11 or kind == 19:
        whole = np.int64(bits & np.uint64(0xFFFFFFFF))
    elif kind == 7 or kind == 23:
        whole = np.int64(np.int32(np.uint32(bits & np.uint64(0xFFFFFFFF))))
    elif kind == 15:
        low = bits & np.uint64(0xFFFFFFFF)
        whole = np.int64(low >> np.uint64(1)) ^ -np.int64(low & np.uint64(1))
    elif kind == 17:
        whole = np.int64(bits >> np.uint64(1)) ^ -np.int64(bits & np.uint64(1))
    elif kind == 27:
        whole = np.int64(bits != np.uint64(0))
    elif kind == 9 or kind == 25:
        whole = np.int64(bits)
    else:
        return False, np.int64(0), 0.0
    return True, whole, np.float64(whole)


@njit(cache=True)
def frames(buf):
    """Start and stop of each message, and a status."""
    count, at, end = 0, 0, len(buf)
    bounds = np.empty((0, 2), np.int64)
    for fill in range(2):
        at, count = 0, 0
        while at < end:
            size, start = _varint(buf, at, end)
            if start < 0 or size > np.uint64(MESSAGE) or np.int64(size) > end - start:
                return bounds, BAD
            at = start + np.int64(size)
            if fill:
                bounds[count, 0], bounds[count, 1] = start, at
            count += 1
        if not fill:
            bounds = np.empty((count, 2), np.int64)
    return bounds, OK


@njit(cache=True)
def _take(buf, wire, bits, at, end, room, used):
    """Dependences of one field, appended: (room, used), used is -1 if malformed."""
    need = used + (end - at if wire == BYTES else 1)
    if need > len(room):
        grown = np.empty(max(2 * len(room), need), np.uint64)
        grown[:used] = room[:used]
        room = grown
    if wire == VARINT:
        room[used] = bits
        return room, used + 1
    if wire == BYTES:
        while at < end:
            value, at = _varint(buf, at, end)
            if at < 0:
                return room, -1
            room[used] = value
            used += 1
    return room, used


@njit(cache=True)
def nodes(buf, bounds, texts, ends, stamps, ints, reals, kinds, bits, stops, pointers):
    """Fill the columns of the messages between ``bounds`` [n, 2]: (status, data, ctrl dependences as identifiers).

    Args:
        texts, ends: names of the attributes with columns, one after the other: integers from the second, reals, texts.
        stamps: uint64 [3, n] for identifier, start, duration; ints: int64 [8, n]; reals: float64 [3, n], NaN = absent.
        kinds, bits, stops: [6, n]: of texts the kind's field number (0 absent), and start and stop or the integer.
        pointers: int64 [2, n + 1], of data and control dependences.
    """
    n_ints, n_reals = ints.shape[0] - 1, reals.shape[0]
    scratch = np.zeros(1, np.uint64)
    have = np.zeros(len(ends), np.bool_)
    data, ctrl = np.empty(256, np.uint64), np.empty(256, np.uint64)
    used_data, used_ctrl = 0, 0
    for row in range(len(bounds)):
        at, end = bounds[row, 0], bounds[row, 1]
        if at == end:
            return BAD, data[:0], ctrl[:0]
        have[:] = False
        kinds[0, row], bits[0, row], stops[0, row] = 29, np.uint64(at), at
        while at < end:
            number, wire, value, start, at = _field(buf, at, end)
            if at < 0:
                return RARE, data[:0], ctrl[:0]
            if wire == VARINT:
                if number == 1:
                    stamps[0, row] = value
                elif number == 3:
                    ints[0, row] = np.int64(np.int32(np.uint32(value & np.uint64(0xFFFFFFFF))))
                elif number == 6 or number == 7:
                    stamps[number - 5, row] = value
            if number == 4:
                ctrl, used_ctrl = _take(buf, wire, value, start, at, ctrl, used_ctrl)
            elif number == 5:
                data, used_data = _take(buf, wire, value, start, at, data, used_data)
            elif wire == BYTES and number == 2:
                if not _utf8(buf, start, at):
                    return BAD, data[:0], ctrl[:0]
                bits[0, row], stops[0, row] = np.uint64(start), at
            elif wire == BYTES and (number == 8 or number == 9):
                if not _texts_ok(buf, start, at, 3):
                    return RARE, data[:0], ctrl[:0]
            elif wire == BYTES and number == 10:
                status, name, name_end, kind, worth, first, last = _attribute(buf, start, at)
                if status != OK:
                    return status, data[:0], ctrl[:0]
                which = _column(buf, name, name_end, texts, ends)
                if which < 0 or kind == 0 or have[which]:
                    continue
                if which < n_ints + n_reals:
                    fits, whole, real = _number(kind, worth, scratch)
                    if which == 0 and fits:
                        ints[1, row] = whole != 0  # said or not: -1 is not said
                    elif which < n_ints and fits:
                        ints[which + 1, row] = whole
                    elif fits:
                        reals[which - n_ints, row] = real
                else:
                    column = which - n_ints - n_reals + 1
                    if column == kinds.shape[0] - 1:
                        fits = kind == 28
                    else:
                        fits = kind == 29 or (7 <= kind <= 25 and kind % 2 == 1)
                    if fits:
                        span = kind == 28 or kind == 29
                        kinds[column, row], stops[column, row] = kind, last
                        bits[column, row] = np.uint64(first) if span else worth
                have[which] = fits
            if used_data < 0 or used_ctrl < 0:
                return BAD, data[:0], ctrl[:0]
        pointers[0, row + 1], pointers[1, row + 1] = used_data, used_ctrl
    return OK, data[:used_data], ctrl[:used_ctrl]
