"""Algorithms that know only ranks: ring, direct, recursive halving-doubling, Bruck, double binary tree."""

from __future__ import annotations

import numpy as np

from dse.collective.library.base import Algorithm, Net
from dse.collective.library.order import ring_order
from dse.collective.library.program import Moves
from dse.collective.topology import Ints


def _ring(net: Net, pieces: int, both: bool = False) -> Moves:
    order, n = ring_order(net), net.n
    back = np.arange(pieces) % 2 * both
    step, place, lane = np.arange(n - 1)[:, None, None], np.arange(n)[:, None], np.arange(pieces)
    way = 1 - 2 * back
    src, dst = order[(place + way * step) % n], order[(place + way * (step + 1)) % n]
    return Moves.of(step, src, dst, order[place], lane)


def _chain(net: Net, root: int | None, pieces: int, both: bool = False) -> Moves:
    order, n = ring_order(net), net.n
    order = np.roll(order, -int(np.flatnonzero(order == (root or 0))[0]))
    step, lane = np.arange(n - 1)[:, None], np.arange(pieces)
    way = 1 - 2 * (lane % 2 * both)
    return Moves.of(step, order[way * step % n], order[way * (step + 1) % n], 0, lane)


def _direct(net: Net, pieces: int) -> Moves:
    """In step s every rank serves the one s + 1 after it, so that no two serve the same."""
    step, rank, lane = np.arange(net.n - 1)[:, None, None], np.arange(net.n)[:, None], np.arange(pieces)
    return Moves.of(step, rank, (rank + step + 1) % net.n, rank, lane)


def _direct_spread(net: Net, root: int | None, pieces: int) -> Moves:
    others = np.delete(np.arange(net.n), root or 0)[:, None]
    return Moves.of(np.arange(net.n - 1)[:, None], root or 0, others, 0, np.arange(pieces))


def _direct_exchange(net: Net, pieces: int) -> Moves:
    moves = _direct(net, pieces)
    return moves._replace(chunk=moves.src * net.n + moves.dst)


def _doubling(net: Net, pieces: int) -> Moves:
    """Recursive doubling; the ranks beyond the last power of two give their shard to one below and get all from it."""
    n = net.n
    bits = n.bit_length() - 1
    power = 1 << bits
    extra = np.arange(power, n)
    parts = [(0, extra, extra - power, extra)]
    for bit in range(bits):
        rank, low = np.arange(power)[:, None, None], np.arange(1 << bit)[:, None]
        shard = ((rank >> bit << bit) | low) + np.array([0, power])
        src = np.broadcast_to(rank, shard.shape)
        held = shard < n
        parts.append((1 + bit, src[held], src[held] ^ (1 << bit), shard[held]))
    to, shard = np.meshgrid(extra, np.arange(n), indexing="ij")
    other = to != shard
    parts.append((1 + bits, to[other] - power, to[other], shard[other]))
    return _in_lanes(parts, pieces)


def _binomial(net: Net, root: int | None, pieces: int) -> Moves:
    n, parts = net.n, []
    for bit in range((n - 1).bit_length()):
        src = np.arange(min(1 << bit, n - (1 << bit)))
        parts.append((bit, (src + (root or 0)) % n, (src + (1 << bit) + (root or 0)) % n, 0 * src))
    return _in_lanes(parts, pieces)


def _doubling_exchange(net: Net, pieces: int) -> Moves:
    """Bit by bit: half of what a rank holds goes to the partner whose number differs in that bit."""
    n = net.n
    bits = n.bit_length() - 1
    power = 1 << bits
    sender, receiver = (a.ravel() for a in np.meshgrid(np.arange(n), np.arange(n), indexing="ij"))
    chunk = sender * n + receiver
    at, to = sender % power, receiver % power
    apart = sender != receiver
    first = apart & (sender >= power)
    parts = [(0, sender[first], at[first], chunk[first])]
    for bit in range(bits):
        moved = ((at ^ to) >> bit & 1).astype(bool)
        parts.append((1 + bit, at[moved], at[moved] ^ (1 << bit), chunk[moved]))
        at = np.where(moved, at ^ (1 << bit), at)
    last = apart & (receiver >= power)
    parts.append((1 + bits, at[last], receiver[last], chunk[last]))
    return _in_lanes(parts, pieces)


