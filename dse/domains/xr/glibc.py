"""The random numbers of glibc's ``rand()``: an additive feedback generator (its TYPE_3), for runs to repeat bit by bit.

Re-derived from public accounts of the generator: 31 words from a multiplicative congruence, then each word is the sum
of those 3 and 31 places back, of which the lowest bit is not shown.
"""

from __future__ import annotations

import numpy as np

from dse.jit import njit

WORDS = 31
RAND_MAX = 2**31 - 1
_DISCARDED = 310


@njit(cache=True)
def start(state: np.ndarray, seed: int) -> None:
    """Set ``state`` (uint32, 32 words: the ring and its position) as ``srand(seed)`` does."""
    word = np.int64(seed) % 2**32
    if word > RAND_MAX:  # the congruence works on signed words
        word -= np.int64(2**32)
    if word == 0:
        word = np.int64(1)
    for place in range(WORDS):
        state[place] = np.uint32(word & 0xFFFFFFFF)
        high = abs(word) // 127773 * (1 if word > 0 else -1)  # Schrage's step; division rounds towards zero
        word = 16807 * (word - 127773 * high) - 2836 * high
        if word < 0:
            word += RAND_MAX
    state[WORDS] = 3
    for _ in range(_DISCARDED):
        draw(state)


@njit(cache=True)
def draw(state: np.ndarray) -> int:
    """The next ``rand()``: a whole number from 0 to ``RAND_MAX``."""
    place = np.int64(state[WORDS])
    back = place + WORDS - 3
    if back >= WORDS:
        back -= WORDS
    state[place] = state[place] + state[back]
    state[WORDS] = place + 1 if place + 1 < WORDS else 0
    return np.int64(state[place] >> np.uint32(1))


def rand(seed: int, count: int) -> np.ndarray:
    """The first ``count`` numbers after ``srand(seed)``, int64."""
    state = np.zeros(WORDS + 1, dtype=np.uint32)
    start(state, seed)
    return np.array([draw(state) for _ in range(count)], dtype=np.int64)
