"""SUSHI's accelerator: array, time, traffic, energy, calibration on measured layers, table and candidate SubGraphs."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dse.domains.sushi import calibrate, candidates, energy, latency, sharing, table
from dse.domains.sushi.accelerator import ACCOUNTINGS, KIND, OVERLAPS, SubGraphAccelerator, load_subgraph_accelerator
from dse.domains.sushi.layers import Layers
from dse.domains.sushi.subnets import SPACES, resnet50, stack
from dse.errors import SpecError
from dse.spec import catalogue

MIB = 2**20
quick = settings(deadline=None, derandomize=True, max_examples=60)
NETS = resnet50()
ALL = stack(NETS)
CORE = sharing.core(ALL)
ROOFLINE = load_subgraph_accelerator("sushi-roofline")
ZCU104 = load_subgraph_accelerator("zcu104")
ROWS = calibrate.measured()
CUT = sharing.truncated(CORE, 1.6 * MIB)
SLOTS = SPACES["ofa-resnet50"].slots
SHORTCUTS = SPACES["ofa-resnet50"].shortcuts


def one(k: int, c: int, r: int, x: int, stride: int = 1, groups: int = 1) -> Layers:
    """A network of one layer."""
    return Layers(*(np.array([value]) for value in (k, c, r, x, stride, groups)))


def roofline(rate: float, bandwidth: float, **changes: object) -> SubGraphAccelerator:
    every = dict.fromkeys(("weight_bandwidth", "input_bandwidth", "output_bandwidth"), bandwidth)
    return ROOFLINE.replace(clock=rate / ROOFLINE.tile_bytes, **every, **changes)


def saved(machine: SubGraphAccelerator, layers: Layers, held: sharing.SubGraph) -> np.ndarray:
    """Percent of each SubNet's latency that a SubGraph saves."""
    cached = sharing.cached_weights(layers, sharing.stacked([held]))
    times = latency.subnet_times(machine, layers, np.concatenate([np.zeros_like(cached), cached], axis=1))
    return 100 * (1 - times[:, 1] / times[:, 0])


# -- the array ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layer", "tiles"), [
    (one(16, 9, 3, 8), 1),  # one window of 9 channels for 16 kernels a cycle
    (one(17, 10, 3, 8), 4),
    (one(16, 81, 1, 8), 1),  # 1x1: nine channels share the taps of a DPE
    (one(16, 82, 1, 8), 2),
    (one(16, 3, 7, 8), 3),  # 7x7 of three channels: three sub-layers
    (one(16, 9, 5, 8), 4),
    (one(9, 1, 3, 8, 1, 9), 1),  # depthwise: a row of DPEs uses one of the nine channels that all rows get
    (one(90, 1, 3, 8, 1, 90), 10),
    (one(16, 2, 3, 8, 1, 4), 1),  # four groups of four kernels and two channels
    (one(16, 5, 3, 8, 1, 2), 2),  # two groups of five channels do not fit nine
])  # fmt: skip
def test_tiles_of_the_array(layer: Layers, tiles: int) -> None:
    """Layers fold into whole tiles of 16 kernels, 9 channels and 9 taps, each an input pixel a cycle."""
    done = latency.work(ZCU104, layer)
    assert done.tiles == tiles
    assert done.cycles == tiles * 64
    assert done.weights == tiles * 1296


@given(st.integers(1, 200), st.integers(1, 200), st.sampled_from([1, 3, 5, 7]), st.integers(1, 30), st.booleans(),
       st.integers(1, 40), st.integers(1, 20), st.integers(1, 16))  # fmt: skip
@quick
def test_no_layer_beats_the_peak(k, c, r, x, depthwise, kernels, channels, taps) -> None:
    """An array of any shape computes at most a multiply-add a cycle for each of its multipliers, and holds every weight."""
    layer = one(k, 1, r, x, 1, k) if depthwise else one(k, c, r, x)
    machine = ZCU104.replace(kernels=kernels, channels=channels, taps=taps)
    done = latency.work(machine, layer)
    assert done.cycles[0] * machine.tile_bytes >= layer.macs[0]
    assert done.weights[0] >= layer.weights[0]
    assert latency.work(machine.replace(folding="ideal"), layer).cycles[0] <= done.cycles[0]


