"""The workbench in a real JupyterLab: what is done with mouse and keyboard reaches Python, and the page shows it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from browser import Bench

pytest_plugins = ["browser"]

BANDWIDTH = "cluster.node.accelerator.memory.bandwidth"
SLIDERS = (
    BANDWIDTH,
    "cluster.node.accelerator.memory.capacity",
    "cluster.node.accelerator.matrix.bf16",
    "devices",
    "strategy.global_batch",
    "model.seq_len",
)
START = "w = dse.workbench('gpt3-175b', 'dgx-h100', devices=1024)\nw"
# A design priced anew, by the line of code that the workbench gives for it.
FRESH = """
import dse.app.design as _design
from dse.app.sides import python_of
_design._priced.cache_clear(), _design._specs.cache_clear()
fresh = eval(python_of(w.state.design).replace('import dse', '').strip())
one = lambda name: float(fresh[name].values.reshape(-1)[0])
answer = [{k: one('time.' + k) for k in w.result.terms('time')}, one('step_time')]
"""
UNITS = {"[s]": 1.0, "[ms]": 1e-3, "[µs]": 1e-6, "[min]": 60.0, "[h]": 3600.0}


@pytest.fixture(scope="module")
def bench(notebook: Any) -> Bench:
    """A workbench that the tests of this file share; each leaves it as it likes."""
    from browser import LISTEN, Bench

    return Bench(notebook("bench", LISTEN, START, height=1400))


@pytest.fixture(autouse=True)
def no_errors(bench: Bench):
    """No error on the page during a test."""
    yield
    assert bench.notebook.errors == []


def bars(bench: Bench) -> dict[str, float]:
    """Terms of the breakdown on the page, in seconds."""
    figure = bench.figure("breakdown")
    factor = next(factor for text, factor in UNITS.items() if text in figure["xaxis"]["title"])
    return {trace["meta"]: trace["x"][0] * factor for trace in figure["traces"] if trace["type"] == "bar"}


def assert_breakdown_is_fresh(bench: Bench) -> None:
    """The bars on the page are a new computation of the design, and they add up to the step time."""
    bench.painted("breakdown")
    terms, step = bench.python(FRESH)
    shown = bars(bench)
    assert sum(shown.values()) == pytest.approx(step, rel=1e-6)
    assert shown == pytest.approx({name: value for name, value in terms.items() if name in shown}, rel=1e-6)
    assert sum(value for name, value in terms.items() if name not in shown) == pytest.approx(0.0, abs=1e-9 * step)


def test_the_start_cell_shows_where_the_time_goes(bench):
    assert len(bars(bench)) >= 3
    assert all(value > 0 for value in bars(bench).values())
    assert bench.app.locator(".dse-plot .main-svg").count() >= 4
    assert_breakdown_is_fresh(bench)


# -- sliders ----------------------------------------------------------------------------------------------------


HELD = """[len(HEARD), HEARD[-1] if HEARD else None, w.panel._sliders[{path!r}][1].value,
           w.panel._controls[{path!r}].template, w.state.get({path!r}), w.board.revision]"""


def moved(bench: Bench, path: str, act: Any) -> None:
    """One move of a slider: it reaches Python, the page and Python agree on the place, and the figure is the state's."""
    before = bench.value("len(HEARD)")
    act()
    place = int(float(bench.handle(path).get_attribute("aria-valuenow")))
    bench.until(f"len(HEARD) > {before} and w.panel._sliders[{path!r}][1].value == {place}")
    _, (do, heard), _, usual, now, _ = bench.value(HELD.format(path=path))
    assert do == f"slide:{path}"
    if path.startswith("cluster."):  # from a 16th of the template's value to 16 times it, in 240 steps
        assert heard == place
        assert now == pytest.approx(usual / 16 * 256 ** (place / 240), rel=1e-3)
    assert_breakdown_is_fresh(bench)


@pytest.mark.parametrize("path", SLIDERS)
def test_steps_of_a_slider_by_keyboard(bench, path):
    if path == SLIDERS[1]:  # the first one moves with the views that are shown at the start
        show(bench, "breakdown", "memory", "roofline")
    for key in ["ArrowRight"] * 4 + ["ArrowLeft"] * 2 + ["PageUp", "PageDown", "PageDown", "ArrowRight"]:
        handle = bench.handle(path)
        handle.focus()
        moved(bench, path, lambda key=key: bench.page.keyboard.press(key))


