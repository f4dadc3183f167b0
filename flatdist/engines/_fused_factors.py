"""Gradients where measurements are kept as factors, A_i = u_i v_i^T, or are single entries.

With U and V the drawn factors as rows, <A_k, M> are the inner products of the rows of U M with those of V, and the
gradient is (diag(c) U)^T V: two products of small matrices instead of a pass over (d_out, d_in) rows.
"""

# Compiled or compiler-facing code, which the type checker cannot follow.
# mypy: disable-error-code="var-annotated, no-untyped-def, no-untyped-call, untyped-decorator, attr-defined, call-arg"

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from flatdist.engines import _fused_layout as layout
from flatdist.engines._fused_linalg import HELPER, address_of, bytes_of, product
from flatdist.engines._fused_rows import Rows, by_group, each_vector
from flatdist.engines._fused_vector import INDEX


@intrinsic
def copy_row(typing_context, like, target, source, length):
    """Copy ``length`` entries to whole vectors, the rest of the last one zero; reads nothing beyond them."""
    signature = types.void(like, target, source, length)

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        like, target, source, length = arguments
        emitter = Rows(builder, like.type, None)

        def copy(offset: ir.Value, part: int, mask: ir.Value | None) -> None:
            emitter.store(emitter.row(source, offset, mask), target, offset)

        each_vector(emitter, length, 1, copy)
        return context.get_dummy_value()

    return signature, emit


@intrinsic
def weigh_pairs(
    typing_context, count, share, noise, left, left_pad, right, images, pad, indices, labels, normals, squares
):
    """Residuals of ``count`` (8, 4, 2 or 1) drawn pairs of factors, and the left factors times their coefficients.

    With e_k = <images k, right k> - labels[indices[k]]:  squares[k] += e_k^2,
    left k *= share * (e_k + noise * normals[k]). Rows are padded with zeros to whole vectors.
    """
    signature = types.void(count, share, noise, left, left_pad, right, images, pad, indices, labels, normals, squares)

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return by_group(context, builder, arguments[0], lambda group: weigh(builder, group, *arguments[1:]))

    def weigh(builder: ir.IRBuilder, group: int, *arguments: Any) -> None:
        share, noise, left, left_pad, right, images, pad, indices, labels, normals, squares = arguments
        emitter = Rows(builder, share.type, None)
        partial = emitter.variables(group)
        lanes = INDEX(emitter.lanes)
        with cgutils.for_range_slice(builder, INDEX(0), pad, lanes, inc=True) as (offset, _):
            for k in range(group):
                here = builder.add(builder.mul(pad, INDEX(k)), offset)
                a, b = emitter.load(images, here), emitter.load(right, here)
                builder.store(emitter.multiply_add(a, b, builder.load(partial[k])), partial[k])
        sums = emitter.sums([builder.load(slot) for slot in partial])
        coefficients = emitter.coefficients(sums, share, noise, indices, labels, normals, squares)
        factors = [emitter.splat(builder.extract_element(coefficients, ir.IntType(32)(k))) for k in range(group)]
        with cgutils.for_range_slice(builder, INDEX(0), left_pad, lanes, inc=True) as (offset, _):
            for k in range(group):
                here = builder.add(builder.mul(left_pad, INDEX(k)), offset)
                emitter.store(builder.fmul(emitter.load(left, here), factors[k]), left, here)

    return signature, emit


@njit(**HELPER)
def factor_gradient(measurements, labels, scratch, table, indices, first, noise, normals):
    """G of one batch of pairs (u, v) at the current M, padded; returns their mean squared residual without noise."""
    left, right = measurements
    size = bytes_of(labels)
    one = labels.dtype.type(1.0)
    batch, depth = table[layout.BATCH], table[layout.DEPTH]
    share = labels.dtype.type(2.0 / batch)
    d_out, d_in = left.shape[1], right.shape[1]
    pads = layout.TABLE + depth + 1
    pad_in, pad_out = table[pads], table[pads + depth]
    base = address_of(scratch)
    matrix = base + table[pads + 3 * depth] * size  # the last of the products
    total = base + table[layout.HERE] * size
    drawn_left, drawn_right = base + table[layout.DRAWN_LEFT] * size, base + table[layout.DRAWN_RIGHT] * size
    images, squares = base + table[layout.IMAGES] * size, base + table[layout.SQUARES] * size
    numbers, values = address_of(indices) + first * 4, address_of(labels)
    lefts, rights = address_of(left), address_of(right)
    replace, unit = np.int64(0), np.int64(1)
    scratch[table[layout.SQUARES] : table[layout.SQUARES] + layout.LARGEST_GROUP] = 0
    done, mode = 0, replace
    while done < batch:
        count = min(layout.FACTOR_ROWS, batch - done)
        for k in range(count):
            number = np.int64(indices[first + done + k])
            copy_row(one, drawn_left + k * pad_out * size, lefts + number * d_out * size, d_out)
            copy_row(one, drawn_right + k * pad_in * size, rights + number * d_in * size, d_in)
        product(one, replace, images, pad_in, drawn_left, pad_out, unit, matrix, pad_in, count, d_in, d_out)
        weighed, group = 0, layout.LARGEST_GROUP
        while weighed < count:
            while group > count - weighed:
                group //= 2
            here = done + weighed
            xi = base + (normals + here) * size
            weigh_pairs(
                group, share, noise, drawn_left + weighed * pad_out * size, pad_out,
                drawn_right + weighed * pad_in * size, images + weighed * pad_in * size, pad_in,
                numbers + here * 4, values, xi, squares,
            )  # fmt: skip
            weighed += group
        product(one, mode, total, pad_in, drawn_left, unit, pad_out, drawn_right, pad_in, d_out, d_in, count)
        done += count
        mode = unit
    loss = 0.0
    for i in range(layout.LARGEST_GROUP):
        loss += scratch[table[layout.SQUARES] + i]
    return loss / batch


@njit(**HELPER)
def entry_gradient(measurements, labels, scratch, table, indices, first, noise, normals):
    """G of one batch of single entries at the current M, padded; returns their mean squared residual without noise."""
    rows, columns = measurements
    kind = labels.dtype.type
    batch, depth = table[layout.BATCH], table[layout.DEPTH]
    d_in, d_out = table[layout.TABLE], table[layout.TABLE + depth]
    pads = layout.TABLE + depth + 1
    pad_in = table[pads]
    matrix, total = table[pads + 3 * depth], table[layout.HERE]
    scale, share = kind(np.sqrt(np.float64(d_out * d_in))), kind(2.0 / batch)
    scratch[total : total + d_out * pad_in] = 0
    loss = 0.0
    for k in range(batch):
        number = indices[first + k]
        place = np.int64(rows[number]) * pad_in + np.int64(columns[number])
        residual = scale * scratch[matrix + place] - labels[number]
        loss += np.float64(residual) * np.float64(residual)
        if table[layout.LABEL_NOISE]:
            residual += noise * scratch[normals + k]
        scratch[total + place] += scale * (share * residual)
    return loss / batch