def test_a_full_array_reaches_its_peak() -> None:
    """A layer of whole tiles computes 0.1296 TMAC/s at 100 MHz."""
    layer = one(160, 90, 3, 20)
    assert ZCU104.macs_per_second == 0.1296e12
    assert layer.macs[0] / (latency.work(ZCU104, layer).cycles[0] / ZCU104.clock) == pytest.approx(0.1296e12)


# -- measured layers ----------------------------------------------------------------------------------------


def test_measured_layers_are_predicted_without_their_subnet() -> None:
    """108 layers on a ZCU104: mean error at most 3 % where a SubNet's layers were left out of the fit (1.42 %)."""
    found = calibrate.validate()
    assert len(found.rows) == 108
    assert found.mape <= 0.03
    assert found.mape == pytest.approx(0.0142, abs=2e-4)
    assert found.worst < 0.08
    assert np.abs(found.totals["error"]).max() <= 0.02


def test_totals_of_the_measured_layers() -> None:
    """The catalogue's calibrated accelerator gives the sums of the 3x3 layers of A to F within 2 %."""
    rows, wanted = calibrate.measured(), [7.20, 9.93, 18.09, 24.56, 34.86, 35.63]
    rows["model"] = 1e3 * calibrate.times(load_subgraph_accelerator("zcu104-calibrated"), rows)
    sums = rows.groupby("subnet")[["ms", "model"]].sum()
    assert sums["ms"].round(2).tolist() == wanted
    assert sums["model"].to_numpy() == pytest.approx(wanted, rel=0.02)


def test_the_calibrated_entry_is_what_the_script_writes(tmp_path: Path) -> None:
    """``zcu104-calibrated`` is the fit, whose constants are those found before: 1.136, 0.298, 0.086 and 0.090."""
    assert calibrate.write(tmp_path / "fit.yaml").read_text() == catalogue.locate(KIND, "zcu104-calibrated").read_text()
    fit = calibrate.fit(calibrate.measured())
    found = (fit.compute_overhead, 1e9 / fit.weight_bandwidth, 1e9 / fit.input_bandwidth, 1e3 * fit.layer_time)
    assert found == pytest.approx((1.136, 0.298, 0.086, 0.090), abs=6e-4)


@given(st.floats(1, 3), st.floats(1e9, 2e10), st.floats(1e9, 2e10), st.floats(0, 1e-3), st.integers(0, 2))
@quick
def test_calibration_recovers_what_made_the_times(overhead, weights, inputs, fixed, border) -> None:
    """Times computed from known constants are fitted by those constants."""
    rows = ROWS.copy()
    truth = load_subgraph_accelerator("zcu104-calibrated").replace(
        border=border, compute_overhead=overhead, weight_bandwidth=weights, input_bandwidth=inputs, layer_time=fixed
    )
    rows["time"] = calibrate.times(truth, rows)
    found = calibrate.fit(rows, border=border)
    for name in ("compute_overhead", "weight_bandwidth", "input_bandwidth", "layer_time"):
        assert getattr(found, name) == pytest.approx(getattr(truth, name), rel=1e-6, abs=1e-9)


