"""Networks: the collective times of the cost model against replays with data, chunks and ranks."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import coordinates_spanned
from oracles_collectives import (
    Wire,
    broadcast_steps,
    direct_steps,
    exchange_steps,
    halving_steps,
    hierarchical,
    line_steps,
    replay,
    ring_steps,
    tree_all_reduce,
    tree_parents,
)

from dse.cost.network import Links, balanced_sizes, dimension_sizes, placement_shares
from dse.spec.hardware import NetworkDimension

EXACT = 1e-12
SIZE = 3.0e8
REDUCTIONS = ("reduce_scatter", "all_gather", "all_reduce")
quick = settings(deadline=None, derandomize=True, max_examples=80)


def dimension(topology: str, **fields: Any) -> NetworkDimension:
    return NetworkDimension.parse({"name": fields.pop("name", "d"), "topology": topology, "bandwidth": 5e10, **fields})


def links(*parts: tuple[NetworkDimension, int], chunks: int | None = None) -> Links:
    """The network as one group sees it that spans ``n`` ranks of each dimension."""
    return Links([d for d, _ in parts], {"g": [float(n) for _, n in parts]}, chunks)


def one(kind: str, n: int, topology: str, size: float = SIZE, **fields: Any) -> float:
    return float(links((dimension(topology, **fields), n)).time(kind, "g", size))


def data_for(kind: str, n: int, parts: int, owner: Any) -> tuple[np.ndarray, np.ndarray]:
    """What devices hold before, and what the collective must leave (all of it, or a reduce-scatter's own parts)."""
    values = np.random.default_rng(n).integers(-99, 99, (n, parts))
    if kind == "all_gather":
        owners = np.array([owner(part) for part in range(parts)])
        return np.where(owners == np.arange(n)[:, None], values[0], 0), np.broadcast_to(values[0], (n, parts))
    return values, np.broadcast_to(values.sum(axis=0), (n, parts))


def check(kind: str, wire: Wire, steps: list[Any], parts: int, owner: Any) -> tuple[float, np.ndarray]:
    """Replay a reduction, check its result, and return seconds and bytes sent."""
    start, wanted = data_for(kind, wire.n, parts, owner)
    seconds, sent, held = replay(wire, steps, SIZE / parts, start)
    for rank in range(wire.n):
        mine = [part for part in range(parts) if kind != "reduce_scatter" or owner(part) == rank]
        assert np.array_equal(held[rank, mine], wanted[rank, mine])
    return seconds, sent


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 13])
@pytest.mark.parametrize("kind", REDUCTIONS)
@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("topology", ["ring", "torus"])
def test_rings(kind: str, n: int, both: bool, topology: str) -> None:
    """Ring collectives, one way or both, take exactly the replayed time, latencies included, and send its bytes."""
    steps, parts = ring_steps(n, kind, both=both)
    wire = Wire("ring", n, 5e10, 3e-6, bidirectional=both)
    seconds, sent = check(kind, wire, steps, parts, lambda part: (part % n + (1 if part >= n else -1)) % n)
    assert one(kind, n, topology, latency=3e-6, bidirectional=both) == pytest.approx(seconds, rel=EXACT)
    load = links((dimension(topology), n)).load(kind, "g", SIZE)[0]
    assert np.allclose(sent, load, rtol=EXACT)


@pytest.mark.parametrize("n", [2, 3, 4, 7, 16])
@pytest.mark.parametrize("kind", REDUCTIONS)
@pytest.mark.parametrize("topology", ["switch", "fully_connected"])
def test_direct_exchange(kind: str, n: int, topology: str) -> None:
    """Direct collectives take one latency a phase, and fill a switch port and a full mesh's links alike."""
    steps, parts = direct_steps(n, kind)
    seconds, sent = check(kind, Wire(topology, n, 5e10, 2e-6), steps, parts, lambda part: part)
    assert one(kind, n, topology, algorithm="direct", latency=2e-6) == pytest.approx(seconds, rel=EXACT)
    assert np.allclose(sent, links((dimension("switch"), n)).load(kind, "g", SIZE)[0])


