"""Figures of the designs around a design: the front, lines, the landscape, and the nearest measured runs."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import dse
from dse.app.designs import Designs, chosen, present, strategies
from dse.app.state import State, landscape, start
from dse.errors import InfeasibleDesign, SpecError
from dse.explore import confidence
from dse.view import designs as views
from dse.view import theme
from dse.view.landscape import landscape as map_of
from dse.view.nearest import nearest

MEMORY = "cluster.node.accelerator.memory"


@pytest.fixture(scope="module")
def state() -> State:
    return start("llama2-7b", "dgx-h100", devices=16)


@pytest.fixture(scope="module")
def found(state: State) -> Designs:
    return strategies(state)


def trace(figure: Any, start: str) -> Any:
    return next(each for each in figure.data if (each.name or "").startswith(start))


def rows_of(each: Any) -> np.ndarray:
    return np.array([int(row) for row in each.ids])


# -- the front ----------------------------------------------------------------------------------------------------


def test_points_are_rows_of_the_table(found: Designs) -> None:
    """Every point lies where its row says, in the unit of the axis; kinds are apart and none is lost."""
    figure = views.front(found)
    meta = figure.layout.meta
    assert (meta["x"], meta["y"]) == found.objectives
    table, seen = found.table, []
    for name, kind in (("infeasible", ~table["feasible"]), ("dominated", table["feasible"] & ~table["on_front"]),
                       ("on the front", table["on_front"])):  # fmt: skip
        each = trace(figure, name)
        rows = rows_of(each)
        assert kind[rows].all() and len(rows) == kind.sum()
        np.testing.assert_allclose(np.asarray(each.x) * meta["x_scale"], table[meta["x"]][rows])
        np.testing.assert_allclose(np.asarray(each.y) * meta["y_scale"], table[meta["y"]][rows])
        seen += rows.tolist()
    assert sorted(seen) == list(range(len(table)))


def test_hover_holds_the_whole_design(found: Designs) -> None:
    """Each field and quantity of the row, and why it is infeasible."""
    each = trace(views.front(found), "infeasible")
    row, data = found.table.iloc[rows_of(each)[0]], list(each.customdata[0])
    text = each.hovertemplate
    for index, value in enumerate(data):
        text = text.replace(f"%{{customdata[{index}]}}", value)
    assert "%{" not in text
    for name in ("tp", "pp", "micro_batch", "zero_stage", "recompute", "dp"):
        assert f"{name}={str(row[name]).lower()}" in text
    assert row["reasons"].split(" ")[0] in text
    assert f"MFU: {row['mfu']:.4g}" in text and "tokens/s" in text


def test_whiskers_are_the_intervals(found: Designs) -> None:
    figure = views.front(found)
    bars, scale = trace(figure, "90 % interval"), figure.layout.meta["x_scale"]
    row = found.table[found.table["on_front"]].sort_values("step_time [s]").iloc[0]
    best = int(np.argmin(bars.x))
    assert (bars.x[best] + bars.error_x.array[best]) * scale == pytest.approx(row["step_time high [s]"])
    assert (bars.x[best] - bars.error_x.arrayminus[best]) * scale == pytest.approx(row["step_time low [s]"])
    assert bars.error_y.array is None


def test_the_present_design_has_a_ring(state: State, found: Designs) -> None:
    """Where its quantities say, or the row with its fields; none where neither is known."""
    row = present(state, found)
    scale = views.front(found).layout.meta["x_scale"]
    for now in (row, {name: row[name] for name in found.variables}):
        ring = trace(views.front(found, now=now), "this design")
        assert ring.x[0] * scale == pytest.approx(state.result.number("step_time"))
    names = [each.name for each in views.front(found, now={"tp": 3}).data]
    assert "this design" not in names


def test_selected_points_stand_out(found: Designs) -> None:
    """They are a trace of their own over the faded rest."""
    mask = chosen(found, {"tp": (2, 4)})
    figure = views.front(found, selected=mask, dark=True)
    picked = rows_of(trace(figure, "selected"))
    wanted = np.flatnonzero(mask & found.table["feasible"] & ~found.table["on_front"])
    np.testing.assert_array_equal(picked, wanted)
    assert trace(figure, "dominated").opacity < 1
    colours = trace(figure, "on the front").marker.color
    rows = rows_of(trace(figure, "on the front"))
    np.testing.assert_array_equal([c == theme.SPARE[1] for c in colours], mask[rows])


def test_large_tables_are_sampled(found: Designs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The front is whole, the rest an even sample, and the legend says so."""
    monkeypatch.setattr(views, "DRAWN", 120)
    figure = views.front(found)
    assert sum(len(each.ids) for each in figure.data if each.ids is not None) <= 120
    assert len(trace(figure, "on the front").ids) == found.table["on_front"].sum()
    assert " of " in trace(figure, "dominated").name


