"""The fused step in Triton: one program per replicate, layers and products in registers, all steps of a segment."""

# Code for Triton's compiler, which the type checker cannot follow.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, arg-type, operator, attr-defined, assignment, misc"

from __future__ import annotations

import triton
import triton.language as tl


@triton.constexpr_function
def layer_offset(widths, j):
    """Entries before layer W_{j+1}, or of all layers for j = L."""
    return sum(widths[i] * widths[i + 1] for i in range(j))


@triton.jit
def philox(block, step, key0, key1):
    """The four words of a block of a step: flatdist.sensing.draws.philox."""
    zero = block * 0
    c0, c1, c2, c3 = block, zero, zero + step, zero
    for _ in tl.static_range(10):
        high0 = tl.umulhi(c0, 0xD2511F53)
        low0 = c0 * 0xD2511F53
        high1 = tl.umulhi(c2, 0xCD9E8D57)
        low1 = c2 * 0xCD9E8D57
        c0 = high1 ^ c1 ^ key0
        c2 = high0 ^ c3 ^ key1
        c1 = low1
        c3 = low0
        key0 = key0 + 0x9E3779B9
        key1 = key1 + 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def pair(u, v):
    """Box and Muller's two normals of a pair of words, by the polynomials of flatdist.sensing.draws.compiled."""
    value = u.to(tl.float32) + 0.5
    bits = value.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F3504F3) >> 23
    above_one = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    distance = ((u ^ 0xFFFFFFFF).to(tl.float32) + 0.5) * -2.3283064365386963e-10
    above_one = tl.where(exponent == 32, distance, above_one)
    s = above_one / (above_one + 2.0)
    z = s * s
    series = 1.0 + z * (0.3333333432674408 + z * (0.2 + z * (0.1428571492433548 + z * 0.1111111119389534)))
    logarithm = (exponent - 32).to(tl.float32) * 0.6931471824645996 + 2.0 * s * series
    radius = tl.sqrt_rn(tl.maximum(-2.0 * logarithm, 0.0))
    quadrant = (v + 0x20000000) >> 30
    angle = ((v - (quadrant << 30)).to(tl.int32, bitcast=True).to(tl.float32) + 0.5) * 1.4629180792671596e-09
    x = angle * angle
    sine = -0.0001984127011382952 + x * 2.755731884462875e-06
    sine = angle * (1.0 + x * (-0.1666666716337204 + x * (0.008333333767950535 + x * sine)))
    cosine = -0.0013888889225199819 + x * (2.4801587642286904e-05 - x * 2.755731998149713e-07)
    cosine = 1.0 + x * (-0.5 + x * (0.0416666679084301 + x * cosine))
    odd = (quadrant & 1) != 0
    first = tl.where(odd, sine, cosine)
    second = tl.where(odd, cosine, sine)
    first = tl.where(((quadrant + 1) & 2) != 0, -first, first)
    second = tl.where((quadrant & 2) != 0, -second, second)
    return radius * first, radius * second


@triton.jit
def draw_ahead(indices, noise, step, key0, key1, key2, key3, n, levels, left, room,
               AHEAD: tl.constexpr, BLOCKS: tl.constexpr, BATCH: tl.constexpr, NOISE: tl.constexpr):  # fmt: skip
    """Indices and scaled noise of the next steps, (AHEAD, room), four words a lane, into this program's own scratch."""
    lane = tl.arange(0, AHEAD * BLOCKS)
    turn = lane // BLOCKS
    block = lane % BLOCKS
    live = block * 4 < room
    at = turn * room + block * 4
    now = step + turn.to(tl.uint32)
    if BATCH > 0:
        w0, w1, w2, w3 = philox(block.to(tl.uint32), now, key0, key1)
        tl.store(indices + at, tl.umulhi(w0, n).to(tl.int32, bitcast=True), mask=live)
        tl.store(indices + at + 1, tl.umulhi(w1, n).to(tl.int32, bitcast=True), mask=live)
        tl.store(indices + at + 2, tl.umulhi(w2, n).to(tl.int32, bitcast=True), mask=live)
        tl.store(indices + at + 3, tl.umulhi(w3, n).to(tl.int32, bitcast=True), mask=live)
    if NOISE:
        level = tl.load(levels + turn, mask=turn < left, other=0.0)
        w0, w1, w2, w3 = philox(block.to(tl.uint32), now, key2, key3)
        a, b = pair(w0, w1)
        tl.store(noise + at, level * a, mask=live)
        tl.store(noise + at + 1, level * b, mask=live)
        a, b = pair(w2, w3)
        tl.store(noise + at + 2, level * a, mask=live)
        tl.store(noise + at + 3, level * b, mask=live)


