"""Maps over the constants of SUSHI that are not public: where the three numbers of its abstract are reached.

The abstract of arXiv 2306.17266 speaks of up to 25 % less latency, 78.7 % less off-chip energy and 0.98 points more
accuracy. Throughput, bandwidth, size of the persistent buffer, what hides behind what, how traffic is counted, which
SubGraphs may be cached and which queries come are not known well enough to repeat one experiment; here they are axes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.domains.sushi import sharing
from dse.domains.sushi.accelerator import ACCOUNTINGS, SubGraphAccelerator
from dse.domains.sushi.candidates import KINDS, named_candidates
from dse.domains.sushi.energy import traffic
from dse.domains.sushi.latency import layer_times, subnet_times
from dse.domains.sushi.layers import Layers
from dse.domains.sushi.problem import machine, priced, stream
from dse.domains.sushi.serve import serve
from dse.domains.sushi.supernet import SubNet, shortcuts_of, stack

if TYPE_CHECKING:
    import pandas as pd

MIB = 2.0**20
THROUGHPUTS = (0.1296e12, 0.324e12, 0.648e12, 1.296e12)  # multiply-adds a second
BANDWIDTHS = (3.36e9, 4.8e9, 9.6e9, 14.4e9, 19.2e9)  # B/s
BUFFERS = tuple(m * MIB for m in (1.6875, 2.5, 3.375, 5.0, 6.5, 8.0))
OVERLAPS = ("activations", "ping_pong", "all")
STREAMING = tuple(m * MIB for m in (0.125, 0.25, 0.5, 1.0, 2.0))  # buffers of input activations
SETS: dict[str, tuple[str, ...]] = {"cuts": ("cuts",), "shared": ("shared",), "all kinds": KINDS}
BEST = "best possible"  # no SubGraph of that size can save more


def latency_savings(
    subnets: Sequence[SubNet], accelerator: Any = "sushi-roofline", *, throughputs: Sequence[float] = THROUGHPUTS,
    bandwidths: Sequence[float] = BANDWIDTHS, buffers: Sequence[float] = BUFFERS,
    overlaps: Sequence[str] = OVERLAPS, count: int = 32, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """What caching saves of the latency, for every combination of the constants.

    Returns:
        Columns ``overlap``, ``candidates``, ``buffer`` (B), ``throughput`` (MAC/s), ``bandwidth`` (B/s) and, over the
        SubNets, each with the SubGraph that suits it best, ``latency_saving`` (the most), ``mean_saving`` and
        ``least_saving``: fractions of the latency without a SubGraph.
    """
    layers = stack(subnets)
    bare = np.zeros((len(subnets), 1, layers.k.shape[-1]))
    rows: list[pd.DataFrame] = []
    hits = {size: dict(_hits(subnets, size, count, seed)) for size in buffers}
    for overlap in overlaps:
        hardware = machine(
            accelerator, throughput=np.array(throughputs)[:, None], bandwidth=np.array(bandwidths), overlap=overlap
        )
        alone = subnet_times(hardware, layers, bare)[..., 0]
        for size in buffers:
            for name, cached in hits[size].items():
                quickest = subnet_times(hardware, layers, cached).min(axis=-1)
                rows.append(_square(1 - quickest / alone, throughputs, bandwidths, overlap, name, size))
            best = _most_time(hardware, layers, size) / alone
            rows.append(_square(best, throughputs, bandwidths, overlap, BEST, size))
    return _joined(rows)


def _hits(subnets: Sequence[SubNet], size: float, count: int, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Weights that hit [subnet, subgraph, slot] for each set of candidates."""
    for name, kinds in SETS.items():
        found = named_candidates(subnets, size, count, seed, kinds=kinds)
        yield name, sharing.cached_weights(stack(subnets), sharing.stacked(list(found.values())))


def _most_time(hardware: SubGraphAccelerator, layers: Layers, size: float) -> np.ndarray:
    """Time that no set of ``size`` bytes can save more of, by SubNet [hardware..., subnet].

    A byte of weights saves at most the time to fetch it, and a layer at most what it saves with all its weights cached.
    The first bound is met wherever fetching is exposed, so that together they are tight up to whole kernels (under
    ``ping_pong`` up to the first tile of each layer).
    """
    columns = Layers(*(column[..., None, :] for column in layers))
    bare = layer_times(hardware, columns, 0.0)
    whole = layer_times(hardware, columns, columns.weights)
    saved = (bare.total - whole.total).sum(axis=-1)[..., 0]
    fetched = np.where(columns.weights > 0, bare.weights / np.maximum(columns.weights, 1), 0.0).max(axis=-1)[..., 0]
    return np.minimum(saved, size * fetched)


