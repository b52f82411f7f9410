"""What an analysis of sensitivity would price: it runs up to its points, and a few of them are timed."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from dse.errors import Fault, SpecError
from dse.explore.forecast import Forecast, Price, seconds_for
from dse.explore.result import Result

_planning: ContextVar[bool] = ContextVar("planning", default=False)


class _Planned(Exception):
    """Ends an analysis that is only planned, with the points that it was about to price."""

    def __init__(self, points: int, designs: int, price: Price) -> None:
        super().__init__(points, designs, price)
        self.points, self.designs, self.price = points, designs, price


def planning() -> bool:
    """Is an analysis only planned?"""
    return _planning.get()


def planned(points: int, designs: int, price: Price) -> None:
    """Where an analysis is about to price its points: goes no further if it is only planned."""
    if planning():
        raise _Planned(points, designs, price)


def forecast(analysis: Callable[..., Any], design: Result, *arguments: Any, **options: Any) -> Forecast:
    """What an analysis would price, such as ``forecast(sobol, design, factors, samples=4096, reoptimize=True)``.

    Every input is checked and the points are laid out as they will be; only some of them are priced, to tell the time.
    Statistics are not in it, nor the ladder of memory capacities of ``shadow_prices``, which goes once more through
    all strategies of the design.

    Args:
        analysis: ``tornado``, ``elasticities``, ``shadow_prices``, ``sobol``, ``morris``, ``discover`` or
            ``bottlenecks``.
        design: what it is of; all further arguments are the analysis' own.

    Raises:
        SpecError: what the analysis refuses.
    """
    token = _planning.set(True)
    try:
        analysis(design, *arguments, **options)
    except _Planned as plan:
        found = plan
    else:
        raise SpecError([Fault("analysis", getattr(analysis, "__name__", "")[:40], "prices no designs")])
    finally:
        _planning.reset(token)
    return Forecast(found.points, found.designs, seconds_for(found.points, found.designs, found.price))
