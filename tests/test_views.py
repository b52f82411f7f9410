"""Every public figure on a dense model, a mixture of experts and an infeasible design, light and dark."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

import dse
import dse.view
from dse.app.designs import strategies
from dse.app.state import State, landscape, start
from dse.errors import DseError
from dse.explore.require import require
from dse.explore.search.variables import span
from dse.explore.sensitivity import Factor, bottlenecks, discover, elasticities, morris, shadow_prices, sobol, tornado
from dse.view import (
    accuracy,
    comparisons,
    designs,
    figures,
    money,
    nearest,
    search,
    sensitivity,
    simulation,
    timeline,
    waterfall,
)
from dse.view import landscape as landscapes
from dse.view import require as requires
from dse.view import trace as traces

DEVICES, INTER, MEMORY = 16, "cluster.network.inter.bandwidth", "cluster.memory.bandwidth"
PLANS = {
    "dense": ("llama2-7b", "dgx-h100", "tp=2,pp=2,micro_batch=1,global_batch=64,zero_stage=1"),
    "moe": ("mixtral-8x7b", "dgx-h100", "tp=2,pp=4,ep=2,micro_batch=1,global_batch=64,zero_stage=1"),
    "infeasible": ("llama2-70b", "dgx-a100", "tp=1,pp=1,micro_batch=1,global_batch=64"),
}
OPTIONS = {"pp": [1, 4, 8], "tp": [1, 2], "micro_batch": [1], "virtual_stages": [1], "recompute": ["none", "full"]}
FACTORS = [Factor(MEMORY, "1 TB/s", "4 TB/s", log=True), Factor("recompute", values=("none", "full"))]
HELPERS = {"theme.drawn", "theme.blank", "parts.lines_figure"}  # what the others are made with
COLLECTIVES = {  # of schedules, not of designs: drawn in test_collective_view.py
    "collective.network", "collective.utilization", "collective.gantt", "collective_played.animation",
    "collective_times.against_size", "collective_times.ratios", "collective_times.spread",
}  # fmt: skip
SUSHI = {  # of served queries and of maps: drawn in test_sushi_cli.py
    "sushi.latency_table", "sushi.timeline", "sushi.latencies", "sushi.trade_off", "sushi.layers",
    "sushi_maps.unknowns", "sushi_maps.break_even", "sushi_maps.search_front",
}  # fmt: skip
VEGETA = {  # of engines and their tables: drawn in test_vegeta_view.py
    "vegeta.pipeline", "vegeta.tile", "vegeta.packed", "vegeta_studies.speedups", "vegeta_studies.granularity",
    "vegeta_studies.designs", "vegeta_studies.sensitivity", "vegeta_studies.roofline", "vegeta_studies.crossover",
}  # fmt: skip
XR = {  # of XR runs and scores: drawn in test_xr_view.py
    "xr.gantt", "xr.causes", "xr.power", "xr_scores.breakdown", "xr_scores.ranking", "xr_scores.seeds",
    "xr_scores.parity", "xr_scores.search_front",
}  # fmt: skip
CONTINUUM = {  # of plans and of scaling: drawn in test_continuum_view.py
    "continuum.placement", "continuum.front", "continuum.break_even", "continuum.played", "continuum.ensemble",
    "continuum_scaling.forecasts", "continuum_scaling.held_out", "continuum_scaling.shares",
}  # fmt: skip
MODEX = {"modex.loop_figure"}  # drawn in test_modex.py


@cache
def state(case: str) -> State:
    model, cluster, plan = PLANS[case]
    return start(model, cluster, plan, devices=DEVICES)


@cache
def searched(case: str) -> Any:
    model, cluster, _ = PLANS[case]
    axes = [span(INTER, "12.5 GB/s", "100 GB/s", steps=3), span(MEMORY, "1 TB/s", "4 TB/s", steps=3)]
    budget = "capital <= 100 USD" if case == "infeasible" else "capital <= 900 MUSD"
    return dse.search(model, cluster, [*axes, dse.axis("cluster.devices", [8, 16])], global_batch=64, options=OPTIONS,
                      objective=["step_time", "capital"], budget=budget, cache=False)  # fmt: skip


@cache
def table(case: str) -> Any:
    """Strategies around the design; none is feasible of the infeasible one."""
    opened = state(case)
    tight = opened.set("cluster.node.accelerator.memory.capacity", "1 GB") if case == "infeasible" else opened
    return strategies(tight)


def plane(case: str) -> dse.Result:
    return landscape(state(case), "strategy.tp", "strategy.micro_batch")


def needed(case: str, fields: Any) -> Any:
    bound = "mfu >= 0.9" if case == "infeasible" else "mfu >= 0.02"
    return require(bound, fields, *PLANS[case], devices=DEVICES, points=5)


def published(case: str) -> pd.DataFrame:
    time = state(case).result.number("step_time")
    rows = {"id": ["a", "b"], "source": ["one", "two"], "measured": [time, 1.2 * time], "predicted": [time, time]}
    return pd.DataFrame(rows)


def places(case: str) -> pd.DataFrame:
    order = {"measured_place": [1, 2, 3], "predicted_place": [1, 3, 2], "measured": [1.0, 2.0, 3.0]}
    return pd.DataFrame({"sweep": case, "id": list("abc"), **order, "predicted": [1.0, 3.0, 2.0]})


def checks(case: str) -> pd.DataFrame:
    time = state(case).result.number("step_time")
    row = {"check": "a", "group": "g", "published": time, "ours": 1.1 * time, "unit": "s", "allowed": time / 5}
    return pd.DataFrame([{**row, "verdict": "pass"}, {**row, "check": "b", "ours": 2 * time, "verdict": "short"}])


def result(case: str) -> dse.Result:
    return state(case).result


@cache
def simulated(case: str) -> Any:
    return result(case).simulate(detail="block")


@cache
def offloaded() -> Any:
    """A design whose optimizer states lie in the node's memory."""
    plan = "tp=1,micro_batch=1,global_batch=16,zero_stage=1,offload_optimizer=ddr"
    return dse.estimate("llama3-8b", "dgx-h100", plan, devices=16).simulate(detail="pass")


