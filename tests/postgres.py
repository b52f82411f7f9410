"""A real PostgreSQL server for tests: on a unix socket in a folder of its own, run by an unprivileged user."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _binaries() -> Path | None:
    # Debian keeps them off the path.
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    folders += [Path(found).resolve().parent for found in [shutil.which("postgres")] if found]
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


@contextmanager
def postgresql() -> Iterator[str]:
    """Start a server, give its address, stop it. Skips the test where there is no server to start."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server on this machine")
    # The server refuses to run as root.
    user: dict[str, object] = {}
    if os.getuid() == 0:
        nobody = pwd.getpwnam("nobody")
        user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    server = None
    try:
        if user:
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        options = {"cwd": folder, "env": {"PATH": os.environ["PATH"], "LC_ALL": "C"}, **user}
        initialise = [binaries / "initdb", "-D", folder / "data", "-U", "dse", "-A", "trust", "--no-sync"]
        subprocess.run(initialise, check=True, stdout=subprocess.DEVNULL, **options)
        settings = {"listen_addresses": "", "unix_socket_directories": str(folder), "max_connections": "60"}
        arguments = [argument for key, value in settings.items() for argument in ("-c", f"{key}={value}")]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [binaries / "postgres", "-D", folder / "data", *arguments], stdout=log, stderr=log, **options
            )
        address = f"postgresql://dse@/postgres?host={folder}"
        _wait(address, server, folder / "log")
        yield address
    finally:
        if server is not None:
            server.send_signal(signal.SIGINT)  # disconnect clients, then stop
            server.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


def _wait(address: str, server: subprocess.Popen, log: Path) -> None:
    import psycopg

    for _ in range(300):
        try:
            psycopg.connect(address).close()
        except psycopg.OperationalError:
            if server.poll() is not None:
                break
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(log.read_text())
