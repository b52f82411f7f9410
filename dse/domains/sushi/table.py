"""The table that a scheduler works with: latency, energy and traffic of each SubNet under each cached SubGraph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.domains.sushi import energy, latency, sharing
from dse.domains.sushi.accelerator import SubGraphAccelerator, load_subgraph_accelerator
from dse.domains.sushi.layers import Layers
from dse.domains.sushi.sharing import SubGraph
from dse.domains.sushi.supernet import SubNet, shortcuts_of, stack
from dse.errors import Fault, SpecError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

EMPTY = "none"
PAIRS = {"latency": "s", "energy": "J", "off_chip": "B", "hits": "B"}
OF_SUBNET = {"accuracy": "1", "weights": "B"}
OF_SUBGRAPH = {"size": "B", "load_time": "s", "load_energy": "J"}
_REQUIRED = ("subnet", "subgraph", "latency [s]", "accuracy")


@dataclass(frozen=True, eq=False)
class LatencyTable:
    """SubNets i (rows) under SubGraphs j (columns). Column 0 is the empty persistent buffer.

    Attributes:
        subnets, subgraphs: names.
        latency: [i, j], s.
        energy: of one inference [i, j], J.
        off_chip: traffic of one inference [i, j], B.
        hits: weights of the SubNet that the SubGraph holds [i, j], B.
        accuracy: top-1 as a fraction [i].
        weights: of the SubNet [i], B.
        size: of the SubGraph [j], B.
        load_time, load_energy: to bring a whole SubGraph into the buffer [j], s and J.
        subnet_vectors, subgraph_vectors: K1, C1, K2, C2, ... over the slots [i, 2N] and [j, 2N].
    """

    subnets: tuple[str, ...]
    subgraphs: tuple[str, ...]
    latency: np.ndarray
    energy: np.ndarray
    off_chip: np.ndarray
    hits: np.ndarray
    accuracy: np.ndarray
    weights: np.ndarray
    size: np.ndarray
    load_time: np.ndarray
    load_energy: np.ndarray
    subnet_vectors: np.ndarray
    subgraph_vectors: np.ndarray

    @property
    def hit(self) -> np.ndarray:
        """Share of the SubNet's bytes that the SubGraph holds [i, j]."""
        return self.hits / np.maximum(self.weights, 1.0)[:, None]

    @property
    def load_bytes(self) -> np.ndarray:
        """What a load of the SubGraph moves [j], B."""
        return self.size

    @property
    def saving(self) -> np.ndarray:
        """Share of the latency without a SubGraph that each saves [i, j]."""
        return 1 - self.latency / self.latency[:, :1]

    def select(self, subgraphs: Sequence[int]) -> LatencyTable:
        """The same table with some of the SubGraphs alone; the empty one always stays, as the first."""
        kept = [0, *(int(j) for j in subgraphs if j)]
        changed: dict[str, Any] = {name: getattr(self, name)[:, kept] for name in PAIRS}
        changed |= {name: getattr(self, name)[kept] for name in (*OF_SUBGRAPH, "subgraph_vectors")}
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return LatencyTable(**own | changed | {"subgraphs": tuple(self.subgraphs[j] for j in kept)})

    def to_xarray(self) -> xr.Dataset:
        """The table with named axes ``subnet`` and ``subgraph``, units in the attributes."""
        import xarray as xr

        columns = {name: (("subnet", "subgraph"), getattr(self, name), {"units": u}) for name, u in PAIRS.items()}
        columns |= {name: ("subnet", getattr(self, name), {"units": u}) for name, u in OF_SUBNET.items()}
        columns |= {name: ("subgraph", getattr(self, name), {"units": u}) for name, u in OF_SUBGRAPH.items()}
        columns["subnet_vectors"] = (("subnet", "entry"), self.subnet_vectors)
        columns["subgraph_vectors"] = (("subgraph", "entry"), self.subgraph_vectors)
        return xr.Dataset(columns, coords={"subnet": list(self.subnets), "subgraph": list(self.subgraphs)})

    def to_frame(self) -> pd.DataFrame:
        """One row a pair of SubNet and SubGraph, units in the headers; a vector is in the first row of its owner."""
        import pandas as pd

        i, j = (axis.ravel() for axis in np.indices(self.latency.shape))
        rows: dict[str, Any] = {"subnet": np.array(self.subnets)[i], "subgraph": np.array(self.subgraphs)[j]}
        rows |= {header(name, unit): getattr(self, name).ravel() for name, unit in PAIRS.items()}
        rows |= {header(name, unit): getattr(self, name)[i] for name, unit in OF_SUBNET.items()}
        rows |= {header(name, unit): getattr(self, name)[j] for name, unit in OF_SUBGRAPH.items()}
        rows["subnet_vector"] = np.where(j == 0, _texts(self.subnet_vectors)[i], "")
        rows["subgraph_vector"] = np.where(i == 0, _texts(self.subgraph_vectors)[j], "")
        return pd.DataFrame(rows)

    def save(self, path: Path | str) -> Path:
        """Write the table as CSV; :func:`load` reads it back bit by bit.

        Raises:
            StudyError: the file cannot be written.
        """
        from dse.study.export import write_atomically

        frame = self.to_frame()
        return write_atomically(Path(path), lambda file: frame.to_csv(file, index=False, lineterminator="\n"))


