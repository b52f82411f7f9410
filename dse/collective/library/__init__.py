"""Known algorithms, on any topology: what a synthesized schedule is compared with."""

from dse.collective.library.base import Algorithm
from dse.collective.library.dimensions import BLUECONNECT, THEMIS
from dse.collective.library.flat import BIDIRECTIONAL, BRUCK, DIRECT, DOUBLE_BINARY_TREE, HALVING_DOUBLING, RING
from dse.collective.library.multitree import MULTITREE

ALGORITHMS = (
    RING, BIDIRECTIONAL, DIRECT, HALVING_DOUBLING, DOUBLE_BINARY_TREE, BRUCK, BLUECONNECT, THEMIS, MULTITREE,
)  # fmt: skip
LIBRARY: dict[str, Algorithm] = {algorithm.name: algorithm for algorithm in ALGORITHMS}


def names(collective: str) -> list[str]:
    """Algorithms that exist for the collective."""
    return [name for name, algorithm in LIBRARY.items() if algorithm.does(collective)]