@pytest.mark.parametrize("path", SLIDERS[:4])
def test_a_slider_is_dragged_with_the_mouse(bench, path):
    for step in (-22, 13, 19, -31, 27, -9, 24, -17, 11, -15):
        bench.handle(path).scroll_into_view_if_needed()
        box = bench.handle(path).bounding_box()
        start = (round(box["x"] + box["width"] / 2), round(box["y"] + box["height"] / 2))
        moved(bench, path, lambda s=start, d=step: bench.drag(s, (s[0] + d, s[1]), steps=5))


def test_the_last_of_many_quick_steps_wins(bench):
    handle = bench.handle(BANDWIDTH)
    handle.focus()
    start = int(float(handle.get_attribute("aria-valuenow")))
    step = 1 if start < 120 else -1
    for _ in range(40):
        bench.page.keyboard.press("ArrowRight" if step > 0 else "ArrowLeft")
    bench.until(f"w.panel._sliders[{BANDWIDTH!r}][1].value == {start + 40 * step}")
    bench.settle()
    assert_breakdown_is_fresh(bench)


# -- brushes ----------------------------------------------------------------------------------------------------


def show(bench: Bench, *names: str) -> None:
    """Show these views of the first design, nothing selected."""
    bench.python(f"w.reset(); w.look(shown={list(names)}, selected={{}})\nanswer = 1")
    bench.settle()


def box_of(bench: Bench, name: str, shares: tuple[float, float, float, float]) -> list[tuple[int, int]]:
    """Two corners on the page: shares of the plot's width and height (0 is left and top)."""
    view = bench.view(name)
    view.scroll_into_view_if_needed()
    place, figure = view.bounding_box(), bench.figure(name)
    left, top = place["x"] + figure["xaxis"]["offset"], place["y"] + figure["yaxis"]["offset"]
    width, height = figure["xaxis"]["length"], figure["yaxis"]["length"]
    x0, x1, y0, y1 = shares
    return [(round(left + x * width), round(top + y * height)) for x, y in ((x0, y0), (x1, y1))]


def ranges_of(bench: Bench, name: str, corners: list[tuple[int, int]]) -> dict[str, list[float]]:
    """What a box on the page takes in, in SI units of both axes, computed from the ranges of the axes alone."""
    place, figure = bench.view(name).bounding_box(), bench.figure(name)
    meta = bench.value(f"w.board.cards[{name!r}].meta")
    found = {}
    for letter, side in (("x", 0), ("y", 1)):
        axis = figure[f"{letter}axis"]
        shares = [(c[side] - place[letter] - axis["offset"]) / axis["length"] for c in corners]
        shares = shares if letter == "x" else [1 - share for share in shares]
        low, high = axis["range"]
        ends = sorted(low + (high - low) * share for share in shares)
        ends = [10**end for end in ends] if axis["type"] == "log" else ends
        values = meta.get(f"{letter}_values")
        if values:
            inside = [value for index, value in enumerate(values) if ends[0] <= index <= ends[1]]
            found[meta[letter]] = [min(inside), max(inside)]
        else:
            found[meta[letter]] = [end * meta[f"{letter}_scale"] for end in ends]
    return found


def assert_selected(bench: Bench, wanted: dict[str, list[float]], slack: float = 0.01) -> None:
    """The selection is these ranges (to a pixel), and its rows are exactly those of the table that lie within it."""
    found = bench.value("w.selection")
    assert set(found) == set(wanted)
    for column, ends in wanted.items():
        assert found[column] == pytest.approx(ends, rel=slack)
    exact = bench.python(
        "t = w.scene.designs.table\nmask = t.feasible | True\n"
        "for column, (low, high) in w.selection.items():\n"
        "    mask &= t[column].between(low, high) if column in t else True\n"
        "answer = [list(map(int, t.index[mask])) == list(map(int, w.selected.index)), int(mask.sum()), len(t)]"
    )
    assert exact[0], exact


SPANS = ((0.05, 0.4), (0.3, 0.62), (0.1, 0.9)), ((0.1, 0.5), (0.35, 0.97), (0.6, 0.9), (0.2, 0.7))


def brush(bench: Bench, start: tuple[int, int], end: tuple[int, int]) -> None:
    """Drag, and wait until the kernel has heard of it."""
    before = bench.value("len(HEARD)")
    bench.drag(start, end)
    bench.until(f"len(HEARD) > {before}")
    bench.settle()