@pytest.mark.parametrize("n", [2, 4, 8, 32])
@pytest.mark.parametrize("kind", REDUCTIONS)
def test_halving_doubling(kind: str, n: int) -> None:
    """Recursive halving and doubling on a switch takes log2(n) latencies a phase."""
    steps, parts = halving_steps(n, kind)
    seconds, _ = check(kind, Wire("switch", n, 5e10, 2e-6), steps, parts, lambda part: part)
    assert one(kind, n, "switch", latency=2e-6) == pytest.approx(seconds, rel=EXACT)


@pytest.mark.parametrize("n", [2, 3, 4, 6, 9])
@pytest.mark.parametrize("kind", REDUCTIONS)
def test_line(kind: str, n: int) -> None:
    """On a line the end links, at half the device's bandwidth, make every reduction take twice a ring's time."""
    steps, parts = line_steps(n, kind)
    seconds, _ = check(kind, Wire("mesh", n, 5e10, 1e-6), steps, parts, lambda part: part)
    assert one(kind, n, "mesh", latency=1e-6) == pytest.approx(seconds, rel=EXACT)


@pytest.mark.parametrize(("topology", "both"), [("switch", True), ("fully_connected", True), ("ring", True),
                                                ("ring", False), ("mesh", True)])  # fmt: skip
@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 9])
def test_all_to_all(topology: str, both: bool, n: int) -> None:
    """All-to-all takes the time of its busiest link on every topology, odd and even, and delivers every message."""
    wire = Wire(topology, n, 5e10, bidirectional=both)
    steps, parts = exchange_steps(wire)
    messages = np.arange(1, parts + 1)
    senders = np.repeat(np.arange(n), 2 * n)
    start = np.where(senders[None, :] == np.arange(n)[:, None], messages, 0)
    seconds, _, held = replay(wire, steps, SIZE / n / 2, start)
    receivers = np.tile(np.repeat(np.arange(n), 2), n)
    assert all(np.array_equal(held[r, receivers == r], messages[receivers == r]) for r in range(n))
    assert one("all_to_all", n, topology, bidirectional=both) == pytest.approx(seconds, rel=EXACT)


@pytest.mark.parametrize(("topology", "both"), [("ring", True), ("ring", False), ("mesh", False), ("switch", False)])
@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_chain_broadcast(topology: str, both: bool, n: int) -> None:
    """A pipelined chain takes the formula's time plus n − 2 chunks: exact as chunks become many."""
    for chunks in (1, 16, 256):
        steps, parts = broadcast_steps(n, chunks, both=both)
        wire = Wire(topology, n, 5e10, 1e-7, bidirectional=both)
        start = np.zeros((n, parts), dtype=int)
        start[0] = np.arange(1, parts + 1)
        seconds, _, held = replay(wire, steps, SIZE / parts, start)
        assert np.array_equal(held, np.broadcast_to(start[0], held.shape))
        bulk = one("broadcast", n, topology, algorithm="ring", bidirectional=both)
        assert seconds == pytest.approx(bulk * (1 + (n - 2) / chunks) + (chunks + n - 2) * 1e-7, rel=EXACT)
    slow = one("broadcast", n, topology, algorithm="ring", latency=1.0, bidirectional=both)
    assert slow == pytest.approx(bulk + n - 1)


@pytest.mark.parametrize("n", [2, 4, 8, 16, 32])
def test_double_binary_tree(n: int) -> None:
    """The busiest device of a double tree sends twice the buffer, as the formula says; slots can come within 40 %."""
    first, second = tree_parents(n)
    assert len(first) == len(second) == n - 1
    seconds, sent = tree_all_reduce(n, SIZE, 5e10, 48)
    formula = one("all_reduce", n, "switch", algorithm="double_binary_tree")
    load = links((dimension("switch", algorithm="double_binary_tree"), n)).load("all_reduce", "g", SIZE)[0]
    assert max(sent) <= load and (n < 4 or max(sent) == pytest.approx(load))
    assert sum(sent) == pytest.approx(2 * (n - 1) * SIZE)
    assert seconds <= 1.4 * formula and (n < 4 or seconds >= formula * (1 - EXACT))


