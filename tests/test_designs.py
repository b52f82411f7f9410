"""The strategies around a design: all of them, once, with the front, its intervals, and reasons for the rest."""

from __future__ import annotations

import numpy as np
import pytest

import dse
from dse.app.blocks import fill
from dse.app.designs import Designs, chosen, from_search, present, strategies
from dse.app.state import State, landscape, start
from dse.errors import SpecError
from dse.explore.search.variables import span

CASES = {"dense": ("llama2-7b", "dgx-h100", 16), "moe": ("mixtral-8x7b", "dgx-h100", 16)}
FIELDS = ("pp", "tp", "micro_batch", "virtual_stages", "recompute", "zero_stage", "sequence_parallel")


@pytest.fixture(scope="module", params=CASES)
def state(request: pytest.FixtureRequest) -> State:
    """One state of each kind, with a bandwidth set by hand."""
    model, cluster, devices = CASES[request.param]
    opened = start(model, cluster, devices=devices)
    return opened.set("cluster.node.accelerator.memory.bandwidth", "2 TB/s")


@pytest.fixture(scope="module")
def found(state: State) -> Designs:
    return strategies(state)


def test_the_best_row_is_the_best_strategy(state: State, found: Designs) -> None:
    """The table's first row is what the search finds; all that are feasible and distinct are there."""
    best = state.best()
    assert found.table["step_time [s]"][0] == pytest.approx(best.number("step_time"), rel=1e-12)
    row = found.strategy(0)
    assert {name: row[name] for name in best.strategy if name in row} == {
        name: value for name, value in best.strategy.items() if name in row
    }
    assert found.counts["designs"] == best.counts["evaluated"]
    assert found.counts["feasible"] == best.counts["feasible"]
    assert found.counts["distinct"] == best.counts["distinct"] == found.table["feasible"].sum()
    assert found.counts["shown"] == len(found.table)


