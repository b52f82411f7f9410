"""Schedules for runtimes and simulators, by the name of the format: ``FORMATS[name](schedule, path)`` writes one."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from dse.collective.schedule import Schedule


def _writer(module: str, name: str) -> Callable[..., Any]:
    def write(schedule: Schedule, path: str | Path, **options: Any) -> Any:
        return getattr(import_module(f"dse.collective.{module}"), name)(schedule, path, **options)

    write.__doc__ = f"See :func:`dse.collective.{module}.{name}`."
    return write


FORMATS = {
    "msccl": _writer("formats.msccl", "write"),
    "mscclpp": _writer("formats.mscclpp", "write"),
    "chakra": _writer("formats.chakra", "write"),
    "csv": _writer("keep", "write_csv"),
    "json": _writer("keep", "write_json"),
}
