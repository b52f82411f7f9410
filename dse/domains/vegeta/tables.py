"""Tables of sparse matrix engines for studies: one class a table, its fields are what a study file may set.

Patterns are written "2:4". An engine runs the sparsest of its own patterns that holds what is asked for: a dense engine
runs 1:4 as 4:4, one of 4:4 and 2:4 alone as 2:4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field

from dse.domains.tables import Say, Table
from dse.domains.vegeta.check import fault
from dse.domains.vegeta.sensitivity import BASELINE, HEADLINE
from dse.errors import Fault, SpecError
from dse.spec.base import Spec
from dse.spec.fields import Count, CountOrZero, Fraction, Text

if TYPE_CHECKING:
    from dse.domains.vegeta.engine import Engine

GEOMEAN, MEAN = "geomean", "mean"  # in the place of a layer
OVERALL = {GEOMEAN: "geometric mean", MEAN: "arithmetic mean"}
PATTERNS = ("4:4", "2:4", "1:4")


def _pattern(text: str) -> str:
    n, _, block = text.partition(":")
    if not (n.isdigit() and block.isdigit() and 1 <= int(n) <= int(block) <= 64):
        raise ValueError("must be N:M with 1 <= N <= M, as 2:4")
    return text


Pattern = Annotated[Text, AfterValidator(_pattern)]


def native(engine: Engine, pattern: str) -> int:
    """The N that an engine runs a pattern at.

    Args:
        pattern: ``N:M``. Of another M than the engine's block, a block is held by the N of all that may meet in it.

    Raises:
        SpecError: neither M is a multiple of the other.
    """
    n, block = (int(part) for part in pattern.split(":"))
    if engine.block % block and block % engine.block:
        raise SpecError([Fault("pattern", pattern, f"M must divide, or be a multiple of, the block of {engine.block}")])
    most = min(n * max(engine.block // block, 1), engine.block)
    return min(own for own in engine.patterns if own >= most)


class _OnLayers(Spec):
    """What tables of timed layers share: which layers, and the knobs of the kernel."""

    layers: tuple[Text, ...] = ()
    accumulators: Count = 3

    def _layers(self) -> list[Any]:
        from dse.domains.vegeta.workloads import layers

        known = {layer.name: layer for layer in layers()}
        unknown = [name for name in self.layers if name not in known]
        if unknown:
            raise fault("layers", unknown[0], f"must be one of {', '.join(known)}"[:300])
        return [known[name] for name in self.layers or known]

    def _timed(self) -> Callable[[Any, Engine, str], Any]:
        """Times a layer on an engine at a pattern; what was timed before is remembered."""
        from dse.domains.vegeta.timing import time_gemm

        seen: dict[Any, Any] = {}

        def timed(layer: Any, engine: Engine, pattern: str) -> Any:
            key = (layer.name, engine, native(engine, pattern))
            if key not in seen:
                seen[key] = time_gemm(layer.m, layer.n, layer.k, engine, pattern=key[2], accumulators=self.accumulators)
            return seen[key]

        return timed


class Geometry(Spec):
    """``vegeta-geometry``: what each engine is made of and how long one instruction takes."""

    engines: tuple[Text, ...] = ()

    def table(self, say: Say) -> Table:
        """A row an engine: counts of its parts, stages in engine cycles, sizes of registers in bytes."""
        import pandas as pd

        from dse.domains.vegeta.registers import registers

        rows = []
        for engine in load_engines(self.engines):
            r = registers(engine)
            rows.append(
                {
                    "engine": engine.id, "alpha": engine.alpha, "beta": engine.beta, "rows": engine.rows,
                    "cols": engine.cols, "macs": engine.macs, "wl": engine.wl, "ff": engine.ff, "fs": engine.fs,
                    "dr": engine.dr, "latency": engine.latency, "macs_per_instruction": r.values * engine.tile_n,
                    "treg": r.size, "ureg": 2 * r.size, "vreg": 4 * r.size,
                    "metadata": r.metadata_size if len(r.patterns) > 1 else 0,
                }
            )  # fmt: skip
        units = dict.fromkeys(("treg", "ureg", "vreg", "metadata"), "B")
        return Table(pd.DataFrame(rows), ("engine",), units, {"engine": titles(self.engines)})


class Speedup(_OnLayers):
    """``vegeta-speedup``: engines on layers at patterns, over the dense layer on ``baseline``."""

    engines: tuple[Text, ...] = ()
    baseline: Text = BASELINE
    patterns: tuple[Pattern, ...] = PATTERNS

    def table(self, say: Say) -> Table:
        """A row for each engine, layer and pattern, and for the means over the layers: ``speedup``, ``time`` ..."""
        import pandas as pd

        timed, layers = self._timed(), self._layers()
        base = load_engines([self.baseline])[0]
        dense = {layer.name: timed(layer, base, f"{base.block}:{base.block}").seconds for layer in layers}
        rows = []
        for engine in load_engines(self.engines):
            for pattern in self.patterns:
                own = [_row(layer, timed(layer, engine, pattern), dense[layer.name]) for layer in layers]
                shared = {"engine": engine.id, "pattern": pattern, "runs": f"{native(engine, pattern)}:{engine.block}"}
                rows += [{**shared, **row} for row in own + _means(own)]
            say(f"{engine.id}: {len(layers)} layers at {len(self.patterns)} patterns")
        named = {"engine": titles(self.engines), "layer": OVERALL}
        return Table(pd.DataFrame(rows), ("engine", "layer", "pattern"), {"time": "s"}, named)


def _row(layer: Any, timing: Any, dense: float) -> dict[str, Any]:
    return {"layer": layer.name, "speedup": dense / timing.seconds, "time": timing.seconds, "cycles": timing.cycles,
            "utilisation": timing.utilisation}  # fmt: skip


def _means(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The two means of the speed-ups over layers; times are summed in both."""
    speedups = np.array([row["speedup"] for row in rows])
    whole = {name: float(sum(row[name] for row in rows)) for name in ("time", "cycles")}
    used = float(sum(row["utilisation"] * row["cycles"] for row in rows)) / whole["cycles"]
    means = {GEOMEAN: float(np.exp(np.mean(np.log(speedups)))), MEAN: float(np.mean(speedups))}
    return [{"layer": name, "speedup": mean, **whole, "utilisation": used} for name, mean in means.items()]


