"""How the terms of a breakdown are computed, in a line: the equations of the cost graph."""

from __future__ import annotations

import textwrap
from functools import lru_cache
from html import escape
from typing import TYPE_CHECKING

from dse.explore.tables import ALL_TABLES
from dse.units import engineering

if TYPE_CHECKING:
    from dse.cost import Graph
    from dse.explore.result import Result

# Terms that are computed in a quantity of another name: (table, term) and the quantity.
HOMES = {
    ("time", "optimizer"): "optimizer_time",
    ("time", "stragglers"): "straggler_share",
    ("memory", "weights"): "model_states",
    ("memory", "gradients"): "model_states",
    ("memory", "optimizer"): "model_states",
    ("memory", "activations"): "activation_bytes",
    ("memory", "working"): "working_bytes",
    ("energy", "compute"): "compute_energy",
    ("energy", "memory"): "memory_energy",
    ("energy", "links"): "link_energy",
    ("energy", "idle"): "standing_energy",
    ("energy", "host"): "standing_energy",
    ("energy", "network"): "standing_energy",
}
CAPPED = "= {}; the devices' part at most TDP · step_time"
AROUND = {  # what a term is, where that is not just its quantity
    "straggler_share": "= busy time · {}",
    "model_states": "weights, gradients, optimizer: {}",
    **dict.fromkeys(("compute_energy", "memory_energy", "link_energy"), CAPPED),
}
ROWS = "comet_rows"  # what the other timing model adds up
PASS = "mean_stage_terms"  # of one micro-batch; a step has as many as there are micro-batches
LINE = 64  # characters


def formula(result: Result, table: str, term: str) -> str:
    """The equation of a term with line breaks for a label; empty where the cost graph has none for it.

    Of a single design, terms of every pass come with their numbers: how many micro-batches, and the time of one.
    """
    evaluation = result.cells[0].evaluation
    graph = evaluation.graph
    if table == "time" and PASS in _needed(graph, ALL_TABLES["time"]) and term in evaluation[PASS]:
        text = f"= m · {graph.quantities[PASS].equation}"
        if not result.axes:
            each = engineering(float(evaluation[PASS][term]), "s", 4)
            text += f"<br>= {float(evaluation['micro_batches']):,.0f} micro-batches · {each}"
        return text
    return _equation(graph, table, term)


@lru_cache(maxsize=32)
def _needed(graph: Graph, name: str) -> frozenset[str]:
    """A quantity and all that it is computed from."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        last = waiting.pop()
        if last not in found and last in graph.quantities:
            found.add(last)
            waiting += graph.quantities[last].needs
    return frozenset(found)


@lru_cache(maxsize=1024)
def _equation(graph: Graph, table: str, term: str) -> str:
    """The equation of the quantity that a term is computed in; its summary, where the equation only points there."""
    needed = _needed(graph, ALL_TABLES[table])
    name = HOMES.get((table, term), term if table == "time" else "")
    if table == "time" and name not in needed:
        name = ROWS
    if name not in needed:
        return ""
    q = graph.quantities[name]
    text = q.summary.rstrip(".") if "see " in q.equation else AROUND.get(name, "= {}").format(q.equation)
    return "<br>".join(textwrap.wrap(escape(text, quote=False), LINE))
