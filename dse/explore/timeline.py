"""One step of one design as events on every pipeline stage: who works when, and who waits.

The schedule fixes the order of passes on each stage; a pass starts when its stage is free and what it needs has come.
The durations are the terms of the cost model's breakdown, so the last event ends at ``step_time`` wherever the closed
form of the schedule's bubble is exact; ``residual`` says by how much it is not. Where a term does not say which pass it
belongs to, it is spread, as :func:`timeline` states.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.cost.step import PASS_TERMS
from dse.errors import Fault, SpecError

if TYPE_CHECKING:
    import pandas as pd

    from dse.explore.result import Result

KINDS = ("forward", "backward", "weight_grad", "pp_comm", "dp_comm", "optimizer", "offload")
STREAMS = {"forward": 0, "backward": 0, "weight_grad": 0, "pp_comm": 1, "dp_comm": 1, "optimizer": 0, "offload": 2}
STREAM_NAMES = ("compute", "network", "offload")
MOST = 4_000_000  # passes in one timeline
FORWARD, BACKWARD, WEIGHT = range(3)


@dataclass(frozen=True)
class Timeline:
    """Events of one step: arrays with one entry an event, in the order of the stages and, within one, of time.

    Attributes:
        stage, kind: position of the stage, and of the name in ``KINDS``.
        micro_batch, virtual_stage: which pass it is (-1 for what comes after all passes).
        start, duration: in seconds; the first event of the step starts at 0.
        origin: start of the step on each stage, shape ``(pp,)``, in seconds: 0, but with ZB-H2 the stages follow one
            another from step to step without meeting, so each has the step's length from its own first pass on.
        pipeline_end: end of the passes on the clock of a stage's own origin, in seconds.
        step_time: of the cost model, in seconds.
        terms: what a forward, backward and weight-gradient pass of the mean stage consists of, in seconds.
        schedule, pp, micro_batches, virtual_stages: of the design.
    """

    stage: np.ndarray
    kind: np.ndarray
    micro_batch: np.ndarray
    virtual_stage: np.ndarray
    start: np.ndarray
    duration: np.ndarray
    origin: np.ndarray
    pipeline_end: float
    step_time: float
    terms: Mapping[str, Mapping[str, float]]
    schedule: str
    pp: int
    micro_batches: int
    virtual_stages: int

    @property
    def end(self) -> float:
        """End of the step after its start on the same stage, in seconds: the longest of all stages."""
        return float(np.max(self.start + self.duration - self.origin[self.stage]))

    @property
    def residual(self) -> float:
        """Seconds by which the schedule, played event by event, is longer than the closed form."""
        return self.end - self.step_time

    @property
    def idle(self) -> np.ndarray:
        """Time without an event from the step's start on each stage to the end of the passes, in s, shape ``(pp,)``."""
        passes = self.micro_batch >= 0
        return self.pipeline_end - np.bincount(self.stage[passes], self.duration[passes], self.pp)

    @property
    def bubble_share(self) -> float:
        """Idle time of the slowest stage over the length of the step."""
        return float(np.min(self.idle)) / self.end

    def table(self) -> pd.DataFrame:
        """A row an event: stage, kind, micro-batch, virtual stage, start and duration in seconds."""
        import pandas as pd

        columns = {
            "stage": self.stage,
            "kind": np.array(KINDS)[self.kind],
            "micro_batch": self.micro_batch,
            "virtual_stage": self.virtual_stage,
            "start [s]": self.start,
            "duration [s]": self.duration,
        }
        return pd.DataFrame(columns)

    def to_chrome_trace(self, path: str | Path) -> Path:
        """Write the events for Perfetto or ``chrome://tracing``: a process a stage, a thread a stream, times in µs.

        Raises:
            StudyError: the file cannot be written.
        """
        from dse.study.export import write_atomically

        events: list[dict[str, Any]] = []
        for stage in range(self.pp):
            events.append({"ph": "M", "name": "process_name", "pid": stage, "args": {"name": f"stage {stage}"}})
            events.append({"ph": "M", "name": "process_sort_index", "pid": stage, "args": {"sort_index": stage}})
            for stream, name in enumerate(STREAM_NAMES):
                label = {"ph": "M", "name": "thread_name", "pid": stage, "tid": stream, "args": {"name": name}}
                events.append(label)
        columns = (self.stage, self.kind, self.micro_batch, self.virtual_stage, 1e6 * self.start, 1e6 * self.duration)
        for stage, kind, batch, virtual, start, length in zip(*(c.tolist() for c in columns), strict=True):
            name = KINDS[kind]
            event = {"ph": "X", "name": name, "pid": stage, "tid": STREAMS[name], "ts": start, "dur": length}
            if batch >= 0:
                event.update(name=f"{name} {batch}", cat=name, args={"micro_batch": batch, "virtual_stage": virtual})
            events.append(event)
        text = json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}, allow_nan=False)
        return write_atomically(Path(path), lambda temporary: temporary.write_text(text, encoding="utf-8") and None)


