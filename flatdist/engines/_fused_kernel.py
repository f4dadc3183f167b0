"""The compiled SGD step: draw, gather, residual, gradient, chain of layers and update, for many steps at a stretch.

With H_L = G and P_1 = W_1, one step is

    P_j = W_j P_{j-1},    H_{j-1} = W_j^T H_j,    W_j -= eta H_j P_{j-1}^T  (W_1 -= eta H_1),

3 (L - 1) products, each with the columns of its right factor contiguous; P_{j-1} is transposed for the third.
"""

# Compiled or compiler-facing code, which the type checker cannot follow.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, return-value, attr-defined, call-arg"

from __future__ import annotations

import marshal
from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload
from numba.np.unsafe.ndarray import to_fixed_tuple

from flatdist.engines._fused_cache import KernelCache
from flatdist.engines._fused_factors import entry_gradient, factor_gradient
from flatdist.engines._fused_layout import (
    AHEAD,
    BATCH,
    BLOCKS,
    COEFFICIENTS,
    DEPTH,
    FILL_STEPS,
    FLAT_G,
    FLAT_M,
    FULL,
    GRADIENT,
    HERE,
    LABEL_NOISE,
    LARGEST_GROUP,
    NEXT,
    NORMALS,
    ROWS,
    SQUARES,
    TABLE,
    TRANSPOSED,
    WEIGHTS_SIZE,
    WIDEST_GROUP,
    ZEROS,
)
from flatdist.engines._fused_linalg import (
    HELPER,
    add_group,
    address_of,
    pack,
    product,
    transpose,
    unpack,
    weigh_group,
)
from flatdist.engines.base import SAM_EPSILON
from flatdist.methods.base import UpdateRule
from flatdist.sensing.draws.compiled import fill_indices, fill_normals, fill_words

# No fast-math flags anywhere here: the inner loops fuse their multiply-adds explicitly, and a flag is inherited by
# every function compiled on behalf of the one that sets it, whose sums the optimiser then reorders as it pleases,
# differently in code that is fresh and in code that comes from the cache.


@njit(**HELPER)
def _forward(one: Any, size: int, table: Any, layers: int, scratch: int) -> None:
    """The products P_j of the layers at ``layers``, the last of them M, and M without padding where rows need it."""
    depth = table[DEPTH]
    widths, pads = TABLE, TABLE + depth + 1
    offsets, products = pads + depth + 1, pads + 2 * depth + 1
    first = layers + table[offsets] * size
    previous = first
    replace, unit = np.int64(0), np.int64(1)
    for j in range(2, depth + 1):
        target = scratch + table[products + j - 1] * size
        layer = layers + table[offsets + j - 1] * size
        product(
            one, replace, target, table[pads], layer, table[pads + j - 1], unit, previous, table[pads],
            table[widths + j], table[widths], table[widths + j - 1], size,
        )  # fmt: skip
        previous = target
    if table[ROWS]:
        pack(one, scratch + table[FLAT_M] * size, previous, table[pads], table[widths + depth], table[widths], size)


@njit(**HELPER)
def _backward(scale: Any, size: int, table: Any, layers: int, target: int, scratch: int) -> None:
    """target_j += scale * H_j P_{j-1}^T for every layer j, from H_L = G; ``target`` may be the layers themselves."""
    depth = table[DEPTH]
    widths, pads = TABLE, TABLE + depth + 1
    offsets, products = pads + depth + 1, pads + 2 * depth + 1
    lead = table[pads]
    here, following = scratch + table[HERE] * size, scratch + table[NEXT] * size
    transposed = scratch + table[TRANSPOSED] * size
    replace, add, unit = np.int64(0), np.int64(1), np.int64(1)
    if table[ROWS]:
        unpack(scale, here, lead, scratch + table[FLAT_G] * size, table[widths + depth], table[widths], size)
    for j in range(depth, 1, -1):
        layer = layers + table[offsets + j - 1] * size
        rows, inner, pad = table[widths + j - 1], table[widths + j], table[pads + j - 1]
        below = layers + table[offsets] * size if j == 2 else scratch + table[products + j - 2] * size
        transpose(scale, transposed, pad, below, lead, rows, table[widths], size)
        # W_1's update is H_1 itself: the last product goes straight into it.
        below_target, mode = (target + table[offsets] * size, add) if j == 2 else (following, replace)
        product(
            scale, mode, below_target, lead, layer, unit, pad, here, lead, rows, table[widths], inner, size
        )  # fmt: skip
        updated = target + table[offsets + j - 1] * size
        product(scale, add, updated, pad, here, lead, unit, transposed, pad, inner, rows, table[widths], size)
        here, following = following, here


