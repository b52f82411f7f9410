"""What there is: hardware, workloads and strategies, validated and immutable, in SI units."""

from __future__ import annotations

from typing import Any

from dse.spec import catalogue
from dse.spec.hardware import Accelerator, Cluster, Node
from dse.spec.stack import Stack
from dse.spec.strategy import Strategy, parse_strategy
from dse.spec.workload import load_model


def load_accelerator(reference: Any) -> Accelerator:
    """An accelerator from the catalogue, a YAML file or a mapping."""
    return catalogue.load(Accelerator, "accelerator", reference)


def load_node(reference: Any) -> Node:
    """A node from the catalogue, a YAML file or a mapping."""
    return catalogue.load(Node, "node", reference)


def load_cluster(reference: Any) -> Cluster:
    """A cluster from the catalogue, a YAML file or a mapping."""
    return catalogue.load(Cluster, "cluster", reference)


def load_stack(reference: Any) -> Stack:
    """A software stack from the catalogue, a YAML file or a mapping."""
    return catalogue.load(Stack, "stack", reference)


def load_strategy(reference: Any) -> Strategy:
    """A strategy from ``"tp=8,pp=2,..."``, a YAML file, a mapping, or an instance.

    Raises:
        SpecError: with every fault at once.
    """
    from pathlib import Path

    from dse.spec.load import read_yaml

    if isinstance(reference, Strategy):
        return reference
    if isinstance(reference, str) and "=" in reference:
        return Strategy.parse(parse_strategy(reference), where="strategy")
    if isinstance(reference, str | Path):
        data, lines = read_yaml(reference)
        if isinstance(data, dict) and data.get("kind") == "strategy":
            data = {key: value for key, value in data.items() if key != "kind"}
        return Strategy.parse(data, where=str(reference), lines=lines)
    return Strategy.parse(reference)


__all__ = [
    "Accelerator",
    "Cluster",
    "Node",
    "Stack",
    "Strategy",
    "load_accelerator",
    "load_cluster",
    "load_model",
    "load_node",
    "load_stack",
    "load_strategy",
]