def test_calibration_refuses_what_tells_nothing(tmp_path: Path) -> None:
    """Rows too few, all alike, faster than the array can be, or not numbers are refused by name."""
    rows = calibrate.measured()
    with pytest.raises(SpecError, match="3 rows"):
        calibrate.fit(rows[:3])
    with pytest.raises(SpecError, match="too much alike"):
        calibrate.fit(rows[rows["k"] == 64].iloc[[0] * 6])
    with pytest.raises(SpecError, match="faster than its clock"):
        calibrate.fit(rows.assign(time=rows["time"] / 2))
    lines = calibrate.shipped().read_text().splitlines()
    for text, message in (
        ("\n".join([*lines[:3], lines[3].replace("32", "-32")]), r"k = .*-32.*whole number"),
        ("\n".join([*lines[:3], lines[3].rpartition(",")[0] + ",soon"]), r":4: ms"),
        ("\n".join(line.rpartition(",")[0] for line in lines), "ms: column is missing"),
    ):
        file = tmp_path / "rows.csv"
        file.write_text(text)
        with pytest.raises(SpecError, match=message):
            calibrate.measured(file)
    with pytest.raises(SpecError, match="cannot be read"):
        calibrate.measured(tmp_path / "none.csv")


# -- what caching saves -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "bandwidth", "buffer", "percent"), [
    (0.1296e12, 3.36e9, 1.69, [7.4, 4.9, 2.7, 2.0, 1.5, 1.3]),
    (0.1296e12, 3.36e9, 7.55, [33.0, 21.7, 12.0, 8.9, 6.5, 5.9]),
    (0.648e12, 19.2e9, 1.69, [6.8, 4.5, 2.4, 1.8, 1.3, 1.2]),
    (0.648e12, 19.2e9, 3.38, [13.6, 8.9, 4.9, 3.6, 2.6, 2.4]),
    (0.648e12, 19.2e9, 7.55, [30.4, 20.0, 10.9, 8.1, 5.9, 5.3]),
    (1.296e12, 19.2e9, 3.38, [19.6, 13.0, 7.4, 5.5, 4.3, 3.8]),
    (0.648e12, 4.8e9, 3.38, [24.5, 16.4, 9.7, 7.2, 6.1, 5.5]),
])  # fmt: skip
def test_savings_with_exposed_weights(rate: float, bandwidth: float, buffer: float, percent: list[float]) -> None:
    """The roofline with exposed weights and what all six share in the buffer saves what was derived independently."""
    held = sharing.truncated(CORE, buffer * MIB)
    assert saved(roofline(rate, bandwidth), ALL, held) == pytest.approx(percent, abs=0.2)


@pytest.mark.parametrize(("rate", "buffer", "percent"), [
    (0.648e12, 1.69, [3.2, 2.1, 0, 0, 0, 0]),
    (1.296e12, 3.38, [18.4, 12.4, 8.2, 7.3, 3.5, 3.2]),
])  # fmt: skip
def test_savings_with_all_memory_overlapped(rate: float, buffer: float, percent: list[float]) -> None:
    """Where all memory hides behind the array, the last layers (few pixels, many weights) are those worth caching."""
    held = sharing.truncated(CORE, buffer * MIB, np.arange(len(SLOTS))[::-1])
    assert saved(roofline(rate, 19.2e9, overlap="all"), ALL, held) == pytest.approx(percent, abs=0.2)


@pytest.mark.parametrize(("expand", "depth", "kernel", "resolution", "percent"), [
    (3, 2, 3, 160, [13.5, 25.2, 26.9]),
    (3, 2, 3, 224, [7.9, 16.5, 18.0]),
    (4, 3, 5, 224, [4.3, 10.6, 11.9]),
    (6, 4, 7, 224, [2.0, 6.2, 7.1]),
])  # fmt: skip
def test_savings_on_mobilenets(expand: int, depth: int, kernel: int, resolution: int, percent: list[float]) -> None:
    """Uniform MobileNetV3 nets with 1.69 MiB of their own weights cached: up to a quarter of the latency."""
    space = SPACES["ofa-mobilenetv3"].replace(counted=("final-expand", "feature-mix", "classifier"))
    net = space.subnet(space.uniform(expand=expand, depth=depth, kernel=kernel, resolution=resolution))
    layers, held = stack([net]), sharing.truncated(net, 1.69 * MIB)
    found = [saved(roofline(rate, 19.2e9), layers, held)[0] for rate in (0.1296e12, 0.648e12, 1.296e12)]
    assert found == pytest.approx(percent, abs=0.2)


