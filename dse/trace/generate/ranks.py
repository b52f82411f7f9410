"""Which ranks form which groups, and which rank stands where in the pipeline, by the strategy's placement."""

from __future__ import annotations

import numpy as np

from dse.trace.columns import Ints
from dse.trace.generate.design import LABELS, Design


def strides(design: Design) -> dict[str, int]:
    """Distance of neighbours in each group: ranks are numbered with the innermost group of the placement first."""
    found, running = {}, 1
    for name in design.strategy.placement.split("-"):
        found[name] = running
        running *= getattr(design, name)
    return found


def stages(design: Design) -> Ints:
    """Pipeline stage of every rank, int64 [devices]."""
    return np.arange(design.devices) // strides(design)["pp"] % design.pp


def groups(design: Design) -> dict[str, Ints]:
    """Every group of two ranks or more, by label, as tables [groups, size] with ranks ascending.

    The ranks that hold the same parameters of a stage ("dp", all dp·cp of them) are cut into runs of ep neighbours
    for the experts, and into runs of a shard group; "expert_dp" and "copies" are what lies across these runs.
    """
    order = design.strategy.placement.split("-")
    grid = np.arange(design.devices).reshape([getattr(design, name) for name in reversed(order)])

    def along(*names: str) -> Ints:
        axes = [len(order) - 1 - order.index(name) for name in names]
        moved = np.moveaxis(grid, sorted(axes), range(-len(axes), 0))
        return moved.reshape(-1, int(np.prod([getattr(design, name) for name in names])))

    def runs(table: Ints, size: int) -> tuple[Ints, Ints]:
        cut = table.reshape(len(table), -1, size)
        return cut.reshape(-1, size), np.swapaxes(cut, 1, 2).reshape(-1, cut.shape[1])

    same = along("dp", "cp")
    tables = {"tp": along("tp"), "cp": along("cp"), "pp": along("pp"), "grad": same}
    tables["ep"], tables["expert_grad"] = runs(same, design.ep)
    if design.strategy.shard_group:
        tables["shard"], tables["copies"] = runs(same, design.ranks["shard"])
    if design.ep == 1:
        del tables["expert_grad"]
    return {LABELS.get(name, name): table for name, table in tables.items() if table.shape[1] > 1}
