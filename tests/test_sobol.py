"""Variance-based sensitivity and screening: indices equal closed forms, enumeration, and SALib's own."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dse
from dse.errors import InfeasibleDesign, SpecError
from dse.explore.sensitivity import Factor, Search, morris, sobol
from dse.explore.sensitivity.factors import bind

SMALL = ("llama2-7b", "dgx-a100", "tp=8,micro_batch=1,global_batch=256,zero_stage=1")
FIELDS = ("cluster.memory.latency", "cluster.network.inter.overhead", "cluster.network.intra.overhead")


@pytest.fixture(scope="module")
def small() -> dse.Result:
    return dse.estimate(*SMALL, devices=64)


# -- factors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "path", "ends", "log"),
    [
        ("cluster.network.inter.bandwidth=25:400 GB/s log", "cluster.network.inter.bandwidth", (25e9, 400e9), True),
        ("cluster.memory.capacity = 40:80 GB", "cluster.memory.capacity", (40e9, 80e9), False),
    ],
)
def test_factors_are_read_from_text(
    small: dse.Result, text: str, path: str, ends: tuple[float, float], log: bool
) -> None:
    """Ranges with units; the scale of the sampling."""
    bound = bind(small.specs, [text])[0]
    assert (bound.path, bound.low, bound.high, bound.factor.log) == (path, *ends, log)
    middle = bound.at(np.array([0.5]))[0]
    assert middle == pytest.approx(math.sqrt(ends[0] * ends[1]) if log else sum(ends) / 2)


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        ("tp", "must be"),
        ("tp=4:2", "low must be below high"),
        ("nothing=1,2", "must start with"),
        ("cluster.memory.capacity=1:2", "needs a unit"),
        ("cluster.memory.capacity=0:2 GB log", "above 0"),
        ("tp=1:8 log", "is a count"),
        ("recompute=none:full", "is not a number|must be"),
        ("cluster=dgx-a100:dgx-h100", "range|values"),
        (Factor("tp", 1, 2, values=(1, 2)), "not both"),
    ],
)
def test_faulty_factors_are_refused(small: dse.Result, factor: Any, message: str) -> None:
    """Each with its field and the rule it breaks."""
    with pytest.raises(SpecError, match=message):
        bind(small.specs, [factor])


@given(count=st.integers(1, 9), n=st.integers(1, 7))
def test_levels_take_equal_parts_of_the_unit_interval(count: int, n: int) -> None:
    """An even grid of the unit interval falls on every level equally often, the end included."""
    bound = bind(dse.estimate(*SMALL, devices=64).specs, [Factor("global_batch", values=tuple(range(1, count + 1)))])[0]
    u = (np.arange(count * n) + 0.5) / (count * n)
    assert np.array_equal(np.bincount(bound.at(u), minlength=count), np.full(count, n))
    assert bound.at(np.array([0.0, 1.0])).tolist() == [0, count - 1]


# -- Sobol --------------------------------------------------------------------------------------------------


def unit_design(function: Any) -> tuple[dse.Result, list[Factor]]:
    """A design whose step time is a function of three numbers in [0, 1], and these as factors."""

    def step_time(cluster: Any) -> Any:
        inner, outer = cluster.network.dimensions
        return function(cluster.accelerator.memory.latency, outer.overhead, inner.overhead)

    design = dse.estimate(SMALL[0], SMALL[1], SMALL[2], devices=64, replace={"step_time": step_time})
    return design, [Factor(path, 0.0, 1.0, unit="s") for path in FIELDS]


def ishigami(u: Any, v: Any, w: Any) -> Any:
    x, y, z = (np.pi * (2.0 * t - 1.0) for t in (u, v, w))
    return np.sin(x) + 7.0 * np.sin(y) ** 2 + 0.1 * z**4 * np.sin(x)


def test_sobol_of_the_ishigami_function() -> None:
    """Closed form: V1 = (1 + bπ⁴/5)²/2, V2 = a²/8, V13 = b²π⁸(1/18 − 1/50); through the whole cost graph."""
    design, factors = unit_design(ishigami)
    v1, v2 = (1 + 0.1 * np.pi**4 / 5) ** 2 / 2, 49 / 8
    v13 = 0.01 * np.pi**8 * (1 / 18 - 1 / 50)
    total = v1 + v2 + v13
    found = sobol(design, factors, samples=4096, log=False, second_order=True, resamples=50)
    table = found.table
    assert found.variance == pytest.approx(total, rel=0.02) and found.mean == pytest.approx(3.5, rel=0.02)
    assert table["S1"].tolist() == pytest.approx([v1 / total, v2 / total, 0], abs=0.02)
    assert table["ST"].tolist() == pytest.approx([(v1 + v13) / total, v2 / total, v13 / total], abs=0.02)
    assert found.second.loc[table["factor"][0], table["factor"][2]] == pytest.approx(v13 / total, abs=0.03)
    assert np.all(np.abs(table["S1"] - [v1 / total, v2 / total, 0]) <= 3 * table["S1_conf"] + 1e-3)
    assert found.converged and found.evaluations == 4096 * 8
    assert not sobol(design, factors, samples=16, log=False).converged


def test_sobol_of_a_power_law_with_logarithmic_factors() -> None:
    """ln Πx^a = Σ a·ln x: each factor's share is (a · width)² over their sum, and nothing interacts."""
    spec = dse.load_cluster("dgx-a100")

    def step_time(cluster: Any) -> Any:
        memory, network = cluster.accelerator.memory, cluster.network.dimensions[-1]
        return (memory.bandwidth / 1e12) ** -0.5 * (memory.capacity / 1e11) ** 0.25 * (network.bandwidth / 1e10) ** -1.0

    design = dse.estimate(SMALL[0], spec, SMALL[2], devices=64, replace={"step_time": step_time})
    factors = ["cluster.memory.bandwidth=1:4 TB/s log", "cluster.memory.capacity=10:160 GB log",
               "cluster.network.inter.bandwidth=10:20 GB/s log"]  # fmt: skip
    parts = np.array([0.5 * math.log(4), 0.25 * math.log(16), 1.0 * math.log(2)]) ** 2
    found = sobol(design, factors, samples=1024)
    assert found.table["S1"].tolist() == pytest.approx(parts / parts.sum(), abs=0.03)
    assert found.table["ST"].tolist() == pytest.approx(parts / parts.sum(), abs=0.03)
    assert found.variance == pytest.approx(parts.sum() / 12, rel=0.02)


