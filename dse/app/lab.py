"""JupyterLab on the shipped notebooks, and one notebook as an application (Voila): both on this machine only.

Both servers run inside this process, listen on 127.0.0.1 alone, ask for a token made here, and start every kernel with
the Python that runs ``dse``. What a user's Jupyter configuration says about address, token or port does not reach them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import socket
import warnings
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path
from typing import Any

from dse.errors import Fault, SpecError
from dse.spec.catalogue import asset_root

ADDRESS = "127.0.0.1"
LAB_PORT, SERVE_PORT = 8888, 8866
FIRST, APPLICATION = "00-first-look.ipynb", "workbench.ipynb"
NEEDED = {"lab": ("jupyterlab", "ipywidgets", "anywidget"), "serve": ("voila", "ipywidgets", "anywidget")}
SHIPPED = ".shipped.json"  # digests of the notebooks as they were copied: what differs from them is the user's
IDLE = 60  # seconds without work after which the kernel of a served notebook that no page shows is ended
_TRIES = 50


# -- the notebooks --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Copied:
    """What became of the shipped notebooks in a user's folder; names of files.

    Attributes:
        added: copied; ``renewed``: replaced, as the user had not changed the older version.
        kept: changed by the user and left as they are.
        beside: newer versions of those, written under another name.
    """

    added: list[str] = field(default_factory=list)
    renewed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Sentences for the terminal; none where nothing happened."""
        said = (("copied", self.added), ("renewed", self.renewed), ("yours, left as they are", self.kept))
        found = [f"{word}: {', '.join(names)}" for word, names in said if names]
        return found + [f"there is a new version beside yours: {name}" for name in self.beside]


def copy_notebooks(folder: Path, source: Path | None = None) -> Copied:
    """Copy the shipped notebooks to a folder; a notebook that the user changed is never overwritten.

    A notebook counts as changed when its bytes are neither those shipped now nor those copied earlier. A later version
    of such a notebook is written beside it, as ``NAME.new.ipynb``.

    Raises:
        SpecError: the folder cannot be made or written, or nothing is shipped.
    """
    shipped = {path.name: path.read_bytes() for path in sorted((source or asset_root("notebooks")).glob("*.ipynb"))}
    if not shipped:
        raise SpecError([Fault("notebooks", str(source or asset_root("notebooks")), "there are none; reinstall dse")])
    done = Copied()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        before = _copied_before(folder)
        known = dict(before)
        for name, content in shipped.items():
            _copy(folder, name, content, before, known, done)
        if known != before:
            _write(folder / SHIPPED, json.dumps(known, indent=1, sort_keys=True).encode())
    except OSError as error:
        raise SpecError([Fault("dir", str(folder), f"cannot hold the notebooks: {error.strerror}")]) from None
    return done


def _copy(folder: Path, name: str, content: bytes, before: dict[str, str], known: dict[str, str], done: Copied) -> None:
    target, digest = folder / name, _digest(content)
    mine = _digest(target.read_bytes()) if target.exists() else None
    if mine is None or (mine != digest and mine == before.get(name)):
        _write(target, content)
        (done.added if mine is None else done.renewed).append(name)
        known[name] = digest
    elif mine == digest:
        known[name] = digest
    else:
        done.kept.append(name)
        new = target.with_suffix(".new.ipynb")
        there = _digest(new.read_bytes()) if new.exists() else None
        # Nothing is newer where the user's file began as what is shipped today.
        if before.get(name) != digest and there != digest and there in (None, before.get(new.name)):
            _write(new, content)
            known[new.name] = digest
            done.beside.append(new.name)


