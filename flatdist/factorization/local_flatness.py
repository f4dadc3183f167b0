"""Is a low-rank matrix a sharp local minimum of the induced regularizer F among the interpolators? A convex condition.

With the minimisers X_j of F(M) (:mod:`flatdist.factorization.regularizer`) and Y_j = M^T X_j^+ M frozen at M in

    C_j = (1/n) sum_i A_i Y_{j-1} A_i^T,    D_j = (1/n) sum_i A_i^T X_{j+1} A_i,    j = 1 ... L-1,  Y_0 = I,  X_L = I,

F changes to first order as G(M) = 4 sum_j || C_j^{1/2} M D_j^{1/2} ||_* (docs/mathematics.md). On the normal space of
the rank-r matrices at M, N = U_c^T D V_c, each norm changes by || C~^{1/2} N D~^{1/2} ||_*, with Schur complements C~
and D~; elsewhere G is smooth. Eliminating the smooth part with the constraints A(D) = 0 leaves

    nu = max { <H, N> : sum_j || C~_j^{1/2} N D~_j^{1/2} ||_* <= 1, K N = 0 },

and M is a sharp local minimum of F among the interpolators if and only if nu < 1. As L grows, all weights except those
at the ends become equal, and the condition at infinite depth has a single term.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.linalg

from flatdist.errors import SolverError
from flatdist.factorization.flatness import second_moments
from flatdist.factorization.geodesics import RANK, minimise_along_geodesics, stationary_frame, thin_svd
from flatdist.factorization.products import partial_products
from flatdist.sensing.measurements import as_measurements
from flatdist.types import Array

Term = tuple[float, Array, Array]  # multiplicity, C (d_out, d_out), D (d_in, d_in)
Factors = tuple[float, Array, Array]  # multiplicity, left and right factor: dense, or the entries of a diagonal one

_ITERATIONS = 4000
_SEPARATED = 1e-9  # directions with less energy in the measurements than this, relative to others, count as unmeasured
_DEPENDENT = 1e-6  # rows this near to the span of others are checked again
_CHECK_EVERY = 10
_OVERSTEP = 1.7
_POWERS = 12  # power iterations for the largest eigenvalue of a metric,
_ABOVE = 1.03  # and what is added to it
NEAR = 1e-6  # a bracket that still contains 1 is narrowed to this


def local_flatness(matrix: Any, measurements: Any, depth: float = 3, *, tolerance: float = 1e-3) -> tuple[float, float]:
    """Certified bounds on nu: the matrix is a sharp local minimum of F among the interpolators iff nu < 1.

    Args:
        matrix: M, (d_out, d_in), of the rank its singular values show (those above 1e-10 of the largest).
        measurements: (n, d_out, d_in), numpy or torch, or as an ensemble keeps them.
        depth: L, a whole number of at least 2, or ``math.inf``.
        tolerance: relative width of the bracket; one that contains 1 is narrowed further, to 1e-6.

    Returns:
        (low, high) with low <= nu <= high, from feasible points of a convex program and its dual. (inf, inf) if the
        measurements do not separate the tangent space at M, as for n < r (d_out + d_in - r).

    Raises:
        SolverError: the depth, matrix or measurements are invalid, or F is not attained at the matrix.

    Example:
        >>> import numpy as np
        >>> from flatdist import local_flatness
        >>> measurements = np.random.default_rng(0).standard_normal((40, 8, 8))
        >>> low, high = local_flatness(np.diag([1.0] + [0.0] * 7), measurements, depth=3)
        >>> high < 1.0
        True
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    stack = np.asarray(as_measurements(measurements).dense(), dtype=np.float64)
    if not (depth == math.inf or (depth >= 2 and depth == int(depth))):
        raise SolverError(f"local_flatness: depth must be a whole number of at least 2, or math.inf (got {depth!r})")
    if matrix.ndim != 2 or stack.ndim != 3 or stack.shape[1:] != matrix.shape or not len(stack):
        raise SolverError(
            f"local_flatness: a matrix of shape {matrix.shape} and measurements of shape {stack.shape} do not fit; "
            "give (d_out, d_in) and (n, d_out, d_in)"
        )
    if not (np.isfinite(matrix).all() and np.isfinite(stack).all()):
        raise SolverError("local_flatness: every entry of the matrix and the measurements must be finite")
    if not matrix.any():
        raise SolverError("local_flatness: F has no local theory at the zero matrix; give a matrix that is not zero")
    condition = normal_condition(matrix / np.linalg.norm(matrix), stack, depth)
    return (math.inf, math.inf) if condition is None else condition.bracket(tolerance)[:2]


