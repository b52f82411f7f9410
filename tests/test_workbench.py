"""The workbench without a page: actions, steps of sliders, views, tabs, saving."""

from __future__ import annotations

import html
import re
import shlex

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import dse
from dse.app import steps
from dse.app.controls import controls
from dse.app.presets import presets
from dse.app.sides import command_of, python_of
from dse.app.state import History, State
from dse.app.views import FINE, KINDS, Scene, figure
from dse.app.workbench import Workbench
from dse.cli import app

BANDWIDTH = "cluster.node.accelerator.memory.bandwidth"
STRATEGY = "tp=8,pp=8,micro_batch=1,global_batch=512,recompute=full"
CASES = {
    "dense": ("gpt3-175b", "dgx-a100", STRATEGY, 512),
    "experts": ("mixtral-8x7b", "dgx-h100", "tp=2,pp=4,ep=8,micro_batch=1,global_batch=512", 256),
    "infeasible": ("gpt3-175b", "dgx-a100", "tp=1,pp=1,micro_batch=1,global_batch=64", 64),
    "convnet": ("resnet-50", "dgx-a100", "micro_batch=32,global_batch=4096", 64),
}


def opened(case: str = "dense", **given) -> Workbench:
    model, cluster, strategy, devices = CASES[case]
    return dse.workbench(model, cluster, strategy, devices=devices, **given)


def text_of(page: str) -> str:
    """HTML as a reader sees it."""
    return html.unescape(re.sub("<[^>]+>", " ", page))


def said(bench: Workbench) -> str:
    """The message above the views."""
    return text_of(bench._message.html)


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> tuple[Workbench, State]:
    """A workbench for many tests, and its first state; few views keep actions quick."""
    bench = opened(folder=tmp_path_factory.mktemp("studies"))
    bench.look(shown=["breakdown"])
    return bench, bench.state


@pytest.fixture
def bench(kept) -> Workbench:
    """The workbench in its first state."""
    return restarted(*kept)


def restarted(bench: Workbench, first: State) -> Workbench:
    bench.history = History(first)
    bench.board.searched, bench.drawer.now = None, "designs"
    bench.show()
    bench.say("info", "")
    return bench


# -- actions ------------------------------------------------------------------------------------------------------


VERBS = [
    ("set:strategy.tp", "4", lambda w: w.set("tp", 4)),
    (f"set:{BANDWIDTH}", "3 TB/s", lambda w: w.set(BANDWIDTH, 3e12)),
    ("set:devices", "1,024", lambda w: w.set("devices", 1024)),
    ("set:strategy.sequence_parallel", "on", lambda w: w.set("sequence_parallel", True)),
    (f"slide:{BANDWIDTH}", 1.234e12, lambda w: w.set(BANDWIDTH, 1.234e12)),
    ("set:cluster", "dgx-h100", lambda w: w.set("cluster", "dgx-h100")),
    ("reset:strategy.micro_batch", None, lambda w: w.reset("micro_batch")),
    ("reset", None, lambda w: w.reset()),
    ("lock:strategy.pp", None, lambda w: w.lock("pp")),
    ("best", None, lambda w: w.find_best()),
    ("best:strategy.micro_batch", None, lambda w: w.find_best("strategy.micro_batch")),
    ("preset", "best:memory_bytes", lambda w: w.take_preset("best:memory_bytes")),
    ("pin:A", None, lambda w: w.pin("A")),
    ("take:B", None, lambda w: w.go(w.state.take("B"))),
    ("unpin:B", None, lambda w: w.unpin("B")),
    ("view:memory", None, lambda w: w.look(shown=["breakdown", "memory"])),
    ("look:quantity", "mfu", lambda w: w.look(quantity="mfu")),
    ("look:x", "strategy.pp", lambda w: w.look(x="strategy.pp")),
    ("objective:1", "cost", lambda w: w.look(objectives=("step_time", "cost"))),
    ("objective:0", "memory_bytes", lambda w: w.look(objectives=("memory_bytes", "step_time"))),
    ("clear", None, lambda w: w.select()),
    ("theme", None, lambda w: w.look(dark=True)),
]