class Sensitivity(Spec):
    """``vegeta-sensitivity``: the published speed-ups at other settings, one knob changed at a time.

    ``knobs`` are those of :data:`dse.domains.vegeta.sensitivity.KNOBS`, with the values to try; by default all of them.
    """

    knobs: dict[Text, tuple[Any, ...]] = Field(default_factory=dict)

    def table(self, say: Say) -> Table:
        """A row for each setting and pattern, the defaults first.

        ``speedup`` is the geometric, ``mean`` the arithmetic mean over the layers; ``error`` that of the geometric one
        against the published number, ``worst`` the largest of the three without sign.
        """
        from dse.domains.vegeta.sensitivity import KNOBS, PUBLISHED, sensitivity

        wide = sensitivity(self.knobs or KNOBS)
        say(f"{len(wide)} settings, two engines and three patterns each")
        rows = wide.loc[wide.index.repeat(len(PUBLISHED)), ["knob", "value", "worst"]].reset_index(drop=True)
        rows["pattern"] = list(PUBLISHED) * len(wide)
        for column, name in (("geomean", "speedup"), ("mean", "mean"), ("error", "error")):
            rows[name] = wide[[f"{column} {pattern}" for pattern in PUBLISHED]].to_numpy().ravel()
        names = [setting_name(k, v) for k, v in zip(rows.knob, rows.value, strict=True)]
        return Table(rows.assign(setting=names), ("knob", "value", "setting", "pattern"))


