"""``dse lab`` and ``dse serve``: the user's notebooks are safe, and the servers answer this machine with the token only."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib import util
from pathlib import Path

import nbformat
import psutil
import pytest

from dse.app import lab
from dse.errors import SpecError
from dse.spec.catalogue import asset_root

BOOK = nbformat.v4.new_notebook(
    cells=[
        nbformat.v4.new_markdown_cell("# A small application"),
        nbformat.v4.new_code_cell("import sys\nsecret_name = 6 * 7\nprint('from', sys.executable, secret_name)"),
    ],
    metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
)


def needs(*packages: str) -> pytest.MarkDecorator:
    """Skip where packages are missing; in CI they must be there."""
    missing = [name for name in packages if util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing) and os.environ.get("CI") != "true", reason=f"not installed: {missing}")


# -- the notebooks --------------------------------------------------------------------------------------------


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """A folder in the place of the shipped notebooks."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.ipynb").write_text(f"{name} 1")
    return folder


def texts(folder: Path) -> dict[str, str]:
    """Names and texts of the notebooks in a folder."""
    return {path.name: path.read_text() for path in folder.glob("*.ipynb")}


def test_shipped_notebooks_are_copied_once(tmp_path: Path):
    """Every shipped notebook arrives byte for byte, and a second time nothing happens."""
    mine = tmp_path / "deep" / "mine"
    names = sorted(path.name for path in asset_root("notebooks").glob("*.ipynb"))
    assert lab.copy_notebooks(mine).added == names
    assert all((mine / name).read_bytes() == (asset_root("notebooks") / name).read_bytes() for name in names)
    assert lab.copy_notebooks(mine).lines() == []


def test_a_changed_notebook_is_never_overwritten(tmp_path: Path, shipped: Path):
    """A new version goes beside the user's own, replaces what the user left alone, and the user is told."""
    mine = tmp_path / "mine"
    lab.copy_notebooks(mine, shipped)
    (mine / "a.ipynb").write_text("a mine")
    assert lab.copy_notebooks(mine, shipped) == lab.Copied(kept=["a.ipynb"])  # nothing newer: nothing beside it
    for name in ("a", "b"):
        (shipped / f"{name}.ipynb").write_text(f"{name} 2")
    done = lab.copy_notebooks(mine, shipped)
    assert done == lab.Copied(renewed=["b.ipynb"], kept=["a.ipynb"], beside=["a.new.ipynb"])
    assert texts(mine) == {"a.ipynb": "a mine", "a.new.ipynb": "a 2", "b.ipynb": "b 2"}
    assert any("a.new.ipynb" in line for line in done.lines())
    (mine / "a.new.ipynb").write_text("a new mine")
    (shipped / "a.ipynb").write_text("a 3")
    assert lab.copy_notebooks(mine, shipped) == lab.Copied(kept=["a.ipynb"])
    assert texts(mine)["a.new.ipynb"] == "a new mine"


def test_a_notebook_of_unknown_origin_is_the_users(tmp_path: Path, shipped: Path):
    """A file that was there before, or whose record is lost, is kept; a deleted one comes back."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "a.ipynb").write_text("was here")
    done = lab.copy_notebooks(mine, shipped)
    assert (done.added, done.kept, texts(mine)["a.ipynb"]) == (["b.ipynb"], ["a.ipynb"], "was here")
    (mine / lab.SHIPPED).write_text("{broken")
    (mine / "b.ipynb").unlink()
    (shipped / "a.ipynb").write_text("a 2")
    done = lab.copy_notebooks(mine, shipped)
    assert (done.added, done.kept, texts(mine)["a.ipynb"]) == (["b.ipynb"], ["a.ipynb"], "was here")


def test_a_folder_that_cannot_be_is_said(tmp_path: Path, shipped: Path):
    """A file in the folder's place, and an empty installation, are errors of the user's kind."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecError, match="cannot hold the notebooks"):
        lab.copy_notebooks(tmp_path / "file", shipped)
    with pytest.raises(SpecError, match="there are none"):
        lab.copy_notebooks(tmp_path / "x", tmp_path)