def build(
    accelerator: Any,
    subnets: Sequence[SubNet],
    subgraphs: Sequence[SubGraph] | Mapping[str, SubGraph],
    *,
    accounting: str | None = None,
    shortcuts: Any = None,
    windows: sharing.Windows = "centre",
) -> LatencyTable:
    """Price every SubNet under every SubGraph, and under none (column 0).

    Args:
        accelerator: one accelerator (no arrays), or what names it.
        subnets: of one SuperNet.
        subgraphs: of the same slots, by name or as G1, G2, ...
        accounting: of traffic and energy in place of the accelerator's own; the latency keeps the accelerator's.
        shortcuts: slots to whose output a shortcut is added [slot] (accounting ``residuals``); as the SubNets say.
        windows: how kernels of different size share, see :func:`sharing.cached_weights`.

    Raises:
        SpecError: no SubNets, slots that differ, a SubGraph larger than the persistent buffer, names given twice.
    """
    machine = load_subgraph_accelerator(accelerator)
    if any(isinstance(getattr(machine, name), np.ndarray) for name in type(machine).model_fields):
        raise SpecError([Fault("accelerator", machine.id, "must be one accelerator; a table is of no arrays")])
    layers = stack(subnets)
    slots = layers.k.shape[-1]
    shortcuts = shortcuts_of(subnets) if shortcuts is None else shortcuts
    named = subgraphs if isinstance(subgraphs, Mapping) else {f"G{n}": of for n, of in enumerate(subgraphs, start=1)}
    held = {EMPTY: SubGraph(*(np.zeros(slots, dtype=np.int64) for _ in SubGraph._fields)), **named}
    _check(machine, [subnet.name for subnet in subnets], held, slots)
    columns = sharing.stacked(list(held.values()))
    cached = sharing.cached_weights(layers, columns, windows=windows)
    wide = Layers(*(column[:, None, :] for column in layers))
    added = None if shortcuts is None else np.broadcast_to(shortcuts, layers.k.shape)[:, None, :]
    counts = energy.counted(machine, accounting)
    spent = energy.layer_energy(machine, wide, cached, accounting=accounting, shortcuts=added)
    size = sharing.nbytes(columns)
    return LatencyTable(
        subnets=tuple(subnet.name for subnet in subnets),
        subgraphs=tuple(held),
        latency=latency.subnet_times(machine, layers, cached, shortcuts=shortcuts),
        energy=spent.total.sum(axis=-1),
        off_chip=energy.traffic(counts, wide, cached, shortcuts=added).total.sum(axis=-1),
        hits=cached.sum(axis=-1).astype(float),
        accuracy=np.array([subnet.accuracy for subnet in subnets], dtype=float),
        weights=layers.weights.sum(axis=-1).astype(float),
        size=size,
        load_time=energy.load_time(machine, size),
        load_energy=energy.load_energy(machine, size),
        subnet_vectors=sharing.vectors(layers),
        subgraph_vectors=sharing.vectors(columns),
    )


def _check(machine: SubGraphAccelerator, subnets: list[str], held: Mapping[str, SubGraph], slots: int) -> None:
    faults = [Fault("subnets", name[:60], "is given twice") for name in {n for n in subnets if subnets.count(n) > 1}]
    for name, subgraph in held.items():
        if np.shape(subgraph.k) != (slots,):
            faults.append(Fault(name, f"{np.shape(subgraph.k)}", f"must have the {slots} slots of the SubNets"))
        elif (size := float(sharing.nbytes(subgraph))) > machine.persistent_buffer:
            rule = f"must fit the persistent buffer of {machine.persistent_buffer:g} B"
            faults.append(Fault(f"subgraphs.{name}", f"{size:g} B", rule))
    if faults:
        raise SpecError(sorted(faults, key=str))