def test_savings_on_the_measured_board() -> None:
    """Where weights take 3.36 GB/s, a persistent buffer of 1.69 MiB saves half a millisecond of any of the SubNets."""
    machine = load_subgraph_accelerator("zcu104-calibrated").replace(storage="dense")
    held = sharing.truncated(CORE, machine.persistent_buffer)
    cached = sharing.cached_weights(ALL, sharing.stacked([held]))
    times = latency.subnet_times(machine, ALL, np.concatenate([0 * cached, cached], axis=1))
    assert 1e3 * (times[:, 0] - times[:, 1]) == pytest.approx([0.526] * 6, abs=2e-3)


# -- traffic and energy -------------------------------------------------------------------------------------


def share_saved(accounting: str, cached: np.ndarray) -> np.ndarray:
    """Percent of the off-chip bytes of each SubNet that cached weights [subnet, slot] save."""
    moved = [
        energy.traffic(ROOFLINE, ALL, hits, accounting=accounting, shortcuts=SHORTCUTS).total.sum(axis=-1)
        for hits in (0.0, cached)
    ]
    return 100 * (1 - moved[1] / moved[0])


def test_savings_of_traffic_by_accounting() -> None:
    """Weights alone with 3.985 MiB cached save 52.6 % (A) and 14.5 % (F); all traffic with the whole core 55.6 and 14.4 %."""
    part = sharing.shared(ALL, sharing.truncated(CORE, 3.985 * MIB)).weights
    whole = sharing.shared(ALL, CORE).weights
    assert share_saved("weights", part)[[0, 5]] == pytest.approx([52.6, 14.5], abs=0.1)
    assert share_saved("residuals", whole)[[0, 5]] == pytest.approx([55.6, 14.4], abs=0.1)
    assert share_saved("layers", whole)[[0, 5]] == pytest.approx([60.8, 15.9], abs=0.11)


def test_accountings_count_more_and_more() -> None:
    """Each accounting counts at least what the one before does, and a larger streaming buffer spills no more."""
    machine = ROOFLINE.replace(streaming_buffer=200e3)
    assert SHORTCUTS.sum() == 19  # blocks of the largest network and the middle of its stem
    moved = [
        energy.traffic(machine, ALL, accounting=name, shortcuts=SHORTCUTS).total.sum(axis=-1) for name in ACCOUNTINGS
    ]
    assert list(ACCOUNTINGS) == ["weights", "boundary", "spilled", "layers", "residuals"]
    assert (np.diff(np.array(moved), axis=0) > 0).all()
    sizes = machine.over(streaming_buffer=np.linspace(1e3, 2e6, 50))
    spilled = energy.traffic(sizes, ALL, accounting="spilled").total.sum(axis=-1)
    assert (np.diff(spilled, axis=0) <= 0).all()
    assert spilled[-1] == pytest.approx(energy.traffic(ROOFLINE, ALL, accounting="boundary").total.sum(axis=-1))
    with pytest.raises(SpecError, match="shortcuts"):
        energy.traffic(machine, ALL, accounting="residuals")
    with pytest.raises(SpecError, match="accounting = 'spilled': needs the size of the accelerator's streaming_buffer"):
        energy.traffic(ROOFLINE, ALL, accounting="spilled")
    with pytest.raises(SpecError, match="must be one of weights"):
        energy.traffic(machine, ALL, accounting="bytes")