@njit(**HELPER)
def _dense_gradient(
    measurements: Any, labels: Any, scratch: Any, table: Any, indices: Any, first: int, noise: Any, normals: int
) -> Any:
    """G of one batch of rows at the current M, without padding; returns their mean squared residual without noise.

    Args:
        first: position of the batch's first index in ``indices``.
        noise: standard deviation of the label noise, in units of the labels.
        normals: position of the batch's first normal in ``scratch``.
    """
    size = np.int64(labels.itemsize)
    length = measurements.shape[1]
    batch = table[BATCH]
    entry = measurements[0, 0]
    base = address_of(scratch)
    matrix, total = base + table[FLAT_M] * size, base + table[FLAT_G] * size
    coefficients, squares = base + table[COEFFICIENTS] * size, base + table[SQUARES] * size
    rows, values, numbers = address_of(measurements), address_of(labels), address_of(indices) + first * 4
    share = labels.dtype.type(2.0 / batch)
    scratch[table[FLAT_G] : table[FLAT_G] + length] = 0
    scratch[table[SQUARES] : table[SQUARES] + LARGEST_GROUP] = 0
    # The residuals of one group are worked out while the rows of the group before it are added up.
    group = widest = table[WIDEST_GROUP]
    done, weighed, pending = 0, 0, 0
    while done < batch:
        while group > batch - weighed and group > 0:
            group //= 2
        if group:
            here = numbers + weighed * 4
            xi = base + (normals + weighed) * size if table[LABEL_NOISE] else base + table[ZEROS] * size
            target = coefficients + (weighed % (2 * widest)) * size
            weigh_group(
                group, entry, share, noise, rows, length, here, matrix, length, values, xi, target, squares
            )  # fmt: skip
        if pending:
            here, source = numbers + done * 4, coefficients + (done % (2 * widest)) * size
            add_group(pending, entry, share, rows, length, here, source, total, length)
            done += pending
        pending = group
        weighed += group
    loss = 0.0
    for i in range(LARGEST_GROUP):
        loss += scratch[table[SQUARES] + i]
    return loss / batch


def _gradient(
    measurements: Any, labels: Any, scratch: Any, table: Any, indices: Any, first: int, noise: Any, normals: int
) -> Any:
    """G of one batch by the function for the measurements' storage; see :func:`_dense_gradient`."""
    raise NotImplementedError  # compiled code only


@overload(_gradient, jit_options={"nogil": True, "error_model": "numpy", "forceinline": True})
def _choose_gradient(measurements, labels, scratch, table, indices, first, noise, normals):
    def dense(measurements, labels, scratch, table, indices, first, noise, normals):
        return _dense_gradient(measurements, labels, scratch, table, indices, first, noise, normals)

    def factors(measurements, labels, scratch, table, indices, first, noise, normals):
        left, right = measurements
        return factor_gradient(left, right, labels, scratch, table, indices, first, noise, normals)

    def entries(measurements, labels, scratch, table, indices, first, noise, normals):
        rows, columns = measurements
        return entry_gradient(rows, columns, labels, scratch, table, indices, first, noise, normals)

    if isinstance(measurements, types.Array):
        return dense
    return factors if isinstance(measurements[0].dtype, types.Float) else entries


# Every module whose source or constants are compiled into run_steps.
KERNEL_MODULES = (
    "flatdist.sensing.draws.philox",
    "flatdist.sensing.draws.compiled",
    "flatdist.engines.base",
    "flatdist.engines._fused_vector",
    "flatdist.engines._fused_layout",
    "flatdist.engines._fused_rows",
    "flatdist.engines._fused_linalg",
    "flatdist.engines._fused_factors",
    "flatdist.engines._fused_kernel",
)


