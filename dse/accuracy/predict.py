"""Predictions for the rows of a table of runs, one a row, with what they rest on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.accuracy import features
from dse.accuracy.corpus import Batch, batches
from dse.accuracy.memory import SPREAD
from dse.explore.evaluate import price

if TYPE_CHECKING:
    import pandas as pd

TUNED = ("micro_batch", "virtual_stages")  # what people choose for speed, among what fits
LIKELY = 0.1  # an alternative less probable than this does not widen the interval


def predictions(frame: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str]]:
    """Predicted step time and peak memory of every row that can be expressed.

    Where a row leaves something blank, the designs it may stand for are weighed: sizes chosen for speed are taken to
    be the fastest that fit, recomputation to be the least that fits. The most probable design gives the prediction
    and the others its ``spread``.

    Returns:
        One row an id: ``time`` [s], ``memory`` [B], ``fits`` (probability), ``spread`` (low and high factors of the
        time among plausible designs), shares of the time and features of the design; and the refused rows' reasons.
    """
    found, refused = batches(frame)
    return from_batches(found), refused


def from_batches(
    found: Sequence[Batch], specs: Sequence[Mapping[str, Any]] | None = None, *, memory: bool = True
) -> pd.DataFrame:
    """Predictions of batches, optionally with other specifications in their place (during a fit)."""
    import pandas as pd

    parts = [_priced(batch, batch.specs if specs is None else specs[i], memory) for i, batch in enumerate(found)]
    if not parts:
        return pd.DataFrame({"id": [], "time": [], "memory": [], "fits": []})
    return _one_each(pd.concat(parts, ignore_index=True)).set_index("id", drop=False)


def _priced(batch: Batch, specs: Mapping[str, Any], memory: bool) -> pd.DataFrame:
    import pandas as pd
    from scipy.stats import norm

    size = (len(batch.ids),)
    evaluation = price(dict(specs), devices_given=True)
    columns: dict[str, Any] = {"id": batch.ids, "time": np.broadcast_to(evaluation["step_time"], size)}
    held = np.broadcast_to(evaluation["memory_bytes"], size) if memory else np.zeros(size)
    capacity = np.broadcast_to(specs["cluster"].accelerator.memory.capacity, size)
    columns["memory"] = held
    columns["fits"] = norm.cdf(np.log(capacity / held) / SPREAD) if memory else np.ones(size)
    columns.update(features.shares(evaluation, size))
    columns.update(features.describe(batch, evaluation))
    columns["chosen"] = [run.chosen for run in batch.runs]
    return pd.DataFrame(columns)


def _one_each(table: pd.DataFrame) -> pd.DataFrame:
    """The most probable design of each row, with the spread of the plausible ones."""
    low, high = np.ones(len(table)), np.ones(len(table))
    keep = np.ones(len(table), bool)
    repeated = table["id"].duplicated(keep=False).to_numpy()
    groups = table[repeated].groupby("id", sort=False).indices if repeated.any() else {}
    positions = np.flatnonzero(repeated)
    time = table["time"].to_numpy(float)
    for members in groups.values():
        rows = positions[members]
        weights = _weights(table.iloc[rows])
        best = rows[int(np.argmax(weights))]
        likely = rows[weights >= LIKELY]
        keep[rows] = False
        keep[best] = True
        low[best] = min(time[likely].min() / time[best], 1.0)
        high[best] = max(time[likely].max() / time[best], 1.0)
    return table.assign(spread_low=low, spread_high=high)[keep]


def _weights(group: pd.DataFrame) -> np.ndarray:
    """Probability of each design of one row."""
    chosen = list(group["chosen"])
    fits = group["fits"].to_numpy(float)
    time = group["time"].to_numpy(float)
    kinds = [str({k: v for k, v in c.items() if k not in TUNED}) for c in chosen]
    weights = np.zeros(len(group))
    left = 1.0
    for kind in dict.fromkeys(kinds):  # in the order of growing recomputation and sharding
        members = np.array([k == kind for k in kinds])
        usable = members & (fits >= min(0.5, fits[members].max()))
        fastest = np.flatnonzero(usable)[int(np.argmin(time[usable]))]
        weights[fastest] = left * fits[fastest]
        left -= weights[fastest]
    if weights.sum() <= 0:  # nothing fits: the one that needs the least memory
        weights[int(np.argmin(group["memory"].to_numpy(float)))] = 1.0
    return weights / weights.sum()