def test_boxes_on_the_front_select_what_they_cover(bench):
    show(bench, "breakdown", "front")
    sizes = set()
    for (x0, x1), (y0, y1) in itertools.product(*SPANS):
        bench.python("w.select()\nanswer = 1")  # a drag from within a box would move it
        bench.settle()
        corners = box_of(bench, "front", (x0, x1, y0, y1))
        wanted = ranges_of(bench, "front", corners)
        brush(bench, *corners)
        assert_selected(bench, wanted, 0.001)
        sizes.add(bench.value("len(w.selected)"))
    assert len(sizes) > 3
    count = bench.value("len(w.selected)")
    assert f"{count:,} of" in bench.app.locator(".dse-drawer").inner_text()  # the table follows
    bench.do("view:parallel").click()
    bench.until("'parallel' in w.board.cards")
    bench.settle()
    lines = bench.figure("parallel")["traces"][0]["dimensions"]
    assert [d for d in lines if d["constraintrange"]], "the parallel lines follow"
    assert any("selected" in (trace["name"] or "") for trace in bench.figure("front")["traces"])


def test_a_box_is_moved_and_cleared(bench):
    show(bench, "breakdown", "front", "parallel")
    corners = box_of(bench, "front", (0.1, 0.5, 0.2, 0.6))
    brush(bench, *corners)
    first = bench.value("w.selection")
    (left, top), (_, bottom) = corners
    middle = (left, (top + bottom) // 2 + 25)  # a place on the edge that is no handle
    brush(bench, middle, (middle[0] + 60, middle[1] + 20))
    assert bench.value("w.selection") != first
    box = bench.view("front").evaluate("(e) => e.layout.selections[0]")
    meta = bench.value("w.board.cards['front'].meta")
    shown = {meta[a]: sorted(box[f"{a}{i}"] * meta[f"{a}_scale"] for i in (0, 1)) for a in "xy"}
    assert_selected(bench, shown, 1e-6)
    bench.do("clear").click()
    bench.until("not w.selection")
    bench.settle()
    assert bench.figure("front")["selections"] == 0
    assert bench.value("len(w.selected) == len(w.scene.designs.table)")


def test_boxes_on_the_landscape_select_what_they_cover(bench):
    show(bench, "breakdown", "landscape", "front")
    axes = ((BANDWIDTH, "strategy.tp"), ("strategy.pp", "strategy.micro_batch"), ("strategy.tp", BANDWIDTH))
    shapes = ((0.2, 0.6, 0.15, 0.75), (0.05, 0.95, 0.3, 0.97), (0.4, 0.9, 0.05, 0.6))
    for (x, y), shape in itertools.product(axes, shapes):
        bench.python(f"w.look(x={x!r}, y={y!r}, selected={{}})\nanswer = 1")
        bench.settle()
        corners = box_of(bench, "landscape", shape)
        wanted = ranges_of(bench, "landscape", corners)
        brush(bench, *corners)
        assert_selected(bench, wanted, 0.001)
        assert bench.figure("landscape")["selections"] == 1


def test_the_landscape_refines_to_a_million_designs(bench):
    show(bench, "breakdown", "landscape")
    bench.python(f"w.look(x={BANDWIDTH!r}, y='cluster.network.dimensions.infiniband.bandwidth')\nanswer = 1")
    bench.settle()
    assert bench.value("w.board.cards['landscape'].meta['designs']") == 1_000_000
    shown = bench.view("landscape")
    assert shown.evaluate("(box) => box.layout.meta.designs") == 1_000_000
    cells = shown.evaluate("(box) => box._fullData.find((t) => t.type === 'heatmap').z.length")
    assert cells == 90  # rows that are drawn; a cell shows the design at its centre


def test_ranges_on_parallel_lines_select_what_they_cover(bench):
    show(bench, "breakdown", "front", "parallel")
    dimensions = bench.value("w.board.cards['parallel'].meta['dimensions']")
    lines = bench.figure("parallel")["traces"][0]["dimensions"]
    chosen = [i for i, d in enumerate(dimensions) if not d["values"] and len(set(lines[i]["values"])) > 3]
    assert len(chosen) >= 5
    places = ((0.12, 0.68), (0.27, 0.93))  # between ticks
    for index, (top, bottom) in itertools.product(chosen[-5:], places):
        bench.python("w.select()\nanswer = 1")
        bench.settle()
        view = bench.view("parallel")
        view.scroll_into_view_if_needed()
        line = view.locator(".y-axis").nth(index).locator(".axis-brush .background").bounding_box()
        x, y, height = line["x"] + line["width"] / 2, line["y"], line["height"]
        brush(bench, (round(x), round(y + top * height)), (round(x), round(y + bottom * height)))
        shown = bench.figure("parallel")["traces"][0]["dimensions"][index]
        span = max(shown["values"]) - min(shown["values"])
        ends = [min(shown["values"]) + span * (1 - share) for share in (bottom, top)]
        # Plotly lets a range end around ticks, where a line has them
        ticks = sorted(shown["tickvals"] or [])
        gap = max((right - left for left, right in itertools.pairwise(ticks)), default=0.0)
        assert shown["constraintrange"] == pytest.approx(ends, abs=gap + 2 * span / height)
        dimension = dimensions[index]
        drawn = [10**end if dimension["log"] else end for end in shown["constraintrange"]]
        assert_selected(bench, {dimension["column"]: [end * dimension["scale"] for end in drawn]}, 1e-6)
        assert bench.value("len(w.selected)") > 0


# -- what is typed and clicked ----------------------------------------------------------------------------------------


def test_a_value_with_its_unit_is_typed(bench):
    show(bench, "breakdown", "memory", "landscape", "roofline")
    entry = bench.do(f"set:{BANDWIDTH}")
    entry.fill("4 TB/s")
    entry.press("Enter")
    bench.until(f"w.state.get({BANDWIDTH!r}) == 4e12")
    bench.settle()
    assert bench.do(f"set:{BANDWIDTH}").input_value() == "4 TB/s"
    assert_breakdown_is_fresh(bench)


def test_bad_text_is_refused_and_nothing_is_lost(bench):
    before = bench.value(f"[w.state.get({BANDWIDTH!r}), len(w.history.past)]")
    for text in ("3 GB", "fast", "-1 TB/s", "<b>1</b>"):
        entry = bench.do(f"set:{BANDWIDTH}")
        entry.fill(text)
        entry.press("Enter")
        bench.app.locator(".dse-message.bad").wait_for()
        assert bench.value(f"[w.state.get({BANDWIDTH!r}), len(w.history.past)]") == before
        bench.do("dismiss").click()
        bench.app.locator(".dse-message.bad").wait_for(state="detached")
    bench.do(f"set:{BANDWIDTH}").fill("4 TB/s")
    bench.do(f"set:{BANDWIDTH}").press("Enter")
    bench.settle()


def test_chips_are_taken_or_say_why_not(bench):
    show(bench, "breakdown", "memory", "landscape", "roofline")
    bench.do("set:strategy.tp", "16").click()
    bench.until("w.state.get('tp') == 16")
    bench.settle()
    assert_breakdown_is_fresh(bench)
    chip = bench.app.locator("[data-do='why:strategy.tp']").first
    label, before = chip.get_attribute("data-value"), bench.value("len(w.history.past)")
    chip.click(force=True)  # for it is marked as disabled
    bench.app.locator(".dse-message.warn").wait_for()
    assert f"Tensor parallel {label} is not possible here" in bench.message()
    rule = bench.value(f"w.state.set('tp', {label}).result.reasons()[0]['why']")
    assert rule[:30] in bench.message()
    assert bench.value("len(w.history.past)") == before


def test_find_best_undo_redo_lock(bench):
    show(bench, "breakdown", "memory", "landscape", "roofline")
    best = bench.value("w.result.number('step_time')")
    bench.do("set:strategy.tp", "16").click()
    bench.until("w.state.get('tp') == 16")
    bench.do("lock:strategy.tp").click()
    bench.until("w.state.is_locked('strategy.tp')")
    bench.do("best").click()
    bench.until("w.history.past[-1].locks and w.state.get('tp') == 16")
    assert bench.value("w.result.number('step_time')") >= best
    bench.do("unlock:strategy.tp").click()
    bench.until("not w.state.locks")
    bench.do("best").click()
    bench.until("w.state.get('tp') != 16")
    assert bench.value("w.result.number('step_time')") == pytest.approx(best)
    bench.do("undo").click()
    bench.until("w.state.get('tp') == 16")
    bench.do("redo").click()
    bench.until("w.state.get('tp') != 16")
    assert_breakdown_is_fresh(bench)