@lru_cache
def compiled_steps(update: UpdateRule | None = None, constants: int = 0) -> Any:
    """The compiled function that takes steps, for one way of moving the weights.

    Args:
        update: how a gradient moves a weight; None for W <- W - eta g, which is added to the weights as it is computed.
        constants: how many numbers the rule is handed besides.
    """
    move = None if update is None else _weight_update(update, constants)

    @njit(nogil=True, error_model="numpy")
    def run_steps(
        measurements: Any,
        labels: Any,
        weights: Any,
        kept: Any,
        scratch: Any,
        indices: Any,
        words: Any,
        table: Any,
        keys: Any,
        start: int,
        stop: int,
        learning_rate: float,
        noise_std: float,
        anneal: Any,
        radius: float,
        numbers: Any,
    ) -> float:
        """Steps start .. stop-1 of one replicate; returns the largest mini-batch loss, not finite once any was.

        Args:
            measurements: (n, d_out * d_in), in the labels' dtype or int8; or a pair of factors (n, d_out) and
                (n, d_in); or a pair of int32 row and column numbers (n,).
            labels: (n,).
            weights: one replicate's block, changed in place.
            kept: (weights_size, slots) what the update rule keeps, changed in place; empty without a rule.
            scratch, indices, words: this thread's own; nothing in them is kept from call to call except the consecutive
                indices of full batches.
            table: of the :class:`~flatdist.engines._fused_layout.Layout`.
            keys: (4,) uint32, of the batch and of the label noise.
            anneal: (stop - start,) factors on ``noise_std``.
            radius: SAM's, negative for plain SGD.
            numbers: (constants,) float64, the update rule's.
        """
        size = np.int64(labels.itemsize)
        kind = labels.dtype.type
        one = kind(1.0)
        blocks, fill_steps = table[BLOCKS], table[FILL_STEPS]
        layers, base = address_of(weights), address_of(scratch)
        ahead, gradient, used = table[AHEAD], table[GRADIENT], table[WEIGHTS_SIZE]
        normals = table[NORMALS]
        largest = 0.0
        for step in range(start, stop):
            turn = (step - start) % fill_steps
            if turn == 0:
                steps = min(fill_steps, stop - step)
                if not table[FULL]:
                    fill_words(keys[:2], step, steps, blocks, words)
                    fill_indices(words, steps * blocks, len(labels), indices)
                if table[LABEL_NOISE]:
                    fill_words(keys[2:], step, steps, blocks, words)
                    fill_normals(words, steps * blocks, scratch[normals:])
            first = 0 if table[FULL] else turn * blocks * 4
            noise = kind(noise_std * anneal[step - start])
            at = layers
            _forward(one, size, table, at, base)
            loss = _gradient(measurements, labels, scratch, table, indices, first, noise, normals + turn * blocks * 4)
            if loss > largest or np.isnan(loss):
                largest = loss
            if radius >= 0.0:
                scratch[gradient : gradient + used] = 0
                _backward(one, size, table, at, base + gradient * size, base)
                squares = 0.0
                for i in range(used):
                    squares += np.float64(scratch[gradient + i]) ** 2
                reach = kind(radius / (np.sqrt(squares) + SAM_EPSILON))
                for i in range(used):
                    scratch[ahead + i] = weights[i] + reach * scratch[gradient + i]
                at = base + ahead * size
                _forward(one, size, table, at, base)
                _gradient(measurements, labels, scratch, table, indices, first, noise, normals + turn * blocks * 4)
            if move is None:
                _backward(kind(-learning_rate), size, table, at, layers, base)
            else:
                scratch[gradient : gradient + used] = 0
                _backward(one, size, table, at, base + gradient * size, base)
                move(weights, kept, scratch, table, kind(learning_rate), numbers)
        return largest

    if update is None:
        run_steps._cache = KernelCache("run_steps", KERNEL_MODULES)
    else:
        code = update.step.__code__
        if not code.co_names and not code.co_freevars:  # what it needs from elsewhere could change unnoticed
            run_steps._cache = KernelCache("run_steps", KERNEL_MODULES, marshal.dumps(code))
    return run_steps


def _weight_update(update: UpdateRule, constants: int) -> Any:
    """A rule compiled for all entries of all layers; entries of padding stay 0, whatever the rule."""
    slots, rule = max(1, len(update.state)), njit(update.step)

    @njit
    def stateless(weight: Any, gradient: Any, kept: Any, rate: Any, numbers: Any) -> Any:
        moved, _ = rule(weight, gradient, (), rate, numbers)
        return moved, kept

    step = rule if update.state else stateless

    @njit
    def move(weights: Any, kept: Any, scratch: Any, table: Any, rate: Any, numbers: Any) -> None:
        depth, gradient = table[DEPTH], table[GRADIENT]
        values: Any = to_fixed_tuple(numbers.astype(weights.dtype), constants)
        for j in range(depth):
            pad, offset = table[TABLE + depth + 1 + j], table[TABLE + 2 * depth + 2 + j]
            for row in range(table[TABLE + j + 1]):
                for i in range(offset + row * pad, offset + row * pad + table[TABLE + j]):
                    before = to_fixed_tuple(kept[i], slots)
                    weights[i], after = step(weights[i], scratch[gradient + i], before, rate, values)
                    for slot in range(slots):
                        kept[i, slot] = after[slot]

    return move


run_steps = compiled_steps(None, 0)  # as an engine asks for it: one entry of the cache
