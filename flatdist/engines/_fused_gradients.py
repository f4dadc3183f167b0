"""The gradient with respect to M of one batch, for each way of keeping measurements: rows, factors, or single entries.

Each takes

    measurements, labels, scratch, table: as ``run_steps`` of :mod:`~flatdist.engines._fused_kernel`,
    indices, first: the batch's indices start at this position,
    noise: standard deviation of the label noise, in units of the labels,
    normals: position of the batch's first normal in ``scratch``,

and returns the batch's mean squared residual without noise.
"""

# Compiled or compiler-facing code, which the type checker cannot follow.
# mypy: disable-error-code="var-annotated, no-untyped-def, no-untyped-call, untyped-decorator, attr-defined, call-arg"

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from flatdist.engines import _fused_layout as layout
from flatdist.engines._fused_linalg import (
    HELPER,
    add_rows,
    address_of,
    bytes_of,
    copy_row,
    product,
    weigh_pairs,
    weigh_rows,
)


def row_gradient(options: Any) -> Any:
    """Of rows of all entries: G without padding; compiled with these options."""

    @njit(**options)
    def next_group(
        group: int, pending: int, done: int, share: Any, noise: Any, measurements: Any, labels: Any, table: Any,
        base: int, numbers: int, normals: int,
    ) -> None:  # fmt: skip
        """Residuals of ``group`` rows, while the ``pending`` rows before them are added up; either may be none."""
        size, length = bytes_of(labels), table[layout.LENGTH]
        entry, rows, values = measurements[0, 0], address_of(measurements), address_of(labels)
        matrix, total = base + table[layout.FLAT_M] * size, base + table[layout.FLAT_G] * size
        coefficients, squares = base + table[layout.COEFFICIENTS] * size, base + table[layout.SQUARES] * size
        last = 2 * table[layout.WIDEST_GROUP] - 1  # of a ring of coefficients; their number is a power of two
        if group:
            here, target = numbers + done * 4, coefficients + (done & last) * size
            xi = base + (normals + done) * size
            weigh_rows(group, entry, share, noise, rows, length, here, matrix, values, xi, target, squares)
        if pending:
            first = done - pending
            source = coefficients + (first & last) * size
            add_rows(pending, entry, share, rows, length, numbers + first * 4, source, total)

    @njit(**options)
    def gradient(
        measurements: Any, labels: Any, scratch: Any, table: Any, indices: Any, first: int, noise: Any, normals: int
    ) -> Any:
        batch, widest, none = table[layout.BATCH], table[layout.WIDEST_GROUP], np.int64(0)
        base, numbers = address_of(scratch), address_of(indices) + first * 4
        share = labels.dtype.type(2.0 / batch)
        scratch[table[layout.FLAT_G] : table[layout.FLAT_G] + table[layout.LENGTH]] = 0
        scratch[table[layout.SQUARES] : table[layout.SQUARES] + layout.LARGEST_GROUP] = 0
        # Written out, so that each call knows its sizes where the batch is a constant.
        whole = batch // widest * widest
        done, pending = whole, none
        if whole:
            next_group(widest, none, none, share, noise, measurements, labels, table, base, numbers, normals)
            for start in range(widest, whole, widest):
                next_group(widest, widest, start, share, noise, measurements, labels, table, base, numbers, normals)
            pending = widest
        four, two, one = np.int64(4), np.int64(2), np.int64(1)
        if (batch - whole) & 4:
            next_group(four, pending, done, share, noise, measurements, labels, table, base, numbers, normals)
            done, pending = done + four, four
        if (batch - whole) & 2:
            next_group(two, pending, done, share, noise, measurements, labels, table, base, numbers, normals)
            done, pending = done + two, two
        if (batch - whole) & 1:
            next_group(one, pending, done, share, noise, measurements, labels, table, base, numbers, normals)
            done, pending = done + one, one
        next_group(none, pending, done, share, noise, measurements, labels, table, base, numbers, normals)
        return _mean_square(scratch, table)

    return gradient


@njit(**HELPER)
def _mean_square(scratch: Any, table: Any) -> Any:
    loss = 0.0
    for i in range(layout.LARGEST_GROUP):
        loss += scratch[table[layout.SQUARES] + i]
    return loss / table[layout.BATCH]


@njit(**HELPER)
def factor_gradient(measurements, labels, scratch, table, indices, first, noise, normals):
    """Of pairs of factors, A_i = u_i v_i^T: G with padding.

    With U and V the drawn factors as rows, <A_k, M> are the inner products of the rows of U M with those of V, and the
    gradient is (diag(c) U)^T V: two products of small matrices instead of a pass over (d_out, d_in) rows.
    """
    left, right = measurements
    size, one = bytes_of(labels), labels.dtype.type(1.0)
    batch, depth = table[layout.BATCH], table[layout.DEPTH]
    share = labels.dtype.type(2.0 / batch)
    d_out, d_in = left.shape[1], right.shape[1]
    pad_in, pad_out = table[layout.PAD], table[layout.PAD + 4 * depth]
    base = address_of(scratch)
    matrix, total = base + table[layout.PRODUCT + 4 * depth] * size, base + table[layout.HERE] * size
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
            weigh_pairs(
                group, share, noise, drawn_left + weighed * pad_out * size, pad_out,
                drawn_right + weighed * pad_in * size, images + weighed * pad_in * size, pad_in,
                numbers + here * 4, values, base + (normals + here) * size, squares,
            )  # fmt: skip
            weighed += group
        product(one, mode, total, pad_in, drawn_left, unit, pad_out, drawn_right, pad_in, d_out, d_in, count)
        done += count
        mode = unit
    return _mean_square(scratch, table)


@njit(**HELPER)
def entry_gradient(measurements, labels, scratch, table, indices, first, noise, normals):
    """Of single entries: G with padding."""
    rows, columns = measurements
    kind = labels.dtype.type
    batch, depth = table[layout.BATCH], table[layout.DEPTH]
    d_in, d_out, pad_in = table[layout.WIDTH], table[layout.WIDTH + 4 * depth], table[layout.PAD]
    matrix, total = table[layout.PRODUCT + 4 * depth], table[layout.HERE]
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