def test_energy_of_a_layer() -> None:
    """The energy of one layer is counted by hand: multiply-adds, bytes on chip and off, and idle power."""
    machine = ZCU104.replace(
        energy_per_mac=1.0, energy_per_on_chip_byte=0.0, energy_per_off_chip_byte=0.0, storage="dense"
    )
    layer = one(32, 18, 3, 4)
    assert energy.layer_energy(machine, layer).total == 32 * 18 * 9 * 16
    off = machine.replace(energy_per_mac=0.0, energy_per_off_chip_byte=1.0)
    assert energy.layer_energy(off, layer, 1000).total == 32 * 18 * 9 - 1000 + (18 + 32) * 16
    on = machine.replace(energy_per_mac=0.0, energy_per_on_chip_byte=1.0)
    crossing, weights, inputs, outputs = 32 * 18 * 9 - 1000 + 50 * 16, 32 * 18 * 9, 2 * 18 * 16, 32 * 16
    assert energy.layer_energy(on, layer, 1000).total == crossing + weights + inputs + outputs * (1 + 2 * 4)
    idle = machine.replace(energy_per_mac=0.0, idle_power=5.0)
    assert energy.layer_energy(idle, layer).total == 5 * latency.layer_times(idle, layer).total
    for name in ("weights", "residuals"):  # what is counted as traffic does not change how long the board is on
        idle = ZCU104.replace(energy_per_mac=0.0, energy_per_on_chip_byte=0.0, energy_per_off_chip_byte=0.0,
                              idle_power=5.0)  # fmt: skip
        priced = table.build(idle, NETS, [CUT], accounting=name)
        np.testing.assert_allclose(priced.energy, 5 * priced.latency, rtol=1e-12)
    assert energy.load_energy(on.replace(energy_per_off_chip_byte=2.0 / 3), 300) == pytest.approx(500)
    assert energy.load_time(ROOFLINE, 19.2e9) == pytest.approx(1)


# -- properties ---------------------------------------------------------------------------------------------

machines = st.builds(
    lambda name, **changes: load_subgraph_accelerator(name).replace(**changes),
    st.sampled_from(catalogue.ids(KIND)),
    overlap=st.sampled_from(list(OVERLAPS)),
    accounting=st.sampled_from(["weights", "boundary", "spilled", "layers"]),
    storage=st.sampled_from(["padded", "dense"]),
    folding=st.sampled_from(["tiles", "ideal"]),
    weight_bandwidth=st.floats(1e8, 1e11),
    streaming_buffer=st.floats(0, 1e6),
    layer_time=st.floats(0, 1e-4),
    idle_power=st.floats(0, 10),
)
shares = st.lists(st.floats(0, 1), min_size=2, max_size=2)


def total(machine: SubGraphAccelerator, share: float) -> np.ndarray:
    return latency.layer_times(machine, ALL, share * ALL.weights).total.sum(axis=-1)


@given(machines, shares)
@quick
def test_more_cached_never_takes_longer(machine: SubGraphAccelerator, share: list[float]) -> None:
    """More weights cached: no more latency, traffic or energy, whatever the accelerator."""
    less, more = (x * ALL.weights for x in sorted(share))
    slack = 1 + 1e-12
    assert (
        latency.layer_times(machine, ALL, more).total <= latency.layer_times(machine, ALL, less).total * slack
    ).all()
    assert (energy.traffic(machine, ALL, more).total <= energy.traffic(machine, ALL, less).total * slack).all()
    assert (
        energy.layer_energy(machine, ALL, more).total <= energy.layer_energy(machine, ALL, less).total * slack
    ).all()


@given(machines, st.floats(0, 1))
@quick
def test_more_overlap_never_takes_longer(machine: SubGraphAccelerator, share: float) -> None:
    """In the order of the rules each hides at least as much as the one before, and none less than nothing."""
    found = [latency.layer_times(machine.replace(overlap=rule), ALL, share * ALL.weights) for rule in OVERLAPS]
    for before, after in pairwise(found):
        assert (after.total <= before.total * (1 + 1e-12)).all()
    for times in found:
        assert (times.hidden >= -1e-12 * times.total).all()
        assert (
            times.total >= np.maximum(times.compute, np.maximum(times.weights, times.activations)) * (1 - 1e-12)
        ).all()
        assert (times.total[~ALL.present] == 0).all()