DRAW: dict[str, Callable[[str, bool], go.Figure]] = {
    "accuracy.predicted_vs_measured": lambda c, d: accuracy.predicted_vs_measured(published(c), dark=d),
    "accuracy.ranking": lambda c, d: accuracy.ranking(places(c), dark=d),
    "comparisons.comparison": lambda c, d: comparisons.comparison(result(c).terms("time"), unit="s", dark=d),
    "comparisons.verdicts": lambda c, d: comparisons.verdicts(checks(c), dark=d),
    "comparisons.roofline": lambda c, d: comparisons.roofline(result(c), dark=d),
    "designs.front": lambda c, d: designs.front(table(c), dark=d),
    "designs.parallel": lambda c, d: designs.parallel(table(c), dark=d),
    "figures.breakdown": lambda c, d: figures.breakdown(result(c), dark=d),
    "figures.footprint": lambda c, d: figures.footprint(result(c), dark=d),
    "figures.heatmap": lambda c, d: figures.heatmap(plane(c), "step_time", "tp", "micro_batch", dark=d),
    "figures.lines": lambda c, d: figures.lines(plane(c), "step_time", "tp", by="micro_batch", dark=d),
    "landscape.landscape": lambda c, d: landscapes.landscape(plane(c), "step_time", "tp", "micro_batch", dark=d),
    "money.energy_and_money": lambda c, d: money.energy_and_money(result(c), dark=d),
    "money.goodput_shares": lambda c, d: money.goodput_shares(result(c), dark=d),
    "nearest.nearest": lambda c, d: nearest.nearest(result(c), dark=d),
    "require.response": lambda c, d: requires.response(needed(c, INTER), dark=d),
    "require.iso_curve": lambda c, d: requires.iso_curve(needed(c, [INTER, MEMORY]), dark=d),
    "search.front": lambda c, d: search.front(searched(c), dark=d),
    "search.parallel": lambda c, d: search.parallel(searched(c), dark=d),
    "sensitivity.tornado": lambda c, d: sensitivity.tornado(tornado(result(c), by=0.2), dark=d),
    "sensitivity.elasticity": lambda c, d: sensitivity.elasticity(elasticities(result(c)), dark=d),
    "sensitivity.shadow": lambda c, d: sensitivity.shadow(shadow_prices(result(c)), dark=d),
    "sensitivity.sobol": lambda c, d: sensitivity.sobol(sobol(result(c), FACTORS, samples=16), dark=d),
    "sensitivity.morris": lambda c, d: sensitivity.morris(morris(result(c), FACTORS, trajectories=8), dark=d),
    "sensitivity.discover": lambda c, d: sensitivity.discover(
        discover(result(c), "mfu >= 0.3", FACTORS, samples=64), dark=d
    ),
    "sensitivity.bottleneck": lambda c, d: sensitivity.bottleneck(bottlenecks(result(c)), dark=d),
    "simulation.critical": lambda c, d: simulation.critical(simulated(c).simulation, dark=d),
    "simulation.occupancy": lambda c, d: simulation.occupancy(offloaded().simulation, dark=d),
    "simulation.parts": lambda c, d: simulation.parts(simulated(c), dark=d),
    "simulation.timeline": lambda c, d: simulation.timeline(simulated(c).simulation, dark=d),
    "simulation.utilization": lambda c, d: simulation.utilization(simulated(c).simulation, dark=d),
    "timeline.pipeline": lambda c, d: timeline.pipeline(result(c), dark=d),
    "trace.graph": lambda c, d: traces.graph(simulated(c).traces, dark=d),
    "trace.timeline": lambda c, d: traces.timeline(simulated(c).traces, dark=d),
    "trace.volume": lambda c, d: traces.volume(simulated(c).traces, dark=d),
    "waterfall.memory_waterfall": lambda c, d: waterfall.memory_waterfall(result(c), dark=d),
    "waterfall.difference": lambda c, d: waterfall.difference(result("dense"), result(c), dark=d),
}
NOTED = {  # what the figure of an infeasible design says
    "designs.front": "infeasible", "figures.heatmap": "infeasible", "figures.lines": "infeasible",
    "landscape.landscape": "no design is feasible", "money.energy_and_money": "Infeasible", "search.front": "infeasible",
    "money.goodput_shares": "Infeasible", "nearest.nearest": "Infeasible", "timeline.pipeline": "Infeasible",
    "sensitivity.discover": "no box stands out", "waterfall.memory_waterfall": "overflows", "waterfall.difference": "Infeasible",
}  # fmt: skip
REFUSED = ("designs.parallel", "search.parallel", "require.response", "require.iso_curve")


