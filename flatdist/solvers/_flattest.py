"""Lemma 2's trace at layers of one hidden width, its closed-form derivatives, and Newton's iteration on interpolators.

Indices count from 0: j is the layer W_{j+1}, ``left[j]`` = W_L ... W_{j+2} and ``right[j]`` = W_j ... W_1. With
P_i = A_i right[j]^T, R_i = left[j]^T A_i and B_i = left[j]^T P_i, the j-th term's second derivative across the two
partial products is (4/n) sum_i (A_i[a, c] B_i[p, q] + P_i[a, q] R_i[p, c]), two products of matrices; all other second
derivatives are Kronecker products. The whole Hessian costs about 4 n d^2 k^2 operations, as much as a few gradients.

The constraints are Q vec(W_L ... W_1) = t with orthonormal rows Q. Their Jacobian loses rank together with the layers,
so multipliers need not be unique; the augmented Lagrangian

    phi(W) = trace + <lambda, c> + (rho / 2) ||c||^2

has a Newton step that does not need them to be, and taking lambda + rho (c + J dW) for the next multipliers after a
full step makes it the stabilised sequential quadratic programming of Wright (1998), which converges fast.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg

from flatdist.factorization.flatness import second_moments
from flatdist.factorization.products import end_to_end, partial_products, prediction_jacobian, pulled_back
from flatdist.types import Array

_FLAT = 1e-9  # of the largest second derivative: added along directions that turn the hidden bases
_SHIFT = 1e-4  # of it: the first shift of a Hessian that is not positive
_NEAR = 1e-5  # residual from which the penalty is
_FIRMER = 100.0  # times as large, so that a full step gains three digits rather than one
_SHORTEST = 1e-6  # steps below this are rounding error


@dataclass(frozen=True)
class ScaledProblem:
    """A problem in units in which traces, layers and violations are of order one."""

    depth: int  # L
    stack: Array  # measurements with mean squared entry 1, (n, d_out, d_in)
    rows: Array  # orthonormal rows spanning them, (m, d_out d_in)
    target: Array  # what the rows must measure, (m,)

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in)."""
        _, d_out, d_in = self.stack.shape
        return d_out, d_in

    @property
    def unit(self) -> float:
        """The size of traces: Lemma 4's bound at nuclear norm 1."""
        return float(2.0 * self.depth * np.prod(self.shape) ** (1.0 / self.depth))

    @cached_property
    def moments(self) -> tuple[Array, Array]:
        """S_out and S_in."""
        return second_moments(self.stack)

    @cached_property
    def row_stack(self) -> Array:
        """The rows as matrices, (m, d_out, d_in)."""
        return np.ascontiguousarray(self.rows).reshape(-1, *self.shape)