def header(name: str, unit: str) -> str:
    """Head of a column, with its unit."""
    return name if unit == "1" else f"{name} [{unit}]"


def _texts(vectors: np.ndarray) -> np.ndarray:
    return np.array([" ".join(str(value) for value in vector.tolist()) for vector in vectors])


def load(path: Path | str) -> LatencyTable:
    """Read a table that was saved, or measured on your own hardware.

    Columns ``subnet``, ``subgraph``, ``latency [s]`` and ``accuracy`` are required, in any order, a row for each pair;
    the SubGraph ``none`` stands for the empty buffer. Others are as :meth:`LatencyTable.to_frame` gives them, 0 where
    absent.

    Raises:
        SpecError: no such file, a column or pair that is missing or there twice, or a value that is no number.
    """
    import pandas as pd

    where = str(path)
    try:
        rows = pd.read_csv(path, keep_default_na=False, dtype=str, encoding="utf-8")
    except (OSError, ValueError, UnicodeError) as error:
        raise SpecError([Fault("table", "", f"cannot be read as CSV: {str(error)[:200]}", where)]) from None
    if missing := [name for name in _REQUIRED if name not in rows]:
        raise SpecError([Fault(name, "", "column is missing", where) for name in missing])
    subnets, subgraphs = (list(dict.fromkeys(rows[name])) for name in ("subnet", "subgraph"))
    if EMPTY not in subgraphs:
        raise SpecError([Fault("subgraph", "", f"needs rows of the empty buffer, called {EMPTY!r}", where)])
    subgraphs.sort(key=lambda name: name != EMPTY)
    i, j = rows["subnet"].map(subnets.index).to_numpy(), rows["subgraph"].map(subgraphs.index).to_numpy()
    place = np.full((len(subnets), len(subgraphs)), -1)
    for line, (row, column) in enumerate(zip(i, j, strict=True)):
        if place[row, column] >= 0:
            pair = f"{subnets[row]}, {subgraphs[column]}"[:60]
            raise SpecError([Fault("row", pair, "is given twice", f"{where}:{line + 2}")])
        place[row, column] = line
    if (place < 0).any():
        row, column = np.argwhere(place < 0)[0]
        raise SpecError([Fault("row", f"{subnets[row]}, {subgraphs[column]}"[:60], "is missing", where)])
    read = {name: _numbers(rows, header(name, u), where) for name, u in (PAIRS | OF_SUBNET | OF_SUBGRAPH).items()}
    return LatencyTable(
        subnets=tuple(subnets),
        subgraphs=tuple(subgraphs),
        **{name: read[name][place] for name in PAIRS},
        **{name: read[name][place[:, 0]] for name in OF_SUBNET},
        **{name: read[name][place[0]] for name in OF_SUBGRAPH},
        subnet_vectors=_vectors(rows, "subnet_vector", i, len(subnets), where),
        subgraph_vectors=_vectors(rows, "subgraph_vector", j, len(subgraphs), where),
    )


def _numbers(rows: pd.DataFrame, header: str, where: str) -> np.ndarray:
    """A column as numbers, of 0 where it is absent; times and sizes are finite and not negative."""
    if header not in rows:
        return np.zeros(len(rows))
    values = np.empty(len(rows))
    for line, text in enumerate(rows[header]):
        try:
            values[line] = float(text)
        except ValueError:
            values[line] = np.inf
        unknown = header == "accuracy" and np.isnan(values[line])
        least = 0 if header != "latency [s]" else np.nextafter(0, 1)
        if not unknown and not least <= values[line] < np.inf:
            rule = "must be a finite number, 0 or more" if not least else "must be a finite number above 0"
            raise SpecError([Fault(header, repr(text)[:60], rule, f"{where}:{line + 2}")])
    return values


def _vectors(rows: pd.DataFrame, header: str, owner: np.ndarray, count: int, where: str) -> np.ndarray:
    """Vectors of each owner [count, 2N]; without any, of length 0."""
    texts = rows[header] if header in rows else [""] * len(rows)
    found: dict[int, list[int]] = {}
    for line, text in enumerate(texts):
        if not text:
            continue
        try:
            found[owner[line]] = [int(value) for value in text.split()]
        except ValueError:
            raise SpecError([Fault(header, repr(text)[:60], "must be whole numbers", f"{where}:{line + 2}")]) from None
    if found and (len(found) < count or len({len(vector) for vector in found.values()}) > 1):
        raise SpecError([Fault(header, "", "must be given for all or none, of the same length", where)])
    return np.array([found[n] for n in range(count)] if found else np.zeros((count, 0)), dtype=np.int64)