def public() -> set[str]:
    """Functions of the modules in ``dse.view`` that return a figure."""
    found = set()
    for info in pkgutil.iter_modules(dse.view.__path__):
        module = importlib.import_module(f"dse.view.{info.name}")
        for name, function in vars(module).items():
            own = inspect.isfunction(function) and function.__module__ == module.__name__
            if own and name[0] != "_" and "go.Figure" in str(function.__annotations__.get("return")):
                found.add(f"{info.name}.{name}")
    return found


def test_the_list_is_complete() -> None:
    """A new figure needs a line here."""
    assert public() - HELPERS - COLLECTIVES - SUSHI - VEGETA - XR - MODEX - CONTINUUM == set(DRAW)
    assert set(NOTED) | set(REFUSED) <= set(DRAW)


def numbers(values: Any) -> np.ndarray:
    """The numbers among values, gaps (None) left out."""
    flat = np.ravel(np.asarray(values if values is not None else [], dtype=object))
    return np.array([v for v in flat if not isinstance(v, str) and v is not None], dtype=float)


def check(figure: go.Figure) -> None:
    """Not empty, valid to Plotly, serialisable, finite where drawn, no NaN in any text, with a background."""
    page = figure.to_json()
    data = json.loads(page)
    assert sum(len(str(trace)) for trace in data["data"]) > 200 or figure.layout.annotations
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        go.Figure(figure.to_dict())  # checks every property, as plotly.py does
    gaps = {each.name for each in figure.data if each.type == "scatter" and "lines" in (each.mode or "")}
    for trace in figure.data:
        for name in ("x", "y", "base"):
            drawn = numbers(getattr(trace, name, None))
            assert np.isfinite(drawn).all() or trace.name in gaps, (trace.name, name)
        if trace.type == "heatmap":
            assert not np.isinf(np.asarray(trace.z, dtype=float)).any()
    for trace in figure.data:
        check_hover(trace)
    texts = [text for text in strings(data) if len(text) < 2000]
    assert texts and not [text for text in texts if "nan" in text.lower().replace("finan", "").split()]
    assert not [text for text in texts if text.rstrip("]").endswith(("nan", "inf")) or "None" in text.split()]


