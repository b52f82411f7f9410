"""More tables of sparse matrix engines for studies, as in :mod:`.tables`: granularities, arrays, clusters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dse.domains.tables import Say, Table
from dse.domains.vegeta.sweep import DESIGN, Space, front, overall, sweep
from dse.domains.vegeta.sweep import UNITS as SWEPT
from dse.domains.vegeta.tables import HEADLINE, load_engines
from dse.spec.base import Spec
from dse.spec.fields import CountOrZero, Fraction, Multiple, Text


class Granularity(Spec):
    """``vegeta-granularity``: speed-up by sparsity and by what may have its own N, counted in instructions.

    The source ``closed form`` is the expectation over independent zeros, at ``curve``. The others are kinds of
    matrices of :mod:`dse.domains.vegeta.granularity`, really covered and packed, at ``sparsities``.
    """

    engine: Text = HEADLINE
    kinds: tuple[Text, ...] = ("random", "skewed", "block", "model", "model, block")
    sparsities: tuple[Fraction, ...] = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)
    curve: tuple[Fraction, ...] = (*(i / 100 for i in range(0, 100, 2)), 0.95, 0.99)
    retrain: CountOrZero = 0
    seed: CountOrZero = 0

    def table(self, say: Say) -> Table:
        """A row for each source, granularity and sparsity: ``speedup``, and of trained networks their ``loss``."""
        import pandas as pd

        from dse.domains.vegeta.granularity import GRANULARITIES, SHAPES, expected, study
        from dse.domains.vegeta.registers import registers

        engine = load_engines([self.engine])[0]
        form = {"block": engine.block, "patterns": engine.patterns, "width": registers(engine).span,
                "rows": engine.tile_m, "layer": SHAPES[0][0] * SHAPES[0][1] // engine.block,
                "layers": len(SHAPES)}  # fmt: skip
        at = np.array(sorted(set(self.curve)))
        rows = [
            {"source": "closed form", "granularity": name, "sparsity": s, "speedup": v}
            for name in GRANULARITIES
            for s, v in zip(at.tolist(), expected(at, name, **form).tolist(), strict=True)
        ]
        found = [pd.DataFrame(rows)]
        for kind in self.kinds:
            packed = study(engine, kinds=[kind], sparsities=self.sparsities, seed=self.seed, steps=self.retrain)
            found.append(packed.rename(columns={"kind": "source"})[[*found[0], "reached", "loss"]])
            say(f"{kind}: packed at {len(self.sparsities)} sparsities")
        keys = ("source", "granularity", "sparsity")
        return Table(pd.concat(found, ignore_index=True), keys, {}, {"granularity": GRAINS})


GRAINS = {"network": "network-wise", "layer": "layer-wise", "tile": "tile-wise", "pseudo-row": "pseudo row-wise",
          "row": "row-wise"}  # fmt: skip


class Crossover(Spec):
    """``vegeta-crossover``: row-wise against an ideal engine that skips every zero and is ``areas`` times as large."""

    engine: Text = HEADLINE
    sparsities: tuple[Fraction, ...] = tuple(i / 100 for i in range(50, 100))
    areas: tuple[Multiple, ...] = tuple(1 + i / 4 for i in range(37))

    def table(self, say: Say) -> Table:
        """A row for each sparsity and area: ``ratio`` of speed-ups for the same area, above 1 row-wise is better.

        ``even`` is the sparsity from which on the other engine is better at that area.
        """
        from dse.domains.vegeta.granularity import crossover, crossover_map

        engine = load_engines([self.engine])[0]
        form = {"patterns": engine.patterns, "block": engine.block}
        rows = crossover_map(self.sparsities, self.areas, **form)
        even = dict(zip(self.areas, crossover(np.array(self.areas), **form).tolist(), strict=True))
        return Table(rows.assign(even=rows["area"].map(even)), ("sparsity", "area"))


class DesignSpace(Space):
    """``vegeta-design-space``: every array of the space on all layers together; settings are the axes of the sweep."""

    def table(self, say: Say) -> Table:
        """A row for each feasible density and design.

        Times and energies are sums over the layers; ``best`` is 1 where no other design of the same density is both
        faster and smaller. The other columns are those of :func:`dse.domains.vegeta.sweep.overall`.
        """
        rows = overall(sweep(self, say=say))
        rows["design"] = [_design(row) for row in rows.to_dict("records")]
        keys = ("density", *DESIGN)
        best = {
            tuple(row) for _, part in rows.groupby("density") for row in front(part)[list(keys)].to_numpy().tolist()
        }
        rows["best"] = [float(tuple(row) in best) for row in rows[list(keys)].to_numpy().tolist()]
        rows["array"] = [
            f"beta {beta}, {'forwarding' if on else 'no forwarding'}"
            for beta, on in zip(rows["beta"], rows["forwarding"], strict=True)
        ]
        rows["forwarding"] = np.where(rows["forwarding"], "yes", "no")
        units = {name: unit for name, unit in SWEPT.items() if name in rows}
        return Table(rows, keys, units)


def _design(row: Mapping[str, Any]) -> str:
    """``16-2 OF, 3 tiles``: alpha, beta, output forwarding, accumulators."""
    forwarding = " OF" if row["forwarding"] else ""
    return f"{row['alpha']}-{row['beta']}{forwarding}, {row['accumulators']} tiles of C"
