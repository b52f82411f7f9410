"""Obfuscation: valid, within its bounds, without names, with the same work and order, and with a stated leakage."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_cases import unpacked

from dse.errors import SpecError
from dse.simulate import Device, System, dimension, simulate
from dse.trace import Kind, Trace, TraceSet, columns, load, save, validate
from dse.trace.synthesize import learn, obfuscate
from dse.trace.synthesize.privacy import noise, reference
from dse.trace.synthesize.structure import WINDOW, restructure

NAMES = ("gpt_dp4tp4", "llama_dp2tp4pp2", "llama_dp8")
COMM = (Kind.SEND, Kind.RECV, Kind.COLL)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TraceSet]:
    folder = unpacked(tmp_path_factory.mktemp("traces"))
    return {name: load(folder / f"stage_{name}" / name) for name in NAMES}


def reachable(trace: Trace) -> np.ndarray:
    """Which communication nodes each depends on, directly or not, in the order of identifiers: bool [c, c]."""
    pointers, parents = trace.parents
    n = len(trace)
    above = np.zeros((n, n), bool)
    left = np.diff(pointers)
    children, child = trace.children
    ready = np.flatnonzero(left == 0).tolist()
    left = left.tolist()
    while ready:
        node = ready.pop()
        for parent in parents[pointers[node] : pointers[node + 1]].tolist():
            above[node] |= above[parent]
            above[node, parent] = True
        for other in child[children[node] : children[node + 1]].tolist():
            left[other] -= 1
            if not left[other]:
                ready.append(other)
    rows = np.argsort(trace.ids, kind="stable")
    rows = rows[np.isin(trace.kind[rows], COMM)]
    return above[np.ix_(rows, rows)]


@settings(max_examples=15, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    sizes=st.sampled_from([0.0, 0.01, 0.05, 0.5, 1.0]),
    structure=st.sampled_from([0.0, 0.1, 1.0]),
    seed=st.integers(0, 1000),
)
def test_what_is_published_is_valid(
    sets: dict[str, TraceSet], name: str, sizes: float, structure: float, seed: int
) -> None:
    hidden, leakage = obfuscate(sets[name], sizes=sizes, structure=structure, seed=seed)
    assert [str(finding) for finding in validate(hidden)] == []
    assert leakage.names == 0.0
    assert leakage.time_error is not None
    assert leakage.time_error <= leakage.time_tolerance
    assert leakage.sizes <= sizes


@pytest.mark.parametrize("name", NAMES)
def test_no_text_survives(sets: dict[str, TraceSet], name: str, tmp_path: Path) -> None:
    old = sets[name]
    hidden, _ = obfuscate(old)
    save(hidden, tmp_path / "out")
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    texts = {text for trace in old.classes for text in trace.names}
    assert len(texts) > 300
    assert not [text for text in texts if text.encode() in written]
    assert not set(hidden.groups) & set(old.groups)
    for trace in hidden.classes:
        assert not trace.start.any()
        assert sorted(trace.ids.tolist()) == list(range(len(trace)))


def test_names_can_stay(sets: dict[str, TraceSet]) -> None:
    hidden, leakage = obfuscate(sets["llama_dp8"], names=False)
    assert leakage.names > 0.9
    assert set(hidden.groups) == set(sets["llama_dp8"].groups)


@pytest.mark.parametrize("bound", [0.0, 0.03, 0.5, 1.0])
def test_values_change_within_the_bound(sets: dict[str, TraceSet], bound: float) -> None:
    values = noise(sets["gpt_dp4tp4"], bound, np.random.default_rng(0))
    assert len(values.old) > 10
    assert (np.abs(values.new - values.old) <= bound * values.old * (1 + 1e-12)).all()
    assert (values.new != values.old).any() == (bound > 0)


def test_equal_values_change_alike_on_all_ranks(sets: dict[str, TraceSet]) -> None:
    """Message sizes: one new size for each old one, whoever sends it."""
    old = sets["llama_dp2tp4pp2"]
    hidden, _ = obfuscate(old, sizes=0.2, structure=0.0, tolerance=1.0)
    became = defaultdict(set)
    for before, after in zip(old.classes, hidden.classes, strict=True):
        for a, b in zip(np.argsort(before.ids), np.argsort(after.ids), strict=True):
            if before.kind[a] in COMM:
                assert before.kind[a] == after.kind[b]
                became[int(before.size[a])].add(int(after.size[b]))
    assert all(len(found) == 1 for found in became.values())
    assert any({size} != found for size, found in became.items())


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_structure_keeps_work_and_order(sets: dict[str, TraceSet], name: str, share: float) -> None:
    old = sets[name].classes[0]
    new = restructure(old, share, np.random.default_rng(3))
    for column in ("flops", "bytes", "seconds"):
        assert getattr(new, column).sum() == pytest.approx(getattr(old, column).sum(), rel=1e-12)
    talks = [t.kind[np.argsort(t.ids)] for t in (old, new)]
    assert np.isin(talks[0], COMM).sum() == np.isin(talks[1], COMM).sum()
    assert (reachable(old) == reachable(new)).all()
    assert len(new) != len(old)


def test_a_chain_can_be_split_and_merged_only_as_a_chain() -> None:
    from dse.trace import Attribute, Node

    nodes = [
        Node(k, f"n{k}", Kind.COMP, data_deps=[k - 1] if k else [], duration_micros=10,
             attrs=[Attribute("num_ops", "int64", 1000)])
        for k in range(40)
    ]  # fmt: skip
    new = restructure(columns(nodes), 1.0, np.random.default_rng(0))
    assert new.seconds.sum() == pytest.approx(400e-6)
    depth = np.zeros(len(new), int)
    pointers, parents = new.parents
    for _ in range(len(new)):
        for row in range(len(new)):
            depth[row] = 1 + max(depth[parents[pointers[row] : pointers[row + 1]]], default=0)
    assert sorted(depth.tolist()) == list(range(1, len(new) + 1))


def test_nodes_move_no_further_than_the_window(sets: dict[str, TraceSet]) -> None:
    old = sets["llama_dp8"].classes[0]
    new = restructure(old, 0.0, np.random.default_rng(0))
    assert (new.name == old.name).all()  # nothing moves
    from dse.trace.synthesize.structure import _reordered

    moved = _reordered(old, 1.0, np.random.default_rng(0))
    places = {name: place for place, name in enumerate(old.name.tolist())}
    far = [abs(places[name] - place) for place, name in enumerate(moved.name.tolist())]
    assert 0 < max(far) <= 2 * WINDOW


def test_a_seed_gives_the_same_again(sets: dict[str, TraceSet]) -> None:
    (a, x), (b, y), (c, _) = (obfuscate(sets["llama_dp8"], seed=seed) for seed in (1, 1, 2))
    assert x == y
    assert (a.classes[0].flops == b.classes[0].flops).all()
    assert (a.classes[0].data == b.classes[0].data).all()
    assert len(a.classes[0]) != len(c.classes[0]) or (a.classes[0].flops != c.classes[0].flops).any()


def test_classes_that_were_alike_stay_alike(sets: dict[str, TraceSet]) -> None:
    """So that a simulator still finds that their ranks are equal."""
    hidden, _ = obfuscate(sets["gpt_dp4tp4"])
    first = hidden.classes[0]
    assert all((trace.flops == first.flops).all() and (trace.data == first.data).all() for trace in hidden.classes)


def test_simulated_time_is_as_reported(sets: dict[str, TraceSet]) -> None:
    system = System((dimension("ring", 50e9, latency=5e-7),), (16,), (Device(200e12, 2e12),))
    old = sets["gpt_dp4tp4"]
    hidden, leakage = obfuscate(old, sizes=0.1, structure=0.3, system=system)
    times = [simulate(traces, system, record=False).time for traces in (old, hidden)]
    assert leakage.time_error == pytest.approx(abs(times[1] / times[0] - 1))
    assert leakage.time_error <= 0.1


def test_noise_gives_way_to_the_tolerance(sets: dict[str, TraceSet]) -> None:
    """Also where nothing but no noise at all holds it."""
    old = sets["llama_dp8"]
    _, loose = obfuscate(old, sizes=0.5, structure=0.0)
    assert loose.time_error is not None
    _, tight = obfuscate(old, sizes=0.5, structure=0.0, tolerance=loose.time_error / 10)
    assert tight.sizes < loose.sizes
    assert tight.time_error is not None
    assert tight.time_error <= loose.time_error / 10
    _, none = obfuscate(old, sizes=0.5, structure=0.5, tolerance=0.0)
    assert (none.sizes, none.structure, none.time_error, none.names) == (0.0, 0.0, 0.0, 0.0)


def test_more_noise_leaks_less(sets: dict[str, TraceSet]) -> None:
    found = [obfuscate(sets["gpt_dp4tp4"], sizes=b, structure=b, tolerance=1.0)[1] for b in (0.0, 0.05, 0.5)]
    assert found[0].sources == {"sizes": 1.0, "sequences": 1.0, "degrees": 1.0}
    assert found[0].information == pytest.approx(found[0].entropy)
    assert found[0].values == 1.0
    assert found[0].sources["sizes"] > found[1].sources["sizes"] > found[2].sources["sizes"]
    assert found[0].information > found[1].information > found[2].information
    assert found[2].values < 1.0
    for name in ("sequences", "degrees"):
        assert found[2].sources[name] < 1.0


def test_information_of_values_far_apart_is_their_entropy() -> None:
    """Two sizes a factor of 100 apart: one bit, whatever noise of 10 %. Equal sizes: none."""
    from dse.trace.synthesize.leakage import _information
    from dse.trace.synthesize.privacy import Values

    def bits(*old: float) -> tuple[float, float]:
        values = Values(np.array(old), np.array(old), np.ones(len(old), np.int64), [])
        return _information(values, 0.1, np.random.default_rng(0))

    assert bits(1.0, 100.0) == pytest.approx((1.0, 1.0))
    assert bits(5.0) == pytest.approx((0.0, 0.0))
    entropy, told = bits(1.0, 1.02)
    assert entropy == pytest.approx(1.0)
    assert told < 0.3


def test_what_cannot_be_simulated_is_still_obfuscated() -> None:
    from dse.trace import Attribute, Node

    attrs = [Attribute(key, "int64", value) for key, value in (("comm_src", 1), ("comm_dst", 0), ("comm_size", 64))]
    traces = TraceSet((columns([Node(0, "secret", Kind.RECV, attrs=attrs)]), columns([])), np.array([0, 1]))
    hidden, leakage = obfuscate(traces)
    assert leakage.time_error is None
    assert "cannot be simulated" in leakage.time_note
    assert "secret" not in hidden.classes[0].names
    assert "cannot be simulated" in str(leakage)


def test_samples_can_be_obfuscated(sets: dict[str, TraceSet]) -> None:
    traces = learn([sets["llama_dp2tp4pp2"]]).sample(seed=2)
    hidden, leakage = obfuscate(traces, seed=3)
    assert validate(hidden) == []
    assert hidden.classes[0].relative
    assert leakage.names == 0.0


def test_leakage_can_be_read(sets: dict[str, TraceSet]) -> None:
    _, leakage = obfuscate(sets["llama_dp8"])
    data = json.loads(json.dumps(leakage.to_dict()))
    assert data["names"] == 0.0
    assert set(data["sources"]) == set(data["chance"]) == {"sizes", "sequences", "degrees"}
    assert "bits" in str(leakage)


@pytest.mark.parametrize("knobs", [{"sizes": -0.1}, {"sizes": 2.0}, {"structure": float("nan")}, {"tolerance": 3.0}])
def test_numbers_out_of_range_are_refused(sets: dict[str, TraceSet], knobs: dict[str, float]) -> None:
    with pytest.raises(SpecError, match=next(iter(knobs))):
        obfuscate(sets["llama_dp8"], **knobs)  # type: ignore[arg-type]


def test_no_traces_are_refused() -> None:
    with pytest.raises(SpecError, match="no nodes"):
        obfuscate(TraceSet((columns([]),), np.zeros(1, np.int64)))


def test_memories_keep_their_names_and_can_be_simulated() -> None:
    from dse.trace import Attribute, Node

    attrs = [Attribute("tensor_size", "int64", 1 << 20), Attribute("dse.tier", "string", "pool")]
    traces = TraceSet((columns([Node(0, "offload", Kind.MEM_STORE, attrs=attrs)]),), np.zeros(48, np.int64))
    hidden, leakage = obfuscate(traces)
    assert hidden.classes[0].tiers == ("pool",)
    assert leakage.time_error is not None
    assert reference(48, ["pool"]).ranks == 48
