"""Layers under dataflows: recorded costs repeated, counts equal to literal runs, and what physics asks of both."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xr_layer_runs import run

from dse.domains.xr.analysis import RULES, AccessEnergy, layer_costs
from dse.domains.xr.dataflow import Dataflow, dataflow_ids, load_dataflow
from dse.domains.xr.layer import COLUMNS, from_rows, layer
from dse.domains.xr.layer_validate import validate_layers
from dse.errors import SpecError
from dse.spec.catalogue import asset_root

DIMS = ("C", "K", "R", "S", "Y'", "X'")
DATA = asset_root("data") / "xrbench"
UNIT_LAYERS = pd.read_csv(DATA / "layers.csv")
SHAPES = UNIT_LAYERS[list(COLUMNS)].drop_duplicates()
INSIDE = SHAPES[(SHAPES["R"] <= SHAPES["Y"]) & (SHAPES["S"] <= SHAPES["X"])]
SHIPPED = ("ws", "os", "rs")


def of(rows: pd.DataFrame, groups=1):
    return layer(*(rows[name].to_numpy() for name in COLUMNS), groups)


# Recorded costs


def test_every_recorded_layer_cost_is_repeated():
    """Latency to the cycle, energy to the digits of a double, the buffer to the element: nothing is fitted."""
    found = validate_layers()
    summary = found.summary()
    assert summary["n"] > 4000 and set(summary["by_dataflow"]) == {"OS", "RS", "WS"}
    assert summary["latency"]["worst_ape"] == 0 and summary["energy"]["worst_ape"] < 1e-12
    assert summary["l2_requirement_exact_fraction"] == 1
    assert summary["median_ape"] <= summary["p95_ape"] < 1e-12
    assert "100.00%" in str(found)


@pytest.mark.parametrize(("file", "grouped"), [("model-costs.csv", False), ("model-costs-depthwise.csv", True)])
def test_recorded_costs_of_whole_models_hold_shapes_that_the_table_of_layers_lacks(file, grouped):
    """A third of the shapes are in no recorded row of a layer, yet the sums over models agree to the cycle."""
    table = pd.read_parquet(asset_root("data") / "reference" / "xrbench" / "layer_costs_unique.parquet")
    known = table[list(COLUMNS)].drop_duplicates()
    assert len(SHAPES.merge(known)) < 0.7 * len(SHAPES)
    recorded = pd.read_csv(DATA / file)
    parts = recorded["sub_accelerator"].str.split("-", expand=True)
    layers = of(UNIT_LAYERS, UNIT_LAYERS["groups"].to_numpy() if grouped else 1)
    for (flow, pes, noc), rows in recorded.groupby([parts[0], parts[1], parts[2]]):
        found = layer_costs(layers, flow, int(pes), int(noc))
        sums = pd.DataFrame({"cycles": found.latency, "mJ": 1e3 * found.energy}).groupby(UNIT_LAYERS["task"]).sum()
        sums = sums.loc[rows["model"]]
        assert np.array_equal(sums["cycles"], np.rint(1e6 * rows["latency [ms]"]))
        assert np.allclose(sums["mJ"], rows["energy [mJ]"], rtol=0, atol=6e-7)


def test_the_published_rules_count_more_multiply_adds_than_pointwise_layers_have():
    """The halo that the fork adds does not depend on the kernel: a finding of its own, so it is kept in view."""
    pointwise = of(SHAPES[(SHAPES["R"] == 1) & (SHAPES["S"] == 1)])
    found = layer_costs(pointwise, "ws", 4096, 256)
    ratio = found.macs_counted / found.macs
    assert np.median(ratio) == 16 and ratio.min() >= 1
    exact = layer_costs(pointwise, "ws", 4096, 256, rules="exact")
    assert np.array_equal(exact.macs_counted, exact.macs)


# Literal runs


@st.composite
def loops(draw) -> list[str]:
    """One to three levels of maps in any order, one of each level over units; rows and their kernel come often."""
    lines: list[str] = []
    for depth in range(draw(st.integers(1, 3))):
        if depth:
            lines.append(f"cluster {draw(st.integers(1, 3))}")
        dims = draw(st.lists(st.sampled_from((*DIMS, *AXIS)), min_size=1, max_size=5, unique=True))
        dims = list(dict.fromkeys(dim.strip() for dim in dims))
        spread = draw(st.sampled_from(dims))
        for dim in dims:
            size = draw(st.sampled_from(["1", "2", "3", "all"]))
            lines.append(f"{'spatial' if dim == spread else 'temporal'} {dim} {size}")
    return lines


AXIS = (" Y'", " R")  # twice as likely: windows along them overlap
TINY = st.tuples(*(st.integers(1, most) for most in (3, 3, 5, 3, 7, 3)))


@settings(max_examples=200, deadline=None)
@given(loops(), st.lists(TINY, min_size=3, max_size=3), st.integers(1, 3), st.sampled_from([1, 2, 5]), st.booleans())
def test_exact_counts_are_those_of_a_literal_run(lines, sizes, clusters, bandwidth, depthwise):
    """Cycles and every access, of random loop nests on random tiny layers, element by element."""
    flow = Dataflow.parse({"loops": lines})
    c, k, r, s, y, x = (np.array(column) for column in zip(*sizes, strict=True))
    if depthwise:
        c, k = c + 1, np.ones_like(k)
    layers = layer(k * c if depthwise else k, c, r, s, y + r - 1, x + s - 1, c if depthwise else 1)
    latency = np.array([1, 3, 1])
    pes = clusters * flow.cluster_units
    found = layer_costs(layers, flow, pes, bandwidth, noc_latency=latency, rules="exact")
    for i in range(3):
        extents = {d: int(v[i]) for d, v in zip(DIMS, (c, k, r, s, y, x), strict=True)}
        ran = run(flow, extents, pes, bandwidth, int(latency[i]), depthwise=depthwise)
        expected = accesses_of(ran, len(flow.levels) - 1)
        assert {name: int(found.accesses[name][i]) for name in expected} == expected
        assert (found.latency[i], found.macs[i]) == (ran["cycles"], ran["macs"])
        assert sum(found.bound.values())[i] == found.latency[i]


def accesses_of(ran, last: int) -> dict[str, int]:
    """What a literal run counts, by the names of the analysis."""
    found = {"l2 reads output": ran["added"], "l2 writes output": ran["0 out"]}
    found["cluster writes output"] = sum(ran[f"{d} out"] for d in range(1, last + 1))
    for tensor in ("input", "weight"):
        found[f"l2 reads {tensor}"] = ran[f"0 in {tensor}"]
        found[f"l1 writes {tensor}"] = ran[f"{last} sent {tensor}"]
        found[f"cluster reads {tensor}"] = sum(ran[f"{d} in {tensor}"] for d in range(1, last + 1))
        found[f"cluster writes {tensor}"] = sum(ran[f"{d} sent {tensor}"] for d in range(last))
    return found


@pytest.mark.parametrize(
    ("lines", "rows", "kernel"),
    [
        (["temporal R 2", "spatial Y' 2"], 7, 5),  # windows of neighbours overlap while both slide
        (["spatial Y' 2", "temporal R 2"], 7, 5),
        (["spatial R 2", "temporal Y' 3"], 7, 5),
        (["temporal Y' 1", "spatial R 1"], 6, 5),
        (["temporal R 1", "temporal Y' 4", "spatial K 1"], 7, 3),  # begins again from a cut window
        (["temporal C 1", "temporal R 2", "spatial Y' 1"], 5, 3),  # slides back
        (["temporal Y' 3", "temporal R 4", "spatial K 1"], 7, 5),
    ],
)
def test_sliding_windows_are_those_of_a_literal_run(lines, rows, kernel):
    """Windows that overlap with those of the step before and with those of neighbouring units."""
    flow = load_dataflow(lines)
    for pes in (1, 2, 3):
        extents = dict(zip(DIMS, (2, 3, kernel, 2, rows, 3), strict=True))
        found = layer_costs(layer(3, 2, kernel, 2, rows + kernel - 1, 4), flow, pes, 1, rules="exact")
        ran = run(flow, extents, pes, 1)
        expected = accesses_of(ran, 0)
        assert {name: int(found.accesses[name]) for name in expected} == expected
        assert found.latency == ran["cycles"]


def test_a_matrix_product_in_closed_form():
    """Output channels over 4 PEs: inputs are sent once, weights at each of three steps, which take 5 times 7 cycles."""
    found = layer_costs(layer(10, 5, 1, 1, 1, 7), ["spatial K 1"], 4, 1000, rules="exact")
    assert found.latency == 3 * 5 * 7 and found.utilisation == 10 / 12
    assert (found.accesses["l2 reads input"], found.accesses["l2 reads weight"]) == (5 * 7, 10 * 5)
    assert (found.accesses["l1 writes input"], found.accesses["l2 writes output"]) == (4 * 5 * 7, 10 * 7)
    assert found.l2_required == 2 * (35 + 4 * 5 + 4 * 7) and found.l1_required == 2 * (35 + 5 + 7)
    slow = layer_costs(layer(10, 5, 1, 1, 1, 7), ["spatial K 1"], 4, 1, rules="exact")
    assert slow.latency == (35 + 20) + 35 + 35 and slow.bound["ingress"] == 55


def test_a_diagonal_of_rows_is_kernel_rows_over_units():
    """Row j of the input with row j of the kernel is one row of the output."""
    layers = of(INSIDE)
    lines = ["temporal Y' 1", "spatial K 1", "cluster 4"]
    diagonal = layer_costs(layers, [*lines, "spatial Y 1", "spatial R 1"], 64, 8, rules="exact")
    plain = layer_costs(layers, [*lines, "temporal Y' 1", "spatial R 1"], 64, 8, rules="exact")
    assert np.array_equal(diagonal.latency, plain.latency) and np.array_equal(diagonal.energy, plain.energy)


# Physics


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("flow", SHIPPED)
def test_more_bandwidth_is_never_slower_and_moves_as_much(flow, rules):
    layers = of(INSIDE)
    noc = np.array([[16], [64], [128], [256], [1024]])
    found = layer_costs(layers, flow, 1024, noc, rules=rules)
    assert found.latency.shape == (5, len(INSIDE))
    assert (np.diff(found.latency, axis=0) <= 0).all() and (found.latency[0] > found.latency[-1]).any()
    assert np.ptp(found.energy, axis=0).max() == 0
    later = layer_costs(layers, flow, 1024, noc, rules=rules, noc_latency=4)
    assert (later.latency >= found.latency).all()


@pytest.mark.parametrize("flow", SHIPPED)
def test_exact_counts_keep_the_bounds_of_reuse(flow):
    """Each element crosses at least once, no PE does more than one multiply-add a cycle, no network exceeds its rate."""
    layers = of(INSIDE)
    found = layer_costs(layers, flow, np.array([[1024], [3072]]), 128, rules="exact")
    once = {"input": layers.inputs, "weight": layers.weights, "output": layers.outputs}
    for name in ("input", "weight"):
        assert (found.accesses[f"l2 reads {name}"] >= once[name]).all()
        assert (found.accesses[f"l1 writes {name}"] >= found.accesses[f"l2 reads {name}"]).all()
        assert (found.accesses[f"l1 writes {name}"] <= layers.macs).all()
    assert (found.accesses["l2 writes output"] >= once["output"]).all()
    assert (found.utilisation <= 1).all() and (found.utilisation > 0).all()
    sent = found.accesses["l2 reads input"] + found.accesses["l2 reads weight"]
    assert (128 * found.latency >= sent).all() and (128 * found.latency >= found.accesses["l2 writes output"]).all()
    assert (found.l2_required <= 2 * sum(once.values())).all()


@pytest.mark.parametrize("rules", RULES)
def test_designs_of_a_call_do_not_touch_each_other(rules):
    """One at a time, or all at once in any order: the same numbers."""
    some = SHAPES.sample(12, random_state=3)
    pes, noc = np.array([1024, 2048, 3072] * 4), np.array([64, 128, 256, 100] * 3)
    together = layer_costs(of(some), "os", pes, noc, rules=rules)
    for i in range(12):
        alone = layer_costs(of(some.iloc[i : i + 1]), "OS", pes[i], noc[i], rules=rules)
        assert alone.latency[0] == together.latency[i] and alone.energy[0] == together.energy[i]
        assert alone.l1_required[0] == together.l1_required[i]


def test_energy_is_the_sum_of_its_terms_and_follows_its_prices():
    layers = of(SHAPES.head(40))
    base = layer_costs(layers, "rs", 1024, 128)
    assert np.allclose(base.energy, sum(base.energy_of.values())) and not base.energy_of["dram"].any()
    dear = layer_costs(layers, "rs", 1024, 128, energy=AccessEnergy(mac="5.76 pJ"))
    assert np.allclose(dear.energy, 2 * base.energy)
    free = layer_costs(layers, "rs", 1024, 128, energy=AccessEnergy(l1=0))
    assert np.allclose(free.energy, base.energy - base.energy_of["l1"])


@pytest.mark.parametrize("rules", RULES)
def test_groups_are_that_many_smaller_layers_and_depthwise_ones_one_layer(rules):
    grouped = layer_costs(layer(64, 32, 3, 3, 18, 18, 4), "ws", 1024, 128, rules=rules)
    part = layer_costs(layer(16, 8, 3, 3, 18, 18), "ws", 1024, 128, rules=rules)
    assert grouped.latency == 4 * part.latency and np.isclose(grouped.energy, 4 * part.energy)
    assert grouped.macs == 4 * part.macs and grouped.l2_required == part.l2_required
    dense = layer(64, 64, 3, 3, 18, 18, 64).as_dense()
    depthwise = layer_costs(layer(64, 64, 3, 3, 18, 18, 64), "ws", 1024, 128, rules=rules)
    assert 64 * depthwise.macs == layer_costs(dense, "ws", 1024, 128, rules=rules).macs
    assert depthwise.energy < layer_costs(dense, "ws", 1024, 128, rules=rules).energy


def test_dram_adds_each_tensor_once_where_the_buffer_holds_it():
    layers = of(INSIDE)
    chip = layer_costs(layers, "ws", 1024, 128, rules="exact")
    roomy = layer_costs(layers, "ws", 1024, 128, rules="exact", dram_bandwidth=0.5, l2_size=2**33)
    elements = layers.inputs + layers.weights + layers.outputs
    moved = sum(value for name, value in roomy.accesses.items() if name.startswith("dram"))
    assert np.array_equal(moved, elements) and set(roomy.resident) == {"input+weight+output"}
    assert np.array_equal(roomy.latency, np.maximum(chip.latency, np.ceil(elements / 0.5)))
    assert np.allclose(roomy.energy - chip.energy, 75 * 2.88e-12 * elements) and roomy.fits.all()
    assert np.array_equal(roomy.latency, sum(roomy.bound.values()))
    amounts = []
    for size in (2**33, 2**20, 2**17, 2**14, 1):
        found = layer_costs(layers, "ws", 1024, 128, rules="exact", dram_bandwidth=64, l2_size=size, l1_size=2**20)
        amounts.append(sum(value for name, value in found.accesses.items() if name.startswith("dram")))
        assert np.array_equal(found.fits, (found.l2_required <= size) & (found.l1_required <= 2**20))
    assert (np.diff(amounts, axis=0) >= 0).all() and (amounts[-1] > amounts[0]).any()
    assert set(found.resident) == {""}
    outputs = layers.outputs  # sums that are not complete go out and come back
    assert np.array_equal(found.accesses["dram writes output"], found.accesses["l2 writes output"])
    assert np.array_equal(found.accesses["dram reads output"], found.accesses["l2 writes output"] - outputs)


def test_pes_beyond_whole_clusters_never_work():
    """WS has clusters of 256 PEs: 300 are as good as 256."""
    layers = of(SHAPES.head(20))
    some, whole = (layer_costs(layers, "ws", pes, 128) for pes in (300, 256))
    assert np.array_equal(some.latency, whole.latency) and (some.pes_used == 256).all()


def test_a_table_has_a_row_a_design_and_units():
    table = layer_costs(of(SHAPES.head(7)), "ws", np.array([[1024], [2048]]), 128, dram_bandwidth=32).table()
    assert len(table) == 14 and table["latency [cycles]"].min() > 0
    assert {"energy l2 [J]", "dram bound [cycles]", "l2 reads weight [elements]", "fits"} <= set(table)


# What users write


def test_shipped_dataflows_read_back_as_they_are():
    assert set(SHIPPED) <= set(dataflow_ids())
    for name in dataflow_ids():
        flow = load_dataflow(name)
        assert Dataflow.parse(flow.to_plain()) == flow and load_dataflow(flow) is flow
        assert flow.source_of("loops").url.startswith("https://") and flow.id == name


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "kind: dataflow\nid: mine\nloops:\n  - temporal C all\n  - spatial K 2\n  - cluster 4\n  - spatial X' 1\n"
    )
    flow = load_dataflow(str(path))
    assert flow.cluster_units == 4 and [len(level.maps) for level in flow.levels] == [2, 1]
    assert layer_costs(layer(8, 8, 1, 1, 4, 4), flow, 16, 8, rules="exact").macs == 1024


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["spatial K"], "must read"),
        (["sideways K 1"], "must read"),
        (["spatial N 1"], "dimension must be one of"),
        (["spatial K 0"], "from 1 to"),
        (["spatial K 1", "temporal C -3"], "from 1 to"),
        (["spatial K 1 by 2"], "offset must be at most the size"),
        (["temporal K 1"], "must have one spatial map"),
        (["spatial K 1", "cluster 4"], "level 1"),
        (["spatial K 1", "cluster many", "spatial C 1"], "units must be a whole number"),
        (["spatial K 1", "spatial C 1"], "diagonal"),
        (["spatial Y 1", "spatial R 1", "spatial S 1"], "has 3"),
        (["spatial K 1", "temporal Y 1", "temporal Y' 1"], "must be mapped once"),
        (["spatial K 1", "cluster 2"] * 7 + ["spatial C 1"], "at most 5 clusters"),
        ([], "at least 1 item"),
    ],
)
def test_a_wrong_line_is_named_with_its_rule(lines, says):
    with pytest.raises(SpecError, match=says):
        load_dataflow(lines)


def test_a_dataflow_that_is_not_there_is_told_from_those_that_are(tmp_path):
    with pytest.raises(SpecError, match="did you mean 'ws'"):
        load_dataflow("wss")
    path = tmp_path / "other.yaml"
    path.write_text("kind: cluster\nloops: [spatial K 1]\n")
    with pytest.raises(SpecError, match="kind 'dataflow'"):
        load_dataflow(path)
    path.write_text("id: x\nloops:\n  - spatial K 1\n  - cluster 0\n")
    with pytest.raises(SpecError, match=r"other\.yaml"):
        load_dataflow(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rules": "timeloop"}, "must be one of maestro, exact"),
        ({"pes": 128}, "at least 256"),
        ({"pes": 1e30}, "whole numbers from 1"),
        ({"noc_bandwidth": 0}, "whole numbers from 1"),
        ({"noc_bandwidth": 1.5}, "whole numbers from 1"),
        ({"noc_bandwidth": "wide"}, "must be a number"),
        ({"dram_bandwidth": float("nan")}, "must be numbers from"),
        ({"pes": [1024, 1024, 1024]}, "must broadcast"),
    ],
)
def test_a_machine_that_cannot_be_is_refused(change, says):
    arguments = {"pes": 1024, "noc_bandwidth": 128} | change
    with pytest.raises(SpecError, match=says):
        layer_costs(of(SHAPES.head(2)), "ws", **arguments)


def test_rules_that_do_not_hold_say_so():
    """Some kernels larger than their input get no positive time from MAESTRO; exact counts need output coordinates."""
    with pytest.raises(SpecError, match="use rules 'exact'"):
        layer_costs(layer(1210, 511, 7, 1, 5, 4), "ws", 4096, 128)
    assert layer_costs(layer(1210, 511, 7, 1, 5, 4), "ws", 4096, 128, rules="exact").latency > 0
    with pytest.raises(SpecError, match="must be stated as Y'"):
        layer_costs(layer(8, 8, 3, 3, 9, 9), ["spatial K 1", "temporal Y 4 by 1"], 8, 8, rules="exact")
    with pytest.raises(SpecError, match="must not overlap"):
        layer_costs(layer(8, 8, 3, 3, 9, 9), ["spatial K 2 by 1"], 8, 8, rules="exact")
    with pytest.raises(SpecError, match="must be 1"):
        layer_costs(layer(8, 8, 3, 3, 9, 9), ["spatial Y 2", "spatial R 2"], 8, 8, rules="exact")


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ((0, 1, 1, 1, 4, 4), "K = 0.0"),
        ((1, 1.5, 1, 1, 4, 4), "C = 1.5"),
        ((1, 1, 1, 1, float("inf"), 4), "Y = inf"),
        ((1, "many", 1, 1, 4, 4), "whole numbers"),
        ((6, 4, 1, 1, 4, 4, 3), "must divide K and C"),
        ((2**20, 2**20, 9, 9, 99, 99), "MACs"),
        (([1, 2], [1, 2, 3], 1, 1, 4, 4), "one length"),
    ],
)
def test_a_layer_that_cannot_be_is_refused(sizes, says):
    with pytest.raises(SpecError, match=says):
        layer(*sizes)


def test_layers_come_from_rows_of_a_table():
    rows = SHAPES.head(3).to_dict("records")
    assert np.array_equal(from_rows(rows).macs, of(SHAPES.head(3)).macs)
    with pytest.raises(SpecError, match="X"):
        from_rows([dict.fromkeys(COLUMNS[:-1], 1)])
    with pytest.raises(SpecError, match="a row or more"):
        from_rows([])


def test_a_kernel_that_hangs_over_gives_one_output():
    small = layer(4, 2, 3, 3, 2, 2)
    assert (small.rows, small.columns, small.macs) == (1, 1, 4 * 2 * 9)


GOOD = {"K": 8, "C": 8, "R": 1, "S": 1, "Y": 4, "X": 4, "num_pes": 1024, "noc_bw": 128, "dataflow": "WS"}


def test_errors_of_a_table_are_measured_row_by_row(tmp_path):
    """A recorded latency twice as long is an error of a half; one that is right is none."""
    true = layer_costs(layer(8, 8, 1, 1, 4, 4), "ws", 1024, 128)
    row = GOOD | {"latency_cycles": int(true.latency), "energy_nJ": 1e9 * float(true.energy)}
    path = tmp_path / "t.csv"
    pd.DataFrame([row, row | {"latency_cycles": 2 * row["latency_cycles"]}]).to_csv(path, index=False)
    summary = validate_layers(path).summary()
    assert summary["latency"]["worst_ape"] == 0.5 and summary["latency"]["exact_fraction"] == 0.5
    assert summary["median_ape"] == 0.25 and summary["energy"]["worst_ape"] < 1e-9
    pd.DataFrame([row]).head(0).to_csv(path, index=False)
    assert validate_layers(path).summary()["median_ape"] is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"K": 0}, "K = 0"),
        ({"dataflow": "XS"}, "neither a shipped dataflow"),
        ({"dataflow": None}, "neither a shipped dataflow"),
        ({"num_pes": 16}, "at least 256"),
        ({"latency_cycles": 0}, "must be a positive number"),
        ({"energy_nJ": "much"}, "must be a positive number"),
    ],
)
def test_a_table_that_cannot_be_is_refused(change, says, tmp_path):
    path = tmp_path / "t.csv"
    pd.DataFrame([GOOD | {"latency_cycles": 5, "energy_nJ": 5.0} | change]).to_csv(path, index=False)
    with pytest.raises(SpecError, match=says):
        validate_layers(path)
    pd.DataFrame([GOOD]).to_csv(path, index=False)
    with pytest.raises(SpecError, match="latency_cycles, energy_nJ"):
        validate_layers(path)
