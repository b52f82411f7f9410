"""Figures of XR runs and scores: valid, not empty, the same numbers as the tables, light and dark."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from dse.domains.xr.corrected import CORRECTED, PUBLISHED, Comparison, compare
from dse.domains.xr.explain import misses
from dse.domains.xr.layer_validate import validate_layers
from dse.domains.xr.runtime import OWN, run, simulate
from dse.domains.xr.scored import Scored, scored
from dse.domains.xr.tables_designs import listed
from dse.errors import SpecError
from dse.view import theme, xr, xr_scores


@cache
def single():
    return run("AR_gaming", "8K-J")


@cache
def some() -> Scored:
    return scored(["VR_gaming", "outdoor_activity_B"], listed(["8K-A", "8K-F", "8K-M"]), seeds=range(1, 6))


@cache
def compared() -> Comparison:
    return compare([PUBLISHED, CORRECTED], systems_=listed(["8K"]), scenarios=["VR_gaming"], seeds=[1, 2])


@cache
def tried() -> pd.DataFrame:
    """Designs as a search tells of them."""
    rows = {"pes": 4096, "parts": [1, 2, 4], "split": "even", "dataflows": ["WS", "WS+OS", "RS"], "noc": 256, "l2": 2**22,
            "noc_split": "even", "policy": "edf", "score": [0.5, 0.7, 0.6], "missed": 0.1, "energy": [0.1, 0.2, 0.3],
            "power": 2.0, "area": [4e-6, 6e-6, 9e-6], "published": 0.4, "feasible": [True, True, False],
            "on_front": [True, True, False]}  # fmt: skip
    return pd.DataFrame(rows)


@cache
def traced():
    return simulate("VR_gaming", listed(["8K-F", "8K-M"]), conditions=OWN, width=5e-3)


DRAW = {
    "gantt": lambda dark: xr.gantt(single(), dark=dark),
    "gantt-preempted": lambda dark: xr.gantt(run("AR_gaming", "8K-J", policy_="edf-preempt"), end=0.2, dark=dark),
    "causes": lambda dark: xr.causes(misses(single()), dark=dark),
    "power": lambda dark: xr.power(traced(), dark=dark),
    "breakdown": lambda dark: xr_scores.breakdown(some().by_scenario(), dark=dark),
    "ranking": lambda dark: xr_scores.ranking(compared().table(), PUBLISHED, CORRECTED, dark=dark),
    "seeds": lambda dark: xr_scores.seeds(some().seeds, dark=dark),
    "parity": lambda dark: xr_scores.parity(validate_layers().table, dark=dark),
    "search": lambda dark: xr_scores.search_front(tried(), dark=dark),
}


@pytest.mark.parametrize("name", DRAW)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_figures_are_valid_and_not_empty(name, dark):
    figure = DRAW[name](dark)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        go.Figure(figure.to_dict())  # checks every property
    assert figure.data and figure.layout.paper_bgcolor in (None, theme.paper(dark))
    assert "NaN" not in str(figure.layout.title.text) and "nan" not in str([t.customdata for t in figure.data]).lower()


def test_a_gantt_shows_every_stretch_and_every_drop():
    """Bars as long as parts were busy; marks for dropped frames; late bars are those of late frames."""
    from dse.domains.xr.runtime import stretches, timeline

    figure, frames = xr.gantt(single()), timeline(single())
    bars = [trace for trace in figure.data if trace.type == "bar"]
    busy = stretches(single())
    assert sum(np.sum(t.x) for t in bars) == pytest.approx((busy["end_ms"] - busy["start_ms"]).sum())
    assert sum(len(t.x) for t in bars if t.name.endswith("late")) == (frames["outcome"] == "late").sum() > 0
    marks = [trace for trace in figure.data if trace.type == "scatter"]
    assert sum(len(t.x) for t in marks) == (frames["outcome"] == "dropped").sum() > 0
    assert all("due at" in words for t in marks for words in t.customdata)


def test_bars_on_a_part_never_overlap():
    figure = xr.gantt(run("AR_gaming", "8K-J", policy_="dynamic"))
    rows = pd.DataFrame(
        [(y, b, b + x) for t in figure.data if t.type == "bar" for y, b, x in zip(t.y, t.base, t.x, strict=True)]
    )
    for _, part in rows.sort_values([0, 1]).groupby(0):
        assert (part[1].to_numpy()[1:] >= part[2].to_numpy()[:-1] - 1e-9).all()


def test_causes_count_all_misses():
    lost = misses(single())
    figure = xr.causes(lost)
    assert sum(np.sum(trace.y) for trace in figure.data) == len(lost)


def test_a_ranking_ends_at_the_ranks_of_the_table():
    figure, table = xr_scores.ranking(compared().table(), PUBLISHED, CORRECTED), compared().table()
    for place, effect in enumerate((PUBLISHED, CORRECTED)):
        means = table[table["effect"] == effect].set_index("system")["mean"]
        order = sorted(figure.data, key=lambda trace: trace.y[place])
        assert [means[trace.name] for trace in order] == sorted(means, reverse=True)


def test_seeds_say_how_often_each_is_the_best():
    figure = xr_scores.seeds(some().seeds)
    told = {t.x[0]: t.text[0] for t in figure.data if t.type == "scatter"}
    best = some().compared.table().set_index("system")["p_best"]
    assert {name: f"{share:.0%}" if share else "" for name, share in best.items()} == told


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda: xr.gantt(traced()), "must be a single run"),
        (lambda: xr.gantt(single(), start=2.0, end=1.0), "must be above the start"),
        (lambda: xr_scores.ranking(compared().table(), "luck", CORRECTED), "must be one of as published"),
        (lambda: xr_scores.parity(validate_layers().table, "colour"), "must be one of latency, energy"),
        (lambda: xr_scores.search_front(tried(), "colour"), "must be one of score"),
    ],
)
def test_what_cannot_be_drawn_is_said(draw, said):
    with pytest.raises(SpecError, match=said):
        draw()
