"""Small helpers that work alike on single values and on arrays with named axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Array = Any


def select(key: Array, table: Mapping[Any, Array]) -> Array:
    """The table's entry for each key; keys may be one value or an array of values along an axis.

    Raises:
        KeyError: a key that the table does not hold.
    """
    if not isinstance(key, np.ndarray):
        return table[key]
    if key.ndim == 0:
        return table[key.item()]
    result: Array = None
    for value in dict.fromkeys(key.ravel().tolist()):
        entry = table[value]
        result = entry if result is None else np.where(key == value, entry, result)
    return result


def values_of(key: Array) -> list[Any]:
    """Distinct values of a key, in order."""
    return list(dict.fromkeys(np.asarray(key).ravel().tolist()))


def total(terms: Any) -> Array:
    """Sum of arrays of different axes, in the order given: a sum then has the same bits in a block of any shape."""
    result: Array = 0.0
    for term in terms:
        result = result + term
    return result


def safe_divide(a: Array, b: Array) -> Array:
    """a / b, and 0 where b is 0."""
    return np.divide(a, b, out=np.zeros(np.broadcast_shapes(np.shape(a), np.shape(b))), where=np.not_equal(b, 0))
