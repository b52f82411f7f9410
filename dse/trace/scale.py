"""Recorded traces on more ranks: what a step would be if data parallelism grew."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from dse.errors import Fault, SpecError
from dse.trace.columns import Trace, TraceSet
from dse.trace.schema import Kind


def scale(traces: TraceSet, ranks: int, *, grow: Iterable[str] | None = None) -> TraceSet:
    """The same program on more ranks, in blocks of those recorded.

    Rank b·R + r does what rank r of the R recorded ones did. Groups repeat in every block, save those that grow: they
    reach over all blocks. Sizes stay as they are, which is right for what every rank has whole (gradients in data
    parallelism) and not for what is dealt out to more ranks.

    Args:
        traces: of R ranks.
        ranks: a multiple of R.
        grow: labels of the groups that grow; by default those that hold all R ranks.

    Raises:
        SpecError: another number of ranks, or a label that no group has.
    """
    recorded = len(traces)
    if recorded == 0 or ranks < recorded or ranks % recorded:
        raise SpecError([Fault("ranks", str(ranks), f"must be a multiple of the {recorded} that were recorded")])
    known = {label: np.asarray(table) for label, table in traces.groups.items()}
    whole = [label for label, table in known.items() if table.shape[1] == recorded]
    chosen = set(whole if grow is None else grow)
    if unknown := sorted(chosen - set(known) - {"", "0"}):
        rule = f"must be labels of groups: {', '.join(sorted(known)) or 'there are none'}"
        raise SpecError([Fault("grow", ", ".join(unknown)[:80], rule)])
    blocks = np.arange(ranks // recorded) * recorded
    groups = {}
    for label, table in known.items():
        spread = blocks[:, None, None] + table[None]  # [blocks, groups, size]
        grows = label in chosen
        spread = spread.transpose(1, 2, 0).reshape(len(table), -1) if grows else spread.reshape(-1, table.shape[1])
        groups[label] = np.sort(spread, axis=1)
    classes, of = _relative(traces)
    return TraceSet(tuple(classes), np.tile(of, len(blocks)), groups, f"{traces.source} on {ranks:,} ranks")


def _relative(traces: TraceSet) -> tuple[list[Trace], np.ndarray]:
    """The traces with peers as offsets, and each rank's; ranks of one trace with absolute peers part."""
    classes: list[Trace] = []
    place: dict[tuple[int, int], int] = {}
    of = np.zeros(len(traces), np.int64)
    for rank, number in enumerate(traces.of.tolist()):
        trace = traces.classes[number]
        talks = not trace.relative and bool(((trace.src >= 0) | (trace.dst >= 0)).any())
        key = (number, rank if talks else -1)
        if key not in place:
            place[key] = len(classes)
            classes.append(_offsets(trace, rank) if talks else trace)
        of[rank] = place[key]
    return classes, of


def _offsets(trace: Trace, rank: int) -> Trace:
    away = {
        name: np.where(trace.kind == kind, getattr(trace, name) - rank, 0)
        for name, kind in (("src", Kind.RECV), ("dst", Kind.SEND))
    }
    return replace(trace, **away, relative=True)