def brute(values: dict[tuple[int, ...], float], sizes: tuple[int, ...]) -> tuple[list[float], list[float]]:
    """Indices from their definition, with plain loops: V[E(y|i)] / V[y] and E[V(y|others)] / V[y]."""
    points = list(values)
    mean = sum(values.values()) / len(values)
    variance = sum((v - mean) ** 2 for v in values.values()) / len(values)
    first, total = [], []
    for i, size in enumerate(sizes):
        groups = [[values[p] for p in points if p[i] == k] for k in range(size)]
        first.append(sum((sum(g) / len(g) - mean) ** 2 for g in groups) / size / variance)
        rest = itertools.groupby(sorted(points, key=lambda p: p[:i] + p[i + 1 :]), key=lambda p: p[:i] + p[i + 1 :])
        inner = []
        for _, same in rest:
            part = [values[p] for p in same]
            average = sum(part) / len(part)
            inner.append(sum((v - average) ** 2 for v in part) / len(part))
        total.append(sum(inner) / len(inner) / variance)
    return first, total


def test_sobol_of_levels_names_and_whole_clusters(small: dse.Result) -> None:
    """Enumerated indices equal their definition on dse.estimate; sampled ones come near; both take three levels evenly."""
    levels = {"micro_batch": (1, 2, 4), "recompute": ("none", "selective", "full"), "cluster": ("dgx-a100", "dgx-h100")}
    factors = [Factor(path, values=values) for path, values in levels.items()]
    values = {}
    for point in itertools.product(range(3), range(3), range(2)):
        chosen = {path: v[i] for (path, v), i in zip(levels.items(), point, strict=True)}
        text = f"tp=8,global_batch=256,zero_stage=1,micro_batch={chosen['micro_batch']},recompute={chosen['recompute']}"
        values[point] = math.log(float(dse.estimate(SMALL[0], chosen["cluster"], text, devices=64)["step_time"]))
    first, total = brute(values, (3, 3, 2))
    exact = sobol(small, factors)
    assert (exact.method, exact.evaluations, exact.converged) == ("exact", 18, True)
    assert exact.table["S1"].tolist() == pytest.approx(first, abs=1e-10)
    assert exact.table["ST"].tolist() == pytest.approx(total, abs=1e-10)
    sampled = sobol(small, factors, exact=False, samples=1024, resamples=50)
    assert sampled.method == "sampled"
    assert sampled.table["S1"].tolist() == pytest.approx(first, abs=0.05)
    assert sampled.table["ST"].tolist() == pytest.approx(total, abs=0.05)


def test_sobol_of_feasibility_is_of_the_probability_to_fit(small: dse.Result) -> None:
    """0/1 outputs: the mean is P(feasible), and what has no say has no share."""
    held = float(small["memory_bytes"])
    factors = [Factor("cluster.memory.capacity", 0.0, 2 * held), Factor("cluster.memory.bandwidth", 1e12, 4e12)]
    found = sobol(small, factors, quantity="feasible", samples=512, resamples=20)
    assert found.mean == pytest.approx(0.5, abs=0.01) == found.feasible
    assert found.table["S1"].tolist() == pytest.approx([1, 0], abs=0.02)
    assert found.output == "feasible"


def test_points_without_a_strategy_are_refused_not_invented(small: dse.Result) -> None:
    """With the strategy searched, designs that nothing fits have no time; ignoring the memory they do."""
    factors = ["cluster.memory.capacity=1:80 GB log", "cluster.memory.bandwidth=1:4 TB/s"]
    with pytest.raises(InfeasibleDesign, match="no feasible strategy"):
        sobol(small, factors, samples=16, reoptimize=True)
    levels = ["cluster.memory.capacity=1,10,80 GB", "cluster.memory.bandwidth=1,2,4 TB/s"]
    free = sobol(small, levels, exact=True, reoptimize=Search(memory=False))
    assert free.table["ST"].tolist() == pytest.approx([0, 1], abs=1e-9)
    assert 0 < sobol(small, factors, samples=16, reoptimize=True, quantity="feasible").mean < 1


