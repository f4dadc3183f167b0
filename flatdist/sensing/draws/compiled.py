"""The streams of :mod:`~flatdist.sensing.draws.stream`, compiled: the same integers, the same normals to rounding.

Draws are made in bulk, many steps at a time, in loops that the compiler turns into vector code. No fast-math flag is
set here, so that a draw has the same bits wherever it stands in a vector. Logarithm, sine and cosine are polynomials on
exactly reduced arguments: within 3e-7 of the exact normal in float32, 4e-15 in float64, relative to max(1, |normal|).
"""

# Compiled code, which the type checker cannot follow.
# mypy: disable-error-code="no-untyped-def, call-arg, var-annotated"

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.cpython.unsafe.numbers import viewer
from numba.extending import overload, register_jitable

from flatdist.sensing.draws.philox import MULTIPLIERS, ROUNDS, WEYL

_M0, _M1 = (np.uint64(multiplier) for multiplier in MULTIPLIERS)
_W0, _W1 = (np.uint64(weyl) for weyl in WEYL)
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)

_LN2 = float(np.log(2.0))
_TURN = 2.0 * np.pi * 2.0**-32  # one step of an angle's word, radians
_BITS_SQRT_HALF_32 = np.int32(np.float32(np.sqrt(0.5)).view(np.int32))
_BITS_SQRT_HALF_64 = np.int64(np.float64(np.sqrt(0.5)).view(np.int64))


