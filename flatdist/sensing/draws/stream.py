"""Named random streams: what a key is made of, and how words become indices, signs and normals."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from flatdist.sensing.draws.philox import words

# What a stream is for; each purpose of each replicate has a key of its own.
MEASUREMENTS = "measurements"
GROUND_TRUTH = "ground_truth"
SPECTRAL_TAIL = "spectral_tail"
OBSERVATION_NOISE = "observation_noise"
INITIALISATION = "initialisation"
BATCH = "batch"
LABEL_NOISE = "label_noise"
PROBE = "probe"


def stream_key(name: str, replicate: int, purpose: str) -> tuple[int, int]:
    """The 64-bit Philox key of a stream, as two 32-bit words.

    Args:
        name: what is random, a canonical text such as ``Cell.problem_stream()``.
        replicate: number of the replicate.
        purpose: one of this module's constants.
    """
    digest = hashlib.blake2b(f"{name}|{replicate}|{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


@dataclass(frozen=True)
class Stream:
    """An infinite table of 32-bit words, row ``step``, column ``slot``; any part of it can be read at any time.

    Draws of row t, column j come from words of row t only, so a longer row starts with the shorter one
    (for normals: where the shorter length is even).
    """

    key: tuple[int, int]

    @classmethod
    def named(cls, name: str, replicate: int, purpose: str) -> Stream:
        """The stream of one purpose of one replicate."""
        return cls(stream_key(name, replicate, purpose))

    def indices(self, steps: np.ndarray, count: int, bound: int) -> np.ndarray:
        """Uniform integers in [0, bound) by high multiply, (m, count) int64; bias below bound / 2**32."""
        return ((words(self.key, steps, count).astype(np.uint64) * np.uint64(bound)) >> np.uint64(32)).astype(np.int64)

    def signs(self, steps: np.ndarray, count: int) -> np.ndarray:
        """+1.0 or -1.0 from each word's highest bit, (m, count) float64."""
        return 1.0 - 2.0 * (words(self.key, steps, count) >> np.uint32(31)).astype(np.float64)

    def normals(self, steps: np.ndarray, count: int) -> np.ndarray:
        """Standard normals of :func:`normals`, (m, count) float64."""
        return normals(self.key, steps, count)

    def permutation(self, size: int) -> np.ndarray:
        """A uniform permutation of 0 .. size-1, (size,) int64, from row 0: the order of 64-bit keys, one per number.

        It is drawn whole, so it does not depend on how much of it is used. Two equal keys, of odds size^2 / 2^65, stay
        in the order of their numbers.
        """
        halves = words(self.key, np.array([0]), 2 * size)[0].astype(np.uint64)
        return np.argsort(halves[0::2] << np.uint64(32) | halves[1::2], kind="stable")


def normals(key: Any, steps: np.ndarray, count: int) -> np.ndarray:
    """Standard normals by Box and Muller's transform of word pairs, (m, count) float64, or (streams, m, count).

    Words (u, v) become r cos(t), r sin(t) with r^2 = -2 log((u + 1/2) / 2^32) and t = 2 pi (v + 1/2) / 2^32.

    Args:
        key: of a stream, or (streams, 2) of several.
        steps: (m,) rows of the table.
        count: normals of each.
    """
    pairs = -(-count // 2)
    uniform = words(key, steps, 2 * pairs).astype(np.float64)  # (..., m, 2 pairs)
    uniform += 0.5
    uniform *= 2.0**-32
    radius = np.log(uniform[..., 0::2])  # (..., m, pairs)
    radius *= -2.0
    np.sqrt(radius, out=radius)
    angle = (2.0 * np.pi) * uniform[..., 1::2]
    np.multiply(radius, np.cos(angle), out=uniform[..., 0::2])
    np.multiply(radius, np.sin(angle), out=uniform[..., 1::2])
    return uniform[..., :count]