# -- bad input ------------------------------------------------------------------------------------------------


def dse(*arguments: str, cwd: Path, without: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command line, as if a package were not installed."""
    hide = f"import sys; sys.modules[{without!r}] = None; " if without else "import sys; "
    code = f"{hide}sys.argv = ['dse', *{list(arguments)!r}]; from dse.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(("command", "package"), [("lab", "jupyterlab"), ("lab", "anywidget"), ("serve", "voila")])
def test_a_missing_package_names_the_extra(tmp_path: Path, command: str, package: str):
    """Exit code 2, the package and the way to install it; no folder is made."""
    done = dse(command, "--no-browser", cwd=tmp_path, without=package)
    assert done.returncode == 2, done.stderr
    assert package in done.stderr and "pip install 'dse[notebook]'" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@needs("voila", "jupyterlab", "anywidget", "ipywidgets")
def test_bad_input_ends_with_code_2(tmp_path: Path):
    """A port out of range or taken, a notebook that is none, an address that is not offered."""
    (tmp_path / "not.ipynb").write_text("{}")
    with socket.socket() as taken:
        taken.bind((lab.ADDRESS, 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for arguments, said in (
            (["serve", "none.ipynb"], "no such file"),
            (["serve", "not.ipynb"], "not a notebook"),
            (["serve", "--port", port], f"port = {port}: cannot be listened on"),
            (["lab", "--port", port], f"port = {port}: cannot be listened on"),
            (["lab", "--port", "70000"], "65535"),
            (["lab", "--ip", "0.0.0.0"], "No such option"),
        ):
            done = dse(*arguments, "--no-browser", cwd=tmp_path)
            assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_ports():
    """The first free port from the usual one on; a given one or an error."""
    with socket.socket() as taken:
        taken.bind((lab.ADDRESS, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < lab.free_port(None, port) < port + 50
        with pytest.raises(SpecError, match="cannot be listened on"):
            lab.free_port(port, 0)


# -- the servers ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def running(code: str, cwd: Path, *, quiet: bool = True) -> Iterator[tuple[psutil.Process, str, str]]:
    """A server in a process of its own, with a configuration that would open it: process, address, token."""
    config = cwd / "config"
    config.mkdir(exist_ok=True)
    opened = {"ip": "0.0.0.0", "token": ""}
    for name, section in (("jupyter_server_config", "ServerApp"), ("voila", "Voila")):
        (config / f"{name}.json").write_text(json.dumps({section: opened, "IdentityProvider": {"token": ""}}))
    log = cwd / "log"
    kept = {"JUPYTER_CONFIG_DIR": str(config), "JUPYTER_RUNTIME_DIR": str(cwd / "run"), "HOME": str(cwd)}
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=cwd, env=os.environ | kept, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + 120
        while not (found := re.search(r"(http://127\.0\.0\.1:\d+)\S*token=(\w+)", log.read_text())):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield psutil.Process(process.pid), found[1], found[2]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, log.read_text()
        assert not quiet or "Traceback" not in log.read_text(), log.read_text()
    finally:
        for child in [*children(process.pid), process]:
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                child.kill()
        process.wait()


def children(pid: int) -> list[psutil.Process]:
    """Live processes below one."""
    try:
        return [p for p in psutil.Process(pid).children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]
    except psutil.NoSuchProcess:
        return []


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def get(url: str, **headers: str) -> tuple[int, str, str]:
    """Status, text and where it leads of an address, without following."""
    try:
        with urllib.request.build_opener(_Stay).open(urllib.request.Request(url, headers=headers), timeout=60) as page:
            return page.status, page.read().decode(), ""
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(errors="replace"), error.headers.get("Location", "")


def refused(url: str, **headers: str) -> bool:
    """Forbidden, or sent to the login page."""
    status, _, leads = get(url, **headers)
    return status == 403 or (status == 302 and "/login" in leads)


def listening(process: psutil.Process) -> set[str]:
    """Addresses that a process listens on."""
    return {c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}


@needs("jupyterlab", "anywidget", "ipywidgets")
def test_lab_answers_the_token_on_this_machine(tmp_path: Path):
    """The copied notebooks are there with the token and refused without; kernels are of this Python; Ctrl-C stops."""
    code = "import sys; sys.argv = 'dse lab --dir mine --no-browser'.split(); from dse.cli import main; main()"
    with running(code, tmp_path) as (process, base, token):
        assert listening(process) == {"127.0.0.1"}
        assert token not in " ".join(process.cmdline())
        for path in ("/lab", "/lab/tree/00-first-look.ipynb", "/api/contents", "/api/kernelspecs", "/voila"):
            assert refused(base + path), path
        assert refused(f"{base}/api/contents?token=wrong")
        assert refused(f"{base}/api/contents?token={token}", Host="evil.example")
        status, page, _ = get(f"{base}/lab/tree/00-first-look.ipynb?token={token}")
        assert status == 200 and "jupyter-config-data" in page
        contents = json.loads(get(f"{base}/api/contents?token={token}")[1])
        assert "00-first-look.ipynb" in {item["name"] for item in contents["content"]}
        kernels = json.loads(get(f"{base}/api/kernelspecs?token={token}")[1])
        assert {name: spec["spec"]["argv"][0] for name, spec in kernels["kernelspecs"].items()} == {
            "python3": sys.executable
        }
    assert not process.is_running()


@needs("voila", "anywidget", "ipywidgets")
def test_serve_shows_results_to_the_token_only(tmp_path: Path):
    """No code, no files, no other host; a page's kernel is of this Python and ends when nobody looks any more."""
    nbformat.write(BOOK, tmp_path / "book.ipynb")
    (tmp_path / "picture.png").write_bytes(b"private")
    code = "from pathlib import Path; from dse.app import lab; lab.serve(Path('book.ipynb'), browser=False, idle=2)"
    with running(code, tmp_path, quiet=False) as (process, base, token):
        assert listening(process) == {"127.0.0.1"}
        for path in ("/", "/?token=wrong", "/voila/render/book.ipynb", "/api/kernels", "/voila/files/picture.png"):
            assert refused(base + path), path
        assert refused(f"{base}/?token={token}", Host="evil.example")
        assert not children(process.pid), "a request without the token started a kernel"
        status, page, _ = get(f"{base}/?token={token}")
        assert status == 200 and f"from {sys.executable} 42" in page and "A small application" in page
        assert "secret_name" not in page
        kernel = re.search(r"kernelId[^0-9a-f]+([0-9a-f-]{36})", page)
        upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        channels = f"{base}/api/kernels/{kernel[1]}/channels"
        # Refused, though Voila then fails to draw the page that says so, with a traceback in the log.
        assert get(channels, **upgrade, **{"Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg=="})[0] == 403
        deadline = time.monotonic() + 60
        while children(process.pid):
            assert time.monotonic() < deadline, "the kernel of a page that is gone still runs"
            time.sleep(0.5)


@needs("voila", "anywidget", "ipywidgets")
def test_serve_is_the_workbench_by_default(tmp_path: Path):
    """Without a notebook the shipped workbench is served, its kernel works in the user's folder, and Ctrl-C ends it."""
    code = "import sys; sys.argv = 'dse serve --no-browser'.split(); from dse.cli import main; main()"
    with running(code, tmp_path) as (process, base, token):
        status, page, _ = get(f"{base}/?token={token}")
        assert status == 200 and "application/vnd.jupyter.widget-view+json" in page
        assert "import dse" not in page and "Traceback" not in page
        kernels = children(process.pid)
        assert [Path(kernel.cwd()) for kernel in kernels] == [tmp_path]
    assert not any(kernel.is_running() for kernel in kernels)
