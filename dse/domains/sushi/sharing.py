"""Weights that networks of a SuperNet share, computed from which kernels and channels each of them has.

Once-for-All keeps kernels and channels sorted by importance, so that a narrower layer has the *first* of them and a
smaller kernel the *centre* of the larger one: what a network, or a SubGraph of one, has of a slot is told by three
numbers (kernels, channels, window). Sharing is the intersection of sets of kernels and channels; of first ones it is
the lesser number (:func:`shared`, :func:`core`, :func:`cached_weights`). Where that order does not hold,
:class:`WeightSets` names each kernel, channel and position, and intersects them as they are.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from dse.domains.sushi.layers import Layers
from dse.domains.sushi.supernet import SubNet
from dse.errors import Fault, SpecError

Windows = Literal["centre", "apart"]
"""How kernels of different size share.

``centre``: the smaller is the centre of the larger. ``apart``: it is other weights altogether. Once-for-All makes a
smaller kernel from the centre of the next larger one by a matrix that all channels of a layer share. Where the chip
applies that matrix the first holds, but for the matrix itself and the rim of the 5x5 that a 3x3 is made from, which are
not counted; where networks come ready for use, the second.
"""


class SubGraph(NamedTuple):
    """First kernels, first channels and centred windows of each slot, in the last axis; axes before it count SubGraphs.

    Attributes:
        k: kernels (output channels).
        c: channels that a kernel sees.
        r: height and width of the window.
    """

    k: np.ndarray
    c: np.ndarray
    r: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        """Number of weights of each slot, which is their bytes in INT8."""
        return self.k * self.c * self.r**2


Held = SubGraph | Layers | SubNet
"""What has weights."""


def held(of: Held) -> SubGraph:
    """The weights of a network or its layers as a SubGraph (a SubGraph as it is)."""
    if isinstance(of, SubGraph):
        return of
    layers = of.layers if isinstance(of, SubNet) else of
    return SubGraph(layers.k, layers.c, layers.r)


def stacked(subgraphs: list[SubGraph]) -> SubGraph:
    """SubGraphs one under the other [subgraph, slot]."""
    return SubGraph(*(np.stack(columns) for columns in zip(*subgraphs, strict=True)))


def nbytes(of: Held, bytes_per_weight: float = 1.0) -> np.ndarray:
    """Bytes of all slots together [...]; one byte a weight is INT8."""
    return held(of).weights.sum(axis=-1) * bytes_per_weight


def shared(first: Held, *others: Held, windows: Windows = "centre") -> SubGraph:
    """Weights that all have: of each slot the fewest kernels and channels and the smallest window.

    What :meth:`WeightSets.shared` finds weight by weight, for sets that are first kernels and channels.

    Args:
        first, others: of the same slots; leading axes broadcast.
        windows: ``apart`` lets kernels of different size share nothing.
    """
    common = held(first)
    for other in map(held, others):
        least = SubGraph(*(np.minimum(mine, its) for mine, its in zip(common, other, strict=True)))
        none = (least.weights == 0) | ((windows == "apart") & (common.r != other.r))
        common = SubGraph(*(np.where(none, 0, column) for column in least))
    return common


def core(of: Held, windows: Windows = "centre") -> SubGraph:
    """Weights that all networks of a stack [network, slot] share [slot]: the intersection of all their sets."""
    whole = held(of)
    return shared(*(SubGraph(*(column[i] for column in whole)) for i in range(whole.k.shape[0])), windows=windows)


def cached_weights(subnets: Held, subgraphs: Held, *, windows: Windows = "centre") -> np.ndarray:
    """Weights of each SubNet that each SubGraph holds.

    Args:
        subnets: a stack [i, slot] (see :func:`supernet.stack`).
        subgraphs: a stack [j, slot].
        windows: how kernels of different size share.

    Returns:
        Number of weights [i, j, slot].
    """
    rows, columns = held(subnets), held(subgraphs)
    kernels, channels, window = (
        np.minimum(row[..., :, None, :], column[..., None, :, :]) for row, column in zip(rows, columns, strict=True)
    )
    hit = kernels * channels * window**2
    return hit if windows == "centre" else np.where(rows.r[..., :, None, :] == columns.r[..., None, :, :], hit, 0)


def truncated(of: Held, budget: float, order: np.ndarray | None = None, *, bytes_per_weight: float = 1.0) -> SubGraph:
    """As much of a SubGraph as fits: slot after slot, and of the one that no longer fits whole the kernels that do.

    Args:
        of: what is cut [..., slot].
        budget: bytes.
        order: slots in the order in which they are taken [..., slot]; the order of the layers where not given.
        bytes_per_weight: 1 for INT8.

    Returns:
        The SubGraph: less than one kernel (of the slot where it was cut) below the budget, or all of ``of``.
    """
    if not budget >= 0:
        raise SpecError([Fault("budget", f"{budget!r}", "must be 0 bytes or more")])
    whole = held(of)
    slots = np.arange(whole.k.shape[-1]) if order is None else np.asarray(order)
    shape = np.broadcast_shapes(whole.k.shape, slots.shape)
    slots = np.broadcast_to(slots, shape)
    k, kernel = (np.broadcast_to(column, shape) for column in (whole.k, whole.c * whole.r**2))
    taken = np.take_along_axis(k * kernel, slots, axis=-1)
    before = np.empty(shape, dtype=np.int64)
    np.put_along_axis(before, slots, np.cumsum(taken, axis=-1) - taken, axis=-1)
    room = np.floor(budget / bytes_per_weight) - before
    kept = np.clip(room // np.maximum(kernel, 1), 0, k).astype(np.int64)
    return SubGraph(kept, *(np.where(kept > 0, column, 0) for column in (whole.c, whole.r)))


def vectors(of: Held) -> np.ndarray:
    """What SUSHI compares networks and SubGraphs by: K1, C1, ..., KN, CN of the N slots [..., 2N], 0 where absent."""
    whole = held(of)
    pairs = np.stack([whole.k, whole.c], axis=-1)
    return pairs.reshape(*pairs.shape[:-2], -1)


class WeightSets(NamedTuple):
    """Any kernels and any channels of each slot: boolean masks, the general case of a :class:`SubGraph`.

    Attributes:
        kernels: of each slot which kernels of the SuperNet [..., K].
        channels: which of their channels [..., C].
        window: which positions of the window, row by row [..., R * R].
    """

    kernels: tuple[np.ndarray, ...]
    channels: tuple[np.ndarray, ...]
    window: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, subgraph: Held, largest: Held) -> WeightSets:
        """The masks of first kernels, first channels and centred windows in a SuperNet with the slots ``largest``."""
        part, whole = held(subgraph), held(largest)
        slots = range(whole.k.shape[-1])
        return cls(
            tuple(np.arange(whole.k[s]) < part.k[..., s, None] for s in slots),
            tuple(np.arange(whole.c[s]) < part.c[..., s, None] for s in slots),
            tuple(_centre(part.r[..., s, None], int(whole.r[s])) for s in slots),
        )

    def shared(self, other: WeightSets) -> WeightSets:
        """The weights that both have; leading axes broadcast."""
        return WeightSets(
            *(tuple(a & b for a, b in zip(mine, its, strict=True)) for mine, its in zip(self, other, strict=True))
        )

    @property
    def weights(self) -> np.ndarray:
        """Number of weights of each slot [..., slot]."""
        counts = [[mask.sum(axis=-1) for mask in masks] for masks in self]
        return np.stack([k * c * r for k, c, r in zip(*counts, strict=True)], axis=-1)

    def cached(self, subgraphs: WeightSets) -> np.ndarray:
        """Weights of each of these networks [i] that each SubGraph [j] holds [i, j, slot]."""
        both = [
            [mine.astype(float) @ its.T.astype(float) for mine, its in zip(masks, theirs, strict=True)]
            for masks, theirs in zip(self, subgraphs, strict=True)
        ]
        return np.stack([k * c * r for k, c, r in zip(*both, strict=True)], axis=-1).astype(np.int64)


def _centre(size: np.ndarray, largest: int) -> np.ndarray:
    """Mask [..., largest * largest] of a centred square window."""
    distance = np.abs(np.arange(largest) - (largest - 1) / 2)
    side = distance < size / 2
    return (side[..., :, None] & side[..., None, :]).reshape(*size.shape[:-1], -1)
