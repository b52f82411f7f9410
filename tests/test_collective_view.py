"""Figures of collectives: what they are computed from, and what they show."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from dse.collective.bounds import bound
from dse.collective.library import LIBRARY
from dse.collective.merge import merged
from dse.collective.text import parse
from dse.view import collective as views
from dse.view.collective_played import animation
from dse.view.collective_times import against_size, ratios, spread
from dse.view.graph import curves, places
from dse.view.progress import completed, trips, use

SHAPES = (
    "ring:7", "line:5", "mesh:3x4", "torus:4x4", "torus:3x3x3", "hypercube:32", "fully_connected:9", "switch:6",
    "dragonfly:4x4", "rails:3x4", "fat_tree:4x4", "dgx1", "dgx_h100:2", "random_regular:16", "wafer:10x10", "rfs3d:2x4x2",
)  # fmt: skip
MIB = 2.0**20


def made(network: str, collective: str = "all_reduce", algorithm: str = "ring", size: float = MIB):
    return LIBRARY[algorithm](parse(network), collective, size)


# -- what is drawn ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bins", [1, 7, 240])
@pytest.mark.parametrize("together", [False, True])
def test_use_of_links_is_the_time_they_are_busy(bins, together):
    schedule = made("torus:3x3,bandwidths=50GiB/s:100GiB/s", algorithm="direct", size=4096.0)
    schedule = merged(schedule) if together else schedule
    assert (schedule.message is not None) == together
    found = trips(schedule)
    busy = np.bincount(found.link, found.end - found.start, minlength=schedule.topology.links)
    shares = use(schedule, bins)
    assert shares.shape == (schedule.topology.links, bins)
    assert shares.min() >= -1e-9 and shares.max() <= 1 + 1e-9
    np.testing.assert_allclose(shares.mean(1) * schedule.time, busy, rtol=1e-9, atol=1e-15)
    # A link is busy in a stretch for as long as its messages overlap it.
    edges = np.linspace(0, schedule.time, bins + 1)
    of = int(found.link[0])
    mine = found.link == of
    overlap = [np.clip(np.minimum(found.end[mine], b) - np.maximum(found.start[mine], a), 0, None).sum()
               for a, b in pairwise(edges)]  # fmt: skip
    np.testing.assert_allclose(shares[of] * schedule.time / bins, overlap, atol=1e-9 * schedule.time)


def test_rows_of_several_links_are_means():
    schedule = made("ring:8")
    rows = np.arange(schedule.topology.links) // 4
    np.testing.assert_allclose(use(schedule, 5, rows), use(schedule, 5).reshape(-1, 4, 5).mean(1), atol=1e-12)


def test_messages_travel_once():
    schedule = merged(made("ring:4", "all_gather", "direct", 64.0))
    found = trips(schedule)
    assert found.chunks.sum() == schedule.transfers and len(found.link) < schedule.transfers


@pytest.mark.parametrize("collective", ["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast"])
def test_what_npus_have_grows_to_all_of_it(collective):
    schedule = made("mesh:3x3", collective, "direct")
    have = completed(schedule, np.linspace(0, schedule.time, 20))
    assert (np.diff(have, axis=1) >= 0).all()
    np.testing.assert_allclose(have[:, -1], 1.0)
    first = {"all_gather": 1 / 9, "broadcast": 0.0}.get(collective, 0.0)
    assert np.nanmin(have[:, 0]) == pytest.approx(first)


def test_only_the_root_of_a_reduction_gets_something():
    schedule = LIBRARY["double_binary_tree"](parse("ring:6"), "reduce", MIB, root=2)
    have = completed(schedule, np.array([schedule.time]))[:, 0]
    assert have[2] == 1 and np.isnan(np.delete(have, 2)).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_every_node_has_a_place_of_its_own(shape):
    topology = parse(shape)
    at = places(topology)
    assert at.shape == (topology.nodes, 2) and np.isfinite(at).all()
    apart = np.hypot(*(at[:, None] - at[None]).transpose(2, 0, 1)) + 9 * np.eye(len(at))
    assert apart.min() > 1e-3
    np.testing.assert_array_equal(at, places(parse(shape)))
    points = curves(topology, at)
    assert points.shape[0] == topology.links
    np.testing.assert_allclose(points[:, 0], at[topology.src], atol=1e-12)
    np.testing.assert_allclose(points[:, -1], at[topology.dst], atol=1e-12)


def test_only_links_around_an_edge_are_drawn_in_two_parts():
    around = np.isnan(curves(parse("torus:4x5"), places(parse("torus:4x5")))).any((1, 2))
    assert around.sum() == 2 * (4 + 5)
    for shape in ("mesh:4x5", "rfs3d:2x4x2", "fully_connected:9", "ring:6", "torus:2x2"):
        assert not np.isnan(curves(parse(shape), places(parse(shape)))).any()


# -- figures ------------------------------------------------------------------------------------------------------


def named(figure, name):
    return [trace for trace in figure.data if trace.name == name]


def curves_in(trace) -> int:
    """Links in a trace: each ends with a gap."""
    return int(np.isnan(np.asarray(trace.x, float)).sum())


@pytest.mark.parametrize("dark", [False, True])
def test_failed_links_and_npus_are_shown(dark):
    healthy = parse("mesh:4x4")
    broken = parse("mesh:4x4,fail=3,fail_npus=1,seed=2")
    figure = views.network(broken, healthy=healthy, dark=dark)
    assert curves_in(named(figure, "failed")[0]) == healthy.links - broken.links
    assert list(named(figure, "failed NPU")[0].customdata) == [f"failed NPU {broken.failed[0]}"]
    assert len(named(figure, "NPU")[0].x) == 15
    assert not named(views.network(healthy), "failed")


def test_fast_links_are_thicker():
    figure = views.network(parse("wafer:10x10"))
    widths = {trace.line.width: curves_in(trace) for trace in figure.data if trace.mode == "lines"}
    assert len(widths) == 2
    assert widths[max(widths)] == 320 and widths[min(widths)] == 40  # 360 links, 40 of them between reticles


def test_a_heat_map_shows_the_use_of_each_link():
    schedule = made("ring:8", algorithm="ring")
    figure = views.FIGURES["heat"](schedule)
    marks = next(trace for trace in figure.data if trace.marker.showscale or trace.marker.colorbar.title.text)
    np.testing.assert_allclose(marks.marker.color, use(schedule)[:, 0])
    assert "50%" in figure.layout.title.subtitle.text  # one of the two directions


def test_the_cut_is_highlighted():
    topology = parse("mesh:4x4")
    limit = bound(topology, "all_gather", MIB)
    figure = views.network(topology, bound=limit)
    assert curves_in(named(figure, "links that bound it")[0]) == len(limit.cut.link)
    colours = named(figure, "NPU")[0].marker.color
    assert len(set(colours)) == 2
    sides = [{i for i in range(16) if colours[i] == c} for c in set(colours)]
    assert {frozenset(side) for side in sides} == {frozenset(block) for block in limit.cut.blocks}


def test_the_gantt_chart_has_every_message_of_the_busiest_links():
    schedule = made("torus:3x3", algorithm="bidirectional_ring")
    figure = views.gantt(schedule, links=5)
    busiest = np.argsort(-use(schedule)[:, 0], kind="stable")[:5]
    assert sum(len(trace.x) for trace in figure.data) == np.isin(schedule.link, busiest).sum()
    widths = sum(np.sum(trace.x) for trace in figure.data)
    wanted = (schedule.end - schedule.start)[np.isin(schedule.link, busiest)].sum()
    unit = figure.layout.xaxis.title.text
    assert widths * {"Time [µs]": 1e-6, "Time [ms]": 1e-3}[unit] == pytest.approx(wanted)
    assert len(figure.layout.yaxis.ticktext) == 5


def test_many_messages_become_longer_bars(monkeypatch):
    schedule = made("ring:64", size=2.0**30)
    monkeypatch.setattr(views, "BARS", 100)
    figure = views.gantt(schedule)
    assert sum(len(trace.x) for trace in figure.data) == views.BUSIEST  # a link's messages follow each other
    ends = max(np.max(np.asarray(trace.base) + np.asarray(trace.x)) for trace in figure.data)
    assert ends == pytest.approx(schedule.time * 1e3)


def test_use_over_time_of_many_links_is_grouped():
    schedule = made("torus:16x16", "all_gather")
    figure = views.utilization(schedule, dark=True)
    z = np.asarray(figure.data[0].z)
    assert z.shape[0] == views.ROWS < schedule.topology.links
    assert z.max() <= 1 + 1e-9 and z.mean() == pytest.approx(use(schedule).mean(), rel=0.02)
    assert (np.diff(z.mean(1)) <= 1e-9).all()


def test_an_animation_ends_with_everything():
    schedule = made("ring:6", "all_gather")
    figure = animation(schedule, frames=13)
    assert len(figure.frames) == len(figure.layout.sliders[0].steps) == 13
    shares = np.array([frame.data[2].marker.color for frame in figure.frames], float)
    np.testing.assert_allclose(shares[-1], 1.0)
    assert (np.diff(shares, axis=0) >= 0).all()
    busy = [curves_in(frame.data[0]) if frame.data[0].x[0] is not None else 0 for frame in figure.frames]
    assert busy[0] == 6 and busy[-1] == 0  # one way round
    assert animation(made("torus:8x8"), frames=3).frames[0].data[1].x is not None


def test_time_against_size_has_the_bound_and_the_ratios():
    rows = [{"size": s, "algorithm": a, "time": f * s / 1e9, "bound": s / 1e9}
            for s in (2.0**10, 2.0**30) for a, f in (("ring", 2.0), ("synthesized", 1.25))]  # fmt: skip
    figure = against_size(rows)
    lines = {trace.name: trace for trace in figure.data}
    assert list(lines) == ["bound", "synthesized", "ring"]
    np.testing.assert_allclose(np.asarray(lines["ring"].y) / lines["bound"].y, 2.0)
    assert "1.25 times the bound" in lines["synthesized"].customdata[0]
    assert list(figure.layout.xaxis.ticktext) == ["1 KiB", "1 GiB"]


def test_ratios_are_cut_and_labelled():
    rows = [{"network": "a", "algorithm": "ring", "ratio": 9.0}, {"network": "b", "algorithm": "synthesized", "ratio": 1.1},
            {"network": "b", "algorithm": "synthesized", "ratio": 1.3}]  # fmt: skip
    figure = ratios(rows, most=4.0)
    bars = {trace.name: trace for trace in figure.data}
    assert bars["ring"].y[0] == 4.0 and bars["ring"].text[0] == "9.00"
    assert np.isnan(bars["synthesized"].y[0]) and bars["synthesized"].text[1] == "1.10"


def test_a_spread_shows_quantiles():
    samples = np.linspace(1, 2, 101)
    figure = spread({"ring": {0.0: samples, 0.1: 2 * samples}})
    band, line = figure.data
    np.testing.assert_allclose(line.y, [1.5, 3.0])
    np.testing.assert_allclose(band.y, [1.95, 3.9, 2.1, 1.05])


def test_the_command_line_has_these_figures():
    assert set(views.FIGURES) == {"network", "heat", "utilization", "gantt", "animation"}
    schedule = made("rails:2x2")
    for draw in views.FIGURES.values():
        assert draw(schedule).data
