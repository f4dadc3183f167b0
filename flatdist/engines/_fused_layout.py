"""The fused engine's memory layout: one block of weights per replicate, one scratch buffer per thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from flatdist.engines._fused_vector import lanes_of
from flatdist.engines.base import TrainingTask
from flatdist.types import Array

# Positions in the integer table that the compiled step reads.
DEPTH, BATCH, BLOCKS, FILL_STEPS, LABEL_NOISE, FULL, WIDEST_GROUP, FLAT_M, FLAT_G, TRANSPOSED = range(10)
HERE, NEXT, COEFFICIENTS, NORMALS, AHEAD, GRADIENT, WEIGHTS_SIZE, SQUARES = range(10, 18)
COPIED, DRAWN_LEFT, DRAWN_RIGHT, IMAGES, LENGTH = range(18, 23)
# From each of these, in steps of 4, for j = 0 ... L: d_j, d_j padded, and where W_j and W_j ... W_1 start (j > 0).
WIDTH, PAD, LAYER, PRODUCT = range(23, 27)

LARGEST_GROUP = 8  # drawn rows taken together at most
FACTOR_ROWS = 64  # drawn pairs of factors multiplied together at most: they stay in the second-level cache
_WORDS_PER_FILL = 1024  # draws made at a time: enough to fill the vectors, few enough to stay in the first-level cache
_WIDE_ROW = 16384  # bytes, above which two of the largest groups do not fit in the second-level cache

Storage = Literal["rows", "factors", "entries"]


def padded(count: int, lanes: int) -> int:
    """``count`` rounded up to whole vectors."""
    return -(-count // lanes) * lanes


@dataclass(frozen=True)
class Layout:
    """Sizes and offsets for one architecture, batch and dtype, all in entries."""

    widths: Sequence[int]  # d_0 ... d_L
    table: Array  # int64, read by the compiled step: see the positions above
    weights_size: int  # of one replicate's weights
    scratch_size: int  # of one thread's scratch
    fill_blocks: int  # Philox blocks drawn at a time
    indices_size: int  # int32, of one thread's batch indices

    def layer(self, weights: Array, j: int) -> Array:
        """View of layer W_{j+1} within one replicate's weights, or within (replicates, weights_size)."""
        rows, start, pad = self.widths[j + 1], self.table[LAYER + 4 * (j + 1)], self.table[PAD + 4 * j]
        block = weights[..., start : start + rows * pad]
        return block.reshape(*weights.shape[:-1], rows, pad)[..., : self.widths[j]]


def make_layout(task: TrainingTask, n: int, entry_bytes: int, storage: Storage) -> Layout:
    """Lay out the memory of a session.

    Args:
        task: what is trained.
        n: number of measurements.
        entry_bytes: bytes of one measurement entry.
        storage: how measurements are kept; rows meet M and G without padding, in copies where there is any.
    """
    widths, depth, lanes = task.widths, len(task.widths) - 1, lanes_of(task.dtype)
    pads = [padded(d, lanes) for d in widths]
    batch = task.batch_size or n
    blocks = -(-batch // 4)
    fill_steps = max(1, _WORDS_PER_FILL // (4 * blocks))
    length = widths[0] * widths[-1]
    flat = padded(length, lanes) + lanes
    sizes = [0, *(pads[j + 1] * pads[j] for j in range(depth))]
    weights_size = sum(sizes)
    used = 0

    def reserve(count: int) -> int:
        nonlocal used
        start, used = used, used + padded(count, lanes)
        return start

    table = np.zeros(WIDTH + 4 * (depth + 1), dtype=np.int64)
    table[DEPTH], table[BATCH], table[BLOCKS], table[FILL_STEPS] = depth, batch, blocks, fill_steps
    table[LABEL_NOISE], table[FULL], table[LENGTH] = task.label_noise, task.batch_size is None, length
    table[WIDEST_GROUP] = LARGEST_GROUP if length * entry_bytes <= _WIDE_ROW else LARGEST_GROUP // 2
    table[COEFFICIENTS], table[SQUARES] = (reserve(2 * LARGEST_GROUP) for _ in range(2))
    table[NORMALS] = reserve(4 * blocks * fill_steps)  # zeros without label noise
    table[TRANSPOSED] = reserve(pads[0] * max(pads[:-1]))
    table[HERE], table[NEXT] = (reserve(pads[0] * max(pads[1:])) for _ in range(2))
    products = [0, *(reserve(pad * pads[0]) for pad in pads[1:])]
    table[COPIED] = storage == "rows" and pads[0] != widths[0]
    table[FLAT_M], table[FLAT_G] = (reserve(flat), reserve(flat)) if table[COPIED] else (products[-1], table[HERE])
    whole = task.sam_radius is not None or task.update is not None  # the whole gradient is kept
    table[AHEAD], table[GRADIENT] = (reserve(weights_size) if whole else 0 for _ in range(2))
    table[WEIGHTS_SIZE] = weights_size
    together = min(batch, FACTOR_ROWS) if storage == "factors" else 0
    table[DRAWN_LEFT], table[DRAWN_RIGHT], table[IMAGES] = (reserve(together * pads[j]) for j in (-1, 0, 0))
    table[WIDTH::4], table[PAD::4], table[PRODUCT::4] = widths, pads, products
    table[LAYER::4] = np.cumsum([0, *sizes])[:-1]

    drawn = 4 * blocks * fill_steps if task.batch_size is not None else batch
    return Layout(widths, table, weights_size, used, blocks * fill_steps, drawn + 2 * LARGEST_GROUP)