def test_any_columns_can_be_the_axes(found: Designs) -> None:
    figure = views.front(found, "dp", "mfu")
    assert (figure.layout.meta["x"], figure.layout.meta["y"]) == ("dp", "mfu")
    assert trace(figure, "on the front").mode == "markers"  # steps would mean nothing here
    for wrong in ("thyme", "recompute", "feasible"):
        with pytest.raises(SpecError):
            views.front(found, wrong)


# -- lines --------------------------------------------------------------------------------------------------------


def test_lines_can_be_turned_back_into_values(found: Designs) -> None:
    """The description of each axis gives the column's own values."""
    figure = views.parallel(found, share=1.0)
    table = found.table[found.table["feasible"]].sort_values(found.objectives[0], kind="stable")
    described = figure.layout.meta["dimensions"]
    for axis, meta in zip(figure.data[0].dimensions, described, strict=True):
        values = np.asarray(axis["values"], dtype=float)
        if meta["values"] is not None:
            back = [meta["values"][int(code)] for code in values]
            assert back == table[meta["column"]].tolist()
        else:
            back = meta["scale"] * (10**values if meta["log"] else values)
            np.testing.assert_allclose(back, table[meta["column"]].to_numpy(float), rtol=1e-9)


def test_lines_show_what_varies_and_the_objectives_last(found: Designs) -> None:
    """At most eight columns, none with a single value; what is selected changes none of them."""
    shown = [d["column"] for d in views.parallel(found).layout.meta["dimensions"]]
    assert len(shown) <= 8 and tuple(shown[-2:]) == found.objectives
    good = found.table[found.table["feasible"]]
    assert all(good[name].nunique() > 1 for name in shown)
    mask = chosen(found, {"recompute": {"values": ["full"]}})
    again = views.parallel(found, selected=mask).layout.meta["dimensions"]
    assert [d["column"] for d in again] == shown
    fixed = Designs(found.table.assign(tp=2), found.variables, found.objectives, found.less, {})
    assert "tp" not in [d["column"] for d in views.parallel(fixed).layout.meta["dimensions"]]


def test_ranges_of_lines_can_end_between_ticks(found: Designs) -> None:
    """A measure has many ticks without a visible text, each text different; few values keep theirs."""
    for axis, meta in zip(views.parallel(found).data[0].dimensions, views.parallel(found).layout.meta["dimensions"],
                          strict=True):  # fmt: skip
        assert len(set(axis.ticktext)) == len(axis.tickvals)
        seen = [text for text in axis.ticktext if text.strip("\N{ZERO WIDTH SPACE}\N{ZERO WIDTH NON-JOINER}")]
        assert 1 < len(seen) <= 10
        assert (len(axis.tickvals) > 100) == (meta["column"] in found.objectives)


@pytest.mark.parametrize("dark", [False, True])
def test_the_best_lines_lie_on_top_and_stand_out(found: Designs, *, dark: bool) -> None:
    """Plotly draws higher colours over lower ones: the best has the highest, of either kind of objective."""
    figure = views.parallel(found, dark=dark)
    line, scale = figure.data[0].line, figure.layout.meta["dimensions"][-2]["scale"]
    assert line.reversescale == (not dark)  # the scale rises from dark to bright
    least = found.table[found.objectives[0]][found.table["feasible"]].min()
    assert -scale * float(np.max(line.color)) == pytest.approx(least)
    assert [-t for t in line.colorbar.tickvals] == pytest.approx([float(t) for t in line.colorbar.ticktext], rel=1e-3)
    objectives = ("tokens_per_s [1/s]", found.objectives[1])
    more = Designs(found.table, found.variables, objectives, (False, True), {})
    line = views.parallel(more, dark=dark).data[0].line
    assert float(np.max(line.color)) == found.table["tokens_per_s [1/s]"][found.table["feasible"]].max()


