"""Numba's compiler, with machine code that is kept only as long as all it was made of stays the same.

Numba looks at the file of a function alone when it decides whether what it kept still holds. A function here calls
others of other files, which are compiled into it: after an update or an edit of these, old code would run silently. So
the code is kept in a folder named after the contents of every compiled file of the function's package, and of
``dse.simulate``, whose parts others build on.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba
from numba.core import config

ROOT = Path(__file__).resolve().parent
SHARED = "simulate"
KEPT = 30 * 86400.0  # seconds that a folder stays after a newer one has taken its place


def njit(*functions: Callable[..., Any], cache: bool = False, **options: Any) -> Any:
    """As ``numba.njit``, with or without parentheses; with ``cache`` in a folder of the package's contents."""

    def compiled(function: Callable[..., Any]) -> Any:
        if not cache:
            return numba.njit(**options)(function)
        usual = config.CACHE_DIR
        config.CACHE_DIR = folder(function.__module__, usual) or usual
        try:
            return numba.njit(cache=True, **options)(function)
        finally:
            config.CACHE_DIR = usual

    return compiled(*functions) if functions else compiled


def folder(module: str, usual: str = "") -> str:
    """Where the machine code of a module's functions is kept.

    Args:
        module: its name; of other packages' modules, nothing is said.
        usual: ``NUMBA_CACHE_DIR``, in which the folder is made if it is given; else it is made in the user's cache.
    """
    package, *parts = module.split(".")
    if package != ROOT.name or len(parts) < 2:
        return ""
    group = "/".join(parts[: 2 if parts[0] == "domains" else 1])
    return _made(group, usual or str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dse"))


@lru_cache(maxsize=64)
def _made(group: str, base: str) -> str:
    name = group.replace("/", "-")
    place = Path(base) / "compiled" / f"{name}-{_digest(group)}"
    try:
        if not place.is_dir():
            place.mkdir(parents=True, exist_ok=True)
            for other in place.parent.glob(f"{name}-*"):
                if other.stat().st_mtime < time.time() - KEPT:
                    shutil.rmtree(other, ignore_errors=True)
    except OSError:  # nowhere to write: Numba finds a place, or compiles each time
        return ""
    return str(place)


def _digest(group: str) -> str:
    """Of the files that hold compiled functions."""
    found = hashlib.sha256()
    for path in sorted({*(ROOT / group).rglob("*.py"), *(ROOT / SHARED).rglob("*.py")}):
        content = path.read_bytes()
        if b"njit" in content or b"@inner" in content or b"@compiled" in content:
            found.update(str(path.relative_to(ROOT)).encode() + b"\0" + content)
    return found.hexdigest()[:16]
