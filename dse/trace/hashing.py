"""Compiled hash tables for :mod:`dse.trace.scan`: texts to codes, identifiers to rows."""

from __future__ import annotations

import numpy as np

from dse.jit import njit


@njit(cache=True)
def codes(buf, kinds, bits, stops):
    """Equal texts or integers as equal codes in the order in which they come (-1 absent), and the first row of each."""
    n = len(kinds)
    out = np.full(n, -1, np.int32)
    first = np.empty(n, np.int64)
    size = 16
    while size < 2 * n:
        size *= 2
    slots = np.full(size, -1, np.int64)
    count = 0
    mask = np.uint64(size - 1)
    for row in range(n):
        kind = kinds[row]
        if kind == 0:
            continue
        key = np.uint64(14695981039346656037)
        span = kind == 28 or kind == 29
        begin = np.int64(bits[row]) if span else 0
        if span:
            for i in range(np.uint64(begin), np.uint64(stops[row])):
                key = (key ^ np.uint64(buf[i])) * np.uint64(1099511628211)
        else:
            key = (key ^ bits[row]) * np.uint64(1099511628211)
        key = (key ^ (key >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
        slot = np.int64((key >> np.uint64(20)) & mask)
        while slots[slot] >= 0:
            other = first[slots[slot]]
            same = kinds[other] == kind
            if same and span:
                start = np.int64(bits[other])
                same = stops[other] - start == stops[row] - begin
                i = 0
                while same and i < stops[row] - begin:
                    same = buf[start + i] == buf[begin + i]
                    i += 1
            elif same:
                same = bits[other] == bits[row]
            if same:
                break
            slot = (slot + 1) & (size - 1)
        if slots[slot] < 0:
            slots[slot] = count
            first[count] = row
            count += 1
        out[row] = slots[slot]
    return out, first[:count]


@njit(cache=True)
def resolve(ids, pointers, wanted):
    """Identifiers as rows, those that there are not left out: (pointers, rows). Of equal ones the first stands."""
    n = len(ids)
    size = 16
    while size < 2 * n:
        size *= 2
    slots = np.full(size, -1, np.int64)
    spread = np.uint64(0x9E3779B97F4A7C15)
    for row in range(n):
        slot = np.int64(((ids[row] * spread) >> np.uint64(20)) & np.uint64(size - 1))
        while slots[slot] >= 0 and ids[slots[slot]] != ids[row]:
            slot = (slot + 1) & (size - 1)
        if slots[slot] < 0:
            slots[slot] = row
    rows = np.empty(len(wanted), np.int64)
    out = np.zeros(n + 1, np.int64)
    used = 0
    for row in range(n):
        for i in range(pointers[row], pointers[row + 1]):
            slot = np.int64(((wanted[i] * spread) >> np.uint64(20)) & np.uint64(size - 1))
            while slots[slot] >= 0 and ids[slots[slot]] != wanted[i]:
                slot = (slot + 1) & (size - 1)
            if slots[slot] >= 0:
                rows[used] = slots[slot]
                used += 1
        out[row + 1] = used
    return out, rows[:used].copy()
