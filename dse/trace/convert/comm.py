"""Which collective an operator or kernel is, how much it moves, and among whom."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dse.trace.convert.host import HostOp, HostTrace
from dse.trace.convert.kineto import Event, Profile
from dse.trace.convert.reading import integer
from dse.trace.schema import Collective, Kind

# Words in a name without its separators, in the order in which they are looked for.
WORDS = {
    "allreduce": Collective.ALL_REDUCE,
    "reducescatter": Collective.REDUCE_SCATTER,
    "allgather": Collective.ALL_GATHER,
    "alltoall": Collective.ALL_TO_ALL,
    "broadcast": Collective.BROADCAST,
    "barrier": Collective.BARRIER,
    "gather": Collective.GATHER,
    "scatter": Collective.SCATTER,
    "reduce": Collective.REDUCE,
}
POINT = {"send": Kind.SEND, "recv": Kind.RECV}
BACKENDS = ("gloo:", "nccl:", "mpi:", "ucc:", "xccl:", "hccl:")
MOST = 1 << 20  # ranks of a run
RECORD = "record_param_comms"
# Argument of a c10d operator that holds what this rank puts in; a scatter's shares lie in its result.
INPUT = {Collective.ALL_GATHER: 1, Collective.REDUCE_SCATTER: 1, Collective.ALL_TO_ALL: 1, Collective.GATHER: 1}
WIDTHS = {"double": 8, "long": 8, "complexfloat": 8, "complexdouble": 16, "float": 4, "int": 4, "uint32": 4,
          "uint64": 8, "half": 2, "bfloat16": 2, "short": 2, "uint16": 2}  # fmt: skip


@dataclass(slots=True)
class Comm:
    """A communication: kind, bytes as this rank puts them in, label of its group, and the peer of a send or receive."""

    kind: Kind
    coll: Collective | None = None
    size: int = 0
    group: str = ""
    peer: int = -1
    tag: int = 0
    blocks: bool = False


def kind_of(name: str) -> tuple[Kind, Collective | None] | None:
    """What a name says: ``gloo:all_reduce``, ``c10d::_allgather_base_`` or ``ncclDevKernel_ReduceScatter_Sum_f16``."""
    word = re.sub(r"[^a-z]", "", name.lower())
    if "sendrecv" in word:
        return None  # what a kernel of several sends and receives does, its caller says
    found = next((coll for text, coll in WORDS.items() if text in word), None)
    if found is not None:
        return Kind.COLL, found
    point = next((kind for text, kind in POINT.items() if text in word), None)
    return (point, None) if point is not None else None


def width_of(dtype: str) -> int:
    """Bytes of an element of a type as PyTorch names it; one byte for those not known (8-bit floats and integers)."""
    return WIDTHS.get(re.sub(r"[^a-z0-9]", "", dtype.lower()), 1)


def groups_of(host: HostTrace, profile: Profile) -> dict[str, list[int]]:
    """Process groups by label, in ranks of the run, from the profiler, kernels' arguments and host trace."""
    world = integer(profile.info.get("world_size"), 0)
    listed = profile.info.get("pg_config", [])
    found: dict[str, list[int]] = {}
    for item in [*(listed if isinstance(listed, list) else []), *host.groups]:
        if not isinstance(item, dict):
            continue
        label, ranks = str(item.get("pg_name", "")), item.get("ranks") or []
        size = integer(item.get("pg_size", item.get("group_size")), 0)
        if not ranks and 0 < size <= MOST and (size == world or label == "0"):
            ranks = list(range(size))
        if label and label not in found and _are_ranks(ranks):
            found[label] = list(ranks)
    for event in [*profile.kernels, *profile.host.values()]:
        label, ranks = event.args.get("Process Group Name"), event.args.get("Process Group Ranks")
        if label is not None and ranks and "..." not in str(ranks):
            row = [int(rank) for rank in re.findall(r"\d{1,18}", str(ranks))]
            if str(label) not in found and _are_ranks(row):
                found[str(label)] = row
    return found


def _are_ranks(ranks: Any) -> bool:
    """Whether a list names ranks, each once."""
    if not isinstance(ranks, list) or not ranks or not all(type(rank) is int and 0 <= rank < MOST for rank in ranks):
        return False
    return len(set(ranks)) == len(ranks)


def world_of(profile: Profile, groups: Mapping[str, Sequence[int]]) -> int:
    """Number of ranks of the run."""
    return max(
        integer(profile.info.get("world_size"), 1), 1 + max((max(ranks) for ranks in groups.values()), default=0)
    )


