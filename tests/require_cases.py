"""What the tests of inverse design share: designs, single estimates, and cost models with closed forms."""

from __future__ import annotations

from typing import Any

from hypothesis import settings

import dse
from dse.accuracy.features import KINDS
from dse.accuracy.uncertainty import widths
from dse.explore.objectives import condition
from dse.space.axes import locate, with_value

FEW = settings(deadline=None, derandomize=True, max_examples=12)
INTER, INTRA = "cluster.network.inter.bandwidth", "cluster.network.intra.bandwidth"
PLAN = "tp=8,pp=4,dp=4,micro_batch=1,global_batch=256,zero_stage=1,sequence_parallel=true"
CASE = ("llama3-70b", "dgx-h100", PLAN)
SMALL = {"tp": [4, 8], "pp": [2, 4, 8], "micro_batch": [1, 2], "virtual_stages": [1, 2], "zero_stage": [1]}
BEST = {"global_batch": 256, "options": SMALL}


def changed(design: tuple[str, str, str], path: str, value: float) -> dse.Result:
    """One estimate of the design with one field at another value."""
    loaders = {"model": dse.load_model, "cluster": dse.load_cluster, "strategy": dse.load_strategy}
    specs = {name: loaders[name](given) for name, given in zip(loaders, design, strict=True)}
    specs["stack"] = None
    place = locate(path, specs)
    specs[place.root] = with_value(specs[place.root], place.steps, value)
    return dse.estimate(specs["model"], specs["cluster"], specs["strategy"])


def meets(result: dse.Result, *targets: str) -> bool:
    return result.is_feasible and all(float(condition(t).margin(result.cells[0].evaluation)) >= 0 for t in targets)


def timed(function: Any) -> dict[str, Any]:
    """Quantities of a cost model in which all time is compute: its interval has one width everywhere."""
    return {"step_time": function, "breakdown": lambda step_time: {"forward": step_time}}


def half_width(level: float = 0.9) -> float:
    """Of a design that only computes, on the machine and stack of CASE."""
    shares = {f"share.{kind}": float(kind == "compute") for kind in KINDS}
    return float(widths(shares, {"generation": "hopper", "stack": "megatron"}, level))
