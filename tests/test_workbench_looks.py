"""How the workbench looks: a screenshot of everything, nothing blank, no text clipped or on top of other text.

The screenshots are kept in the folder that the environment variable ``DSE_SCREENSHOTS`` names.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from browser import Bench

pytest_plugins = ["browser"]

START = "w = dse.workbench('gpt3-175b', 'dgx-h100', devices=1024)\nw"
VIEWS = (
    "breakdown", "memory", "roofline", "timeline", "landscape", "front", "parallel", "tornado", "shadow", "energy",
    "nearest",
)  # fmt: skip
TABS = ("designs", "explain", "compare", "search", "keep", "code")
COLOURS = """async (data) => {
  const image = new Image();
  image.src = data;
  await image.decode();
  const canvas = new OffscreenCanvas(image.width, image.height), pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0);
  const pixels = new Uint32Array(pen.getImageData(0, 0, image.width, image.height).data.buffer);
  return new Set(pixels).size;
}"""
# Texts of a figure that leave it (or the box of its legend), and pairs of texts that overlap.
TEXTS = """(box) => {
  const frame = box.getBoundingClientRect();
  const shown = (e) => { const s = getComputedStyle(e); return s.display !== "none" && s.visibility !== "hidden" && +s.opacity > 0.1; };
  const texts = [...box.querySelectorAll("svg text")].filter((e) => e.textContent.trim() && !e.closest(".modebar, .hoverlayer, defs"))
    .map((e) => ({ e, r: e.getBoundingClientRect(), text: e.textContent })).filter((t) => t.r.width > 0 && shown(t.e));
  const clipped = [], over = [];
  for (const { e, r, text } of texts) {
    const legend = e.closest(".legend")?.querySelector(".bg")?.getBoundingClientRect();
    for (const limit of [frame, ...(legend ? [legend] : [])])
      if (r.left < limit.left - 1.5 || r.right > limit.right + 1.5 || r.top < limit.top - 1.5 || r.bottom > limit.bottom + 1.5) {
        clipped.push(text);
        break;
      }
  }
  for (const [i, a] of texts.entries())
    for (const b of texts.slice(i + 1)) {
      const w = Math.min(a.r.right, b.r.right) - Math.max(a.r.left, b.r.left);
      const h = Math.min(a.r.bottom, b.r.bottom) - Math.max(a.r.top, b.r.top);
      if (w > 2 && h > 0.3 * Math.min(a.r.height, b.r.height)) over.push([a.text, b.text]);
    }
  return { clipped, over, count: texts.length };
}"""
# Words of the HTML that do not fit their box, or leave the workbench.
OVERFLOWS = """(app) => {
  const frame = app.getBoundingClientRect();
  const wide = [...app.querySelectorAll(".dse-tile, .dse-tile *, .dse-button, .dse-chip, .dse-message, .dse-line, h4")]
    .filter((e) => e.offsetParent && (e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== "inline"
      || e.getBoundingClientRect().right > frame.right + 1));
  return wide.map((e) => `${e.className}: ${e.textContent.slice(0, 60)}`);
}"""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the screenshots go."""
    given = os.environ.get("DSE_SCREENSHOTS")
    place = Path(given) if given else tmp_path_factory.mktemp("screenshots")
    place.mkdir(parents=True, exist_ok=True)
    return place


@pytest.fixture(scope="module", params=["light", "dark"])
def bench(request: Any, notebook: Any) -> Bench:
    """A workbench in JupyterLab's light or dark theme; it asks the page which one there is."""
    from browser import LISTEN, Bench

    dark = request.param == "dark"
    made = Bench(notebook(f"looks-{request.param}", LISTEN, START, height=1400, dark=dark))
    made.until(f"w.state.view.dark == {dark}")
    made.settle()
    made.theme = request.param
    return made


def photographed(bench: Bench, target: Any, folder: Path, name: str) -> None:
    """Keep a picture; it may not be blank."""
    png = target.screenshot(path=folder / f"{name}.png")
    data = "data:image/png;base64," + base64.b64encode(png).decode()
    assert bench.page.evaluate(COLOURS, data) > 25


@pytest.mark.parametrize("view", VIEWS)
def test_a_view(bench, folder, view):
    bench.python(f"w.look(shown=[{view!r}])\nanswer = 1")
    bench.settle()
    bench.page.mouse.move(5, 5)
    photographed(bench, bench.app.locator(f".dse-view-{view}"), folder, f"{view}-{bench.theme}")
    texts = bench.view(view).evaluate(TEXTS)
    assert texts["count"] > 4
    assert texts["clipped"] == []
    assert texts["over"] == []


@pytest.mark.parametrize("tab", TABS)
def test_a_tab(bench, folder, tab):
    if tab == "compare":
        bench.python("w.look(shown=['breakdown']); w.pin('A'); w.set('tp', 16); w.pin('B')\nanswer = 1")
    bench.do(f"tab:{tab}").click()
    bench.until(f"w.drawer.now == {tab!r}")
    bench.settle()
    if tab == "compare":
        plot = bench.app.locator(".dse-drawer .dse-plot").first
        plot.locator(".main-svg").first.wait_for()
        texts = plot.evaluate(TEXTS)
        assert texts["clipped"] == []
        assert texts["over"] == []
    photographed(bench, bench.app.locator(".dse-drawer"), folder, f"tab-{tab}-{bench.theme}")
    assert bench.app.locator(".dse-drawer").evaluate(OVERFLOWS) == []


@pytest.mark.parametrize(("width", "height"), [(1280, 1000), (1920, 1080), (700, 1000)])
def test_the_whole_page(bench, folder, width, height):
    bench.python("w.reset(); w.look(shown=['breakdown', 'memory', 'landscape', 'roofline'])\nanswer = 1")
    bench.page.set_viewport_size({"width": width, "height": height})
    bench.settle()
    bench.app.evaluate("(app) => app.scrollIntoView()")
    bench.page.wait_for_timeout(500)  # figures take their new width
    photographed(bench, bench.page, folder, f"page-{width}-{bench.theme}")
    assert bench.app.evaluate(OVERFLOWS) == []
    for view in ("breakdown", "memory", "roofline"):
        assert bench.view(view).evaluate(TEXTS)["clipped"] == []
    bench.page.set_viewport_size({"width": 1280, "height": 1400})


def test_the_switch_of_the_theme(bench, folder):
    app, other = bench.app, "light" if bench.theme == "dark" else "dark"
    colour = "(app) => getComputedStyle(app).backgroundColor"
    before = app.evaluate(colour)
    bench.do("theme").click()
    bench.until(f"w.state.view.dark == {other == 'dark'}")
    bench.settle()
    assert app.evaluate(colour) != before
    bench.view("breakdown").scroll_into_view_if_needed()
    photographed(bench, bench.page, folder, f"page-{bench.theme}-switched-{other}")
    bench.do("theme").click()
    bench.until(f"w.state.view.dark == {bench.theme == 'dark'}")


@pytest.mark.parametrize(("ci", "raised"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_without_a_browser_tests_are_skipped_but_fail_in_ci(monkeypatch, ci, raised):
    import browser

    monkeypatch.setattr(browser, "chromium_path", lambda: None)
    monkeypatch.setenv("CI", ci)
    with pytest.raises(raised) as reason:
        browser.require_browser()
    assert "Chromium" in str(reason.value)
    monkeypatch.setattr(browser, "missing", lambda: "")
    browser.require_browser()


def test_a_given_browser_comes_first(monkeypatch):
    import browser

    monkeypatch.setenv("BROWSER_PATH", "/opt/some/chromium")
    assert browser.chromium_path() == "/opt/some/chromium"
