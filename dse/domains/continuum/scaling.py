"""How fast an Earth-system model runs on a machine or size not yet run, with an interval that says how sure that is.

``load_scaling("scream").forecast("Frontier", [8192])``: simulated days per day and what nodes cost. The model is fitted
to the shipped runs (:mod:`dse.domains.continuum.scaling_fit`); its intervals are widened until runs at sizes that a fit
had not seen lie inside them as often as stated (:mod:`dse.domains.continuum.scaling_calibrate`). A curve with fewer
than three sizes, and no other way to know it, answers "not enough data".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dse.domains.continuum import scaling_tables as tables
from dse.domains.continuum.scaling_fit import Fitted, Rows, fit
from dse.errors import Fault, SpecError

if TYPE_CHECKING:
    import pandas as pd

    from dse.domains.continuum.scaling_calibrate import Widening

Floats = NDArray[np.float64]
SIZES = 3  # node counts that a curve needs before a size of it is predicted
COVERAGE = 0.9
HOUR = 3600.0
NOT_ENOUGH = "not enough data"


@dataclass(frozen=True)
class Forecast:
    """A throughput on each of some node counts. All arrays have shape [size].

    Attributes:
        machine, algorithm: what runs where.
        nodes: compute nodes.
        rate, low, high: simulated days per day: median, and the ends of the interval; NaN without enough data.
        coverage: of the interval.
        beyond: whether the size lies outside those that were run.
        reason: why there is no answer, or "".
        power: watts of a node; None: not known.
    """

    machine: str
    algorithm: str
    nodes: Floats
    rate: Floats
    low: Floats
    high: Floats
    coverage: float
    beyond: NDArray[np.bool_]
    reason: str = ""
    power: float | None = None

    @property
    def seconds(self) -> Floats:
        """Wall seconds of a simulated day, median."""
        return tables.DAY / self.rate

    def hours(self, days: float = tables.YEAR) -> Floats:
        """Wall hours of so many simulated days, median."""
        return days * 24.0 / self.rate

    def node_hours(self, days: float = tables.YEAR) -> tuple[Floats, Floats, Floats]:
        """Node-hours of so many simulated days: median, and the ends of the interval."""
        return tuple(self.nodes * days * 24.0 / rate for rate in (self.rate, self.high, self.low))  # type: ignore[return-value]

    def dollars(self, price: float, days: float = tables.YEAR) -> tuple[Floats, Floats, Floats]:
        """US dollars of so many simulated days at a price of a node-hour: median, and the ends of the interval."""
        if not 0 <= price < np.inf:
            raise SpecError([Fault("price", f"{price:g}", "must be at least 0 dollars a node-hour")])
        return tuple(price * hours for hours in self.node_hours(days))  # type: ignore[return-value]

    def energy(self, days: float = tables.YEAR, power: float | None = None) -> Floats:
        """Joules of so many simulated days, median; NaN where the power of a node is not known.

        Args:
            days: simulated.
            power: watts of a node, in place of the machine's.
        """
        watts = self.power if power is None else power
        return self.node_hours(days)[0] * HOUR * (np.nan if watts is None else watts)

    def table(self) -> pd.DataFrame:
        """A row a size: nodes, rate, low, high, beyond, node_hours_per_year, reason."""
        import pandas as pd

        columns = {"nodes": self.nodes, "rate": self.rate, "low": self.low, "high": self.high, "beyond": self.beyond}
        names = {"machine": self.machine, "algorithm": self.algorithm}
        return pd.DataFrame({**names, **columns, "node_hours_per_year": self.node_hours()[0], "reason": self.reason})


@dataclass(frozen=True)
class ScalingModel:
    """A family of runs and the model fitted to it.

    Attributes:
        family: name of the family.
        runs: what it was fitted to, see :func:`dse.domains.continuum.scaling_tables.normalised`.
        response: column of the seconds: of everything, or of a part.
        curves: (machine, algorithm) by number, those without a run last.
        machines, variants: (machine, software variant) by number.
        scale: [term], the typical size of each term.
        fitted: the posterior.
        widening: how much wider intervals are than the posterior's; None: not calibrated.
    """

    family: str
    runs: pd.DataFrame
    response: str
    curves: tuple[tuple[str, str], ...]
    machines: tuple[str, ...]
    variants: tuple[tuple[str, str], ...]
    scale: Floats
    fitted: Fitted
    widening: Widening | None = field(default=None, repr=False)

    def forecast(
        self,
        machine: str,
        nodes: ArrayLike,
        *,
        algorithm: str | None = None,
        variant: str | None = None,
        elements: float | None = None,
        coverage: float = COVERAGE,
    ) -> Forecast:
        """Simulated days per day on these node counts.

        Args:
            machine: of ``data/continuum/machines.yaml``.
            nodes: shape [size] or a number.
            algorithm: one that the family was run with; by default the usual.
            variant: software variant; None: the only one that ran there, or one that is not known.
            elements: of the problem; by default the one that was run, where it is one.
            coverage: of the interval, 0 to 1.

        Raises:
            SpecError: no such machine or algorithm, node counts that the machine does not have, or a wrong coverage.
        """
        import pandas as pd

        counts = self._counts(machine, nodes)
        known = list(dict.fromkeys(self.runs["algorithm"]))
        algorithm = self.usual if algorithm is None else algorithm
        if algorithm not in known:
            raise SpecError([Fault("algorithm", repr(algorithm)[:60], f"must be one of {'; '.join(known)}")])
        sizes = self.runs["elements"].unique()
        if elements is None and len(sizes) > 1:
            raise SpecError([Fault("elements", "", "must be given: the family was run with several problems")])
        elements = float(sizes[0] if elements is None else elements)
        variant = self._variant(machine, elements) if variant is None else variant
        names = {"machine": machine, "algorithm": algorithm, "variant": variant}
        frame = pd.DataFrame({**names, "elements": elements, "nodes": counts})
        made = self.predict(frame, coverage)
        factor = self._days(frame) * tables.DAY
        return Forecast(
            machine, algorithm, counts, factor / made["median"].to_numpy(), factor / made["high"].to_numpy(),
            factor / made["low"].to_numpy(), coverage, made["beyond"].to_numpy(), str(made["reason"].iloc[0]),
            tables.machine(machine).power,
        )  # fmt: skip

    @property
    def usual(self) -> str:
        """The algorithm with the most runs."""
        return usual(self.runs)

    def _counts(self, name: str, nodes: ArrayLike) -> Floats:
        counts = np.atleast_1d(np.asarray(nodes, float))
        most = tables.machine(name).nodes
        if counts.ndim != 1 or not len(counts) or not np.all((counts >= 1) & (counts <= most)):
            raise SpecError([Fault("nodes", str(nodes)[:60], f"must be 1 to {most}, what {name} has")])
        return counts

    def _variant(self, machine: str, elements: float) -> str:
        """The only one that the problem was run with there, or "", one that is not known."""
        there = (self.runs["machine"] == machine) & (self.runs["elements"] == elements)
        seen = self.runs.loc[there, "variant"].unique()
        return str(seen[0]) if len(seen) == 1 else ""

    def _days(self, frame: pd.DataFrame) -> Floats:
        """Simulated days in the seconds of a row: the step shrinks as elements do."""
        one = self.runs.iloc[0]
        if self.family.startswith("homme"):
            return float(one["days"]) * np.sqrt(one["elements"] / frame["elements"].to_numpy(float))
        return np.full(len(frame), float(one["days"]))

    def predict(self, frame: pd.DataFrame, coverage: float = COVERAGE) -> pd.DataFrame:
        """Seconds of each row of a table of runs, see :func:`dse.domains.continuum.scaling_tables.normalised`.

        Returns:
            Table with the columns log_mean, log_sd, median, low, high (seconds), beyond and reason, in the order of
            the rows; NaN with a reason where there is not enough data.
        """
        import pandas as pd

        if not 0 < coverage < 1:
            raise SpecError([Fault("coverage", f"{coverage:g}", "must be between 0 and 1")])
        reason = self._reasons(frame)
        mean, sd, beyond = np.full(len(frame), np.nan), np.full(len(frame), np.nan), np.zeros(len(frame), bool)
        good = np.flatnonzero(reason == "")
        if len(good):
            rows = frame.iloc[good]
            mean[good], sd[good] = self.fitted.predict(self.rows(rows))
            beyond[good] = self._beyond(rows)
        half = sd * self._quantile(frame, beyond, coverage)
        return pd.DataFrame(
            {"log_mean": mean, "log_sd": sd, "median": np.exp(mean), "low": np.exp(mean - half),
             "high": np.exp(mean + half), "beyond": beyond, "reason": reason}
        )  # fmt: skip

    def _quantile(self, frame: pd.DataFrame, beyond: NDArray[np.bool_], coverage: float) -> Floats:
        """How many standard deviations the interval reaches to each side."""
        from scipy.stats import norm

        if self.widening is None:
            return np.full(len(frame), norm.ppf(0.5 + coverage / 2))
        seen = frame["machine"].isin(self.runs["machine"]).to_numpy()
        within, outside, unseen = (self.widening.quantile(kind, coverage) for kind in ("within", "beyond", "machine"))
        return np.where(seen, np.where(beyond, outside, within), unseen)

    def _reasons(self, frame: pd.DataFrame) -> NDArray[np.object_]:
        """Why rows are not predicted, or "", shape [row]."""
        keys = list(zip(frame["machine"], frame["algorithm"], strict=True))
        curve = {key: self._reason(key) for key in dict.fromkeys(keys)}
        counted = np.isfinite(frame["nodes"].to_numpy(float))
        reasons = np.array([curve[key] for key in keys], object)
        return np.where(counted, reasons, f"{NOT_ENOUGH}: the number of nodes is not given")

    def _reason(self, key: tuple[str, str]) -> str:
        """Why a curve is not predicted, or ""."""
        if key[0] not in tables.machines():
            return f"{NOT_ENOUGH}: {key[0]} is not described in machines.yaml"
        ran = self.runs[self.runs["machine"] == key[0]]
        sizes = ran.loc[ran["algorithm"] == key[1], ["elements", "nodes"]].drop_duplicates()
        if len(sizes) >= SIZES:
            return ""
        if len(ran) == 0 and key in self.curves:  # its devices are measured, and other machines tell the rest
            return ""
        return f"{NOT_ENOUGH}: {len(sizes)} sizes of {key[1]} on {key[0]}, {SIZES} are needed"

    def rows(self, frame: pd.DataFrame) -> Rows:
        """What the fit sees of a table of runs; every curve must be known."""
        return _rows(frame, self.family, self.curves, self.machines, self.variants, self.scale)

    def _beyond(self, frame: pd.DataFrame) -> NDArray[np.bool_]:
        """Whether a size lies outside those of its curve: in nodes, or in elements a node."""
        out = np.ones(len(frame), bool)
        nodes = frame["nodes"].to_numpy(float)
        share = frame["elements"].to_numpy(float) / nodes
        for (name, algorithm), ran in self.runs.groupby(["machine", "algorithm"]):
            held = ran["elements"] / ran["nodes"]
            inside = (ran["nodes"].min() <= nodes) & (nodes <= ran["nodes"].max())
            inside &= (held.min() <= share) & (share <= held.max())
            out &= ~(inside & (frame["machine"] == name).to_numpy() & (frame["algorithm"] == algorithm).to_numpy())
        return out

    def shares(self, machine: str, nodes: ArrayLike, *, algorithm: str | None = None) -> dict[str, Floats]:
        """What each term (device, surface, latency) has of the time, shape [size]."""
        import pandas as pd

        counts = self._counts(machine, nodes)
        algorithm = self.usual if algorithm is None else algorithm
        elements = float(self.runs["elements"].max())
        frame = pd.DataFrame({"machine": machine, "algorithm": algorithm, "variant": "", "elements": elements,
                              "nodes": counts})  # fmt: skip
        found = self.fitted.shares(self.rows(frame))
        return dict(zip(tables.FAMILIES[self.family].terms, found.T, strict=True))

    def fewest(self, machine: str, rate: float, *, sure: bool = True, **choice: object) -> float:
        """Fewest nodes that reach a rate: the cheapest, as node-hours rise with nodes.

        NaN if no node count of the machine reaches it, or there is not enough data. For ``days`` of simulation by a
        deadline in seconds the rate is ``86400 * days / deadline``.

        Args:
            machine: name.
            rate: simulated days per day.
            sure: hold the low end of the interval against it, not the median.
            choice: algorithm, variant, coverage of :meth:`forecast`.
        """
        counts = np.arange(1.0, tables.machine(machine).nodes + 1)
        found = self.forecast(machine, counts, **choice)  # type: ignore[arg-type]
        enough = np.flatnonzero((found.low if sure else found.rate) >= rate)
        return float(counts[enough[0]]) if len(enough) else float("nan")


def usual(runs: pd.DataFrame) -> str:
    """The algorithm with the most runs."""
    return str(runs["algorithm"].value_counts().index[0])


def _rows(
    frame: pd.DataFrame,
    family: str,
    curves: Sequence[tuple[str, str]],
    machines: Sequence[str],
    variants: Sequence[tuple[str, str]],
    scale: Floats,
) -> Rows:
    number = {key: at for at, key in enumerate(curves)}
    stack = {key: at for at, key in enumerate(variants)}
    where = frame["machine"].to_numpy(str)
    made = np.empty((len(frame), len(scale)))
    for name in np.unique(where):
        at = where == name
        some = frame[at]
        made[at] = tables.terms(
            tables.FAMILIES[family].terms, name, some["elements"].to_numpy(float), some["nodes"].to_numpy(float)
        )
    return Rows(
        made / scale,
        np.array([number[key] for key in zip(frame["machine"], frame["algorithm"], strict=True)], np.intp),
        np.array([machines.index(name) for name in where], np.intp),
        np.array([stack.get(key, -1) for key in zip(frame["machine"], frame["variant"], strict=True)], np.intp),
    )


def fit_scaling(family: str, runs: pd.DataFrame | None = None, *, response: str = "seconds") -> ScalingModel:
    """Fit a family's model, intervals not calibrated.

    Args:
        family: one of :data:`dse.domains.continuum.scaling_tables.FAMILIES`.
        runs: see :func:`dse.domains.continuum.scaling_tables.normalised`; None: the shipped ones.
        response: column of the seconds to model.

    Raises:
        SpecError: no such family, no such column, or no runs.
    """
    if family not in tables.FAMILIES:
        raise SpecError([Fault("family", repr(family)[:60], f"must be one of {', '.join(tables.FAMILIES)}")])
    runs = tables.shipped(family) if runs is None else runs
    if response not in runs:
        raise SpecError([Fault("response", repr(response)[:60], "must be a column of seconds of the runs")])
    runs = runs[np.isfinite(runs["nodes"]) & (runs[response] > 0) & runs["machine"].isin(tables.machines().keys())]
    if not len(runs):
        raise SpecError([Fault("runs", family, "must hold at least one run on a machine that is known")])
    ran = list(dict.fromkeys(zip(runs["machine"], runs["algorithm"], strict=True)))
    on_device = tables.FAMILIES[family].terms[0] == "device"  # then a machine not run yet is known by its device
    others = [
        name
        for name in tables.machines()
        if on_device and tables.machine(name).curve and name not in set(runs["machine"])
    ]
    curves = (*ran, *((name, usual(runs)) for name in others))
    machines = tuple(dict.fromkeys(name for name, _ in curves))
    stacks = dict.fromkeys(zip(runs["machine"], runs["variant"], strict=True))
    variants = tuple(key for key in stacks if len([1 for name, _ in stacks if name == key[0]]) > 1)
    unit = np.ones(len(tables.FAMILIES[family].terms))
    scale = np.exp(np.log(_rows(runs, family, curves, machines, variants, unit).terms).mean(axis=0))
    rows = _rows(runs, family, curves, machines, variants, scale)
    levelled = np.array([on_device and tables.machine(name).curve is not None for name, _ in curves])
    fitted = fit(rows, np.log(runs[response].to_numpy(float)), levelled, len(machines), len(variants))
    return ScalingModel(family, runs, response, curves, machines, variants, scale, fitted)


@cache
def load_scaling(family: str = "scream", response: str = "seconds") -> ScalingModel:
    """The model of the shipped runs, with intervals widened by what it errs on runs left out."""
    from dse.domains.continuum.scaling_calibrate import shipped_errors, widening

    model, left_out = shipped_errors(family, response)
    return replace(model, widening=widening(left_out))
