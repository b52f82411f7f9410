"""The public calls as users make them: fixed fields, own quantities, offload, provenance, errors."""

from __future__ import annotations

import json

import pytest

import dse

GPT = ("gpt3-175b", "dgx-a100", "tp=8,pp=8,micro_batch=1,global_batch=1536,zero_stage=1")


@pytest.mark.parametrize("field", ["tp=8", "pp=4", "recompute=full", "micro_batch=2", "zero_stage=1"])
def test_best_keeps_what_base_fixes(field):
    """A field given in ``base`` is not searched."""
    name, _, value = field.partition("=")
    found = dse.best("llama3-70b", "dgx-h100", devices=512, global_batch=1024, base=field)
    assert str(found.strategy[name]) == value


def test_best_searches_large_batches_where_nothing_is_pipelined():
    """Models without sequences run whole batches in one pass."""
    found = dse.best("resnet-50", "dgx-a100", devices=16, global_batch=4096, base="precision=bf16")
    assert found.strategy["micro_batch"] > 16


def test_a_field_named_twice_is_refused():
    """A field cannot be both fixed and searched."""
    with pytest.raises(dse.SpecError, match="name it once"):
        dse.best("llama3-8b", "dgx-h100", devices=8, global_batch=8, base="tp=2", options={"tp": [1, 2]})


def test_own_quantities_take_the_place_of_the_models():
    """A plain function, a decorated one, or a value replaces a quantity, in estimates and searches alike."""

    def bubble(pp):
        return 2.0 * pp

    @dse.quantity("1", "mfu of my own", source="me")
    def mfu(step_time):
        return 1.0 / step_time

    result = dse.estimate(*GPT, devices=1024, replace=[bubble, mfu])
    assert result["bubble"].item() == 16.0
    assert result["mfu"].item() == pytest.approx(1 / result["step_time"].item())
    half = dse.estimate(*GPT, devices=1024, replace={"operator_efficiency": 0.5})
    full = dse.estimate(*GPT, devices=1024, replace={"operator_efficiency": 1.0})
    assert half["step_time"].item() > full["step_time"].item()
    best = dse.best("llama3-8b", "dgx-h100", devices=8, global_batch=8, replace={"operator_efficiency": 0.1})
    assert best["mfu"].item() < 0.12  # causal attention does half of the work that MFU counts
    assert "bubble:" in result.dataset.attrs["replaced"]


@pytest.mark.parametrize("replace", [{"bubbel": 1.0}, [lambda step_time: 1.0]])
def test_replacing_what_does_not_exist_is_refused(replace):
    """A misspelt quantity is an error, not a silent nothing."""
    with pytest.raises(dse.SpecError, match="not a quantity"):
        dse.estimate(*GPT, devices=1024, replace=replace)


def test_offloaded_gradients_move_in_every_backward_pass():
    """Twice the micro-batches move twice the gradients; an offloaded optimizer runs at its tier's speed."""
    text = "tp=8,recompute=full,zero_stage=1,offload_optimizer=ddr,offload_gradients=ddr,overlap_offload=false"
    one, two = (dse.estimate("llama3-70b", "dgx-h100", f"{text},global_batch={b}", devices=8) for b in (32, 64))
    assert two["offload"].item() == pytest.approx(2 * one["offload"].item())
    near = dse.estimate("llama3-70b", "dgx-h100", "tp=8,recompute=full,zero_stage=1,global_batch=32", devices=8)
    assert one["optimizer_time"].item() > 10 * near["optimizer_time"].item()


@pytest.mark.parametrize("term", ["forward", "time.forward", "optimizer", "weights", "dp_comm"])
def test_every_term_of_a_breakdown_can_be_explained(term):
    """The names that breakdowns print are names that ``explain`` takes."""
    assert str(dse.estimate(*GPT, devices=1024).explain(term))


def test_overrides_are_no_longer_the_datasheets(tmp_path):
    """A value that the user changed says so in the explanation; what is inherited keeps its source."""
    mine = tmp_path / "mine.yaml"
    mine.write_text("kind: cluster\nbase: dgx-a100\nid: mine\nnetwork:\n  dimensions:\n"
                    "    - {name: infiniband, bandwidth: 50 GB/s}\n")  # fmt: skip
    result = dse.estimate("gpt3-175b", str(mine), GPT[2], devices=1024)
    text = str(result.explain("pp_comm"))
    assert "given in mine.yaml" in text and "datasheet" in text
    assert "given in the call" in str(result.explain("devices"))


def test_inconsistent_clusters_are_refused(tmp_path):
    """A node of seven devices does not fit a switch of eight; numbers with a dimension need a unit."""
    odd = tmp_path / "odd.yaml"
    odd.write_text("kind: cluster\nbase: dgx-a100\nid: odd\nnode: {base: dgx-a100, devices: 7}\n")
    with pytest.raises(dse.SpecError, match="nest"):
        dse.load_cluster(str(odd))
    odd.write_text("kind: cluster\nbase: dgx-a100\nid: odd\nnetwork:\n  dimensions:\n"
                   "    - {name: infiniband, bandwidth: 25}\n")  # fmt: skip
    with pytest.raises(dse.SpecError, match="needs a unit"):
        dse.load_cluster(str(odd))


def test_a_run_takes_plain_and_short_token_counts():
    """15e12 and 15T are the same run; nothing and less are refused."""
    result = dse.estimate(*GPT, devices=1024)
    run = result.run("15T")
    assert run == result.run(15e12) and all(type(value) is float for value in run.values())
    for wrong in ("-5", "0", "T", "many"):
        with pytest.raises(dse.SpecError, match="tokens"):
            result.run(wrong)


