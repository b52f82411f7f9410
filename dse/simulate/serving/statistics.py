"""What a log of jobs says: waits, percentiles, how busy servers were; the run-in is left out, the error estimated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dse.simulate.serving.network import Log

PERCENTILES = (50, 95, 99)


def summarise(log: Log, *, servers: int = 1, warm: float = 0.1, batches: int = 20) -> dict[str, float]:
    """Numbers of a log, in s.

    Args:
        log: of one station.
        servers: that it has, for ``utilisation``.
        warm: share of the jobs that comes first and is not counted, as the line was empty before them.
        batches: so many means, one after the other, tell the standard error of the whole one (``wait_error``).

    Returns:
        ``jobs``, ``dropped`` (share), ``wait`` and ``response`` (means), ``wait_error``, ``response_p50`` and so on,
        ``queue`` (mean number that waits), ``throughput`` (1/s), ``utilisation``.
    """
    from dse.simulate.serving.network import DROPPED, SERVED

    order = np.argsort(log.ready.ravel(), kind="stable")
    order = order[int(warm * len(order)) :]
    ready, start, finish, outcome = (
        getattr(log, name).ravel()[order] for name in ("ready", "start", "finish", "outcome")
    )
    done = outcome == SERVED
    result = {"jobs": float(len(order)), "dropped": float((outcome == DROPPED).mean()) if len(order) else np.nan}
    if not done.any():
        return result
    waits, responses = (start - ready)[done], (finish - ready)[done]
    span = float(finish[done].max() - ready[done].min())
    means = [part.mean() for part in np.array_split(waits, min(batches, len(waits)))]
    error = float(np.std(means, ddof=1) / np.sqrt(len(means))) if len(means) > 1 else np.nan
    result |= {"wait": float(waits.mean()), "wait_error": error, "response": float(responses.mean())}
    result |= {
        f"response_p{p}": float(v) for p, v in zip(PERCENTILES, np.percentile(responses, PERCENTILES), strict=True)
    }
    rate = float(done.sum()) / span if span else np.nan
    busy = float((finish - start)[done].sum()) / (span * servers) if span else np.nan
    return result | {"queue": rate * result["wait"], "throughput": rate, "utilisation": busy}
