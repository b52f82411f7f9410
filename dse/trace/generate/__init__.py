"""Traces of designs that nobody has built: a training step of any model, cluster and strategy as an execution trace.

One trace a pipeline stage serves all its ranks (peers are offsets, groups have labels), so the time it takes grows with
the stages and their passes, not with the devices. The nodes are the operators, collectives, transfers and
memory accesses of the cost model, with its times and sizes; what it overlaps has no dependence that would forbid it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from dse.errors import Fault, SpecError
from dse.trace.columns import TraceSet

if TYPE_CHECKING:
    import pandas as pd

    from dse.explore.result import Result
    from dse.trace.generate.residual import Residual

Detail = Literal["operator", "block", "pass"]
MOST = 4_000_000  # nodes of one design


@dataclass(frozen=True, eq=False)
class Generated(TraceSet):
    """Traces of a design; ``result`` is its closed form, ``residual`` what of that no node stands for."""

    result: Result | None = None
    residual: tuple[Residual, ...] = field(default=())

    def residuals(self) -> pd.DataFrame:
        """The residual as a table: term, seconds of the step that the trace lacks (none: a simulation tells), why."""
        import pandas as pd

        rows = [(row.term, row.seconds, row.why) for row in self.residual]
        return pd.DataFrame(rows, columns=["term", "seconds [s]", "why"]).astype({"seconds [s]": float})


def generate(
    model: Any, cluster: Any, strategy: Any, *, devices: int | None = None, detail: str = "operator",
    durations: bool = True,
) -> Generated:  # fmt: skip
    """The traces of one training step on all ranks.

    ``num_ops`` is FLOP, ``tensor_size`` bytes between memory and chip (of loads and stores: moved), ``comm_size``
    what one rank puts in: the whole buffer, but of an all-gather its share. Groups: tp, cp, ep, dp (all dp·cp ranks
    that hold the same parameters), expert_dp, shard, copies, pp (a pipeline; no collective uses it); none: all ranks.

    Args:
        model, cluster, strategy, devices: as for :func:`dse.estimate`.
        detail: what a computing node stands for: an operator, a block (layer) or a whole pass of a micro-batch. In
            passes also the collectives of a kind and group are one.
        durations: computing nodes carry the cost model's times; without, FLOP and bytes alone.

    Raises:
        SpecError: faults of the inputs; a design whose degrees do not fit; COMET's timing model; too many nodes.
    """
    import dse

    return generate_result(dse.estimate(model, cluster, strategy, devices=devices), detail=detail, durations=durations)


def generate_result(result: Result, *, detail: str = "operator", durations: bool = True) -> Generated:
    """The same for a design that has been priced (with quantities of one's own, perhaps)."""
    from dse.explore.timeline import _order
    from dse.trace.generate import ranks
    from dse.trace.generate.design import LABELS, Design
    from dse.trace.generate.passes import Passes
    from dse.trace.generate.residual import residual
    from dse.trace.generate.stage import stage_of
    from dse.trace.generate.tile import Codes, trace_of

    if detail not in get_args(Detail):
        raise SpecError([Fault("detail", repr(detail)[:40], f"must be one of {', '.join(get_args(Detail))}")])
    design = Design(result)
    passes = Passes(design, detail)
    order = _order(design.schedule, design.pp, design.batches, design.virtual)
    groups = ranks.groups(design)
    tiers = tuple(tier.name for tier in design.of["cluster"].node.expansion)
    labels = tuple(label for label in dict.fromkeys(LABELS.values()) if label in groups)
    codes = Codes(labels, tiers, design.ranks, ranks.strides(design)["pp"], durations)
    classes = []
    for number in range(design.pp):
        stage = stage_of(passes, number, (order[0][number], order[1][number], order[2][number]))
        nodes = sum(len(stage.chains[which].pieces) for which in stage.which.tolist())
        _check_count(sum(map(len, classes)) + nodes * (design.pp - number), detail)
        classes.append(trace_of(stage, codes))
    source = f"{result.specs['model'].id} on {design.devices:,} devices"  # type: ignore[attr-defined]
    return Generated(tuple(classes), ranks.stages(design), groups, source, result, residual(passes))


def _check_count(nodes: int, detail: str) -> None:
    if nodes > MOST:
        rule = f"must be at most {MOST:,}; a coarser detail than {detail!r} or fewer micro-batches gives fewer"
        raise SpecError([Fault("nodes", f"about {nodes:,}", rule)])
