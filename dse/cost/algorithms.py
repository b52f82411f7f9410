"""Collective algorithms on one network dimension."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dse.cost.arrays import Array

# An algorithm is a function of the number of ranks n in the dimension. ``load`` is what each device sends, as a
# multiple of the buffer that enters the dimension; ``steps`` is the number of latencies in a row.

Algorithm = Callable[[Array], tuple[Array, Array]]


def share(n: Array) -> Array:
    return (n - 1.0) / n


def _log2(n: Array) -> Array:
    return np.ceil(np.log2(np.maximum(n, 1.0)) - 1e-9)


REDUCE_SCATTER: dict[str, Algorithm] = {
    "ring": lambda n: (share(n), n - 1.0),
    "direct": lambda n: (share(n), np.minimum(n - 1.0, 1.0)),
    "halving_doubling": lambda n: (share(n), _log2(n)),
}
ALL_REDUCE: dict[str, Algorithm] = {
    "ring": lambda n: (2.0 * share(n), 2.0 * (n - 1.0)),
    "direct": lambda n: (2.0 * share(n), 2.0 * np.minimum(n - 1.0, 1.0)),
    "halving_doubling": lambda n: (2.0 * share(n), 2.0 * _log2(n)),
    # Two trees carry half of the buffer each, up and down: every device passes on the whole buffer twice.
    "double_binary_tree": lambda n: (2.0 * np.minimum(n - 1.0, 1.0), 2.0 * _log2(n)),
    # The switch adds: one copy up, one down.
    "in_network": lambda n: (np.minimum(n - 1.0, 1.0), 2.0 * np.minimum(n - 1.0, 1.0)),
}
BROADCAST: dict[str, Algorithm] = {
    "ring": lambda n: (np.minimum(n - 1.0, 1.0), n - 1.0),
    "direct": lambda n: (np.minimum(n - 1.0, 1.0), _log2(n)),
    "halving_doubling": lambda n: (np.minimum(n - 1.0, 1.0), _log2(n)),
    "in_network": lambda n: (np.minimum(n - 1.0, 1.0), 2.0 * np.minimum(n - 1.0, 1.0)),
}
REGISTRY: dict[str, dict[str, Algorithm]] = {
    "all_reduce": ALL_REDUCE,
    "reduce_scatter": REDUCE_SCATTER,
    "all_gather": REDUCE_SCATTER,  # the same steps in reverse
    "broadcast": BROADCAST,
}
# In these a device's own share goes from one buffer to another on the device itself.
WITH_OWN_SHARE = ("all_reduce", "reduce_scatter", "all_gather", "all_to_all")
PAIRWISE = ("point_to_point", "all_to_all")  # a message from each device to each other
CLOSED = ("ring", "direct", "halving_doubling", "double_binary_tree")  # that have a formula here
AUTOMATIC = {"ring": "ring", "torus": "ring", "mesh": "ring", "fully_connected": "direct", "switch": "halving_doubling"}


def all_to_all_load(topology: str, n: Array, bidirectional: Array) -> Array:
    """What a link-limited dimension carries per device in an all-to-all of one buffer, as a multiple of it.

    Switches and full meshes send (n−1)/n. On a ring the shortest path spreads both ways: n/4 (n odd: (n²−1)/4n);
    one-way (n−1)/2; a line's middle link, at half the device's bandwidth, carries n/2.
    """
    if topology in ("switch", "fully_connected"):
        return share(n)
    if topology == "mesh":
        return 2.0 * np.floor(n / 2.0) * np.ceil(n / 2.0) / n
    ring = np.floor(n * n / 4.0) / n
    return np.where(bidirectional, ring, (n - 1.0) / 2.0)
