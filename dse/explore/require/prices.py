"""Prices of resources: per unit on one device, and of a device where their number varies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.explore.require.field import Field, full_path
from dse.explore.require.problem import Problem
from dse.units import UnitError, parse

DEVICES = "cluster.devices"


def unit_prices(prices: Any, fields: tuple[Field, ...]) -> list[float] | None:
    """US dollars per SI unit of each field on one device (of a device, where their number varies); None without prices.

    Raises:
        SpecError: a price that is missing, negative, of another unit, or of a field that does not vary.
    """
    if prices is None:
        return None
    if not isinstance(prices, Mapping):
        raise SpecError([Fault("prices", repr(prices)[:60], 'must map fields to prices such as "100 USD/(GB/s)"')])
    named = {full_path(str(name)): value for name, value in prices.items()}
    paths = [f.path for f in fields]
    for path in named:
        if path not in paths:
            raise SpecError([Fault(f"prices.{path[:80]}", "", f"does not vary; {' and '.join(paths)} do")])
    return [_price_of(f, named) for f in fields]


def _price_of(item: Field, named: Mapping[str, Any]) -> float:
    path = f"prices.{item.path}"
    if item.path not in named:
        raise SpecError([Fault(path, "", "is required too: the price of one unit on one device")])
    value = named[item.path]
    try:
        price = parse(value, "USD" if item.unit == "1" else f"USD/({item.unit})")
    except UnitError as error:
        raise SpecError([Fault(path, repr(value)[:60], str(error))]) from None
    if price < 0:
        raise SpecError([Fault(path, repr(value)[:60], "must not be negative")])
    return price


def total(problem: Problem, dollars: list[float], points: np.ndarray) -> np.ndarray:
    """Cost of the resources of all devices at points (fields, n): (n,) USD."""
    each: Any = 0.0
    devices: Any = float(problem.specs["cluster"].devices)
    for item, price, values in zip(problem.fields, dollars, points, strict=True):
        if item.path == DEVICES:
            each, devices = each + price, values
        else:
            each = each + price * values
    return each * devices
