"""The workbench in a real JupyterLab: compare, explain, save and reopen, export, long work, a second view."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from browser import Bench

pytest_plugins = ["browser"]

BANDWIDTH = "cluster.node.accelerator.memory.bandwidth"
# The same cell starts a workbench and, once a study was saved, opens it.
START = """study = __import__('pathlib').Path('studies/kept')
if study.exists():
    w = dse.workbench(study=study)
else:
    w = dse.workbench('gpt3-175b', 'dgx-h100', devices=1024)
w"""


@pytest.fixture(scope="module")
def bench(notebook: Any) -> Bench:
    """A workbench that the tests of this file share, in their order."""
    from browser import LISTEN, Bench

    return Bench(notebook("kept", LISTEN + "\nfrom dse.view import theme", START, height=1400))


@pytest.fixture(autouse=True)
def no_errors(bench: Bench):
    """No error on the page during a test."""
    yield
    assert bench.notebook.errors == []


def test_clicks_explain_a_number_and_a_bar(bench):
    drawer = bench.app.locator(".dse-drawer")
    bench.do("explain:mfu").click()
    drawer.get_by_text("mfu", exact=True).first.wait_for()
    assert bench.value("w.drawer.now") == "explain"
    first = bench.view("breakdown").locator(".bars .point").nth(2).bounding_box()
    meta = [t["meta"] for t in bench.figure("breakdown")["traces"] if t["type"] == "bar"]
    bench.page.mouse.click(first["x"] + first["width"] / 2, first["y"] + first["height"] / 2)
    bench.until("HEARD[-1][0] == 'click'")
    title = bench.value(f"theme.sentence(theme.title_of({meta[2]!r}))")
    drawer.locator("h4", has_text=title).wait_for()


def test_two_designs_are_compared(bench):
    bench.do("pin:A").click()
    bench.until("dict(w.state.pins).get('A') == w.state.design")
    bench.do("set:strategy.tp", "16").click()
    bench.until("w.state.get('tp') == 16")
    bench.do("pin:B").click()
    bench.until("len(w.state.pins) == 2")
    bench.do("tab:compare").click()
    drawer = bench.app.locator(".dse-drawer")
    drawer.get_by_text("P(A is faster than B)").wait_for()
    drawer.locator(".dse-plot .main-svg").first.wait_for()
    bench.settle()
    found = bench.value("[w.compare().faster, float(w.compare().terms['difference [s]'].sum())]")
    assert f"= {found[0]:.0%}" in drawer.inner_text()
    steps = bench.value("[d.result.number('step_time') for _, d in w.state.pins]")
    assert found[1] == pytest.approx(steps[1] - steps[0], rel=1e-9)
    row = drawer.locator("table[aria-label='changed inputs'] tbody tr").all_inner_texts()
    assert [line.split("\t") for line in row] == [["strategy.tp", "8", "16"]]
    shown = drawer.locator(".dse-plot").first.evaluate("(b) => b._fullData.map((t) => Array.from(t.y ?? []).length)")
    assert sum(shown) > 2


def export(bench: Bench, field: str, value: str) -> None:
    """Choose in the form of the exports."""
    bench.app.locator(f"select[data-do='keep:{field}']").select_option(value)


def test_tables_and_figures_are_exported_from_the_menu(bench):
    bench.python("w.select({'tp': (8, 8)})\nanswer = 1")
    bench.do("tab:keep").click()
    bench.do("keep:export-table").wait_for()
    folder = bench.notebook.root / "studies" / "unsaved"
    for ending in (".csv", ".parquet", ".xlsx", ".tex", ".md"):
        export(bench, "table", ending)
        bench.do("keep:export-table").click()
        bench.app.locator(".dse-message", has_text=f"designs{ending}").wait_for()
        assert (folder / f"designs{ending}").stat().st_size > 500
    read = bench.value(
        "[len(__import__('pandas').read_csv('studies/unsaved/designs.csv', comment='#')),"
        " len(__import__('pandas').read_parquet('studies/unsaved/designs.parquet')), len(w.selected)]"
    )
    assert read[0] == read[1] == read[2] > 0
    heads = {".html": b"<", ".svg": b"<svg", ".png": b"\x89PNG", ".pdf": b"%PDF"}
    ends = {".html": b"</html>", ".svg": b"</svg>", ".png": b"IEND\xaeB`\x82", ".pdf": b"%%EOF"}
    for ending, head in heads.items():
        export(bench, "view", "memory")
        export(bench, "figure", ending)
        bench.do("keep:export-figure").click()
        bench.app.locator(".dse-message", has_text=f"Written: studies/unsaved/memory{ending}").wait_for(timeout=60_000)
        content = (folder / f"memory{ending}").read_bytes()
        assert content.startswith(head)
        assert content.rstrip().endswith(ends[ending])


def test_a_saved_study_reopens_as_it_was(bench):
    bench.python(
        f"w.set({BANDWIDTH!r}, 4e12); w.lock('pp'); w.look(shown=['breakdown', 'landscape', 'front'], y='strategy.pp')\n"
        "w.select({'tp': (8, 16), 'step_time [s]': (4.0, 9.0)})\nanswer = 1"
    )
    bench.do("tab:keep").click()
    name = bench.app.locator("input[data-do='keep:name']")
    name.fill("kept")
    name.press("Tab")
    bench.do("keep:save").click()
    bench.app.locator(".dse-message", has_text="Saved as").wait_for()
    bench.settle()
    before = bench.value("[repr(w.state), len(w.selected), w.result.number('step_time')]")
    names = ("breakdown", "landscape", "front")
    figures = {}
    for name in names:
        bench.painted(name)
        figures[name] = bench.figure(name)["traces"]
    for command in ("notebook:clear-all-cell-outputs", "docmanager:save"):
        bench.page.evaluate(f"window.jupyterapp.commands.execute('{command}')")
    bench.notebook.shut_down()
    bench.page.reload()
    bench.page.wait_for_function("window.jupyterapp?.shell.currentWidget?.context?.sessionContext?.session?.kernel")
    bench.notebook.run_all()
    from browser import Bench

    again = Bench(bench.notebook)
    assert again.value("[repr(w.state), len(w.selected), w.result.number('step_time')]") == before
    assert again.value("w.name") == "kept"
    text = (bench.notebook.root / "studies" / "kept" / "study.yaml").read_text()
    assert text.startswith("kind: study")
    assert "workbench:" in text
    for name in names:
        shown = again.figure(name)["traces"]
        assert json.dumps(shown, sort_keys=True) == json.dumps(figures[name], sort_keys=True), name


def test_a_search_runs_beside_the_controls(bench):
    bench.python("w.reset(); w.select(); w.unlock('pp'); w.look(shown=['breakdown', 'front'])\nanswer = 1")
    bench.do("tab:search").click()
    field = bench.app.locator(f"input[data-do='work:range:{BANDWIDTH}']")
    field.fill("1 TB/s..8 TB/s:80")
    field.press("Tab")
    field = bench.app.locator("input[data-do='work:range:cluster.network.dimensions.infiniband.bandwidth']")
    field.fill("20 GB/s..200 GB/s:80")
    field.press("Tab")
    bench.do("work:start").click()
    progress = bench.app.locator(".dse-progress")
    progress.wait_for(timeout=30_000)
    bench.until("w.searching.job.status.state == 'running'", timeout=60)
    before = bench.value("len(HEARD)")
    handle = bench.handle(BANDWIDTH)
    handle.focus()
    bench.page.keyboard.press("ArrowRight")
    bench.until(f"len(HEARD) > {before} and w.history.past", timeout=10)
    bench.painted("breakdown")
    assert not bench.value("w.searching.job.status.ended"), "the slider moved while the search was running"
    bench.until("w.board.searched is not None and len(w.board.searched.table) > 0", timeout=60)
    assert not bench.value("w.searching.job.status.ended"), "designs are shown as they are found"
    assert bench.app.locator(".dse-view-front .dse-plot .main-svg").count() > 0
    bench.do("work:cancel").click()
    bench.until("w.searching.job.status.ended", timeout=30)
    assert bench.value("w.searching.job.status.state") in ("cancelled", "done")
    bench.do("work:strategies").click()
    bench.until("w.board.searched is None")
    bench.settle()


def test_a_second_view_and_a_second_run_of_the_cell(bench):
    bench.python("w.look(shown=['breakdown', 'memory'])\nanswer = 1")
    bench.settle()
    lab = "window.jupyterapp.commands.execute"
    bench.page.evaluate(f"async () => {{ await {lab}('notebook:create-output-view') }}")
    bench.page.wait_for_function("document.querySelectorAll('.dse-app').length === 2")
    bench.page.wait_for_function("document.querySelectorAll('.dse-view-breakdown .main-svg').length >= 2")
    bench.page.evaluate("document.querySelectorAll('.dse-view-breakdown .dse-plot').forEach((b) => b.scrollIntoView())")
    bench.python(f"w.set({BANDWIDTH!r}, 1e12)\nanswer = 1")
    bench.settle()
    sums = bench.page.evaluate(
        "() => [...document.querySelectorAll('.dse-view-breakdown .dse-plot')].map("
        "(b) => b._fullData.reduce((sum, t) => sum + (t.x?.[0] ?? 0), 0))"
    )
    assert sums[0] == sums[1] == pytest.approx(bench.value("w.result.number('step_time')"), rel=1e-6)
    bench.page.locator(".jp-OutputArea-output .dse-app").first.wait_for()
    bench.notebook.run_all()
    bench.page.wait_for_timeout(500)
    from browser import Bench

    again = Bench(bench.notebook)
    before = again.value("len(HEARD)")
    again.handle(BANDWIDTH).focus()
    again.page.keyboard.press("ArrowRight")
    again.until(f"len(HEARD) > {before}")
    again.settle()