def normal_condition(
    matrix: Array,
    stack: Array,
    depth: float,
    *,
    rows: Array | None = None,
    terms: list[Term] | None = None,
    smooth: bool = False,
) -> NormalCondition | None:
    """The convex program behind nu at M (d_out, d_in); None if M cannot be a sharp minimum.

    Args:
        matrix: M, not zero.
        stack: measurements, (n, d_out, d_in).
        depth: L or infinity.
        rows: (m, d_out, d_in), spanning the same constraints as the measurements; default: the measurements.
        terms: weights other than those of F, for other norms.
        smooth: M is known to be stationary along the matrices of its rank, so that fewer constraints than their
            dimension are allowed.

    Raises:
        SolverError: F is not attained at M.
    """
    d_out, d_in = matrix.shape
    rows = stack if rows is None else rows
    u, spectrum, vh = np.linalg.svd(matrix)
    rank = int(np.sum(spectrum > RANK * spectrum[0]))
    spectrum = spectrum[:rank]
    shape = d_out - rank, d_in - rank
    tangent = np.ones((d_out, d_in), dtype=bool)
    tangent[rank:, rank:] = False
    dimension, m = int(tangent.sum()), len(rows)
    if m < dimension and not smooth:
        return None
    turned = u.T @ rows @ vh.T  # in the singular bases of M
    along, across = turned[:, tangent], np.ascontiguousarray(turned[:, rank:, rank:]).reshape(m, -1)
    if m >= dimension:
        q, r = np.linalg.qr(along, mode="complete")
        seen = np.abs(np.diag(r))
        if seen.min() <= _SEPARATED * seen.max():
            return None
    if not across.size:
        return NormalCondition(np.zeros(0), np.zeros((0, 0)), [], shape, u, vh)
    if terms is None:
        terms = frozen_weights(matrix, stack, depth)
    slope, weights = np.zeros((d_out, d_in)), []
    for multiplicity, by_rows, by_columns in terms:
        c, d = u.T @ by_rows @ u, vh @ by_columns @ vh.T
        try:
            c_root, d_root = np.linalg.cholesky(c).T, np.linalg.cholesky(d).T  # c = c_root^T c_root
        except np.linalg.LinAlgError:
            raise SolverError(
                "local_flatness: no measurement sees some direction of the rows or columns, so F is not a norm there; "
                "give more measurements"
            ) from None
        left, _, right = np.linalg.svd((c_root[:, :rank] * spectrum) @ d_root[:, :rank].T, full_matrices=False)
        slope += multiplicity * (c_root.T @ left[:, :rank]) @ (right[:rank] @ d_root)
        weights.append((multiplicity, _schur(c, rank), _schur(d, rank)))
    if m >= dimension:
        multipliers = q[:, :dimension] @ scipy.linalg.solve_triangular(r[:dimension], slope[tangent], trans=1)
        others = q[:, dimension:].T @ across
    else:
        multipliers = np.linalg.lstsq(along.T, slope[tangent], rcond=None)[0]
        others = np.zeros((0, across.shape[1]))
    objective = multipliers @ across - slope[rank:, rank:].ravel()
    return NormalCondition(objective, others, weights, shape, u, vh)


def _schur(symmetric: Array, rank: int) -> Array:
    corner = symmetric[rank:, :rank]
    return np.asarray(symmetric[rank:, rank:] - corner @ np.linalg.solve(symmetric[:rank, :rank], corner.T))


