"""What runtimes make of a file: MSCCL XML and MSCCL++ plans carried out on arrays, as their executors do it.

Written from the rules of the formats, and shares nothing with the writers.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from xml.etree import ElementTree

import numpy as np


class Stuck(Exception):
    """Every thread block waits."""


def units(array: np.ndarray, count: int) -> np.ndarray:
    """Equal parts of an array, [count, elements]."""
    return array.reshape(count, -1).copy()


def run_msccl(path, given, slots: int = 10**9, seed: int = 0):
    """Results of an MSCCL XML file: thread blocks in random order, each step by step.

    A connection (from, to, channel) holds ``slots`` messages that have not been received; a sender waits beyond that.
    """
    algo = ElementTree.parse(path).getroot()
    rng = np.random.default_rng(seed)
    n, inplace, coll = int(algo.get("ngpus")), algo.get("inplace") == "1", algo.get("coll")
    total = int(algo.get("nchunksperloop"))
    buffers, blocks = {}, []
    for gpu in algo.iter("gpu"):
        r = int(gpu.get("id"))
        i, o, s = (int(gpu.get(f"{b}_chunks")) for b in "ios")
        part = units(given[r], i)
        wide, kind = part.shape[1], part.dtype
        buffers[r, "i"] = part
        buffers[r, "o"] = part if inplace and coll == "allreduce" else np.full((o, wide), -99, kind)
        buffers[r, "s"] = np.full((s, wide), -77, kind)
        for tb in gpu.iter("tb"):
            ends = (int(tb.get("send")), int(tb.get("recv")), int(tb.get("chan")))
            blocks.append((r, int(tb.get("id")), *ends, list(tb.iter("step"))))
    assert total == (n if coll == "allgather" else 1) * buffers[0, "i"].shape[0]
    done = defaultdict(int)
    flags = defaultdict(lambda: -1)  # last step that was told to others
    wires = defaultdict(deque)
    while True:
        moved = False
        for k in rng.permutation(len(blocks)):
            r, t, send, recv, channel, steps = blocks[k]
            for _ in range(int(rng.integers(1, 4))):
                at = done[r, t]
                if at == len(steps):
                    break
                step = steps[at]
                get = lambda key, step=step: int(step.get(key))  # noqa: E731
                kind, count = step.get("type"), get("cnt")
                assert get("s") == at
                if get("depid") >= 0 and flags[r, get("depid")] < get("deps"):
                    break
                inbound, outbound = wires[recv, r, channel], wires[r, send, channel]
                if kind in ("r", "rrc", "rcs", "rrs", "rrcs") and not inbound:
                    break
                if kind in ("s", "rcs", "rrs", "rrcs") and len(outbound) >= slots:
                    break
                src = buffers[r, step.get("srcbuf")][get("srcoff") : get("srcoff") + count]
                dst = buffers[r, step.get("dstbuf")]
                to = slice(get("dstoff"), get("dstoff") + count)
                data = None
                if kind.startswith("r") and kind != "re":
                    data = inbound.popleft()
                    assert len(data) == count
                if kind in ("rrc", "rrs", "rrcs"):
                    data = data + src
                if kind in ("s", "cpy"):
                    data = src.copy()
                if kind == "re":
                    data = dst[to] + src
                if kind in ("r", "rcs", "rrc", "rrcs", "cpy", "re"):
                    dst[to] = data
                if kind in ("s", "rcs", "rrs", "rrcs"):
                    outbound.append(data.copy())
                if get("hasdep"):
                    flags[r, t] = at
                done[r, t] += 1
                moved = True
        if all(done[r, t] == len(steps) for r, t, *_, steps in blocks):
            assert not any(wires.values())
            return [buffers[r, "o"].ravel() for r in range(n)]
        if not moved:
            raise Stuck


def run_mscclpp(path, given, seed: int = 0):
    """Results of an MSCCL++ plan: thread blocks in random order, one operation at a time; races are errors."""
    plan = json.loads(path.read_text())
    rng = np.random.default_rng(seed)
    gpus = plan["gpus"]
    assert [gpu["id"] for gpu in gpus] == list(range(len(gpus)))
    buffers = {}
    for gpu in gpus:
        r = gpu["id"]
        part = units(given[r], gpu["input_chunks"])
        buffers[r, "i"] = part
        empty = np.full((gpu["output_chunks"], part.shape[1]), -99, part.dtype)
        buffers[r, "o"] = part if plan["inplace"] else empty
        buffers[r, "s"] = np.full((gpu["scratch_chunks"], part.shape[1]), -77, part.dtype)
    peers = {gpu["id"]: [p for c in gpu["channels"] for p in c["connected_to"]] for gpu in gpus}

    def other_end(r: int, channel: int) -> tuple[int, int]:
        """The k-th channel of r to p is the k-th of p to r."""
        p = peers[r][channel]
        k = peers[r][:channel].count(p)
        return p, [i for i, q in enumerate(peers[p]) if q == r][k]

    signals = defaultdict(int)
    blocks = [(gpu["id"], tb) for gpu in gpus for tb in gpu["threadblocks"]]
    for _, tb in blocks:
        check_limits(tb)
    at = [0] * len(blocks)
    loose = [{"read": set(), "wrote": set(), "waited": False} for _ in blocks]
    while True:
        moved = False
        for k in rng.permutation(len(blocks)):
            r, tb = blocks[k]
            if at[k] == len(tb["ops"]):
                continue
            op, state = tb["ops"][at[k]], loose[k]
            ids = [i for c in tb["channels"] for i in c["channel_ids"]]
            channels = [ids[i] for i in op.get("channel_ids", [])]
            assert len(set(channels)) == len(channels)
            if op["name"] == "wait":
                if any(signals[r, c] < 1 for c in channels):
                    continue
                for c in channels:
                    signals[r, c] -= 1
                state["waited"] = True
            elif op["name"] == "signal":
                assert not state["wrote"], "signals before all its threads have written"
                for c in channels:
                    signals[other_end(r, c)] += 1
            elif op["name"] == "nop":
                state.update(read=set(), wrote=set(), waited=False)
            else:
                carry_out(op, r, tb, gpus[r], buffers, state, channels, peers)
            at[k] += 1
            moved = True
        if all(a == len(tb["ops"]) for a, (_, tb) in zip(at, blocks, strict=True)):
            assert not any(signals.values())
            return [buffers[gpu["id"], "o"].ravel() for gpu in gpus]
        if not moved:
            raise Stuck


def carry_out(op, r, tb, gpu, buffers, state, channels, peers) -> None:
    """A put, copy or reduction; threads that have not waited for each other must not touch the same units."""
    assert not state["waited"], "data is touched before all threads have waited"
    refs = [i for c in tb["remote_buffer_refs"] for i in c["remote_buffer_ids"]]

    def view(place):
        if "buffer_id" in place:
            remote = gpu["remote_buffers"][refs[place["buffer_id"]]]
            assert remote["rank"] == peers[r][channels[0]]
            key = remote["rank"], remote["type"]
        else:
            key = r, place["type"]
        low, high = place["index"], place["index"] + place["size"]
        assert high <= len(buffers[key])
        return buffers[key][low:high], {(key, i) for i in range(low, high)}

    sources = [view(place) for place in op["src_buff"]]
    target, written = view(op["dst_buff"][0])
    read = set().union(*(places for _, places in sources))
    if op["name"] == "re":
        read -= written  # each thread reads and writes elements of its own
        assert op["reduce_op"] == "sum" and len(sources) == 2
    assert not read & state["wrote"] and not written & (state["wrote"] | state["read"]), "threads race"
    state["read"] |= read
    state["wrote"] |= written
    assert {"put": "buffer_id", "copy": "type", "re": "type"}[op["name"]] in op["dst_buff"][0]
    target[:] = sum(data for data, _ in sources[1:]) + sources[0][0] if op["name"] == "re" else sources[0][0]


def check_limits(tb) -> None:
    """Of the executor: operations, channels and remote buffers of a thread block, channels of an operation."""
    assert len(tb["ops"]) <= 64
    assert sum(len(c["channel_ids"]) for c in tb["channels"]) <= 16
    assert sum(len(c["remote_buffer_ids"]) for c in tb["remote_buffer_refs"]) <= 16
    assert all(len(op.get("channel_ids", [])) <= 8 for op in tb["ops"])
