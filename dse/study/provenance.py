"""Provenance: what a result was made from, so that anyone can make it again."""

from __future__ import annotations

import hashlib
import inspect
import json
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from dse.spec import calibration
from dse.spec.base import Spec


def digest(value: Any) -> str:
    """SHA-256 of a specification or plain data in canonical JSON, first 16 hexadecimal digits."""
    plain = value.model_dump(mode="json") if isinstance(value, Spec) else value
    text = json.dumps(plain, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@lru_cache(maxsize=1)
def version() -> str:
    """Version of the installed package."""
    try:
        return metadata.version("dse")
    except metadata.PackageNotFoundError:
        return "unknown"


@lru_cache(maxsize=1)
def commit() -> str:
    """Git commit of the checkout the package runs from; empty for an installed wheel."""
    root = Path(__file__).resolve().parent.parent.parent
    if not (root / ".git").exists():
        return ""
    try:
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def provenance(specs: Mapping[str, Spec], axes: Any = (), replace: Any = ()) -> dict[str, str]:
    """Package version, commit, calibration, the digest of each input, and what was swept, chosen and replaced."""
    strategy = specs["strategy"].model_dump(mode="json", exclude_defaults=True)
    extra = {
        "strategy": json.dumps(strategy, sort_keys=True),
        "devices": str(getattr(specs["cluster"], "devices", "")),
        "axes": json.dumps({a.name: a.coordinates for a in axes}, sort_keys=True, default=str),
        "replaced": ", ".join(f"{q.name}:{_code(q)}" for q in replace),
    }
    inputs = {f"input_{name}": f"{getattr(spec, 'id', name)}:{digest(spec)}" for name, spec in specs.items()}
    return {"dse_version": version(), "git_commit": commit(), "calibration": calibration.active().id, **inputs, **extra}


def _code(quantity: Any) -> str:
    """Digest of the source of a quantity of the user's own."""
    try:
        return digest([inspect.getsource(quantity.function), quantity.equation])
    except (OSError, TypeError):
        return digest(quantity.equation)
