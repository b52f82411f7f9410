"""Measured collectives: closed forms of the link constants, their limits, the fit, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dse.accuracy.collectives import fit_collectives, held_out_collectives, validate_collectives, with_relatives
from dse.accuracy.corpus import measured
from dse.accuracy.fabrics import cases_of
from dse.cost.network import Links
from dse.errors import SpecError
from dse.spec.hardware import NetworkDimension

KINDS = ("all_reduce", "reduce_scatter", "all_gather", "all_to_all", "broadcast", "point_to_point")
SIZES = 2.0 ** np.arange(8, 36)
BW = 1e11


def dimension(**fields: Any) -> NetworkDimension:
    return NetworkDimension(**{"name": "d", "topology": "switch", "algorithm": "ring", "bandwidth": BW, **fields})


def seconds(kind: str, size: Any, *parts: tuple[NetworkDimension, Any]) -> Any:
    return Links([d for d, _ in parts], {"g": [n for _, n in parts]}, 64).time(kind, "g", size)


@pytest.fixture(scope="module")
def constants() -> dict[str, dict[str, Any]]:
    return fit_collectives()


# -- closed forms -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [2, 8])
def test_neutral_constants_are_the_ideal_link(kind: str, n: int) -> None:
    """Constants that say nothing new give the ideal time exactly, whether in one dimension or in two."""
    neutral = {"small_efficiency": 1.0, "small_latency": 1e-6, "pair_efficiency": 1.0, "flat": False, "contention": 0.0}
    plain, spelled = dimension(latency=1e-6), dimension(latency=1e-6, **neutral)
    for parts in ((n,), (n, 4)):
        ideal = seconds(kind, SIZES, *((plain, k) for k in parts))
        assert np.array_equal(seconds(kind, SIZES, *((spelled, k) for k in parts)), ideal)


@pytest.mark.parametrize("n", [2, 4, 16])
def test_a_ring_of_constants_in_closed_form(n: int) -> None:
    """An all-gather takes start-up, steps, transfer, the copy of the own share, and the ramp of both."""
    d = dimension(overhead=1e-5, latency=2e-6, efficiency=0.8, ramp=3e-6, own_copy=0.5)
    busy = SIZES * ((n - 1) / n + 0.5 / n) / (0.8 * BW)
    wanted = 1e-5 + (n - 1) * 2e-6 + busy + 2 * np.sqrt(busy * 3e-6)
    assert np.allclose(seconds("all_gather", SIZES, (d, n)), wanted, rtol=1e-12)


def test_the_ramp_is_the_best_cut_of_a_message() -> None:
    """Searching all numbers of pieces of a message that one more hop passes on finds the square root."""
    busy, ramp, pieces = 1e-3, 1e-7, np.arange(1.0, 1e4)
    searched = np.min((1 + pieces) * (ramp + busy / pieces)) - ramp  # the first piece's start is in the latency
    d = dimension(ramp=ramp)
    assert float(seconds("point_to_point", busy * BW, (d, 2))) == pytest.approx(searched, rel=1e-6)


def test_the_quicker_protocol_is_taken() -> None:
    """The protocol for small messages starts sooner and sends slower; each size takes the lesser time."""
    bulk, small = dimension(overhead=2e-5), dimension(overhead=5e-6, efficiency=0.25)
    both = dimension(overhead=2e-5, small_overhead=5e-6, small_efficiency=0.25)
    wanted = np.minimum(seconds("all_reduce", SIZES, (bulk, 8)), seconds("all_reduce", SIZES, (small, 8)))
    assert np.allclose(seconds("all_reduce", SIZES, (both, 8)), wanted, rtol=1e-12)


def test_pairs_have_few_channels() -> None:
    """In the small protocol an all-to-all takes at least a message to one peer at the rate of a pair."""
    slow = dimension(small_efficiency=0.5, pair_efficiency=0.01, overhead=1.0)
    assert float(seconds("all_to_all", 8e6, (slow, 8))) == pytest.approx(1e6 / (0.01 * BW))
    assert float(seconds("all_gather", 8e6, (slow, 8))) == pytest.approx(7e6 / (0.5 * BW))


def test_reduction_in_the_switch_competes_with_the_ring() -> None:
    """A slow reduction pays where the ring sends twice the buffer, not between two devices; its bytes count once."""
    d = dimension(in_network_reduction=True, in_network_efficiency=0.7)
    assert float(seconds("all_reduce", 1e9, (d, 8))) == pytest.approx(1e9 / (0.7 * BW))
    assert float(seconds("all_reduce", 1e9, (d, 2))) == pytest.approx(1e9 / BW)
    assert float(Links([d], {"g": [8.0]}, None).load("all_reduce", "g", 1e9)[0]) == 1e9


def test_contention_on_a_shared_root() -> None:
    """The rate of each device falls as (2 / n)^contention."""
    d, free = dimension(contention=2.0), dimension()
    ratio = seconds("all_gather", 1e9, (d, 8)) / seconds("all_gather", 1e9, (free, 8))
    assert float(ratio) == pytest.approx(16.0)
    assert float(seconds("all_gather", 1e9, (d, 2))) == float(seconds("all_gather", 1e9, (free, 2)))


@pytest.mark.parametrize(("inside", "nodes"), [(1, 4), (2, 2), (8, 2), (8, 128)])
def test_a_flat_ring_over_nodes(inside: int, nodes: int) -> None:
    """One ring of N ranks sends (N − 1)/N through each link, a node's share of adapters, in N − 1 steps."""
    ranks, fast = inside * nodes, dimension(latency=1e-6, bandwidth=1e15)
    slow = dimension(name="out", flat=True, latency=1e-5)
    got = float(Links([fast, slow], {"g": [inside, nodes]}, None).time("all_gather", "g", 1e9))
    steps = (ranks - nodes) * 1e-6 + (nodes - 1) * 1e-5
    assert got == pytest.approx((ranks - 1) / ranks * 1e9 / inside / BW + steps)