@given(machines, st.floats(0, 1), st.floats(1, 10), st.sampled_from(
    ["clock", "weight_bandwidth", "input_bandwidth", "output_bandwidth", "streaming_buffer", "burst_efficiency"]
))  # fmt: skip
@quick
def test_faster_hardware_never_takes_longer(machine, share: float, factor: float, name: str) -> None:
    """More clock, bandwidth or streaming buffer never makes a SubNet slower."""
    value = getattr(machine, name)
    if value is None:
        return
    better = machine.replace(**{name: min(value * factor, 1.0) if name == "burst_efficiency" else value * factor})
    assert (total(better, share) <= total(machine, share) * (1 + 1e-12)).all()


@given(st.floats(0, 3e7), st.floats(1, 4), st.integers(0, 5), st.permutations(range(len(SLOTS))), machines)
@quick
def test_a_larger_buffer_never_takes_longer(size, factor, net, order, machine) -> None:
    """What is cut to a larger buffer in the same order saves at least as much for every SubNet."""
    cut = [sharing.truncated(NETS[net], budget, np.array(order)) for budget in (size, size * factor)]
    times = latency.subnet_times(machine, ALL, sharing.cached_weights(ALL, sharing.stacked(cut)))
    assert (times[:, 1] <= times[:, 0] * (1 + 1e-12)).all()


def test_hardware_as_axes_equals_one_by_one() -> None:
    """A design space in one call gives bit for bit what each design gives alone."""
    bandwidths, clocks, kernels = np.array([3e9, 9e9, 27e9]), np.array([[1e8], [5e8]]), np.array([[8], [32]])
    grid = ZCU104.over(weight_bandwidth=bandwidths, clock=clocks).over(kernels=kernels)
    cached = sharing.cached_weights(ALL, sharing.stacked([CORE, sharing.truncated(CORE, 1e6)]))
    found = latency.subnet_times(grid, ALL, cached)
    assert found.shape == (2, 3, 6, 2)
    for i, j in np.ndindex(2, 3):
        single = ZCU104.replace(clock=clocks[i, 0], kernels=int(kernels[i, 0]), weight_bandwidth=bandwidths[j])
        assert np.array_equal(found[i, j], latency.subnet_times(single, ALL, cached))
        assert single.area == pytest.approx(grid.area[i, 0])


def test_explanation_adds_up() -> None:
    """The rows that explain a SubNet's latency are its layers, and add up to it."""
    hits = sharing.shared(NETS[0], CORE).weights
    rows = latency.explain(ROOFLINE, NETS[0].layers, hits)
    assert len(rows) == NETS[0].layers.present.sum() == 39
    assert rows["total"].sum() == pytest.approx(latency.layer_times(ROOFLINE, NETS[0].layers, hits).total.sum())
    parts = rows[["compute", "weights", "activations", "fixed"]].sum(axis=1) - rows["hidden"]
    assert parts.to_numpy() == pytest.approx(rows["total"].to_numpy())
    bare = latency.layer_times(ROOFLINE, NETS[0].layers).total.sum()
    assert rows["saved"].sum() == pytest.approx(bare - rows["total"].sum())


@pytest.mark.parametrize(("changes", "message"), [
    ({"overlap": "some"}, "overlap"),
    ({"clock": "100 MB"}, "clock"),
    ({"dynamic_buffer": "1 kB"}, "needs 1 tile"),
    ({"dynamic_buffer": "2 kB", "overlap": "ping_pong"}, "needs 2 tile"),
    ({"kernel": 3}, "did you mean 'kernels'"),
])  # fmt: skip
def test_wrong_accelerators_are_refused(changes: dict[str, object], message: str) -> None:
    """What is wrong with an accelerator is named."""
    with pytest.raises(SpecError, match=message):
        load_subgraph_accelerator({"base": "zcu104", **changes})


