"""A real JupyterLab, driven by Chromium: fixtures for the tests of the workbench.

Where Chromium, JupyterLab or Playwright is missing the tests are skipped with the reason, unless ``CI`` is set: there
they fail.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import pytest

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
KERNEL = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
NOISE = (  # of JupyterLab itself, whatever the notebook does
    "favicon",
    "net::ERR_INTERNET_DISCONNECTED",
    "the server responded with a status of 404",
    "Could not restore the debugger state",
    "Canceled future for",  # it shut a kernel down while it was asking it something
)


def chromium_path() -> str | None:
    """A Chromium or Chrome on this machine."""
    given = os.environ.get("BROWSER_PATH")
    return given or next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)


def missing() -> str:
    """What a browser test lacks here; empty if nothing."""
    lacks = [name for name in ("jupyterlab", "playwright", "anywidget") if importlib.util.find_spec(name) is None]
    lacks += [] if chromium_path() else ["Chromium"]
    return f"needs {', '.join(lacks)}" if lacks else ""


def require_browser() -> None:
    """Skip where there is no browser; fail in CI.

    Raises:
        Skipped, Failed: something is missing.
    """
    if lacks := missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"the workbench in a browser {lacks}")


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A JupyterLab of its own: its address and the folder of its notebooks."""
    require_browser()
    root, home = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("jupyter")
    quiet = home / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    places = {"CONFIG_DIR": "config", "DATA_DIR": "data", "RUNTIME_DIR": "runtime"}
    env = dict(os.environ, **{f"JUPYTER_{name}": str(home / folder) for name, folder in places.items()})
    env |= {"JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces")}
    with (home / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [
                sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
                "--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True", f"--ServerApp.root_dir={root}",
                "--LabApp.expose_app_in_browser=True",
            ],
            env=env, stdout=log, stderr=log,
        )  # fmt: skip
        url = f"http://127.0.0.1:{port}"
        _wait_for(server, url, home / "server.log")
        yield url, root
        server.terminate()
        server.wait(30)


def _wait_for(server: Any, url: str, log: Path) -> None:
    for _ in range(900):
        if server.poll() is not None:
            pytest.fail(log.read_text())
        try:
            urllib.request.urlopen(url + "/api", timeout=1)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    pytest.fail(f"JupyterLab did not answer: {log.read_text()[-2000:]}")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser."""
    require_browser()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), headless=True, args=FLAGS)
        yield browser
        browser.close()


def looped(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """What a coroutine returns, in an event loop and a thread of its own: Playwright's loop may be this thread's."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(main())).result()