class Point:
    """Layers W_1 (k, d_in), W_2 ... W_{L-1} (k, k), W_L (d_out, k), with the trace and the constraints there."""

    def __init__(self, problem: ScaledProblem, layers: list[Array]) -> None:
        self.problem, self.layers, self.k = problem, layers, len(layers[0])
        n, (d_out, d_in), (s_out, s_in) = len(problem.stack), problem.shape, problem.moments
        self._products: tuple[list[Any], list[Any]] = partial_products(layers)
        left, right = self._products
        self.matrix = left[0] @ layers[0]
        self.miss = problem.rows @ self.matrix.ravel() - problem.target  # (m,)
        self._out, self._in = s_out @ left[0], right[-1] @ s_in
        total = np.vdot(self._out, left[0]) + np.vdot(self._in, right[-1])
        self._tall: dict[int, Array] = {}  # P_i, (n, d_out, k)
        self._core: dict[int, Array] = {}  # B_i, (n, k, k)
        for j in range(1, problem.depth - 1):
            self._tall[j] = (problem.stack.reshape(-1, d_in) @ right[j].T).reshape(n, d_out, self.k)
            self._core[j] = left[j].T @ self._tall[j]
            total += np.vdot(self._core[j], self._core[j]) / n
        self.trace = 2.0 * float(total)

    def moved(self, step: Array, length: float = 1.0) -> Point:
        """The point at the layers plus a multiple of a step, one vector, W_1 first."""
        layers, at = [], 0
        for layer in self.layers:
            layers.append(layer + length * step[at : at + layer.size].reshape(layer.shape))
            at += layer.size
        return Point(self.problem, layers)

    def lagrangian(self, multipliers: Array, rho: float) -> float:
        """phi."""
        return self.trace + float(multipliers @ self.miss) + 0.5 * rho * float(self.miss @ self.miss)

    @property
    def violation(self) -> float:
        """||c|| relative to ||t||."""
        return float(np.linalg.norm(self.miss) / np.linalg.norm(self.problem.target))

    @cached_property
    def _wide(self) -> dict[int, Array]:
        """R_i, (n, k, d_in)."""
        return {j: self._products[0][j].T @ self.problem.stack for j in self._core}

    @cached_property
    def _slopes(self) -> tuple[list[Any], list[Any]]:
        """Derivatives of the trace in left[j] and right[j]."""
        n, empty = len(self.problem.stack), [0.0] * self.problem.depth
        by_left, by_right = [4.0 * self._out, *empty[1:]], [*empty[1:], 4.0 * self._in]
        for j, core in self._core.items():
            by_left[j] = 4.0 / n * np.tensordot(self._tall[j], core, ((0, 2), (0, 2)))
            by_right[j] = 4.0 / n * np.tensordot(core, self._wide[j], ((0, 1), (0, 1)))
        return by_left, by_right

    @cached_property
    def gradient(self) -> Array:
        """Of the trace in the layers, one vector."""
        return np.concatenate([part.ravel() for part in pulled_back(self.layers, self._products, *self._slopes)])

    @cached_property
    def jacobian(self) -> Array:
        """Of the constraints, (m, unknowns)."""
        return prediction_jacobian(self.layers, self.problem.row_stack)

    def _between(self, high: int, low: int) -> Array:
        """layers[high] ... layers[low]; the identity where that is empty."""
        if high < low:
            return np.eye(len(self.layers[high]) if low else self.problem.shape[1])
        return end_to_end(self.layers[low : high + 1])

    def hessian(self, multipliers: Array) -> Array:
        """Of trace + <multipliers, c>, (unknowns, unknowns)."""
        problem, k, between = self.problem, self.k, self._between
        last, n, (d_out, d_in) = problem.depth - 1, len(problem.stack), problem.shape
        ends = np.cumsum([0, *(layer.size for layer in self.layers)])
        hessian = np.zeros((ends[-1], ends[-1]))

        def add(one: int, other: int, block: Array) -> None:
            rows, columns = slice(ends[one], ends[one + 1]), slice(ends[other], ends[other + 1])
            block = block.reshape(rows.stop - rows.start, -1)
            hessian[rows, columns] += block
            if one != other:
                hessian[columns, rows] += block.T

        def bilinear(high: int, low: int, slope: Array) -> None:
            """Of <slope, layers[high] ... layers[low]>."""
            for one in range(high, low, -1):
                above = between(high, one + 1).T @ slope
                for other in range(one - 1, low - 1, -1):
                    around, inside = above @ between(other - 1, low).T, between(one - 1, other + 1)
                    add(one, other, around[:, None, None, :] * inside[None, :, :, None])

        def quadratic(high: int, low: int, outer: Array | None, inner: Array | None) -> None:
            """Of <outer dX, dX inner> / 2 for X = layers[high] ... layers[low]; None is the identity."""
            for one in range(high, low - 1, -1):
                above, below = between(high, one + 1).T, between(one - 1, low)
                above, below = above if outer is None else above @ outer, below if inner is None else below @ inner
                for other in range(one, low - 1, -1):
                    by_row, by_column = above @ between(high, other + 1), below @ between(other - 1, low).T
                    add(one, other, by_row[:, None, :, None] * by_column[None, :, None, :])

        by_left, by_right = self._slopes
        bilinear(last, 0, (multipliers @ problem.rows).reshape(d_out, d_in))
        quadratic(last, 1, 4.0 * problem.moments[0], None)
        quadratic(last - 1, 0, None, 4.0 * problem.moments[1])
        for j in range(last):
            bilinear(last, j + 1, by_left[j])
            bilinear(j, 0, by_right[j + 1])
        for j, core in self._core.items():
            tall, wide = self._tall[j], self._wide[j]
            rows, columns = tall.transpose(1, 0, 2).reshape(d_out, -1), wide.reshape(-1, d_in)
            quadratic(last, j + 1, rows @ rows.T * (4.0 / n), None)
            quadratic(j - 1, 0, None, columns.T @ columns * (4.0 / n))
            across = (problem.stack.reshape(n, -1).T @ core.reshape(n, -1)).reshape(d_out, d_in, k, k)
            cross = across.transpose(0, 2, 3, 1)  # (a, p, q, c): left[j][a, p] against right[j][q, c]
            swapped = (tall.reshape(n, -1).T @ wide.reshape(n, -1)).reshape(d_out, k, k, d_in)
            cross = (cross + swapped.transpose(0, 2, 1, 3)) * (4.0 / n)
            for one in range(last, j, -1):
                part = cross
                if one < last:
                    part = np.tensordot(between(last, one + 1), part, (0, 0))
                if one > j + 1:
                    part = np.tensordot(between(one - 1, j + 1), part, (1, 1)).swapaxes(0, 1)
                for other in range(j - 1, -1, -1):
                    block = part @ between(other - 1, 0).T
                    if other < j - 1:
                        block = np.moveaxis(np.tensordot(between(j - 1, other + 1), block, (0, 2)), 0, 2)
                    add(one, other, block)
        return hessian

    def stationarity(self, multipliers: Array) -> float:
        """||gradient + J^T lambda|| / ||gradient||."""
        pull = self.gradient + self.jacobian.T @ multipliers
        return float(np.linalg.norm(pull) / np.linalg.norm(self.gradient))

    def nearest_multipliers(self) -> Array:
        """Multipliers with the least stationarity, (m,)."""
        return np.asarray(scipy.linalg.lstsq(self.jacobian.T, -self.gradient, cond=1e-10, lapack_driver="gelsy")[0])

    def is_minimum(self, multipliers: Array) -> bool:
        """Whether the Hessian is positive along the constraints, up to the turns of hidden bases, at this width."""
        hessian = self.hessian(multipliers)
        top = float(np.abs(np.diag(hessian)).max())
        stiffness = 1e3 * top / np.linalg.norm(self.jacobian, 2) ** 2
        hessian += stiffness * (self.jacobian.T @ self.jacobian)
        hessian[np.diag_indices_from(hessian)] += 1e2 * _FLAT * top
        return bool(scipy.linalg.lapack.dpotrf(hessian, lower=1, clean=0)[1] == 0)


