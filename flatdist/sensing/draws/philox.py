"""Philox4x32-10 in numpy (Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3").

One block turns a 128-bit counter and a 64-bit key into four 32-bit words. Here the counter is
``(block, 0, step, 0)``: ``step`` numbers the SGD step, the measurement or the layer, ``block`` counts groups of four
words within it.
"""

from __future__ import annotations

import numpy as np

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
WORDS_PER_BLOCK = 4

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox4x32(counter: tuple[np.ndarray, ...], key: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """One Philox4x32-10 block per counter.

    Args:
        counter: four arrays of one shape, each holding 32-bit words in uint64.
        key: two 32-bit words.

    Returns:
        Four uint64 arrays of that shape, each holding 32-bit words.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    m0, m1 = (np.uint64(multiplier) for multiplier in MULTIPLIERS)
    for _ in range(ROUNDS):
        product0, product1 = m0 * c0, m1 * c2
        c0, c1, c2, c3 = (
            (product1 >> _HALF) ^ c1 ^ np.uint64(k0),
            product1 & _LOW,
            (product0 >> _HALF) ^ c3 ^ np.uint64(k1),
            product0 & _LOW,
        )
        k0, k1 = (k0 + WEYL[0]) & 0xFFFFFFFF, (k1 + WEYL[1]) & 0xFFFFFFFF
    return c0, c1, c2, c3


def words(key: tuple[int, int], steps: np.ndarray, count: int) -> np.ndarray:
    """The first ``count`` words of each step.

    Args:
        key: two 32-bit words.
        steps: (m,) non-negative integers below 2**32.
        count: words wanted per step.

    Returns:
        (m, count) uint32.
    """
    steps = np.asarray(steps, dtype=np.uint64)
    blocks = -(-count // WORDS_PER_BLOCK)
    shape = (len(steps), blocks)
    zero = np.zeros(shape, dtype=np.uint64)
    block = np.broadcast_to(np.arange(blocks, dtype=np.uint64), shape)
    step = np.broadcast_to(steps[:, None], shape)
    output = np.stack(philox4x32((block, zero, step, zero), key), axis=-1)  # (m, blocks, 4)
    return output.reshape(len(steps), -1)[:, :count].astype(np.uint32)