def test_many_points_are_all_drawn_on_one_layer(found: Designs, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the graphics processor draws lies over what is not drawn there: the front would be hidden."""
    assert {each.type for each in views.front(found).data} == {"scatter"}
    monkeypatch.setattr(views, "SHADER", 10)
    row = found.table.iloc[int(np.flatnonzero(found.table["on_front"])[0])].to_dict()
    figure = views.front(found, now=row)
    assert {each.type for each in figure.data} == {"scattergl"} and trace(figure, "this design")
    type(figure)(figure.to_dict())  # Plotly accepts every property


def test_selected_lines_are_drawn_last(found: Designs) -> None:
    """Of two colours the selected have the second; without a selection the first objective colours."""
    assert views.parallel(found).data[0].line.showscale
    mask = chosen(found, {"recompute": {"values": ["full"]}})
    line = views.parallel(found, selected=mask).data[0].line
    colours = np.asarray(line.color)
    assert (np.diff(colours) >= 0).all() and colours.sum() == (mask & found.table["feasible"]).sum()
    nothing = Designs(found.table[~found.table["feasible"]], found.variables, found.objectives, found.less, {})
    with pytest.raises(InfeasibleDesign):
        views.parallel(nothing)


# -- landscapes ---------------------------------------------------------------------------------------------------


def cells(figure: Any) -> np.ndarray:
    return np.asarray(next(each for each in figure.data if each.colorbar.tickvals is not None).z, dtype=float)


def test_cells_are_designs(state: State) -> None:
    """Colours where a design is feasible, grey elsewhere, in the unit of the bar."""
    result = landscape(state, f"{MEMORY}.capacity", "strategy.tp", points=24)
    x, y = (b.name for b in result.axes)
    figure = map_of(result, "step_time", x, y)
    good = result["feasible"].transpose(y, x).values
    time = result["step_time"].broadcast_like(result["feasible"]).transpose(y, x).values
    drawn = cells(figure)
    np.testing.assert_array_equal(np.isfinite(drawn), good)
    assert good.any() and not good.all()
    factor = theme.axis_scale(time[good], "s")[0]
    np.testing.assert_allclose(drawn[good] * factor, time[good], rtol=1e-6)
    grey = np.sum([np.isfinite(np.asarray(e.z, dtype=float)) for e in figure.data
                   if e.type == "heatmap" and not e.showscale and e.showscale is not None], axis=0)  # fmt: skip
    np.testing.assert_array_equal(grey, ~good)


def test_reasons_say_what_is_missing(state: State) -> None:
    """Hovering a design that does not fit says by how much."""
    result = landscape(state, f"{MEMORY}.capacity", "strategy.tp", points=24)
    x, y = (b.name for b in result.axes)
    grey = [e for e in map_of(result, "step_time", x, y).data if "overflows" in (e.hovertemplate or "")]
    margins = result["memory_fits"].broadcast_like(result["feasible"]).transpose(y, x).values
    for each in grey:
        there = np.isfinite(np.asarray(each.z, dtype=float))
        np.testing.assert_allclose(np.asarray(each.customdata)[there] * 1e9, -margins[there], rtol=1e-6)
    assert grey and all("{" not in e.hovertemplate.replace("%{", "") for e in grey)


def test_the_star_is_the_best_of_all(state: State) -> None:
    """Also where its cell is not drawn; more is better of a rate."""
    result = landscape(state, f"{MEMORY}.bandwidth", "cluster.network.inter.bandwidth", points=200)
    x, y = (b.name for b in result.axes)
    for quantity, best in (("step_time", "min"), ("mfu", "max")):
        figure = map_of(result, quantity, x, y)
        meta, star = figure.layout.meta, trace(figure, "best")
        point = {n: float(a[0]) * s for n, a, s in ((x, star.x, meta["x_scale"]), (y, star.y, meta["y_scale"]))}
        values = result[quantity].where(result["feasible"])
        near = values.sel(point, method="nearest")
        assert float(near) == float(getattr(values, best)())
        assert np.asarray(figure.data[0].z).shape <= (90, 120)
    assert "centres" in figure.layout.title.subtitle.text and meta["designs"] == 40_000


def test_few_cells_hold_numbers_and_the_present_design_a_frame(state: State) -> None:
    result = landscape(state, "strategy.micro_batch", "strategy.tp")
    now = (state.get("micro_batch"), state.get("tp"))
    figure = map_of(result, "step_time", "micro_batch", "tp", now=now)
    texts = np.asarray(figure.data[-1].text)
    np.testing.assert_array_equal(texts != "", np.isfinite(np.asarray(figure.data[-1].z, dtype=float)))
    assert sum("★" in text for text in texts.ravel()) == 1
    names = [b.coordinates for b in result.axes]
    frame = figure.layout.shapes[0]
    assert (names[0][int(frame.x0 + 0.5)], names[1][int(frame.y0 + 0.5)]) == now


def test_logarithmic_colours_and_a_frame(state: State) -> None:
    result = landscape(state, f"{MEMORY}.bandwidth", f"{MEMORY}.capacity", points=30)
    x, y = (b.name for b in result.axes)
    now = (state.get(f"{MEMORY}.bandwidth"), state.get(f"{MEMORY}.capacity"))
    plain, log = (map_of(result, "step_time", x, y, log=flag, now=now, selected={x: (1e12, 4e12)}, dark=flag)
                  for flag in (False, True))  # fmt: skip
    kept = np.isfinite(cells(plain))
    np.testing.assert_allclose(10 ** cells(log)[kept], cells(plain)[kept], rtol=1e-5)
    [frame] = plain.layout.shapes
    scale = plain.layout.meta["x_scale"]
    assert (frame.x0 * scale, frame.x1 * scale, frame.yref) == (1e12, 4e12, "paper")
    ring = trace(plain, "this design")
    assert (ring.x[0] * scale, ring.y[0] * plain.layout.meta["y_scale"]) == pytest.approx(now)


def test_a_landscape_without_feasible_designs_says_so(state: State) -> None:
    tight = state.set(f"{MEMORY}.capacity", "1 GB")
    result = landscape(tight, f"{MEMORY}.bandwidth", "strategy.tp", points=24)
    figure = map_of(result, "step_time", *(b.name for b in result.axes))
    assert figure.layout.annotations[0].text == "no design is feasible"
    assert all(each.name != "best" for each in figure.data)


def test_a_landscape_needs_two_axes(state: State) -> None:
    result = dse.sweep("llama2-7b", "dgx-h100", "global_batch=16", dse.axis("tp", [1, 2]), dse.axis("pp", [1, 2]),
                       dse.axis("micro_batch", [1, 2]), devices=16)  # fmt: skip
    for x, y in (("tp", "pp"), ("tp", "tp"), ("tp", "dp")):
        with pytest.raises(SpecError):
            map_of(result, "step_time", x, y)
    assert map_of(result.sel(micro_batch=[1]), "step_time", "tp", "pp").data


# -- measured runs ------------------------------------------------------------------------------------------------


def test_the_nearest_runs_are_those_of_the_result(state: State) -> None:
    """Throughput of each run and the design's own with its interval, the errors on hover."""
    figure = nearest(state.result, 4)
    runs = state.result.nearest(4)
    per = state.result.number("devices")
    ends = state.result.interval(quantity="tokens_per_s")
    rate = runs["tokens"] / runs["devices"]
    np.testing.assert_allclose(trace(figure, "measured").x, rate / runs["measured [s]"])
    np.testing.assert_allclose(trace(figure, "predicted").x, rate / runs["predicted [s]"])
    assert figure.layout.xaxis.title.text == "Throughput [tokens/s per device]"
    own = figure.data[-1]
    assert own.x[0] == pytest.approx(state.result.number("tokens_per_s") / per)
    assert own.x[0] - own.error_x.arrayminus[0] == pytest.approx(ends.low / per)
    assert own.x[0] + own.error_x.array[0] == pytest.approx(ends.high / per)
    text = trace(figure, "measured").customdata[0]
    assert str(runs["source"][0]) in text and f"{runs['error_held_out'][0]:+.1%}" in text
    with pytest.raises(SpecError):
        nearest(landscape(state, "strategy.tp", "strategy.micro_batch"))


def test_tokens_of_a_step_are_those_of_the_measured_table(state: State) -> None:
    """Over time and devices they are the published throughput; a run of another table has none."""
    from dse.accuracy.corpus import measured
    from dse.accuracy.uncertainty import _tokens, corpus_runs

    runs = state.result.nearest(20)
    published = measured("training").set_index("id")["tokens_per_s_per_gpu"][runs["id"]].to_numpy(float)
    np.testing.assert_allclose(runs["tokens"] / runs["measured [s]"] / runs["devices"], published, rtol=1e-4)
    every = corpus_runs()
    assert np.isfinite(_tokens(every)).all()
    for other in (every.assign(measured=2 * every["measured"]), every.assign(id="mine"), every.assign(devices=3)):
        assert np.isnan(_tokens(other)).all()


def test_runs_without_a_batch_are_compared_by_time(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = state.result.nearest(3).assign(tokens=float("nan"))
    monkeypatch.setattr(dse.Result, "nearest", lambda self, count=5: runs)
    figure = nearest(state.result)
    assert figure.layout.xaxis.title.text == "Step time [s]"
    np.testing.assert_allclose(trace(figure, "measured").x, runs["measured [s]"])
    assert figure.data[-1].x[0] == pytest.approx(state.result.number("step_time"))
    assert "nan" not in "".join(trace(figure, "measured").customdata)
    monkeypatch.setattr(confidence, "nearest", lambda result, count=3: runs)
    assert [record["tokens"] for record in confidence.nearest_records(state.result)] == [None] * 3


def test_without_runs_the_figure_says_so(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(self: Any, count: int = 5) -> Any:
        raise SpecError([dse.errors.Fault("calibration", "", "has no table of runs beside it")])

    monkeypatch.setattr(dse.Result, "nearest", none)
    figure = nearest(state.result)
    assert "no table of runs" in figure.layout.annotations[0].text
    json.loads(figure.to_json())