def timeline(result: Result) -> Timeline:
    """Play one step of a design event by event.

    The breakdown says how long a micro-batch takes on the mean stage and on the slowest, and how long a transfer takes.
    Here the last stage, which has the logits, is the slowest and the others are equal. Transfers hold up every pass
    (the closed form charges one to each, at the ends of the pipeline too) or, when overlapped, the first forward and
    the last backward ones. Communication of gradients, optimizer and offload come last, with their exposed time.

    Spread evenly: ``host_forward`` and ``tp_comm_forward`` over the forward pass and its repetition under full
    recomputation, ``cp_comm`` and ``ep_comm`` over these and the backward pass, stragglers over all events.

    Args:
        result: a single design.

    Raises:
        SpecError: the result has axes, or the step has more than ``MOST`` passes.
    """
    if result.axes:
        raise SpecError([Fault("result", "", "has axes; a timeline is of one design, chosen with .at(...)")])
    terms = result.terms("time")
    strategy: Any = result.specs["strategy"]
    piped = "bubble" in terms  # the other timing model has no stages
    pp, virtual = (int(strategy.pp), int(strategy.virtual_stages)) if piped else (1, 1)
    batches, schedule = int(result.number("micro_batches")), strategy.schedule
    split = schedule.startswith("zero_bubble")
    if (passes := pp * virtual * batches * (3 if split else 2)) > MOST:
        raise SpecError([Fault("strategy", f"{passes:,} passes in a step", f"must be at most {MOST:,} for a timeline")])
    busy = sum(terms.values()) - terms.get("stragglers", 0.0)
    stretch = 1.0 + terms.get("stragglers", 0.0) / busy
    parts = _passes({name: stretch * terms.get(name, 0.0) / batches for name in PASS_TERMS}, strategy.recompute, split)
    mean = np.array([sum(part.values()) for part in parts.values()])
    slow = 1.0 + stretch * terms.get("imbalance", 0.0) / (batches * mean.sum())
    factors = np.full(pp, (pp - slow) / max(pp - 1, 1))
    factors[-1] = slow
    order = _order(schedule, pp, batches, virtual)
    hidden = piped and bool(result.number("overlap_pp"))
    hops = pp - 1 + (0 if hidden else virtual * batches)
    hop = stretch * terms.get("pp_comm", 0.0) / (2.0 * max(hops, 1))
    transfer = hop * _transfers(*order, batches=batches, hidden=hidden)
    length = factors[:, None] * mean[order[0]] / virtual
    start = _play(*order, length + transfer, virtual, batches)
    last = {name: stretch * terms.get(name, 0.0) for name in ("dp_comm", "optimizer", "offload")}
    design = (float(result.number("step_time")), parts, schedule, pp, batches, virtual)
    return _assemble(order, start, transfer, length, last, design)


