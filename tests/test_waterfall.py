"""Waterfalls, energy, money and goodput: bars add up exactly, infeasible designs are drawn and say why."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

import dse
from dse.errors import SpecError
from dse.view import money, theme, waterfall

STRATEGIES = {
    "dense": ("gpt3-175b", "dgx-a100", 1024, "tp=8,pp=8,micro_batch=1,global_batch=1536,recompute=full"),
    "moe": ("mixtral-8x7b", "dgx-h100", 128, "tp=4,pp=2,ep=4,micro_batch=1,global_batch=512,zero_stage=1"),
    "infeasible": ("gpt3-175b", "dgx-a100", 1024, "tp=1,pp=1,micro_batch=1,global_batch=1024"),
    "offloaded": ("gpt3-175b", "dgx-a100", 1024,
                  "tp=8,pp=8,micro_batch=1,global_batch=1536,recompute=full,offload_optimizer=ddr"),
    "comet": ("transformer-1t", "comet-baseline", 1024,
              "tp=8,global_batch=1024,execution=comet,precision=fp16,recompute=full,zero_stage=2"),
}  # fmt: skip
RESULTS = {name: dse.estimate(m, c, s, devices=d) for name, (m, c, d, s) in STRATEGIES.items()}


@pytest.fixture(params=RESULTS)
def result(request: pytest.FixtureRequest) -> dse.Result:
    """One design of each kind."""
    return RESULTS[request.param]


@pytest.fixture(params=[False, True], ids=["light", "dark"])
def dark(request: pytest.FixtureRequest) -> bool:
    """Both themes."""
    return bool(request.param)


def check(figure: go.Figure, result: dse.Result) -> None:
    """Serializable, finite, in the axis, fits a screen, and says if and why the design is infeasible."""
    json.loads(figure.to_json())
    for trace in figure.data:
        axis = figure.layout[f"xaxis{(trace.xaxis or 'x')[1:]}"]
        base = np.asarray(trace.base if trace.base is not None else 0.0, dtype=float)
        ends = np.concatenate([np.atleast_1d(base), np.atleast_1d(base + np.asarray(trace.x, dtype=float))])
        assert np.isfinite(ends).all()
        assert ends.min() >= -1e-9 and ends.max() <= axis.range[1]
        assert axis.title.text
    assert figure.layout.height <= 720
    text = figure.layout.title.subtitle.text
    assert ("(infeasible)" in figure.layout.title.text) == ("Infeasible: " in text) == (not result.is_feasible)
    reasons = text.split("<br>")[1:]
    assert max(map(len, reasons), default=0) <= 80  # a line of a figure 500 pixels wide


def unit(figure: go.Figure) -> float:
    """SI value of one unit on the x axis."""
    shown = figure.layout.xaxis.title.text.partition("[")[2].rstrip("]")
    return float(dse.units.parse(f"1 {shown}", "s" if shown.endswith("s") else "B"))


def row(figure: go.Figure, name: str) -> tuple[float, float]:
    """Base and length of a bar."""
    bar: Any = next(trace for trace in figure.data if trace.name == name)
    return float(bar.base[0]), float(bar.x[0])


def test_memory_waterfall(result: dse.Result, *, dark: bool) -> None:
    """Each class starts where the one before ended; the last ends at the footprint; the line is the capacity."""
    figure = waterfall.memory_waterfall(result, dark=dark)
    check(figure, result)
    scale, end = unit(figure), 0.0
    for term, size in result.terms("memory").items():
        if size:
            base, length = row(figure, theme.term_title(term))
            assert (base, length * scale) == (pytest.approx(end), pytest.approx(size))
            end = base + length
    assert row(figure, "footprint")[1] * scale == pytest.approx(result.number("memory_bytes"))
    assert end * scale == pytest.approx(result.number("memory_bytes"))
    capacity = float(result.cells[0].evaluation["tier_capacity"]["local"])
    assert any(shape.x0 * scale == pytest.approx(capacity) for shape in figure.layout.shapes)
    over = any("overflows" in note.text for note in figure.layout.annotations)
    assert over == (result.number("memory_fits") < 0)


def test_other_tiers_have_their_own_row() -> None:
    """Offloaded states are held in DDR, and its capacity is written there."""
    figure = waterfall.memory_waterfall(RESULTS["offloaded"])
    held = RESULTS["offloaded"].terms("tier")
    assert row(figure, "held in DDR")[1] * unit(figure) == pytest.approx(held["ddr"])
    assert any("of 250 GB" in note.text for note in figure.layout.annotations)


@pytest.mark.parametrize("table", ["time", "memory"])
@pytest.mark.parametrize("other", ["dense", "infeasible", "comet"])
def test_difference_adds_up(result: dse.Result, table: str, other: str, *, dark: bool) -> None:
    """A plus every change is B; green saves and red adds."""
    end = RESULTS[other]
    figure = waterfall.difference(result, end, table=table, names=("first", "second"), dark=dark)
    scale = unit(figure)
    before, after = (sum(each.terms(table).values()) for each in (result, end))
    assert row(figure, "first")[1] * scale == pytest.approx(before)
    assert row(figure, "second")[1] * scale == pytest.approx(after)
    changes = figure.data[1:-1]
    assert (before / scale) + sum(float(t.x[0]) for t in changes) == pytest.approx(after / scale)
    for trace in changes:
        assert trace.marker.color == (theme.GOOD if trace.x[0] < 0 else theme.BAD)
    assert figure.layout.height <= 720
    why = figure.layout.title.subtitle.text.count("Infeasible: ")
    assert why == (not result.is_feasible) + (not end.is_feasible)
    assert ("(infeasible)" in figure.layout.title.text) == (why > 0)


def test_no_difference_has_two_bars() -> None:
    """A design against itself."""
    assert len(waterfall.difference(RESULTS["moe"], RESULTS["moe"]).data) == 2


def test_energy_and_money(result: dse.Result, *, dark: bool) -> None:
    """Panels add up to the energy of a step and the cost of ownership; of a run, to those of the run."""
    figure = money.energy_and_money(result, dark=dark)
    check(figure, result)
    text = " ".join(note.text for note in figure.layout.annotations)
    assert money.amount(result.number("energy"), "J") in text
    assert money.amount(result.number("tco"), "USD") in text
    run = result.run("300B")
    figure = money.energy_and_money(result, "300B", dark=dark)
    check(figure, result)
    for column, name, units in (
        (1, "run_effective_energy", money.LARGE["J"]),
        (2, "run_effective_cost", money.LARGE["USD"]),
    ):
        bars = [trace for trace in figure.data if (trace.xaxis or "x") == ("x", "x2")[column - 1]]
        shown = figure.layout[f"xaxis{column if column > 1 else ''}"].title.text.partition("[")[2].rstrip("]")
        scale = next((factor for factor, words in units if words == shown), 1.0)
        assert scale * sum(float(trace.x[0]) for trace in bars) == pytest.approx(run[name], rel=1e-9)


def test_both_panels_have_bars_of_one_thickness() -> None:
    """Their rows are as many as the longer panel has, and there is room behind the longest bar."""
    layout = money.energy_and_money(RESULTS["dense"]).layout
    assert layout.yaxis.range == layout.yaxis2.range
    assert layout.xaxis.domain[1] < layout.xaxis2.domain[0]
    for axis, name in ((layout.xaxis, "x"), (layout.xaxis2, "x2")):
        bars = [t for t in money.energy_and_money(RESULTS["dense"]).data if t.xaxis == name]
        assert axis.range[1] >= 1.5 * max(float(t.x[0]) for t in bars)
    assert (
        "= hardware FLOP"
        in next(t for t in money.energy_and_money(RESULTS["dense"]).data if t.name == "compute").customdata[0]
    )


def test_goodput_shares(result: dse.Result, *, dark: bool) -> None:
    """What is lost and what is useful make up the whole."""
    figure = money.goodput_shares(result, dark=dark)
    check(figure, result)
    lost = sum(float(trace.x[0]) for trace in figure.data) / 100
    assert lost == pytest.approx(1 - result.number("goodput"), abs=2e-5)
    assert f"Goodput {result.number('goodput'):.2%}" in figure.layout.title.subtitle.text


def test_a_sweep_is_refused() -> None:
    """Figures of one design say so."""
    swept = dse.sweep(
        "gpt3-175b", "dgx-a100", "tp=8,pp=8,global_batch=512", dse.axis("micro_batch", [1, 2]), devices=512
    )
    for draw in (waterfall.memory_waterfall, money.energy_and_money, money.goodput_shares):
        with pytest.raises(SpecError, match="has axes"):
            draw(swept)
    with pytest.raises(SpecError, match="must be one of"):
        waterfall.difference(RESULTS["moe"], RESULTS["dense"], table="nonsense")
