"""Does the model choose well: agreement of rankings, and regret of the pick, inside sweeps of one question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

# Runs that agree in these answer the same question: which layout for this model on this machine?
QUESTION = ("source_key", "gpu", "n_gpus", "layers", "hidden", "vocab", "seq_len", "precision")
WIDER = ("source_key", "gpu", "n_gpus", "layers", "hidden", "vocab")  # where the narrow question has no sweeps
LEAST = 3  # runs that make a sweep
CLEAR = 0.02  # pairs closer than this are a draw: repeated measurements differ by more


@dataclass(frozen=True)
class Ranking:
    """Agreement and regret of one publication's sweeps.

    Attributes:
        sweeps: how many there are.
        pairs: pairs of runs whose measured throughput differs by more than 2 %.
        agreement: share of these pairs that are predicted in the same order.
        regret: how much longer the run that is predicted fastest takes than the fastest one, mean over sweeps.
        worst_regret: the largest of these.
    """

    sweeps: int
    pairs: int
    agreement: float
    regret: float
    worst_regret: float


def rankings(table: pd.DataFrame) -> dict[str, Ranking]:
    """By publication.

    Args:
        table: a row a run: the columns of ``QUESTION``, ``global_batch``, ``measured`` and ``predicted`` seconds.
    """
    known = table[(table["measured"] > 0) & (table["predicted"] > 0)]
    found: dict[str, list[tuple[int, int, float]]] = {}
    for source, rows in known.groupby("source_key", sort=True):
        sweeps = _sweeps(rows, QUESTION) or _sweeps(rows, WIDER)
        for measured, predicted in sweeps:
            pairs = (*_agreement(measured, predicted), _regret(measured, predicted))
            found.setdefault(str(source), []).append(pairs)
    result = {}
    for source, sweeps in found.items():
        pairs, right, regrets = (np.array(column, float) for column in zip(*sweeps, strict=True))
        share = float(right.sum() / pairs.sum()) if pairs.sum() else 1.0
        result[source] = Ranking(len(sweeps), int(pairs.sum()), share, float(regrets.mean()), float(regrets.max()))
    return result


def _sweeps(rows: pd.DataFrame, question: tuple[str, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Measured and predicted seconds a token of each sweep; repeated measurements of one design become one."""
    keys = [name for name in question if name in rows.columns]
    found = []
    for _, sweep in rows.groupby(keys, dropna=False, sort=True):
        tokens = (sweep["global_batch"] * sweep["seq_len"]).to_numpy(float)
        per_token = sweep[["measured", "predicted"]].div(np.where(np.isfinite(tokens), tokens, 1.0), axis=0)
        design = per_token["predicted"].round(15)
        medians = per_token.groupby(design).median()
        if len(medians) >= LEAST:
            found.append((medians["measured"].to_numpy(float), medians["predicted"].to_numpy(float)))
    return found


def _agreement(measured: np.ndarray, predicted: np.ndarray) -> tuple[int, int]:
    """Pairs that differ, and those of them that are ordered alike."""
    i, j = np.triu_indices(len(measured), 1)
    truth = np.log(measured[i] / measured[j])
    clear = np.abs(truth) > CLEAR
    return int(clear.sum()), int(np.sum(np.sign(truth) == np.sign(np.log(predicted[i] / predicted[j])), where=clear))


def _regret(measured: np.ndarray, predicted: np.ndarray) -> float:
    return float(measured[int(np.argmin(predicted))] / measured.min() - 1.0)