def test_no_legal_design_names_the_rule():
    """When nothing is legal, the message names the rule that stands in the way."""
    with pytest.raises(dse.InfeasibleDesign, match="batch_divides"):
        dse.best("llama3-70b", "dgx-h100", devices=500, global_batch=1024)


def test_provenance_rebuilds_the_table():
    """Axes, values, strategy and device count are kept with the table."""
    attrs = dse.sweep(*GPT, dse.axis("tp", [4, 8]), devices=1024).dataset.attrs
    assert json.loads(attrs["axes"]) == {"tp": [4, 8]} and attrs["devices"] == "1024"
    assert json.loads(attrs["strategy"])["global_batch"] == 1536


def test_points_of_an_axis_can_be_named_with_units():
    """``at`` and ``sel`` understand the unit in which the axis was given."""
    result = dse.sweep(*GPT, dse.axis("cluster.network.inter.bandwidth", [25, 50], unit="GB/s"), devices=1024)
    name = "cluster.network.inter.bandwidth"
    assert result.at(**{name: "50 GB/s"})["step_time"].item() < result.at(**{name: "25 GB/s"})["step_time"].item()


def test_categorical_axes_equal_single_estimates():
    """Mixing kernels along an axis gives each design exactly its own numbers, and no NaN."""
    values = ["flash", "flash1", "fused", "unfused"]
    result = dse.sweep(*GPT, dse.axis("attention", values), dse.axis("precision", ["bf16", "fp16"]), devices=1024)
    for value in values:
        alone = dse.estimate(GPT[0], GPT[1], f"{GPT[2]},attention={value}", devices=1024)
        assert result.at(attention=value, precision="bf16")["step_time"].item() == alone["step_time"].item()
        mixed = result["step_time"].sel(attention=value, precision="bf16").item()
        assert mixed == pytest.approx(alone["step_time"].item(), rel=1e-12)


def test_what_a_run_costs_with_failures_goes_with_its_wall_time():
    """Cost, energy and carbon grow as the time does; along axes each has its own unit, and equals the single design."""
    space = dse.sweep(*GPT, dse.axis("tp", [4, 8]), devices=1024).run("300e9")
    run = dse.estimate(*GPT, devices=1024).run("300e9")
    longer = run["run_wall_time"] / run["run_time"]
    for name in ("energy", "cost", "carbon"):
        assert run[f"run_effective_{name}"] == pytest.approx(longer * run[f"run_{name}"]) and longer > 1
    for name, value in run.items():
        assert space[name].sel(tp=8).item() == pytest.approx(value, rel=1e-12)
    units = {name: array.attrs["units"] for name, array in space.items()}
    assert (units["run_interruptions"], units["run_steps"], units["run_effective_cost"]) == ("1", "1", "USD")


@pytest.mark.parametrize(("name", "hint"), [("blocks", "not a number"), ("breakdown", "time.forward")])
def test_quantities_that_are_not_numbers_say_so(name, hint):
    """A table or list of the cost model is refused by name, with an entry to ask for."""
    with pytest.raises(dse.SpecError, match=hint):
        dse.estimate(*GPT, devices=1024)[name]


def test_an_estimate_shows_goodput_and_cost_of_ownership():
    """Text and summary hold what the design is worth in a long run, and over the life of the cluster."""
    result = dse.estimate(*GPT, devices=1024)
    text, summary = repr(result), result.summary()
    assert "goodput" in text and "TCO" in text and "over 4 years" in text
    assert summary["effective_tokens_per_s"] == pytest.approx(summary["tokens_per_s"] * summary["goodput"])
    assert summary["tco_usd"] == result["tco"].item() == result.number("tco")


@pytest.mark.parametrize(
    ("path", "values", "wrong"), [("cluster.node.devices", [8, 7], "7"), ("cluster.network.intra.size", [8, 12], "12")]
)
def test_axes_keep_nodes_and_network_nested(path, values, wrong):
    """What a cluster refuses in a file it refuses on an axis, by the value; what fits is priced."""
    with pytest.raises(dse.SpecError, match=f"axis {path} = {wrong}: .*does not nest"):
        dse.sweep(*GPT, dse.axis(path, values), devices=1024)
    sizes = dse.axis("cluster.node.devices", [4, 8]), dse.axis("cluster.network.intra.size", [8, 16])
    assert dse.sweep(*GPT, *sizes, devices=1024)["step_time"].size == 2
    with pytest.raises(dse.SpecError, match="= 3, 8: "):
        dse.sweep(*GPT, dse.axis("cluster.node.devices", [3]), dse.axis("cluster.network.intra.size", [3, 8]))


def test_vector_peaks_fall_back_on_matrix_peaks_along_axes():
    """An accelerator without vector peaks uses its matrix peak, on an axis as in a single design."""
    cluster = dse.load_cluster("dgx-a100")
    bare = cluster.accelerator.replace(vector={})
    cluster = cluster.replace(node={**cluster.node.model_dump(), "accelerator": bare.model_dump()})
    peaks = dse.axis("cluster.accelerator.matrix.bf16", [200, 312], unit="TFLOP/s")
    assert dse.sweep(GPT[0], cluster, GPT[2], peaks, devices=1024)["vector_peak"].values.tolist() == [2e14, 3.12e14]
