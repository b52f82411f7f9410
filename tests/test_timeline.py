"""The pipeline timeline: every pass once and after what it needs, and the closed form of each schedule's bubble."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dse
from dse.cost.pipeline import bubble_time
from dse.errors import SpecError, StudyError
from dse.explore.timeline import BACKWARD, FORWARD, KINDS, WEIGHT, _order, _play, timeline
from dse.view import timeline as view

DESIGNS = {
    "gpipe": "schedule=gpipe",
    "1f1b": "schedule=1f1b",
    "1f1b, transfers hidden": "schedule=1f1b,overlap_pp=true",
    "interleaved": "virtual_stages=3,schedule=interleaved,overlap_pp=false",
    "interleaved, transfers hidden": "virtual_stages=3,schedule=interleaved,overlap_pp=true",
    "uneven": "pp=7,dp=8,global_batch=256",
    "one stage": "pp=1",
    "zero_bubble_h1": "schedule=zero_bubble_h1",
    "zero_bubble_h2": "schedule=zero_bubble_h2",
}
SCHEDULES = ["gpipe", "1f1b", "interleaved", "zero_bubble_h1", "zero_bubble_h2"]


def design(change: str = "", model: str = "gpt3-175b") -> dse.Result:
    """A single design, the base with some fields changed."""
    fields = dict(item.split("=") for item in ["tp=8", "pp=8", "global_batch=512", "recompute=full"])
    fields.update(item.split("=") for item in change.split(",") if item)
    devices = 8 * int(fields["pp"]) * int(fields.get("dp", 8))
    return dse.estimate(model, "dgx-a100", ",".join(f"{k}={v}" for k, v in fields.items()), devices=devices)


def play(schedule: str, pp: int, batches: int, virtual: int, lengths: tuple[float, float, float]):  # type: ignore[no-untyped-def]
    """Order, start and length of all passes on equal stages."""
    kind, batch, chunk = _order(schedule, pp, batches, virtual)
    split = schedule.startswith("zero")
    per_kind = np.array(lengths if split else (lengths[0], lengths[1] + lengths[2], 0.0)) / virtual
    length = per_kind[kind]
    return kind, batch, chunk, _play(kind, batch, chunk, length, virtual, batches), length


@given(
    schedule=st.sampled_from(SCHEDULES),
    pp=st.integers(1, 9),
    groups=st.integers(2, 5),
    virtual=st.integers(2, 4),
    lengths=st.tuples(st.floats(0.5, 2.0), st.floats(0.5, 2.0), st.floats(0.1, 0.5)),
)
def test_equal_stages_take_what_the_closed_form_says(
    schedule: str, pp: int, groups: int, virtual: int, lengths: tuple[float, float, float]
) -> None:
    """With enough micro-batches, and a weight gradient no longer than the other passes, the bubble is exact."""
    virtual = virtual if schedule == "interleaved" and pp > 1 else 1
    batches = groups * pp
    *_, start, length = play(schedule, pp, batches, virtual, lengths)
    span = (start + length)[:, -1] - (start[:, 0] if schedule == "zero_bubble_h2" else 0.0)
    whole = sum(lengths)
    idle = float(bubble_time(schedule, pp, virtual, whole, whole, lengths[2]))
    assert span.max() == pytest.approx(batches * whole + idle, rel=1e-9)


@given(
    schedule=st.sampled_from(SCHEDULES),
    pp=st.integers(1, 7),
    batches=st.integers(1, 20),
    virtual=st.integers(2, 4),
    lengths=st.tuples(*[st.floats(0.1, 3.0)] * 3),
)
def test_every_pass_runs_once_and_after_what_it_needs(
    schedule: str, pp: int, batches: int, virtual: int, lengths: tuple[float, float, float]
) -> None:
    """Any number of micro-batches: no deadlock, no two passes at once, and no pass before its data."""
    virtual = virtual if schedule == "interleaved" else 1
    kind, batch, chunk, start, length = play(schedule, pp, batches, virtual, lengths)
    end = start + length
    assert np.all(start[:, 1:] >= end[:, :-1] - 1e-9)
    ends: dict[tuple[int, int, int], float] = {}
    starts: dict[tuple[int, int, int], float] = {}
    for stage, place in np.ndindex(kind.shape):
        name = (int(kind[stage, place]), int(batch[stage, place]), int(chunk[stage, place]) * pp + stage)
        assert name not in ends
        starts[name], ends[name] = start[stage, place], end[stage, place]
    kinds = 3 if schedule.startswith("zero") else 2
    assert len(ends) == kinds * batches * pp * virtual
    for (what, each, depth), since in starts.items():
        if what == WEIGHT:
            need = (BACKWARD, each, depth)
        elif what == FORWARD:
            need = (FORWARD, each, depth - 1)
        else:
            need = (BACKWARD, each, depth + 1) if depth < pp * virtual - 1 else (FORWARD, each, depth)
        assert since >= ends.get(need, 0.0) - 1e-9, (what, each, depth)


@pytest.mark.parametrize("change", DESIGNS)
def test_the_step_ends_at_step_time(change: str) -> None:
    """The sum rule: exact where the closed form is; zero-bubble stages differ by the weight gradient of the slowest."""
    result = design(DESIGNS[change])
    played = timeline(result)
    step = result.number("step_time")
    assert played.end == pytest.approx(step, rel=3e-3 if "zero" in change else 1e-9)
    assert played.residual == pytest.approx(played.end - step)
    terms = result.terms("time")
    stretch = step / (step - terms["stragglers"])
    work = sum(value for name, value in terms.items() if name not in ("bubble", "pp_comm", "stragglers"))
    tail = sum(terms[name] for name in ("dp_comm", "optimizer", "offload"))
    compute = [KINDS.index(name) for name in ("forward", "backward", "weight_grad")]
    last = (played.stage == played.pp - 1) & np.isin(played.kind, compute)
    assert played.duration[last].sum() == pytest.approx(stretch * (work - tail), rel=1e-9)


def test_the_slowest_stage_idles_for_the_bubble() -> None:
    """Without time for transfers in the steady state, idle time is the bubble and the transfers of the fill."""
    result = design(DESIGNS["1f1b, transfers hidden"])
    played, terms = timeline(result), result.terms("time")
    step = result.number("step_time")
    stretch = step / (step - terms["stragglers"])
    hop = terms["pp_comm"] / (2 * (played.pp - 1))
    assert played.idle[-1] == pytest.approx(stretch * (terms["bubble"] + terms["pp_comm"] - hop), rel=1e-9)
    assert played.bubble_share == pytest.approx(played.idle.min() / step)
    assert timeline(design("pp=1")).bubble_share == pytest.approx(0.0, abs=1e-12)


def test_the_sum_of_all_events_is_the_sum_of_all_terms() -> None:
    """On the mean stage, passes take what the breakdown says, whatever pass a term is spread over."""
    result = design("recompute=full")
    terms, played = result.terms("time"), timeline(result)
    spent = sum(sum(part.values()) for part in played.terms.values()) * played.micro_batches
    stretch = result.number("step_time") / (result.number("step_time") - terms["stragglers"])
    others = ("bubble", "pp_comm", "stragglers", "dp_comm", "optimizer", "offload", "imbalance")
    assert spent == pytest.approx(stretch * sum(v for k, v in terms.items() if k not in others), rel=1e-12)
    assert "recompute" in played.terms["backward"] and "recompute" not in played.terms["forward"]


def test_chrome_trace(tmp_path: Path) -> None:
    """A process a stage, microseconds, and nothing that ends after the step."""
    result = design()
    played = timeline(result)
    trace = json.loads(played.to_chrome_trace(tmp_path / "step.json").read_text())
    events = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert len(events) == len(played.start) == len(played.table())
    assert {event["pid"] for event in events} == set(range(8))
    assert max(event["ts"] + event["dur"] for event in events) == pytest.approx(1e6 * result.number("step_time"))
    for stage in range(8):  # events of one thread do not overlap
        own = sorted((e["ts"], e["dur"]) for e in events if e["pid"] == stage and e["tid"] == 0)
        assert all(a + d <= b + 1e-3 for (a, d), (b, _) in pairwise(own))
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError):
        played.to_chrome_trace(tmp_path / "file" / "step.json")


def test_other_timing_model_has_one_stage() -> None:
    """COMET runs one pass a step."""
    strategy = "tp=8,global_batch=1024,execution=comet,precision=fp16,recompute=full,zero_stage=2"
    result = dse.estimate("transformer-1t", "comet-baseline", strategy, devices=1024)
    assert timeline(result).end == pytest.approx(result.number("step_time"), rel=1e-12)


def test_only_one_design_and_not_too_many_passes() -> None:
    """Errors name what is wrong."""
    swept = dse.sweep(
        "gpt3-175b", "dgx-a100", "tp=8,pp=8,global_batch=512", dse.axis("micro_batch", [1, 2]), devices=512
    )
    with pytest.raises(SpecError, match="has axes"):
        timeline(swept)
    with pytest.raises(SpecError, match="passes"):
        timeline(design("global_batch=8388608"))


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(
    "change", ["", "virtual_stages=3", "pp=32,dp=2", "schedule=zero_bubble_h2,tp=2,dp=32", "global_batch=64"]
)
def test_figure(change: str, *, dark: bool) -> None:
    """Bars lie within the axis, the cut is marked, an infeasible design says why."""
    result = design(change)
    figure = view.pipeline(result, dark=dark)
    json.loads(figure.to_json())
    top = figure.layout.xaxis.range[1]
    for trace in figure.data:
        assert np.all(np.asarray(trace.base) >= 0) and np.all(np.asarray(trace.x) > 0)
        assert np.max(np.asarray(trace.base) + np.asarray(trace.x)) <= top
        assert len(trace.customdata) == len(trace.x)
    assert len({y for trace in figure.data for y in trace.y}) <= 16
    assert figure.layout.height <= 720
    cut = any("not drawn" in note.text for note in figure.layout.annotations)
    assert cut == (timeline(result).micro_batches + timeline(result).pp > view.FEW)
    assert ("Infeasible" in figure.layout.title.subtitle.text) == (not result.is_feasible)
    assert ("(infeasible)" in figure.layout.title.text) == (not result.is_feasible)


def test_fewer_stages_and_micro_batches_can_be_drawn() -> None:
    """The first and last stage are always there."""
    figure = view.pipeline(design("global_batch=2048"), stages=3, micro_batches=2)
    assert {y for trace in figure.data for y in trace.y} == {"0", "4", "7"}


def test_the_command_line_writes_a_trace(tmp_path):
    from typer.testing import CliRunner

    from dse.cli import app

    path = tmp_path / "step.json"
    done = CliRunner().invoke(
        app,
        ["estimate", "--model", "gpt3-175b", "--cluster", "dgx-a100", "--devices", "1024", "--strategy",
         "tp=8,pp=8,micro_batch=1,global_batch=1536,zero_stage=1", "--trace", str(path)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert len(json.loads(path.read_text())["traceEvents"]) > 1000