def test_a_flat_all_reduce_uses_trees_for_its_latency() -> None:
    """NCCL's trees: down and up a chain in the node and a binary tree over the nodes."""
    inner, outer = dimension(latency=1e-6), dimension(name="out", algorithm="auto", flat=True, latency=1e-5)
    assert float(seconds("all_reduce", 1e-3, (inner, 8), (outer, 16))) == pytest.approx(2 * 7e-6 + 2 * 4e-5, rel=1e-6)


def test_a_part_of_a_full_mesh_has_part_of_its_links() -> None:
    """Two of eight devices with direct links share one link of seven."""
    d = dimension(topology="fully_connected", size=8)
    assert float(seconds("all_gather", 1e9, (d, 2))) == pytest.approx(0.5e9 / (BW / 7))
    assert float(seconds("all_gather", 1e9, (d, 8))) == pytest.approx(7 / 8 * 1e9 / BW)


@pytest.mark.parametrize("fabric", ["nvlink3", "nvlink4", "nvlink5", "pcie4", "infiniband", "efa"])
@pytest.mark.parametrize("kind", KINDS)
def test_more_bytes_or_ranks_never_take_less(constants: Mapping[str, Any], fabric: str, kind: str) -> None:
    """Times grow with the size and, for the same buffer of reductions and gathers, with the number of ranks."""
    d = dimension(**{**constants[fabric], "algorithm": "ring"})
    n = 2.0 ** np.arange(1, 8)[:, None]
    found = seconds(kind, SIZES, (d, n))
    assert (np.diff(found, axis=1) > 0).all()
    if kind in ("all_reduce", "reduce_scatter", "broadcast"):
        assert (np.diff(found[:, SIZES < 2**16], axis=0) >= 0).all()
    assert float(np.max(seconds(kind, 0.0, (d, n)))) == 0.0


def test_merged_designs_equal_single_ones(constants: Mapping[str, Any]) -> None:
    """Arrays of constants, with some lacking the small protocol, price each design as it is priced alone."""
    names = ("nvlink4", "efa", "pcie4")
    alone = [float(seconds("all_reduce", 3e5, (dimension(**constants[f]), 8.0))) for f in names]
    fields = {field for f in names for field in constants[f]}
    each = [dimension(**constants[f]) for f in names]
    arrays = {field: [getattr(d, field) for d in each] for field in fields}
    update = {f: np.array([np.nan if v is None else v for v in values]) for f, values in arrays.items()}
    together = seconds("all_reduce", 3e5, (dimension().model_copy(update=update), 8.0))
    assert np.allclose(together, alone, rtol=1e-12)


# -- fit ----------------------------------------------------------------------------------------------------


def test_fit_error(constants: Mapping[str, Any]) -> None:
    """The shipped collectives are explained within 8 % at the median, large messages within 5 %."""
    found = validate_collectives(constants=constants).summary()
    assert found["n"] == 2178 and found["n_predicted"] >= 2150
    assert found["median_ape"] < 0.08 and found["mean_ape"] < 0.13 and abs(found["bias"]) < 0.02
    assert found["by_size"]["4: above 128 MiB"]["median_ape"] < 0.05
    assert all(found["by_fabric"][f]["median_ape"] < 0.1 for f in ("nvlink3", "nvlink4", "nvlink5", "pcie4"))
    assert found["by_source"]["aiconfigurator"]["p90_ape"] < 0.2
    assert len(found["worst"]) == 10 and all(row["reason"] for row in found["worst"])