def _bruck(net: Net, pieces: int) -> Moves:
    n, parts = net.n, []
    for bit in range((n - 1).bit_length()):
        rank, ahead = np.meshgrid(np.arange(n), np.arange(min(1 << bit, n - (1 << bit))), indexing="ij")
        parts.append((bit, rank.ravel(), (rank.ravel() - (1 << bit)) % n, (rank + ahead).ravel() % n))
    return _in_lanes(parts, pieces)


def _bruck_exchange(net: Net, pieces: int) -> Moves:
    n, parts = net.n, []
    sender, off = (a.ravel() for a in np.meshgrid(np.arange(n), np.arange(n), indexing="ij"))
    chunk = sender * n + (sender + off) % n
    for bit in range((n - 1).bit_length()):
        moved = (off >> bit & 1).astype(bool)
        at = (sender + (off & ((1 << bit) - 1)))[moved] % n
        parts.append((bit, at, (at + (1 << bit)) % n, chunk[moved]))
    return _in_lanes(parts, pieces)


def _double_tree(net: Net, root: int | None, pieces: int) -> Moves:
    """Even pieces down one binary tree, odd ones down another in which the leaves of the first are inner nodes.

    A root that is asked for stands above both trees; otherwise each tree has its own.
    """
    n = net.n
    ranks = np.arange(n) if root is None else (root + 1 + np.arange(n - 1)) % n
    m = len(ranks)
    parent = np.array([_parent(rank, m) for rank in range(m)])
    depth = np.zeros(m, np.int64)
    for rank in sorted(range(1, m), key=lambda r: -(r & -r)):
        depth[rank] = depth[parent[rank]] + 1
    # The second tree: turned round for an even number of ranks, shifted by one for an odd one.
    roles = np.arange(m), (m - 1 - np.arange(m) if m % 2 == 0 else (np.arange(m) + 1) % m)
    parts = []
    for half, who in enumerate(roles):
        names, lane = ranks[who], np.arange(half, pieces, 2)
        child = np.arange(1, m)[:, None]
        parts.append(Moves.of(depth[child] - (root is None), names[parent[child]], names[child], 0, lane))
        if root is not None:
            parts.append(Moves.of(0, root, names[0], 0, lane))
    return Moves.joined(parts)


def _parent(rank: int, n: int) -> int:
    """In the binary tree whose odd ranks are leaves, rank 0 the root."""
    bit = rank & -rank
    up = (rank ^ bit) | bit << 1
    return up if up < n else rank ^ bit


def _in_lanes(parts: list[tuple[int, Ints, Ints, Ints]], pieces: int) -> Moves:
    lane = np.arange(pieces)
    return Moves.joined([Moves.of(s, a[:, None], b[:, None], c[:, None], lane) for s, a, b, c in parts])


RING = Algorithm("ring", _ring, _chain)
BIDIRECTIONAL = Algorithm(
    "bidirectional_ring",
    lambda net, pieces: _ring(net, pieces, True),
    lambda net, root, pieces: _chain(net, root, pieces, True),
    lanes=2,
)
DIRECT = Algorithm("direct", _direct, _direct_spread, _direct_exchange, pipelined=False)
HALVING_DOUBLING = Algorithm("halving_doubling", _doubling, _binomial, _doubling_exchange, pipelined=False)
BRUCK = Algorithm("bruck", _bruck, None, _bruck_exchange)
DOUBLE_BINARY_TREE = Algorithm("double_binary_tree", None, _double_tree, lanes=2)
