"""Speed of the workbench in a real JupyterLab: what a person waits for, measured in the browser.

Run: python tests/bench/bench_workbench.py. Times are from the page's own clock, from the key or the mouse to the frame after
the figures were painted; the machine's load counts in.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import browser

BANDWIDTH = "cluster.node.accelerator.memory.bandwidth"
START = "w = dse.workbench('gpt3-175b', 'dgx-h100', devices=1024)\nw"
ALL = "['breakdown', 'memory', 'roofline', 'timeline', 'landscape', 'front', 'parallel', 'tornado', 'shadow', 'energy', 'nearest']"
# Notes in LATE the time from an event to the frame after every figure in sight has got past the revision it had.
WATCH = """(event) => {
  window.LATE = []; window.SINCE = null; window.FROM = null;
  const revision = () => Math.min(...[...document.querySelectorAll('.dse-card .dse-plot')]
    .filter((e) => e.offsetParent && e.dataset.seen !== 'false').map((e) => +(e.dataset.revision ?? -1)));
  document.addEventListener(event, () => { window.SINCE = performance.now(); window.FROM = revision(); }, true);
  new MutationObserver(() => {
    if (window.SINCE === null || revision() <= window.FROM) return;
    const since = window.SINCE;
    window.SINCE = null;
    requestAnimationFrame(() => setTimeout(() => window.LATE.push(performance.now() - since), 0));
  }).observe(document.body, { subtree: true, attributes: true, attributeFilter: ['data-revision'] });
}"""
# From running the cell to the first painted figure, and to all of those that are shown.
CELL = """async () => {
  const since = performance.now();
  window.jupyterapp.commands.execute('notebook:run-cell');
  let first = null;
  for (;;) {
    await new Promise(requestAnimationFrame);
    const plots = [...document.querySelectorAll('.dse-card .dse-plot')];
    const painted = plots.filter((e) => e.dataset.revision).length;
    if (painted && first === null) first = performance.now() - since;
    if (painted === 4) return [first, performance.now() - since];
    if (performance.now() - since > 60000) return [first, null];
  }
}"""
# From a change of the first select of a card to the figure with as many cells as FINE draws, or the table with its rows.
TABLE = """() => { window.TABLE = null;
  new MutationObserver(() => { if (window.SINCE0 && !window.TABLE && document.querySelector('.dse-drawer')?.textContent.includes('are selected by'))
      window.TABLE = performance.now() - window.SINCE0; }).observe(document.querySelector('.dse-drawer'), { subtree: true, childList: true });
  document.addEventListener('mouseup', () => { window.SINCE0 = performance.now(); window.TABLE = null; }, true); }"""


def report(name: str, milliseconds: list[float | None]) -> None:
    """A line: middle, 95th percentile, worst."""
    known = [value for value in milliseconds if value is not None]
    if not known:
        print(f"{name:<58} never", flush=True)
        return
    p50, p95 = np.percentile(known, [50, 95])
    numbers = f"p50 {p50:6.0f} ms  p95 {p95:6.0f} ms  max {max(known):6.0f} ms"
    print(f"{name:<58} n={len(known)} of {len(milliseconds):<4} {numbers}", flush=True)


def sliding(bench: browser.Bench, moves: int = 60) -> list[float]:
    """Single steps of a slider, each once everything is at rest."""
    bench.settle()
    bench.handle(BANDWIDTH).focus()
    bench.page.evaluate("window.LATE = []")
    for step in range(moves):
        bench.page.keyboard.press("ArrowRight" if step % 20 < 10 else "ArrowLeft")
        bench.page.wait_for_function(f"window.LATE.length > {step}", timeout=20_000)
        bench.page.wait_for_timeout(400)
    return bench.page.evaluate("window.LATE")


def landscape(bench: browser.Bench, repeats: int = 8) -> tuple[list[float], list[float], int]:
    """From choosing another quantity to the first map, and to the one of a million designs; and its designs."""
    bench.python(
        f"w.look(shown=['landscape'], x={BANDWIDTH!r}, y='cluster.network.dimensions.infiniband.bandwidth')\nanswer = 1"
    )
    bench.settle()
    first, fine, designs = [], [], 0
    for turn in range(repeats):
        quantity = ("mfu", "step_time")[turn % 2]
        found = bench.page.evaluate(_CHOOSE, quantity)
        bench.settle()
        first.append(found[0])
        fine.append(found[1])
        designs = found[2]
    return first, fine, designs


_CHOOSE = """async (quantity) => {
  const select = document.querySelector("select[data-do='look:quantity']");
  const box = document.querySelector('.dse-view-landscape .dse-plot');
  const before = box.dataset.revision, since = performance.now();
  select.value = quantity;
  select.dispatchEvent(new Event('change', { bubbles: true }));
  let first = null;
  for (;;) {
    await new Promise(requestAnimationFrame);
    if (first === null && box.dataset.revision !== before) first = performance.now() - since;
    const designs = box.layout.meta?.designs ?? 0;
    if (first !== null && designs >= 1e6) return [first, performance.now() - since, designs];
    if (performance.now() - since > 5000) return [first, null, designs];
  }
}"""


def brushing(bench: browser.Bench, repeats: int = 15) -> list[float]:
    """From letting go of the mouse to the table of what is selected."""
    bench.python("w.reset(); w.look(shown=['breakdown', 'front'])\nanswer = 1")
    bench.do("tab:designs").click()
    bench.page.evaluate(TABLE)
    times = []
    for turn in range(repeats):
        bench.python("w.select()\nanswer = 1")
        bench.settle()
        view = bench.view("front")
        view.scroll_into_view_if_needed()
        box = view.bounding_box()
        x, y = box["x"] + 120, box["y"] + 80
        bench.drag((x, y), (x + 100 + 5 * turn, y + 120))
        bench.page.wait_for_function("window.TABLE !== null", timeout=10_000)
        times.append(bench.page.evaluate("window.TABLE"))
    return times


def main() -> None:
    """Print everything."""

    class Folders:
        def mktemp(self, name: str) -> Path:
            return Path(tempfile.mkdtemp(prefix=f"dse-{name}-"))

    made = [_plain(browser.lab)(Folders()), _plain(browser.chromium)()]
    lab, chromium = (next(fixture) for fixture in made)
    with browser.notebooks(lab, chromium) as run:
        notebook = run(
            "bench",
            browser.LISTEN + "\nimport dse.app.workbench, dse.app.designs, plotly.graph_objects",
            START,
            height=1000,
        )
        bench = browser.Bench(notebook)
        cells(bench)
        bench.page.evaluate(WATCH, "keydown")
        report("slider -> all visible figures, default views", sliding(bench))
        bench.python(f"w.look(shown={ALL})\nanswer = 1")
        report("slider -> all visible figures, all 11 views", sliding(bench, 30))
        first, fine, designs = landscape(bench)
        report("landscape: choice -> first map", first)
        report(f"landscape: choice -> map of {designs:,} designs", fine)
        report("brush -> table of what is selected", brushing(bench))
    for fixture in made:
        next(fixture, None)


def cells(bench: browser.Bench, repeats: int = 5) -> None:
    """The start cell, run again (everything is imported)."""
    first, whole = [], []
    for _ in range(repeats):
        bench.page.evaluate(browser.FRONT)
        bench.page.evaluate("""() => { const n = [...window.jupyterapp.shell.widgets('main')].find((w) => w.context?.sessionContext);
            n.content.activeCellIndex = 1; n.content.widgets[1].model.outputs?.clear?.(); }""")
        bench.page.wait_for_function("document.querySelectorAll('.dse-app').length === 0")
        time.sleep(1)
        found = bench.page.evaluate(CELL)
        first.append(found[0])
        whole.append(found[1])
        bench.page.wait_for_timeout(2000)
    report("start cell -> first figure painted", first)
    report("start cell -> all default figures painted", whole)
    bench.settle()


def _plain(fixture: Any) -> Any:
    """The function behind a fixture."""
    return getattr(fixture, "__wrapped__", None) or fixture._fixture_function


if __name__ == "__main__":
    main()