@pytest.mark.parametrize(("do", "value", "call"), VERBS, ids=[do for do, _, _ in VERBS])
def test_a_click_does_what_the_method_does(bench, do, value, call):
    bench.set("tp", 2)
    bench.pin("B")
    bench.set("tp", 8)
    bench.set("micro_batch", 2)
    bench.set("cluster.memory.capacity", "160 GB")
    bench.select({"tp": (2, 8)})
    start = bench.history
    bench.act(do, value)
    clicked = bench.state
    assert said(bench).strip() == ""
    assert clicked != start.present
    bench.history = start
    call(bench)
    assert clicked == bench.state


REFUSED = [
    ("set:strategy.tp", "3.5", "tp"),
    ("set:strategy.tp", "many", "tp"),
    (f"set:{BANDWIDTH}", "3 GB", "bandwidth"),
    (f"set:{BANDWIDTH}", "<b>x</b>", "bandwidth"),
    ("set:nothing", "1", "nothing"),
    ("set:model", "gpt-9", "gpt-9"),
    ("look:quantity", "joy", "joy"),
    ("look:shown", "pie", "shown"),
    ("objective:0", "joy", "joy"),
    ("take:B", None, "pin"),
    ("fly", None, "fly"),
    ("explain:joy", None, "joy"),
    ("preset", "best:joy", "joy"),
    ("slide:devices", "x", "x"),
]


@pytest.mark.parametrize(("do", "value", "word"), REFUSED)
def test_what_is_refused_is_said_and_changes_nothing(bench, do, value, word):
    before = bench.history
    bench.act(do, value)
    assert word in said(bench)
    assert "<b>x" not in bench._message.html
    assert bench.history == before
    bench.act("dismiss")
    assert said(bench).strip() == ""


MOVES = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["set:strategy.tp", "set:strategy.pp", "set:strategy.micro_batch"]), st.sampled_from("1248")),
        st.tuples(st.just(f"slide:{BANDWIDTH}"), st.floats(1e11, 1e13)),
        st.tuples(st.just("slide:devices"), st.floats(1, 1e5)),
        st.tuples(st.sampled_from(["lock:strategy.tp", "unlock:strategy.tp", "pin:A", "unpin:A", "take:A", "reset"]), st.none()),
        st.tuples(st.sampled_from(["theme", "view:energy", "clear", "follow"]), st.none()),
        st.tuples(st.just("look:quantity"), st.sampled_from(["mfu", "cost", "joy"])),
        st.tuples(st.just("set:cluster"), st.sampled_from(["dgx-h100", "tpu-v4-pod", "nowhere"])),
    ),
    max_size=8,
)  # fmt: skip


@given(MOVES)
@settings(max_examples=25, deadline=None)
def test_any_walk_is_undone_and_redone(kept, moves):
    bench, first = restarted(*kept), kept[1]
    for do, value in moves:
        bench.act(do, value)
    last, count = bench.state, len(bench.history.past)
    for _ in range(count):
        bench.act("undo")
    assert bench.state == first
    for _ in range(count):
        bench.act("redo")
    assert bench.state == last


# -- sliders and chips ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_places_of_a_slider(case):
    state = opened(case).state
    for control in (c for c in controls(state) if c.kind == "slider"):
        values = [steps.value_at(control, place) for place in range(steps.STEPS + 1)]
        assert values == sorted(values)
        assert (values[0], values[-1]) == (control.low, control.high)
        assert steps.value_at(control, steps.position(control, control.template)) == control.template
        back = [steps.position(control, value) for value in values]
        assert np.abs(np.array(back) - np.arange(len(values))).max() <= 1
        assert back == sorted(back)


@pytest.mark.parametrize("case", ["dense", "experts", "convnet"])
def test_every_slider_moves_the_design_and_its_figure(case):
    bench = opened(case)
    bench.look(shown=["breakdown"])
    first = bench.state
    for path, (_, slider) in list(bench.panel._sliders.items()):
        bench.history = History(first)
        bench.show()
        slider.value = slider.value + 9 if slider.value < steps.STEPS - 9 else slider.value - 9
        assert bench.state != first, path
        assert said(bench).strip() == "", path
        own = dict(bench.state.design.overrides)
        axes = [dse.axis(p, [v]) for p, v in own.items()]
        design = bench.state.design
        fresh = dse.sweep(design.model, design.cluster, design.strategy, *axes, devices=design.devices)
        bars = [t for t in bench.figure("breakdown").data if t.type == "bar"]
        shares = {t.meta: float(t.x[0]) for t in bars}
        total = sum(shares.values())
        step = float(fresh["step_time"].values.reshape(-1)[0])
        for term, value in shares.items():
            exact = float(fresh[f"time.{term}"].values.reshape(-1)[0])
            assert value / total == pytest.approx(exact / step, rel=1e-6), (path, term)