def _square(
    saving: np.ndarray, throughputs: Any, bandwidths: Any, overlap: str, candidates: str, size: float
) -> pd.DataFrame:
    import pandas as pd

    t, b = (axis.ravel() for axis in np.meshgrid(throughputs, bandwidths, indexing="ij"))
    by_net = saving.reshape(-1, saving.shape[-1])
    columns: dict[str, Any] = {"overlap": overlap, "candidates": candidates, "buffer": size, "throughput": t}
    columns |= {"bandwidth": b, "latency_saving": by_net.max(axis=-1), "mean_saving": by_net.mean(axis=-1)}
    return pd.DataFrame(columns | {"least_saving": by_net.min(axis=-1)})


def _joined(rows: list[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat(rows, ignore_index=True)


def energy_savings(
    subnets: Sequence[SubNet], accelerator: Any = "sushi-roofline", *, buffers: Sequence[float] = BUFFERS,
    accountings: Sequence[str] = tuple(ACCOUNTINGS), streaming: Sequence[float] = STREAMING, count: int = 32,
    seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """What caching saves of the off-chip energy, which is that of the off-chip bytes whatever a byte costs.

    Throughput, bandwidth and overlap do not matter for it.

    Args:
        streaming: sizes of the streaming buffer (B), of which ``spilled`` depends; an input larger than all of it is
            read again for each tile of kernels. The other accountings keep the accelerator's own.

    Returns:
        Columns ``accounting``, ``candidates``, ``buffer`` (B), ``streaming`` (B, 0 but under ``spilled``), and
        ``energy_saving``, ``mean_saving``, ``least_saving`` over the SubNets as fractions.

    Raises:
        SpecError: ``residuals`` for SubNets that do not say which slots have shortcuts.
    """
    import pandas as pd

    base, layers = machine(accelerator), stack(subnets)
    wide = Layers(*(column[:, None, :] for column in layers))
    hits = {size: dict(_hits(subnets, size, count, seed)) for size in buffers}
    added = None if (slots := shortcuts_of(subnets)) is None else slots[:, None, :]

    def moved(room: float, cached: Any, accounting: str) -> np.ndarray:
        hardware = base.replace(streaming_buffer=room) if room else base
        return traffic(hardware, wide, cached, accounting=accounting, shortcuts=added).total.sum(axis=-1).min(axis=-1)

    rows = []
    for accounting, room in ((a, r) for a in accountings for r in (streaming if a == "spilled" else (0.0,))):
        alone = moved(room, 0.0, accounting)
        for size in buffers:
            left = {name: moved(room, cached, accounting) for name, cached in hits[size].items()}
            left[BEST] = alone - np.minimum(size, layers.weights.sum(axis=-1))
            for name, rest in left.items():
                saving = 1 - rest / alone
                rows.append(
                    {"accounting": accounting, "candidates": name, "buffer": size, "streaming": room,
                     "energy_saving": saving.max(), "mean_saving": saving.mean(), "least_saving": saving.min()}
                )  # fmt: skip
    return pd.DataFrame(rows)


def accuracy_gains(
    subnets: Sequence[SubNet], accelerator: Any = "sushi-roofline", *, throughputs: Sequence[float] = THROUGHPUTS,
    bandwidths: Sequence[float] = BANDWIDTHS, buffers: Sequence[float] = BUFFERS,
    overlaps: Sequence[str] = ("activations",), streams: Sequence[str] = ("random", "markov", "edge"),
    windows: Sequence[int] = (8,), queries: int = 2000, count: int = 32, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """What caching adds to the served accuracy under ``strict-latency``, against serving the same queries without.

    SubGraphs are of the kinds ``shared`` and ``cuts`` alone, which the other maps hold apart from all kinds.

    Returns:
        Columns ``overlap``, ``stream``, ``window``, ``buffer`` (B), ``throughput`` (MAC/s), ``bandwidth`` (B/s) and
        ``accuracy_gain`` as a difference of fractions (0.01: one point).
    """
    import pandas as pd

    rows = []
    points = [(o, p, t, b) for o in overlaps for p in buffers for t in throughputs for b in bandwidths]
    for overlap, size, rate, bandwidth in points:
        hardware = machine(accelerator, buffer=size, bandwidth=bandwidth, throughput=rate, overlap=overlap)
        table = priced(hardware, subnets, count=count, seed=seed, kinds=SETS["shared"] + SETS["cuts"])
        for kind in streams:
            asked = stream(table, kind, queries, seed=seed)
            none = serve(table, asked, policy="strict-latency", caching="none").accuracy.mean()
            for window in windows:
                kept = serve(table, asked, policy="strict-latency", window=window)
                rows.append(
                    {"overlap": overlap, "stream": kind, "window": window, "buffer": size, "throughput": rate,
                     "bandwidth": bandwidth, "accuracy_gain": kept.accuracy.mean() - none}
                )  # fmt: skip
    return pd.DataFrame(rows)
