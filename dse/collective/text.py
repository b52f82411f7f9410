"""Networks in one line of text: ``torus:8x8x8,bandwidth=200GiB/s:100GiB/s:50GiB/s,latency=0.5us,fail=5%,seed=1``."""

from __future__ import annotations

import difflib
import inspect
from dataclasses import replace
from typing import Any

import numpy as np

from dse import units
from dse.collective.faults import fail_links, fail_npus, vary
from dse.collective.shapes import REGISTRY, fault
from dse.collective.topology import Topology


def parse(text: str) -> Topology:
    """A network from text: ``shape:sizes,argument=value,...``.

    Sizes are joined by x; quantities have units; lists are joined by colons. After the shape's own arguments:
    ``fail`` (``5%`` or a number of cables), ``fail_directed`` (of links), ``fail_npus``, ``bandwidths`` and
    ``latencies`` (lists to draw each cable's from; ``directed=yes``: each link's), ``seed``.

    Raises:
        SpecError: an unknown shape or argument, or a value that does not fit; the message says what would.
    """
    head, *pairs = [part.strip() for part in text.strip().split(",")]
    name, _, sizes = (part.strip() for part in head.partition(":"))
    if name not in REGISTRY:
        near = difflib.get_close_matches(name[:40], REGISTRY, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"shapes are {', '.join(sorted(REGISTRY))}"
        raise fault("topology", repr(name[:80]), f"is no shape and no file; {hint}")
    builder = REGISTRY[name]
    known = {key: str(p.annotation) for key, p in inspect.signature(builder).parameters.items()}
    given: dict[str, Any] = {}
    after: dict[str, Any] = {}
    if sizes:
        given.update(_positional(name, sizes, known))
    for pair in pairs:
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or (key not in known and key not in AFTER):
            rule = f"must be ARGUMENT=VALUE with one of {', '.join([*known, *AFTER])}"
            raise fault(f"topology.{name}", repr(pair[:80]), rule)
        field = f"topology.{name}.{key}"
        if key in known:
            given[key] = _value(field, key, known[key], value)
        if key in AFTER and (key not in known or key == "seed"):
            after[key] = _value(field, key, AFTER[key], value)
    needed = [
        key for key, p in inspect.signature(builder).parameters.items() if p.default is p.empty and key not in given
    ]
    if needed:
        raise fault(f"topology.{name}", text, f"needs {', '.join(needed)}, for example {name}:8")
    return replace(_changed(builder(**given), after), name=text.strip())


AFTER = {
    "fail": "share", "fail_directed": "share", "fail_npus": "share", "bandwidths": "Rates", "latencies": "Rates",
    "directed": "bool", "seed": "int",
}  # fmt: skip


def _changed(made: Topology, after: dict[str, Any]) -> Topology:
    seed = after.get("seed", 0)
    lists = [list(np.atleast_1d(after.get(key, []))) for key in ("bandwidths", "latencies")]
    if any(lists):
        made = vary(made, *lists, seed, directed=after.get("directed", False))
    made = fail_links(made, after.get("fail", 0), seed)
    made = fail_links(made, after.get("fail_directed", 0), seed, directed=True)
    return fail_npus(made, after.get("fail_npus", 0), seed)


def _positional(name: str, sizes: str, known: dict[str, str]) -> dict[str, Any]:
    """Sizes after the shape's name: its first argument, or its first numbers one by one."""
    first = next(iter(known), "")
    numbers = [_value(f"topology.{name}", first or "sizes", "int", part) for part in sizes.split("x")]
    if known.get(first, "").startswith("Dims"):
        return {first: numbers}
    taken = [key for key, kind in known.items() if kind == "int"][: len(numbers)]
    if len(taken) < len(numbers):
        raise fault(f"topology.{name}", sizes, f"takes {len(taken)} sizes")
    return dict(zip(taken, numbers, strict=True))


def _value(field: str, key: str, kind: str, text: str) -> Any:
    """A value of an argument; its name says the unit."""
    kind = kind.split(" |")[0]
    try:
        if kind == "bool":
            return {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}[text.lower()]
        if kind == "int":
            return int(text)
        if kind == "share":
            found = units.parse(text, "1")
            if "%" in text and not 0 <= found < 1:
                raise ValueError(text)
            return found
        if kind == "Dims":
            return [int(part) for part in text.split("x")]
        unit = "B/s" if "bandwidth" in key else "s" if "latenc" in key else ""
        if kind in ("float", "Rates"):
            found = [units.parse(part, unit) if unit else float(part) for part in text.split(":")]
            return found if kind == "Rates" and len(found) > 1 else found[0]
    except (ValueError, KeyError) as error:
        wanted = {
            "bool": "yes or no",
            "int": "a whole number",
            "share": "a share from 0% to less than 100%, or a number",
        }
        rule = wanted.get(kind, "whole numbers joined by x" if kind == "Dims" else str(error))
        raise fault(field, text, f"must be {rule}" if kind not in ("float", "Rates") else rule) from None
    return text


def listing() -> list[dict[str, str]]:
    """Every shape: its name, what it is, its arguments with their defaults."""
    rows = []
    for name, builder in sorted(REGISTRY.items()):
        takes = [
            key if p.default is p.empty else f"{key}={p.default}"
            for key, p in inspect.signature(builder).parameters.items()
        ]
        does = (inspect.getdoc(builder) or "").split("\n")[0]
        rows.append({"shape": name, "does": does, "takes": ", ".join(takes)})
    return rows