def frozen_weights(matrix: Array, stack: Array, depth: float) -> list[Term]:
    """(multiplicity, C_j, D_j) of G at a matrix; terms with the same weights are one, with their number.

    Raises:
        SolverError: no layers attain the least trace at M, so there is nothing to freeze.
    """
    n, d_out, d_in = stack.shape
    u, spectrum, vh = thin_svd(matrix)
    s_out, s_in = second_moments(stack)
    if depth == 2:
        return [(1.0, s_out, s_in)]
    read, seen = stack @ vh.T, u.T @ stack  # A_i V (n, d_out, r), U^T A_i (n, r, d_in)

    def by_input(y: Array) -> Array:
        """(1/n) sum_i A_i V y V^T A_i^T."""
        tall = (read @ np.linalg.cholesky(y)).transpose(1, 0, 2).reshape(d_out, -1)
        return np.asarray(tall @ tall.T / n)

    def by_output(x: Array) -> Array:
        """(1/n) sum_i A_i^T U x U^T A_i."""
        wide = (np.linalg.cholesky(x).T @ seen).reshape(-1, d_in)
        return np.asarray(wide.T @ wide / n)

    core, identity = np.diag(spectrum), np.eye(len(spectrum))
    if len(spectrum) == 1:  # X_j = x_j u u^T: closed form, each term scaled to 1 at M
        middle_out, middle_in = by_input(identity), by_output(identity)
        g = float(u[:, 0] @ middle_out @ u[:, 0])
        middle = (middle_out / g, middle_in / g)
        if depth == math.inf:
            return [(1.0, *middle)]
        first = (1.0, s_out / float(u[:, 0] @ s_out @ u[:, 0]), middle[1])
        last = (1.0, middle[0], s_in / float(vh[0] @ s_in @ vh[0]))
        return [first, *[(depth - 3.0, *middle)] * (depth > 3), last]
    if depth == math.inf:  # away from the ends the X_j are multiples of one matrix, the minimiser of a middle term
        x = stationary_frame(matrix, stack)
        return [(1.0, by_input(core @ np.linalg.solve(x, core)), by_output(x))]
    layers = minimise_along_geodesics(matrix, stack, int(depth))[1]
    if layers is None:
        raise SolverError(
            "local_flatness: no layers attain F at this matrix (the infimum is approached by layers that grow without "
            "bound), so it has no local theory there; give more measurements"
        )
    outputs, inputs = partial_products([layers[0] @ vh.T, *layers[1:-1], u.T @ layers[-1]])  # in the bases of M
    c = [s_out, *(by_input(y.T @ y) for y in inputs[1:-1] if y is not None)]
    d = [*(by_output(x @ x.T) for x in outputs[1:-1] if x is not None), s_in]
    return [(1.0, one, other) for one, other in zip(c, d, strict=True)]