@triton.jit
def gradient(w, first, second, labels, start, count, indices, noise, share, scale,
             WIDTHS: tl.constexpr, D: tl.constexpr, FLAT: tl.constexpr, BATCH: tl.constexpr, ROWS: tl.constexpr,
             NOISE: tl.constexpr, STORAGE: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr):  # fmt: skip
    """Gradients in all layers, and the batch's sum of squared residuals without noise.

    W_1 ... W_L are padded with zeros to D x D. A drawn row is in registers for its residual and its share of G, since
    a row's residual needs nothing but M.
    """
    DEPTH: tl.constexpr = len(WIDTHS) - 1
    D_IN: tl.constexpr = WIDTHS[0]
    D_OUT: tl.constexpr = WIDTHS[len(WIDTHS) - 1]
    right = (w[0],)  # W_j ... W_1
    for j in tl.static_range(1, DEPTH):
        right = right + (tl.dot(w[j], right[j - 1], input_precision=PRECISION),)
    m = right[DEPTH - 1]
    column = tl.arange(0, D)
    if STORAGE <= 1:
        flat = tl.arange(0, FLAT)
        inside = flat < D_OUT * D_IN
        if D_OUT * D_IN == D * D:
            m_flat = tl.reshape(m, (D * D,))
        else:
            m_flat = tl.gather(tl.reshape(m, (D * D,)), tl.where(inside, (flat // D_IN) * D + flat % D_IN, 0), 0)
        total = tl.zeros((ROWS, FLAT), tl.float32)
    else:
        total = tl.zeros((D, D), tl.float32)
    squares = tl.zeros((ROWS,), tl.float32)
    for g in tl.range(0, (count + ROWS - 1) // ROWS, num_stages=STAGES):
        lane = g * ROWS + tl.arange(0, ROWS)
        live = lane < count
        if BATCH > 0:
            row = start + tl.load(indices + lane, mask=live, other=0)
        else:
            row = start + lane
        b = tl.load(labels + row, mask=live, other=0.0)
        if STORAGE <= 1:
            at = first + row[:, None] * (D_OUT * D_IN) + flat[None, :]
            a = tl.load(at, mask=live[:, None] & inside[None, :], other=0).to(tl.float32)
            e = tl.sum(a * m_flat[None, :], axis=1) - b
        else:
            if STORAGE == 2:
                at_u = first + row[:, None] * D_OUT + column[None, :]
                at_v = second + row[:, None] * D_IN + column[None, :]
                u = tl.load(at_u, mask=live[:, None] & (column < D_OUT)[None, :], other=0.0)
                v = tl.load(at_v, mask=live[:, None] & (column < D_IN)[None, :], other=0.0)
            else:
                u = tl.where(tl.load(first + row, mask=live, other=0)[:, None] == column[None, :], scale, 0.0)
                v = tl.where(tl.load(second + row, mask=live, other=0)[:, None] == column[None, :], 1.0, 0.0)
            e = tl.sum(tl.dot(u, m, input_precision=PRECISION) * v, axis=1) - b
        e = tl.where(live, e, 0.0)
        squares += e * e
        if NOISE:
            e += tl.load(noise + lane, mask=live, other=0.0)
        if STORAGE <= 1:
            total += a * e[:, None]
        else:
            total += tl.dot(tl.trans(u * e[:, None]), v, input_precision=PRECISION)
    if STORAGE <= 1:
        g_flat = tl.sum(total, axis=0) * share
        if D_OUT * D_IN == D * D:
            x = tl.reshape(g_flat, (D, D))
        else:
            square = tl.arange(0, D * D)
            within = (square // D < D_OUT) & (square % D < D_IN)
            picked = tl.gather(g_flat, tl.where(within, (square // D) * D_IN + square % D, 0), 0)
            x = tl.reshape(tl.where(within, picked, 0.0), (D, D))
    else:
        x = total * share
    found = ()
    for j in tl.static_range(DEPTH - 1, 0, -1):  # x = (W_L ... W_{j+2})^T G
        found = (tl.dot(x, tl.trans(right[j - 1]), input_precision=PRECISION),) + found
        x = tl.dot(tl.trans(w[j]), x, input_precision=PRECISION)
    return (x,) + found, tl.sum(squares, axis=0)


@triton.jit
def run_steps(weights, first, second, labels, bases, counts, keys, rates, levels, starts, steps, largest, constants,
              stride, room, indices, noise,
              WIDTHS: tl.constexpr, D: tl.constexpr, FLAT: tl.constexpr, BATCH: tl.constexpr, NOISE: tl.constexpr,
              SAM: tl.constexpr, STORAGE: tl.constexpr, ROWS: tl.constexpr, BLOCKS: tl.constexpr, AHEAD: tl.constexpr,
              PRECISION: tl.constexpr, STAGES: tl.constexpr):  # fmt: skip
    """Steps of one replicate; arguments as in :class:`flatdist.engines._launched.Launch`.

    Scratch: indices and noise, (replicates, AHEAD, room) each, which stay in the caches.
    """
    DEPTH: tl.constexpr = len(WIDTHS) - 1
    r = tl.program_id(0).to(tl.int64)
    key0 = tl.load(keys + 4 * r).to(tl.uint32, bitcast=True)
    key1 = tl.load(keys + 4 * r + 1).to(tl.uint32, bitcast=True)
    key2 = tl.load(keys + 4 * r + 2).to(tl.uint32, bitcast=True)
    key3 = tl.load(keys + 4 * r + 3).to(tl.uint32, bitcast=True)
    n = tl.load(counts + r)
    start = tl.load(bases + r)
    rate = tl.load(rates + r)
    begin = tl.load(starts + r)
    todo = tl.load(steps + r)
    worst = tl.load(largest + r)
    radius = tl.load(constants)
    scale = tl.load(constants + 1)
    count = BATCH if BATCH > 0 else n
    share = 2.0 / count.to(tl.float32) if BATCH == 0 else 2.0 / BATCH
    mine = indices + r * (AHEAD * room)
    my_noise = noise + r * (AHEAD * room)
    SIZE: tl.constexpr = layer_offset(WIDTHS, len(WIDTHS) - 1)
    layers = weights + r * SIZE
    row = tl.arange(0, D)[:, None]
    column = tl.arange(0, D)[None, :]
    w = ()
    for j in tl.static_range(DEPTH):
        at = layers + layer_offset(WIDTHS, j) + row * WIDTHS[j] + column
        w = w + (tl.load(at, mask=(row < WIDTHS[j + 1]) & (column < WIDTHS[j]), other=0.0),)
    for t in range(todo):
        turn = t % AHEAD
        if NOISE or BATCH > 0:
            if turn == 0:
                tl.debug_barrier()
                draw_ahead(mine, my_noise, (begin + t).to(tl.uint32), key0, key1, key2, key3, n.to(tl.uint32),
                           levels + r * stride + t, todo - t, room, AHEAD, BLOCKS, BATCH, NOISE)  # fmt: skip
                tl.debug_barrier()
        g, squares = gradient(w, first, second, labels, start, count, mine + turn * room, my_noise + turn * room, share,
                              scale, WIDTHS, D, FLAT, BATCH, ROWS, NOISE, STORAGE, PRECISION, STAGES)  # fmt: skip
        loss = squares * (0.5 * share)
        worst = tl.where((loss > worst) | (loss != loss), loss, worst)
        if SAM:
            norm = 0.0
            for j in tl.static_range(DEPTH):
                norm += tl.sum(tl.sum(g[j] * g[j], axis=1), axis=0)
            reach = radius / (tl.sqrt_rn(norm) + 1e-12)
            ahead = ()
            for j in tl.static_range(DEPTH):
                ahead = ahead + (w[j] + reach * g[j],)
            g, squares = gradient(ahead, first, second, labels, start, count, mine + turn * room, my_noise + turn * room,
                                  share, scale, WIDTHS, D, FLAT, BATCH, ROWS, NOISE, STORAGE, PRECISION, STAGES)  # fmt: skip
        moved = ()
        for j in tl.static_range(DEPTH):
            moved = moved + (w[j] - rate * g[j],)
        w = moved
    for j in tl.static_range(DEPTH):
        at = layers + layer_offset(WIDTHS, j) + row * WIDTHS[j] + column
        tl.store(at, w[j], mask=(row < WIDTHS[j + 1]) & (column < WIDTHS[j]))
    tl.store(largest + r, worst)
