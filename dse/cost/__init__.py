"""What it costs: quantities of compute, memory, network, pipeline, replicas, step, energy, money and goodput,
as two graphs."""

from __future__ import annotations

from dse.cost import comet, compute, energy, goodput, memory, money, network, pipeline, placement, replicas, step
from dse.cost.graph import Evaluation, Graph, Quantity, quantity

MEGATRON = Graph(compute, memory, placement, network, pipeline, replicas, step, energy, goodput, money)
COMET = Graph(MEGATRON.quantities, comet)
GRAPHS = {"megatron": MEGATRON, "comet": COMET}

__all__ = ["COMET", "GRAPHS", "MEGATRON", "Evaluation", "Graph", "Quantity", "quantity"]
