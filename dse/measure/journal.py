"""The journal of a measurement: one JSON line a point, appended as it is done, so that nothing is measured twice."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from dse.errors import Fault, SpecError, StudyError

NAME = "journal.jsonl"
# What must agree for points to belong into one table.
IDENTITY = ("gpu", "name", "type", "cores", "torch")


class Journal:
    """The points of one folder. The first line describes the device, every other one a point or a run."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self.device: dict[str, Any] = {}
        self.points: dict[str, dict[str, Any]] = {}
        self.runs: list[dict[str, Any]] = []
        self._read()

    def _read(self) -> None:
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return
        except OSError as error:
            raise SpecError([Fault("out", str(self.path)[:200], f"cannot be read: {error.strerror}")]) from None
        for line in text.splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # the line that an interruption cut short: its point is measured again
            if isinstance(entry, dict):
                self._take(entry)

    def _take(self, entry: dict[str, Any]) -> None:
        if "device" in entry:
            self.device = entry["device"]
        elif "run" in entry:
            self.runs.append(entry["run"])
        elif isinstance(entry.get("id"), str):
            self.points[entry["id"]] = entry

    @property
    def done(self) -> set[str]:
        """Ids of the points that have a time; what failed is tried again."""
        return {name for name, point in self.points.items() if "seconds" in point}

    def open(self, device: dict[str, Any]) -> None:
        """Begin, or go on, with measurements of this device.

        Raises:
            SpecError: the folder holds those of another device or PyTorch.
        """
        if not self.device:
            self.append({"device": device})
        wrong = [name for name in IDENTITY if self.device.get(name) != device.get(name)]
        if wrong:
            was, now = self.device.get(wrong[0]), device.get(wrong[0])
            rule = f"holds measurements with {wrong[0]} {was!r}, here it is {now!r}; name another folder"
            raise SpecError([Fault("out", str(self.path.parent)[:200], rule)])

    def append(self, entry: dict[str, Any]) -> None:
        """Write an entry through to the disk.

        Raises:
            StudyError: the folder cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b") as file:
                # A torn last line must not swallow this one.
                torn = file.tell() > 0 and _last_byte(file) != b"\n"
                file.write((b"\n" if torn else b"") + json.dumps(entry, sort_keys=True).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StudyError(f"cannot write {self.path}: {error.strerror or error}") from None
        self._take(entry)


def _last_byte(file: Any) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)
