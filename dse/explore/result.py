"""Results: named arrays with units, feasibility with reasons, and the way back to every equation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.explore.evaluate import (
    RULES,
    BoundAxis,
    Cell,
    cells,
    feasible,
    graph_of,
    own_quantities,
    price,
    violations,
    with_stack,
)
from dse.explore.explain import Explanation
from dse.explore.points import Sentence, index_of, reason_column
from dse.explore.tables import ALL_TABLES, HEADLINES, TABLES
from dse.space import rules
from dse.space.axes import with_value
from dse.spec.base import Spec

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from dse.accuracy.uncertainty import Interval
    from dse.simulate.design import SimulatedStep

Labelled = tuple[tuple[str, ...], np.ndarray]


class Result:
    """One design or a space of designs, priced.

    Quantities are computed when they are asked for. ``dataset`` holds the usual ones as an :class:`xarray.Dataset`
    with one dimension an axis and the unit of each variable in its ``attrs``. ``simulated`` is the step as the
    simulator executes it, where that was asked for.
    """

    simulated: SimulatedStep | None = None

    def __init__(
        self, specs: Mapping[str, Spec], bound: Sequence[BoundAxis], *, devices_given: bool, replace: Any = ()
    ) -> None:
        self.specs = dict(specs)
        self.replace = own_quantities(replace)
        self.axes = tuple(bound)
        self.devices_given = devices_given
        self._structural = [b for b in bound if b.structural]
        self._arrays = [b for b in bound if not b.structural]
        self._cells: list[Cell] = list(cells(specs, bound, devices_given=devices_given, replace=self.replace))

    @property
    def cells(self) -> list[Cell]:
        """The evaluations behind the result: one for each combination of the structural axes."""
        return self._cells

    def wrapped(self, name: str, values: Sequence[Any], unit: str = "1") -> xr.DataArray:
        """An array of one value (or array along the other axes) a cell, with this result's axes."""
        return self._wrap(name, self._combine(values), unit)

    # -- quantities as arrays ----------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> xr.DataArray:
        """Any quantity of the cost model by name, or one entry of a table as ``time.forward``.

        Raises:
            SpecError: no such quantity, or one that is not a number.
        """
        return self._wrap(name, self._combine(self._values(name)))

    def number(self, name: str) -> Any:
        """A quantity of a single design as a plain number (or text, or a truth value).

        Raises:
            SpecError: as for a quantity by name, or the result has axes.
        """
        if self.axes:
            raise SpecError([Fault("quantity", repr(name)[:60], "is of one design; choose one with .at(...)")])
        return np.asarray(self._values(name)[0]).item()

    def _values(self, name: str) -> list[Any]:
        """A quantity or entry of a table in each cell."""
        table, _, entry = name.partition(".")
        if entry and table in ALL_TABLES:
            return [_entry(c, ALL_TABLES[table], entry) for c in self._cells]
        if name == "feasible":
            return [feasible(violations(c.evaluation)) for c in self._cells]
        self._require(name)
        values = [c.evaluation[name] for c in self._cells]
        if any(not isinstance(v, np.ndarray | np.generic | float | int | str) for v in values):
            tables = [t for t, quantity in ALL_TABLES.items() if quantity == name]
            hint = f": name an entry, such as {tables[0]}.{next(iter(values[0]))}" if tables else ""
            raise SpecError([Fault("quantity", repr(name)[:60], f"is not a number{hint}")])
        return values

    def _require(self, name: str) -> None:
        import difflib

        known = [q.name for q in self._graph]
        if name not in known:
            near = difflib.get_close_matches(name, [*known, *(f"{t}.…" for t in TABLES)], n=3)
            hint = f"; did you mean {', '.join(near)}?" if near else f"; they are {', '.join(sorted(known))}"
            raise SpecError([Fault("quantity", repr(name)[:60], f"is not a quantity of the cost model{hint}")])

    @property
    def _graph(self) -> Any:
        return self._cells[0].evaluation.graph

    def unit(self, name: str) -> str:
        """SI unit of a quantity or table entry."""
        table = name.partition(".")[0]
        if name == "feasible":
            return "1"
        return (
            self._graph.quantities[ALL_TABLES.get(table, name)].unit
            if "." in name
            else self._graph.quantities[name].unit
        )

    def _combine(self, values: Sequence[Any]) -> Labelled:
        """Join the cells' arrays into one array over the structural axes and the array axes that matter."""
        names = [b.name for b in self._arrays]
        lengths = [len(b.values) for b in self._arrays]
        parts = [np.asarray(v) for v in values]
        parts = [p.reshape((1,) * (len(lengths) - p.ndim) + p.shape) for p in parts]
        shape = np.broadcast_shapes(*(p.shape for p in parts)) if parts else ()
        kept = [i for i, size in enumerate(shape) if size > 1 or lengths[i] == 1]
        parts = [np.broadcast_to(p, shape).reshape([shape[i] for i in kept]) for p in parts]
        outer = [len(b.values) for b in self._structural]
        stacked = np.stack(parts).reshape(*outer, *(shape[i] for i in kept)) if outer else parts[0]
        return (*(b.name for b in self._structural), *(names[i] for i in kept)), stacked

    def _wrap(self, name: str, labelled: Labelled, unit: str | None = None) -> xr.DataArray:
        import xarray as xr

        dims, values = labelled
        coords = {b.name: (b.name, b.coordinates, {"units": b.unit}) for b in self.axes if b.name in dims}
        attrs = {"units": self.unit(name) if unit is None else unit}
        return xr.DataArray(values, dims=dims, coords=coords, name=name, attrs=attrs)

    # -- tables ------------------------------------------------------------------------------------------------

    @cached_property
    def dataset(self) -> xr.Dataset:
        """Headline quantities, all breakdowns, each rule's margin and ``feasible``, on the axes they depend on."""
        import xarray as xr

        from dse.study.provenance import provenance

        names = [*HEADLINES, *self._entries(), "feasible"]
        data = {name: self[name] for name in names}
        data.update(
            {
                f"margin.{rule}": self._wrap(rule, self._combine([c.evaluation[rule] for c in self._cells]))
                for rule in RULES
            }
        )
        coords = {b.name: (b.name, b.coordinates, {"units": b.unit}) for b in self.axes}
        return xr.Dataset(data, coords=coords, attrs=provenance(self.specs, self.axes, self.replace))

    def _entries(self, tables: Mapping[str, str] = TABLES) -> list[str]:
        found: dict[str, None] = {}
        for table, quantity in tables.items():
            for cell in self._cells:
                found.update({f"{table}.{entry}": None for entry in cell.evaluation[quantity]})
        return list(found)

    def breakdown(self, table: str = "time") -> pd.DataFrame | pd.Series:
        """Terms of ``time`` (default), ``memory``, ``tier``, ``energy``, ``cost``, ``goodput`` or ``tco``.

        Returns:
            A series for one design, else a row a design.
        """
        import pandas as pd

        names = self._entries({table: ALL_TABLES[table]}) if table in ALL_TABLES else []
        if not names:
            raise SpecError([Fault("table", repr(table)[:40], f"must be one of {', '.join(ALL_TABLES)}")])
        if not self.axes:
            return pd.Series(self.terms(table), name=f"{table} [{self.unit(names[0])}]")
        return self._rows(names).rename(columns={name: f"{name} [{self.unit(name)}]" for name in names})

    def terms(self, table: str) -> dict[str, float]:
        """Terms of a breakdown of a single design."""
        return {n.partition(".")[2]: float(self.number(n)) for n in self._entries({table: ALL_TABLES[table]})}

    def _rows(self, names: list[str]) -> pd.DataFrame:
        """Some variables of the data set with a row a design, also along axes that none of them depends on."""
        kept = self.dataset.drop_vars([name for name in self.dataset.data_vars if name not in names])
        missing = {name: self[name] for name in names if name not in kept}
        return kept.assign(missing).to_dataframe(dim_order=[b.name for b in self.axes])[names]

    def memory(self) -> pd.DataFrame:
        """Footprint of the fullest device by tensor class, and what each tier holds against its capacity."""
        import pandas as pd

        if self.axes:
            return self.breakdown("memory")  # type: ignore[return-value]
        evaluation = self._cells[0].evaluation
        rows = [("footprint", name, float(size), np.nan) for name, size in evaluation["memory_breakdown"].items()]
        held, capacity = evaluation["tier_bytes"], evaluation["tier_capacity"]
        rows += [("tier", name, float(held[name]), float(capacity[name])) for name in held]
        return pd.DataFrame(rows, columns=["what", "name", "size [B]", "capacity [B]"]).set_index(["what", "name"])

    def to_dataframe(self, *, breakdown: bool = True) -> pd.DataFrame:
        """One row a design (infeasible ones too, with ``reasons``); every numeric header carries its unit."""
        import pandas as pd

        entries = [n for n in self._entries() if breakdown or n.partition(".")[0] not in TABLES]
        names = [*HEADLINES, *entries, "feasible"]
        if self.axes:
            order = [b.name for b in self.axes]
            frame = self._rows(names).reset_index()[[*order, *names]]
        else:
            frame = pd.DataFrame([{name: self.number(name) for name in names}])
        margins = [(rule, self._wrap(rule, self._combine([c.evaluation[rule] for c in self._cells]))) for rule in RULES]
        frame["reasons"] = reason_column(margins, self.axes, len(frame))
        headers = {b.name: _header(b.name, b.unit) for b in self.axes if b.unit}
        return frame.rename(columns={**headers, **{n: _header(n, self.unit(n)) for n in names if n != "feasible"}})

    # -- one design --------------------------------------------------------------------------------------------

    def at(self, **point: Any) -> Result:
        """The single design at coordinates of the axes (all axes of more than one value must be named).

        Raises:
            SpecError: an axis is missing, unknown, or has no such value.
        """
        specs = dict(self.specs)
        unknown = set(point) - {b.name for b in self.axes}
        if unknown:
            raise SpecError([Fault("point", ", ".join(sorted(unknown))[:80], "is not an axis of this result")])
        for b in sorted(self.axes, key=lambda b: len(b.place.steps)):
            index = index_of(b, point)
            specs[b.place.root] = with_value(specs[b.place.root], b.place.steps, b.values[index])
        specs = with_stack(specs, self._structural)
        return Result(specs, [], devices_given=self.devices_given, replace=self.replace)

    def sel(self, **chosen: Sequence[Any]) -> Result:
        """The same result with some axes cut to the values named (one value keeps its axis).

        Raises:
            SpecError: an unknown axis or a value that is not on it.
        """
        unknown = set(chosen) - {b.name for b in self.axes}
        if unknown:
            raise SpecError([Fault("sel", ", ".join(sorted(unknown))[:80], "is not an axis of this result")])
        kept = []
        for b in self.axes:
            wanted = chosen.get(b.name, b.coordinates)
            wanted = list(wanted) if isinstance(wanted, list | tuple | range | np.ndarray) else [wanted]
            places = [index_of(b, {b.name: value}) for value in wanted]
            labels = tuple(b.axis.labels[i] for i in places) if b.axis.labels else ()
            cut = dataclasses.replace(b.axis, values=tuple(b.axis.values[i] for i in places), labels=labels)
            kept.append(dataclasses.replace(b, axis=cut, values=tuple(b.values[i] for i in places)))
        return Result(self.specs, kept, devices_given=self.devices_given, replace=self.replace)

    @property
    def is_feasible(self) -> bool:
        """Does the single design satisfy every rule?"""
        return bool(np.all([np.all(margins) for margins in self._values("feasible")]))

    def reasons(self, **point: Any) -> list[dict[str, Any]]:
        """Why a design is infeasible: rule, margin, unit and the sentence with the design's numbers. Empty if it is."""
        if self.axes:
            return self.at(**point).reasons()
        evaluation = self._cells[0].evaluation
        found = []
        for rule in RULES:
            margin = float(evaluation[rule])
            if margin < 0:
                text = rules.texts()[rule].format_map(Sentence(evaluation))
                found.append({"rule": rule, "margin": margin, "unit": self.unit(rule), "why": text})
        return found

    def explain(self, name: str = "step_time", **point: Any) -> Explanation:
        """The tree of equations behind a quantity, with the numbers in it and the source of each."""
        if self.axes:
            return self.at(**point).explain(name)
        name = self._computed_in(name)
        self._require(name)
        evaluation = price(self.specs, devices_given=self.devices_given, record=True, replace=self.replace)
        evaluation[name]
        return Explanation(name, evaluation)

    def _computed_in(self, name: str) -> str:
        """The quantity that a term of a breakdown is computed in, where it is not a quantity of its own."""
        term = name.rpartition(".")[2]
        if name in self._graph.quantities:
            return name
        homes = {"optimizer": "optimizer_time", "stragglers": "straggler_share"}
        if term in homes and homes[term] in self._graph.quantities:
            return homes[term]
        for table in ("layer_terms", *TABLES.values()):
            value = self._cells[0].evaluation[table] if table in self._graph.quantities else {}
            inner = next(iter(value.values()), None) if table == "layer_terms" else value
            if isinstance(inner, dict) and term in inner:
                return table
        return name

    # -- how sure ----------------------------------------------------------------------------------------------

    def interval(self, level: float = 0.9, quantity: str = "step_time") -> Interval:
        """Low and high ends of a quantity (see :func:`dse.explore.confidence.interval`)."""
        from dse.explore.confidence import interval

        return interval(self, level, quantity)

    def nearest(self, count: int = 5) -> pd.DataFrame:
        """The measured runs most like this design, with the errors of their predictions."""
        from dse.explore.confidence import nearest

        return nearest(self, count)

    @property
    def calibration(self) -> str:
        """Id of the calibration in use."""
        from dse.spec import calibration

        return calibration.active().id

    def run(self, tokens: Any) -> dict[str, Any]:
        """Steps, time, energy, cost and carbon of training on ``tokens`` tokens (or samples).

        Returns:
            Plain numbers of a single design, else arrays on the axes with their units (see
            :func:`dse.cost.money.run_totals`): without failures, and as ``run_wall_time`` and ``run_effective_*`` with.

        Raises:
            SpecError: ``tokens`` is not a number above 0 and up to 1e18.
        """
        from dse.explore.summary import run

        return run(self, tokens)

    def export(self, path: str | Path) -> Path:
        """Write the table: .csv, .parquet, .xlsx, .tex or .md, with a manifest beside it (see dse.study.export)."""
        from dse.study.export import export

        return export(self, path)

    def simulate(self, **how: Any) -> SimulatedStep:
        """Generate the trace of a single design and execute it (see :func:`dse.simulate.design.simulate_step`)."""
        from dse.simulate.design import simulate_step

        return simulate_step(self, **how)

    def summary(self) -> dict[str, Any]:
        """Plain numbers of a single design, as the CLI prints them with ``--json``."""
        from dse.explore.summary import summary

        return summary(self) | ({"simulated": self.simulated.summary()} if self.simulated is not None else {})

    def _repr_html_(self) -> str:
        from dse.view.tables import result_html

        return result_html(self)

    def __repr__(self) -> str:
        from dse.view.tables import result_text

        return result_text(self) + (f"\n\n{self.simulated}" if self.simulated is not None else "")

    def execution(self) -> str:
        """Name of the timing model."""
        return next(name for name in ("megatron", "comet") if graph_of(name) is self._graph)


def _entry(cell: Cell, quantity: str, entry: str) -> Any:
    table = cell.evaluation[quantity]
    return table.get(entry, 0.0)


def _header(name: str, unit: str) -> str:
    return f"{name} [{unit}]" if unit else name
