"""A serving problem put together: an accelerator with constants changed, its latency table, what queries ask for."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.domains.sushi.accelerator import SubGraphAccelerator, load_subgraph_accelerator
from dse.domains.sushi.candidates import KINDS, named_candidates
from dse.domains.sushi.streams import MAKERS, Span, Stream, generator
from dse.domains.sushi.table import LatencyTable, build
from dse.errors import Fault, SpecError

if TYPE_CHECKING:
    from dse.domains.sushi.supernet import SubNet


def machine(
    reference: Any, *, buffer: Any = None, bandwidth: Any = None, throughput: Any = None, overlap: str | None = None
) -> SubGraphAccelerator:
    """An accelerator with some of its constants changed.

    Args:
        reference: an id of the catalogue, a YAML file, a mapping, or an accelerator.
        buffer: bytes of the persistent buffer.
        bandwidth: of weights, B/s; that of activations changes in proportion.
        throughput: multiply-adds a second of a full array; the clock follows.
        overlap: one of ``dse.domains.sushi.accelerator.OVERLAPS``.

    Numbers may be arrays: they become leading axes of what is computed with the accelerator.

    Raises:
        SpecError: a value out of range.
    """
    base = load_subgraph_accelerator(reference)
    if overlap is not None:
        base = base.replace(overlap=overlap)
    changes: dict[str, Any] = {} if buffer is None else {"persistent_buffer": buffer}
    if bandwidth is not None:
        share = np.asarray(bandwidth, float) / base.weight_bandwidth
        every = ("weight_bandwidth", "input_bandwidth", "output_bandwidth")
        changes |= {name: share * rate for name in every if (rate := getattr(base, name)) is not None}
    if throughput is not None:
        changes["clock"] = np.asarray(throughput, float) / base.tile_bytes
    if any(np.ndim(value) for value in changes.values()):
        return base.over(**changes)
    return base.replace(**{name: float(value) for name, value in changes.items()})


def priced(
    accelerator: Any, subnets: Sequence[SubNet], *, count: int = 32, kinds: Sequence[str] = KINDS, seed: int = 0,
    accounting: str | None = None,
) -> LatencyTable:  # fmt: skip
    """The latency table of SubNets under candidate SubGraphs that fit the persistent buffer."""
    built = load_subgraph_accelerator(accelerator)
    size = built.persistent_buffer
    found = named_candidates(subnets, size, count, seed, kinds=kinds, accelerator=built) if size else {}
    return build(built, subnets, found, accounting=accounting)


def span(table: LatencyTable) -> Span:
    """What the SubNets offer without a SubGraph: streams made from it are the same whatever is cached.

    Raises:
        SpecError: an accuracy is not known.
    """
    if np.isnan(table.accuracy).any():
        name = table.subnets[int(np.isnan(table.accuracy).argmax())]
        raise SpecError([Fault(f"{name}.accuracy", "", "must be known: queries ask for it; give it in the file")])
    a, t = table.accuracy, table.latency[:, 0]
    return Span((float(a.min()), float(a.max())), (float(t.min()), float(t.max())))


def stream(table: LatencyTable, kind: str, queries: int, *, seed: int = 0, **settings: Any) -> Stream:
    """A stream of some kind, with demands that the table's SubNets meet without a SubGraph.

    Args:
        kind: ``edge``, or one of ``dse.domains.sushi.streams.MAKERS``.
        settings: of the maker, as ``stay`` of ``markov``.

    Raises:
        SpecError: an unknown kind, settings that it does not take, or one that it needs and lacks.
    """
    if kind == "edge":
        if settings:
            raise SpecError([Fault(f"stream.{name}"[:60], kind, "is a setting that this stream does not take")
                             for name in settings])  # fmt: skip
        return edge(table, queries, seed=seed)
    if kind not in MAKERS:
        raise SpecError([Fault("stream", repr(kind)[:60], f"must be one of {', '.join((*MAKERS, 'edge'))}")])
    known = {
        name: field for name, field in signature(MAKERS[kind]).parameters.items() if field.kind == field.KEYWORD_ONLY
    }
    faults = [Fault(f"stream.{name}"[:60], kind, "is a setting that this stream does not take") for name in settings
              if name not in known]  # fmt: skip
    faults += [Fault(f"stream.{name}", kind, "needs this setting") for name, field in known.items()
               if field.default is field.empty and name not in settings]  # fmt: skip
    if faults:
        raise SpecError(faults)
    return MAKERS[kind](queries, span(table), seed=seed, **settings)


def edge(table: LatencyTable, queries: int, *, seed: int = 0) -> Stream:
    """The stream that gains most accuracy from a cache: each query allows just what some SubNet takes with it.

    Latencies are those of the SubNets (but the fastest) under the SubGraph that saves most in the mean; accuracies are
    those that the same SubNets have.
    """
    low = span(table).accuracy[0]
    best = int(table.saving.mean(axis=0).argmax())
    others = np.flatnonzero(table.accuracy > low)
    if not len(others):
        raise SpecError([Fault("subnets", str(len(table.subnets)), "must be of two accuracies or more")])
    which = generator(queries, seed).choice(others, queries)
    latency = table.latency[which, best] * (1 + 1e-9)
    made = {"maker": "edge", "count": queries, "seed": seed}
    return Stream(np.zeros(queries), table.accuracy[which], latency, made=made)
