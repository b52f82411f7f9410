"""The generative model of traces: its parts against closed forms, samples valid by construction, held-out likelihood."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_cases import unpacked

from dse.errors import SpecError
from dse.simulate import simulate
from dse.trace import Attribute, Kind, Node, TraceSet, columns, load, save, validate
from dse.trace.synthesize import TraceModel, evidence, learn
from dse.trace.synthesize.job import describe
from dse.trace.synthesize.layout import Layout
from dse.trace.synthesize.privacy import reference
from dse.trace.synthesize.tokens import Scale

NAMES = ("gpt_dp4tp4", "llama_dp2tp4pp2", "llama_dp8", "llama_s2", "llama_tp8")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TraceSet]:
    """Transformer traces in five layouts."""
    folder = unpacked(tmp_path_factory.mktemp("traces"))
    return {name: load(folder / f"stage_{name}" / name) for name in NAMES}


@pytest.fixture(scope="module")
def model(sets: dict[str, TraceSet]) -> TraceModel:
    return learn(list(sets.values()))


def training(layers: int, batches: int, width: float, ranks: int = 4) -> TraceSet:
    """A data-parallel step: for each micro-batch forward and, last in first out, backward; then gradients."""
    nodes: list[Node] = []

    def add(name: str, deps: list[int], **attrs: float) -> int:
        kind = Kind.COLL if "comm_type" in attrs else Kind.COMP
        values = [Attribute(key, "int64", int(value)) for key, value in attrs.items()]
        micros = 0 if kind == Kind.COLL else 1 + int(attrs["num_ops"] / 1e6)
        nodes.append(Node(len(nodes), name, kind, data_deps=deps, duration_micros=micros, attrs=values))
        return len(nodes) - 1

    last: list[int] = []
    grads: list[list[int]] = [[] for _ in range(layers)]
    for batch in range(batches):
        kept = []
        for layer in range(layers):
            last = [add(f"b{batch}.norm{layer}", last, num_ops=1e6 * width, tensor_size=1e5 * width)]
            last = [add(f"b{batch}.linear{layer}", last, num_ops=1e7 * width**2, tensor_size=1e5 * width)]
            kept.append(last[0])
        for layer in reversed(range(layers)):
            last = [
                add(f"b{batch}.dlinear{layer}", [*last, kept[layer]], num_ops=3e7 * width**2, tensor_size=1e5 * width)
            ]
            grads[layer].append(last[0])
    for layer in range(layers):
        add(f"grad{layer}", grads[layer], comm_type=0, comm_size=4e6 * width**2)
    return TraceSet((columns(nodes),), np.zeros(ranks, np.int64))


# --- jobs --------------------------------------------------------------------------------------------------------------


def test_files_of_equal_ranks_are_one_role(sets: dict[str, TraceSet]) -> None:
    job = describe(sets["gpt_dp4tp4"])
    assert len(sets["gpt_dp4tp4"].classes) == 16
    assert len(job.programs) == 1
    assert {name: table.shape for name, table in job.families.items()} == {"dense": (4, 4), "sparse": (4, 4)}
    assert len(job.events) == job.nodes == 688
    assert job.lost == 0


def test_pipeline_stages_are_roles_and_peers_offsets(sets: dict[str, TraceSet]) -> None:
    job = describe(sets["llama_dp2tp4pp2"])
    assert job.roles.tolist() == [0] * 8 + [1] * 8
    assert job.offsets == {(0, 1): [8], (1, 0): [-8]}


def test_events_are_in_an_order_that_can_run(sets: dict[str, TraceSet]) -> None:
    job = describe(sets["llama_s2"])
    at = {event: place for place, event in enumerate(job.events)}
    assert len(at) == job.nodes
    for role, program in enumerate(job.programs):
        pointers, parents, _ = program.parents
        for row in range(len(program)):
            assert all(at[role, p] < at[role, row] for p in parents[pointers[row] : pointers[row + 1]].tolist())


def test_names_and_identifiers_do_not_matter(sets: dict[str, TraceSet]) -> None:
    old = sets["llama_dp8"]
    trace = old.classes[0]
    other = replace(trace, ids=trace.ids * 3 + 17, labels=tuple(f"x{label}" for label in trace.labels))
    traces = TraceSet((other,), old.of, {f"x{label}": table for label, table in old.groups.items()})
    a, b = describe(old), describe(traces)
    assert a.events == b.events
    assert a.programs[0].tokens == b.programs[0].tokens


def test_a_circle_over_ranks_is_an_error() -> None:
    def rank(me: int, other: int) -> list[Node]:
        def talk(name: str, source: int, target: int) -> list[Attribute]:
            pairs = (("comm_src", source), ("comm_dst", target), ("comm_size", 8))
            return [Attribute(key, "int64", value) for key, value in pairs]

        take = Node(0, "take", Kind.RECV, attrs=talk("take", other, me))
        return [take, Node(1, "send", Kind.SEND, data_deps=[0], attrs=talk("send", me, other))]

    traces = TraceSet((columns(rank(0, 1)), columns(rank(1, 0))), np.array([0, 1]))
    with pytest.raises(SpecError, match="wait for each other"):
        describe(traces)


# --- layouts -----------------------------------------------------------------------------------------------------------


def grid(dp: int, tp: int, pp: int) -> Layout:
    """Ranks with data parallel neighbours next to each other, then tensor parallel ones, then stages."""
    ranks = np.arange(dp * tp * pp).reshape(pp, tp, dp)
    tables = {"sparse": ranks.reshape(-1, dp), "dense": np.swapaxes(ranks, 1, 2).reshape(-1, tp)}
    offsets = {(0, 1): [dp * tp], (1, 0): [-dp * tp]}
    roles = np.repeat(np.arange(pp), dp * tp)
    return Layout(roles, tables, offsets, (), Scale(), 10)


@pytest.mark.parametrize("dp", [1, 2, 3, 4, 8, 40])
def test_ranks_grow_along_the_gradient_groups(dp: int) -> None:
    found, wanted = grid(2, 4, 2).resized(dp * 8), grid(dp, 4, 2)
    assert found.roles.tolist() == wanted.roles.tolist()
    assert found.offsets == wanted.offsets
    for name, table in wanted.families.items():
        assert sorted(map(tuple, found.families[name].tolist())) == sorted(map(tuple, table.tolist()))


def test_groups_over_the_grown_axis_grow_with_it() -> None:
    layout = grid(2, 4, 2)
    layout.families["all2"] = np.arange(16)[None, :]
    found = layout.resized(32)
    assert found.families["all2"].tolist() == [list(range(32))]


def test_other_numbers_of_ranks_name_the_step() -> None:
    with pytest.raises(SpecError, match="multiple of 4"):
        grid(2, 4, 2).resized(17)


@pytest.mark.parametrize("name", NAMES)
def test_layouts_survive_json(sets: dict[str, TraceSet], name: str) -> None:
    layout = Layout.of(describe(sets[name]), ("hbm",), 3)
    again = Layout.from_dict(json.loads(json.dumps(layout.to_dict())))
    assert again.to_dict() == layout.to_dict()
    assert (again.roles == layout.roles).all()
    assert all((again.families[key] == table).all() for key, table in layout.families.items())


# --- samples -----------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    ranks=st.sampled_from([None, 1, 4, 8, 16, 24, 32, 64]),
    length=st.sampled_from([0.1, 0.5, 1.0, 1.7, 3.0]),
    size=st.sampled_from([0.01, 1.0, 30.0]),
)
def test_samples_are_valid(model: TraceModel, seed: int, ranks: int | None, length: float, size: float) -> None:
    traces = model.sample(ranks=ranks, length=length, model_size=size, seed=seed)
    assert ranks is None or len(traces) == ranks
    assert [str(finding) for finding in validate(traces)] == []


@pytest.mark.parametrize("seed", range(6))
def test_samples_run_to_their_end(model: TraceModel, seed: int) -> None:
    traces = model.sample(ranks=16, seed=seed)
    assert simulate(traces, reference(16), record=False).time > 0


@pytest.mark.parametrize("seed", range(4))
def test_members_of_a_group_call_alike(model: TraceModel, seed: int) -> None:
    traces = model.sample(ranks=32, seed=seed)
    calls: dict[tuple[str, int], list[list[tuple[int, int]]]] = {}
    for rank, trace in traces.items():
        for label, table in traces.groups.items():
            group = int(np.flatnonzero((table == rank).any(axis=1))[0])
            rows = trace.group == (trace.labels.index(label) if label in trace.labels else -2)
            calls.setdefault((label, group), []).append(
                list(zip(trace.coll[rows].tolist(), trace.size[rows].tolist(), strict=True))
            )
    assert calls
    assert all(row == rows[0] for rows in calls.values() for row in rows)
    assert max(len(rows[0]) for rows in calls.values()) > 0


def test_samples_survive_files(sets: dict[str, TraceSet], tmp_path: Path) -> None:
    traces = learn([sets["llama_dp2tp4pp2"]]).sample(seed=1)  # a pipeline: peers are offsets
    assert any((trace.kind == Kind.SEND).any() for trace in traces.classes)
    save(traces, tmp_path / "new")
    again = load(tmp_path / "new")
    assert validate(again) == []
    system = reference(16)
    assert simulate(again, system, record=False).time == pytest.approx(simulate(traces, system, record=False).time)


def test_a_seed_gives_the_same_again(model: TraceModel) -> None:
    a, b, c = (model.sample(seed=seed).classes[0] for seed in (5, 5, 6))
    assert (a.kind == b.kind).all()
    assert (a.seconds == b.seconds).all()
    assert (a.data == b.data).all()
    assert len(a) != len(c) or (a.flops != c.flops).any() or (a.kind != c.kind).any()


def test_one_trace_set_is_reproduced() -> None:
    old = training(6, 5, 2.0)
    traces = learn([old]).sample(seed=1)
    new, old_trace = traces.classes[0], old.classes[0]
    assert len(new) == pytest.approx(len(old_trace), rel=0.2)
    assert new.flops.sum() / len(new) == pytest.approx(old_trace.flops.sum() / len(old_trace), rel=0.3)


@pytest.mark.parametrize("length", [2.0, 3.0, 10.0])
def test_length_repeats_the_outermost_loops(length: float) -> None:
    traces = [training(5, batches, 1.0) for batches in (4, 8)]
    model = learn(traces)
    once, more = (model.sample(length=x, seed=2).classes[0] for x in (1.0, length))
    assert len(more) == pytest.approx(length * len(once), rel=0.35)


def test_no_text_without_loops_is_too_short() -> None:
    nodes = [
        Node(k, "mm" if k % 2 else "norm", Kind.COMP, data_deps=[k - 1] if k else [], duration_micros=k)
        for k in range(4)
    ]
    model = learn([TraceSet((columns(nodes),), np.zeros(1, np.int64))])
    assert len(model.sample(length=5).classes[0]) == 5 * len(model.sample().classes[0])


def test_growth_with_the_model_is_learnt() -> None:
    """FLOP of matrix products as width^2, of norms as width; the mean logarithm of FLOP is what they are held against."""
    model = learn([training(4, 4, width) for width in (1.0, 2.0, 4.0)])
    found = {
        token.family: row for token, row in zip(model.tokens, model.exponents, strict=True) if token.kind == Kind.COMP
    }
    assert found["matmul"][0] / found["norm"][0] == pytest.approx(2.0, rel=1e-3)
    assert found["matmul"][1] == pytest.approx(found["norm"][1], rel=1e-3)
    gradient = next(row for token, row in zip(model.tokens, model.exponents, strict=True) if token.kind == Kind.COLL)
    assert gradient[2] == pytest.approx(found["matmul"][0], rel=1e-3)
    small, large = (model.sample(model_size=size, seed=3).classes[0] for size in (1.0, 4.0))
    grown = large.flops.sum() / small.flops.sum()
    assert grown == pytest.approx(4 ** found["matmul"][0], rel=0.1)


def test_growth_is_assumed_where_one_size_was_learnt() -> None:
    model = learn([training(4, 4, 1.0)])
    found = {
        token.family: row for token, row in zip(model.tokens, model.exponents, strict=True) if token.kind == Kind.COMP
    }
    assert found["matmul"][:2] == (1.0, 0.5)
    assert found["norm"][:2] == (0.5, 0.5)


# --- files and errors --------------------------------------------------------------------------------------------------


def test_models_survive_files(model: TraceModel, tmp_path: Path) -> None:
    again = TraceModel.load(model.save(tmp_path / "model.json"))
    json.loads((tmp_path / "model.json").read_text(), parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
    assert json.dumps(again.to_dict()) == json.dumps(model.to_dict())
    a, b = model.sample(seed=4), again.sample(seed=4)
    assert all(
        (x.flops == y.flops).all() and (x.data == y.data).all() for x, y in zip(a.classes, b.classes, strict=True)
    )


def test_models_hold_no_names(model: TraceModel, sets: dict[str, TraceSet]) -> None:
    text = json.dumps(model.to_dict())
    names = {name for traces in sets.values() for trace in traces.classes for name in trace.names}
    assert len(names) > 500
    assert not [name for name in names if name in text]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "dse-trace-model", "version": 9}', "\x00"])
def test_what_is_no_model_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model.json"
    path.write_text(text)
    with pytest.raises(SpecError, match=r"model\.json"):
        TraceModel.load(path)


def test_damaged_models_are_refused(model: TraceModel, tmp_path: Path) -> None:
    for name in ("tokens", "text", "values", "layouts", "references"):
        data = model.to_dict()
        data[name] = [] if name != "text" else {}
        path = tmp_path / "model.json"
        path.write_text(json.dumps(data))
        with pytest.raises(SpecError, match="damaged"):
            TraceModel.load(path)
    with pytest.raises(SpecError, match="cannot be read"):
        TraceModel.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    "knobs", [{"ranks": 0}, {"ranks": 7}, {"length": 0.0}, {"length": math.nan}, {"length": 1e6}, {"model_size": -1.0}]
)
def test_knobs_out_of_range_are_refused(sets: dict[str, TraceSet], knobs: dict[str, float]) -> None:
    model = learn([sets["llama_dp2tp4pp2"]])
    with pytest.raises(SpecError, match=next(iter(knobs))):
        model.sample(**knobs)  # type: ignore[arg-type]


def test_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(SpecError, match="at least one"):
        learn([])
    with pytest.raises(SpecError, match="no nodes"):
        learn([TraceSet((columns([]),), np.zeros(2, np.int64))])
    with pytest.raises(SpecError, match="order"):
        learn([training(1, 1, 1.0)], order=0)


# --- evidence ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_held_out_operators_are_likelier_than_under_simpler_models(sets: dict[str, TraceSet], name: str) -> None:
    found = evidence(learn([traces for key, traces in sets.items() if key != name]), sets[name], samples=1)
    assert found.gain > 0.5  # bits per node
    bits = {(row.part, row.model): row.bits for row in found.likelihood}
    assert bits["dependences", "model"] > bits["dependences", "uniform"]
    assert bits["sizes", "model"] > bits["sizes", "log-normal"]


def test_samples_of_the_same_kind_look_alike() -> None:
    model = learn([training(layers, batches, 1.0) for layers, batches in ((4, 6), (6, 6), (5, 4), (5, 8))])
    found = evidence(model, training(5, 6, 1.0), samples=4)
    bits = {(row.part, row.model): row.bits for row in found.likelihood}
    assert bits["dependences", "model"] > bits["dependences", "independent"]
    assert {"FLOP", "bytes", "message size", "in-degree"}.isdisjoint(found.fails)
    assert 0.5 < found.time_ratio < 2.0
    assert found.unknown == 0.0
    assert "bits per node" in str(found)
    table, tests = found.to_pandas()
    assert set(table.columns) >= {"model", "uniform"}
    assert len(tests) == len(found.tests)
    json.dumps(found.to_dict())


def test_another_kind_of_trace_is_told_apart() -> None:
    old = training(5, 6, 1.0)
    trace = old.classes[0]
    rng = np.random.default_rng(0)
    mixed = replace(trace, kind=rng.permutation(trace.kind), flops=trace.flops * np.exp(rng.normal(0, 3, len(trace))))
    mixed = replace(
        mixed,
        coll=np.where(mixed.kind == Kind.COLL, 0, -1).astype(np.int8),
        size=np.where(mixed.kind == Kind.COLL, 4_000_000, -1),
    )
    found = evidence(learn([training(layers, 6, 1.0) for layers in (4, 6)]), TraceSet((mixed,), old.of), samples=16)
    assert {"FLOP", "sequences"} <= set(found.fails)
