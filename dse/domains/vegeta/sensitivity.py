"""The published speed-ups over a dense engine, and how much each setting that is not known moves them.

VEGETA-S-16-2 with output forwarding is published to be 1.09, 2.20 and 3.74 times as fast as RASA-DM (here D-1-2) at
4:4, 2:4 and 1:4. Core, kernel, and the sizes of most layers are not known, nor whether the mean over layers is
geometric or arithmetic. The defaults of :class:`~dse.domains.vegeta.engine.Core` and of
:func:`~dse.domains.vegeta.kernels.gemm_program` hold for all engines and layers. Two of them were chosen in the
knowledge of the three numbers: three tiles of C in registers, which is what fills the eight registers at 1:4, and three
quarters of a line a core cycle. A load buffer without limit and registers renamed without limit are as needed: with the
96 entries that are recalled of the load buffer, 1:4 is 2.29. So is the mix of layers: ResNet-50 alone gives less at 1:4
and BERT and GPT alone more. That the numbers are met shows that they can be reached, and predicts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.domains.vegeta.engine import Core, Engine, load_engine
from dse.errors import Fault, SpecError

if TYPE_CHECKING:
    import pandas as pd

PUBLISHED = {"4:4": 1.09, "2:4": 2.20, "1:4": 3.74}
BASELINE, HEADLINE = "vegeta-d-1-2", "vegeta-s-16-2-of"
# Every knob with the values to try beside its default. "core." and "kernel." say whose it is; the rest is the engine's.
KNOBS: dict[str, tuple[Any, ...]] = {
    "core.load_lines": (0.5, 1.0, 2.0, 4.0),
    "core.load_latency": (0.0, 32.0, 100.0, 400.0),
    "core.run_ahead": (16, 32, 64, 224, 512),
    "core.issue_width": (1, 2, 8),
    "core.load_buffer": (64, 96, 128, 192),
    "core.stores": ("separate",),
    "core.rename_registers": (0, 8, 16, 32),
    "core.engine_order": ("ready",),
    "layers": ("resnet50", "bert", "gpt"),
    "clock": (0.25e9, 1e9),
    "exclusive_stages": (True,),
    "double_buffered": (False,),
    "weight_bypass": (True,),
    "kernel.accumulators": (1, 2, 4, 5, (2, 2), (1, 3)),
    "kernel.order": ("n",),
    "kernel.k_steps": (1, 4, 16),
    "kernel.accumulate": (False,),
}
KERNEL = ("accumulators", "order", "k_steps", "accumulate")


def speedups(
    settings: Mapping[str, Any] | None = None, layers: Sequence[Any] | None = None, *, engine: Any = HEADLINE,
    baseline: Any = BASELINE, patterns: Sequence[int] = (4, 2, 1),
) -> np.ndarray:  # fmt: skip
    """Speed-up of an engine over the dense layer on another [layer, pattern].

    Args:
        settings: knobs, named as in :data:`KNOBS`; they hold for both engines. ``layers`` is the kind of those taken.
        layers: with ``m``, ``n``, ``k``; by default the shipped ones.
        engine, baseline: ids, files, mappings or engines.
        patterns: the N that ``engine`` runs.

    Raises:
        SpecError: for a knob that there is not, or a value out of range.
    """
    from dse.domains.vegeta.timing import time_gemm
    from dse.domains.vegeta.workloads import layers as shipped

    settings = dict(settings or {})
    kind = settings.pop("layers", None)
    base, kernel = changed(load_engine(baseline), settings)
    own, _ = changed(load_engine(engine), settings)
    found = []
    taken = [x for x in (shipped() if layers is None else layers) if kind in (None, x.kind)]
    if not taken:
        raise SpecError([Fault("layers", repr(kind)[:60], "must be the kind of some layer")])
    for x in taken:
        dense = time_gemm(x.m, x.n, x.k, base, **kernel).seconds
        found.append([dense / time_gemm(x.m, x.n, x.k, own, pattern=n, **kernel).seconds for n in patterns])
    return np.array(found)


def changed(engine: Engine, settings: Mapping[str, Any]) -> tuple[Engine, dict[str, Any]]:
    """An engine with other settings, and the settings of the kernel."""
    core, own, kernel = {}, {}, {}
    for name, value in settings.items():
        group, _, knob = name.rpartition(".")
        known = {"core": Core.model_fields, "kernel": KERNEL, "": Engine.model_fields}.get(group, {})
        if knob not in known:
            raise SpecError([Fault(name[:60], repr(value)[:60], f"must be a knob as {', '.join(KNOBS)}"[:300])])
        {"core": core, "kernel": kernel, "": own}[group][knob] = value
    return engine.replace(core=engine.core.replace(**core), **own), kernel


def sensitivity(
    knobs: Mapping[str, Sequence[Any]] = KNOBS, layers: Sequence[Any] | None = None, *, joint: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """The three speed-ups at other settings.

    Args:
        knobs: values of each to try.
        layers: by default the shipped ones.
        joint: all combinations of the values; else one knob at a time, all others at their defaults.

    Returns:
        The defaults, then a row a setting: ``knob, value``; geometric and arithmetic mean over the layers, ``geomean
        N:M`` and ``mean N:M``; ``error N:M``, of the geometric mean against the published number; ``worst``, the
        largest of the three without sign.
    """
    import pandas as pd

    if joint:
        trials = [dict(zip(knobs, values, strict=True)) for values in product(*knobs.values())]
    else:
        trials = [{knob: value} for knob, values in knobs.items() for value in values]
    return pd.DataFrame([_row(trial, speedups(trial, layers)) for trial in [{}, *trials]])


def _row(trial: Mapping[str, Any], found: np.ndarray) -> dict[str, Any]:
    row: dict[str, Any] = {"knob": ", ".join(trial) or "defaults", "value": ", ".join(map(str, trial.values()))}
    geomean, mean = np.exp(np.log(found).mean(axis=0)), found.mean(axis=0)
    errors = geomean / np.array(list(PUBLISHED.values())) - 1.0
    for label, values in (("geomean", geomean), ("mean", mean), ("error", errors)):
        row |= {f"{label} {pattern}": float(v) for pattern, v in zip(PUBLISHED, values, strict=True)}
    return row | {"worst": float(np.abs(errors).max())}
