"""``dse continuum`` from a shell, its figures, and the tables of its study."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import typer
from typer.testing import CliRunner

from dse.domains.continuum import tables, tables_plans
from dse.domains.continuum.breakeven import break_even
from dse.domains.continuum.cli import app
from dse.domains.continuum.ensemble import Members, split
from dse.domains.continuum.placement import Placement, Plan, place, plan
from dse.domains.continuum.queueing import simulate
from dse.domains.continuum.scaling import load_scaling
from dse.errors import DseError, SpecError
from dse.view import continuum as views
from dse.view import continuum_scaling as scaling

DARK = pytest.mark.parametrize("dark", [False, True])


@pytest.fixture(scope="module")
def found() -> Plan:
    return plan("smoke-camera")


@pytest.fixture(scope="module")
def best(found: Plan) -> Placement:
    return found.best("time_to_insight")


def call(*arguments: str) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def told(*arguments: str) -> Any:
    done = call(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.output)


def checked(figure: go.Figure) -> dict[str, Any]:
    """As plain data; every property is one that Plotly knows, and no text names what is not there."""
    data = figure.to_dict()
    go.Figure(data)
    assert not {"nan", "None", "inf"} & set(str(data["layout"]["title"]).replace(",", " ").split())
    return decoded(data)


def decoded(value: Any) -> Any:
    """Arrays as arrays, which Plotly writes as text."""
    if isinstance(value, dict) and "bdata" in value:
        flat = np.frombuffer(base64.b64decode(value["bdata"]), value["dtype"])
        return flat.reshape([int(n) for n in value["shape"].split(",")]) if "shape" in value else flat
    if isinstance(value, dict):
        return {key: decoded(item) for key, item in value.items()}
    return [decoded(item) for item in value] if isinstance(value, list | tuple) else value


# -- commands -----------------------------------------------------------------------------------------------


def test_plan_tells_the_front_and_one_design(found: Plan, tmp_path: Path) -> None:
    out = tmp_path / "front.csv"
    answer = told("plan", "--out", out, "--figure", tmp_path / "graph.html")
    assert len(answer["designs"]) == len(found) == len(out.read_text().splitlines()) - 1
    assert answer["best"]["time_to_insight"] == min(d["time_to_insight"] for d in answer["designs"])
    assert (tmp_path / "graph.html").stat().st_size > 1000
    shown = call("plan", "--best", "2").output
    assert f"{len(found)} designs" in shown and "refresh" in shown


def test_fixed_stages_stay_and_never_help() -> None:
    free, kept = told("plan"), told("plan", "--fix", "detect=blade", "--fix", "refresh=campus")
    assert kept["best"]["choices"]["detect"]["tier"] == "blade"
    assert {row["refresh.tier"] for row in kept["designs"]} == {"campus"}
    assert kept["best"]["time_to_insight"] >= free["best"]["time_to_insight"]


def test_limits_hold_and_take_no_more_than_they_must(found: Plan) -> None:
    one = found[len(found) // 2].metrics
    power, fidelity = one["node_power"], one["fidelity"]
    answer = told("plan", "--limit", f"node_power <= {power!r} W", "--limit", f"fidelity >= {fidelity!r}")["best"]
    assert answer["node_power"] <= power * (1 + 1e-9) and answer["fidelity"] >= fidelity * (1 - 1e-9)
    assert answer["feasible"] and answer["time_to_insight"] <= one["time_to_insight"] * (1 + 1e-9)


def test_played_items_come_with_the_plan() -> None:
    answer = told("plan", "--play", "300", "--passes", "detect=0.5", "--seed", "1")
    rows = {row["stage"]: row for row in answer["played"]}
    assert rows["camera"]["runs"] == 300 and 0 < rows["fuse"]["runs"] < 300
    assert "in line" in call("plan", "--play", "20").output


def test_break_even_is_where_the_link_carries_the_frames() -> None:
    """A compressed frame every cadence on each uplink, at the share of its time that may be used."""
    (flip,) = told("break-even")["flips"]
    design = plan("smoke-camera").best("time_to_insight")
    frame, cadence = 1920 * 1080 * 3 / 40, design.choices["camera"]["cadence"]
    link = next(k for k in design.problem.links if k.id == "uplink")
    usable = design.problem.max_utilisation * link.availability
    assert (flip["from"], flip["to"]) == ("node", "blade")
    assert flip["rate"] == pytest.approx(frame / cadence / usable, rel=1e-6)
    assert "blade from" in call("break-even", "--passes", "0.001,1").output


def test_scale_gives_intervals_costs_and_sizes(tmp_path: Path) -> None:
    answer = told("scale", "Frontier", "Perlmutter-CPU", "--nodes", "1024,2048", "--price", "2", "--target", "100",
                  "--figure", tmp_path / "scale.html")  # fmt: skip
    rows = [row for row in answer["rows"] if row["machine"] == "Frontier"]
    assert all(row["low"] < row["rate"] < row["high"] for row in rows)
    assert all(row["dollars"] == pytest.approx(2 * row["node_hours"]) for row in rows)
    assert rows[0]["node_hours"] == pytest.approx(365 * 24 * 1024 / rows[0]["rate"])
    assert answer["fewest"]["Frontier"]["median"] <= answer["fewest"]["Frontier"]["sure"]
    assert all("not enough data" in row["reason"] for row in answer["rows"] if row["machine"] == "Perlmutter-CPU")
    alone = call("scale", "Perlmutter-CPU")
    assert alone.exit_code == 1 and "not enough data" in alone.output
    assert "outside the sizes that were run" in call("scale", "Summit", "--target", "100").output


def test_stream_and_ensemble() -> None:
    assert told("stream", "1.05 TB")["needed_rate"] * 8 == pytest.approx(97.22e6, rel=1e-4)
    failing = told("stream", "1.05 TB", "--link", "200 Mbit/s", "--availability", "0.95")
    assert failing["buffer"] > 0 and failing["delay"] > 0
    assert "buffer" in call("stream", "1 TB", "--link", "200 Mbit/s", "--availability", "0.9").output
    rows = told("ensemble", "300", "50000", "--bias", "0.1")
    assert [row["estimator"] for row in rows] == ["emulator", "both"]
    assert "physics alone" in call("ensemble", "300").output


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (("plan", "nowhere"), "smoke-camera"),
        (("plan", "--fix", "detect"), "STAGE=TIER"),
        (("plan", "--fix", "detect=moon"), "node, blade"),
        (("plan", "--limit", "dollars >= 3"), "dollars <= VALUE"),
        (("plan", "--limit", "time_to_insight <= 1 W"), "W"),
        (("plan", "--objective", "beauty"), "some of"),
        (("plan", "--best", "99"), "1 to"),
        (("plan", "--figure", "x.html", "--kind", "played"), "1 or more"),
        (("plan", "--link-rate", "uplink"), "NAME=VALUE"),
        (("plan", "--out", "x.txt"), ".csv"),
        (("break-even", "--rates", "5 Mbit/s"), "two"),
        (("break-even", "--passes", "2"), "at most 1"),
        (("scale", "Frontier", "--family", "wrf"), "scream"),
        (("scale", "Frontier", "--nodes", "99999"), "9408"),
        (("scale", "Frontier", "--price", "-1"), "0 to 1e9"),
        (("stream", "1 kg"), "kg"),
        (("ensemble", "300", "--statistic", "mode"), "mean or spread"),
    ],
)
def test_wrong_input_says_what_is_allowed(arguments: tuple[str, ...], rule: str) -> None:
    done = call(*arguments)
    assert isinstance(done.exception, SpecError) and rule in str(done.exception), done.exception


def test_no_design_is_an_answer() -> None:
    done = call("plan", "--limit", "time_to_insight <= 1 s")
    assert isinstance(done.exception, DseError) and "no design" in str(done.exception)


def test_commands_attach() -> None:
    main = typer.Typer()
    from dse.domains.continuum.cli import attach

    attach(main)
    assert [group.name for group in main.registered_groups] == ["continuum"]


# -- figures ------------------------------------------------------------------------------------------------


@DARK
def test_placement_shows_each_stage_on_its_tier(best: Placement, dark: bool) -> None:
    data = checked(views.placement(best, dark=dark))
    lanes = data["layout"]["yaxis"]["ticktext"]
    drawn = {
        text: lanes[int(y)].partition(" ")[0]
        for trace in data["data"] if trace["mode"] == "markers+text"
        for text, y in zip(trace["text"], trace["y"], strict=True)
    }  # fmt: skip
    assert drawn == {f"<b>{name}</b>": choice["tier"] for name, choice in best.choices.items()}
    edges = sum(len(stage.after) for stage in best.problem.stages)
    assert sum(trace["mode"] == "lines" for trace in data["data"]) == edges


def test_a_placement_that_breaks_rules_says_so() -> None:
    tight = place("smoke-camera", {"detect": "blade"}, link_rate={"uplink": 1e4})
    assert not tight.feasible and "breaks rules" in views.summary(tight)
    checked(views.placement(tight))


@DARK
def test_front_shows_every_design(found: Plan, dark: bool) -> None:
    data = checked(views.front(found, "traffic", "node_hours", by="detect", dark=dark))
    assert sum(len(trace["x"]) for trace in data["data"]) == len(found)
    assert {trace["name"] for trace in data["data"]} == {"detect at node", "detect at blade"}
    for wrong in ({"x": "beauty"}, {"by": "nobody"}):
        with pytest.raises(SpecError, match="must be one of"):
            views.front(found, **wrong)


@DARK
def test_break_even_has_lines_or_a_map(dark: bool) -> None:
    rates = np.geomspace(1e4, 1e8, 13).tolist()
    lines = checked(views.break_even(break_even("smoke-camera", "detect", "uplink", rates=rates), dark=dark))
    assert len(lines["layout"]["shapes"]) == 1 and lines["data"][1]["y"][0] is None
    found = break_even("smoke-camera", "detect", "uplink", rates=rates, passes=[0.001, 1.0])
    heat = checked(views.break_even(found, dark=dark))["data"][0]
    assert (np.asarray(heat["z"])[1] == 2).any() and not (np.asarray(heat["z"])[0] == 2).any()


@DARK
def test_played_stages_are_those_that_ran(best: Placement, dark: bool) -> None:
    run = simulate(place("smoke-camera", best.choices, passes={"detect": 0.5}), 200)
    data = checked(views.played(run, dark=dark))
    table = run.table()
    assert len(data["data"][0]["x"]) == (table["runs"] > 0).sum()
    np.testing.assert_allclose(data["data"][0]["y"], table.loc[table["runs"] > 0, "mean"])


@DARK
def test_ensemble_names_where_the_best_changes(dark: bool) -> None:
    members = Members(physics_cost=250, emulator_cost=1, correlation=0.9, bias=0.1)
    data = checked(views.ensemble(split(members, np.geomspace(100, 1e5, 20)), dark=dark))
    assert [trace["name"] for trace in data["data"]] == ["physics", "emulator", "both"]
    assert "both from" in data["layout"]["title"]["subtitle"]["text"]
    with pytest.raises(SpecError, match="two or more"):
        views.ensemble(split(members, 100.0))


@DARK
def test_forecasts_say_where_data_do_not_suffice(dark: bool) -> None:
    model = load_scaling("scream")
    both = [model.forecast(name, [512, 1024, 2048]) for name in ("Frontier", "Perlmutter-CPU")]
    data = checked(scaling.forecasts(both, model.runs, target=150, dark=dark))
    assert "Perlmutter-CPU: not enough data" in data["layout"]["title"]["subtitle"]["text"]
    assert not any("Perlmutter-CPU" in str(trace.get("name")) for trace in data["data"])
    line = next(trace for trace in data["data"] if trace.get("name") == "Frontier")
    np.testing.assert_allclose(line["y"], both[0].rate)
    with pytest.raises(SpecError, match="not enough data"):
        scaling.forecasts(both[1:])


@DARK
def test_shares_are_of_the_whole(dark: bool) -> None:
    data = checked(scaling.shares(load_scaling("scream"), "Summit", [256, 1024, 4096], dark=dark))
    np.testing.assert_allclose(sum(np.asarray(trace["y"]) for trace in data["data"]), 100)


# -- tables of the study ------------------------------------------------------------------------------------


def silent(_: str) -> None: ...


def test_runs_left_out_are_held_against_common_curves() -> None:
    made = tables.HeldOut().table(silent).rows.set_index(["machine", "sizes", "by"])
    assert made.loc[("all", "largest", "model"), "error"] < made.loc[("all", "largest", "ideal"), "error"] / 5
    frame = tables.held_out("scream")
    checked(scaling.held_out(frame))
    assert frame.loc[frame["reason"] == "", "ape"].median() == pytest.approx(made.loc[("all", "all", "model"), "error"])
    with pytest.raises(SpecError, match="no run"):
        scaling.held_out(frame[frame["reason"] != ""])
    with pytest.raises(SpecError, match="scream, homme"):
        tables.held_out("wrf")


def test_forecasts_cover_runs_and_whole_machines() -> None:
    rows = tables.Forecasts(machines=("Summit", "Perlmutter-CPU")).table(silent).rows
    summit = rows[rows["machine"] == "Summit"]
    assert summit["nodes"].is_monotonic_increasing and summit["nodes"].max() == 4608
    assert (summit["answered"] == 1).all() and (rows.loc[rows["machine"] != "Summit", "answered"] == 0).all()
    near = summit.dropna(subset="measured")
    assert ((near["low"] < near["measured"]) & (near["measured"] < near["high"])).all()


def test_the_front_names_what_designs_are_best_in(found: Plan) -> None:
    rows = tables_plans.Front().table(silent).rows
    assert len(rows) == len(found)
    assert rows.loc[rows["best"].str.contains("time_to_insight"), "time_to_insight"].tolist() == [
        rows["time_to_insight"].min()
    ]
    assert tables_plans.words(found[0], "detect") == f"detect at {found[0].choices['detect']['tier']}"


def test_archive_growth_needs_97_megabits() -> None:
    rows = tables_plans.Archive().table(silent).rows.set_index("years")
    assert rows.loc["2016 to 2022", "needed"] * 8 == pytest.approx(97e6, rel=0.005)
    with pytest.raises(SpecError, match="no published anchor"):
        tables_plans.Archive(years=(2016, 2017)).table(silent)


def test_waiting_grows_with_load_and_with_chance() -> None:
    choices = {"camera": {"cadence": 5}, "compress": {"reduction": 40}, "detect": "blade", "refresh": "campus"}
    rows = tables_plans.Waiting(choices=choices, rates=("300 kbit/s", "10 Mbit/s"), items=2000).table(silent).rows
    slow, fast = rows[rows["rate"] < 1e5].set_index("arrivals"), rows[rows["rate"] > 1e5].set_index("arrivals")
    assert slow.loc["poisson", "mean"] > 1.2 * slow.loc["periodic", "mean"]
    assert fast.loc["poisson", "mean"] == pytest.approx(fast.loc["periodic", "unloaded"], rel=0.05)
    assert slow["busy"].iloc[0] == pytest.approx(slow["load"].iloc[0] * 8 / 300e3)


def test_other_tables_hold_together() -> None:
    flips = tables_plans.BreakEvens(of="flips", passes=(0.001, 1.0)).table(silent).rows
    sides = tables_plans.BreakEvens(passes=(0.001,), rates=(1e4, 1e7)).table(silent).rows
    assert sides["side"].tolist() == [0.0, 1.0] and (flips["after"] == "blade").any()
    streams = tables_plans.Streams().table(silent).rows
    up = streams["availability"] == 1
    assert (streams.loc[up, "buffer"] == 0).all() and (streams.loc[~up, "buffer"] > 0).all()
    both = (
        tables_plans.Ensembles()
        .table(silent)
        .rows.pivot_table(index=["budget", "correlation"], columns="by", values="error")
    )
    np.testing.assert_allclose(both["split"], both[["physics", "emulator", "both"]].min(axis=1))
    stages = tables_plans.Stages().table(silent).rows
    assert set(stages["objective"]) == {"time_to_insight", "traffic", "node_power"}
    assert 0.5 <= tables.Emulators().table(silent).rows["ratio"].iloc[0] <= 2
    assert (tables.Parts(machines=("Summit",), nodes=(1024,)).table(silent).rows["seconds"] > 0).all()


def test_more_tracers_gain_more_of_semi_lagrangian_transport() -> None:
    rows = tables.Algorithms(timers=("main_loop",)).table(silent).rows
    gain = rows.groupby("tracers")["predicted"].mean()
    assert 1 < gain["10 tracers"] < gain["40 tracers"]
    assert rows["error"].median() < 0.05