def check_hover(trace: Any) -> None:
    """What a hover template names is there, for every point."""
    for field in re.findall(r"%\{([a-z]+(?:\[\d+\])?)[^}]*\}", getattr(trace, "hovertemplate", "") or ""):
        name, _, place = field.rstrip("]").partition("[")
        assert name in ("customdata", "x", "y", *(["z"] if trace.type == "heatmap" else [])), field
        values = getattr(trace, name)
        assert values is not None and len(values), (trace.name, field)
        if name == "customdata" and trace.type != "heatmap":
            assert len(values) == len(trace.x), trace.name
        assert not place or np.shape(values)[1] > int(place), (trace.name, field)


def strings(node: Any) -> list[str]:
    """All words of a figure but the encoded arrays and the template."""
    if isinstance(node, str):
        return [node]
    if isinstance(node, list):
        return [text for item in node for text in strings(item)]
    if isinstance(node, dict) and "bdata" not in node:
        return [text for key, item in node.items() if key != "template" for text in strings(item)]
    return []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", DRAW)
@pytest.mark.parametrize("case", PLANS)
def test_every_figure(case: str, name: str, *, dark: bool) -> None:
    """Sound; of an infeasible design, with the note or the clear error that is due."""
    if case == "infeasible" and name in REFUSED:
        with pytest.raises(DseError) as caught:
            DRAW[name](case, dark)
        assert len(str(caught.value)) > 30
        return
    figure = DRAW[name](case, dark)
    check(figure)
    colour = dse.view.theme.paper(dark)
    assert figure.layout.template.layout.paper_bgcolor == colour
    if case == "infeasible" and name in NOTED:
        assert any(NOTED[name] in text for text in strings(json.loads(figure.to_json()))), name


@pytest.mark.parametrize("case", PLANS)
def test_sums_are_those_of_the_result(case: str) -> None:
    """Bars of the time, the footprint, the energy and the money add up to their totals."""
    one = result(case)
    for name, whole, unit in (("breakdown", "step_time", "s"), ("footprint", "memory_bytes", "B")):
        figure = getattr(figures, name)(one)
        factor = dse.view.theme.axis_scale([one.number(whole)], unit)[0]
        assert sum(float(bar.x[0]) for bar in figure.data) * factor == pytest.approx(one.number(whole), rel=1e-9)
    figure = money.energy_and_money(one)
    shown = figure.layout.xaxis.title.text.partition("[")[2].rstrip("]")
    factor = next(scale for scale, unit in (*money.LARGE["J"], (1.0, "J")) if unit == shown)
    parts = sum(float(bar.x[0]) for bar in figure.data if bar.xaxis == "x")
    assert parts * factor == pytest.approx(one.number("energy"), rel=1e-9)


def test_fast_figures_are_what_plotly_would_make() -> None:
    """Skipping Plotly's checks changes nothing, and later changes are checked again."""
    figure = figures.breakdown(result("dense"))
    slow = go.Figure(figure.to_dict())
    assert json.loads(slow.to_json()) == json.loads(figure.to_json())
    with pytest.raises(ValueError, match="Invalid"):
        figure.update_layout(barmode="sideways")
    with pytest.raises(ValueError, match="Invalid"):
        figure.data[0].update(marker={"colour": "red"})
    with pytest.raises(ValueError, match="Invalid"):
        figure.add_trace(go.Bar(x=[1], y=[1])).data[-1].orientation = "sideways"


def test_a_long_pipeline_stays_small() -> None:
    """Ten thousand passes and more: few hundred kilobytes."""
    long = dse.estimate(
        "gpt3-175b",
        "dgx-h100",
        "tp=8,pp=16,micro_batch=4,virtual_stages=6,global_batch=1024,zero_stage=1",
        devices=1024,
    )
    page = timeline.pipeline(long).to_json()
    assert len(page) < 300_000
    few = dse.estimate("gpt3-175b", "dgx-h100", "tp=8,pp=32,micro_batch=1,virtual_stages=3,global_batch=2048,zero_stage=1",
                       devices=1024)  # fmt: skip
    assert len(timeline.pipeline(few).to_json()) < 400_000