@njit(nogil=True, error_model="numpy")
def fill_words(key: Any, first_step: int, steps: int, blocks: int, words: Any) -> None:
    """Words of ``steps`` consecutive steps, ``blocks`` Philox blocks each.

    Args:
        key: (2,) uint32.
        first_step: number of the first step.
        steps: number of steps.
        blocks: blocks (of four words) per step.
        words: output, (4, >= steps * blocks) uint32: word w of block b of step s at ``[w, s * blocks + b]``.
    """
    first, second = np.uint64(key[0]), np.uint64(key[1])
    # Vectors cannot divide integers: q // blocks by a reciprocal, exact while q * blocks < 2^32.
    reciprocal = np.uint64(0) if steps == 1 else np.uint64((2**32 + blocks - 1) // blocks)
    for q in range(steps * blocks):
        step = (np.uint64(q) * reciprocal) >> _HALF
        c0 = np.uint64(q) - step * np.uint64(blocks)
        c1, c2, c3 = np.uint64(0), np.uint64(first_step) + step, np.uint64(0)
        k0, k1 = first, second
        for _ in range(ROUNDS):
            # Upper halves hold what is of no use; the masks stand where vectors multiply lower halves anyway.
            product0, product1 = _M0 * (c0 & _LOW), _M1 * (c2 & _LOW)
            c0 = (product1 >> _HALF) ^ c1 ^ k0
            c2 = (product0 >> _HALF) ^ c3 ^ k1
            c1, c3 = product1, product0
            k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
        words[0, q] = np.uint32(c0)
        words[1, q] = np.uint32(c1)
        words[2, q] = np.uint32(c2)
        words[3, q] = np.uint32(c3)


@njit(nogil=True, error_model="numpy")
def fill_indices(words: Any, count: int, bound: int, indices: Any) -> None:
    """Uniform indices below ``bound`` by high multiply: ``indices[4 q + w]`` from ``words[w, q]``, q < count."""
    scale = np.uint64(bound)
    for q in range(count):
        indices[4 * q] = np.int32((np.uint64(words[0, q]) * scale) >> _HALF)
        indices[4 * q + 1] = np.int32((np.uint64(words[1, q]) * scale) >> _HALF)
        indices[4 * q + 2] = np.int32((np.uint64(words[2, q]) * scale) >> _HALF)
        indices[4 * q + 3] = np.int32((np.uint64(words[3, q]) * scale) >> _HALF)


@register_jitable(forceinline=True, error_model="numpy")
def _pair_32(u: Any, v: Any) -> Any:
    one, half = np.float32(1.0), np.float32(0.5)
    value = np.float32(u) + half
    bits = viewer(value, np.int32)
    exponent = (bits - _BITS_SQRT_HALF_32) >> np.int32(23)
    mantissa = viewer(np.int32(bits - (exponent << np.int32(23))), np.float32)  # in [sqrt(1/2), sqrt(2))
    # Close to u = 1 the logarithm needs the distance to 1 exactly; the complement of the word has it.
    distance = (np.float32(np.uint32(~u)) + half) * np.float32(-(2.0**-32))
    above_one = distance if exponent == np.int32(32) else mantissa - one
    s = above_one / (above_one + np.float32(2.0))
    z = s * s
    series = one + z * (np.float32(1 / 3) + z * (np.float32(1 / 5) + z * (np.float32(1 / 7) + z * np.float32(1 / 9))))
    logarithm = np.float32(exponent - np.int32(32)) * np.float32(_LN2) + np.float32(2.0) * s * series

    quadrant = np.uint32(v + np.uint32(0x20000000)) >> np.uint32(30)
    angle = (np.float32(np.int32(np.uint32(v - (quadrant << np.uint32(30))))) + half) * np.float32(_TURN)
    x = angle * angle
    sine = np.float32(-1 / 5040) + x * np.float32(1 / 362880)
    sine = angle * (one + x * (np.float32(-1 / 6) + x * (np.float32(1 / 120) + x * sine)))
    cosine = np.float32(-1 / 720) + x * (np.float32(1 / 40320) - x * np.float32(1 / 3628800))
    cosine = one + x * (np.float32(-1 / 2) + x * (np.float32(1 / 24) + x * cosine))
    return _turned(np.sqrt(np.float32(-2.0) * logarithm), sine, cosine, quadrant)


@register_jitable(forceinline=True, error_model="numpy")
def _pair_64(u: Any, v: Any) -> Any:
    bits = viewer(np.float64(u) + 0.5, np.int64)
    exponent = (bits - _BITS_SQRT_HALF_64) >> np.int64(52)
    above_one = viewer(np.int64(bits - (exponent << np.int64(52))), np.float64) - 1.0  # exact
    s = above_one / (above_one + 2.0)
    z = s * s
    series = 1 / 19 + z * (1 / 21)
    series = 1 / 11 + z * (1 / 13 + z * (1 / 15 + z * (1 / 17 + z * series)))
    series = 1.0 + z * (1 / 3 + z * (1 / 5 + z * (1 / 7 + z * (1 / 9 + z * series))))
    logarithm = np.float64(exponent - np.int64(32)) * _LN2 + 2.0 * s * series

    quadrant = np.uint32(v + np.uint32(0x20000000)) >> np.uint32(30)
    angle = (np.float64(np.int32(np.uint32(v - (quadrant << np.uint32(30))))) + 0.5) * _TURN
    x = angle * angle
    sine = -1 / 39916800 + x * (1 / 6227020800 + x * (-1 / 1307674368000 + x * (1 / 355687428096000)))
    sine = angle + angle * x * (-1 / 6 + x * (1 / 120 + x * (-1 / 5040 + x * (1 / 362880 + x * sine))))
    cosine = -1 / 3628800 + x * (1 / 479001600 + x * (-1 / 87178291200 + x * (1 / 20922789888000)))
    cosine = 1.0 + x * (-1 / 2 + x * (1 / 24 + x * (-1 / 720 + x * (1 / 40320 + x * cosine))))
    return _turned(np.sqrt(-2.0 * logarithm), sine, cosine, quadrant)


@register_jitable(forceinline=True, error_model="numpy")
def _turned(radius: Any, sine: Any, cosine: Any, quadrant: Any) -> Any:
    odd = (quadrant & np.uint32(1)) != np.uint32(0)
    first = sine if odd else cosine
    second = cosine if odd else sine
    first = -first if np.uint32(quadrant + np.uint32(1)) & np.uint32(2) else first
    second = -second if quadrant & np.uint32(2) else second
    return radius * first, radius * second


def _pair(u: Any, v: Any, like: Any) -> Any:
    """Box and Muller's two normals of a pair of words, in the type of ``like``; in compiled code only."""
    raise NotImplementedError


@overload(_pair, jit_options={"forceinline": True, "error_model": "numpy"})
def _choose_pair(u, v, like):
    pair = _pair_32 if like == types.float32 else _pair_64
    return lambda u, v, like: pair(u, v)


@njit(nogil=True, error_model="numpy")
def fill_normals(words: Any, count: int, normals: Any) -> None:
    """Standard normals in the output's dtype: ``normals[4 q .. 4 q + 3]`` from the four words of block q < count."""
    like = normals[0]
    for q in range(count):
        a, b = _pair(words[0, q], words[1, q], like)
        c, d = _pair(words[2, q], words[3, q], like)
        normals[4 * q] = a
        normals[4 * q + 1] = b
        normals[4 * q + 2] = c
        normals[4 * q + 3] = d
