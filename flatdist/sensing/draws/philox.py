"""Philox4x32-10 in numpy (Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3").

One block turns a 128-bit counter and a 64-bit key into four 32-bit words. Here the counter is
``(block, 0, step, 0)``: ``step`` numbers the SGD step, the measurement or the layer, ``block`` counts groups of four
words within it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
WORDS_PER_BLOCK = 4

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_STEP0, _STEP1 = (np.uint64(step) for step in WEYL)


def philox4x32(counter: tuple[np.ndarray, ...], key: tuple[Any, Any]) -> tuple[np.ndarray, ...]:
    """One Philox4x32-10 block per counter.

    Args:
        counter: four arrays of one shape, each holding 32-bit words in uint64; overwritten.
        key: two 32-bit words, or two arrays of them that broadcast with the counters.

    Returns:
        Four uint64 arrays of that shape, each holding 32-bit words.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = (np.asarray(word, dtype=np.uint64) for word in key)
    m0, m1 = (np.uint64(multiplier) for multiplier in MULTIPLIERS)
    high = np.empty_like(c0)
    for _ in range(ROUNDS):  # in place, since a sample is many blocks
        c0 *= m0
        c2 *= m1
        c1 ^= np.right_shift(c2, _HALF, out=high)
        c1 ^= k0
        c3 ^= np.right_shift(c0, _HALF, out=high)
        c3 ^= k1
        c0 &= _LOW
        c2 &= _LOW
        c0, c1, c2, c3 = c1, c2, c3, c0
        k0, k1 = (k0 + _STEP0) & _LOW, (k1 + _STEP1) & _LOW
    return c0, c1, c2, c3


def words(key: Any, steps: np.ndarray, count: int) -> np.ndarray:
    """The first ``count`` words of each step.

    Args:
        key: two 32-bit words, or (streams, 2) of them.
        steps: (m,) non-negative integers below 2**32.
        count: words wanted per step.

    Returns:
        (m, count) uint32, or (streams, m, count).
    """
    blocks, key = -(-count // WORDS_PER_BLOCK), np.asarray(key, dtype=np.uint64)
    shape = (*key.shape[:-1], len(steps), blocks)
    c0, c1, c2, c3 = np.zeros((4, *shape), dtype=np.uint64)
    c0[...] = np.arange(blocks, dtype=np.uint64)
    c2[...] = np.asarray(steps, dtype=np.uint64)[:, None]
    output = np.empty((*shape, WORDS_PER_BLOCK), dtype=np.uint32)
    for word, values in enumerate(philox4x32((c0, c1, c2, c3), (key[..., :1, None], key[..., 1:, None]))):
        output[..., word] = values
    return output.reshape(*shape[:-1], -1)[..., :count]
