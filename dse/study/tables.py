"""Tables of domains in studies: a maker's name and its settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pydantic import Field

from dse.errors import SpecError
from dse.spec.base import Spec
from dse.spec.fields import Name, Text
from dse.study.simulations import Beside, SimulationTable


class Tabled(Spec):
    """A table that a domain makes (:mod:`dse.domains.tables`); texts in settings may name files beside the study."""

    id: Name
    title: Text = ""
    maker: Name
    settings: dict[str, Any] = Field(default_factory=dict)


def run_table(block: Tabled, beside: Beside, say: Callable[[str], None]) -> SimulationTable:
    """Make the table of a block.

    Raises:
        SpecError: no such maker, or with every fault of its settings.
    """
    from dse.domains.tables import maker

    try:
        made = maker(block.maker, _beside(block.settings, beside)).table(say)
    except SpecError as error:
        known = "maker" in (fault.path for fault in error.faults)
        raise error if known else SpecError([replace(f, path=f"settings.{f.path}") for f in error.faults]) from None
    say(f"table {block.id}: {len(made.rows):,} rows")
    return SimulationTable(block, made.rows, tuple(made.keys), dict(made.units), made.titles)


def _beside(value: Any, beside: Beside) -> Any:
    if isinstance(value, dict):
        return {key: _beside(item, beside) for key, item in value.items()}
    return [_beside(item, beside) for item in value] if isinstance(value, list | tuple) else beside(value)