def _copied_before(folder: Path) -> dict[str, str]:
    try:
        found = json.loads((folder / SHIPPED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(name): str(digest) for name, digest in found.items()} if isinstance(found, dict) else {}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_bytes(content)
    part.replace(path)


# -- the servers ----------------------------------------------------------------------------------------------


def lab(folder: Path, *, port: int | None = None, browser: bool = True, say: Callable[[str], None] = print) -> None:
    """Open JupyterLab on the shipped notebooks, copied to ``folder``; returns when it is stopped (Ctrl-C).

    Raises:
        SpecError: a package is missing, the port is taken, or the folder cannot be written.
    """
    need("lab")
    at, token = free_port(port, LAB_PORT), secrets.token_hex(24)
    for line in copy_notebooks(folder).lines():
        say(line)
    warnings.simplefilter("ignore", DeprecationWarning)  # of Jupyter's packages about one another
    from jupyterlab.labapp import LabApp

    options = {
        "ServerApp.ip": ADDRESS, "ServerApp.port": at, "ServerApp.port_retries": _retries(port),
        "ServerApp.allow_remote_access": False, "ServerApp.root_dir": folder.resolve(),
        "ServerApp.open_browser": browser, "ServerApp.log_level": "WARN", "LabApp.log_level": "WARN",
        "ServerApp.answer_yes": True,  # Ctrl-C stops at once, kernels included
        "IdentityProvider.token": token, "LabApp.default_url": f"/lab/tree/{FIRST}",
        "ServerApp.allow_root": True,  # usual in containers, and it is root who asks
        **_encrypted(),
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the server's own settings, which it reads at the start
        server = LabApp.initialize_server(argv=_arguments(options), kernel_spec_manager_class=_kernels())
    say(f"notebooks in {folder.resolve()}")
    url = f"http://{ADDRESS}:{server.port}/lab/tree/{FIRST}?token={token}"
    server.io_loop.add_callback(say, _ready("JupyterLab", url))
    server.start()


def serve(
    notebook: Path | None = None,
    *,
    port: int | None = None,
    browser: bool = True,
    idle: int = IDLE,
    say: Callable[[str], None] = print,
) -> None:
    """Serve a notebook as an application, without its code; by default the workbench. Returns when it is stopped.

    Each page has a kernel of its own, to which it can send the messages of widgets but no code. The kernel is ended at
    most 1.25 ``idle`` seconds after its page is closed, while one that a page shows is kept. (The page's own request to
    end it is refused by the server's protection against forged requests.) Files beside the notebook are not served.
    Relative paths start at the notebook's folder; those of the shipped workbench at the working folder.

    Raises:
        SpecError: a package or the notebook is missing, or the port is taken.
    """
    need("serve")
    path = _notebook(asset_root("notebooks") / APPLICATION if notebook is None else notebook)
    at, token = free_port(port, SERVE_PORT), secrets.token_hex(24)
    warnings.simplefilter("ignore", DeprecationWarning)
    from jupyter_core.paths import jupyter_runtime_dir
    from tornado.ioloop import IOLoop
    from voila.app import Voila

    options = {
        "Voila.ip": ADDRESS, "Voila.port": at, "Voila.port_retries": _retries(port), "Voila.token": token,
        "MappingKernelManager.root_dir": Path.cwd() if notebook is None else path.parent, **_application(idle),
    }  # fmt: skip
    server = Voila.instance()
    server.initialize([str(path), *_arguments(options)])
    _close(server)

    def ready() -> None:  # it listens by now
        url = f"http://{ADDRESS}:{server.port}/?token={token}"
        say(_ready(path.name, url))
        if browser:
            webbrowser.open(_page(page, url).as_uri())

    page = Path(jupyter_runtime_dir()) / f"dse-serve-{os.getpid()}.html"
    IOLoop.current().add_callback(ready)
    try:
        server.start()
    finally:
        page.unlink(missing_ok=True)


def _application(idle: int) -> dict[str, Any]:
    return {
        "Voila.open_browser": False,  # its own way of opening one forgets the token
        "Voila.log_level": "ERROR",
        "PasswordIdentityProvider.allow_password_change": False,
        "MappingKernelManager.cull_idle_timeout": idle,
        "MappingKernelManager.cull_interval": max(idle // 4, 1),
        "MappingKernelManager.cull_connected": False,
        **_encrypted(),
    }


def _close(server: Any) -> None:
    """Set what configuration files must not, as they would open the application further."""
    logging.getLogger("tornado.access").setLevel(logging.ERROR)  # else each page that is closed leaves a line
    settings = server.voila_configuration
    settings.strip_sources, settings.show_tracebacks = True, False
    settings.file_allowlist = []  # its file handler does not ask for the token
    settings.kernel_spec_manager_class = _kernels()
    # Voila accepts any Host header, with which a foreign page could reach it under a name of its own (DNS rebinding).
    server.tornado_settings = {**server.tornado_settings, "allow_remote_access": False}


def need(command: str) -> None:
    """Check that the packages of a command are installed.

    Raises:
        SpecError: some are not; names them and the extra that has them.
    """
    missing = [name for name in NEEDED[command] if util.find_spec(name) is None]
    if missing:
        rule = "not installed in this environment; pip install 'dse[notebook]'"
        raise SpecError([Fault(f"dse {command}", ", ".join(missing), rule)])


def free_port(port: int | None, usual: int) -> int:
    """The port asked for, or the first free one from the usual one on.

    Raises:
        SpecError: it cannot be listened on, and why.
    """
    for candidate in [port] if port is not None else range(usual, usual + _TRIES):
        with socket.socket() as probe:
            if os.name == "posix":  # elsewhere this would let two programs share a port
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((ADDRESS, candidate))
                probe.listen()
                return candidate
            except (OSError, OverflowError) as error:
                reason = getattr(error, "strerror", None) or str(error)
    shown = str(port) if port is not None else f"{usual} to {usual + _TRIES - 1}"
    raise SpecError([Fault("port", shown, f"cannot be listened on: {reason}")])


def _notebook(path: Path) -> Path:
    if not path.is_file():
        raise SpecError([Fault("notebook", str(path), "there is no such file")])
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.suffix == ".ipynb" else None
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("cells"), list):
        raise SpecError([Fault("notebook", str(path), "is not a notebook (.ipynb of format 4)")])
    return path.resolve()


def _kernels() -> type:
    """Kernels of this Python alone: an environment's or a user's own ``python3`` may start another one."""
    from jupyter_client.kernelspec import KernelSpecManager

    class ThisPython(KernelSpecManager):
        """Without folders to look in there is ipykernel's own kernel, which starts ``sys.executable``."""

        def _kernel_dirs_default(self) -> list[str]:
            return []

    return ThisPython


def _encrypted() -> dict[str, str]:
    """Encrypt what passes between server and kernels, where this version of Jupyter can."""
    from jupyter_client.manager import KernelManager

    known = "transport_encryption" in KernelManager.class_trait_names()
    return {"KernelManager.transport_encryption": "auto"} if known else {}


def _arguments(options: dict[str, Any]) -> list[str]:
    """Arguments for an application in this process: they win over configuration files, and ``ps`` does not see them."""
    return [f"--{name}={value}" for name, value in options.items()]


def _ready(what: str, url: str) -> str:
    return f"{what} is at\n\n    {url}\n\nfor this machine and this token only; Ctrl-C stops it"


def _retries(port: int | None) -> int:
    """A port that was asked for is that one; else another program may have taken the free one meanwhile."""
    return 0 if port is not None else _TRIES


def _page(page: Path, url: str) -> Path:
    """Write a private file that leads to the address: as an argument of the browser others could read the token."""
    page.parent.mkdir(parents=True, exist_ok=True)
    page.unlink(missing_ok=True)
    page.touch(mode=0o600)
    page.write_text(f'<meta charset="utf-8"><meta http-equiv="refresh" content="0; url={url}">', encoding="utf-8")
    return page
