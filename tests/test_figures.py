"""Figures: bars add up to the step, axes carry units, nothing is NaN, infeasible designs say why."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

import dse
from dse.cost import memory, step
from dse.errors import SpecError
from dse.view import figures, theme
from dse.view.formulas import formula
from dse.view.reading import operators, pick, violated

STRATEGIES = {
    "dense": ("gpt3-175b", "dgx-a100", 1024, "tp=8,pp=8,micro_batch=1,global_batch=1536,recompute=full"),
    "moe": ("mixtral-8x7b", "dgx-h100", 128, "tp=4,pp=2,ep=4,micro_batch=1,global_batch=512,zero_stage=1"),
    "infeasible": ("gpt3-175b", "dgx-a100", 1024, "tp=1,pp=1,micro_batch=1,global_batch=1024"),
    "comet": ("transformer-1t", "comet-baseline", 1024,
              "tp=8,global_batch=1024,execution=comet,precision=fp16,recompute=full,zero_stage=2"),
    "dlrm": ("dlrm-1.2t", "comet-baseline", 64, "global_batch=32768,execution=comet,precision=fp16"),
}  # fmt: skip


@pytest.fixture(scope="module", params=STRATEGIES)
def design(request: pytest.FixtureRequest) -> dse.Result:
    """One design of each kind."""
    model, cluster, devices, strategy = STRATEGIES[request.param]
    return dse.estimate(model, cluster, strategy, devices=devices)


@pytest.fixture(scope="module")
def space() -> dse.Result:
    """A plane of designs, some of them infeasible."""
    model, cluster, devices, strategy = STRATEGIES["dense"]
    axes = dse.axis("tp", [1, 2, 8, 16]), dse.axis("pp", [1, 4, 8])
    return dse.sweep(model, cluster, strategy, *axes, devices=devices)


def bars(figure: go.Figure) -> list[Any]:
    return [trace for trace in figure.data if trace.type == "bar"]


def scale(figure: go.Figure, axis: str) -> float:
    """SI value of one unit on an axis, from its title."""
    unit = figure.layout[axis].title.text.partition("[")[2].rstrip("]")
    return float(dse.units.parse(f"1 {unit}", "s" if unit.endswith("s") else "B"))


def assert_sound(figure: go.Figure) -> None:
    """Serializable, without NaN in what is drawn, every axis titled or of names, nothing clipped by fixed margins."""
    json.loads(figure.to_json())
    for trace in figure.data:
        if trace.type in ("bar", "scatter"):
            for name in ("x", "y"):
                values = trace[name]
                numbers = [v for v in (values if values is not None else []) if not isinstance(v, str)]
                assert np.isfinite(np.asarray(numbers, dtype=float)).all(), (trace.name, name)
    assert figure.layout.template.layout.xaxis.automargin and figure.layout.template.layout.yaxis.automargin


def test_bars_of_one_design_add_up_to_the_step(design: dse.Result) -> None:
    """No time is lost between the model and the figure; zero terms are dropped."""
    figure = figures.breakdown(design, title="Step")
    assert_sound(figure)
    values = [float(trace.x[0]) for trace in bars(figure)]
    assert sum(values) * scale(figure, "xaxis") == pytest.approx(float(design["step_time"]), rel=1e-9)
    assert all(values)
    assert figure.layout.xaxis.title.text.startswith("Step time [")
    assert all("%" in trace.customdata[0] for trace in bars(figure))
    assert len([a for a in figure.layout.annotations if a.name == "total"]) == 1


def test_the_legend_of_one_bar_names_what_can_be_seen(design: dse.Result) -> None:
    """Every term is drawn and says on hover what it is; those below half a per cent are not in the legend."""
    figure = figures.breakdown(design)
    whole = float(design["step_time"])
    for trace in bars(figure):
        share = float(trace.x[0]) * scale(figure, "xaxis") / whole
        assert trace.showlegend == (share >= 0.005), trace.name
        assert f"<b>{trace.name}</b>" in trace.customdata[0]
    [total] = figure.layout.annotations
    assert total.x * 1.15 < figure.layout.xaxis.range[1]  # room for the text behind the bar


def test_hover_explains_each_term(design: dse.Result) -> None:
    """The equation that the cost graph has; of the terms of every pass the number of passes and the time of one."""
    graph = design.cells[0].evaluation.graph.quantities
    for trace in bars(figures.breakdown(design)):
        lines = trace.customdata[0].split("<br>")
        assert len(lines) > 2, trace.name
        if "micro-batches" not in lines[-1]:
            continue
        assert graph["mean_stage_terms"].equation in lines[-2]
        count, _, each = lines[-1].removeprefix("= ").partition(" micro-batches · ")
        seconds = float(count.replace(",", "")) * dse.units.parse(each, "s")
        assert seconds == pytest.approx(float(trace.x[0]) * scale(figures.breakdown(design), "xaxis"), rel=2e-3)
    if design.execution() == "megatron":
        assert formula(design, "time", "imbalance") == f"= {graph['imbalance'].equation}"
        assert "straggler" not in formula(design, "time", "stragglers")
    assert formula(design, "cost", "capital") == ""  # the price of the cluster is not what a step costs


def test_bars_along_an_axis_add_up_to_each_step(space: dse.Result) -> None:
    """One bar a value, the same sum, a total on each."""
    figure = figures.breakdown(space, along="pp", at={"tp": 8}, labels=["one", "four", "eight"])
    assert_sound(figure)
    sums = np.sum([trace.y for trace in bars(figure)], axis=0) * scale(figure, "yaxis")
    np.testing.assert_allclose(sums, space["step_time"].sel(tp=8).values)
    assert list(bars(figure)[0].x) == ["one", "four", "eight"]
    assert len(figure.layout.annotations) == 3
    assert figure.layout.yaxis.title.text == "Step time [s]"


@pytest.mark.parametrize("table", ["time", "memory", "tier", "energy", "cost"])
def test_every_breakdown_can_be_drawn(space: dse.Result, table: str) -> None:
    """The five tables of a result."""
    assert_sound(figures.breakdown(space, along="tp", at={"pp": 8}, table=table))


def test_footprint_adds_up_and_shows_the_capacity(design: dse.Result) -> None:
    """The classes add up to the footprint; the line is the accelerator's own memory."""
    figure = figures.footprint(design)
    assert_sound(figure)
    total = sum(float(trace.x[0]) for trace in bars(figure)) * scale(figure, "xaxis")
    assert total == pytest.approx(float(design["memory_bytes"]), rel=1e-9)
    capacity = design.specs["cluster"].accelerator.memory.capacity  # type: ignore[attr-defined]
    assert figure.layout.shapes[0].x0 * scale(figure, "xaxis") == pytest.approx(capacity)
    assert figure.layout.xaxis.range[1] >= figure.layout.shapes[0].x0
    assert any("local memory" in str(note.text) for note in figure.layout.annotations)


