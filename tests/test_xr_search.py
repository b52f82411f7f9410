"""The search for XR accelerators: designs, budgets, fronts, and that it repeats and goes on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dse.domains.xr import search as xr
from dse.domains.xr.conditions import Conditions
from dse.domains.xr.runtime import OWN, simulate
from dse.domains.xr.systems import systems
from dse.errors import SpecError

POINT = {"pes": 4096, "parts": 2, "split": "3:1", "dataflows": "WS+OS", "noc": 256, "noc_split": "even", "l2": 4 * 2**20,
         "policy": "published"}  # fmt: skip
FEW = {"pes": (4096, 8192), "parts": (1, 2), "split": ("even", "3:1"), "dataflows": ("WS", "WS+OS"), "noc": (256,),
       "noc_split": ("even",), "l2": (4 * 2**20,), "policy": ("published", "edf-wait")}  # fmt: skip


def small(**changes) -> xr.Problem:
    return xr.Problem(**{"scenarios": ("VR_gaming",), "seeds": (1,), "conditions": OWN} | changes)


def test_a_point_is_the_published_accelerator_of_its_sizes():
    built = xr.design(POINT)
    published = systems()["4K-K"]
    for ours, theirs in zip(built.parts, published.parts, strict=True):
        assert (ours.dataflow, ours.num_pes, ours.noc_bandwidth) == (
            theirs.dataflow,
            theirs.num_pes,
            theirs.noc_bandwidth,
        )
    one = small(compare=True)(POINT)
    assert one.payload["score"] == pytest.approx(
        simulate("VR_gaming", ["4K-K"], conditions=OWN).scores().overall.mean(), abs=1e-6
    )
    plain = simulate("VR_gaming", ["4K-K"], conditions=Conditions()).scores().overall.mean()
    assert one.payload["published"] == pytest.approx(plain, abs=1e-6)


@given(
    st.integers(64, 20000),
    st.integers(1, 8),
    st.sampled_from(["even", "3:1", "1:2:5"]),
    st.sampled_from(["even", "by PEs"]),
)
def test_what_is_split_is_all_there(pes, parts, split, noc_split):
    built = xr.design({**POINT, "pes": pes, "parts": parts, "split": split, "noc_split": noc_split})
    assert len(built.parts) == parts and built.num_pes == pes and built.noc_bandwidth == 256
    assert sum(part.l2 for part in built.parts) == POINT["l2"]


@settings(max_examples=20)
@given(st.sampled_from(["pes", "noc", "l2"]), st.floats(1.1, 4))
def test_more_of_anything_takes_more_area(name, factor):
    more = {**POINT, name: int(POINT[name] * factor)}
    assert xr.silicon().area(xr.design(more)) > xr.silicon().area(xr.design(POINT))


def test_power_is_energy_of_all_frames_over_the_time():
    found = small().measured(xr.design(POINT), "published")
    runs = simulate("VR_gaming", ["4K-K"], conditions=OWN)
    counted = runs.sums.values.sum(axis=(0, 1, 2))
    assert found["energy"] == pytest.approx(1e-3 * counted[6] / (counted[0] - counted[1]), rel=1e-6)
    assert found["power"] == pytest.approx(1e-3 * counted[6] / 0.7, rel=1e-6)
    assert found["missed"] == pytest.approx((counted[1] + counted[2]) / counted[0])


def test_the_front_is_that_of_all_designs_and_budgets_hold():
    problem = small(objectives=("score", "area"), budgets=xr.budgets(["power <= 12 W"]))
    found = xr.search(problem, vary=FEW, trials=64, method="grid")
    frame = found.frame
    assert len(frame) == 32 and (frame["feasible"] == (frame["power"] <= 12)).all() and 0 < frame["feasible"].sum() < 32
    good = frame[frame["feasible"]]
    for row in good.itertuples():
        beaten = (
            (good["score"] >= row.score)
            & (good["area"] <= row.area)
            & ((good["score"] > row.score) | (good["area"] < row.area))
        )
        assert not (row.on_front and beaten.any())
        assert (
            row.on_front
            or beaten.any()
            or ((good["score"] == row.score) & (good["area"] == row.area) & good["on_front"]).any()
        )
    assert "On the front" in str(found) and found.front["score"].is_monotonic_decreasing


def test_the_same_seed_finds_the_same_and_a_folder_goes_on(tmp_path):
    problem = small(objectives=("score", "energy", "area"))
    whole = xr.search(problem, vary=FEW, trials=24, seed=3)
    begun = xr.search(problem, vary=FEW, trials=8, seed=3, folder=tmp_path)
    resumed = xr.search(problem, vary=FEW, trials=24, seed=3, folder=tmp_path)
    again = xr.search(problem, vary=FEW, trials=24, seed=3)
    assert whole.frame.equals(again.frame) and whole.frame.equals(resumed.frame)
    assert begun.frame[list(POINT)].equals(whole.frame[list(POINT)].iloc[:8])


def test_the_published_ranking_is_set_against_ours():
    found = xr.search(small(compare=True), vary=FEW, trials=32, method="grid")
    ours, theirs = found.frame["score"].to_numpy(), found.frame["published"].to_numpy()
    signs = [np.sign(ours[i] - ours[j]) * np.sign(theirs[i] - theirs[j]) for i in range(32) for j in range(i)]
    assert np.sign(found.agreement()) == np.sign(sum(signs)) and -1 <= found.agreement() <= 1
    with pytest.raises(SpecError, match="compare"):
        xr.search(small(), vary=FEW, trials=2).agreement()


@pytest.mark.parametrize(
    ("vary", "word"),
    [
        ({"cores": (1,)}, "must be one of"),
        ({"split": ("3/1",)}, "must be even, or shares"),
        ({"noc": (2,), "parts": (4,)}, "4 at least"),
        ({"policy": ("best",)}, "must be a .yaml file or one of"),
        ({"noc_split": ("odd",)}, "even or by PEs"),
    ],
)
def test_variables_that_make_no_design_are_refused_before_any_is_tried(vary, word):
    with pytest.raises(SpecError, match=word):
        xr.search(small(), vary=FEW | vary, trials=2)


def test_objectives_and_budgets_that_are_none_are_refused():
    for text in ("speed <= 3 W", "score <= 0.5", "area <= 3 W", "power = 3 W"):
        with pytest.raises(SpecError):
            xr.budgets([text])
    assert xr.budgets(["area <= 8 mm^2", "score >= 0.8"]) == pytest.approx({"area": 8e-6, "score": 0.8})
    with pytest.raises(SpecError, match="each once"):
        small(objectives=("score", "score"))
    with pytest.raises(SpecError, match="scenarios"):
        small(scenarios=())
