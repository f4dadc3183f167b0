"""Compiled inner loop of the flattest interpolator: one augmented Lagrangian, its gradient, and L-BFGS on it.

    phi(W) = f(W) + <lambda, c(W)> + (rho/2) ||c(W)||^2,   c(W) = Q vec(W_L ... W_1) - t

where f is Lemma 2's trace and the rows of Q are orthonormal. All hidden widths are equal to k here: an interpolator of
smallest trace never needs more than min(d_out, d_in) (see ``min_hessian_trace``). Layers live in one vector x:
W_1 (k, d_in), then the middle layers (k, k), then W_L (d_out, k).

Everything is compiled in this one file, so that the compiler's cache notices every edit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numba
import numpy as np

from flatdist.types import Array


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile without the interpreter; cached on disk where a folder for that can be written.

    No fast-math: numba hands such flags on to helpers, and fresh and cached code then differ in the last bit.
    """
    try:
        return cast("Callable[..., Any]", numba.njit(cache=True)(function))
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return cast("Callable[..., Any]", numba.njit(function))


@_compiled
def _contract_right(fourth: Array, y: Array, d: int) -> Array:
    """(1/n) sum_i A_i Y A_i^T, (d, d), from the packed fourth moments."""
    size = y.shape[0]
    packed = np.empty(size * (size + 1) // 2)
    at = 0
    for a in range(size):
        packed[at] = y[a, a]
        for b in range(a + 1, size):
            packed[at + b - a] = 2.0 * y[a, b]
        at += size - a
    flat = np.dot(fourth, packed)
    result = np.empty((d, d))
    at = 0
    for a in range(d):
        for b in range(a, d):
            result[a, b] = flat[at]
            result[b, a] = flat[at]
            at += 1
    return result


@_compiled
def _contract_left(fourth: Array, x: Array, d: int) -> Array:
    """(1/n) sum_i A_i^T X A_i, (d, d), from the packed fourth moments."""
    size = x.shape[0]
    packed = np.empty(size * (size + 1) // 2)
    at = 0
    for a in range(size):
        packed[at] = x[a, a]
        for b in range(a + 1, size):
            packed[at + b - a] = 2.0 * x[a, b]
        at += size - a
    flat = np.dot(packed, fourth)
    result = np.empty((d, d))
    at = 0
    for a in range(d):
        for b in range(a, d):
            result[a, b] = flat[at]
            result[b, a] = flat[at]
            at += 1
    return result


@_compiled
def lagrangian(
    x: Array,
    gradient: Array,
    violation: Array,
    depth: int,
    k: int,
    s_out: Array,
    s_in: Array,
    fourth: Array,
    basis: Array,
    target: Array,
    multipliers: Array,
    rho: float,
) -> tuple[float, float]:
    """Lemma 2's trace f and the augmented Lagrangian phi at x.

    Args:
        x: the layers, one vector.
        gradient: filled with the gradient of phi.
        violation: filled with c(W), (m,).
        depth: L.
        k: the hidden width.
        s_out: (1/n) sum_i A_i A_i^T.
        s_in: (1/n) sum_i A_i^T A_i.
        fourth: packed fourth moments, (d_out (d_out + 1) / 2, d_in (d_in + 1) / 2); unused at depth 2.
        basis: Q, (m, d_out d_in).
        target: t, (m,).
        multipliers: lambda, (m,).
        rho: penalty.

    Returns:
        f and phi.
    """
    d_out, d_in = s_out.shape[0], s_in.shape[0]
    first, last, middle = k * d_in, x.size - d_out * k, depth - 2
    w_first, g_first = x[:first].reshape(k, d_in), gradient[:first].reshape(k, d_in)
    w_last, g_last = x[last:].reshape(d_out, k), gradient[last:].reshape(d_out, k)
    w, g = x[first:last].reshape(middle, k, k), gradient[first:last].reshape(middle, k, k)

    right = np.empty((depth - 1, k, d_in))  # right[j] = W_{j+1} ... W_1
    right[0] = w_first
    for j in range(middle):
        right[j + 1] = np.dot(w[j], right[j])
    left = np.empty((depth - 1, d_out, k))  # left[j] = W_L ... W_{j+2}
    left[middle] = w_last
    for j in range(middle - 1, -1, -1):
        left[j] = np.dot(left[j + 1], w[j])

    matrix = np.dot(w_last, right[middle])
    violation[:] = np.dot(basis, matrix.ravel()) - target
    pull = np.dot(multipliers + rho * violation, basis).reshape(d_out, d_in)

    outer_left = np.dot(s_out, left[0])
    outer_right = np.dot(right[middle], s_in)
    trace = 2.0 * (np.sum(outer_left * left[0]) + np.sum(outer_right * right[middle]))
    d_left, d_right = np.empty((depth - 1, d_out, k)), np.empty((depth - 1, k, d_in))
    for j in range(middle):  # the term of the middle layer w[j]: left[j + 1] and right[j]
        x_gram = np.dot(left[j + 1], left[j + 1].T)
        by_right = _contract_right(fourth, np.dot(right[j].T, right[j]), d_out)
        by_left = _contract_left(fourth, x_gram, d_in)
        trace += 2.0 * np.sum(x_gram * by_right)
        d_left[j + 1] = 4.0 * np.dot(by_right, left[j + 1])
        d_right[j] = 4.0 * np.dot(right[j], by_left)

    g_left = 4.0 * outer_left
    for j in range(middle):  # left[j] = left[j + 1] w[j]
        g[j] = np.dot(left[j + 1].T, g_left)
        g_left = d_left[j + 1] + np.dot(g_left, w[j].T)
    g_last[:] = g_left + np.dot(pull, right[middle].T)
    g_right = 4.0 * outer_right + np.dot(w_last.T, pull)
    for j in range(middle - 1, -1, -1):  # right[j + 1] = w[j] right[j]
        g[j] += np.dot(g_right, right[j].T)
        g_right = d_right[j] + np.dot(w[j].T, g_right)
    g_first[:] = g_right
    return trace, trace + np.dot(multipliers, violation) + 0.5 * rho * np.dot(violation, violation)


@_compiled
def _direction(gradient: Array, steps: Array, changes: Array, inverse: Array, stored: int) -> Array:
    """Minus the L-BFGS inverse Hessian times the gradient, from the last ``memory`` of ``stored`` pairs."""
    memory = len(inverse)
    weights = np.zeros(memory)
    direction: Array = -gradient
    oldest = max(0, stored - memory)
    for i in range(stored - 1, oldest - 1, -1):
        weights[i % memory] = inverse[i % memory] * np.dot(steps[i % memory], direction)
        direction = direction - weights[i % memory] * changes[i % memory]
    if stored > 0:
        newest = (stored - 1) % memory
        direction = direction / (inverse[newest] * np.dot(changes[newest], changes[newest]))
    else:
        direction = direction * min(1.0, 0.1 / np.sqrt(np.dot(gradient, gradient)))
    for i in range(oldest, stored):
        back = inverse[i % memory] * np.dot(changes[i % memory], direction)
        direction = direction + (weights[i % memory] - back) * steps[i % memory]
    return direction


@_compiled
def minimise(
    x: Array,
    depth: int,
    k: int,
    s_out: Array,
    s_in: Array,
    fourth: Array,
    basis: Array,
    target: Array,
    multipliers: Array,
    rho: float,
    tolerance: float,
    iterations: int,
    memory: int,
) -> tuple[Array, float, Array, float, int]:
    """L-BFGS on the augmented Lagrangian from x, with a bisecting weak Wolfe line search.

    Returns:
        The layers, their trace, their violation, the norm of phi's gradient, and the number of evaluations.
    """
    size, m = x.size, target.size
    gradient, trial_gradient = np.empty(size), np.empty(size)
    violation, trial_violation = np.empty(m), np.empty(m)
    trace, phi = lagrangian(x, gradient, violation, depth, k, s_out, s_in, fourth, basis, target, multipliers, rho)
    evaluations = 1
    steps, changes = np.zeros((memory, size)), np.zeros((memory, size))
    inverse = np.zeros(memory)
    stored = 0
    for _ in range(iterations):
        norm = np.sqrt(np.dot(gradient, gradient))
        if norm <= tolerance:
            break
        direction = _direction(gradient, steps, changes, inverse, stored)
        slope = np.dot(gradient, direction)
        if not slope < 0.0:
            direction, slope, stored = -gradient, -norm * norm, 0

        step, shorter, longer = 1.0, 0.0, np.inf
        accepted = False
        trial, trial_trace, trial_phi = x, trace, phi
        for _search in range(30):
            trial = x + step * direction
            trial_trace, trial_phi = lagrangian(
                trial, trial_gradient, trial_violation, depth, k, s_out, s_in, fourth, basis, target, multipliers, rho
            )
            evaluations += 1
            if not trial_phi <= phi + 1e-4 * step * slope + 1e-13 * abs(phi):
                longer = step
            elif np.dot(trial_gradient, direction) < 0.9 * slope:
                shorter = step
            else:
                accepted = True
                break
            step = 2.0 * step if longer == np.inf else 0.5 * (shorter + longer)
        if not accepted and not trial_phi < phi:
            break  # rounding error is all that is left
        moved, changed = trial - x, trial_gradient - gradient
        curvature = np.dot(moved, changed)
        if curvature > 1e-14 * np.sqrt(np.dot(moved, moved) * np.dot(changed, changed)):
            steps[stored % memory] = moved
            changes[stored % memory] = changed
            inverse[stored % memory] = 1.0 / curvature
            stored += 1
        x, trace, phi = trial, trial_trace, trial_phi
        gradient[:] = trial_gradient
        violation[:] = trial_violation
    return x, trace, violation, np.sqrt(np.dot(gradient, gradient)), evaluations


@_compiled
def derivatives(
    x: Array,
    depth: int,
    k: int,
    s_out: Array,
    s_in: Array,
    fourth: Array,
    basis: Array,
    target: Array,
    multipliers: Array,
) -> tuple[float, Array, Array, Array, Array]:
    """Trace, gradient and Hessian of the Lagrangian (rho = 0), violation, and the violation's Jacobian, at x.

    Second derivatives are central differences of the closed-form gradient, good to ten digits: phi is a polynomial.

    Returns:
        f, grad phi (N,), c (m,), Hessian (N, N), Jacobian (m, N).
    """
    size, m = x.size, target.size
    gradient, up, down = np.empty(size), np.empty(size), np.empty(size)
    violation, c_up, c_down = np.empty(m), np.empty(m), np.empty(m)
    trace, _ = lagrangian(x, gradient, violation, depth, k, s_out, s_in, fourth, basis, target, multipliers, 0.0)
    hessian, jacobian = np.empty((size, size)), np.empty((m, size))
    width = 1e-5 * np.sqrt(np.dot(x, x) / size)
    for j in range(size):
        moved = x.copy()
        moved[j] += width
        lagrangian(moved, up, c_up, depth, k, s_out, s_in, fourth, basis, target, multipliers, 0.0)
        moved[j] = x[j] - width
        lagrangian(moved, down, c_down, depth, k, s_out, s_in, fourth, basis, target, multipliers, 0.0)
        hessian[:, j] = (up - down) / (2.0 * width)
        jacobian[:, j] = (c_up - c_down) / (2.0 * width)
    return trace, gradient, violation, 0.5 * (hessian + hessian.T), jacobian