def test_sobol_is_reproducible_and_constant_outputs_have_no_shares(small: dse.Result) -> None:
    """The seed fixes every digit; what does not vary has nothing to share."""
    factors = ["cluster.memory.bandwidth=1:4 TB/s", "cluster.memory.capacity=60:80 GB"]
    one, two, other = (sobol(small, factors, samples=32, seed=seed).table for seed in (1, 1, 2))
    assert one.equals(two) and not one.equals(other)
    still = sobol(small, factors[1:], samples=32)
    assert still.table[["S1", "ST"]].to_numpy().tolist() == [[0, 0]] and still.variance == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 2}, "from 8"),
        ({"exact": True}, "needs levels"),
        ({"quantity": "mfuu"}, "mfu"),
        ({"quantity": "blocks"}, "not a number"),
    ],
)
def test_sobol_faults(small: dse.Result, change: dict[str, Any], message: str) -> None:
    """Arguments out of range are named."""
    with pytest.raises(SpecError, match=message):
        sobol(small, ["cluster.memory.bandwidth=1:4 TB/s"], **change)


# -- Morris -------------------------------------------------------------------------------------------------


def test_morris_on_ranges_is_that_of_salib() -> None:
    """The same trajectories through SALib's own analysis give the same mu, mu* and sigma."""
    from SALib.analyze import morris as analysis
    from SALib.sample import morris as sampling

    design, factors = unit_design(ishigami)
    found = morris(design, factors, trajectories=40, log=False, seed=3).table.set_index("factor")
    problem = {"num_vars": 3, "names": list(FIELDS), "bounds": [[0, 1]] * 3}
    points = sampling.sample(problem, 40, num_levels=4, seed=3)
    wanted = analysis.analyze(problem, points, ishigami(*points.T), num_levels=4, seed=3)
    for i, path in enumerate(FIELDS):
        for name in ("mu", "mu_star", "sigma"):
            assert found.loc[path, name] == pytest.approx(float(wanted[name][i]), rel=1e-9, abs=1e-9)


def test_morris_of_a_linear_function_is_exact() -> None:
    """Every elementary effect is the slope; nothing spreads."""
    design, factors = unit_design(lambda u, v, w: 3.0 * u - 2.0 * v + 0.0 * w)
    table = morris(design, factors, trajectories=8, log=False).table.set_index("factor")
    assert table.loc[list(FIELDS), "mu"].tolist() == pytest.approx([3, -2, 0])
    assert table["sigma"].max() < 1e-9 and table["mu_star_conf"].max() < 1e-9


def test_morris_of_levels(small: dse.Result) -> None:
    """Two names: |Δ| between them, whichever comes first; ordered levels: the slope over their ranks."""
    ends = [
        math.log(float(dse.estimate(SMALL[0], c, SMALL[2], devices=64)["step_time"])) for c in ("dgx-a100", "dgx-h100")
    ]
    table = morris(small, ["cluster=dgx-a100,dgx-h100"], trajectories=16).table
    assert table["mu_star"].item() == pytest.approx(abs(ends[0] - ends[1]), rel=1e-9)
    assert table["kind"].item() == "unordered"
    base = small.specs["strategy"].global_batch
    design = dse.estimate(*SMALL, devices=64, replace={"step_time": lambda global_batch: np.exp(global_batch / base)})
    ordered = morris(design, [Factor("global_batch", values=(64, 320, 192, 256, 128))], trajectories=16).table
    assert ordered["mu"].item() == pytest.approx(1.0, rel=1e-9) and ordered["kind"].item() == "ordered"


def test_morris_visits_every_level_about_equally(small: dse.Result) -> None:
    """Five levels on a grid of four would lose one; each is drawn at random instead."""
    seen: list[Any] = []

    def step_time(global_batch: Any) -> Any:
        seen.extend(np.atleast_1d(global_batch).tolist())
        return 1.0 * global_batch

    design = dse.estimate(*SMALL, devices=64, replace={"step_time": step_time})
    assert float(design["step_time"]) == 256
    seen.clear()
    morris(design, [Factor("global_batch", values=(64, 128, 192, 256, 320))], trajectories=500)
    counts = np.array([seen.count(v) for v in (64, 128, 192, 256, 320)])
    assert counts.sum() == 1000 and np.all(np.abs(counts - 200) < 60)


@pytest.mark.parametrize("seed", [0, 3])
def test_the_same_seed_gives_the_same_half_widths(small: dse.Result, seed: int) -> None:
    """Bootstrapped half-widths too, and for a seed of 0 as for any other."""
    factors = [Factor(field, 1e-7, 1e-5, log=True) for field in FIELDS[:2]]
    one, other = (sobol(small, factors, samples=64, exact=False, seed=seed).table for _ in range(2))
    assert one.equals(other)