@pytest.mark.parametrize(("changes", "message"), [
    ({"kernels": [16, 0]}, "kernels = 0"),
    ({"kernels": [2.5]}, "whole number"),
    ({"size": [1]}, "numeric field"),
    ({"clock": []}, "one value or more"),
    ({"clock": [1e8, np.nan]}, "finite"),
    ({"kernels": [1, 2], "clock": [1e8] * 3}, "broadcast"),
    ({"kernels": [16, 10000]}, "too small"),
])  # fmt: skip
def test_wrong_axes_are_refused(changes: dict[str, list], message: str) -> None:
    """What is wrong with an axis of hardware is named."""
    with pytest.raises(SpecError, match=message):
        ZCU104.over(**changes)


# -- table and candidates -----------------------------------------------------------------------------------


def built() -> table.LatencyTable:
    found = candidates.named_candidates(NETS, ROOFLINE.persistent_buffer, 24, 0, accelerator=ROOFLINE)
    return table.build(ROOFLINE, NETS, found)


def test_the_table_is_what_each_pair_gives() -> None:
    """Each cell is the sum of the layers' times and energies; column 0 is the empty buffer."""
    made, held = built(), candidates.candidates(NETS, ROOFLINE.persistent_buffer, 24, 0, accelerator=ROOFLINE)
    assert made.subgraphs[0] == "none" and len(made.subgraphs) == 25
    for i, j in ((0, 1), (3, 7), (5, 24)):
        hits = sharing.shared(NETS[i], held[j - 1]).weights
        assert made.latency[i, j] == pytest.approx(latency.layer_times(ROOFLINE, NETS[i].layers, hits).total.sum())
        assert made.energy[i, j] == pytest.approx(energy.layer_energy(ROOFLINE, NETS[i].layers, hits).total.sum())
        assert made.off_chip[i, 0] - made.off_chip[i, j] == made.hits[i, j] == hits.sum()
        assert made.load_time[j] == made.load_bytes[j] / 19.2e9
    assert (made.saving[:, 0] == 0).all() and (made.hit <= 1).all() and (made.hit[:, 1:].max(axis=1) > 0).all()
    assert made.accuracy.tolist() == [net.accuracy for net in NETS]
    assert made.subnet_vectors.shape == (6, 122) and not made.subgraph_vectors[0].any()
    assert made.select([0, 7, 3]).subgraphs == ("none", made.subgraphs[7], made.subgraphs[3])
    dataset = made.to_xarray()
    assert dataset["latency"].attrs["units"] == "s"
    assert (
        float(dataset["latency"].sel(subnet="D", subgraph="shared last"))
        == made.latency[3, made.subgraphs.index("shared last")]
    )


def test_a_saved_table_reads_back_the_same(tmp_path: Path) -> None:
    """A table survives CSV bit by bit."""
    made = built()
    again = table.load(made.save(tmp_path / "table.csv"))
    for field in fields(made):
        assert np.array_equal(getattr(made, field.name), getattr(again, field.name)), field.name


TABLE = "subnet,subgraph,latency [s],accuracy\nA,G1,0.9,0.7\nB,G1,1.5,0.8\nA,none,1,0.7\nB,none,2,0.8\n"


def test_a_table_of_the_users_own(tmp_path: Path) -> None:
    """Names, latencies and accuracies are enough, in any order."""
    file = tmp_path / "table.csv"
    file.write_text(TABLE)
    found = table.load(file)
    assert found.subgraphs == ("none", "G1") and found.latency.tolist() == [[1, 0.9], [2, 1.5]]
    assert found.accuracy.tolist() == [0.7, 0.8] and not found.energy.any() and found.subnet_vectors.shape == (2, 0)


