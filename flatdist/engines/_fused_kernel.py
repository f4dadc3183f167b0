"""The compiled SGD step: draw, gather, residual, gradient, chain of layers and update, for many steps at a stretch.

With H_L = G and P_1 = W_1, one step is

    P_j = W_j P_{j-1},    H_{j-1} = W_j^T H_j,    W_j -= eta H_j P_{j-1}^T  (W_1 -= eta H_1),

3 (L - 1) products, each with the columns of its right factor contiguous; P_{j-1} is transposed for the third.

One compilation serves every shape: the sizes stand in a table. For a shape that is met often enough the same code is
compiled with that table as a constant and every part inlined, which changes no bit.
"""

# Compiled or compiler-facing code, which the type checker cannot follow.
# mypy: disable-error-code="var-annotated, no-untyped-def, untyped-decorator, return-value, attr-defined, call-arg"

from __future__ import annotations

import marshal
from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit
from numba.np.unsafe.ndarray import to_fixed_tuple

from flatdist.engines import _fused_layout as layout
from flatdist.engines._fused_cache import KernelCache
from flatdist.engines._fused_gradients import entry_gradient, factor_gradient, row_gradient
from flatdist.engines._fused_layout import Storage
from flatdist.engines._fused_linalg import HELPER, address_of, bytes_of, copy_rows, product, transpose
from flatdist.engines.base import SAM_EPSILON
from flatdist.methods.base import UpdateRule
from flatdist.sensing.draws.compiled import fill_indices, fill_normals, fill_words

# No fast-math flags anywhere here: the inner loops fuse their multiply-adds explicitly, and a flag is inherited by
# every function compiled on behalf of the one that sets it, whose sums the optimiser then reorders as it pleases,
# differently in code that is fresh and in code that comes from the cache.

INLINED = HELPER | {"forceinline": True}


def _each_layer(step: Any, depth: int | None, ascending: bool) -> Any:
    """A function that runs ``step`` for layers 2 ... L, or back; unrolled if the depth is given."""
    if depth is None:

        @njit(**HELPER)
        def loop(scale: Any, size: int, table: Any, layers: int, target: int, scratch: int, at: Any) -> Any:
            for i in range(2, table[layout.DEPTH] + 1):
                j = i if ascending else table[layout.DEPTH] + 2 - i
                at = step(scale, size, table, layers, target, scratch, at, j)
            return at

        return loop
    walk = njit(**INLINED)(lambda scale, size, table, layers, target, scratch, at: at)
    for j in range(depth, 1, -1) if ascending else range(2, depth + 1):
        walk = _before(step, np.int64(j), walk)
    return walk


def _before(step: Any, j: Any, rest: Any) -> Any:
    @njit(**INLINED)
    def walk(scale: Any, size: int, table: Any, layers: int, target: int, scratch: int, at: Any) -> Any:
        following = step(scale, size, table, layers, target, scratch, at, j)
        return rest(scale, size, table, layers, target, scratch, following)

    return walk


@lru_cache
def _parts(storage: Storage, depth: int | None) -> tuple[Any, Any, Any]:
    """The parts of a step: forward, backward, and the gradient with respect to M.

    Args:
        storage: how measurements are kept.
        depth: number of layers, which are then written out and inlined; None for any number.
    """
    options = HELPER if depth is None else INLINED
    gradient = {"factors": factor_gradient, "entries": entry_gradient}.get(storage) or row_gradient(options)
    return _forward(options, depth), _backward(options, depth), gradient


def _forward(options: Any, depth: int | None) -> Any:
    @njit(**options)
    def forward_layer(one: Any, size: int, table: Any, layers: int, target: int, scratch: int, at: int, j: int) -> Any:
        """P_j = W_j P_{j-1} from where P_{j-1} stands; returns where P_j stands."""
        here = scratch + table[layout.PRODUCT + 4 * j] * size
        layer, lead = layers + table[layout.LAYER + 4 * j] * size, table[layout.PAD]
        rows, columns, inner = table[layout.WIDTH + 4 * j], table[layout.WIDTH], table[layout.WIDTH + 4 * (j - 1)]
        pad, replace, unit = table[layout.PAD + 4 * (j - 1)], np.int64(0), np.int64(1)
        product(one, replace, here, lead, layer, pad, unit, at, lead, rows, columns, inner)
        return here

    each_layer = _each_layer(forward_layer, depth, True)

    @njit(**options)
    def forward(one: Any, size: int, table: Any, layers: int, scratch: int) -> None:
        """The products P_j of the layers at ``layers``; the last, M, also without padding if rows need it."""
        depth, d_in = table[layout.DEPTH], table[layout.WIDTH]
        first = layers + table[layout.LAYER + 4] * size
        last = each_layer(one, size, table, layers, layers, scratch, first)
        if table[layout.COPIED]:
            flat = scratch + table[layout.FLAT_M] * size
            copy_rows(one, flat, d_in, last, table[layout.PAD], table[layout.WIDTH + 4 * depth], d_in)

    return forward