def test_heatmap_marks_infeasible_cells_and_says_why(space: dse.Result) -> None:
    """Grey where a rule is broken, with the rule on hover; colours only where a design is legal."""
    figure = figures.heatmap(space, "step_time", "pp", "tp", title="Map")
    grey, colour = figure.data
    legal = space["feasible"].transpose("tp", "pp").values
    np.testing.assert_array_equal(np.isnan(np.asarray(grey.z, dtype=float)), legal)
    np.testing.assert_array_equal(np.isfinite(np.asarray(colour.z, dtype=float)), legal)
    for texts, row in zip(colour.customdata, legal, strict=True):
        assert all(("infeasible: " in text) != ok for text, ok in zip(texts, row, strict=True))
    assert "memory fits (short by 3" in colour.customdata[0][0] and "batch divides" in colour.customdata[0][0]
    assert figure.layout.xaxis.title.text == "Pipeline stages (pp)"
    assert all(text.endswith(" s") for row in colour.text for text in row if text)


def test_rules_can_be_waived_in_figures(space: dse.Result) -> None:
    """With memory unlimited and batches cut anyhow every design of this plane is legal."""
    waived = ["memory_fits", "batch_divides"]
    assert (violated(space) != "").any()
    assert (violated(space, ignore=waived) == "").all()
    grey = figures.heatmap(space, "step_time", "pp", "tp", ignore=waived, log=True).data[0]
    assert np.isnan(np.asarray(grey.z, dtype=float)).all()