class Notebook:
    """A notebook in JupyterLab: the page, what went wrong on it, and its kernel's answers."""

    def __init__(self, page: Any, root: Path) -> None:
        self.page, self.root, self.errors = page, root, []
        page.on("pageerror", self._failed)
        page.on("console", lambda m: m.type == "error" and self._heard(m.text, (m.location or {}).get("url", "")))

    def _failed(self, error: Any) -> None:
        """An exception on the page; JupyterLab takes some nodes away twice, which is not a widget's doing (a ``blob:``)."""
        text, stack = str(error), str(getattr(error, "stack", "") or "")
        if not ("removeChild" in text and "blob:" not in stack):
            self._heard(f"{text}\n{stack}")

    def _heard(self, text: str, url: str = "") -> None:
        if not any(noise in text for noise in NOISE):
            self.errors.append(f"{text} ({url})")

    def theme(self, name: str) -> None:
        """Switch the theme of JupyterLab."""
        self.page.evaluate("(theme) => window.jupyterapp.commands.execute('apputils:change-theme', { theme })", name)

    def run_all(self) -> None:
        """Run all cells of the notebook, once its kernel is ready."""
        self.page.evaluate(FRONT)
        self.page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=90_000)
        self.page.locator("#jp-MainMenu").get_by_text("Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()

    def python(self, code: str) -> Any:
        """Run code in the notebook's kernel and return what it assigned to ``answer`` (as JSON can hold it)."""
        wrapped = f"{code}\nimport json as _json\nprint('ANSWER' + _json.dumps(answer))"
        text, error = self.page.evaluate(_ASK, wrapped)
        assert not error, error
        return json.loads(text.split("ANSWER", 1)[1].strip().splitlines()[0])

    def shut_down(self) -> None:
        """End the kernel."""
        self.page.evaluate("async () => { await window.jupyterapp.serviceManager.sessions.shutdownAll() }")

    def close(self) -> None:
        """End the kernel and the page."""
        self.shut_down()
        self.page.close()


# Another tab, such as a second view of an output, may be in front.
FRONT = """async () => {
  while (!window.jupyterapp?.shell.currentWidget) await new Promise((ready) => setTimeout(ready, 50));
  const app = window.jupyterapp;
  const notebook = [...app.shell.widgets("main")].find((widget) => widget.context?.sessionContext);
  if (notebook) app.shell.activateById(notebook.id);
}"""

_ASK = """async (code) => {
  const notebook = [...window.jupyterapp.shell.widgets("main")].find((widget) => widget.context?.sessionContext);
  const kernel = notebook.context.sessionContext.session.kernel;
  const future = kernel.requestExecute({ code, store_history: false });
  let text = "", error = "";
  future.onIOPub = (m) => {
    if (m.header.msg_type === "stream") text += m.content.text;
    if (m.header.msg_type === "error") error += m.content.traceback.join("\\n");
  };
  await future.done;
  return [text, error];
}"""


@contextmanager
def notebooks(lab: tuple[str, Path], chromium: Any) -> Iterator[Any]:
    """What opens a notebook of some cells and runs it: ``run(name, *cells, width=, height=, dark=)``.

    At the end the kernels are shut down, and no error may have been on a page.
    """
    url, root = lab
    opened: list[Notebook] = []

    def run(name: str, *cells: str, width: int = 1280, height: int = 1000, dark: bool = False) -> Notebook:
        book = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(cell) for cell in cells], metadata={"kernelspec": KERNEL}
        )
        nbformat.write(book, root / f"{name}.ipynb")
        page = chromium.new_page(viewport={"width": width, "height": height})
        made = Notebook(page, root)
        opened.append(made)
        page.goto(f"{url}/lab/workspaces/{name}/tree/{name}.ipynb?reset")
        if dark:
            page.wait_for_function("window.jupyterapp?.commands.hasCommand('apputils:change-theme')")
            made.theme("JupyterLab Dark")
        made.run_all()
        return made

    yield run
    for made in opened:
        made.close()
    assert [error for made in opened for error in made.errors] == []


@pytest.fixture(scope="module")
def notebook(lab: Any, chromium: Any) -> Iterator[Any]:
    """Opens notebooks for the tests of a module (see :func:`notebooks`)."""
    with notebooks(lab, chromium) as run:
        yield run