@pytest.mark.parametrize("n", [2, 3, 8, 64])
def test_reduction_in_the_switch(n: int) -> None:
    """Adding in the switch sends each byte once up and once down: chunk by chunk it nears D/BW + 2 latencies."""
    formula = one("all_reduce", n, "switch", in_network_reduction=True, latency=1e-6)
    for chunks in (8, 64, 4096):
        up = np.arange(1, chunks + 1) * SIZE / chunks / 5e10 + 1e-6  # when each chunk is whole in the switch
        down = 0.0
        for arrival in up:
            down = max(down, arrival) + SIZE / chunks / 5e10
        assert down + 1e-6 == pytest.approx(formula, rel=1.001 / chunks)
    assert formula <= one("all_reduce", n, "switch", latency=1e-6) * (1 + EXACT)


# -- several dimensions -------------------------------------------------------------------------------------

SIZES = st.lists(st.sampled_from([2, 3, 4, 8, 16]), min_size=1, max_size=4)
RATES = st.lists(st.sampled_from([1e10, 2.5e10, 5e10, 3e11, 9e11]), min_size=4, max_size=4)


def network(sizes: list[int], rates: list[float], latency: float, chunks: int | None) -> Links:
    parts = [(dimension("switch", name=f"d{i}", bandwidth=rates[i], latency=latency, algorithm="direct"), n)
             for i, n in enumerate(sizes)]  # fmt: skip
    return links(*parts, chunks=chunks)


@given(st.sampled_from(REDUCTIONS[:2]), SIZES, RATES, st.sampled_from([0.0, 2e-6]), st.integers(1, 80))
@quick
def test_chunks_through_dimensions_are_exact(kind: str, sizes: list[int], rates: list[float], latency: float,
                                             chunks: int) -> None:  # fmt: skip
    """Reduce-scatter and all-gather in any number of chunks take exactly the time of a chain of servers."""
    seconds = hierarchical(kind, sizes, rates, [latency] * 4, SIZE, chunks)
    assert float(network(sizes, rates, latency, chunks).time(kind, "g", SIZE)) == pytest.approx(seconds, rel=1e-9)


@given(SIZES, RATES, st.integers(1, 80))
@quick
def test_chunked_all_reduce_is_bounded(sizes: list[int], rates: list[float], chunks: int) -> None:
    """All-reduce crosses inner dimensions twice: the formula is a lower bound, short by at most four chunks' way."""
    seconds = hierarchical("all_reduce", sizes, rates, [0.0] * 4, SIZE, chunks)
    formula = float(network(sizes, rates, 0.0, chunks).time("all_reduce", "g", SIZE))
    way = hierarchical("all_reduce", sizes, rates, [0.0] * 4, SIZE / chunks, 1)
    assert formula <= seconds * (1 + 1e-12)
    assert seconds <= formula + 4 * way


@given(st.sampled_from(REDUCTIONS), SIZES, RATES)
@quick
def test_many_chunks_approach_the_slowest_dimension(kind: str, sizes: list[int], rates: list[float]) -> None:
    """With endless chunks only the slowest dimension counts; 4000 simulated chunks come within 1 %."""
    seconds = hierarchical(kind, sizes, rates, [0.0] * 4, SIZE, 4000)
    formula = float(network(sizes, rates, 0.0, None).time(kind, "g", SIZE))
    assert seconds == pytest.approx(formula, rel=0.01)
    held, slowest = SIZE * (2 if kind == "all_reduce" else 1), 0.0
    for n, rate in zip(sizes, rates, strict=False):
        slowest, held = max(slowest, held * (n - 1) / n / rate), held / n
    assert formula == pytest.approx(slowest, rel=EXACT)