@pytest.mark.parametrize(("old", "new", "message"), [
    ("latency [s]", "latency", r"latency \[s\]: column is missing"),
    ("B,G1,1.5", "B,G1,-1", r":3: latency \[s\] = '-1'"),
    ("B,G1,1.5", "B,G1,nan", r":3: latency"),
    ("B,G1,1.5", "A,G1,1.5", r":3: row = A, G1: is given twice"),
    ("B,G1,1.5,0.8\n", "", "B, G1: is missing"),
    ("none", "empty", "needs rows of the empty buffer"),
])  # fmt: skip
def test_wrong_tables_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    """The line and column of what is wrong in a table are named."""
    file = tmp_path / "table.csv"
    file.write_text(TABLE.replace(old, new))
    with pytest.raises(SpecError, match=message):
        table.load(file)


def test_what_cannot_be_in_one_table_is_refused() -> None:
    """SubGraphs larger than the buffer or of other slots, names given twice and arrays of hardware are refused."""
    with pytest.raises(SpecError, match="must fit the persistent buffer"):
        table.build(ROOFLINE, NETS, [CORE])
    with pytest.raises(SpecError, match="61 slots"):
        table.build(ROOFLINE, NETS, [sharing.SubGraph(*(np.ones(3, int),) * 3)])
    with pytest.raises(SpecError, match="= A: is given twice"):
        table.build(ROOFLINE, [NETS[0], NETS[0]], [])
    with pytest.raises(SpecError, match="no arrays"):
        table.build(ROOFLINE.over(clock=[1e8, 2e8]), NETS, [])


@given(st.floats(0, 4e7), st.integers(1, 40), st.integers(0, 3), st.sets(st.sampled_from(candidates.KINDS), min_size=1))
@settings(deadline=None, derandomize=True, max_examples=25)
def test_candidates_fit_and_differ(size: float, count: int, seed: int, kinds: set[str]) -> None:
    """Candidates fit the buffer, differ, hold something, are no more than asked for, and are the same another time."""
    wanted = [kind for kind in candidates.KINDS if kind in kinds]
    found = candidates.candidates(NETS, size, count, seed, kinds=wanted)
    again = candidates.candidates(NETS, size, count, seed, kinds=wanted)
    assert len(found) <= count
    assert all(0 < sharing.nbytes(held) <= size for held in found)
    keys = [np.stack(held).tobytes() for held in found]
    assert len(set(keys)) == len(keys) and keys == [np.stack(held).tobytes() for held in again]


@pytest.mark.parametrize("overlap", ["activations", "all"])
@pytest.mark.parametrize("buffer", [1.0, 1.69, 4.0])
def test_greedy_is_near_the_bound(overlap: str, buffer: float) -> None:
    """What is chosen for one SubNet by time per byte comes within 1 % of what its bytes could save at most."""
    machine = ROOFLINE.replace(overlap=overlap, persistent_buffer=buffer * MIB)
    found = candidates.named_candidates(NETS, buffer * MIB, 7, 0, kinds=("greedy",), accelerator=machine)
    made = table.build(machine, NETS, found)
    bare, whole = (latency.layer_times(machine, ALL, hits).total.sum(axis=-1) for hits in (0.0, ALL.weights))
    bound = np.minimum(bare - whole, buffer * MIB / machine.weight_bandwidth)
    best = made.latency[:, 0] - made.latency.min(axis=1)
    assert (best <= bound * (1 + 1e-9)).all()
    assert (best >= 0.99 * bound).all()


def test_wrong_candidates_are_refused() -> None:
    """An unknown kind, no kind, no candidates and a negative buffer are refused; an empty buffer has no candidates."""
    for arguments, message in (
        ((1e6, 5, 0, ("cut",)), "must be one of cuts"),
        ((1e6, 5, 0, ()), "one or more of"),
        ((1e6, 0, 0, ("cuts",)), "1 or more"),
        ((-1.0, 5, 0, ("cuts",)), "0 bytes or more"),
    ):
        with pytest.raises(SpecError, match=message):
            candidates.candidates(NETS, *arguments[:3], kinds=arguments[3])
    assert candidates.candidates(NETS, 0, 5, 0) == []
