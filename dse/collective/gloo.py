"""A schedule carried out with torch.distributed point-to-point messages: one process for each NPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dse.collective.execute import Layout, Share, carried, events
from dse.collective.schedule import Schedule
from dse.errors import Fault, SpecError

if TYPE_CHECKING:
    import torch


def collective(schedule: Schedule, tensor: torch.Tensor, group: Any = None) -> torch.Tensor | None:
    """Carry out this rank's part of a schedule; call it in every rank of an initialised process group.

    Rank r is NPU r. What goes through switches goes straight to the NPU at the other end. All receives are posted at
    once and sends do not block, and each waits for what it needs in order of the schedule's time: no rank can wait for
    one that waits for it.

    Args:
        schedule: the same in all ranks.
        tensor: what this NPU puts in, one-dimensional, on the CPU; of an NPU that is no member, any of the dtype. An
            all-gather needs shards of one length, an all-to-all a length that the members divide.
        group: the process group; None: the default one.

    Returns:
        What this NPU ends with, None where that is nothing.

    Raises:
        SpecError: the group has another number of ranks than the network has NPUs, or a length that does not fit.
    """
    import torch
    import torch.distributed as dist

    rank, size = dist.get_rank(group), dist.get_world_size(group)
    npus, members = schedule.topology.npus, schedule.members.tolist()
    if size != npus:
        raise SpecError([Fault("group", str(size), f"must have {npus} ranks, one for each NPU")])
    count = _elements(schedule, tensor, group)
    share = Share(schedule, {rank: tensor.numpy()} if rank in members else {}, count)
    came, goes, first = _ways(schedule)
    chunk, reduce = schedule.chunk.tolist(), schedule.reduce.tolist()
    source, destination = schedule.source.tolist(), schedule.destination.tolist()
    passed_on = {j for j in came if j >= 0}
    pending = {}
    for i in range(schedule.transfers):
        if destination[i] == rank != source[first[i]]:
            buffer = torch.empty(_length(share.at, chunk[i]), dtype=tensor.dtype)
            peer = _global(dist, group, source[first[i]])
            pending[i] = (buffer, dist.irecv(buffer, peer, group=group, tag=i))
    sent, load = [], {}
    back = {}  # what a switch sends back to where it came from
    transfer, starts = events(schedule)
    for i, begins in zip(transfer.tolist(), starts.tolist(), strict=True):
        if begins and source[i] == rank:
            data = load.pop(came[i]) if came[i] >= 0 else share.send(i, chunk[i], rank)
            last = goes[i]
            if last >= 0 and destination[last] == rank:
                back[last] = data
            elif last >= 0:  # -1: it ends in a switch
                buffer = torch.from_numpy(np.ascontiguousarray(data).copy())
                peer = _global(dist, group, destination[last])
                sent.append((buffer, dist.isend(buffer, peer, group=group, tag=last)))
        elif not begins and destination[i] == rank:
            if i in back:
                data = back.pop(i)
            else:
                buffer, work = pending.pop(i)
                work.wait()
                data = buffer.numpy()
            if i in passed_on:
                load[i] = data
            else:
                share.receive(chunk[i], rank, data, reduce[i])
    for _, work in sent:
        work.wait()
    found = share.result(rank) if rank in members else None
    return None if found is None else torch.from_numpy(np.ascontiguousarray(found))


def _elements(schedule: Schedule, tensor: torch.Tensor, group: Any) -> int:
    import torch
    import torch.distributed as dist

    n = len(schedule.members)
    mine = torch.tensor([len(tensor) if tensor.ndim == 1 else -1])
    lengths = [torch.zeros_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(lengths, mine, group=group)
    known = {int(lengths[npu]) for npu in schedule.members.tolist()}
    length = known.pop()
    if known or length < 0:
        raise SpecError([Fault("tensor", "", "must have one dimension and the same length in all members")])
    if schedule.collective == "all_to_all" and length % n:
        raise SpecError([Fault("tensor", str(length), f"must have a length that {n} divides")])
    return length * n if schedule.collective == "all_gather" else length


def _length(at: Layout, chunk: int) -> int:
    return int(at.last[chunk] - at.first[chunk])


def _global(dist: Any, group: Any, rank: int) -> int:
    return rank if group is None else dist.get_global_rank(group, rank)


def _ways(schedule: Schedule) -> tuple[list[int], list[int], list[int]]:
    """Of each transfer: what it passes on, its last hop after switches (-1: none), and its first hop before them."""
    came, npus = carried(schedule), schedule.topology.npus
    source, destination = schedule.source.tolist(), schedule.destination.tolist()
    goes, first = [-1] * schedule.transfers, list(range(schedule.transfers))
    for i in np.argsort(schedule.start, kind="stable").tolist():
        if source[i] >= npus:
            first[i] = first[came[i]]
    for i in range(schedule.transfers):
        if destination[i] < npus:
            goes[first[i]] = i
    return came, goes, first