@given(SIZES, RATES)
@quick
def test_switched_all_to_all_counts_peers(sizes: list[int], rates: list[float]) -> None:
    """On switches a message uses the outermost dimension in which its two ends differ: count peers one by one."""
    n = int(np.prod(sizes))
    if n > 5000:
        return
    inner = np.cumprod([1, *sizes])
    outermost = np.zeros(n, dtype=int)
    for i, size in enumerate(sizes):
        outermost = np.where(np.arange(n) // inner[i] % size > 0, i, outermost)
    peers = np.bincount(outermost[1:], minlength=len(sizes))
    slowest = max(count * SIZE / n / rate for count, rate in zip(peers, rates, strict=False))
    assert float(network(sizes, rates, 0.0, None).time("all_to_all", "g", SIZE)) == pytest.approx(slowest, rel=1e-12)


@given(st.sampled_from(REDUCTIONS), SIZES, RATES)
@quick
def test_gradients_leave_through_every_dimension_once(kind: str, sizes: list[int], rates: list[float]) -> None:
    """Independent closed form: all-reduce equals reduce-scatter plus all-gather, and all dimensions carry (n−1)/n."""
    net = network(sizes, rates, 1e-6, None)
    parts = [float(net.time(name, "g", SIZE)) for name in REDUCTIONS]
    assert parts[2] == pytest.approx(parts[0] + parts[1], rel=EXACT)
    n = int(np.prod(sizes))
    carried = sum(float(load) for load in net.load(kind, "g", SIZE))
    assert carried == pytest.approx(SIZE * (n - 1) / n * (2 if kind == "all_reduce" else 1), rel=1e-12)


@pytest.mark.parametrize("kind", [*REDUCTIONS, "all_to_all", "broadcast", "point_to_point"])
@pytest.mark.parametrize("topology", ["switch", "fully_connected", "ring", "torus", "mesh"])
def test_a_group_of_one_is_free(kind: str, topology: str) -> None:
    """One rank communicates with nobody: no bytes, no latency, no NaN, whatever the algorithm."""
    for algorithm in ("auto", "ring", "direct"):
        alone = links((dimension(topology, latency=1e-6, algorithm=algorithm), 1), (dimension("switch", name="o"), 1))
        assert float(alone.time(kind, "g", SIZE)) == 0
        assert float(alone.energy(kind, "g", SIZE)) == 0


# -- placement ----------------------------------------------------------------------------------------------

ORDERS = ["-".join(order) for order in permutations(("tp", "cp", "dp", "pp"))]
POWERS = st.sampled_from([1, 2, 4, 8])


def spans(placement: str, degrees: dict[str, int], ep: int, sizes: list[int]) -> dict[str, list[float]]:
    devices = int(np.prod(list(degrees.values())))
    tp, cp, dp, pp = (degrees[name] for name in ("tp", "cp", "dp", "pp"))
    found = placement_shares.function(placement, tp, cp, dp, pp, ep, devices, [float(s) for s in sizes], 0, {})
    return {name: [float(share) for share in shares] for name, shares in found.items()}


@given(st.sampled_from(ORDERS), POWERS, POWERS, POWERS, POWERS, st.lists(POWERS, min_size=0, max_size=2))
@quick
def test_groups_span_the_ranks_counted(placement: str, tp: int, cp: int, dp: int, pp: int, inner: list[int]) -> None:
    """For powers of two each group's share of a dimension is the number of coordinates its ranks have there."""
    degrees, order = {"tp": tp, "cp": cp, "dp": dp, "pp": pp}, placement.split("-")
    sizes, left = [], tp * cp * dp * pp
    for size in inner:
        sizes.append(min(size, left))
        left //= sizes[-1]
    sizes.append(left)
    found = spans(placement, degrees, 1, sizes)
    for name, members in {**{g: [g] for g in order}, "grad": ["dp", "cp"], "all": order}.items():
        counted = coordinates_spanned(order, degrees, sizes, members)
        assert all(len(c) == 1 for c in counted), "groups of one kind must look alike"
        assert found[name] == [float(c.pop()) for c in counted], name


@given(st.sampled_from([o for o in ORDERS if "cp-dp" in o or "dp-cp" in o]), POWERS, POWERS, POWERS, POWERS,
       st.sampled_from([2, 4, 8, 16]), st.integers(0, 6))  # fmt: skip
@quick
def test_experts_take_the_innermost_replicas(placement: str, tp: int, cp: int, dp: int, pp: int, inner: int,
                                             shift: int) -> None:  # fmt: skip
    """Expert groups are the first ep of the dp·cp ranks, where these lie side by side; the rest share gradients."""
    degrees, order = {"tp": tp, "cp": cp, "dp": dp, "pp": pp}, placement.split("-")
    devices = tp * cp * dp * pp
    sizes = [min(inner, devices), devices // min(inner, devices)]
    ep = min(1 << shift, dp * cp)
    found = spans(placement, degrees, ep, sizes)
    experts = coordinates_spanned(order, degrees, sizes, ["dp", "cp"], slice(0, ep))
    same = coordinates_spanned(order, degrees, sizes, ["dp", "cp"], slice(0, None, ep))
    assert found["ep"] == [float(c.pop()) for c in experts]
    assert found["expert_grad"] == [float(c.pop()) for c in same]


@pytest.mark.parametrize(("tp", "pp", "dp", "sizes"), [
    (8, 9, 16, [72, 16]), (8, 3, 6, [8, 18]), (4, 18, 16, [72, 16]), (24, 3, 2, [72, 2]), (6, 12, 4, [72, 4]),
])  # fmt: skip
def test_aligned_groups_of_other_sizes(tp: int, pp: int, dp: int, sizes: list[int]) -> None:
    """Groups that fill or divide dimensions of other sizes, such as 72, span exactly what is counted."""
    degrees = {"tp": tp, "cp": 1, "dp": dp, "pp": pp}
    for placement in ("tp-cp-pp-dp", "tp-pp-cp-dp"):
        found = spans(placement, degrees, 1, sizes)
        for name in ("tp", "pp", "dp"):
            counted = coordinates_spanned(placement.split("-"), degrees, sizes, [name])
            assert found[name] == [float(c.pop()) for c in counted], name


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(2, 12))
@quick
def test_straddling_groups_have_mean_shares(tp: int, dp: int, pp: int, size: int) -> None:
    """Groups that straddle a boundary get shares whose product is still the group's size, or one dimension alone."""
    degrees = {"tp": tp, "cp": 1, "dp": dp, "pp": pp}
    devices = tp * dp * pp
    sizes = [float(min(size, devices)), devices / min(size, devices)]
    found = spans("tp-cp-dp-pp", degrees, 1, sizes)  # type: ignore[arg-type]
    for name, degree in degrees.items():
        assert all(share >= 1 for share in found[name])
        assert np.prod(found[name]) == pytest.approx(degree)


@pytest.mark.parametrize("devices", [1, 8, 60, 64, 1000, 1024, 4096])
def test_dimensions_hold_all_devices(devices: int) -> None:
    """The sizes of the dimensions multiply to the number of devices, filled or balanced; a balanced torus is square."""
    import dse

    for id in ("dgx-a100", "gb200-nvl72", "tpu-v4-pod"):
        sizes = dimension_sizes.function(dse.load_cluster(id), np.asarray(devices))
        assert np.prod([float(s) for s in sizes]) == pytest.approx(devices)
    assert sorted(balanced_sizes(64, 3, [np.inf] * 3)) == [4, 4, 4]
    assert sorted(balanced_sizes(512, 3, [16, 16, np.inf])) == [8, 8, 8]