@given(st.floats(1, 2e5), st.floats(1, 2e5), st.floats(1, 1e6), st.sampled_from(["tp", "pp", "micro_batch"]))
@settings(max_examples=50, deadline=None)
def test_values_of_sliders_are_whole_and_fit(kept, devices, batch, length, field):
    state = kept[1].set(field, 4)
    strategy = state.design.strategy
    found = steps.snapped(state, "devices", devices)
    assert found % state.design.width == 0
    assert (strategy.global_batch // strategy.micro_batch) % (found / state.design.width) == 0
    found = steps.snapped(state, "strategy.global_batch", batch)
    assert found % (strategy.micro_batch * state.design.devices // state.design.width) == 0
    assert steps.snapped(state, "model.seq_len", length) % 128 == 0
    assert steps.snapped(state, BANDWIDTH, devices) == devices


@pytest.mark.parametrize("case", CASES)
def test_chips_offer_what_is_legal_and_say_why_not(case):
    bench = opened(case)
    bench.look(shown=["breakdown"])
    page = "".join(part.html for part in bench.panel._parts.values())
    broken = {reason["rule"] for reason in bench.result.reasons()}
    chips = 0
    for control in controls(bench.state):
        if control.kind not in ("choice", "switch"):
            continue
        for option in control.options:
            label = html.escape(option.label, quote=True)
            can = f"data-do='set:{control.path}' data-value='{label}'" in page
            cannot = f"data-do='why:{control.path}' data-value='{label}'" in page
            assert can != cannot
            fair = option.legal or (broken and set(option.breaks) <= broken) or option.value == control.value
            assert can == bool(fair), (control.path, option)
            chips += 1
            if cannot:
                bench.act(f"why:{control.path}", option.label)
                assert option.reasons[0] in said(bench)
    assert chips > 20


# -- views and tabs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dark", [False, True])
def test_every_view_is_drawn(case, dark):
    bench = opened(case, dark=dark)
    bench.look(shown=list(KINDS))
    for name, card in bench.board.cards.items():
        assert card.plot.revision == bench.board.revision, name
        assert '"data":[{' in card.plot.figure.replace(" ", "") or "annotations" in card.plot.figure, name
    assert "None" not in bench._headline.html


@pytest.mark.parametrize("name", KINDS)
def test_a_view_is_the_figure_of_its_function(bench, name):
    pure = KINDS[name].draw(Scene(bench.state, FINE))
    assert bench.figure(name).to_json() == pure.to_json() == figure(bench.state, name).to_json()


@pytest.mark.parametrize("case", ["dense", "experts", "convnet"])
def test_every_term_is_explained(case):
    bench = opened(case)
    bench.look(shown=["breakdown"])
    for trace in bench.figure("breakdown").data:
        bench._event("breakdown", {"type": "click", "points": [{"meta": trace.meta, "name": trace.name}]})
        assert said(bench).strip() == ""
        tree = bench.result.explain(trace.meta)
        assert tree.to_html() in bench.drawer.tabs["explain"].widget.html
    assert bench.drawer.now == "explain"


def test_the_code_gives_the_same_number(bench):
    for change in (lambda: None, lambda: bench.set("tp", 4), lambda: bench.set(BANDWIDTH, "3 TB/s")):
        change()
        wanted = bench.result.number("step_time")
        line = python_of(bench.state.design).replace("import dse", "").strip()
        found = eval(line, {"dse": dse})
        assert float(found["step_time"].values.reshape(-1)[0]) == wanted
        words = shlex.split(command_of(bench.state.design))
        assert words[0] == "dse"
        told = CliRunner().invoke(app, [*words[1:], "--json"])
        assert told.exit_code == 0
        numbers = [float(n) for n in re.findall(r'"step_time[^"]*":\s*\[?\s*([0-9.e+-]+)', told.stdout)]
        assert any(n == pytest.approx(wanted, rel=1e-6) for n in numbers)


def test_the_present_one_stands_in_for_a_missing_pin(bench):
    bench.act("pin:A")
    bench.set("tp", 4)
    found = bench.compare()
    assert found.inputs["input"].tolist() == ["strategy.tp"]
    gap = bench.result.number("step_time") - dict(bench.state.pins)["A"].result.number("step_time")
    assert found.terms["difference [s]"].sum() == pytest.approx(gap)
    assert f"{found.faster:.0%}" in bench.drawer.tabs["compare"]._words.html


@pytest.mark.parametrize("key", ["best:step_time", "best:memory_bytes", "best:cost"])
def test_presets_are_the_best_strategies(bench, key):
    assert key in [preset.key for preset in presets(bench.state)]
    bench.take_preset(key)
    goal = key.removeprefix("best:")
    best = dse.best("gpt3-175b", "dgx-a100", devices=512, global_batch=512, objective=goal)
    assert bench.result.number(goal) == pytest.approx(best.number(goal), rel=1e-9)


# -- selection, saving, export ---------------------------------------------------------------------------------------


def test_the_table_lists_what_is_selected(bench):
    bench.select({"tp": (8, 8), "step_time [s]": (0.0, 100.0)})
    table = bench.scene.designs.table
    wanted = table[(table["tp"] == 8) & (table["step_time [s]"] <= 100)]
    assert bench.selected.index.tolist() == wanted.index.tolist()
    assert 0 < len(wanted) < len(table)
    page = bench.drawer.tabs["designs"].widget.html
    assert f"{len(wanted):,} of {len(table):,} rows" in text_of(page)
    row = int(re.search("data-do='row:([0-9]+)'", page)[1])
    assert row in wanted.index
    bench.act(f"row:{row}")
    assert {f: bench.state.get(f) for f in ("tp", "pp", "micro_batch")} == {
        f: table[f][row] for f in ("tp", "pp", "micro_batch")
    }


def test_a_saved_state_comes_back_whole(bench):
    bench.set(BANDWIDTH, "3 TB/s")
    bench.pin("A")
    bench.lock("pp")
    bench.select({"tp": (2, 8), "recompute": ("full",)})
    bench.look(shown=["front", "breakdown"], y="strategy.pp", quantity="mfu", dark=True, objectives=["cost", "mfu"])
    path = bench.save("all-of-it", question="What if?")
    again = dse.workbench(study=path.parent)
    assert again.state == bench.state
    assert again.name == bench.name == "all-of-it"
    assert again.selected.equals(bench.selected)
    assert again.figure("front").to_json() == bench.figure("front").to_json()
    bench.reset()
    bench.open("all-of-it")
    assert bench.state == again.state
    bench.undo()
    assert bench.state != again.state


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".xlsx", ".tex", ".md"])
def test_tables_are_exported(bench, tmp_path, ending):
    bench.select({"tp": (8, 8)})
    path = bench.export_table(tmp_path / f"designs{ending}")
    import pandas as pd

    read = {".csv": lambda p: pd.read_csv(p, comment="#"), ".parquet": pd.read_parquet, ".xlsx": pd.read_excel}.get(
        ending
    )
    if read:
        assert len(read(path)) == len(bench.selected)
    else:
        assert path.read_text().count("\n") > len(bench.selected)


def test_names_are_text_not_markup(tmp_path):
    evil = "<script>alert(1)</script>"
    cluster = dse.load_cluster("dgx-a100").replace(name=evil)
    bench = dse.workbench("gpt3-175b", cluster, STRATEGY, devices=512, folder=tmp_path)
    bench.say("bad", evil)
    bench.act(f"set:{evil}", evil)
    for name in bench.drawer.tabs:
        bench.act(f"tab:{name}")
    pages = [w.html for w in _within(bench.widget) if hasattr(w, "html")]
    pages += [w.html for tab in bench.drawer.tabs.values() for w in _within(tab.widget) if hasattr(w, "html")]
    assert len(pages) > 30
    assert not [page for page in pages if "<script" in page]
    assert "&lt;script" in "".join(pages)


def _within(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from _within(child)
