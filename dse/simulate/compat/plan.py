"""From a collective to chunks and phases: sizes, order of the dimensions (Themis too), algorithm in each."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from dse.errors import Fault, SpecError
from dse.simulate.compat import layout as L
from dse.simulate.formats import Network, System

Phase = tuple[int, int, int, int, int, int, int, int, int]
MIB = 1 << 20


@dataclass(frozen=True)
class Ring:
    """One logical dimension: n NPUs, ``stride`` apart (0: a communicator group), and the algorithm on it."""

    n: int
    stride: int
    algo: int
    window: int


@dataclass
class Plan:
    """The chunks of a collective, each a list of phases (columns ``X_*``); ``variants`` where it depends on a turn."""

    chunks: list[list[Phase]] = field(default_factory=list)


def algorithm(text: str) -> tuple[int, int, bool]:
    """What a name of ASTRA-sim stands for: (algorithm, window or -1, whether it flattens all dimensions to one)."""
    one = text.startswith("one")
    name = text[3:4].lower() + text[4:] if one else text
    if name.startswith("direct"):
        return L.DIRECT, int(name[6:11]) if name[6:] else -1, one
    return {"ring": L.RING, "halvingDoubling": L.HALVING, "doubleBinaryTree": L.TREE}[name], -1, one


def rings(network: Network, names: tuple[str, ...]) -> list[Ring]:
    """The logical dimensions of a collective over all NPUs."""
    out, stride = [], 1
    for n, text in zip(network.npus_count, names, strict=False):
        algo, window, one = algorithm(text)
        if one:
            out.append(Ring(network.npus, 1, algo, window))
            break
        out.append(Ring(n, stride, algo, window))
        stride *= n
    return out


def group_ring(system: System, comm: int, size: int) -> list[Ring]:
    """The logical dimension of a group: with more than one dimension ASTRA-sim falls back to a ring."""
    names = system.implementation(comm)
    algo, window, _ = algorithm(names[0]) if len(names) == 1 else (L.RING, -1, False)
    return [Ring(size, 0, algo, window)]


def after(ring: Ring, comm: int, data: int) -> int:
    """Bytes that a phase leaves at each NPU."""
    if ring.algo == L.TREE:
        return data
    return data * ring.n if comm == L.AG else data // ring.n if comm == L.RS else data


def chunk_size(size: int, comm: int, splits: int, npus: int) -> tuple[int, int]:
    """Bytes of a chunk and of the collective: no chunk is smaller than a byte an NPU, except in an all-gather."""
    chunk = size // splits
    if comm != L.AG and npus > chunk:
        return npus, splits * npus
    if chunk == 0 < size:
        raise SpecError([Fault("comm_size", str(size), f"must be at least preferred-dataset-splits ({splits}) bytes")])
    return chunk, size


class _Chunk:
    """The phases of one chunk while they are put together."""

    def __init__(self, dims: list[Ring], kind: int, size: int) -> None:
        self.dims, self.kind, self.size = dims, kind, size
        self.phases: list[Phase] = []

    def add(self, dim: int, how: int, comm: int) -> None:
        ring = self.dims[dim]
        if ring.algo == L.HALVING and comm == L.A2A:
            raise SpecError([Fault("all-to-all-implementation", "halvingDoubling", "cannot do an all-to-all")])
        if ring.algo == L.TREE and (ring.n & (ring.n - 1) or not ring.stride):
            raise SpecError(
                [Fault("implementation", "doubleBinaryTree", f"needs 2^k NPUs of a dimension, not {ring.n} of a group")]
            )
        self.phases.append((dim, how, comm, ring.algo, ring.window, ring.stride, ring.n, self.size, self.kind))
        self.size = after(ring, comm, self.size)


def _phases(dims: list[Ring], order: list[int], takes: list[bool], comm: int, size: int, system: System) -> list[Phase]:
    """The phases of one chunk that visits the dimensions in ``order``."""
    out = _Chunk(dims, comm, size)
    active = [d for d in order if dims[d].n > 1 and takes[d]]
    if comm != L.AR or system.collective_optimization == "baseline":
        for d in active:
            out.add(d, L.ANY, comm)
        return out.phases
    last = [] if system.greedy else active[-1:]
    down = active if system.greedy else active[:-1]
    for d in down:
        out.add(d, L.FIRST, L.RS)
    for d in last:
        out.add(d, L.FIRST, L.AR)
    for d in reversed(down):
        out.add(d, L.LAST, L.AG)
    return out.phases


def make(
    dims: list[Ring], takes: list[bool], comm: int, size: int, npus: int, system: System, network: Network
) -> list[Plan]:
    """The plans of a collective: one, or one for each turn where dimensions are taken in turn.

    Args:
        dims: the logical dimensions.
        takes: whether each takes part.
        comm: ``AR``, ``AG``, ``RS`` or ``A2A``.
        size: ``comm_size`` in bytes: what each NPU holds before; for an all-gather the part that each contributes.
        npus: NPUs of the network, the least bytes of a chunk.
        system: sizes and orders. network: bandwidths, for the greedy order.
    """
    chunk, size = chunk_size(size, comm, system.preferred_dataset_splits, npus)
    order = list(range(len(dims)))
    if comm == L.AG:
        order.reverse()
    # A group's single logical dimension leaves nothing to schedule.
    if system.greedy and comm != L.A2A and len(dims) == len(network.npus_count):
        themis = Themis(network, system.inter_dimension_scheduling == "offlineGreedyFlex")
        plan = Plan()
        while size > 0:
            order, part = themis.order(size, chunk, takes, comm)
            size -= part
            plan.chunks.append(_phases(dims, order, takes, comm, part, system))
            if not plan.chunks[-1]:
                break
        return [plan]
    count = math.ceil(size / chunk) if size else 0
    if system.inter_dimension_scheduling != "roundRobin" or len(dims) == 1:
        return [Plan([_phases(dims, order, takes, comm, chunk, system)] * count)]
    plans = []
    for turn in range(len(dims)):
        plan = Plan()
        for k in range(count):
            at = (turn + k) % len(dims)
            plan.chunks.append(_phases(dims, order[at:] + order[:at], takes, comm, chunk, system))
        plans.append(plan)
    return plans


class Themis:
    """The greedy order of Themis (Rashidi et al., ISCA 2022), as ASTRA-sim has it: the least loaded dimension first.

    Loads are in MiB / relative bandwidth. Where the loads differ by less than a sixteenth of a chunk (for chunks of
    free size: by less than one) the chunk goes through the dimensions in ascending order.
    """

    def __init__(self, network: Network, flex: bool) -> None:
        self.sizes = list(network.npus_count)
        self.speed = [b / network.bytes_per_ns[0] for b in network.bytes_per_ns]
        self.flex = flex
        self.loads = [[d, 0.0] for d in range(len(self.sizes))]

    def _charge(self, entry: list, chunk: int, scatter: bool) -> int:
        """Add a chunk to the load of a dimension; the size of what goes on."""
        n = self.sizes[entry[0]]
        share = (n - 1) / n if scatter else float(n - 1)
        entry[1] += chunk / MIB * share / self.speed[entry[0]]
        return chunk // n if scatter else chunk * n

    def _size_of(self, load: float, dim: int, scatter: bool) -> int:
        n = self.sizes[dim]
        share = (n - 1) / n if scatter else float(n - 1)
        return int(load * self.speed[dim] / share * MIB)

    def _gap(self, first: int, takes: list[bool], scatter: bool) -> int:
        """Bytes of the chunk that would level the loads."""
        if scatter:
            return self._size_of(abs(self.loads[-1][1] - self.loads[first][1]), self.loads[first][0], True)
        last = len(self.loads) - 1
        while not self._in(self.loads[last][0], takes):
            last -= 1
        gap = self._size_of(abs(self.loads[last][1] - self.loads[first][1]), self.loads[last][0], False)
        for k in range(last - 1, first - 1, -1):
            if self._in(self.loads[k][0], takes):
                gap //= self.sizes[self.loads[k][0]]
        return gap

    def _in(self, dim: int, takes: list[bool]) -> bool:
        return takes[dim] and self.sizes[dim] > 1

    def order(self, left: int, chunk: int, takes: list[bool], comm: int) -> tuple[list[int], int]:
        """Order of the dimensions and size of the next chunk, of ``left`` bytes."""
        scatter = comm in (L.AR, L.RS)
        self.loads.sort(key=lambda entry: entry[1])
        if not scatter:
            self.loads.reverse()
        first = next((k for k, entry in enumerate(self.loads) if self._in(entry[0], takes)), None)
        part = min(left, chunk)
        going = chunk
        if first is not None:
            gap = self._gap(first, takes, scatter)
            if gap < (chunk if self.flex else chunk // 16):
                going = part if self.flex else chunk
                self.loads.sort(key=lambda entry: entry[0])
                if not scatter:
                    self.loads.reverse()
                # For a gather the loads are turned round, but sizes and speeds still read by place.
                for place in range(len(self.loads)):
                    if self._in(place, takes):
                        going = self._charge_at(place, going, scatter)
                return list(range(len(self.loads))), part
            if self.flex:
                going, part = gap, min(left, gap)
        for entry in self.loads:
            if self._in(entry[0], takes):
                going = self._charge(entry, going, scatter)
        return [entry[0] for entry in self.loads], part

    def _charge_at(self, place: int, chunk: int, scatter: bool) -> int:
        n = self.sizes[place]
        share = (n - 1) / n if scatter else float(n - 1)
        self.loads[place][1] += chunk / MIB * share / self.speed[place]
        return chunk // n if scatter else chunk * n
