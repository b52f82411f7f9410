"""Figures of sparse matrix engines, and the tables of studies that they draw."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
from test_views import check, strings

from dse.domains.tables import Table
from dse.domains.vegeta import roofline
from dse.domains.vegeta.cover import pack
from dse.domains.vegeta.engine import load_engine
from dse.domains.vegeta.prune import random
from dse.domains.vegeta.tables import GEOMEAN, MEAN, Geometry, Sensitivity, Speedup, Unstructured, native
from dse.domains.vegeta.tables_spaces import Crossover, DesignSpace, Granularity
from dse.domains.vegeta.timing import simulate, time_gemm
from dse.domains.vegeta.workloads import layers
from dse.errors import SpecError
from dse.view import theme, vegeta, vegeta_studies

HEADLINE, BASELINE = "vegeta-s-16-2-of", "vegeta-d-1-2"
FEW = ("resnet50-3", "gpt-1")
MAKERS = {
    "geometry": Geometry(),
    "speedup": Speedup(engines=(BASELINE, "vegeta-stc-like", HEADLINE), layers=FEW),
    "sensitivity": Sensitivity(knobs={"core.load_lines": (0.5, 2.0), "kernel.accumulators": (2,)}),
    "unstructured": Unstructured(sparsities=(0.5, 0.9), layers=FEW),
    "granularity": Granularity(kinds=("random", "block"), sparsities=(0.8, 0.95)),
    "crossover": Crossover(sparsities=(0.5, 0.8, 0.95), areas=(1.0, 2.0, 6.0)),
    "designs": DesignSpace(layers=FEW, alpha=(1, 16), beta=(1, 2), accumulators=(3,), density=(1.0, 0.5)),
}


@cache
def table(name: str) -> Table:
    return MAKERS[name].table(lambda line: None)


def at(name: str, column: str, **where) -> float:
    rows = table(name).rows
    [value] = rows[np.logical_and.reduce([rows[key] == v for key, v in where.items()])][column]
    return float(value)


# -- tables -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKERS)
def test_tables_have_keys_units_and_numbers(name):
    """Each row is told from the others by its keys; units are of columns; numbers are finite where they must be."""
    found = table(name)
    assert set(found.keys) | set(found.units) | set(found.titles) <= set(found.rows)
    assert not found.rows.duplicated(list(found.keys)).any()
    for column in ("speedup", "time", "ratio", "counted"):
        if column in found.rows:
            values = found.rows[column].to_numpy(float)
            assert np.isfinite(values).all() and (values > 0).all(), column


def test_speedups_are_ratios_of_times_and_their_means():
    dense = {x.name: time_gemm(x.m, x.n, x.k, load_engine(BASELINE)).seconds for x in layers() if x.name in FEW}
    gains = [at("speedup", "speedup", engine=HEADLINE, layer=name, pattern="2:4") for name in FEW]
    times = [at("speedup", "time", engine=HEADLINE, layer=name, pattern="2:4") for name in FEW]
    assert gains == pytest.approx([dense[name] / t for name, t in zip(FEW, times, strict=True)])
    where = {"engine": HEADLINE, "pattern": "2:4"}
    assert at("speedup", "speedup", layer=GEOMEAN, **where) == pytest.approx(np.sqrt(np.prod(gains)))
    assert at("speedup", "speedup", layer=MEAN, **where) == pytest.approx(np.mean(gains))
    assert at("speedup", "time", layer=MEAN, **where) == pytest.approx(sum(times))


def test_engines_run_the_sparsest_pattern_that_holds_what_is_asked_for():
    rows = table("speedup").rows.drop_duplicates(["engine", "pattern"]).set_index(["engine", "pattern"])["runs"]
    assert [rows[BASELINE, p] for p in ("4:4", "2:4", "1:4")] == ["4:4"] * 3
    assert rows["vegeta-stc-like", "1:4"] == "2:4" and rows[HEADLINE, "1:4"] == "1:4"
    eight = load_engine("example-s-16-2-m8")
    assert native(eight, "1:4") == 2, "two blocks of four with one each are a block of eight with two"
    assert native(load_engine(HEADLINE), "2:8") == 2, "both may meet in one block of four"
    with pytest.raises(SpecError, match="multiple of"):
        native(eight, "1:3")


def test_row_wise_tables_agree_with_the_packer():
    """What is counted is tiles; the time is that of the packed program."""
    x = next(layer for layer in layers() if layer.name == "gpt-1")
    place = [layer.name for layer in layers() if layer.name in FEW].index("gpt-1")
    cover = pack(random(x.m, x.k, 0.9, seed=place), load_engine(HEADLINE), order="panel")
    assert at("unstructured", "counted", layer="gpt-1", sparsity=0.9, order="panel") == pytest.approx(cover.speedup)
    from dse.domains.vegeta.kernels import row_wise_program

    timing = simulate(row_wise_program(cover, x.n, load_engine(HEADLINE))[0], load_engine(HEADLINE))
    assert at("unstructured", "time", layer="gpt-1", sparsity=0.9, order="panel") == pytest.approx(timing.seconds)


def test_granularities_are_ordered_and_packing_follows_the_closed_form():
    for source in ("closed form", "random", "block"):
        for sparsity in (0.8, 0.95) if source != "closed form" else (0.8, 0.9):
            where = {"source": source, "sparsity": sparsity}
            gains = [at("granularity", "speedup", granularity=g, **where)
                     for g in ("network", "layer", "tile", "pseudo-row", "row")]  # fmt: skip
            assert (np.diff(gains) >= -0.005 * gains[-1]).all(), (source, sparsity, gains)
    packed = at("granularity", "speedup", source="random", granularity="row", sparsity=0.95)
    assert packed == pytest.approx(at("granularity", "speedup", source="closed form", granularity="row", sparsity=0.95),
                                   rel=0.01)  # fmt: skip


def test_the_best_designs_are_beaten_by_none():
    rows = table("designs").rows
    for _, part in rows.groupby("density"):
        best, others = part[part["best"] == 1], part[part["best"] == 0]
        assert len(best)
        for time, area in best[["time", "area"]].to_numpy():
            assert not ((part["time"] < time) & (part["area"] < area)).any()
        for time, area in others[["time", "area"]].to_numpy():
            assert ((best["time"] <= time) & (best["area"] <= area)).any()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layers": ["bert-9"]}, "must be one of resnet50-1"),
        ({"patterns": ["5:4"]}, "N:M"),
        ({"engines": ["vegeta-s-3-2"]}, "vegeta-s-"),
        ({"engine": "vegeta-d-1-1"}, "unknown key"),
    ],
)
def test_wrong_settings_are_named(settings, words):
    with pytest.raises(SpecError, match=words):
        Speedup.parse(settings).table(lambda line: None)


# -- figures ------------------------------------------------------------------------------------------------------


@cache
def timings():
    return {name: time_gemm(16, 16, 512, load_engine(name)) for name in (BASELINE, "vegeta-s-16-2", HEADLINE)}


def sparse():
    a = random(90, 200, 0.9, seed=3)
    return pack(a, load_engine(HEADLINE), order="matrix"), a


def shown(name: str, **where) -> pd.DataFrame:
    rows = table(name).rows
    return rows[np.logical_and.reduce([rows[key] == v for key, v in where.items()])]


DRAW = {
    "vegeta.pipeline": lambda d: vegeta.pipeline(timings(), first=1, count=6, dark=d),
    "vegeta.tile": lambda d: vegeta.tile(np.eye(4, 8), [1, 1, 2, 4], dark=d),
    "vegeta.packed": lambda d: vegeta.packed(*sparse(), 2, dark=d),
    "vegeta_studies.speedups": lambda d: vegeta_studies.speedups(shown("speedup", engine=HEADLINE), dark=d),
    "vegeta_studies.granularity": lambda d: vegeta_studies.granularity(
        table("granularity").rows, published={0.9: 2.36}, dark=d
    ),
    "vegeta_studies.designs": lambda d: vegeta_studies.designs(
        shown("designs", density=0.5), by="forwarding", name="design", units=table("designs").units, dark=d
    ),
    "vegeta_studies.sensitivity": lambda d: vegeta_studies.sensitivity(
        table("sensitivity").rows, {"4:4": 1.09, "1:4": 3.74}, dark=d
    ),
    "vegeta_studies.roofline": lambda d: vegeta_studies.roofline(
        roofline.roofs(load_engine(HEADLINE)),
        roofline.points(load_engine(HEADLINE), [x for x in layers() if x.name in FEW]),
        bandwidth=roofline.BANDWIDTH,
        dark=d,
    ),
    "vegeta_studies.crossover": lambda d: vegeta_studies.crossover(table("crossover").rows, dark=d),
}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", DRAW)
def test_every_figure(name, dark):
    figure = DRAW[name](dark)
    check(figure)
    assert figure.layout.template.layout.paper_bgcolor == theme.paper(dark)
    assert figure.layout.title.text


def test_every_figure_is_drawn_here():
    from test_views import public

    assert {name for name in public() if name.startswith("vegeta")} == set(DRAW)


def bars(figure, axis, stage):
    [trace] = [t for t in figure.data if t.yaxis == axis and stage in t.name]
    return np.asarray(trace.base, float), np.asarray(trace.x, float), np.asarray(trace.y)


@pytest.mark.parametrize(
    ("place", "engine", "apart"), [("y", BASELINE, 48), ("y2", "vegeta-s-16-2", 33), ("y3", HEADLINE, 17)]
)
def test_the_pipeline_chart_shows_the_stages_and_waits(place, engine, apart):
    """Dependent instructions start FF as far apart as the engine's geometry says; waits fill what is between two FF."""
    figure, e = DRAW["vegeta.pipeline"](False), load_engine(engine)
    start, length, rows = bars(figure, place, "(FF)")
    assert (np.diff(start) == apart).all() and (length == e.ff).all() and list(rows) == [1, 2, 3, 4, 5, 6]
    for stage, cycles in (("(WL)", e.wl), ("(FS)", e.fs), ("(DR)", e.dr)):
        assert (bars(figure, place, stage)[1] == cycles).all()
    since, gap, late = bars(figure, place, "wait")
    ends = np.concatenate([[start[0] - (apart - e.ff)], start[:-1] + e.ff])
    np.testing.assert_allclose(since, np.maximum(ends, 0)[np.isin(rows, late)])
    np.testing.assert_allclose(since + gap, start[np.isin(rows, late)])
    assert any("an earlier instruction adds to it" in text for text in strings(figure.to_dict()["data"]))
    names = [t.name for t in figure.data if t.showlegend]
    assert len(names) == len(set(names)) == 5


