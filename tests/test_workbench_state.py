"""The workbench's state: transitions, legality, saving, comparing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dse
from dse.app import compare, controls, saved
from dse.app.design import canonical
from dse.app.state import History, State, landscape, start
from dse.errors import SpecError
from dse.study.spec import Study
from dse.study.spec import load_study as read_study

BANDWIDTH = "cluster.node.accelerator.memory.bandwidth"
CASES = {
    "dense": ("gpt3-175b", "dgx-a100", "tp=8,pp=8,micro_batch=1,global_batch=1536,recompute=full", 1024),
    "experts": ("mixtral-8x7b", "dgx-h100", "tp=2,pp=4,ep=8,micro_batch=1,global_batch=512", 256),
    "infeasible": ("gpt3-175b", "dgx-a100", "tp=1,pp=1,micro_batch=1,global_batch=64", 64),
    "convnet": ("resnet-50", "dgx-a100", "micro_batch=32,global_batch=4096", 64),
    "comet": ("transformer-1t", "comet-baseline", "tp=64,global_batch=1024,execution=comet", 1024),
}


def opened(case: str = "dense") -> State:
    model, cluster, strategy, devices = CASES[case]
    return start(model, cluster, strategy, devices=devices)


SMALL = st.sampled_from([1, 2, 4, 8, 3])
ACTIONS = st.one_of(
    st.tuples(st.just("set"), st.sampled_from(["tp", "pp", "cp", "ep", "micro_batch", "virtual_stages", "dp"]), SMALL),
    st.tuples(st.just("set"), st.just("recompute"), st.sampled_from(["none", "selective", "full"])),
    st.tuples(st.just("set"), st.just("devices"), st.sampled_from([8, 64, 1024, 96])),
    st.tuples(st.just("set"), st.just("offload_optimizer"), st.sampled_from(["local", "ddr", "nvme"])),
    st.tuples(
        st.just("set"),
        st.sampled_from(["cluster.memory.bandwidth", "cluster.memory.capacity", "cluster.network.inter.bandwidth"]),
        st.floats(1e9, 1e13),
    ),
    st.tuples(st.just("set"), st.sampled_from(["model.seq_len", "model.layers"]), st.sampled_from([1024, 96, 48])),
    st.tuples(st.just("choose_model"), st.sampled_from(["gpt3-175b", "llama2-7b", "mixtral-8x7b", "resnet-50"])),
    st.tuples(st.just("choose_cluster"), st.sampled_from(["dgx-a100", "tpu-v4-pod", "comet-baseline", "dgx-h100"])),
    st.tuples(
        st.sampled_from(["lock", "unlock"]), st.sampled_from(["tp", "model", "devices", BANDWIDTH, "model.layers"])
    ),
    st.tuples(st.just("reset")),
    st.tuples(st.just("reset"), st.sampled_from(["tp", "devices", "cluster", BANDWIDTH])),
    st.tuples(st.sampled_from(["pin", "unpin", "take"]), st.sampled_from(["A", "B"])),
)


def walk(actions: list[tuple]) -> History:
    """A history of the actions that are valid; the others must raise SpecError and nothing else."""
    history = History(opened())
    for name, *arguments in actions:
        try:
            history = history.push(getattr(history.present, name)(*arguments))
        except SpecError as error:
            assert all(fault.path and fault.rule for fault in error.faults)
    return history


@given(st.lists(ACTIONS, max_size=12))
@settings(max_examples=40, deadline=None)
def test_undo_and_redo_walk_the_same_states(actions):
    history = walk(actions)
    visited, back = [*history.past, history.present], history
    for expected in reversed(visited):
        assert back.present == expected
        back = back.undo()
    assert back.undo().present == visited[0] == opened()
    for expected in visited:
        assert back.present == expected
        back = back.redo()
    assert back.present == history.present


@given(st.lists(ACTIONS, max_size=12))
@settings(max_examples=40, deadline=None)
def test_saved_states_open_as_they_were(tmp_path_factory, actions):
    state = walk(actions).present
    path = saved.save(state, "my-study", tmp_path_factory.mktemp("studies"))
    found = saved.open_study(path.parent)
    assert found.state == state
    assert (found.name, found.warnings) == ("my-study", ())
    assert found.state.result.number("step_time") == state.result.number("step_time")


@given(st.lists(ACTIONS, max_size=12))
@settings(max_examples=30, deadline=None)
def test_locked_fields_never_move(actions):
    state = opened().lock("tp").lock(BANDWIDTH)
    held = state.get("tp"), state.get(BANDWIDTH)
    for name, *arguments in actions:
        if name in ("unlock", "take"):
            continue
        try:
            state = getattr(state, name)(*arguments)
        except SpecError:
            continue
        assert (state.get("tp"), state.get(BANDWIDTH)) == held


def test_a_state_is_never_changed():
    state = opened()
    before = dataclasses.replace(state)
    state.set("tp", 4).lock("pp").pin("A").look(dark=True)
    assert state == before


@pytest.mark.parametrize("case", CASES)
def test_every_option_is_judged_as_its_own_estimate(case):
    state = opened(case)
    design = state.design
    seen = 0
    for control in controls.controls(state):
        if not control.path.startswith("strategy.") or control.kind == "slider":
            continue
        for option in control.options:
            strategy = design.strategy.replace(**{control.path.removeprefix("strategy."): option.value})
            single = dse.estimate(design.model, design.cluster, strategy, devices=design.devices)
            assert option.legal == single.is_feasible, (control.path, option)
            assert list(option.reasons) == [reason["why"] for reason in single.reasons()]
            assert list(option.breaks) == [reason["rule"] for reason in single.reasons()]
            seen += 1
    assert seen > 25


@pytest.mark.parametrize("case", CASES)
def test_controls_show_the_state_and_can_be_set(case):
    state = opened(case)
    for control in controls.controls(state):
        assert control.path == canonical(state.design, control.path)
        assert control.value == state.get(control.path)
        assert not control.changed
        if control.kind == "slider":
            assert control.low <= control.value <= control.high
            for end in (control.low, control.high):
                moved = state.set(control.path, end)
                assert moved.get(control.path) == pytest.approx(end)
                assert {c.path: c for c in controls.controls(moved)}[control.path].changed or end == control.value
        else:
            assert control.value in [option.value for option in control.options]


@pytest.mark.parametrize("case", CASES)
def test_sizes_of_the_network_are_offered_as_they_can_be_set(case):
    state = opened(case)
    for control in controls.controls(state):
        if not control.path.endswith(".size"):
            continue
        assert any(option.legal for option in control.options) or not state.result.is_feasible
        for option in control.options:
            if option.breaks == ("nesting",):
                with pytest.raises(SpecError):
                    state.set(control.path, option.value)
            else:
                moved = state.set(control.path, option.value).result
                assert option.legal == moved.is_feasible
                assert list(option.reasons) == [reason["why"] for reason in moved.reasons()]


def test_a_result_is_the_estimate_of_the_same_inputs():
    state = opened().set("cluster.memory.bandwidth", "3 TB/s").set("micro_batch", 2)
    cluster = dse.load_cluster("dgx-a100")
    memory = cluster.accelerator.memory.replace(bandwidth=3e12)
    accelerator = cluster.accelerator.model_copy(update={"memory": memory})
    cluster = cluster.model_copy(update={"node": cluster.node.model_copy(update={"accelerator": accelerator})})
    single = dse.estimate("gpt3-175b", cluster, state.design.strategy, devices=1024)
    assert state.result.number("step_time") == single.number("step_time")
    assert state.result is dataclasses.replace(state).result


def test_landscape_points_are_the_results_of_those_states():
    state = opened()
    bandwidths = [1e12, 2e12, 4e12]
    found = landscape(state, dse.axis(BANDWIDTH, bandwidths, name="bw"), dse.axis("tp", [4, 8, 16]))
    for bandwidth in bandwidths:
        for tp in (4, 8, 16):
            single = state.set(BANDWIDTH, bandwidth).set("tp", tp).result
            assert found["step_time"].sel(bw=bandwidth, tp=tp).item() == single.number("step_time")
            assert bool(found["feasible"].sel(tp=tp)) == single.is_feasible
    by_path = landscape(state, "devices", "cluster.network.inter.bandwidth", "mfu")
    assert by_path["mfu"].ndim == 2
    assert np.all(np.isfinite(by_path["mfu"]))


def test_best_keeps_what_is_locked():
    state = opened("infeasible").set("devices", 512)
    free = state.find_best()
    assert free.result.is_feasible
    plain = dse.best("gpt3-175b", "dgx-a100", devices=512, global_batch=64)
    assert free.result.number("step_time") == plain.number("step_time")
    held = state.set("tp", 4).lock("tp").find_best()
    assert held.get("tp") == 4
    assert held.result.number("step_time") >= free.result.number("step_time")


def test_setting_dp_sets_the_devices():
    state = opened().set("dp", 3)
    assert state.design.devices == 8 * 8 * 3
    assert state.get("dp") == 3


@pytest.mark.parametrize(
    ("call", "path"),
    [
        (lambda s: s.set("tpp", 1), "tpp"),
        (lambda s: s.set("tp", 0), "tp"),
        (lambda s: s.set("cluster.memory.bandwidth", "3 GB"), "cluster.node.accelerator.memory.bandwidth"),
        (lambda s: s.set("model.heads", 95), "model.heads"),
        (lambda s: s.set("cluster.name", "x"), "cluster.name"),
        (lambda s: s.set("cluster.node", 1), "cluster.node"),
        (lambda s: s.set("offload_weights", "tape"), "strategy.offload_weights"),
        (lambda s: s.lock("tp").set("tp", 4), "strategy.tp"),
        (lambda s: s.lock("dp"), "dp"),
        (lambda s: s.choose_model("gpt-5"), "model"),
        (lambda s: s.pin("C"), "pin"),
        (lambda s: s.take("A"), "pin"),
        (lambda s: s.look(shown=["pie"]), "view.shown"),
        (lambda s: s.look(colour="red"), "view.colour"),
        (lambda s: s.look(quantity="speed"), "quantity"),
        (lambda s: landscape(s, "tp", "tp"), "axes"),
        (lambda s: landscape(s, "tp", "optimizer"), "axis"),
        (lambda s: saved.save(s, "../up", "."), "name"),
        (compare.pinned, "pin"),
    ],
)
def test_faults_name_the_field(call, path):
    with pytest.raises(SpecError) as error:
        call(opened())
    assert path in str(error.value)


JUNK = st.one_of(
    st.none(), st.integers(), st.floats(), st.text(max_size=8), st.booleans(), st.lists(st.integers(), max_size=2)
)
PATHS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["tp", "dp", "devices", "model", "cluster", "recompute", BANDWIDTH, "model.heads", "model.moe"]),
    st.sampled_from(["overlap_tp", "stack", "execution", "cluster.network.dimensions", "cluster.network.intra.size"]),
)


@given(PATHS, JUNK)
@settings(max_examples=150, deadline=None)
def test_anything_can_be_set_or_is_refused_with_a_reason(path, value):
    state = opened()
    try:
        moved = state.set(path, value)
    except SpecError as error:
        assert all(fault.rule for fault in error.faults)
    else:
        assert isinstance(moved.result.is_feasible, bool)
        controls.controls(moved)


def test_the_view_follows_what_the_design_has(tmp_path):
    state = opened().look(x="cluster.network.infiniband.bandwidth", y="micro_batch", shown=["front"], dark=True)
    moved = state.choose_cluster("tpu-v4-pod")
    assert (moved.view.x, moved.view.y) == (BANDWIDTH, "strategy.micro_batch")
    assert landscape(moved)["step_time"].ndim == 2
    assert saved.open_study(saved.save(moved, "view", tmp_path)).state == moved


def test_landscapes_of_whole_fields():
    found = landscape(opened(), "cluster.network.nvlink.size", "cluster.network.nvlink.latency", points=5)
    assert found["step_time"].shape[1] == 5
    assert 8 in found["step_time"]["network.dimensions.nvlink.size"].values


def test_a_saved_study_is_a_study(tmp_path):
    state = opened().set("cluster.memory.bandwidth", 3e12).pin("A").set("tp", 4).set("model.seq_len", 4096)
    path = saved.save(state, "what-if", tmp_path)
    text = path.read_text()
    plain = text[: text.index("workbench:")]
    (tmp_path / "plain.yaml").write_text(plain)
    study, _, _ = read_study(tmp_path / "plain.yaml")
    assert isinstance(study, Study)
    run = {run.id: run for run in study.runs}["design"]
    axes = [dse.axis(item.path, item.values, unit=item.unit) for item in run.axes]
    swept = dse.sweep(run.model, run.cluster, run.strategy, *axes, devices=run.devices)
    assert swept["step_time"].item() == state.result.number("step_time")


def test_own_specifications_are_saved_whole(tmp_path):
    model = dse.load_model("llama2-7b").replace(id="mine", layers=30)
    cluster = dse.load_cluster("dgx-a100").replace(id="own", devices=64)
    state = start(model, cluster, "tp=2,global_batch=64,micro_batch=1").set(BANDWIDTH, 1e12)
    found = saved.open_study(saved.save(state, "own", tmp_path)).state
    assert found == state
    assert [c.value for c in controls.controls(found)][:2] == ["mine", "own"]


def test_other_versions_are_a_warning(tmp_path):
    path = saved.save(opened(), "old", tmp_path)
    changed = path.read_text().replace(f"dse: {saved.versions()['dse']}", "dse: 0.0.1")
    path.write_text(changed)
    found = saved.open_study(path)
    assert found.state == opened()
    assert len(found.warnings) == 1
    assert "0.0.1" in found.warnings[0]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("seed: 0", "seed: -1"),
        ("seed: 0", "seed: !!python/object/apply:os.system [ls]"),
        ("seed: 0", "sed: 0"),
        ("model: gpt3-175b", "model: [1]"),
        ("model: gpt3-175b", "model: nowhere"),
        ("devices: 1024", "devices: 1.5"),
        ("devices: 1024", "devices: 99999999999999"),
        ("tp: 8", "tp: eight"),
        ("tp: 8", "tp: 8\n    dp: 4"),
        ("id: origin", "id: other"),
        ("quantity: step_time", "quantity: nothing"),
        ("dark: false", "dark: maybe"),
        ("x: cluster", "x: planet"),
        ("locks: []", "locks: [nothing.here]"),
        ("- 3000000000000.0", "- -3.0"),
        ("- 3000000000000.0", "- 1.0\n      - 2.0"),
        ("unit: B/s", "unit: parsec"),
        ("path: cluster.node.accelerator.memory.bandwidth", "path: strategy.tp"),
        ("path: cluster.node.accelerator.memory.bandwidth", "path: cluster"),
        ("kind: study", "kind: model"),
        ("workbench:", "workbench: 3\nx:"),
        ("workbench:", "notes:"),
    ],
)
def test_hostile_files_are_refused(tmp_path, old, new):
    path = saved.save(opened().set(BANDWIDTH, 3e12), "hostile", tmp_path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(SpecError) as error:
        saved.open_study(path)
    assert all(fault.path and fault.rule for fault in error.value.faults)


@given(st.binary(max_size=200))
@settings(max_examples=50, deadline=None)
def test_any_bytes_are_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("bytes") / "study.yaml"
    path.write_bytes(content)
    with pytest.raises(SpecError):
        saved.open_study(path)


def test_difference_of_pins():
    a = opened()
    b = a.pin("A").set("cluster.memory.bandwidth", 4e12).set("micro_batch", 2)
    found = compare.pinned(b)
    assert set(found.inputs["input"]) == {BANDWIDTH, "strategy.micro_batch"}
    assert found.inputs.set_index("input").loc[BANDWIDTH].tolist() == [2.039e12, 4e12, "B/s"]
    assert found.terms["A [s]"].sum() == pytest.approx(a.result.number("step_time"), rel=1e-12)
    assert found.terms["B [s]"].sum() == pytest.approx(b.result.number("step_time"), rel=1e-12)
    assert found.faster == dse.compare(a.result, b.result).faster
    back = compare.difference(b.design, a.design)
    assert back.faster == pytest.approx(1 - found.faster)
    assert compare.difference(a.design, a.design).inputs.empty
    other = compare.difference(a.design, a.choose_model("llama2-7b").design)
    assert other.faster is None
    assert "model.layers" in set(other.inputs["input"])
