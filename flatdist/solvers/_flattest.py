"""Lemma 2's trace at layers of one hidden width, its closed-form derivatives, and Newton's iteration on interpolators.

With P_i = A_i (W_{j-1} ... W_1)^T, R_i = (W_L ... W_{j+1})^T A_i and B_i = (W_L ... W_{j+1})^T P_i, the j-th term's
second derivative across the two partial products is (4/n) sum_i (A_i[a, c] B_i[p, q] + P_i[a, q] R_i[p, c]), two
products of matrices; all other second derivatives are Kronecker products. The whole Hessian costs about 4 n d^2 k^2
operations, as much as a few gradients.

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

import numpy as np
import scipy.linalg

from flatdist.types import Array

_FLAT = 1e-9  # of the largest second derivative: added along directions that turn the hidden bases
_SHIFT = 1e-4  # of it: the first shift of a Hessian that is not positive
_NEAR = 1e-5  # residual from which the penalty is
_FIRMER = 100.0  # times as large, so that a full step gains three digits rather than one
_SHORTEST = 1e-6  # steps below this are rounding error


@dataclass(frozen=True)
class ScaledProblem:
    """A problem in units in which traces, layers and violations are of order one.

    Attributes:
        depth: L.
        stack: measurements with mean squared entry 1, (n, d_out, d_in).
        rows: orthonormal rows spanning them, (m, d_out d_in).
        target: what the rows must measure, (m,).
    """

    depth: int
    stack: Array
    rows: Array
    target: Array

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
    def s_out(self) -> Array:
        """(1/n) sum_i A_i A_i^T."""
        return np.tensordot(self.stack, self.stack, ((0, 2), (0, 2))) / len(self.stack)

    @cached_property
    def s_in(self) -> Array:
        """(1/n) sum_i A_i^T A_i."""
        return np.tensordot(self.stack, self.stack, ((0, 1), (0, 1))) / len(self.stack)

    @cached_property
    def row_stack(self) -> Array:
        """The rows as matrices, (m, d_out, d_in)."""
        return np.ascontiguousarray(self.rows).reshape(-1, *self.shape)


class Point:
    """Layers W_1 (k, d_in), W_2 ... W_{L-1} (k, k), W_L (d_out, k), with the trace and the constraints there.

    Attributes:
        matrix: W_L ... W_1.
        trace: Lemma 2's sum.
        miss: Q vec(M) - t, (m,).
    """

    def __init__(self, problem: ScaledProblem, layers: list[Array]) -> None:
        self.problem, self.layers, self.k = problem, layers, len(layers[0])
        depth, n = problem.depth, len(problem.stack)
        d_out, d_in = problem.shape
        self._left = {depth - 1: layers[-1]}  # j: W_L ... W_{j+1}
        for j in range(depth - 2, 0, -1):
            self._left[j] = self._left[j + 1] @ layers[j]
        self._right = {2: layers[0]}  # j: W_{j-1} ... W_1
        for j in range(3, depth + 1):
            self._right[j] = layers[j - 2] @ self._right[j - 1]
        self.matrix = self._left[1] @ layers[0]
        self.miss = problem.rows @ self.matrix.ravel() - problem.target
        self._out, self._in = problem.s_out @ self._left[1], self._right[depth] @ problem.s_in
        total = np.vdot(self._out, self._left[1]) + np.vdot(self._in, self._right[depth])
        self._tall: dict[int, Array] = {}  # P_i, (n, d_out, k)
        self._core: dict[int, Array] = {}  # B_i, (n, k, k)
        for j in range(2, depth):
            self._tall[j] = (problem.stack.reshape(-1, d_in) @ self._right[j].T).reshape(n, d_out, self.k)
            self._core[j] = self._left[j].T @ self._tall[j]
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
        return {j: self._left[j].T @ self.problem.stack for j in range(2, self.problem.depth)}

    @cached_property
    def _slopes(self) -> tuple[dict[int, Array], dict[int, Array]]:
        """Derivatives of the trace in the partial products W_L ... W_{j+1} and W_{j-1} ... W_1."""
        depth, n = self.problem.depth, len(self.problem.stack)
        left, right = {1: 4.0 * self._out}, {depth: 4.0 * self._in}
        for j in range(2, depth):
            left[j] = 4.0 / n * np.tensordot(self._tall[j], self._core[j], ((0, 2), (0, 2)))
            right[j] = 4.0 / n * np.tensordot(self._core[j], self._wide[j], ((0, 1), (0, 1)))
        return left, right

    @cached_property
    def gradient(self) -> Array:
        """Of the trace in the layers, one vector."""
        depth, (left, right) = self.problem.depth, self._slopes
        parts: list[Array] = []
        pulled = left[1]
        for j in range(1, depth - 1):  # W_L ... W_{j+1} = (W_L ... W_{j+2}) W_{j+1}
            parts.append(self._left[j + 1].T @ pulled)
            pulled = left[j + 1] + pulled @ self.layers[j].T
        parts = [np.zeros_like(self.layers[0]), *parts, pulled]
        pulled = right[depth]
        for j in range(depth - 1, 1, -1):  # W_j ... W_1 = W_j (W_{j-1} ... W_1)
            parts[j - 1] = parts[j - 1] + pulled @ self._right[j].T
            pulled = right[j] + self.layers[j - 1].T @ pulled
        parts[0] = pulled
        return np.concatenate([part.ravel() for part in parts])

    @cached_property
    def jacobian(self) -> Array:
        """Of the constraints, (m, unknowns)."""
        depth, parts = self.problem.depth, []
        for j in range(1, depth + 1):
            block = self.problem.row_stack if j == depth else self._left[j].T @ self.problem.row_stack
            block = block if j == 1 else block @ self._right[j].T
            parts.append(block.reshape(len(block), -1))
        return np.concatenate(parts, axis=1)

    def _segment(self, high: int, low: int) -> Array:
        """W_high ... W_low; the identity where that is empty."""
        if high < low:
            return np.eye(len(self.layers[high - 1]) if high else self.problem.shape[1])
        product = self.layers[low - 1]
        for j in range(low, high):
            product = self.layers[j] @ product
        return product

    def hessian(self, multipliers: Array) -> Array:
        """Of trace + <multipliers, c>, (unknowns, unknowns)."""
        problem, k = self.problem, self.k
        depth, n, (d_out, d_in) = problem.depth, len(problem.stack), problem.shape
        ends = np.cumsum([0, *(layer.size for layer in self.layers)])
        hessian = np.zeros((ends[-1], ends[-1]))
        left_slopes, right_slopes = self._slopes

        def add(one: int, other: int, block: Array) -> None:
            rows, columns = slice(ends[one - 1], ends[one]), slice(ends[other - 1], ends[other])
            block = block.reshape(rows.stop - rows.start, -1)
            hessian[rows, columns] += block
            if one != other:
                hessian[columns, rows] += block.T

        def bilinear(high: int, low: int, slope: Array) -> None:
            """Of <slope, W_high ... W_low>."""
            for one in range(high, low, -1):
                above = self._segment(high, one + 1).T @ slope
                for other in range(one - 1, low - 1, -1):
                    around, between = above @ self._segment(other - 1, low).T, self._segment(one - 1, other + 1)
                    add(one, other, around[:, None, None, :] * between[None, :, :, None])

        def quadratic(high: int, low: int, outer: Array | None, inner: Array | None) -> None:
            """Of <outer dX, dX inner> / 2 for X = W_high ... W_low, dX = B_l dW_l C_l; None is the identity."""
            for one in range(high, low - 1, -1):
                above, below = self._segment(high, one + 1).T, self._segment(one - 1, low)
                above, below = above if outer is None else above @ outer, below if inner is None else below @ inner
                for other in range(one, low - 1, -1):
                    by_row, by_column = above @ self._segment(high, other + 1), below @ self._segment(other - 1, low).T
                    add(one, other, by_row[:, None, :, None] * by_column[None, :, None, :])

        pull = (multipliers @ problem.rows).reshape(d_out, d_in)
        bilinear(depth, 1, pull)
        quadratic(depth, 2, 4.0 * problem.s_out, None)
        quadratic(depth - 1, 1, None, 4.0 * problem.s_in)
        for j in range(1, depth):
            bilinear(depth, j + 1, left_slopes[j])
            bilinear(j, 1, right_slopes[j + 1])
        for j in range(2, depth):
            tall, core, wide = self._tall[j], self._core[j], self._wide[j]
            rows, columns = tall.transpose(1, 0, 2).reshape(d_out, -1), wide.reshape(-1, d_in)
            quadratic(depth, j + 1, rows @ rows.T * (4.0 / n), None)
            quadratic(j - 1, 1, None, columns.T @ columns * (4.0 / n))
            across = (problem.stack.reshape(n, -1).T @ core.reshape(n, -1)).reshape(d_out, d_in, k, k)
            cross = across.transpose(0, 2, 3, 1)  # (a, p, q, c): W_L ... W_{j+1} [a, p] against W_{j-1} ... W_1 [q, c]
            swapped = (tall.reshape(n, -1).T @ wide.reshape(n, -1)).reshape(d_out, k, k, d_in)
            cross = (cross + swapped.transpose(0, 2, 1, 3)) * (4.0 / n)
            for one in range(depth, j, -1):
                part = cross
                if one < depth:
                    part = np.tensordot(self._segment(depth, one + 1), part, (0, 0))
                if one > j + 1:
                    part = np.tensordot(self._segment(one - 1, j + 1), part, (1, 1)).swapaxes(0, 1)
                for other in range(j - 1, 0, -1):
                    block = part @ self._segment(other - 1, 1).T
                    if other < j - 1:
                        block = np.moveaxis(np.tensordot(self._segment(j - 1, other + 1), block, (0, 2)), 0, 2)
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
    """Where Newton's iteration ended.

    Attributes:
        point: the layers.
        multipliers: (m,).
        residual: the larger of relative violation and stationarity.
        steps: Newton steps taken.
        found: what the caller's inspection returned when it ended the iteration; None where nothing did.
    """

    point: Point
    multipliers: Array
    residual: float
    steps: int
    found: object = None


def descend(
    point: Point,
    multipliers: Array,
    rho: float,
    *,
    tolerance: float,
    steps: int,
    inspect: Callable[[Point, Array], object | None] | None = None,
    inspect_below: float = 3e-3,
) -> Descent:
    """Minimise the trace over interpolators of this hidden width.

    Args:
        point: where to start; it need not interpolate.
        multipliers: (m,), to start from.
        rho: first penalty.
        tolerance: residual at which to stop.
        steps: Newton steps at most.
        inspect: looks at an iterate whenever the residual has fallen by 20; what it returns ends the iteration.
        inspect_below: residual below which it does.
    """
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