@dataclass(frozen=True)
class NormalCondition:
    """max { <H, N> : sum_j w_j || C_j^{1/2} N D_j^{1/2} ||_* <= 1, K N = 0 } over normal parts N of shape (p, q).

    The last p and q of the singular vectors of M, u and vh, span the normal space.
    """

    objective: Array  # H, (p q,)
    constraints: Array  # K, (m - dim T, p q)
    weights: list[Term]  # on the normal space
    shape: tuple[int, int]  # (p, q)
    u: Array
    vh: Array

    def direction(self, normal: Array) -> Array:
        """The rank-one part of N as a (d_out, d_in) direction: where nu > 1, F falls along it."""
        left, _, right = np.linalg.svd(normal)
        return np.outer(self.u[:, -len(left) :] @ left[:, 0], right[0] @ self.vh[-len(right) :])

    def bracket(self, tolerance: float, *, decide: bool = False) -> tuple[float, float, Array]:
        """Lower and upper bound of nu, and the N (p, q) of the lower one.

        Solves the reciprocal problem, the least sum of norms at <H, N> = 1, by the alternating direction method of
        multipliers. Every N on the constraints bounds nu from below; every set of dual matrices projected onto their
        constraint bounds it from above.

        Args:
            tolerance: relative width at which to stop; a bracket that contains 1 is narrowed to 1e-6.
            decide: stop as soon as the bracket excludes 1.
        """
        p, q = self.shape
        if not self.objective.size:
            return 0.0, 0.0, np.zeros(self.shape)
        terms, left, right = self._coordinates()
        rows = (left @ np.vstack((self.objective, self.constraints)).reshape(-1, p, q) @ right.T).reshape(-1, p * q)
        if len(rows) == 1 and len(terms) == 2:
            low, high, best = _largest_ratio(rows[0].reshape(p, q), terms, tolerance, decide)
            return low, max(low, high), left.T @ best @ right
        metric = _metric(terms, (p, q))
        feasible = _Feasible.of(metric, rows)
        if feasible is None:  # <H, N> = 0 wherever K N = 0: nothing is left to move along
            return 0.0, 0.0, np.zeros(self.shape)
        level = math.sqrt(float(metric.mean()))
        normal = best = feasible.start()
        parts = _apply(terms, normal.reshape(p, q))  # (terms, p, q)
        spectra = np.linalg.svd(parts, compute_uv=False)
        threshold = 0.3 * float(spectra[:, 0].mean())
        low, high = 1.0 / float(spectra.sum()), math.inf
        copies, duals = parts, np.zeros_like(parts)
        for iteration in range(1, _ITERATIONS + 1):
            before = copies
            relaxed = _OVERSTEP * parts + (1.0 - _OVERSTEP) * before + duals
            copies = _shrunk(relaxed, threshold)
            duals = relaxed - copies
            normal = normal + feasible.projected(_adjoint(terms, copies - duals - parts))
            parts = _apply(terms, normal.reshape(p, q))
            if iteration % _CHECK_EVERY and iteration > 2:
                continue
            attained = 1.0 / float(np.linalg.svd(parts, compute_uv=False).sum())
            if attained > low:
                low, best = attained, normal
            proof = duals / threshold
            proof = proof - _apply(terms, feasible.projected(_adjoint(terms, proof)).reshape(p, q))
            proof, share = feasible.completed(terms, proof)
            if share > 0.0:
                high = min(high, float(np.linalg.svd(proof, compute_uv=False)[:, 0].max()) / share)
            undecided = low <= 1.0 <= high
            if (decide and not undecided) or high / low - 1.0 <= (min(NEAR, tolerance) if undecided else tolerance):
                break
            if 2 < iteration < _ITERATIONS // 10:  # keep primal and dual residuals alike, then leave them
                primal = np.linalg.norm(parts - copies)
                dual = np.linalg.norm(_adjoint(terms, copies - before)) / level
                change = 0.6 if primal > 4.0 * dual else 1.0 / 0.6 if dual > 4.0 * primal else 1.0
                threshold, duals = threshold * change, duals * change
        return low, max(low, high), (left.T @ best.reshape(p, q) @ right)

    def _coordinates(self) -> tuple[list[Factors], Array, Array]:
        """P, Q and the terms' factors for N = P^T N' Q, where the first term's and the last one's are diagonal."""
        (w, c, d), *others = self.weights
        rows, columns = (np.ones(size) for size in self.shape)
        if not others:
            return [(w, rows, columns)], np.linalg.inv(np.linalg.cholesky(c)), np.linalg.inv(np.linalg.cholesky(d))
        *middle, (w_last, c_last, d_last) = others
        a, left = scipy.linalg.eigh(c, c_last)  # left^T c_last left = 1, left^T c left = a
        b, right = scipy.linalg.eigh(d_last, d)
        terms: list[Factors] = [(w, np.sqrt(a), columns), (w_last, rows, np.sqrt(b))]
        for multiplicity, by_rows, by_columns in middle:
            if np.array_equal(by_rows, c_last) and np.array_equal(by_columns, d):
                terms.append((multiplicity, rows, columns))
            else:
                one, other = left.T @ by_rows @ left, right.T @ by_columns @ right
                terms.append((multiplicity, np.linalg.cholesky(one).T, np.linalg.cholesky(other)))
        return terms, left.T, right.T