@dataclass
class Descent:
    """Where Newton's iteration ended, and after how many steps."""

    point: Point
    multipliers: Array  # (m,)
    residual: float  # the larger of relative violation and stationarity
    steps: int
    found: object = None  # what the caller's inspection returned when it ended the iteration


def descend(
    point: Point,
    multipliers: Array,
    rho: float,
    *,
    tolerance: float,
    steps: int,
    inspect: Callable[[Point, Array], object | None] | None = None,
) -> Descent:
    """Minimise the trace over interpolators of this hidden width, from layers that need not interpolate.

    ``rho`` is the first penalty; ``tolerance`` the residual at which to stop. ``inspect`` looks at an iterate whenever
    the residual has fallen by 20, once it is below 3e-3; what it returns ends the iteration.
    """
    inspect_below = 3e-3
    shift, last_violation, best, candidate, residual, firm = 0.0, np.inf, np.inf, None, np.inf, _FIRMER * rho
    for step in range(steps):
        gradient, jacobian, violation = point.gradient, point.jacobian, point.violation
        if candidate is not None:
            reached = max(point.stationarity(candidate), violation)
            if reached <= 0.5 * best:
                multipliers, best = candidate, reached
        ahead = multipliers + rho * point.miss
        stationarity = point.stationarity(ahead)
        if stationarity <= max(0.3 * violation, tolerance) or stationarity < 1e-2 * violation:
            if violation > 0.25 * last_violation:
                rho *= 4.0
            last_violation, multipliers = violation, ahead
            ahead = multipliers + rho * point.miss
            best = min(best, max(stationarity, violation))
        before, residual = residual, max(point.stationarity(multipliers), violation)
        if residual <= tolerance or (inspect is None and residual < 1e-9 and residual > 0.5 * before):
            return Descent(point, multipliers, residual, step)
        if inspect is not None and residual < inspect_below:
            inspect_below = 0.05 * residual
            found = inspect(point, multipliers)
            if found is not None:
                return Descent(point, multipliers, residual, step, found)
        rho = max(rho, firm) if residual < _NEAR and not shift else rho
        ahead = multipliers + rho * point.miss
        slope = gradient + jacobian.T @ ahead
        hessian = point.hessian(ahead).T  # symmetric, and in the order of LAPACK
        top = float(np.abs(np.diag(hessian)).max())
        hessian = scipy.linalg.blas.dsyrk(rho, jacobian.T, beta=1.0, c=hessian, lower=1, overwrite_c=1)
        diagonal = np.diag(hessian).copy()
        least = max(_FLAT * top, 1e-13 * float(diagonal.max()))
        used = max(0.2 * shift, least)
        while True:
            hessian[np.diag_indices_from(hessian)] = diagonal + used
            factor, failed = scipy.linalg.lapack.dpotrf(hessian, lower=1, clean=0)
            if not failed:
                break
            used = max(4.0 * used, _SHIFT * top)
        shift = used if used > 2.0 * least else 0.0
        move = -scipy.linalg.lapack.dpotrs(factor, slope, lower=1)[0]
        decrease, height, length = float(slope @ move), point.lagrangian(multipliers, rho), 1.0
        after = point.moved(move)
        while after.lagrangian(multipliers, rho) > height + 1e-4 * length * decrease + 1e-13 * abs(height):
            length *= 0.5
            if length < _SHORTEST:
                return Descent(point, multipliers, residual, step)
            after = point.moved(move, length)
        candidate = ahead + rho * (jacobian @ move) if length == 1.0 and not shift else None
        point = after
    return Descent(point, multipliers, residual, steps)