def test_lines_have_units_and_open_marks(space: dse.Result) -> None:
    """One line a value of the second axis; open marks where memory overflows."""
    figure = figures.lines(space, "step_time", "pp", by="tp", reference=30.0, reference_label="goal", title="Lines")
    assert_sound(figure)
    assert len(figure.data) == 4
    assert figure.layout.yaxis.title.text == "Step time [s]"
    legal = space["feasible"]
    for trace, tp in zip(figure.data, [1, 2, 8, 16], strict=True):
        np.testing.assert_array_equal(["open" not in s for s in trace.marker.symbol], legal.sel(tp=tp).values)
    assert figure.layout.shapes[0].y0 == 30.0


def test_lines_use_the_unit_of_the_axis() -> None:
    """An axis declared in GB/s is drawn in GB/s."""
    model, cluster, devices, strategy = STRATEGIES["dense"]
    axis = dse.axis("cluster.accelerator.memory.bandwidth", [500, 2000, 8000], unit="GB/s", name="bandwidth")
    found = dse.sweep(model, cluster, strategy, axis, devices=devices)
    figure = figures.lines(found, "tokens_per_s", "bandwidth", x_title="Memory bandwidth")
    assert figure.layout.xaxis.title.text == "Memory bandwidth [GB/s]"
    assert list(figure.data[0].x) == pytest.approx([500, 2000, 8000])
    assert figure.layout.yaxis.title.text == "Throughput [per second]"
    assert figures.lines(found, "step_time", "bandwidth", log=True).layout.yaxis.type == "log"


def test_comparison_names_what_is_missing() -> None:
    """A bar for each number, a note where there is none."""
    values = {"A100": 2.0, "none": float("nan")}
    figure = figures.comparison(values, unit="s", notes={"none": "does not fit"}, value_title="Step time [s]")
    assert_sound(figure)
    assert list(bars(figure)[0].x) == [2.0, 0.0]
    assert "does not fit" in figure.data[1].text[1]
    assert_sound(figures.comparison(values, log=True, dark=True))


def verdict_rows(count: int) -> pd.DataFrame:
    """A table of checks, every third out of tolerance, and one trend."""
    rows = [{"check": f"c{i}", "group": f"g{i % 4}", "published": float(i), "ours": i + (0.5 if i % 3 == 0 else 0.01),
             "unit": "s", "allowed": 0.1, "verdict": "short" if i % 3 == 0 else "pass"}
            for i in range(count)]  # fmt: skip
    trend = {**dict.fromkeys(("published", "allowed"), np.nan), "check": "t", "group": "g0", "ours": 1.0, "unit": "1",
             "verdict": "pass"}  # fmt: skip
    return pd.DataFrame([*rows, trend])


@pytest.mark.parametrize("count", [0, 7, 200])
def test_verdicts_place_every_check(count: int) -> None:
    """Few checks have a row each, many share one a group; zero published values are no trouble."""
    figure = figures.verdicts(verdict_rows(count), title="Verdicts")
    assert_sound(figure)
    points = [trace for trace in figure.data if trace.type == "scatter"]
    assert sum(len(trace.x) for trace in points) == count
    inside = [abs(x) <= 1 for trace in points if trace.name.startswith("pass") for x in trace.x]
    assert all(inside)


def test_no_operator_is_above_its_roof(design: dse.Result) -> None:
    """Achieved rates stay at or below both roofs, and the axes have units."""
    figure = figures.roofline(design)
    assert_sound(figure)
    evaluation = design._cells[0].evaluation
    peak, bandwidth = float(evaluation["matrix_peak"]), float(evaluation["memory_bandwidth"])
    table = operators(design)
    table = table[table["work [FLOP]"] > 0]
    assert (table["work [FLOP]"] / table["time [s]"] <= peak * (1 + 1e-9)).all()
    assert (table["traffic [B]"] / table["time [s]"] <= bandwidth * (1 + 1e-9)).all()
    assert "[FLOP/B]" in figure.layout.xaxis.title.text and "[FLOP/s]" in figure.layout.yaxis.title.text