def _backward(options: Any, depth: int | None) -> Any:
    @njit(**options)
    def backward_layer(
        scale: Any, size: int, table: Any, layers: int, target: int, scratch: int, at: tuple[int, int], j: int
    ) -> tuple[int, int]:
        """target_j += scale * H_j P_{j-1}^T from where H_j stands, and H_{j-1} where there is room; returns both."""
        here, following = at
        add, unit, lead, columns = np.int64(1), np.int64(1), table[layout.PAD], table[layout.WIDTH]
        transposed = scratch + table[layout.TRANSPOSED] * size
        first, own = table[layout.LAYER + 4] * size, table[layout.LAYER + 4 * j] * size
        rows, inner = table[layout.WIDTH + 4 * (j - 1)], table[layout.WIDTH + 4 * j]
        pad = table[layout.PAD + 4 * (j - 1)]
        below = layers + first if j == 2 else scratch + table[layout.PRODUCT + 4 * (j - 1)] * size
        transpose(scale, transposed, pad, below, lead, rows, columns)
        # W_1's update is H_1 itself: the last product goes straight into it.
        below_target, mode = (target + first, add) if j == 2 else (following, np.int64(0))
        product(scale, mode, below_target, lead, layers + own, unit, pad, here, lead, rows, columns, inner)
        product(scale, add, target + own, pad, here, lead, unit, transposed, pad, inner, rows, columns)
        return following, here

    each_layer = _each_layer(backward_layer, depth, False)

    @njit(**options)
    def backward(scale: Any, size: int, table: Any, layers: int, target: int, scratch: int) -> None:
        """target_j += scale * H_j P_{j-1}^T for every layer j from H_L = G; ``target`` may be the layers."""
        depth, d_in = table[layout.DEPTH], table[layout.WIDTH]
        here, following = scratch + table[layout.HERE] * size, scratch + table[layout.NEXT] * size
        if table[layout.COPIED]:
            flat = scratch + table[layout.FLAT_G] * size
            copy_rows(scale, here, table[layout.PAD], flat, d_in, table[layout.WIDTH + 4 * depth], d_in)
        each_layer(scale, size, table, layers, target, scratch, (here, following))

    return backward


# Every module whose source or constants are compiled into run_steps.
KERNEL_MODULES = (
    "flatdist.sensing.draws.philox",
    "flatdist.sensing.draws.compiled",
    "flatdist.engines.base",
    "flatdist.engines._fused_vector",
    "flatdist.engines._fused_layout",
    "flatdist.engines._fused_linalg",
    "flatdist.engines._fused_gradients",
    "flatdist.engines._fused_kernel",
)