def _largest_ratio(
    objective: Array, terms: list[Factors], tolerance: float, decide: bool
) -> tuple[float, float, Array]:
    """nu of two terms without constraints, a maximum over one number, and the N of rank one that has it.

        nu = max over s of || (e^s C_1 + C_2)^{-1/2} H (e^{-s} D_1 + D_2)^{-1/2} ||    (docs/mathematics.md)

    The logarithm of that is a maximum of functions with second derivatives in [-1/2, 0]: between two values of s it
    exceeds their chord by at most (s - s_1)(s_2 - s) / 4, and beyond both ends the weights are monotone.
    """
    (w, a, _), (w_last, _, b) = terms
    of_rows, of_columns = (w * a) ** 2, b**2

    def scaled(s: float, other: float) -> Array:
        along = objective / np.sqrt(np.exp(s) * of_rows + w_last**2)[:, None]
        return np.asarray(along / np.sqrt(np.exp(-other) + of_columns))

    def value(s: float, other: float | None = None) -> float:
        return math.log(float(np.linalg.norm(scaled(s, s if other is None else other), 2)))

    points = np.linspace(-8.0, 8.0, 17)
    heights = [value(s) for s in points]
    ends = value(-np.inf, points[0]), value(points[-1], np.inf)
    intervals = [_chord(*pair, *tops) for pair, tops in zip(pairwise(points), pairwise(heights), strict=True)]
    best = float(points[int(np.argmax(heights))])
    low = max(heights)
    while True:
        highest = max(intervals, key=lambda interval: interval[0])
        bound, start, stop, first, last = highest
        high = max(low, bound, *ends)
        undecided = low <= 0.0 <= high
        near = math.log1p(min(NEAR, tolerance) if undecided else tolerance)
        if (decide and not undecided) or high - low <= near or bound <= max(low, *ends):
            break
        middle = 0.5 * (start + stop)
        height = value(middle)
        if height > low:
            low, best = height, middle
        intervals.remove(highest)
        intervals += [_chord(start, middle, first, height), _chord(middle, stop, height, last)]
    u, _, vh = np.linalg.svd(scaled(best, best))
    x = u[:, 0] / np.sqrt(np.exp(best) * of_rows + w_last**2)
    y = vh[0] / np.sqrt(np.exp(-best) + of_columns)
    size = w * np.linalg.norm(a * x) * np.linalg.norm(y) + w_last * np.linalg.norm(x) * np.linalg.norm(b * y)
    normal = np.outer(x, y) / size
    return max(math.exp(low), float(np.vdot(objective, normal))), math.exp(high), normal


def _chord(start: float, stop: float, first: float, last: float) -> tuple[float, float, float, float, float]:
    """The most that a function at most (s - start)(stop - s) / 4 above its chord can be, and its ends and values."""
    length = stop - start
    slope = (last - first) / length
    at = min(max(0.5 * length + 2.0 * slope, 0.0), length)
    return first + slope * at + 0.25 * at * (length - at), start, stop, first, last