CALLS: dict[str, Callable[[dse.Result], Any]] = {
    "axis left open": lambda r: figures.breakdown(r, along="pp"),
    "no such axis": lambda r: figures.breakdown(r, along="dp"),
    "no such table": lambda r: figures.breakdown(r, along="pp", at={"tp": 8}, table="thyme"),
    "no such value": lambda r: figures.lines(r, "step_time", "pp", at={"tp": 3}),
    "no such quantity": lambda r: figures.heatmap(r, "step_tame", "pp", "tp"),
    "not one design": lambda r: figures.roofline(r),
    "no such axis in at": lambda r: pick(r, "step_time", {"cp": 1}),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_cannot_be_drawn_is_a_plain_error(space: dse.Result, name: str) -> None:
    """Wrong names are told, not tracebacks."""
    with pytest.raises(SpecError):
        CALLS[name](space)


def test_coordinates_are_understood_with_units() -> None:
    """``at`` takes text with a unit, numbers, and names."""
    model, cluster, devices, strategy = STRATEGIES["dense"]
    axes = (dse.axis("cluster.network.inter.bandwidth", [25, 50], unit="GB/s", name="inter"),
            dse.axis("recompute", ["none", "full"]), dse.axis("sequence_parallel", [False, True]))  # fmt: skip
    found = dse.sweep(model, cluster, strategy, *axes, devices=devices)
    at = {"inter": "50 GB/s", "recompute": "full", "sequence_parallel": "true"}
    wanted = found["step_time"].isel(inter=1, recompute=1, sequence_parallel=1)
    assert float(pick(found, "step_time", at)) == float(wanted)


# -- theme --------------------------------------------------------------------------------------------------


def test_every_term_has_a_title_and_a_fixed_colour() -> None:
    """All terms of the model's breakdowns are known to the theme."""
    for term in (*step.TERMS, *memory.CLASSES, "working", "reserved", "tables"):
        assert term in theme.TERMS, term
        assert theme.colour_of(term, 0) == theme.colour_of(term, 7)


def seen(colour: str, matrix: np.ndarray) -> np.ndarray:
    """What a dichromat sees, in Oklab, so that distances mean something. Matrices: Machado et al. 2009."""
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.clip(matrix @ np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4), 0, 1)
    lms = np.cbrt(np.array([[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
                            [0.0883024619, 0.2817188376, 0.6299787005]]) @ linear)  # fmt: skip
    return np.array([[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
                     [0.0259040371, 0.7827717662, -0.8086757660]]) @ lms  # fmt: skip


SIGHTS = {
    "normal": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                            [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                              [-0.011820, 0.042940, 0.968881]]),
    "tritanopia": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                            [0.004733, 0.691367, 0.303900]]),
}  # fmt: skip


@pytest.mark.parametrize("sight", SIGHTS)
def test_terms_of_the_step_stay_apart_without_some_cones(sight: str) -> None:
    """Any two terms differ in colour for every kind of colour blindness, or one of them is hatched."""
    for one, other in combinations(step.TERMS, 2):
        if theme.hatch_of(one) != theme.hatch_of(other):
            continue
        gap = np.linalg.norm(seen(theme.colour_of(one), SIGHTS[sight]) - seen(theme.colour_of(other), SIGHTS[sight]))
        assert gap > 0.09, (one, other, round(float(gap), 3))


@pytest.mark.parametrize(
    ("values", "unit", "wanted"),
    [
        ([4.2e10, 1e9], "B", (1e9, "GB")), ([0.004], "s", (1e-3, "ms")), ([5400.0], "s", (1.0, "s")),
        ([2.0e12], "B/s", (1e12, "TB/s")), ([3e14], "FLOP/s", (1e12, "TFLOP/s")), ([0.5], "1", (1.0, "")),
        ([], "B", (1.0, "B")), ([float("nan"), 0.0], "s", (1.0, "s")), ([3.0], "USD", (1.0, "USD")),
    ],
)  # fmt: skip
def test_axis_units(values: list[float], unit: str, wanted: tuple[float, str]) -> None:
    """Axes take the prefix of their largest value."""
    factor, shown = theme.axis_scale(values, unit)
    assert (factor, shown) == (pytest.approx(wanted[0]), wanted[1])


def test_light_and_dark_differ_only_in_ink() -> None:
    """Both templates exist, and the colours of terms do not change."""
    light, dark = theme.template(False), theme.template(True)
    assert light.layout.paper_bgcolor != dark.layout.paper_bgcolor
    assert light.layout.colorway == dark.layout.colorway


def test_dollars_are_no_formula():
    """Notebooks take the text between two dollar signs for mathematics: each stands in an element of its own."""
    page = dse.estimate("gpt3-175b", "dgx-a100", "tp=8,pp=8,global_batch=1536,zero_stage=1", devices=1024)._repr_html_()
    assert page.count("<span>$</span>") == page.count("$") >= 2
