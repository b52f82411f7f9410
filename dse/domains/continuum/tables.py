"""Tables of scaling and of emulators for studies: what a ``tables:`` block of a study file may set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dse.domains.continuum import scaling_tables
from dse.domains.tables import Say, Table
from dse.errors import Fault, SpecError
from dse.spec.base import Spec
from dse.spec.catalogue import asset_root
from dse.spec.fields import Count, Text

if TYPE_CHECKING:
    import pandas as pd

PARTS = ("error", "signed", "p95", "coverage", "covered", "right", "regret")
UNITS = {"flops": "FLOP", "step": "FLOP", "reached": "FLOP/s", **dict.fromkeys(PARTS, "%")}


class Forecasts(Spec):
    """Throughput on every size that was run, and on doublings up to the whole machine, with its interval.

    ``measured`` is the fastest run of a size; ``answered`` is 0 where the model says that there is not enough data.
    """

    family: Text = "scream"
    machines: tuple[Text, ...] = ("Frontier", "Summit", "Perlmutter-GPU", "Perlmutter-CPU")
    fewest: Count = 256

    def table(self, say: Say) -> Table:
        import pandas as pd

        from dse.domains.continuum.scaling import load_scaling

        model = load_scaling(self.family)
        parts = []
        for name in self.machines:
            ran = model.runs[(model.runs["machine"] == name) & (model.runs["algorithm"] == model.usual)]
            best = (ran["days"] * scaling_tables.DAY / ran["seconds"]).groupby(ran["nodes"]).max()
            made = model.forecast(name, sizes(name, best.index.to_numpy(float), self.fewest)).table()
            made = made.assign(measured=made["nodes"].map(best), answered=(made["reason"] == "").astype(float))
            parts.append(made)
            say(f"{name}: {made['reason'].iloc[0] or f'{len(made)} sizes'}")
        rows = pd.concat(parts, ignore_index=True)
        rows = rows.assign(beyond=rows["beyond"].map({True: "yes", False: "no"}))
        return Table(rows, ("machine", "algorithm", "nodes", "beyond", "reason"), UNITS)


def sizes(name: str, ran: np.ndarray, fewest: int) -> np.ndarray:
    """Node counts of a forecast: those that were run, doublings, and the whole machine."""
    most = scaling_tables.machine(name).nodes
    doubled = [float(n) for n in fewest * 2.0 ** np.arange(32) if n < most]
    return np.unique([*ran[ran <= most], *doubled, float(most)])


class HeldOut(Spec):
    """Errors of runs whose size the fit had not seen, beside those of three common curves.

    ``error`` is the median of the absolute relative error of the rate, ``signed`` that with its sign; ``sizes`` are
    ``all``, or the ``largest`` of each machine: extrapolations. ``coverage``: of the 90 % interval.
    """

    table_of: Text = "scream"

    def table(self, say: Say) -> Table:
        import pandas as pd

        from dse.domains.continuum.scaling_validate import BASELINES

        runs = held_out(self.table_of)
        runs = runs.assign(largest=runs["nodes"] == runs.groupby(["family", "machine"])["nodes"].transform("max"))
        rows: list[dict[str, Any]] = []
        groups = [("all", runs), *((str(name), part) for name, part in runs.groupby("machine", sort=False))]
        for name, part in groups:
            for which, some in (("all", part), ("largest", part[part["largest"]])):
                good = some[some["reason"] == ""]
                shared = {"machine": name, "sizes": which, "runs": len(some), "predicted": len(good)}
                for by in ("model", *BASELINES):
                    errors = good["ape" if by == "model" else f"ape_{by}"].dropna()
                    row = {**shared, "by": by, "error": errors.median(), "p95": errors.quantile(0.95)}
                    if by == "model":
                        row |= {"signed": (good["rate"] / good["measured"] - 1).median()}
                        row |= {"coverage": good["inside"].astype(float).mean()}
                    rows.append(row)
        say(f"{self.table_of}: {len(runs)} runs left out")
        return Table(pd.DataFrame(rows), ("machine", "sizes", "by"), UNITS)


TABLES = {"scream": scaling_tables.SCREAM, "homme": scaling_tables.HOMME, "e3sm": scaling_tables.E3SM}


def held_out(table_of: str) -> pd.DataFrame:
    """Each run of a shipped table, predicted without its size: ``scream``, ``homme`` or ``e3sm``.

    Raises:
        SpecError: there is no such table.
    """
    from dse.domains.continuum.scaling_validate import validate

    if table_of not in TABLES:
        raise SpecError([Fault("table_of", repr(table_of)[:60], f"must be one of {', '.join(TABLES)}")])
    return validate(asset_root("data") / scaling_tables.FOLDER / f"{TABLES[table_of]}.csv").table


class Algorithms(Spec):
    """How much faster semi-Lagrangian transport is than Eulerian: measured where both were run, and by the model."""

    timers: tuple[Text, ...] = ("main_loop", "advection")

    def table(self, say: Say) -> Table:
        import pandas as pd

        parts = [_gains(timer) for timer in self.timers]
        rows = pd.concat(parts, ignore_index=True)
        say(f"{len(rows)} pairs of runs")
        return Table(rows, ("timer", "tracers", "problem", "nodes", "case"), UNITS)


def _gains(timer: str) -> pd.DataFrame:
    """A row a size that both transports were run on: their times, ``ratio`` and that ``predicted``."""
    from dse.domains.continuum.scaling import load_scaling

    model = load_scaling(f"homme-{timer}")
    median = model.predict(model.runs)["median"].to_numpy()
    scheme, _, tracers = zip(*(name.partition(", ") for name in model.runs["algorithm"]), strict=True)
    runs = model.runs.assign(scheme=scheme, tracers=tracers, fitted=median)
    same = ["elements", "nodes", "variant", "tracers"]
    columns = [*same, "seconds", "fitted"]
    one, other = (
        runs.loc[runs["scheme"] == name, columns].groupby(same, as_index=False).mean()
        for name in (scaling_tables.EULERIAN, scaling_tables.SEMI_LAGRANGIAN)
    )
    both = one.merge(other, on=same, suffixes=("_eulerian", "_semi"))
    both = both.assign(timer=timer, ratio=both["seconds_eulerian"] / both["seconds_semi"],
                       predicted=both["fitted_eulerian"] / both["fitted_semi"])  # fmt: skip
    both = both.assign(error=(both["predicted"] / both["ratio"] - 1).abs())
    both = both.rename(columns={"variant": "problem"}).sort_values(["elements", "nodes", "tracers"])
    both["case"] = [f"{p}, {n:.0f}" for p, n in zip(both["problem"], both["nodes"], strict=True)]
    return both[["timer", "tracers", "problem", "nodes", "case", "ratio", "predicted", "error"]]


class Emulators(Spec):
    """Device-hours of training a weather emulator, counted from its configuration, beside what was published."""

    emulators: tuple[Text, ...] = ("FourCastNet",)

    def table(self, say: Say) -> Table:
        import pandas as pd

        from dse.domains.continuum.anchors import training_hours

        rows = []
        for name in self.emulators:
            made = training_hours(name)
            rows.append({"emulator": name, "hours": made.hours, "published": made.published, "ratio": made.ratio,
                         "flops": made.flops, "step": made.step, "reached": made.rate, "note": made.note})  # fmt: skip
            say(f"{name}: {made.hours:,.0f} device-hours, {made.note}")
        return Table(pd.DataFrame(rows), ("emulator", "note"), UNITS)


class Parts(Spec):
    """What the time of a SCREAM run goes into: seconds of a simulated day by part and node count, medians."""

    machines: tuple[Text, ...] = ("Frontier", "Summit")
    nodes: tuple[Count, ...] = (512, 1024, 2048, 4096)

    def table(self, say: Say) -> Table:
        import pandas as pd

        from dse.domains.continuum.scaling_parts import part_times

        rows = pd.concat([part_times(name, self.nodes) for name in self.machines], ignore_index=True)
        say(f"{len(rows['part'].unique())} parts on {', '.join(self.machines)}")
        return Table(rows, ("machine", "part", "nodes", "reason"), {"seconds": "s"})
