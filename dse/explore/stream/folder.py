"""The folder of a streamed table: one writer at a time, whole files only, and a manifest when all is there.

Every file gets a temporary name in the same folder, is synced, renamed, and the folder synced. The name of a part
holds its digest, so that a part is proved whole by its content alone, whoever wrote it and whatever was killed then.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dse.errors import StudyError

if TYPE_CHECKING:
    from dse.explore.stream.plan import Plan

INPUTS = "sweep.json"
MANIFEST = "manifest.json"
_LOCK = ".lock"
_NAME = re.compile(r"part-(\d{6,})-([0-9a-f]{16})\.parquet")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True)
class Part:
    """A part on disk."""

    number: int
    file: str
    rows: int
    bytes: int
    sha256: str


def publish(folder: Path, name: str, data: bytes) -> None:
    """Put a whole file in place, so that it survives a crash of the process or of the machine right after.

    Raises:
        StudyError: the disk is full or the folder cannot be written; nothing but the temporary file is lost.
    """
    temporary = folder / f".{name[:40]}.{uuid.uuid4().hex[:12]}.tmp"
    try:
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(folder / name)
            _sync(folder)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise StudyError(_why_not(folder / name, error)) from None


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _why_not(path: Path, error: OSError) -> str:
    if error.errno not in _FULL:
        return f"cannot write {path}: {error.strerror or error}"
    try:
        left = f"{shutil.disk_usage(path.parent).free / 1e6:,.0f} MB left"
    except OSError:
        left = "none left"
    return (
        f"cannot write {path}: the disk is full ({left}); the parts written so far are kept: "
        f"make room, then go on with 'dse resume {path.parent}'"
    )


def part_of(plan: Plan, number: int, data: bytes) -> Part:
    """The record of a part's bytes."""
    sha = hashlib.sha256(data).hexdigest()
    return Part(number, f"part-{number:06d}-{sha[:16]}.parquet", plan.rows_of(number), len(data), sha)


def write_part(folder: Path, plan: Plan, number: int, data: bytes) -> Part:
    """Publish a part.

    Raises:
        StudyError: as for :func:`publish`.
    """
    part = part_of(plan, number, data)
    publish(folder, part.file, data)
    return part


def parts_in(folder: Path, plan: Plan, threads: int = 2) -> dict[int, Part]:
    """Whole parts of this sweep by number; torn, foreign and half-written files are removed."""
    sweep_up(folder)
    files = sorted(path for path in folder.glob("part-*.parquet") if _NAME.fullmatch(path.name))
    with ThreadPoolExecutor(threads) as pool:
        checked = list(pool.map(lambda path: _whole_part(path, plan), files))
    for path, part in zip(files, checked, strict=True):
        if part is None:
            path.unlink(missing_ok=True)
    return {part.number: part for part in checked if part is not None}


def sweep_up(folder: Path) -> None:
    """Remove what killed writers left half done."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def _whole_part(path: Path, plan: Plan) -> Part | None:
    """The part in a file, if its bytes have the digest of its name and its footer names this sweep and part."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        data = path.read_bytes()
        number = int(path.name.split("-")[1])
        part = part_of(plan, number, data) if number < plan.parts else None
        if part is None or part.file != path.name:
            return None
        footer = pq.read_metadata(pa.BufferReader(data))
    except (OSError, pa.ArrowException):
        return None
    said = footer.metadata or {}
    ours = said.get(b"dse.sweep") == plan.id.encode() and said.get(b"dse.part") == str(number).encode()
    return part if ours and footer.num_rows == part.rows else None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder as its only writer; the system lets go when the process ends, however it ends.

    Raises:
        StudyError: another process writes here, or the folder cannot be written.
    """
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StudyError(f"cannot write in {folder}: {error.strerror or error}") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise StudyError(f"cannot lock {folder}: {error.strerror or error}") from None
            holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process"
            raise StudyError(
                f"{folder} is being written by {holder}: wait for it, or stop it, or choose another folder"
            ) from None
        with suppress(OSError):  # only says who holds the lock: a full disk need not stop us here
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def keep_inputs(folder: Path, plan: Plan) -> None:
    """Save the inputs before anything else, or hold them against those that the folder has.

    Raises:
        StudyError: the folder holds something else, or a sweep with other inputs.
    """
    path = folder / INPUTS
    if path.exists():
        text = path.read_text(encoding="utf-8", errors="replace")
        if text != plan.to_json():
            raise StudyError(
                f"{folder} holds a sweep with other inputs ({differences(text, plan)}): "
                "choose another folder, or 'dse resume' to go on with what it holds"
            )
        return
    others = sorted(p.name for p in folder.iterdir() if p.name != _LOCK and not p.name.endswith(".tmp"))
    if others:
        raise StudyError(f"{folder} is not empty ({', '.join(others[:3])}) and holds no sweep: choose another folder")
    publish(folder, INPUTS, plan.to_json().encode())


def differences(text: str, plan: Plan) -> str:
    """Which inputs of a saved sweep differ from a plan's."""
    try:
        saved = json.loads(text)
        found = [name for name in plan.inputs if name not in ("specs", "axes") and saved[name] != plan.inputs[name]]
        found += [name for name, spec in plan.inputs["specs"].items() if saved["specs"][name] != spec]
        axes = {a["name"]: a for a in saved["axes"]}
        if list(axes) != [b.name for b in plan.axes]:
            found.append("axes")
        found += [f"axis {a['name']}" for a in plan.inputs["axes"] if axes.get(a["name"], a) != a]
    except (ValueError, KeyError, TypeError):
        return "not readable"
    return ", ".join(found) or "their order"


def write_manifest(folder: Path, plan: Plan, parts: Iterable[Part]) -> dict[str, Any]:
    """Describe the finished table; this file comes last and its being there says that the table is whole."""
    from dse.explore.stream.columns import ALWAYS, header
    from dse.study.provenance import provenance

    ordered = sorted(parts, key=lambda part: part.number)
    digests = "".join(f"{part.sha256}\n" for part in ordered)
    manifest = {
        "format": plan.inputs["format"],
        "sweep": plan.id,
        "rows": plan.rows,
        "bytes": sum(part.bytes for part in ordered),
        "axes": [
            {"name": b.name, "path": b.axis.path, "unit": b.unit or "1", "values": len(b.values)} for b in plan.axes
        ],
        "columns": [
            *({"name": b.name, "unit": b.unit or "1", "header": header(b.name, b.unit)} for b in plan.axes),
            *({"name": c.name, "unit": c.unit or "1", "header": c.header} for c in plan.columns),
            *({"name": name, "unit": "1", "header": name} for name in ALWAYS),
        ],
        "provenance": provenance(plan.specs, plan.axes, plan.replace),
        "versions": dict(plan.versions),
        "sha256": hashlib.sha256(digests.encode()).hexdigest(),  # of the parts' digests, a line each
        "parts": [{k: v for k, v in asdict(part).items() if k != "number"} for part in ordered],
    }
    publish(folder, MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    return manifest