def setting_name(knob: str, value: str) -> str:
    """A knob of :data:`dse.domains.vegeta.sensitivity.KNOBS` at a value (as text), as people read it."""
    short = knob.rpartition(".")[2]
    plain = {
        ("exclusive_stages", "True"): "stages exclude each other", ("double_buffered", "False"): "weights not buffered",
        ("weight_bypass", "True"): "same weights not loaded again", ("accumulate", "False"): "C starts at zero",
        ("engine_order", "ready"): "products as they get ready", ("stores", "separate"): "stores on their own path",
        ("order", "n"): "panels along n first",
    }  # fmt: skip
    if short == "clock":
        return f"clock {float(value) / 1e9:g} GHz"
    if short == "accumulators":
        down, _, across = value.strip("()").partition(", ")
        return f"accumulators {down} x {across}" if across else f"accumulators {value}"
    if short == "layers":
        return f"layers of {value} only"
    return plain.get((short, value), f"{short} {value}".strip().replace("_", " "))


class Unstructured(_OnLayers):
    """``vegeta-unstructured``: layers with random zeros as row-wise programs, packed, timed, loads and all.

    ``order`` is that of :func:`dse.domains.vegeta.cover.pack`. ``counted`` is the speed-up by instructions alone,
    ``speedup`` that of the time, over the same engine's dense kernel, ``over_baseline`` over the dense kernel of
    ``baseline``.
    """

    engine: Text = HEADLINE
    baseline: Text = BASELINE
    sparsities: tuple[Fraction, ...] = (0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
    orders: tuple[Literal["panel", "none", "matrix"], ...] = ("panel", "matrix")
    seed: CountOrZero = 0

    def table(self, say: Say) -> Table:
        """A row for each layer, sparsity and order, and for the means over the layers."""
        import pandas as pd

        from dse.domains.vegeta.prune import random

        engine, base = load_engines([self.engine, self.baseline])
        timed, layers = self._timed(), self._layers()
        dense = {e.id: {x.name: timed(x, e, f"{e.block}:{e.block}").seconds for x in layers} for e in (engine, base)}
        rows = []
        for sparsity in self.sparsities:
            matrices = [random(x.m, x.k, sparsity, seed=self.seed + i) for i, x in enumerate(layers)]
            for order in self.orders:
                own = [self._packed(x, a, engine, order) for x, a in zip(layers, matrices, strict=True)]
                for row in own:
                    row["speedup"] = dense[engine.id][row["layer"]] / row["time"]
                    row["over_baseline"] = dense[base.id][row["layer"]] / row["time"]
                own += _geomeans(own, ("counted", "speedup", "over_baseline"))
                rows += [{"sparsity": sparsity, "order": order, **row} for row in own]
            say(f"{sparsity:.0%} zeros: {len(layers)} layers")
        named = {"layer": OVERALL, "order": ORDERS}
        return Table(pd.DataFrame(rows), ("layer", "sparsity", "order"), {"time": "s"}, named)

    @staticmethod
    def _packed(layer: Any, a: np.ndarray, engine: Engine, order: str) -> dict[str, Any]:
        from dse.domains.vegeta.cover import pack
        from dse.domains.vegeta.kernels import row_wise_program
        from dse.domains.vegeta.timing import simulate

        packed = pack(a, engine, order=order)
        timing = simulate(row_wise_program(packed, layer.n, engine)[0], engine)
        return {"layer": layer.name, "counted": packed.speedup, "time": timing.seconds}


ORDERS = {"panel": "rows sorted in each panel", "none": "rows in order, paired", "matrix": "rows sorted once"}


def _geomeans(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> list[dict[str, Any]]:
    means = {name: float(np.exp(np.mean([np.log(row[name]) for row in rows]))) for name in columns}
    return [{"layer": GEOMEAN, **means, "time": float(sum(row["time"] for row in rows))}]


def load_engines(ids: Sequence[str]) -> list[Engine]:
    """Engines by id; all shipped ones if none is named."""
    from dse.domains.vegeta.engine import engines, load_engine

    return [load_engine(name) for name in ids or engines()]


def titles(ids: Sequence[str]) -> dict[str, str]:
    """Short names of engines by id: what stands in brackets is left out."""
    names = {engine.id: engine.name or engine.id for engine in load_engines(ids)}
    return {key: name.partition(" (")[0].removeprefix("VEGETA-") for key, name in names.items()}