def test_rows_are_estimates(state: State, found: Designs) -> None:
    """Feasible and infeasible rows have the numbers, the verdict and the reasons of a design of their own."""
    table = found.table
    rows = [0, len(table) // 3, int(np.argmin(table["feasible"])), len(table) - 1]
    for number in rows:
        row = table.iloc[number]
        strategy = state.design.strategy.replace(**found.strategy(number))
        alone = State(*[dse.app.design.Design(state.design.model, state.design.cluster, state.design.devices, strategy,
                                              state.design.overrides)] * 2).result  # fmt: skip
        for name in ("step_time", "memory_bytes", "mfu", "tokens_per_s", "cost", "energy"):
            assert row[found.column(name)] == pytest.approx(alone.number(name), rel=1e-9), name
        assert row["feasible"] == alone.is_feasible
        assert row["reasons"] == "; ".join(reason["why"] for reason in alone.reasons())
        assert row["dp"] * row["tp"] * row["pp"] * strategy.cp == state.design.devices


def test_the_front_is_that_of_all_pairs(found: Designs) -> None:
    """No feasible row beats one on the front, and every other row is beaten by the one it names."""
    good = found.table[found.table["feasible"]]
    points = good[list(found.objectives)].to_numpy(float)
    better = np.all(points[:, None] <= points[None], axis=2) & np.any(points[:, None] < points[None], axis=2)
    beaten = better.any(axis=0)
    front = good["on_front"].to_numpy(bool)
    assert not (front & beaten).any() and front.any()
    same = {tuple(point) for point in points[front]}
    assert all(tuple(point) in same for point in points[~beaten])
    by = good["dominated_by"]
    assert by[front].isna().all() and by[~front].notna().all()
    winners = points[by[~front].to_numpy(int)]
    assert np.all(winners <= points[~front]) and front[by[~front].to_numpy(int)].all()
    assert not found.table.loc[~found.table["feasible"], "on_front"].any()


def test_intervals_are_those_of_the_designs(state: State, found: Designs) -> None:
    """On the front only, and as a single design has them."""
    table = found.table
    front = table["on_front"].to_numpy(bool)
    for name in ("step_time low [s]", "step_time high [s]"):
        np.testing.assert_array_equal(np.isfinite(table[name]), front)
    number = int(np.flatnonzero(front)[-1])
    alone = state.design.strategy.replace(**found.strategy(number))
    ends = dse.app.design.Design(state.design.model, state.design.cluster, state.design.devices, alone,
                                 state.design.overrides).result.interval()  # fmt: skip
    assert table["step_time low [s]"][number] == pytest.approx(ends.low, rel=1e-3)
    assert table["step_time high [s]"][number] == pytest.approx(ends.high, rel=1e-3)


def test_infeasible_rows_are_a_sample_with_reasons(state: State, found: Designs) -> None:
    """As many as asked for, each with a sentence; feasible rows have none."""
    bad = found.table[~found.table["feasible"]]
    assert 0 < len(bad) <= 300 and (bad["reasons"] != "").all()
    assert (found.table.loc[found.table["feasible"], "reasons"] == "").all()
    assert strategies(state, infeasible=0).table["feasible"].all()
    assert (~strategies(state, infeasible=7).table["feasible"]).sum() == 7
    assert not bad[list(FIELDS)].duplicated().any()


def test_locked_fields_are_held(state: State) -> None:
    """A locked field has one value in all rows, and is no variable."""
    held = strategies(state.set("tp", 2).lock("tp"))
    assert "tp" not in held.variables and held.fixed["tp"] == 2
    assert held.counts["designs"] < strategies(state).counts["designs"]
    assert held.strategy(0)["tp"] == 2


def test_other_objectives(state: State) -> None:
    """More is better of a rate: the first row has the most, and the front rises and falls accordingly."""
    found = strategies(state, objectives=("tokens_per_s", "energy"))
    good = found.table[found.table["feasible"]]
    assert found.less == (False, True)
    assert good["tokens_per_s [1/s]"].iloc[0] == good["tokens_per_s [1/s]"].max()
    front = good[good["on_front"]].sort_values("tokens_per_s [1/s]")
    assert (np.diff(front["energy [J]"]) > 0).all()
    with pytest.raises(SpecError, match="two different"):
        strategies(state, objectives=("mfu", "mfu"))


def test_the_present_design_is_a_row(state: State, found: Designs) -> None:
    """Fields and quantities as the table has them."""
    row = present(state, found)
    assert row["step_time [s]"] == state.result.number("step_time")
    assert row["dp"] * row["tp"] * row["pp"] == state.design.devices
    assert set(found.variables) <= set(row)


def test_the_table_keeps_the_best_and_the_front(state: State, found: Designs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more designs than fit the best by the first objective stay, with the whole front."""
    from dse.app import designs as module

    monkeypatch.setattr(module, "MOST", 25)
    monkeypatch.setattr(module, "SURVEY", 500)
    module._strategies.cache_clear()
    few = strategies(state)
    module._strategies.cache_clear()
    good, all_good = (each.table[each.table["feasible"]] for each in (few, found))
    front = all_good[all_good["on_front"]]
    np.testing.assert_allclose(good["step_time [s]"][:25], all_good["step_time [s]"][:25])
    np.testing.assert_allclose(good.loc[good["on_front"], "memory_bytes [B]"], front["memory_bytes [B]"])
    assert few.counts["distinct"] == found.counts["distinct"] and few.counts["shown"] < found.counts["shown"]


def test_ranges_choose_exactly(found: Designs) -> None:
    """Closed ends, open ends, sets of values; nothing within a tolerance."""
    table = found.table
    low, high = table["step_time [s]"].nsmallest(9).iloc[[2, 8]]
    mask = chosen(found, {"step_time": (low, high)})
    np.testing.assert_array_equal(mask, (table["step_time [s]"] >= low) & (table["step_time [s]"] <= high))
    assert mask[table["step_time [s]"] == low].all() and mask[table["step_time [s]"] == high].all()
    assert not chosen(found, {"step_time": (np.nextafter(high, np.inf), high)}).any()
    some = chosen(found, {"tp": (2, None), "recompute": {"values": ["full"]}})
    np.testing.assert_array_equal(some, (table["tp"] >= 2) & (table["recompute"] == "full"))
    assert chosen(found, {}).all()
    for wrong in ({"thyme": (1, 2)}, {"recompute": (0, 1)}, {"tp": 3}, {"tp": ("a", "b")}):
        with pytest.raises(SpecError):
            chosen(found, wrong)


def test_a_search_is_a_table_too() -> None:
    """Hardware comes first among what varies; nothing in the table changes."""
    options = {"pp": [1, 2], "tp": [1, 2], "micro_batch": [1], "virtual_stages": [1], "recompute": ["none"]}
    searched = dse.search(
        "gpt-1.7b", "dgx-a100",
        [span("cluster.network.inter.bandwidth", "12.5 GB/s", "100 GB/s", steps=3), dse.axis("cluster.devices", [8, 16])],
        global_batch=64, objective=["tokens_per_s", "capital"], options=options, cache=False,
    )  # fmt: skip
    found = from_search(searched)
    assert found.table is searched.table and found.less == (False, True)
    assert found.objectives == ("tokens_per_s [1/s]", "capital [USD]")
    assert set(found.variables) <= set(found.table.columns) and found.variables
    assert chosen(found, {"devices": (8, 8)}).sum() == (found.table["devices"] == 8).sum()


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A landscape in blocks has the numbers of one evaluation, on the axes that they depend on."""
    from dse.app import blocks

    opened = start("llama2-7b", "dgx-h100", devices=16)
    x, y = "cluster.node.accelerator.memory.capacity", "strategy.global_batch"
    plain = landscape(opened, x, y, points=70)
    for size in (1, 50, 333):
        monkeypatch.setattr(blocks, "BLOCK", size)
        pieces = landscape(opened, x, y, points=70)
        for name in ("step_time", "feasible", *dse.explore.evaluate.RULES):
            whole, part = plain[name], pieces[name]
            np.testing.assert_array_equal(part.broadcast_like(whole).transpose(*whole.dims).values
                                          if part.dims != whole.dims else part.values, whole.values)  # fmt: skip
        np.testing.assert_allclose(pieces["time.forward"].values, plain["time.forward"].values)
    assert fill(plain) is plain
    with pytest.raises(SpecError, match="share one"):
        landscape(opened, x, x, points=70)
