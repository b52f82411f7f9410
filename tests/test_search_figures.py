"""Figures of searches, sensitivity and inverse design: what they show is in the tables, and they say what they show."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dse
from dse.explore.require import require
from dse.explore.search.variables import coupling, span
from dse.explore.sensitivity import Factor, bottlenecks, discover, elasticities, morris, shadow_prices, sobol, tornado
from dse.units import engineering
from dse.view import require as views_require
from dse.view import search as views_search
from dse.view import sensitivity as views
from dse.view import theme
from dse.view.priced import values

INTER, MEMORY = "cluster.network.inter.bandwidth", "cluster.memory.bandwidth"
PLAN = "tp=2,pp=2,micro_batch=1,global_batch=64,zero_stage=1"
OPTIONS = {"pp": [1, 2], "tp": [1, 2, 4], "micro_batch": [1, 2], "virtual_stages": [1], "recompute": ["none", "full"]}
FACTORS = [
    Factor(MEMORY, "1 TB/s", "4 TB/s", log=True),
    Factor(INTER, "5 GB/s", "100 GB/s", log=True),
    Factor("recompute", values=("none", "full")),
]


@pytest.fixture(scope="module")
def found():
    """A front of more than 40 designs; the budget excludes some."""
    return dse.search(
        "gpt-1.7b", "dgx-a100",
        [dse.axis("cluster.devices", [8, 16, 32]), span(INTER, "12.5 GB/s", "100 GB/s", steps=9),
         span("cluster.memory.capacity", "40 GB", "160 GB", steps=3), span(MEMORY, "1 TB/s", "4 TB/s", steps=8)],
        global_batch=64, objective=["tokens_per_s", "capital"], budget="capital <= 900 kUSD", options=OPTIONS,
        couplings=[coupling("cluster.accelerator.price", "cluster.memory.capacity", "12 USD/GB"),
                   coupling("cluster.accelerator.price", MEMORY, "2 USD/(GB/s)"),
                   coupling("cluster.network.inter.price", INTER, "50 USD/(GB/s)")],
        cache=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def design():
    return dse.estimate("gpt-1.7b", "dgx-a100", PLAN, devices=16)


def _named(figure, start):
    return next(trace for trace in figure.data if (trace.name or "").startswith(start))


# -- searches -----------------------------------------------------------------------------------------------------


def test_a_long_front_has_some_faint_intervals_and_says_so(found):
    """Of many points 25 have their whiskers, from the first to the last; they are those of the designs."""
    figure = views_search.front(found)
    rows = found.front.sort_values("tokens_per_s [1/s]")
    assert len(rows) > views_search.ALL_WHISKERS
    bars, points = _named(figure, "90 % interval"), _named(figure, "on the front")
    assert len(bars.x) == views_search.SOME_WHISKERS and len(points.x) == len(rows)
    assert (bars.x[0], bars.x[-1]) == (points.x[0], points.x[-1]) and set(bars.x) <= set(points.x)
    assert bars.error_x.color.startswith("rgba") and bars.error_y.array is None
    ends = found.design(int(rows.index[0])).interval(0.9, "tokens_per_s")
    assert bars.x[0] + bars.error_x.array[0] == pytest.approx(ends.high, rel=1e-4)
    assert bars.x[0] - bars.error_x.arrayminus[0] == pytest.approx(ends.low, rel=1e-4)


def test_a_short_front_has_all_intervals(found, monkeypatch):
    monkeypatch.setattr(views_search, "ALL_WHISKERS", 1000)
    figure = views_search.front(found)
    assert len(_named(figure, "90 % interval").x) == len(found.front)


def test_rows_priced_together_are_as_alone(found):
    """Hardware and strategies as arrays give the numbers of each design, also of infeasible ones."""
    rows = [row for row, (_, _, place) in enumerate(found.rows) if place is not None]
    wanted = [o.value for o in found.problem.objectives] + [lambda e: e["memory_bytes"]]
    together = values(found, rows, *wanted)
    assert any(not found.table["feasible"][row] for row in rows)
    for place in np.linspace(0, len(rows) - 1, 12).astype(int):
        alone = found.design(rows[place]).cells[0].evaluation
        assert [column[place] for column in together] == pytest.approx([float(f(alone)) for f in wanted], rel=1e-12)


def test_many_dominated_designs_are_sampled(found, monkeypatch):
    every = _named(views_search.front(found), "dominated")
    monkeypatch.setattr(views_search, "DOMINATED_SHOWN", 50)
    some = _named(views_search.front(found), "dominated")
    assert len(some.x) == len(some.customdata) == 50
    assert some.name == f"dominated (50 of {len(every.x):,})" and set(some.x) <= set(every.x)


def test_the_front_names_its_design_its_units_and_its_budget(found):
    figure = views_search.front(found)
    layout = figure.layout
    assert layout.title.text == "Capital against throughput"
    assert layout.title.subtitle.text == "GPT 1.7B on NVIDIA DGX A100 SuperPOD; capital ≤ $900k"
    assert layout.xaxis.title.text == "Throughput [tokens/s]" and layout.yaxis.title.text == "Capital [USD]"
    line = layout.shapes[0]
    assert line.y0 == line.y1 == 900e3 and line.line.dash == "dash"
    label = layout.annotations[0]
    assert label.text == "budget $900k"
    assert label.y == pytest.approx(np.log10(900e3) if layout.yaxis.type == "log" else 900e3)
    assert views_search.front(found, title="Mine", dark=True).layout.title.text == "Mine"
    assert all("tokens/s" in text for text in _named(figure, "on the front").customdata)


def test_a_budget_far_from_all_designs_is_not_drawn(found):
    far = tuple(dataclasses.replace(c, value=100 * c.value) for c in found.problem.constraints)
    loose = dataclasses.replace(found, problem=dataclasses.replace(found.problem, constraints=far))
    assert not views_search.front(loose).layout.shapes


def test_devices_colour_the_front_in_steps(found):
    """Each count has a colour of its own, named beside the bar."""
    trace = _named(views_search.front(found), "on the front")
    counts = found.front.sort_values("tokens_per_s [1/s]")["devices"].to_numpy()
    levels = np.unique(counts)
    assert len(levels) > 1
    assert list(trace.marker.colorbar.ticktext) == [f"{n}" for n in levels]
    assert levels[np.asarray(trace.marker.color, int)].tolist() == counts.tolist()
    smooth = _named(views_search.front(found, colour="tokens_per_s"), "on the front")
    assert len(smooth.marker.colorscale) == 11 and smooth.marker.colorbar.ticktext is None


def test_parallel_headers_are_short_and_ticks_few(found):
    """At most three lines, the unit in the last; ticks lie within the drawn values."""
    figure = views_search.parallel(found)
    trace = figure.data[0]
    assert len(trace.dimensions) == 6 and figure.layout.title.text
    for dimension in trace.dimensions:
        lines = dimension.label.split("<br>")
        assert len(lines) <= 3 and max(map(len, lines)) <= views_search.PARALLEL // 6
        low, high = min(dimension["values"]), max(dimension["values"])
        room = 0.01 * (high - low) + 1e-9
        assert 1 <= len(dimension.tickvals) <= 8 and len(dimension.tickvals) == len(dimension.ticktext)
        assert low - room - 0.01 <= min(dimension.tickvals) and max(dimension.tickvals) <= high + room + 0.01
    assert trace.dimensions[1].label == "Inter-node bandwidth<br>[GB/s]"


# -- sensitivity --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "analysis"),
    [
        ("tornado", tornado),
        ("elasticity", elasticities),
        ("shadow", shadow_prices),
        ("sobol", lambda d: sobol(d, FACTORS, samples=16)),
        ("morris", lambda d: morris(d, FACTORS, trajectories=8)),
        ("discover", lambda d: discover(d, "mfu >= 0.25", FACTORS, samples=64)),
        ("bottleneck", bottlenecks),
    ],
)
def test_every_figure_says_what_it_shows_and_of_which_design(kind, analysis, design):
    """A title of its own, the design below it; a title that is given stays."""
    answer = analysis(design)
    title = getattr(views, kind)(answer, design=design).layout.title
    assert len(title.text) > 10
    assert title.subtitle.text == "GPT 1.7B on 16 devices of NVIDIA DGX A100 SuperPOD"
    plain = getattr(views, kind)(answer, title="Mine", dark=True)
    assert plain.layout.title.text == "Mine" and plain.layout.title.subtitle.text is None and plain.data


def test_resources_are_compared_by_one_per_cent(design):
    """On hover stands the elasticity of the step time: the priced step is small against the resource."""
    prices = shadow_prices(design)
    figure = views.shadow(prices)
    [worth] = figure.data
    table = prices.table[prices.table["worth [USD]"] > 0].set_index("path")
    np.testing.assert_allclose(worth.x, table["worth [USD]"])
    assert figure.layout.xaxis.title.text == "Worth [USD per device] and time saved"
    place = list(table.index).index(MEMORY)
    local = elasticities(design, [MEMORY]).table["elasticity"][0]
    share = float(worth.customdata[place].rpartition("saves ")[2].partition(" %")[0])
    assert share == pytest.approx(-local, rel=0.05)
    assert theme.short(table["saved [s]"][MEMORY], "s") in worth.text[place]
    assert worth.y[place] == "memory bandwidth, +1 GB/s" and max(map(len, worth.y)) <= 34


def test_a_rented_resource_is_priced_by_the_hour():
    """A rate that a device may cost more."""
    rented = dse.estimate("gpt-1.7b", {"base": "dgx-a100", "facility": {"pricing": "rent"}, "node": {"accelerator": {
        "price_per_hour": "2 USD/h"}}}, PLAN, devices=16)  # fmt: skip
    prices = shadow_prices(rented)
    [bar] = views.shadow(prices).data
    assert prices.worth_unit == "USD/s"
    kept = prices.table[prices.table["worth [USD/s]"] > 0]
    np.testing.assert_allclose(bar.x, 3600 * kept["worth [USD/s]"])
    assert all("/h</b>" in text for text in bar.text)


def test_rows_are_named_in_words_and_all_of_them(design):
    """No path, no two alike, none left out."""
    for figure in (views.tornado(tornado(design)), views.elasticity(elasticities(design))):
        names = list(dict.fromkeys(figure.data[0].y))
        assert len(set(names)) == len(names) > 10
        assert not [name for name in names if "." in name.replace("comm.", "") or "_" in name]
        assert {"BF16 matrix peak", "matrix efficiency"} <= set(names)
        assert figure.layout.yaxis.dtick == 1
    assert len(views.tornado(tornado(design), top=7).data[0].y) == 7
    assert views._named(["cluster.a.bandwidth", "cluster.b.a.bandwidth", "tp"])[:2] == ["a.bandwidth", "b.a.bandwidth"]


def test_the_regions_of_a_box_are_drawn_to_scale(design):
    """Each bar starts and ends where the limit lies in the range, on its logarithm where the range is wide."""
    ranges = {MEMORY: (1e12, 4e12), INTER: (5e9, 100e9), "recompute": ("none", "full")}
    answer = discover(design, "mfu >= 0.25", FACTORS, samples=512)
    limits = [limit for box in answer.boxes for limit in box.limits]
    assert limits
    figure = views.discover(answer, ranges=ranges)
    back, *bars = [trace for trace in figure.data if trace.type == "bar"]
    assert len(back.y) == len(bars) == len(limits)
    for limit, bar in zip(limits, bars, strict=True):
        if limit.members:
            assert list(bar.x) == [0.5] * len(limit.members)
            continue
        low, high = ranges[limit.name]
        scale = np.log if high > 4 * low else float
        first = 0.0 if limit.low is None else (scale(limit.low) - scale(low)) / (scale(high) - scale(low))
        last = 1.0 if limit.high is None else (scale(limit.high) - scale(low)) / (scale(high) - scale(low))
        if last - first > 0.02:
            assert (bar.base[0], bar.base[0] + bar.x[0]) == pytest.approx((first, last))
    plain = views.discover(dataclasses.replace(answer, ranges={}))
    assert not [trace for trace in plain.data if trace.type == "bar"]


def test_a_space_knows_its_own_ranges():
    """The axes of a result are the ranges of its boxes."""
    axes = [dse.axis(MEMORY, [0.5e12, 1e12, 2e12, 3e12, 4e12]), dse.axis(INTER, [5e9, 10e9, 20e9, 50e9, 100e9])]
    space = dse.sweep("gpt-1.7b", "dgx-a100", PLAN, *axes, devices=16)
    median = float(np.median(space["mfu"].values))
    answer = discover(space, f"mfu >= {median}", among="all")
    limits = [limit for box in answer.boxes for limit in box.limits]
    figure = views.discover(answer, design=space)
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert limits and len(bars) == 1 + len(limits)


def test_hovering_explains_what_a_resource_is_worth_alone(design):
    parts = bottlenecks(design)
    texts = views.bottleneck(parts).data[0].customdata
    speeds = parts.table.set_index("resource")["speed-up"]
    assert "of the step" in texts[0]
    for text, rung in zip(texts[1:], parts.ladder["resource"], strict=True):
        for name in rung.split(" with "):
            assert (f"speed-up {speeds[name]:.3f}" in text) == (speeds[name] < 1.0005)


# -- inverse design -----------------------------------------------------------------------------------------------


def test_iso_curves_mark_the_ends_of_the_range():
    """Where nothing in the ranges misses the target, no area says so, and open marks tell that the limit is beyond."""
    given = {"devices": 16, "points": 9, "low": ("5 GB/s", "1 TB/s"), "high": ("100 GB/s", "4 TB/s")}
    easy = require("mfu >= 0.05", [INTER, MEMORY], "gpt-1.7b", "dgx-a100", PLAN, **given)
    assert easy.at_end.all()
    figure = views_require.iso_curve(easy)
    assert "misses the target" not in {trace.name for trace in figure.data}
    assert set(_named(figure, "target just met").marker.symbol) == {"circle-open"}
    assert "every value" in figure.layout.annotations[0].text
    assert figure.layout.xaxis.title.text == "Memory bandwidth [TB/s]"
    assert figure.layout.yaxis.title.text == "Inter-node bandwidth [GB/s]"
    assert figure.layout.title.text == "Inter-node bandwidth against memory bandwidth for MFU ≥ 0.05"
    assert figure.layout.title.subtitle.text == "GPT 1.7B on 16 devices of NVIDIA DGX A100 SuperPOD"


def test_the_response_names_its_target_and_design():
    answer = require("mfu >= 0.3", INTER, "gpt-1.7b", "dgx-a100", PLAN, devices=16, points=17)
    layout = views_require.response(answer).layout
    assert layout.title.text == "The least inter-node bandwidth for MFU ≥ 0.3"
    assert "16 devices" in layout.title.subtitle.text


# -- the theme ----------------------------------------------------------------------------------------------------


def test_large_numbers_are_written_short():
    texts = [theme.tick(value) for value in (0.2, 5.0, 2000.0, 2e4, 2e5, 2e7, 1e9, 0.0)]
    assert texts == ["0.2", "5", "2000", "20k", "200k", "20M", "1B", "0"]
    assert theme.log_ticks([1e5, 4e6])["ticktext"][:4] == ["100k", "200k", "500k", "1M"]
    assert [theme.compact(v, "USD") for v in (80e6, 12.5, -3e6)] == ["$80M", "$12.5", "-$3M"]
    assert theme.compact(208_477, "tokens/s") == "208k tokens/s" and theme.compact(5e10, "B/s") == "50 GB/s"
    assert theme.counted("tokens_per_s", "per second", dse.load_model("dlrm-1.2t")) == "samples/s"
    assert theme.words("cluster.accelerator.matrix.bf16") == "BF16 matrix peak"


@given(st.floats(1.0, 999.4), st.integers(-2, 12))
def test_short_numbers_keep_three_digits(digits, power):
    """Read back, they are within half a unit of the third digit."""
    value = digits * 10.0**power
    text = theme.compact(value)
    scale = {"k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}.get(text[-1], 1.0)
    assert float(text.rstrip("kMBT")) * scale == pytest.approx(value, rel=0.005 + 1e-9)
    assert "e" not in text or value >= 1e15 or value < 1e-4


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(4, 9))
def test_round_ticks_lie_within_their_ends(low, length, most):
    """Between one and ``most`` of them, evenly apart."""
    ticks = theme.linear_ticks(low, low + length, most)
    room = 1e-6 * (abs(low) + length)
    assert 1 <= len(ticks) <= most
    assert low - room <= ticks[0] and ticks[-1] <= low + length + room
    assert len(ticks) < 3 or np.allclose(np.diff(ticks), ticks[1] - ticks[0], rtol=1e-3)
    assert engineering(ticks[0], "1")