def test_constants_are_physical(constants: Mapping[str, Any]) -> None:
    """Fractions below one, start-ups of microseconds, a small protocol that starts sooner and sends slower."""
    assert {"nvlink3", "nvlink4", "nvlink5", "pcie4", "xgmi", "efa", "infiniband"} <= set(constants)
    for values in constants.values():
        d = dimension(**values)
        assert 0.05 < d.efficiency <= 0.97 and d.overhead < 1e-3 and d.latency < 5e-5
        if d.small_efficiency is not None:
            assert d.small_efficiency < d.efficiency
            assert d.small_latency <= d.latency and d.small_overhead <= d.overhead * 1.001


def test_held_out_errors() -> None:
    """GPUs that others of their NVLink generation stand in for stay within 10 % at the median."""
    found = held_out_collectives()
    for gpu in ("H100-80GB", "H200", "B200", "B300", "GB200", "GB300"):
        assert found["gpu"][gpu]["median_ape"] < 0.1
    assert set(found["source"]) == {"aiconfigurator", "vidur", "ml-engineering"}
    assert found["source"]["ml-engineering"]["median_ape"] < 0.25


# -- reports ------------------------------------------------------------------------------------------------

ROW = {
    "id": "r", "source_key": "s", "gpu": "H100-80GB", "interconnect": "NVLink4 NVSwitch", "n_gpus": 8, "n_nodes": 1,
    "gpus_per_node": 8, "collective": "all_reduce", "algorithm": None, "size_bytes": 2**26, "time_us": 330.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"interconnect": None}, "interconnect is not stated"),
        ({"gpu": None}, "GPU is not stated"),
        ({"interconnect": "carrier pigeon"}, "unknown interconnect"),
        ({"interconnect": "NVLink9 NVSwitch"}, "unknown interconnect"),
        ({"interconnect": "NVLink4"}, "unknown wiring"),
        ({"collective": "gossip"}, "unknown collective"),
        ({"time_us": 0.0}, "not positive"),
        ({"size_bytes": np.nan}, "not positive"),
        ({"n_nodes": 2, "n_gpus": 16}, "between the nodes is not stated"),
        ({"n_nodes": 2, "n_gpus": 16, "interconnect": "NVLink4 NVSwitch + string"}, "unknown network"),
        ({"n_nodes": 2, "n_gpus": 16, "interconnect": "NVLink4 NVSwitch + RoCE"}, "rate of the network"),
        ({"derived": "time_us", "busbw_gbs": 0.01}, "one digit"),
    ],
)
def test_refusals(change: dict[str, Any], reason: str, constants: Mapping[str, Any], tmp_path: Path) -> None:
    """What a row does not say is not guessed: it is refused with the reason, and the other rows are predicted."""
    path = tmp_path / "rows.csv"
    pd.DataFrame([ROW, {**ROW, **change, "id": "odd"}]).to_csv(path, index=False)
    report = validate_collectives(path, constants)
    assert reason in report.refused["odd"] and list(report.rows["id"]) == ["r"]
    assert list(report.table()["id"]) == ["r", "odd"]
    assert reason in str(report)


def test_networks_between_nodes_from_their_rates(constants: Mapping[str, Any]) -> None:
    """Adapters of a node are shared out among its devices; fabrics without constants take a relative's or refuse."""
    row = {**ROW, "n_nodes": 4, "n_gpus": 32, "interconnect": "NVLink4 NVSwitch + RoCE 8x400G"}
    cases, _ = cases_of(pd.DataFrame([row]))
    assert cases[0].fabrics == ("nvlink4", "roce") and cases[0].bandwidths[1] == 50e9
    assert with_relatives(constants, ["roce"])["roce"] == constants["infiniband"]
    assert with_relatives({}, ["roce"]) == {}


def test_the_calibration_in_use_is_the_default(tmp_path: Path) -> None:
    """Without constants given, predictions are those of the calibration in use; missing columns are an error."""
    report = validate_collectives()
    assert len(report.rows) and np.isfinite(report.rows["predicted [s]"]).all()
    path = tmp_path / "rows.csv"
    measured("nccl").drop(columns=["n_gpus"]).to_csv(path, index=False)
    with pytest.raises(SpecError, match="n_gpus"):
        validate_collectives(path)
