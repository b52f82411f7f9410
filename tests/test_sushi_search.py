"""SuperNet serving as a whole: maps over unknown constants, break-even, search, GPUs, tables of studies."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest

from dse.domains.sushi import gpus, unknowns
from dse.domains.sushi import search as searches
from dse.domains.sushi.accelerator import load_subgraph_accelerator
from dse.domains.sushi.breakeven import break_even
from dse.domains.sushi.energy import traffic
from dse.domains.sushi.latency import subnet_times
from dse.domains.sushi.layers import Layers
from dse.domains.sushi.problem import edge, machine, priced, span, stream
from dse.domains.sushi.serve import serve
from dse.domains.sushi.subnets import mobilenetv3, resnet50, stack
from dse.domains.sushi.table import LatencyTable
from dse.domains.sushi.tables import (
    BreakEven,
    Gpus,
    MeasuredLayers,
    Savings,
    Searched,
    Serving,
    SubNets,
    Unknowns,
    chosen,
    violations,
)
from dse.errors import SpecError

MIB = 2.0**20
FEW = {"count": [4, 8], "kinds": ["cuts", "shared"]}
SMALL = {"throughputs": (0.1296e12, 0.648e12), "bandwidths": (3.36e9, 19.2e9), "buffers": (1.6875 * MIB, 8 * MIB)}


@cache
def nets(name: str = "resnet50"):
    return {"resnet50": resnet50, "mobilenetv3": mobilenetv3}[name]()


@cache
def table(name: str = "resnet50", buffer: float = 3.375 * MIB) -> LatencyTable:
    return priced(machine("sushi-roofline", buffer=buffer), nets(name), count=16)


# -- problems -----------------------------------------------------------------------------------------------------


def test_a_machine_is_the_one_of_the_catalogue_with_some_constants_changed():
    base = load_subgraph_accelerator("zcu104-calibrated")
    changed = machine(base, buffer=4 * MIB, bandwidth=2 * base.weight_bandwidth, throughput=0.5e12)
    assert changed.persistent_buffer == 4 * MIB and changed.macs_per_second == pytest.approx(0.5e12)
    assert changed.weight_bandwidth == 2 * base.weight_bandwidth
    assert changed.input_bandwidth == 2 * base.input_bandwidth and changed.output_bandwidth is None
    assert machine(base) == base


@pytest.mark.parametrize("name", ["buffer", "bandwidth", "throughput"])
def test_arrays_of_a_constant_price_as_each_alone(name):
    values = {"buffer": [1e6, 2e6], "bandwidth": [3e9, 1e10], "throughput": [1e11, 1e12]}[name]
    layers, none = stack(nets()), 0.0
    whole = subnet_times(machine("sushi-roofline", **{name: np.array(values)}), layers, none)
    for place, value in enumerate(values):
        alone = subnet_times(machine("sushi-roofline", **{name: value}), layers, none)
        np.testing.assert_allclose(np.broadcast_to(whole, (2, *alone.shape))[place], alone, rtol=1e-12)


def test_streams_ask_for_what_subnets_offer_without_a_subgraph():
    asked, limits = stream(table(), "random", 500), span(table())
    assert limits.latency == (table().latency[:, 0].min(), table().latency[:, 0].max())
    assert limits.accuracy[0] <= asked.accuracy.min() and asked.latency.max() <= limits.latency[1]
    other = stream(table(buffer=8 * MIB), "random", 500)
    np.testing.assert_array_equal(asked.latency, other.latency)


def test_the_edge_stream_gains_a_step_of_accuracy_with_every_query():
    one = table()
    asked = edge(one, 2000, seed=1)
    kept = serve(one, asked, policy="strict-latency", caching="static")
    none = serve(one, asked, policy="strict-latency", caching="none")
    assert (kept.accuracy >= asked.accuracy - 1e-12).all() and not kept.deadline_missed.any()
    assert (none.accuracy < asked.accuracy).all()
    steps = np.diff(np.sort(one.accuracy))
    assert kept.accuracy.mean() - none.accuracy.mean() == pytest.approx(steps.mean(), rel=0.1)


@pytest.mark.parametrize(
    ("kind", "said"),
    [("nothing", "must be one of random"), ("markov", r"stream\.colour = markov: .* does not take"),
     ("edge", "does not take"), ("bursty", r"stream\.rate = bursty: needs this setting")],
)  # fmt: skip
def test_streams_that_cannot_be_made_say_why(kind, said):
    with pytest.raises(SpecError, match=said):
        stream(table(), kind, 10, colour=3)


def test_an_edge_stream_is_of_whole_queries():
    with pytest.raises(SpecError, match=r"count = 2\.5"):
        edge(table(), 2.5)


# -- maps over what is not known ----------------------------------------------------------------------------------


@cache
def savings(name: str = "resnet50"):
    return unknowns.latency_savings(nets(name), overlaps=("none", "activations", "ping_pong", "all"), count=12, **SMALL)


@pytest.mark.parametrize("name", ["resnet50", "mobilenetv3"])
def test_no_candidate_saves_more_than_the_best_possible(name):
    rows = savings(name)
    keys = ["overlap", "buffer", "throughput", "bandwidth"]
    grid = rows.pivot_table(index=keys, columns="candidates", values=["latency_saving", "least_saving", "mean_saving"])
    for value in ("latency_saving", "least_saving", "mean_saving"):
        best = grid[value][unknowns.BEST].to_numpy()
        assert (best < 1).all()
        for kind in unknowns.SETS:
            assert (grid[value][kind].to_numpy() <= best + 1e-12).all()
            assert (grid[value][kind].to_numpy() >= -1e-12).all()


def test_exposed_weights_save_their_bytes_over_the_bandwidth():
    rows = savings()
    one = rows[(rows.overlap == "activations") & (rows.candidates == "all kinds") & (rows.buffer == 1.6875 * MIB)]
    layers = stack(nets())
    for row in one.itertuples():
        bare = subnet_times(machine("sushi-roofline", throughput=row.throughput, bandwidth=row.bandwidth), layers, 0.0)
        most = 1.6875 * MIB / row.bandwidth / bare.min()
        assert row.latency_saving == pytest.approx(most, rel=0.01) and row.latency_saving <= most


def test_more_buffer_and_more_arithmetic_never_save_less_and_more_bandwidth_never_more():
    rows = savings()[lambda frame: frame.candidates == unknowns.BEST]
    for overlap, part in rows.groupby("overlap"):
        grid = part.pivot_table(index=["throughput", "bandwidth"], columns="buffer", values="latency_saving")
        assert (np.diff(grid.to_numpy(), axis=1) >= -1e-12).all()
        if overlap in ("none", "activations"):
            grid = part.pivot_table(index=["buffer", "throughput"], columns="bandwidth", values="latency_saving")
            assert (np.diff(grid.to_numpy(), axis=1) <= 1e-12).all()
            grid = part.pivot_table(index=["buffer", "bandwidth"], columns="throughput", values="latency_saving")
            assert (np.diff(grid.to_numpy(), axis=1) >= -1e-12).all()


def test_off_chip_energy_is_that_of_the_bytes_and_does_not_hang_on_rates():
    rows = unknowns.energy_savings(nets(), buffers=(1.6875 * MIB, 16 * MIB), count=12)
    layers = stack(nets())
    weights = layers.weights.sum(axis=-1)
    one = rows[(rows.accounting == "weights") & (rows.buffer == 1.6875 * MIB)].set_index("candidates")
    assert one.energy_saving[unknowns.BEST] == pytest.approx(1.6875 * MIB / weights.min())
    assert one.energy_saving["all kinds"] == pytest.approx(one.energy_saving[unknowns.BEST], rel=0.01)
    assert rows.pivot_table(index=["accounting", "buffer"], columns="candidates", values="energy_saving").pipe(
        lambda grid: (grid.le(grid[unknowns.BEST] + 1e-12, axis=0)).all(axis=None)
    )
    counted = rows[rows.candidates == unknowns.BEST].pivot_table(
        index="buffer", columns="accounting", values="energy_saving"
    )
    order = ["weights", "boundary", "layers", "residuals"]
    assert (np.diff(counted[order].to_numpy(), axis=1) < 0).all()
    spilled = rows[(rows.candidates == unknowns.BEST) & (rows.accounting == "spilled")].pivot_table(
        index="buffer", columns="streaming", values="energy_saving"
    )
    assert list(spilled) == list(unknowns.STREAMING) and (np.diff(spilled.to_numpy(), axis=1) >= 0).all()
    assert (spilled[unknowns.STREAMING[0]] < counted["boundary"]).all()
    assert (rows.streaming[rows.accounting != "spilled"] == 0).all()
    wide = Layers(*(column[:, None, :] for column in layers))
    moved = [traffic(machine("sushi-roofline", bandwidth=rate), wide).total.sum() for rate in (1e9, 1e11)]
    assert moved[0] == moved[1]


def test_the_map_holds_the_accounting_with_shortcuts():
    """All that the six share cached, and all traffic counted: 55.6 % of A and 14.4 % of F, by another program."""
    rows = unknowns.energy_savings(nets(), buffers=(7.55 * MIB,), accountings=("residuals",), count=12)
    whole = rows.set_index("candidates").loc["shared"]
    assert [whole.energy_saving, whole.least_saving] == pytest.approx([0.556, 0.144], abs=0.001)
    bare = [net.__class__(net.name, net.layers, net.accuracy) for net in nets()]
    with pytest.raises(SpecError, match="shortcuts"):
        unknowns.energy_savings(bare, buffers=(MIB,), accountings=("residuals",), count=4)
    counted = priced(machine("zcu104").replace(accounting="residuals"), nets(), count=12)  # greedy counts them too
    assert (counted.off_chip > table().off_chip[:, :1].min()).any() and any(
        "greedy" in name for name in counted.subgraphs
    )


def test_the_declared_points_of_the_maps_reach_the_abstract_and_others_do_not():
    """25 % and 78.7 % are reached inside the ranges of what is not known (second-hand numbers; the setup is ours)."""
    small = chosen("mobilenetv3", 160)
    found = unknowns.latency_savings(
        small, throughputs=(0.648e12,), bandwidths=(19.2e9,), buffers=(1.6875 * MIB,), overlaps=("activations",)
    )
    assert 0.2 <= found.latency_saving.max() <= 0.3
    energy = unknowns.energy_savings(small, buffers=(1.6875 * MIB, 2.5 * MIB)).groupby("buffer").energy_saving.max()
    assert energy.iloc[0] < 0.787 < energy.iloc[1]


def test_accuracy_gains_are_those_of_serving_and_never_above_the_ladder():
    rows = unknowns.accuracy_gains(nets(), queries=400, count=8, throughputs=(0.648e12,), bandwidths=(4.8e9,),
                                   buffers=(1.6875 * MIB, 8 * MIB), windows=(4, 8))  # fmt: skip
    assert len(rows) == 2 * 3 * 2 and rows.accuracy_gain.between(0, 0.048).all()
    assert rows.groupby("stream").accuracy_gain.max()["edge"] > 0.005


# -- break-even ---------------------------------------------------------------------------------------------------


def test_following_the_stream_is_bounded_by_the_oracle_and_static_by_none():
    slow = machine("sushi-roofline", overlap="all", bandwidth=4.8e9)
    rows = break_even(nets(), slow, buffers=(1.6875 * MIB, 12 * MIB),
                      stays=(0.0, 0.99), caching=("average", "work-function", "oracle"), queries=1000, count=12)  # fmt: skip
    grid = rows.pivot_table(index=["buffer", "persistence"], columns="caching", values="over_static")
    assert (grid["oracle"] >= -1e-12).all()
    assert (grid["average"] <= grid["oracle"] + 1e-12).all() and (grid["work-function"] <= grid["oracle"] + 1e-12).all()
    assert (rows.saving >= rows.over_static - 1e-12).all()


def test_loads_are_those_of_serving_and_none_where_the_plan_never_changes():
    rows = break_even(nets(), buffers=(12 * MIB,), stays=(0.9,), caching=("average", "static"), queries=300, count=12)
    loads = rows.set_index("caching").loads
    one = priced(machine("sushi-roofline", buffer=12 * MIB), nets(), count=12)
    done = serve(one, stream(one, "markov", 300, stay=0.9), policy="strict-accuracy", caching="average", window=8)
    assert loads["average"] == done.summary()["loads"] / 300 > 0 and loads["static"] == 0


# -- search -------------------------------------------------------------------------------------------------------


@cache
def problem(**settings):
    return searches.problem(nets(), queries=200, **settings)


@cache
def found():
    return searches.search(problem(), vary=FEW, trials=16, seed=3)


def test_a_search_finds_the_same_designs_again_and_its_front_is_not_beaten():
    again = searches.search(problem(), vary=FEW, trials=16, seed=3)
    assert again.frame.equals(found().frame)
    values = found().frame[["latency", "energy", "area"]].to_numpy()
    front = found().frame["on_front"].to_numpy()
    for row in values[front]:
        assert not ((values <= row).all(axis=1) & (values < row).any(axis=1)).any()
    for row in values[~front]:
        assert (values[front] <= row).all(axis=1).any()
    assert "On the front" in str(found())


def test_a_design_is_what_serving_it_gives():
    row = found().front.iloc[0].to_dict()
    built = problem().design(row)
    assert built.persistent_buffer == row["buffer"] and built.area == row["area"]
    one = priced(built, nets(), count=row["count"], kinds=row["kinds"].split("+"))
    done = serve(one, problem().stream, caching="average", window=row["window"])
    assert done.response.mean() == row["latency"] and done.accuracy.mean() == row["accuracy"]


def test_budgets_are_kept_and_accuracy_bounds_from_below():
    limits = searches.budgets(["area <= 5 mm^2", "accuracy >= 70 %"])
    assert limits == pytest.approx({"area": 5e-6, "accuracy": 0.7})
    done = searches.search(problem().__class__(**{**vars(problem()), "budgets": limits}), vary=FEW, trials=16, seed=3)
    assert (done.frame["feasible"] == (done.frame["area"] <= 5e-6)).all()
    assert not done.frame["on_front"][~done.frame["feasible"]].any()
    assert done.frame["feasible"].any() and not done.frame["feasible"].all()


def test_budgets_that_nothing_keeps_say_by_how_much():
    limits = {"accuracy": 0.76, "area": 1e-6}
    done = searches.search(problem().__class__(**{**vars(problem()), "budgets": limits}), vary=FEW, trials=8, seed=3)
    least = done.frame["area"].min()
    assert list(done.exceeded) == ["area"] and not len(done.front)
    assert done.exceeded["area"] == pytest.approx(
        {"designs": 8, "limit": 1e-6, "best": least, "excess": least / 1e-6 - 1}
    )
    assert f"area: 8 of 8 miss 1 mm2 at most; the best has {least * 1e6:.4g} mm2" in str(done)


def test_a_search_goes_on_where_it_was_interrupted(tmp_path):
    seen = []

    def stop(done, total):
        seen.append(done)
        if len(seen) == 5:
            raise KeyboardInterrupt

    part = searches.search(problem(), vary=FEW, trials=16, seed=3, folder=tmp_path, progress=stop)
    assert len(part.frame) == 5 and part.stopped.startswith("interrupted")
    whole = searches.search(problem(), vary=FEW, trials=16, seed=3, folder=tmp_path)
    assert whole.frame.equals(found().frame)


def test_one_objective_is_searched_too():
    one = problem().__class__(**{**vars(problem()), "objectives": ("accuracy",), "policy": "strict-latency"})
    done = searches.search(one, vary={"buffer": [0, 8 * MIB], "count": [8]}, trials=8)
    assert len(done.front) == 1 and done.front["accuracy"].iloc[0] == done.frame["accuracy"].max()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: searches.budgets(["area > 3"]), "must be NAME <= VALUE UNIT"),
        (lambda: searches.budgets(["area <= 3 s"]), "budget.area"),
        (lambda: searches.budgets(["accuracy <= 0.7"]), "accuracy >="),
        (lambda: searches.variables({"size": [1]}), "vary.size"),
        (lambda: problem(objectives=("speed",)), "must be one of latency"),
        (lambda: searches.problem(nets(), budgets={"area": -1e-6}), "budget.area = -1e-06: must be above 0"),
        (lambda: searches.problem(nets(), budgets={"latency": math.inf}), "budget.latency = inf: must be above 0, and finite"),
        (lambda: searches.problem(nets(), budgets={"accuracy": 2.0}), "budget.accuracy = 2: must be above 0 and at most 100 %"),
        (lambda: problem(policy="lax"), "strict-accuracy"),
        (lambda: problem(kind="bursty"), "stream = 'bursty': must be one of random, markov, edge"),
    ],
)  # fmt: skip
def test_searches_that_cannot_be_say_why(call, said):
    with pytest.raises(SpecError, match=said):
        call()


# -- devices of the catalogue -------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["a100-80gb-sxm", "l40s-48gb"])
def test_weights_in_the_cache_of_a_gpu_only_help_and_by_no_more_than_their_bytes(device):
    one = gpus.table(device, nets(), count=8)
    assert (one.latency <= one.latency[:, :1] + 1e-15).all() and (one.off_chip <= one.off_chip[:, :1]).all()
    at = gpus.tiers(gpus.load_accelerator(device), "buffer")
    assert (one.size <= at.capacity).all()
    most = one.hits * (1 / at.slow - 1 / at.fast)
    assert (one.latency[:, :1] - one.latency <= most + 1e-12).all()


def test_weights_at_the_host_wait_for_its_link():
    one = gpus.table(None, nets(), tier="memory", node="dgx-h100", resident=8 * MIB, count=8)
    node = gpus.load_node("dgx-h100")
    slow = node.expansion[0].bandwidth / node.expansion[0].shared_by
    assert (one.latency >= (one.weights[:, None] - one.hits) / slow).all()
    np.testing.assert_allclose(one.off_chip, one.weights[:, None] - one.hits)
    assert one.saving.max() > 0.2
    done = serve(one, stream(one, "markov", 200), caching="static")
    assert done.summary()["hit"] > 0.3


def test_larger_batches_take_longer_and_less_an_image():
    single, many = (gpus.table("h100-80gb-sxm", nets(), batch=batch, count=4) for batch in (1, 32))
    assert (many.latency >= single.latency).all() and (many.latency < 32 * single.latency).all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"device": "a100-80gb-sxm", "resident": 1e12}, "must be 0 to 4.194"),
        ({"device": "a100-80gb-sxm", "tier": "memory", "resident": 1e6}, "must be a node"),
        ({"device": None, "node": "dgx-h100", "tier": "memory"}, "resident"),
        ({"device": "v100-16gb-sxm"}, "INT8"),
        ({"device": "a100-80gb-sxm", "batch": 0}, "batch"),
    ],
)  # fmt: skip
def test_devices_that_cannot_serve_say_why(settings, said):
    with pytest.raises(SpecError, match=said):
        gpus.table(subnets=nets(), **settings)


# -- tables of studies --------------------------------------------------------------------------------------------

TABLES = [
    SubNets(), MeasuredLayers(), Savings(candidates=8), Savings(supernet="mobilenetv3", resolution=160, candidates=8),
    Unknowns(of="latency", candidates=8, throughputs=(1e11,), buffers=(MIB,), bandwidths=(1e10,)),
    Unknowns(of="energy", candidates=8, buffers=(MIB,)),
    Unknowns(of="accuracy", candidates=8, queries=100, throughputs=(1e11,), buffers=(MIB,), bandwidths=(1e10,)),
    Serving(queries=300, candidates=8),
    Serving(queries=300, candidates=8, streams=("bursty",), rate=200.0, slack=True), BreakEven(buffers=(MIB,), stays=(0.9,), queries=300, candidates=8),
    Searched(trials=4, queries=100, budgets=("area <= 4 mm^2",)),
    Gpus(devices=("h100-80gb-sxm",), queries=100, candidates=4),
]  # fmt: skip


@pytest.mark.parametrize("maker", TABLES, ids=lambda maker: f"{type(maker).__name__}-{getattr(maker, 'of', '')}")
def test_tables_have_a_row_for_each_key_and_numbers_in_them(maker):
    made = maker.table(lambda text: None)
    keys = list(made.keys)
    assert len(made.rows) and set(keys) <= set(made.rows) and not made.rows.duplicated(keys).any()
    numbers = made.rows.drop(columns=keys).select_dtypes("number")
    bare = numbers if not isinstance(maker, SubNets) else numbers[["layers", "weights"]]
    assert np.isfinite(bare.to_numpy(float)).all()
    assert type(maker).parse(maker.to_plain()) == maker


def test_measured_layers_are_predicted_without_their_subnet():
    rows = MeasuredLayers().table(lambda text: None).rows
    layers, sums = rows[rows.kind == "layer"], rows[rows.kind == "sum"]
    assert len(layers) == 108 and layers["size"].mean() <= 0.03 and sums["size"].max() <= 0.02
    np.testing.assert_allclose(sums.set_index("subnet").time, layers.groupby("subnet").time.sum(), rtol=1e-12)


def test_violations_are_counted():
    """A query that could have been met and was not is one, whatever the policy."""
    done = serve(table(), stream(table(), "random", 300), policy="strict-latency")
    assert violations(done) == 0
    lowest = serve(table(), stream(table(), "random", 300), policy="strict-accuracy")
    object.__setattr__(lowest, "subnet", np.zeros_like(lowest.subnet))
    assert violations(lowest) == int((lowest.stream.accuracy > table().accuracy[0]).sum()) > 0


def test_other_images_need_a_configuration(tmp_path):
    file = tmp_path / "net.csv"
    file.write_text("slot,k,c,r,x\n0,8,3,3,32\n")
    with pytest.raises(SpecError, match="resolution"):
        chosen(str(file), 160)
    assert chosen("mobilenetv3", 128)[0].resolution == 128