@dataclass(frozen=True)
class _Feasible:
    """{N : <H, N> = 1, K N = 0} and projections onto it in a diagonal metric G."""

    metric: Array  # G's diagonal
    weighted: Array  # G^-1 R^T, R the rows H and K, each scaled to unit length in G^-1
    factor: Array  # Cholesky factor of R G^-1 R^T
    scale: float  # what H was multiplied by

    @classmethod
    def of(cls, metric: Array, rows: Array) -> _Feasible | None:
        """The set; None if it is empty because H is a combination of the rows of K."""
        for attempt in range(2):
            weighted = rows.T / metric[:, None]
            gram = rows @ weighted
            scale = 1.0 / np.sqrt(np.diag(gram))
            factor, failed = scipy.linalg.lapack.dpotrf(gram * scale[:, None] * scale, lower=1, clean=1)
            independent = len(rows) <= rows.shape[1] and not failed and factor.diagonal().min() > _DEPENDENT
            if independent or (attempt and not failed):
                return cls(metric, weighted * scale, factor, float(scale[0]))
            if attempt or len(rows) == 1:
                break
            triangle, order = scipy.linalg.qr(rows[1:].T, mode="r", pivoting=True)
            size = np.abs(np.diag(triangle))
            kept = rows[1:][order[: len(size)][size > _SEPARATED * size[0]]]
            basis = np.linalg.qr(kept.T)[0]
            if np.linalg.norm(rows[0] - basis @ (basis.T @ rows[0])) <= _SEPARATED * np.linalg.norm(rows[0]):
                break
            rows = np.vstack((rows[:1], kept))
        return None

    def _solved(self, values: Array) -> Array:
        return np.asarray(scipy.linalg.lapack.dpotrs(self.factor, values, lower=1)[0])

    def start(self) -> Array:
        unit = np.zeros(len(self.factor))
        unit[0] = self.scale
        return self.weighted @ self._solved(unit)

    def projected(self, values: Array) -> Array:
        """G^-1 v, less its part that would leave the set."""
        return np.asarray(values / self.metric - self.weighted @ self._solved(self.weighted.T @ values))

    def completed(self, terms: list[Factors], proof: Array) -> tuple[Array, float]:
        """Dual matrices whose adjoint is a combination of the rows, and the coefficient of H in it.

        The first two terms, whose factors are diagonal, share the remainder.
        """
        values = _adjoint(terms, proof)
        solved = self._solved(self.weighted.T @ values)
        missing = (values - self.metric * (self.weighted @ solved)).reshape(proof.shape[1:])
        ends = terms[:2]
        for index, (w, left, right) in enumerate(ends):
            proof[index] -= missing / (w * len(ends) * left[:, None] * right)
        return proof, float(solved[0]) * self.scale


def _metric(terms: list[Factors], shape: tuple[int, int]) -> Array:
    """A diagonal metric of at least sum_j w_j^2 C_j (x) D_j, equal to it where all factors are diagonal, (p q,)."""
    metric = np.zeros(shape)
    for w, left, right in terms:
        by_row = left**2 if left.ndim == 1 else (left**2).sum(axis=0)
        by_column = right**2 if right.ndim == 1 else (right**2).sum(axis=1)
        metric += w * w * by_row[:, None] * by_column
    if all(left.ndim == right.ndim == 1 for _, left, right in terms):
        return metric.ravel()
    root, vector = np.sqrt(metric), np.ones(shape) / np.sqrt(metric.size)
    for _ in range(_POWERS):
        image = _adjoint(terms, _apply(terms, vector / root)).reshape(shape) / root
        largest = float(np.linalg.norm(image))
        vector = image / largest
    return np.asarray(_ABOVE * largest * metric.ravel())


def _shrunk(parts: Array, threshold: float) -> Array:
    """Every matrix with its singular values lowered by ``threshold``, those below it to 0."""
    gram = parts.mT @ parts if parts.shape[1] >= parts.shape[2] else parts @ parts.mT
    squares, vectors = np.linalg.eigh(gram)
    kept = np.maximum(1.0 - threshold / np.sqrt(np.maximum(squares, threshold**2)), 0.0)
    share = (vectors * kept[:, None, :]) @ vectors.mT
    return np.asarray(parts @ share if parts.shape[1] >= parts.shape[2] else share @ parts)


def _apply(terms: list[Factors], normal: Array) -> Array:
    """w_j C_j^{1/2} N D_j^{1/2} up to rotations, (terms, p, q)."""
    return np.array([w * _between(left, normal, right) for w, left, right in terms])


def _adjoint(terms: list[Factors], parts: Array) -> Array:
    total = np.zeros(parts.shape[1:])
    for part, (w, left, right) in zip(parts, terms, strict=True):
        total += w * _between(left.T, part, right.T)
    return total.ravel()


def _between(left: Array, matrix: Array, right: Array) -> Array:
    matrix = left[:, None] * matrix if left.ndim == 1 else left @ matrix
    return matrix * right if right.ndim == 1 else matrix @ right
