"""Machine code is kept, and forgotten when any file that went into it has changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
from numba.core import config

import dse
from dse import jit

CALLER = (
    "from dse.jit import njit\nfrom dse.made.called import add\n\n\n@njit(cache=True)\ndef run(x):\n    return add(x)\n"
)
CALLED = "from dse.jit import njit\n\nadd = njit(lambda x: x + {})\n"
ASK = "from dse.made.caller import run; print(run(1), sum(run.stats.cache_hits.values()), run.stats.cache_path)"


def package(folder: Path) -> Path:
    """A copy of what compiling needs, with a package of two files."""
    made = folder / "dse" / "made"
    made.mkdir(parents=True)
    (folder / "dse" / "__init__.py").write_text("")
    (folder / "dse" / "simulate").mkdir()
    shutil.copy(Path(dse.__file__).parent / "jit.py", folder / "dse" / "jit.py")
    (made / "__init__.py").write_text("")
    (made / "caller.py").write_text(CALLER)
    return made


def ask(folder: Path) -> tuple[int, int, str]:
    """What a new process computes, how much of it was kept, and where."""
    home = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": str(folder)}
    home.pop("NUMBA_CACHE_DIR", None)
    said = subprocess.run([sys.executable, "-c", ASK], cwd=folder, env=home, check=True, capture_output=True, text=True)
    value, hits, place = said.stdout.split(maxsplit=2)
    return int(value), int(hits), place.strip()


def test_a_change_in_what_is_called_is_seen(tmp_path: Path) -> None:
    made = package(tmp_path)
    (made / "called.py").write_text(CALLED.format(1))
    first = ask(tmp_path)
    assert first[:2] == (2, 0) and str(tmp_path / "cache" / "dse" / "compiled" / "made-") in first[2]
    assert ask(tmp_path)[:2] == (2, 1), "a second process compiles nothing"
    (made / "called.py").write_text(CALLED.format(5))
    second = ask(tmp_path)
    assert second[:2] == (6, 0), "the file of the caller is the same"
    (made / "called.py").write_text(CALLED.format(1))
    assert ask(tmp_path) == (2, 1, first[2]), "and what was kept before is still good"


def test_folders_are_for_packages_of_dse_alone(tmp_path: Path) -> None:
    base = str(tmp_path)
    assert jit.folder("numpy.linalg", base) == jit.folder("dse", base) == ""
    places = {jit.folder(name, base) for name in ("dse.trace.parse", "dse.trace.hashing", "dse.domains.vegeta.machine")}
    assert len(places) == 2 and all(Path(place).is_dir() and place.startswith(base) for place in places)
    (tmp_path / "file").write_text("")
    assert jit.folder("dse.trace.parse", str(tmp_path / "file")) == "", "nowhere to write"


def test_other_compiled_functions_keep_their_place() -> None:
    before = config.CACHE_DIR

    @jit.njit
    def twice(x):
        return 2 * x

    assert twice(2) == 4 and before == config.CACHE_DIR
    assert isinstance(twice, type(numba.njit(lambda x: x)))
