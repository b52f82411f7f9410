"""Which streams make it worth while to follow them with the cache, by their persistence and the size of the buffer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dse.domains.sushi.problem import machine, priced, stream
from dse.domains.sushi.serve import serve

if TYPE_CHECKING:
    import pandas as pd

    from dse.domains.sushi.supernet import SubNet

MIB = 2.0**20
BUFFERS = tuple(m * MIB for m in (1.6875, 3.375, 5.0, 8.0, 12.0, 16.0))
STAYS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999)


def break_even(
    subnets: Sequence[SubNet], accelerator: Any = "sushi-roofline", *, buffers: Sequence[float] = BUFFERS,
    stays: Sequence[float] = STAYS, windows: Sequence[int] = (8,), caching: Sequence[str] = ("average", "oracle"),
    policy: str = "strict-accuracy", loading: str = "blocking", queries: int = 4000, count: int = 32, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Serve streams of more and more persistent demands with larger and larger buffers.

    Args:
        stays: probability that a query's demand is of the regime of the last one's (see ``streams.markov``).
        windows: queries between decisions of what to cache.
        caching: the rules that are held against none and against the best SubGraph that never changes.
        loading: ``blocking``: a change of the SubGraph costs its time, which the latency of a query contains.

    Returns:
        Columns ``caching``, ``window``, ``buffer`` (B), ``persistence``, ``response`` (s, mean with waiting for loads),
        ``loads`` (a query), and ``saving`` and ``over_static`` as fractions of the mean response without a SubGraph and
        with the best one in hindsight. Negative: following the stream costs more than it saves.
    """
    import pandas as pd

    rows = []
    for size in buffers:
        table = priced(machine(accelerator, buffer=size), subnets, count=count, seed=seed)
        for stay in stays:
            asked = stream(table, "markov", queries, seed=seed, stay=stay)
            none, static = (
                serve(table, asked, policy=policy, caching=kind).response.mean() for kind in ("none", "static")
            )
            for window in windows:
                for kind in caching:
                    done = serve(table, asked, policy=policy, caching=kind, window=window, loading=loading)
                    mean = done.response.mean()
                    rows.append(
                        {"caching": kind, "window": window, "buffer": size, "persistence": stay, "response": mean,
                         "loads": len(done.loaded) / queries, "saving": 1 - mean / none,
                         "over_static": 1 - mean / static}
                    )  # fmt: skip
    return pd.DataFrame(rows)
