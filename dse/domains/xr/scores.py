"""Scores of XR runs: real time, energy, user experience, and what they come to, as published or as the paper has it.

Re-derived from the artifact's scoring module and plot script. Of a model with n frames logged, d of them dropped, and
``rt * en`` summed over the others: model score = sum / n * (1 - d / n). The paper's own form counts dropped frames once
and gives an inference an accuracy score too, which the artifact leaves out (recalled, not read: treat as unverified).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dse.domains.xr.conditions import Conditions
from dse.domains.xr.kernel import DROPPED, EN, ENERGY, LAST, LATE, LOGGED, PRODUCT, RT
from dse.domains.xr.models import code, full_name
from dse.domains.xr.published import Sums
from dse.errors import Fault, SpecError

if TYPE_CHECKING:
    import pandas as pd


class Scores(NamedTuple):
    """Scores from 0 to 1 of S systems and N seeds; of models that were never asked for not a number.

    Attributes:
        rt, en, ux: real time and energy, of what was executed, and share of frames not dropped [S, N, M].
        models: model scores [S, N, M].
        raw: mean over the models that were asked for [S, N].
        overall: the scenario's score [S, N].
        logged: models that were asked for [S, N].
        bars: means of rt, en and ux over the models as the published figures show them [3, S, N].
    """

    rt: np.ndarray
    en: np.ndarray
    ux: np.ndarray
    models: np.ndarray
    raw: np.ndarray
    overall: np.ndarray
    logged: np.ndarray
    bars: np.ndarray


def scores(sums: Sums, conditions: Conditions | None = None, *, accuracy: Mapping[str, float] | None = None) -> Scores:
    """Score runs.

    Args:
        accuracy: accuracy score of models, by code or name; 1 where not given, as published.
    """
    conditions = conditions or Conditions()
    values = sums.values
    n = values[..., LOGGED]
    ran = n - values[..., DROPPED]
    asked = n > 0
    rt, en = (np.divide(values[..., field], ran, out=np.zeros_like(n), where=ran > 0) for field in (RT, EN))
    ux = np.divide(ran, n, out=np.zeros_like(n), where=asked)
    # As published, the user experience counts twice: dropped frames are also in the n that the sum is divided by.
    each = np.divide(values[..., PRODUCT], n, out=np.zeros_like(n), where=asked)
    each = each * (ux if conditions.qoe == "twice" else 1.0) * _accuracy(sums, accuracy)
    logged = asked.sum(axis=-1)
    among = len(sums.scenario.tasks) if conditions.absent == "zero" else np.maximum(logged, 1)
    blank = np.where(asked, 1.0, np.nan)
    return Scores(
        rt * blank, en * blank, ux * blank, each * blank,
        each.sum(axis=-1) / np.maximum(logged, 1), each.sum(axis=-1) / among, logged,
        np.stack([part.sum(axis=-1) for part in (rt, en, ux)]) / among,
    )  # fmt: skip


def _accuracy(sums: Sums, accuracy: Mapping[str, float] | None) -> np.ndarray:
    given = {full_name(name): value for name, value in (accuracy or {}).items()}
    wrong = [Fault(f"accuracy.{name}", repr(v), "must be from 0 to 1") for name, v in given.items() if not 0 <= v <= 1]
    if wrong:
        raise SpecError(wrong)
    return np.array([given.get(name, given.get(full_name(code(name)), 1.0)) for name in sums.scenario.models])


def by_seed(sums: Sums, found: Scores) -> pd.DataFrame:
    """One row a system and seed: scores, power and drops.

    Columns: system, seed, models_logged, models_in_scenario, rt, en, ux, raw, overall, frames, dropped, late,
    energy [J], span [s] (until the last completion) and power [W].
    """
    import pandas as pd

    s, n = found.raw.shape
    counted = sums.values[..., [LOGGED, DROPPED, LATE]].sum(axis=2)
    energy = 1e-3 * sums.values[..., ENERGY].sum(axis=2)
    span = 1e-3 * sums.values[..., LAST].max(axis=2)
    columns = {
        "system": np.repeat(np.array(sums.systems), n), "seed": np.tile(sums.seeds, s),
        "models_logged": found.logged, "models_in_scenario": np.full((s, n), len(sums.scenario.tasks)),
        "rt": found.bars[0], "en": found.bars[1], "ux": found.bars[2], "raw": found.raw, "overall": found.overall,
        "frames": counted[..., 0].astype(int), "dropped": counted[..., 1].astype(int),
        "late": counted[..., 2].astype(int), "energy": energy, "span": span,
        "power": np.divide(energy, span, out=np.zeros_like(span), where=span > 0),
    }  # fmt: skip
    return pd.DataFrame({name: np.ravel(values) for name, values in columns.items()})


def by_model(sums: Sums, found: Scores) -> pd.DataFrame:
    """One row a system, seed and model that was asked for: frames, dropped, late, rt, en, ux, score, energy [J]."""
    import pandas as pd

    names = sums.scenario.models
    s, n, m = found.rt.shape
    frame = pd.DataFrame({
        "system": np.repeat(np.array(sums.systems), n * m), "seed": np.tile(np.repeat(sums.seeds, m), s),
        "model": np.tile(np.array(names), s * n),
        "frames": sums.values[..., LOGGED].ravel().astype(int),
        "dropped": sums.values[..., DROPPED].ravel().astype(int),
        "late": sums.values[..., LATE].ravel().astype(int), "rt": found.rt.ravel(), "en": found.en.ravel(),
        "ux": found.ux.ravel(), "score": found.models.ravel(), "sum_rt_en": sums.values[..., PRODUCT].ravel(),
        "energy": 1e-3 * sums.values[..., ENERGY].ravel(),
    })  # fmt: skip
    return frame[frame["frames"] > 0].reset_index(drop=True)