def of_call(op: HostOp, groups: Mapping[str, Sequence[int]], group: str) -> Comm | None:
    """What a ``c10d::`` operator does; None if it communicates nothing.

    The size is that of what this rank puts in: all of an all-reduce, a reduce-scatter, an all-to-all or a broadcast,
    the rank's own share of an all-gather or gather, and of a scatter all shares together.
    """
    found = kind_of(op.name)
    if found is None:
        return None
    kind, coll = found
    members = groups.get(group, ())
    if kind != Kind.COLL:
        plain = [value for value in op.inputs.values if isinstance(value, int) and not isinstance(value, bool)]
        peer = plain[0] if plain else -1
        if 0 <= peer < len(members):
            peer = members[peer]
        size = sum(tensor.bytes for tensor in op.inputs.tensors(0))
        return Comm(kind, None, size, group, peer, plain[1] if len(plain) > 1 else 0, True)
    place = INPUT.get(coll, 0) if coll is not None else 0
    size = 0 if coll == Collective.BARRIER else sum(tensor.bytes for tensor in op.inputs.tensors(place))
    if coll == Collective.SCATTER:
        size *= max(len(members), 1)
    return Comm(kind, coll, size, group, blocks=_blocks(op))


def _blocks(op: HostOp) -> bool:
    """Whether the caller waits at once: its argument ``async_op`` is false."""
    arguments = op.schema.partition("(")[2].split(" -> ")[0].split(",")
    place = next((k for k, text in enumerate(arguments) if "async_op" in text), -1)
    return 0 <= place < len(op.inputs.values) and op.inputs.values[place] is False


def of_record(op: HostOp) -> dict[str, Any]:
    """What a ``record_param_comms`` node says of its collective, in the words of the profiler's arguments."""
    values, out = op.inputs.values, {}
    for place, value in enumerate(values):
        if isinstance(value, str) and (kind_of(value) or value == "wait"):
            out["Collective name"] = value
            peer = values[place - 1] if place else -1
            out["peer"] = peer if isinstance(peer, int) else -1
            break
    pair = next((v for v in values if isinstance(v, list) and len(v) == 2 and all(isinstance(x, str) for x in v)), None)
    if pair:
        out["Process Group Name"] = pair[0]
    sent, got = (sum(tensor.bytes for tensor in part.tensors()) for part in (op.inputs, op.outputs))
    return {**out, "bytes": sent, "bytes out": got}


def of_kernel(
    kernel: Event, callers: Sequence[HostOp], record: HostOp | None, groups: Mapping[str, Sequence[int]]
) -> Comm | None:
    """What a communication kernel does: its own arguments, else those of its record, else the names of its callers."""
    said = {**(of_record(record) if record else {}), **kernel.args}
    names = [str(said.get("Collective name", "")), *(op.name for op in callers), kernel.name]
    found = next((kind for kind in map(kind_of, names) if kind is not None), None)
    if found is None:
        return None
    kind, coll = found
    width = width_of(str(said.get("dtype", "")))
    counts = [max(integer(said.get(name), 0), 0) * width for name in ("In msg nelems", "Out msg nelems")]
    if not any(counts):
        counts = [integer(said.get(name), 0) for name in ("bytes", "bytes out")]
    group = str(said.get("Process Group Name", ""))
    members = groups.get(group, ())
    if kind != Kind.COLL:
        peer = kernel.number("Dst Rank" if kind == Kind.SEND else "Src Rank")
        local = integer(said.get("peer", -1))
        if peer < 0 <= local:
            peer = members[local] if local < len(members) else local
        return Comm(kind, None, max(counts), group, peer)
    size = counts[1] * max(len(members), 1) if coll == Collective.SCATTER else counts[0] or counts[1]
    return Comm(kind, coll, 0 if coll == Collective.BARRIER else size, group)


def is_comm_kernel(kernel: Event) -> bool:
    """Whether a kernel communicates: it carries a collective's name, or is one of NCCL's or RCCL's."""
    return "Collective name" in kernel.args or re.match(r"(nccl|rccl|mscclpp?)", kernel.name, re.I) is not None


def issued_groups(calls: Sequence[HostOp], issued: Sequence[Sequence[Any]]) -> dict[int, str]:
    """Label of the group of each call (by its record function), from the list of what was issued, in order.

    Both lists are in the order of issue; a call takes the next entry of its kind, so that entries of calls which the
    host trace lacks do no harm to others.
    """
    out: dict[int, str] = {}
    place = 0
    for op in calls:
        kind = kind_of(op.name)
        for k in range(place, len(issued)):
            if kind_of(str(issued[k][0])) == kind:
                out[op.rf] = str(issued[k][1])
                place = k + 1
                break
    return out