def test_a_timing_alone_and_wrong_places():
    one = vegeta.pipeline(timings()[HEADLINE])
    assert "VEGETA-S-16-2" in one.layout.annotations[0].text
    for wrong in (-1, 16):
        with pytest.raises(SpecError, match="must be 0 to 15"):
            vegeta.pipeline(timings(), first=wrong)


def test_a_tile_shows_every_non_zero_twice_and_padding_once():
    """On the left where it is, on the right in its slot; slots are N of every block."""
    cover, a = sparse()
    figure = vegeta.packed(cover, a, 2)
    left, right = (np.asarray(trace.z, float) for trace in figure.data if trace.type == "heatmap")
    n = cover.n[2][cover.n[2] > 0]
    assert (left >= 2).sum() == (right >= 2).sum() > 0
    np.testing.assert_array_equal((~np.isnan(right)).sum(1), n * 16)
    slots = np.concatenate([row[: 16 * k] >= 2 for row, k in zip(right, n, strict=True)])
    np.testing.assert_array_equal(slots, cover.values[2][: len(slots)] != 0)
    rows = cover.rows[cover.group[2]][cover.n[2] > 0]
    first = int(cover.panel[2]) * 64
    np.testing.assert_array_equal(left[:, : a.shape[1] - first] >= 2, a[rows, first : first + 64] != 0)
    assert [str(row) for row in rows] == list(figure.data[0].y)


