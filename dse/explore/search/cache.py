"""Answers kept by content: hardware whose problem was solved before, in this run or another, is not solved again.

The key is a digest of everything the answer depends on: specifications, calibration, strategies tried, objectives,
budgets, couplings, the version and the source code of the cost model. The store is one SQLite file in the user's cache
folder (``DSE_CACHE`` names another one; ``DSE_CACHE=off`` keeps nothing): many processes may use it at once, and a kill
in the middle loses only what was not yet written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from dse.spec import calibration
from dse.study.provenance import digest, version

_SCHEMA = "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID"
PARTS = ("cost", "spec", "space", "explore", "accuracy")


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Digest of the source files that an answer depends on."""
    root = Path(__file__).resolve().parents[2]
    found = hashlib.sha256()
    for part in PARTS:
        for path in sorted((root / part).rglob("*.py")):
            found.update(str(path.relative_to(root)).encode())
            found.update(path.read_bytes())
    return found.hexdigest()[:16]


def identity(given: Any) -> str:
    """Digest of a search problem, without its hardware design.

    The order of the variables' values and of the options counts where answers name strategies by their position.
    """
    from dse.study.provenance import _code

    plain = {
        "version": version(),
        "code": code_digest(),
        "calibration": calibration.active().id,
        "specs": {name: digest(spec) for name, spec in sorted(given.specs.items())},
        "variables": [[v.name, v.axis.path, v.structural,
                       [[s, digest(x)] for s, x in zip(v.shown, v.values, strict=True)] if v.structural else []]
                      for v in given.variables],
        "largest": ["" if v.structural else str(v.largest) for v in given.variables],
        "couplings": [[c.given.target, c.given.source, str(c.rate)] for c in given.couplings],
        "objectives": [[o.text, o.less] for o in given.objectives],
        "constraints": [[c.text, c.name, c.at_most, c.value] for c in given.constraints],
        "options": [[name, [str(v).lower() for v in (values if isinstance(values, list | tuple | range) else [values])]]
                    for name, values in given.options.items()],
        "base": {name: str(value) for name, value in given.base.items()},
        "noted": list(given.noted),
        "replace": [[q.name, q.equation, _code(q)] for q in given.replace],
    }  # fmt: skip
    return digest(plain)


class Cache:
    """Answers by key. ``hits`` and ``misses`` count what was asked for."""

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = Path(path) if path is not None else location()
        self.hits = self.misses = 0

    def get(self, keys: Sequence[str]) -> dict[str, Any]:
        """The answers that are known."""
        found: dict[str, Any] = {}
        if self.path is not None and self.path.is_file():
            with contextlib.suppress(sqlite3.Error, OSError, ValueError), contextlib.closing(self._open()) as store:
                for start in range(0, len(keys), 500):
                    part = keys[start : start + 500]
                    marks = ",".join("?" * len(part))
                    rows = store.execute(f"SELECT key, answer FROM answers WHERE key IN ({marks})", part)
                    found.update((key, json.loads(text)) for key, text in rows)
        self.hits += len(found)
        self.misses += len(keys) - len(found)
        return found

    def put(self, answers: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Keep answers; a store that cannot be written (full disk, read-only folder) is passed over."""
        if self.path is None:
            return
        rows = [(key, json.dumps(answer, separators=(",", ":"))) for key, answer in answers]
        with contextlib.suppress(sqlite3.Error, OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(self._open()) as store, store:
                store.execute(_SCHEMA)
                store.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows)

    def _open(self) -> sqlite3.Connection:
        store = sqlite3.connect(self.path or ":memory:", timeout=30.0)
        store.execute("PRAGMA journal_mode=WAL")
        store.execute("PRAGMA synchronous=NORMAL")
        return store


def location() -> Path | None:
    """The file answers are kept in; None where ``DSE_CACHE`` is off."""
    chosen = os.environ.get("DSE_CACHE", "")
    if chosen.lower() in ("off", "0", "none"):
        return None
    base = Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dse"
    return base / "answers.sqlite"


def key(problem_identity: str, point: Mapping[str, Any]) -> str:
    """Key of one hardware design: numbers count by their exact value."""
    plain = {name: value.hex() if isinstance(value, float) else value for name, value in point.items()}
    return digest([problem_identity, plain])