@lru_cache(maxsize=256)
def compiled_steps(
    update: UpdateRule | None = None,
    constants: int = 0,
    storage: Storage = "rows",
    sizes: tuple[int, ...] | None = None,
) -> Any:
    """The compiled function that takes steps, for one way of moving the weights.

    Args:
        update: how a gradient moves a weight; None for W <- W - eta g, which is added to the weights as it is computed.
        constants: how many further numbers the rule receives.
        storage: how measurements are kept.
        sizes: the table of the only layout that the function is for; None for any layout.
    """
    move = None if update is None else _weight_update(update, constants)
    forward, backward, gradient_of = _parts(storage, None if sizes is None else sizes[layout.DEPTH])
    constant = np.array(sizes or (), dtype=np.int64)
    table_of = njit(**INLINED)((lambda table: table) if sizes is None else (lambda table: constant))

    @njit(nogil=True, error_model="numpy")
    def run_steps(
        measurements: Any, labels: Any, weights: Any, kept: Any, scratch: Any, indices: Any, words: Any, table: Any,
        keys: Any, start: int, stop: int, learning_rate: float, noise_std: float, anneal: Any, radius: float,
        numbers: Any,
    ) -> float:  # fmt: skip
        """Steps start .. stop-1 of one replicate; returns the largest mini-batch loss, not finite once any was.

        Args:
            measurements: (n, d_out * d_in), in the labels' dtype, int8, or the bits of float16; or a pair of factors
                (n, d_out) and (n, d_in); or a pair of int32 row and column numbers (n,).
            labels: (n,).
            weights: one replicate's block, changed in place.
            kept: (weights_size, slots) what the update rule keeps, changed in place; empty without a rule.
            scratch, indices, words: this thread's buffers; nothing in them persists between calls except the
                consecutive indices of full batches.
            table: of the :class:`~flatdist.engines._fused_layout.Layout`; not read by a function for one layout.
            keys: (4,) uint32, of the batch and of the label noise.
            anneal: (stop - start,) factors on ``noise_std``.
            radius: SAM's, negative for plain SGD.
            numbers: (constants,) float64, the update rule's.
        """
        table = table_of(table)
        size, kind = bytes_of(labels), labels.dtype.type
        one = kind(1.0)
        blocks, fill_steps = table[layout.BLOCKS], table[layout.FILL_STEPS]
        layers, base = address_of(weights), address_of(scratch)
        ahead, gradient, used = table[layout.AHEAD], table[layout.GRADIENT], table[layout.WEIGHTS_SIZE]
        normals = table[layout.NORMALS]
        largest = 0.0
        for step in range(start, stop):
            turn = (step - start) % fill_steps
            if turn == 0:
                steps = min(fill_steps, stop - step)
                if not table[layout.FULL]:
                    fill_words(keys[:2], step, steps, blocks, words)
                    fill_indices(words, steps * blocks, len(labels), indices)
                if table[layout.LABEL_NOISE]:
                    fill_words(keys[2:], step, steps, blocks, words)
                    fill_normals(words, steps * blocks, scratch[normals:])
            first = 0 if table[layout.FULL] else turn * blocks * 4
            noise = kind(noise_std * anneal[step - start])
            at = layers
            forward(one, size, table, at, base)
            loss = gradient_of(measurements, labels, scratch, table, indices, first, noise, normals + turn * blocks * 4)
            if loss > largest or np.isnan(loss):
                largest = loss
            if radius >= 0.0:
                scratch[gradient : gradient + used] = 0
                backward(one, size, table, at, base + gradient * size, base)
                squares = 0.0
                for i in range(used):
                    squares += np.float64(scratch[gradient + i]) ** 2
                reach = kind(radius / (np.sqrt(squares) + SAM_EPSILON))
                for i in range(used):
                    scratch[ahead + i] = weights[i] + reach * scratch[gradient + i]
                at = base + ahead * size
                forward(one, size, table, at, base)
                gradient_of(measurements, labels, scratch, table, indices, first, noise, normals + turn * blocks * 4)
            if move is None:
                backward(kind(-learning_rate), size, table, at, layers, base)
            else:
                scratch[gradient : gradient + used] = 0
                backward(one, size, table, at, base + gradient * size, base)
                move(weights, kept, scratch, table, kind(learning_rate), numbers)
        return largest

    code, rule = repr((storage, sizes)).encode(), None if update is None else update.step.__code__
    if rule is None or not (rule.co_names or rule.co_freevars):  # what it needs from elsewhere could change unnoticed
        run_steps._cache = KernelCache("run_steps", KERNEL_MODULES, code + (marshal.dumps(rule) if rule else b""))
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
        gradient = table[layout.GRADIENT]
        values: Any = to_fixed_tuple(numbers.astype(weights.dtype), constants)
        for j in range(table[layout.DEPTH]):
            pad, offset = table[layout.PAD + 4 * j], table[layout.LAYER + 4 * (j + 1)]
            for row in range(table[layout.WIDTH + 4 * (j + 1)]):
                for i in range(offset + row * pad, offset + row * pad + table[layout.WIDTH + 4 * j]):
                    before = to_fixed_tuple(kept[i], slots)
                    weights[i], after = step(weights[i], scratch[gradient + i], before, rate, values)
                    for slot in range(slots):
                        kept[i, slot] = after[slot]

    return move


run_steps = compiled_steps(None, 0, "rows", None)  # as an engine asks for it: one entry of the cache