def test_tiles_that_do_not_hold_are_refused():
    with pytest.raises(SpecError, match="must be at least 2"):
        vegeta.tile(np.array([[1, 1, 0, 0]]), [1])
    with pytest.raises(SpecError, match="blocks of 4"):
        vegeta.tile(np.ones((2, 6)), [4, 4])
    with pytest.raises(SpecError, match="must be 0 to"):
        vegeta.packed(*sparse(), 99)


def test_means_come_last_and_bars_are_told_apart():
    figure = DRAW["vegeta_studies.speedups"](False)
    assert figure.layout.xaxis.categoryarray[-2:] == ("geometric mean", "arithmetic mean")
    with pytest.raises(SpecError, match="several rows"):
        vegeta_studies.speedups(table("speedup").rows)
    with pytest.raises(SpecError, match="is no column"):
        vegeta_studies.speedups(table("speedup").rows, along="color")


def test_designs_without_a_number_are_counted():
    rows = shown("designs", density=0.5).reset_index(drop=True)
    rows.loc[0, "area"] = np.nan
    figure = vegeta_studies.designs(rows, by="forwarding", name="design")
    assert "1 have no area" in figure.layout.title.subtitle.text
    with pytest.raises(SpecError, match="no design has both"):
        vegeta_studies.designs(rows.head(1), by="forwarding", name="design")