def _passes(terms: Mapping[str, float], recompute: str, split: bool) -> dict[str, dict[str, float]]:
    """What the passes of one micro-batch on the mean stage consist of: the terms, divided as :func:`timeline` says."""
    runs = 2 if recompute == "full" else 1
    shares = {"forward": 1.0, "recompute": 0.0, "input_grad": 0.0, "weight_grad": 0.0, "host_backward": 0.0}
    shares.update(host_forward=1 / runs, tp_comm_forward=1 / runs, tp_comm_backward=0.0)
    shares.update(cp_comm=1 / (runs + 1), ep_comm=1 / (runs + 1))
    forward = {name: shares[name] * value for name, value in terms.items() if shares[name] * value}
    backward = {name: (1 - shares[name]) * value for name, value in terms.items() if (1 - shares[name]) * value}
    weight = {"weight_grad": backward.pop("weight_grad", 0.0)} if split else {}
    return {"forward": forward, "backward": backward, "weight_grad": weight}


def _order(schedule: str, pp: int, batches: int, virtual: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kind, micro-batch and virtual stage of every pass in each stage's order, arrays of shape ``(pp, passes)``.

    The k-th forward pass and the k-th backward pass get keys that sort into the schedule. With a warm-up of w forward
    passes, 1F1B runs w + k forward, then k backward. Zero-bubble schedules run k backward, then the weight gradient
    that is d micro-batches behind, then one more forward; H1 holds as many micro-batches as 1F1B does on the first
    stage (d = stage), H2 nearly twice as many (d = 2 · stage). Source: Narayanan et al. SC'21 §2.2 and the schedule of
    Megatron-LM for interleaved stages; Qi et al., Zero Bubble Pipeline Parallelism, §2.
    """
    stage, k = np.arange(pp)[:, None], np.arange(batches * virtual)
    batch, chunk = np.tile(np.arange(batches), virtual), np.repeat(np.arange(virtual), batches)
    # Interleaved stages run micro-batches in groups of pp; what is left over (no legal design has any) joins the last.
    groups = max(batches // pp, 1)
    group, largest = np.minimum(batch // pp, groups - 1), batches - (groups - 1) * pp
    ahead, back = (np.lexsort((batch, side * chunk, group)) for side in (1, -1))
    if schedule.startswith("zero_bubble"):
        warm, behind = (pp - stage, stage) if schedule.endswith("h1") else (2 * (pp - stage) - 1, 2 * stage)
        keys = [3 * (k - warm) + 2, 3 * k + 0 * stage, 3 * (k + behind) + 1]
    elif schedule == "gpipe":
        keys, back = [k - len(k) + 0 * stage, k + 0 * stage], back[::-1]
    else:
        warm = (pp - stage - 1) * (2 if virtual > 1 else 1) + (virtual - 1) * max(largest, pp)
        keys = [2 * (k - warm), 2 * k + 1 + 0 * stage]
    which = [ahead, back, back][: len(keys)]
    place = np.argsort(np.concatenate(keys, axis=1), axis=1, kind="stable")
    kind = np.repeat(np.arange(len(keys)), len(k))
    every = np.concatenate(which)
    return kind[place], batch[every][place], chunk[every][place]


def _transfers(kind: np.ndarray, batch: np.ndarray, chunk: np.ndarray, *, batches: int, hidden: bool) -> np.ndarray:
    """1 where a pass waits for a transfer, else 0; shape ``(pp, passes)``."""
    if not hidden:
        return 1.0 * (kind != WEIGHT) * (len(kind) > 1)
    stage = np.arange(len(kind))[:, None]
    first = (kind == FORWARD) & (batch == 0) & (chunk == 0) & (stage > 0)
    last_sent = np.max(np.where((kind == BACKWARD) & (chunk == 0), np.arange(kind.shape[1]), -1), axis=1)[:, None]
    return 1.0 * (first | ((np.arange(kind.shape[1]) == last_sent) & (stage < len(kind) - 1)))


def _play(
    kind: np.ndarray, batch: np.ndarray, chunk: np.ndarray, length: np.ndarray, virtual: int, batches: int
) -> np.ndarray:
    """Start of every pass in seconds, shape ``(pp, passes)``: each round, every stage that can starts its next pass."""
    pp, passes = kind.shape
    stage = np.broadcast_to(np.arange(pp)[:, None], kind.shape)

    def number(kind: Any, chunk: Any, stage: Any) -> np.ndarray:
        return ((kind * virtual + chunk) * batches + batch) * pp + stage

    # A pass of virtual stage c on stage s belongs to the slice c · pp + s of the model.
    depth = chunk * pp + stage
    before, after = np.maximum(depth - 1, 0), np.minimum(depth + 1, pp * virtual - 1)
    forward = np.where(depth > 0, number(FORWARD, before // pp, before % pp), 3 * virtual * batches * pp)
    turned = np.where(depth < pp * virtual - 1, number(BACKWARD, after // pp, after % pp), number(0, chunk, stage))
    needs = np.select([kind == FORWARD, kind == BACKWARD], [forward, turned], number(BACKWARD, chunk, stage))
    names = number(kind, chunk, stage)
    ends = np.full(3 * virtual * batches * pp + 1, np.nan)
    ends[-1] = 0.0  # what the first pass of all needs
    start, free, position = np.empty(kind.shape), np.zeros(pp), np.zeros(pp, dtype=int)
    rows = np.arange(pp)
    while rows.size:
        at = position[rows]
        ready = ends[needs[rows, at]]
        able = ~np.isnan(ready)
        if not able.any():
            raise RuntimeError("the order of the schedule never lets its passes start")
        some, at = rows[able], at[able]
        begin = np.maximum(free[some], ready[able])
        start[some, at] = begin
        free[some] = begin + length[some, at]
        ends[names[some, at]] = free[some]
        position[some] += 1
        rows = rows[position[rows] < passes]
    return start


def _assemble(
    order: tuple[np.ndarray, np.ndarray, np.ndarray],
    start: np.ndarray,
    transfer: np.ndarray,
    length: np.ndarray,
    last: Mapping[str, float],
    design: tuple[float, Mapping[str, Mapping[str, float]], str, int, int, int],
) -> Timeline:
    """Passes, their transfers and what follows, as flat arrays sorted by stage and start."""
    step_time, parts, schedule, pp, batches, virtual = design
    kind, batch, chunk = (array.ravel() for array in order)
    stage = np.repeat(np.arange(pp), start.shape[1])
    origin = start[:, 0] if schedule == "zero_bubble_h2" else np.zeros(pp)
    end = float(np.max(start[:, -1] + transfer[:, -1] + length[:, -1] - origin))
    moved = transfer.ravel() > 0
    tail = [(KINDS.index(name), value) for name, value in last.items() if value > 0]
    offsets = np.cumsum([0.0, *(value for _, value in tail)])[:-1]
    none = np.full(pp * len(tail), -1)
    columns = {
        "stage": [stage, stage[moved], np.repeat(np.arange(pp), len(tail))],
        "kind": [kind, np.full(moved.sum(), KINDS.index("pp_comm")), np.tile([k for k, _ in tail], pp).astype(int)],
        "micro_batch": [batch, batch[moved], none],
        "virtual_stage": [chunk, chunk[moved], none],
        "start": [(start + transfer).ravel(), start.ravel()[moved], (origin[:, None] + end + offsets).ravel()],
        "duration": [length.ravel(), transfer.ravel()[moved], np.tile([value for _, value in tail], pp)],
    }
    flat = {name: np.concatenate(values) for name, values in columns.items()}
    place = np.lexsort((flat["start"], flat["stage"]))
    flat = {name: values[place] for name, values in flat.items()}
    return Timeline(
        **flat, origin=origin, pipeline_end=end, step_time=step_time, terms=parts, schedule=schedule, pp=pp,
        micro_batches=batches, virtual_stages=virtual,
    )  # fmt: skip
