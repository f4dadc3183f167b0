"""The fused engine's memory layout: one block of weights per replicate, one scratch buffer per thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from flatdist.engines._fused_vector import lanes_of
from flatdist.types import Array

# Positions in the integer table that the compiled step reads.
DEPTH, BATCH, BLOCKS, FILL_STEPS, LABEL_NOISE, FULL, WIDEST_GROUP, FLAT_M, FLAT_G, TRANSPOSED = range(10)
HERE, NEXT, COEFFICIENTS, NORMALS, AHEAD, GRADIENT, WEIGHTS_SIZE, SQUARES = range(10, 18)
COPIED, DRAWN_LEFT, DRAWN_RIGHT, IMAGES, LENGTH, TABLE = range(18, 24)

LARGEST_GROUP = 8  # drawn rows taken together at most
FACTOR_ROWS = 64  # drawn pairs of factors multiplied together at most: they stay in the second-level cache
_WORDS_PER_FILL = 1024  # draws made at a time: enough to fill the vectors, few enough to stay in the first-level cache

Storage = Literal["rows", "factors", "entries"]


def padded(count: int, lanes: int) -> int:
    """``count`` rounded up to whole vectors."""
    return -(-count // lanes) * lanes


@dataclass(frozen=True)
class Layout:
    """Sizes and offsets for one architecture, batch and dtype, all in entries.

    Attributes:
        table: int64, read by the compiled step: the positions above, then widths (depth + 1), padded widths
            (depth + 1), offsets of the layers within the weights (depth) and of the products W_j ... W_1 within the
            scratch (depth).
        weights_size: entries of one replicate's weights.
        scratch_size: entries of one thread's scratch.
        fill_blocks: Philox blocks drawn at a time.
        indices_size: int32 entries of one thread's batch indices.
    """

    widths: tuple[int, ...]
    dtype: str
    table: Array
    weights_size: int
    scratch_size: int
    fill_blocks: int
    indices_size: int

    def layer(self, weights: Array, j: int) -> Array:
        """View of layer W_{j+1} within one replicate's weights, or within (replicates, weights_size)."""
        depth = len(self.widths) - 1
        pads = self.table[TABLE + depth + 1 :]
        rows, columns, start = self.widths[j + 1], int(pads[j]), int(self.table[TABLE + 2 * (depth + 1) + j])
        block = weights[..., start : start + rows * columns]
        return block.reshape(*weights.shape[:-1], rows, columns)[..., : self.widths[j]]


def make_layout(
    widths: tuple[int, ...],
    dtype: str,
    entry_bytes: int,
    n: int,
    batch_size: int | None,
    label_noise: bool,
    keeps_gradient: bool,
    storage: Storage = "rows",
) -> Layout:
    """Lay out the memory of a session.

    Args:
        widths: d_0 ... d_L.
        dtype: float32 or float64.
        entry_bytes: bytes of one measurement entry.
        n: number of measurements.
        batch_size: indices drawn per step; None for every index once.
        label_noise: whether labels are perturbed.
        keeps_gradient: whether the whole gradient is kept, for SAM's perturbation or an update rule.
        storage: how measurements are kept; rows meet M and G without padding, in copies where there is any.
    """
    lanes = lanes_of(dtype)
    depth = len(widths) - 1
    pads = [padded(d, lanes) for d in widths]
    batch = n if batch_size is None else batch_size
    blocks = -(-batch // 4)
    fill_steps = max(1, _WORDS_PER_FILL // (4 * blocks))
    flat = padded(widths[0] * widths[-1], lanes) + lanes

    layer_offsets, weights_size = [], 0
    for j in range(depth):
        layer_offsets.append(weights_size)
        weights_size += pads[j + 1] * pads[j]

    used = 0

    def reserve(count: int) -> int:
        nonlocal used
        start, used = used, used + padded(count, lanes)
        return start

    table = np.zeros(TABLE + 4 * depth + 2, dtype=np.int64)
    table[DEPTH], table[BATCH], table[BLOCKS], table[FILL_STEPS] = depth, batch, blocks, fill_steps
    table[LABEL_NOISE], table[FULL] = label_noise, batch_size is None
    table[LENGTH] = widths[0] * widths[-1]
    table[WIDEST_GROUP] = _widest_group(widths[0] * widths[-1] * entry_bytes)
    table[COEFFICIENTS], table[SQUARES] = (reserve(2 * LARGEST_GROUP) for _ in range(2))
    table[NORMALS] = reserve(4 * blocks * fill_steps)  # zeros without label noise
    table[TRANSPOSED] = reserve(pads[0] * max(pads[:-1]))
    table[HERE], table[NEXT] = (reserve(pads[0] * max(pads[1:])) for _ in range(2))
    products = [reserve(pads[j + 1] * pads[0]) for j in range(depth)]
    table[COPIED] = storage == "rows" and pads[0] != widths[0]
    table[FLAT_M], table[FLAT_G] = (reserve(flat), reserve(flat)) if table[COPIED] else (products[-1], table[HERE])
    table[AHEAD], table[GRADIENT] = (reserve(weights_size) if keeps_gradient else 0 for _ in range(2))
    table[WEIGHTS_SIZE] = weights_size
    together = min(batch, FACTOR_ROWS) if storage == "factors" else 0
    table[DRAWN_LEFT], table[DRAWN_RIGHT], table[IMAGES] = (reserve(together * pads[j]) for j in (-1, 0, 0))
    table[TABLE:] = [*widths, *pads, *layer_offsets, *products]

    drawn = 4 * blocks * fill_steps if batch_size is not None else batch
    return Layout(widths, dtype, table, weights_size, used, blocks * fill_steps, drawn + 2 * LARGEST_GROUP)


def _widest_group(row_bytes: int) -> int:
    """Number of drawn rows to take together: fewer if two groups of them do not fit in the second-level cache."""
    return LARGEST_GROUP if row_bytes <= 16384 else LARGEST_GROUP // 2