class Bench:
    """The workbench ``w`` of a notebook's kernel, as it stands on the page."""

    def __init__(self, notebook: Notebook, name: str = "w") -> None:
        self.notebook, self.page, self.name = notebook, notebook.page, name
        self.app = self.page.locator(".dse-app").first
        self.app.locator(".dse-plot .main-svg").first.wait_for(timeout=90_000)
        self.settle()

    def python(self, code: str) -> Any:
        """Run code in the kernel; see :meth:`Notebook.python`."""
        return self.notebook.python(code)

    def value(self, expression: str) -> Any:
        """The value of an expression in the kernel, as JSON holds it (anything else as text)."""
        return self.python(f"import json\nanswer = json.loads(json.dumps({expression}, default=str))")

    def settle(self, timeout: float = 30.0) -> None:
        """Wait until the kernel has nothing more to do and the page shows its last state."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            revision, idle = self.value(
                f"[{self.name}.board.revision, {self.name}.board.later.idle and {self.name}.drawer._later.idle]"
            )
            if idle and all(shown == revision for shown in self.page.evaluate(_REVISIONS)):
                return
            self.page.wait_for_timeout(30)
        pytest.fail(f"the page shows {self.page.evaluate(_REVISIONS)}, the kernel is at {revision}, idle: {idle}")

    def until(self, condition: str, timeout: float = 15.0) -> None:
        """Wait until an expression holds in the kernel: what is clicked may be handled in another of its threads."""
        end = time.monotonic() + timeout
        while not self.value(f"bool({condition})"):
            if time.monotonic() > end:
                pytest.fail(f"{condition} did not become true; the last actions: {self.value('HEARD[-3:]')}")
            self.page.wait_for_timeout(20)

    def painted(self, name: str, timeout: float = 15.0) -> None:
        """Bring a view into sight and wait until it shows the kernel's last state."""
        self.view(name).scroll_into_view_if_needed()
        end = time.monotonic() + timeout
        while self.view(name).get_attribute("data-revision") != str(self.value(f"{self.name}.board.revision")):
            if time.monotonic() > end:
                pytest.fail(f"{name} does not follow")
            self.page.wait_for_timeout(20)

    def view(self, name: str) -> Any:
        """The figure of a view on the page."""
        return self.app.locator(f".dse-view-{name} .dse-plot")

    def handle(self, path: str) -> Any:
        """The handle of the slider of a field."""
        row = self.app.locator(".widget-vbox", has=self.page.locator(f".dse-field[data-path='{path}']"))
        return row.last.locator(".noUi-handle")

    def do(self, action: str, value: str | None = None) -> Any:
        """What can be clicked for an action (and a value, where there are several)."""
        found = f"[data-do='{action}']" + (f"[data-value='{value}']" if value is not None else "")
        return self.app.locator(found).first

    def message(self) -> str:
        """What is said above the views."""
        return " ".join(self.app.locator(".dse-message:not(.rules)").all_inner_texts())

    def figure(self, name: str) -> dict[str, Any]:
        """What a figure on the page shows: Plotly's full data and axes."""
        return self.view(name).evaluate(_DRAWN)

    def drag(self, start: tuple[float, float], end: tuple[float, float], steps: int = 6) -> None:
        """Press the mouse at one place of the page, move it to another, and let go."""
        mouse = self.page.mouse
        mouse.move(*start)
        mouse.down()
        mouse.move(*end, steps=steps)
        mouse.up()


# A first cell: notes everything that comes from the page, in the list HEARD.
LISTEN = """import dse
from dse.app import panel, widgets
HEARD = []
def noted(kind, name, what):
    plain = getattr(kind, name)
    def receive(self, *given):
        HEARD.extend(what(self, *given))
        return plain(self, *given)
    setattr(kind, name, receive)
noted(widgets.Html, '_receive', lambda self, _, message, __: [[message.get('do'), message.get('value')]])
noted(widgets.Plot, '_receive', lambda self, _, m, __: [[m['type'], m]] if m.get('type') not in ('plotly', 'seen') else [])
noted(panel.Panel, '_moved', lambda self, path, place: [] if self._quiet else [['slide:' + path, place]])
"""

_REVISIONS = """() => [...document.querySelectorAll('.dse-card .dse-plot')]
  .filter((e) => e.offsetParent && e.dataset.seen !== "false").map((e) => +(e.dataset.revision ?? -1))"""

_DRAWN = """(box) => {
  const plain = (v) => v && (Array.isArray(v) || ArrayBuffer.isView(v)) ? Array.from(v, plain) : v;
  const traces = box._fullData.map((t) => ({ type: t.type, name: t.name, x: plain(t.x), y: plain(t.y), z: plain(t.z),
    visible: t.visible, meta: t.meta ?? null,
    dimensions: t.dimensions?.map((d) => ({ values: plain(d.values), range: d.range, constraintrange: d.constraintrange,
      tickvals: plain(d.tickvals) })) }));
  const axis = (a) => a && ({ offset: a._offset, length: a._length, type: a.type, range: plain(a.range), title: a.title?.text });
  const layout = box._fullLayout;
  return { traces, xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis), selections: layout.selections?.length ?? 0 };
}"""
