"""Schedules in files: one compressed file with the network inside, and listings for people."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.collective.schedule import COLLECTIVES, Chunks, Schedule
from dse.collective.topology import Topology
from dse.errors import Fault, SpecError
from dse.plain import plain
from dse.study.export import write_atomically

if TYPE_CHECKING:
    import pandas as pd

VERSION = 1
LINKS = ("src", "dst", "latency", "bandwidth")
TRANSFERS = ("chunk", "link", "start", "end", "reduce")
OPTIONAL = ("message", "passes")
UNREADABLE = (
    AttributeError, EOFError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip


def save(schedule: Schedule, path: str | os.PathLike[str]) -> Path:
    """Write a schedule, all of it, as compressed NumPy columns (``.npz``, whatever the file is called).

    Raises:
        StudyError: the file cannot be written.
    """
    topology = schedule.topology
    head = {
        "version": VERSION,
        "collective": schedule.collective,
        "nbytes": float(schedule.nbytes),
        "root": schedule.root,
        "algorithm": schedule.algorithm,
        "notes": schedule.notes,
        "topology": {
            "npus": topology.npus,
            "nodes": topology.nodes,
            "name": topology.name,
            "failed": topology.failed,
            "shape": topology.shape,
        },
    }
    columns: dict[str, Any] = {"members": np.asarray(schedule.members, np.int64)}
    columns |= {name: getattr(schedule, name) for name in TRANSFERS}
    columns |= {name: getattr(schedule, name) for name in OPTIONAL if getattr(schedule, name) is not None}
    columns |= {f"chunks.{name}": column for name, column in schedule.chunks._asdict().items()}
    columns |= {f"links.{name}": getattr(topology, name) for name in LINKS}
    columns["head"] = np.frombuffer(json.dumps(head, default=plain).encode(), np.uint8)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **columns)

    return write_atomically(Path(path), write)


def load(path: str | os.PathLike[str]) -> Schedule:
    """The schedule of a file that :func:`save` wrote.

    Raises:
        SpecError: no such file, not one of a schedule, of another version, or damaged.
    """
    path = Path(path)
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            columns = {name: file[name] for name in file.files}
        head = json.loads(columns["head"].tobytes())
        version = head["version"]
    except OSError as error:
        raise _refuse(path, f"cannot be read: {error.strerror or error}") from None
    except UNREADABLE:
        raise _refuse(path, "is not a schedule that `dse collective synthesize --out` wrote") from None
    if version != VERSION:
        raise _refuse(path, f"has version {version!r}; must have {VERSION}"[:80])
    try:
        return _schedule(head, columns)
    except (KeyError, TypeError, ValueError, SpecError) as error:
        raise _refuse(path, f"is damaged: {type(error).__name__} {error}"[:160]) from None


def _schedule(head: dict[str, Any], columns: dict[str, Any]) -> Schedule:
    if head["collective"] not in COLLECTIVES:
        raise ValueError(f"collective {head['collective']!r}")
    about = head["topology"]
    topology = Topology(
        about["npus"],
        *(columns[f"links.{name}"] for name in LINKS),
        name=about["name"],
        nodes=about["nodes"],
        failed=tuple(about["failed"]),
        shape=tuple(about["shape"]),
    )
    return Schedule(
        topology,
        head["collective"],
        head["nbytes"],
        columns["members"],
        Chunks(*(columns[f"chunks.{name}"] for name in Chunks._fields)),
        *(columns[name] for name in TRANSFERS),
        root=head["root"],
        algorithm=head["algorithm"],
        notes=head["notes"],
        **{name: columns.get(name) for name in OPTIONAL},
    )


def _refuse(path: Path, rule: str) -> SpecError:
    return SpecError([Fault("schedule", str(path)[-80:], rule)])


def listing(schedule: Schedule) -> pd.DataFrame:
    """A row for each transfer, in order of their starts: seconds, nodes, link, chunk and its bytes."""
    import pandas as pd

    chunk = schedule.chunk
    columns: dict[str, Any] = {
        "start": schedule.start, "end": schedule.end, "source": schedule.source,
        "destination": schedule.destination, "link": schedule.link, "chunk": chunk,
        "offset": schedule.chunks.offset[chunk], "bytes": schedule.chunks.size[chunk],
        "origin": schedule.chunks.origin[chunk], "target": schedule.chunks.target[chunk], "reduce": schedule.reduce,
    }  # fmt: skip
    if schedule.message is not None:
        columns["message"] = schedule.message
    if schedule.passes is not None:  # numbers of transfers, which the order changes
        columns = {"transfer": np.arange(schedule.transfers), **columns, "passes": schedule.passes}
    return pd.DataFrame(columns).sort_values(["start", "end"], kind="stable", ignore_index=True)


def write_csv(schedule: Schedule, path: str | os.PathLike[str]) -> Path:
    """Write the transfers as a table.

    Raises:
        StudyError: the file cannot be written.
    """
    frame = listing(schedule)
    return write_atomically(Path(path), lambda file: frame.to_csv(file, index=False, lineterminator="\n"))


def write_json(schedule: Schedule, path: str | os.PathLike[str]) -> Path:
    """Write what a schedule is and its transfers, a line each.

    Raises:
        StudyError: the file cannot be written.
    """
    topology = schedule.topology
    head = {
        "topology": topology.name, "npus": topology.npus, "nodes": topology.nodes, "links": topology.links,
        "collective": schedule.collective, "bytes": schedule.nbytes, "root": schedule.root,
        "members": np.asarray(schedule.members).tolist(), "chunks": len(schedule.chunks.size), "time": schedule.time,
        "algorithm": schedule.algorithm,
    }  # fmt: skip
    rows = ",\n".join(json.dumps(row, default=plain) for row in listing(schedule).to_dict("records"))
    text = json.dumps(head, default=plain)[:-1] + f', "transfers": [\n{rows}\n]}}\n'
    return write_atomically(Path(path), lambda file: file.write_text(text, encoding="utf-8") and None)
