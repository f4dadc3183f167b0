"""The flattest interpolator: min tr Hess L(W) subject to L(W) = 0 (equation 3 of Gatmiry et al. 2023).

Depth 2 is convex (Theorem 5) and is solved as such. From depth 3 on an instance goes through at most two stages:

1. A low-rank interpolator that might be the answer, the minimum of the nuclear norm or one near it, with the layers of
   least trace at it (:mod:`flatdist.factorization.geodesics`). If it is a sharp local minimum of the induced
   regularizer F among all interpolators, which is a convex condition
   (:mod:`flatdist.factorization.local_flatness`), it is the answer: no descent at all where nuclear norm, or nearly
   nuclear norm, recovers.
2. Several descents by Newton's iteration at a small hidden width (:mod:`flatdist.solvers._flattest`) that grows where
   the solution uses it up. The lowest proved end wins; how far the others ended above it is part of the certificate.

Every answer of either stage is proved a strict local minimum at full width, or not certified: its Hessian is positive
along the constraints at its own rank, and F rises in every direction that raises the rank (nu < 1). A stationary point
with nu > 1 is a saddle, and its direction of descent starts the next descent.

Rows and columns that no measurement involves are set to zero: the problem is solved in the remaining coordinates, and
"full width" means their number. Hidden widths beyond min(d_out, d_in) change nothing
(:mod:`flatdist.factorization.regularizer`); the answer is padded with zeros to the widths asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import threadpoolctl
import torch

from flatdist.errors import SolverError
from flatdist.factorization.flatness import second_moments
from flatdist.factorization.geodesics import minimise_along_geodesics
from flatdist.factorization.local_flatness import normal_condition
from flatdist.factorization.products import all_widths
from flatdist.factorization.regularizer import balanced_factorization
from flatdist.solvers._flattest import Point, ScaledProblem, descend
from flatdist.solvers.constraints import Constraints, constraints_of
from flatdist.solvers.low_rank import EXACT, LowRank, degrees_of_freedom, interpolate
from flatdist.solvers.min_nuclear_norm import min_nuclear_norm, nuclear_norm_minimum
from flatdist.solvers.solution import TOLERANCE, Answer, ArrayLike, Certificate, Instances, Solution
from flatdist.types import Array

_STARTS = 3  # descents to compare if no low-rank interpolator is proved to be the answer
_FIRMNESS = (60.0, 60.0, 10.0)  # first penalty of start 0, 1, 2, 0, ...: softer ones end in other minima, at times
_SPARE = 3  # hidden units beyond those the constraints need; a descent without any ends in higher minima
_STEPS = 200  # of one descent
_GROWTHS = 8  # saddles that one descent may leave
_FINISHED = 1e-10  # residual at which a descent ends
_FINISHING = 25  # Newton steps of a finish at one rank
_SAME = 0.02  # a descent this near to a proved minimum, relative to it, that is finished at its rank, has ended there
_RANKED = 1e-6  # singular values below this part of the largest count as zero, once a descent has ended,
_VISIBLE = 1e-4  # and during a descent
_GAP = 8.0  # ratio of neighbouring singular values that may separate a solution's from vanishing ones
_RETURNS = 20  # projections back to the interpolators
_UNSEEN = 1e-12  # eigenvalues of sum_i A_i A_i^T below this part of the largest are of directions that nothing sees
_NEAR = 0.1  # a finish that moves the matrix by more than this part of it has found another solution


@dataclass(frozen=True, kw_only=True)
class FlatnessCertificate(Certificate):
    """Certificate of a flattest interpolator; ``gap`` is the Lagrangian's gradient relative to the trace's, or the
    duality gap of the convex problem at depth 2.

    From depth 3 on the problem is not convex: a certified answer is a strict local minimum at full width, and the
    spread over starts is the evidence that it is global.

    Attributes:
        nu_low, nu_high: (...,) bounds on nu at the answer: below 1, no direction that raises the rank lowers the trace.
            0 if there is no such direction or the problem is convex, NaN if nothing is proved.
        traces: (..., starts) the trace at which each start ended; NaN if not certified. One value if the problem is
            convex (depth 2) or a sharp minimum was found without a descent.
    """

    nu_low: npt.NDArray[np.float64]
    nu_high: npt.NDArray[np.float64]
    traces: npt.NDArray[np.float64]

    @property
    def converged(self) -> npt.NDArray[np.bool_]:
        """Whether the answer interpolates, is stationary and is a strict local minimum, for each instance."""
        return np.asarray(super().converged & (self.nu_high < 1.0))

    @property
    def spread(self) -> npt.NDArray[np.float64]:
        """Highest over lowest certified trace, minus 1, (...,); NaN where no start was certified."""
        low = np.where(np.isnan(self.traces), np.inf, self.traces).min(-1)
        high = np.where(np.isnan(self.traces), -np.inf, self.traces).max(-1)
        known = np.isfinite(low) & np.isfinite(high)
        ratio = np.divide(high, low, out=np.ones_like(low), where=known & (low > 0.0))
        return np.where(known, ratio - 1.0, np.nan)

    def __str__(self) -> str:
        spread, proved = self.spread[~np.isnan(self.spread)], int(np.sum(self.nu_high < 1.0))
        return (
            f"{super().__str__()}, {proved} of {self.nu_high.size} strict local minima at full width, "
            f"spread over starts at most {spread.max() if spread.size else np.nan:.1e}"
        )


def min_hessian_trace(
    measurements: ArrayLike,
    labels: ArrayLike,
    depth: int = 3,
    width: int | Sequence[int] | None = None,
    *,
    starts: int | None = None,
    return_certificate: bool = False,
) -> Any:
    """Layers of the flattest interpolator, argmin { tr Hess L(W) : <A_i, W_L ... W_1> = b_i for all i } (equation 3).

    Args:
        measurements: (..., n, d_out, d_in), torch or numpy; computed in float64.
        labels: (..., n), with the same leading axes.
        depth: number of layers L, at least 2.
        width: one hidden width, or depth - 1 of them, each at least min(d_out, d_in); default max(d_out, d_in). It
            changes the shape of the answer, not the trace.
        starts: how many descents to compare at depth 3 and more. By default 3, and none if a low-rank interpolator is
            proved to be a sharp local minimum.
        return_certificate: return a :class:`Solution` that includes the certificate; without it, an uncertified answer
            warns.

    Returns:
        W_1 ... W_L, each (..., d_j, d_{j-1}) float64, or a :class:`Solution` of them.

    Raises:
        SolverError: no matrix satisfies the constraints, the depth or widths are invalid, or the input has the wrong
            shape or is not finite.

    Example:
        >>> import numpy as np
        >>> from flatdist import end_to_end, min_hessian_trace
        >>> measurements, truth = np.random.default_rng(0).standard_normal((40, 8, 8)), np.diag([1.0] + [0.0] * 7)
        >>> layers = min_hessian_trace(measurements, measurements[:, 0, 0], depth=3)
        >>> bool(np.allclose(end_to_end(layers), truth))
        True
    """
    instances = Instances(measurements, labels, "min_hessian_trace")
    widths = all_widths(depth, width, instances.matrix_shape[0], instances.matrix_shape[1], "min_hessian_trace")
    if starts is not None and starts < 1:
        raise SolverError(f"min_hessian_trace: starts must be at least 1 (got {starts})")
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        answers = instances.solved(partial(_solved, depth, starts))
    layers = []
    for j, (small, big) in enumerate(pairwise(widths)):
        layer = np.zeros((len(answers), big, small))
        for index, answer in enumerate(answers):
            rows, columns = answer.value[j].shape
            layer[index, :rows, :columns] = answer.value[j]
        layers.append(torch.from_numpy(layer.reshape(*instances.batch, big, small)))
    traces = np.full((len(answers), max((len(answer.traces) for answer in answers), default=1)), np.nan)
    for index, answer in enumerate(answers):
        traces[index, : len(answer.traces)] = answer.traces
    nu = np.array([answer.nu for answer in answers]).reshape(*instances.batch, 2)
    certificate = FlatnessCertificate(
        **vars(instances.certificate(answers)),
        nu_low=nu[..., 0],
        nu_high=nu[..., 1],
        traces=traces.reshape(*instances.batch, traces.shape[1]),
    )
    return Solution(layers, certificate).returned("min_hessian_trace", return_certificate)


@dataclass(frozen=True)
class _Answer(Answer[list[Array]]):
    """Layers of one instance, in its own units, the bracket of nu there, and the trace at which each start ended."""

    nu: tuple[float, float]
    traces: list[float]


def _solved(depth: int, starts: int | None, whole: torch.Tensor, labels: torch.Tensor, where: str) -> _Answer:
    d_out, d_in = whole.shape[1:]
    if not bool(labels.any()):  # M = 0 interpolates, with a trace of 0
        layers = [np.zeros((1, d_in)), *[np.zeros((1, 1))] * (depth - 2), np.zeros((d_out, 1))]
        return _Answer(layers, 0.0, 0.0, 0, (0.0, 0.0), [0.0])
    bases = []  # of the directions of the rows, (d_out, p), and of the columns, (d_in, q), that are measured
    for axis in (2, 1):
        values, vectors = np.linalg.eigh(np.tensordot(whole.numpy(), whole.numpy(), ((0, axis), (0, axis))))
        bases.append(vectors[:, values >= _UNSEEN * values[-1]])
    seen_out, seen_in = bases
    partly = (seen_out.shape[1], seen_in.shape[1]) != (d_out, d_in)
    stack = torch.from_numpy(seen_out.T @ whole.numpy() @ seen_in) if partly else whole
    constraints = constraints_of(stack, labels, where)
    answer = _convex(constraints) if depth == 2 else _Search(constraints, depth).answer(starts)
    if partly:
        first, *middle, last = answer.value
        answer = replace(answer, value=[first @ seen_in.T, *middle, seen_out @ last])
    return answer


def _convex(constraints: Constraints) -> _Answer:
    """Depth 2 by Theorem 5: M minimises 4 || S_out^{1/2} M S_in^{1/2} ||_*, a nuclear norm in other coordinates.

    With N = S_out^{1/2} M S_in^{1/2} = U Lambda V^T the layers are W_2 = S_out^{-1/2} U Lambda^{1/2} and
    W_1 = Lambda^{1/2} V^T S_in^{-1/2}.
    """
    every = constraints.every
    stack = every.stack.numpy()
    (a, u), (b, v) = (np.linalg.eigh(moment) for moment in second_moments(stack))
    left, right = (u / np.sqrt(a)) @ u.T, (v / np.sqrt(b)) @ v.T
    weighted, proof = min_nuclear_norm(left @ stack @ right, every.labels.numpy(), return_certificate=True)
    u, spectrum, v = np.linalg.svd(weighted.numpy(), full_matrices=False)
    root = np.sqrt(spectrum)
    layers = [root[:, None] * (v @ right), left @ (u * root)]
    violation, gap = constraints.violation(torch.from_numpy(layers[1] @ layers[0])), float(proof.gap)
    trace = 4.0 * float(spectrum.sum()) if max(violation, gap) <= TOLERANCE else np.nan
    return _Answer(layers, violation, gap, int(proof.iterations), (0.0, 0.0), [trace])


@dataclass(frozen=True)
class _End:
    """Where a start ended: a point, the bracket of nu there (NaN where nothing is proved), and the steps taken."""

    point: Point
    nu: tuple[float, float]
    stationarity: float
    steps: int = 0

    @property
    def proved(self) -> bool:
        return self.nu[1] < 1.0 and max(self.point.violation, self.stationarity) <= TOLERANCE

    @property
    def order(self) -> tuple[bool, float]:
        """Proved ends first, the lowest trace before all; the others by how far they are from stationary."""
        return not self.proved, self.point.trace if self.proved else max(self.point.violation, self.stationarity)


@dataclass(frozen=True)
class _Saddle:
    """A point from which F falls along ``direction``, which raises the rank; None where more hidden units may do."""

    point: Point
    multipliers: Array
    direction: Array | None


class _Search:
    """The flattest interpolator of one instance at depth 3 or more, in units in which everything is of order one."""

    def __init__(self, constraints: Constraints, depth: int) -> None:
        self.constraints = constraints
        stack = constraints.every.stack.numpy()
        self.size = float(np.sqrt(np.mean(stack**2)))
        smallest = constraints.project(constraints.rows.new_zeros(constraints.shape)).numpy()
        self.scale = float(np.linalg.norm(smallest))
        self.smallest = smallest / self.scale  # the interpolator of smallest Frobenius norm
        rows = np.eye(stack[0].size) if constraints.determined else constraints.whitened[0].numpy()
        self.problem = ScaledProblem(depth, stack / self.size, rows, rows @ self.smallest.ravel())
        self.judged: list[tuple[Array, _End | None]] = []
        self.proved: list[_End] = []
        self.floor = 0  # the rank of the saddle that the present descent has left

    def answer(self, starts: int | None) -> _Answer:
        """The lowest proved end of all starts."""
        found = self.without_descent()
        ends = [] if found is None else [found]
        if not (self.constraints.determined or (found is not None and starts is None)):
            for start in self.starts((starts or _STARTS) - len(ends)):
                ends.append(self.descent(*start))
                self.proved = [end for end in ends if end.proved]
        best = min(ends, key=lambda end: end.order)
        factor = self.scale ** (1.0 / self.problem.depth)
        unit = self.size**2 * self.scale ** (2.0 - 2.0 / self.problem.depth)
        return _Answer(
            [factor * layer for layer in best.point.layers],
            self.constraints.violation(torch.from_numpy(self.scale * best.point.matrix)),
            best.stationarity,
            sum(end.steps for end in ends),
            best.nu,
            [unit * end.point.trace if end.proved else np.nan for end in ends],
        )

    # Stage 1: a low-rank interpolator that is proved the answer

    def without_descent(self) -> _End | None:
        """The one interpolator, or a low-rank one that is a sharp local minimum."""
        if self.constraints.determined:
            return self.judge(self.smallest, determined=True)
        rank, shape, m = _rank(self.nuclear, _RANKED), self.problem.shape, len(self.problem.rows)
        end = self.judge(_cut(self.nuclear, rank)) if degrees_of_freedom(rank, shape) <= m else None
        for fewer in range(1, min(shape)):  # one near it may recover where the nuclear norm just fails
            if end is not None or degrees_of_freedom(fewer, shape) >= m:
                break
            end = self.planted(self.nuclear, fewer, near=np.inf)
        return end

    @cached_property
    def nuclear(self) -> Array:
        """The interpolator of smallest nuclear norm."""
        return nuclear_norm_minimum(self.constraints).value.numpy() / self.scale

    def planted(self, matrix: Array, rank: int, near: float = _NEAR) -> _End | None:
        """The interpolator of a rank that the constraints determine, near a matrix, if it is the answer."""
        start = LowRank.truncated(torch.from_numpy(self.scale * matrix), rank)
        point, misfit, _ = interpolate(self.constraints, start)
        found = point.matrix.numpy() / self.scale
        if misfit > EXACT or np.linalg.norm(found - matrix) > near * np.linalg.norm(matrix):
            return None
        return self.judge(found)

    def judge(self, matrix: Array, determined: bool = False) -> _End | None:
        """An interpolator of low rank with its layers of least trace; None where it is no sharp local minimum."""
        for other, verdict in self.judged:
            if np.linalg.norm(other - matrix) <= 1e-8:
                return verdict
        layers, nu = minimise_along_geodesics(matrix, self.problem.stack, self.problem.depth)[1], (np.nan, np.nan)
        if layers is not None:
            nu = (0.0, 0.0) if determined else self.nu(matrix)[:2]
        elif determined:
            layers = _balanced(matrix, min(matrix.shape), self.problem.depth)
        end = None
        if layers is not None and (determined or nu[1] < 1.0):
            point = Point(self.problem, layers)
            end = _End(point, nu, point.stationarity(point.nearest_multipliers()))
        self.judged.append((matrix, end))
        return end

    def nu(self, matrix: Array, smooth: bool = False) -> tuple[float, float, Array | None]:
        """Bounds on nu at an interpolator, narrowed until they decide, and the direction in which F changes least."""
        problem = self.problem
        try:
            condition = normal_condition(matrix, problem.stack, problem.depth, rows=problem.row_stack, smooth=smooth)
        except SolverError:  # F is not attained
            return np.nan, np.nan, None
        if condition is None:
            return np.inf, np.inf, None
        low, high, normal = condition.bracket(1e-3, decide=True)
        return low, high, condition.direction(normal) if normal.size else None

    # Stage 2: descents

    def starts(self, count: int) -> Iterator[tuple[Array, int, float]]:
        """Interpolators to descend from (random ones: as far from the smallest as it is from 0), widths, penalties."""
        shape, m = self.problem.shape, len(self.problem.rows)
        least = next((rank for rank in range(1, min(shape)) if degrees_of_freedom(rank, shape) >= m), min(shape))
        for start in range(count):
            width = max([least + _SPARE, *(end.point.k + 1 for end in self.proved)])  # room beside an answer
            if start == 0:
                matrix, width = self.nuclear, max(width, _rank(self.nuclear, _RANKED) + 1)
            elif start == 1:
                matrix = self.smallest
            else:
                noise = np.random.default_rng(start).standard_normal(self.smallest.size) / np.sqrt(self.smallest.size)
                free = noise - self.problem.rows.T @ (self.problem.rows @ noise)
                matrix = self.smallest + free.reshape(self.smallest.shape)
            yield matrix, min(width, *shape), _FIRMNESS[start % len(_FIRMNESS)]

    def descent(self, matrix: Array, width: int, firmness: float) -> _End:
        """Descend from the balanced layers of a matrix, out of every saddle on the way."""
        layers = _balanced(matrix, width, self.problem.depth)
        multipliers, steps, self.floor = np.zeros(len(self.problem.rows)), 0, 0
        for _ in range(_GROWTHS):
            end = descend(
                Point(self.problem, layers), multipliers, firmness * self.problem.unit,
                tolerance=_FINISHED, steps=_STEPS, inspect=self.inspect,
            )  # fmt: skip
            steps += end.steps
            rank = min(max(_rank(end.point.matrix, _RANKED), self.floor + 1), end.point.k)
            found = end.found or self.finish(end.point, end.multipliers, rank)
            while isinstance(found, _Saddle):
                layers, multipliers, firmness = self.grown(found), found.multipliers, _FIRMNESS[0]
                self.floor = 0 if found.direction is None else found.point.k
                if found.direction is None:
                    break
                past = self.finish(Point(self.problem, layers), multipliers, found.point.k + 1)  # the rank is known
                if past is None or past.point.trace >= found.point.trace:
                    break
                found = past
            if isinstance(found, _End):
                return replace(found, steps=steps)
            if found is None:
                break
        return _End(end.point, (np.nan, np.nan), end.point.stationarity(end.multipliers), steps)

    def inspect(self, point: Point, multipliers: Array) -> _End | _Saddle | None:
        """Finish a descent at one of the ranks that its iterate shows; None where none of them is the answer."""
        spectrum = np.linalg.svd(point.matrix, compute_uv=False)[: point.k]
        ratios = spectrum[:-1] / np.maximum(spectrum[1:], 1e-12 * spectrum[0])
        least = min(self.floor + 1, point.k)
        visible = max(least, int(np.sum(spectrum > _VISIBLE * spectrum[0])))
        near = _SAME * np.linalg.norm(point.matrix)
        known = [end.point.k for end in self.proved if np.linalg.norm(end.point.matrix - point.matrix) <= near]
        ranks = [*known, *(np.flatnonzero(ratios > _GAP)[:2] + 1).tolist(), visible]
        for rank in dict.fromkeys(rank for rank in ranks if least <= rank <= point.k):
            fixed = degrees_of_freedom(rank, self.problem.shape) < len(self.problem.rows)
            found = self.planted(point.matrix, rank) if fixed else self.finish(point, multipliers, rank)
            if isinstance(found, _End) or (found is not None and rank == visible):
                return found
        if visible == point.k < min(self.problem.shape):  # every hidden unit is in use, and that is no minimum
            return _Saddle(point, multipliers, None)
        return None

    def finish(self, point: Point, multipliers: Array, rank: int) -> _End | _Saddle | None:
        """Newton's iteration at a rank, from a descent's iterate cut to it; None where it does not converge nearby."""
        end = descend(
            Point(self.problem, _truncated(point.layers, rank)), multipliers, 50.0 * _FIRMNESS[0] * self.problem.unit,
            tolerance=_FINISHED, steps=_FINISHING,
        )  # fmt: skip
        moved = np.linalg.norm(end.point.matrix - point.matrix)
        near = moved <= _NEAR * np.linalg.norm(point.matrix)
        near &= abs(end.point.trace - point.trace) <= 0.02 * point.trace
        if not near or end.residual > 10.0 * _FINISHED or not end.point.is_minimum(end.multipliers):
            return None
        low, high, direction = self.nu(end.point.matrix, smooth=True)
        if high < 1.0:
            return _End(end.point, (low, high), end.residual)
        return _Saddle(end.point, end.multipliers, direction) if low > 1.0 and direction is not None else None

    def grown(self, saddle: _Saddle) -> list[Array]:
        """Layers past a saddle, at the lowest of several interpolators in the direction in which F falls.

        In layers the saddle may be a local minimum (a hidden unit that is zero costs quadratically and gives
        cubically), so the start must lie beyond: an interpolator whose own least trace is below the saddle's.
        """
        rank = saddle.point.k + 1
        width = min(rank + 2, *self.problem.shape)
        if saddle.direction is None:
            return _widened(saddle.point.layers, width)
        size = float(np.linalg.svd(saddle.point.matrix, compute_uv=False)[saddle.point.k - 1])
        found = []
        for length in size * np.array([1.0, 0.3, 0.1, 0.03, 0.01, 0.003]):
            ahead = _cut(saddle.point.matrix + length * saddle.direction, rank)
            for _ in range(_RETURNS):
                miss = self.problem.rows @ ahead.ravel() - self.problem.target
                ahead = _cut(ahead - (miss @ self.problem.rows).reshape(ahead.shape), rank)
            trace, layers = minimise_along_geodesics(ahead, self.problem.stack, self.problem.depth)
            found += [] if layers is None else [(trace, layers)]
        if found:
            return _widened(min(found, key=lambda end: end[0])[1], width)
        return _balanced(_cut(saddle.point.matrix + 0.1 * size * saddle.direction, rank), width, self.problem.depth)


def _rank(matrix: Array, threshold: float) -> int:
    spectrum = np.linalg.svd(matrix, compute_uv=False)
    return int(np.sum(spectrum > threshold * spectrum[0]))


def _cut(matrix: Array, rank: int) -> Array:
    left, spectrum, right = np.linalg.svd(matrix, full_matrices=False)
    return np.asarray((left[:, :rank] * spectrum[:rank]) @ right[:rank])


def _balanced(matrix: Array, width: int, depth: int) -> list[Array]:
    """Lemma 4's layers, with singular values of at least a thousandth of the largest, cut to a hidden width."""
    left, spectrum, right = np.linalg.svd(matrix, full_matrices=False)
    full = (left * np.maximum(spectrum, 1e-3 * spectrum[0])) @ right
    first, *middle, last = (layer.numpy() for layer in balanced_factorization(full, depth))
    return [first[:width], *(layer[:width, :width] for layer in middle), last[:, :width]]


def _truncated(layers: list[Array], rank: int) -> list[Array]:
    """Layers of hidden width ``rank``, each hidden space cut to the leading directions that the input reaches."""
    reached, cut, entering = layers[0], [], layers[0]
    for layer in layers[1:]:
        frame = np.linalg.svd(reached, full_matrices=False)[0][:, :rank]  # (k, rank)
        cut.append(frame.T @ entering)
        reached, entering = layer @ reached, layer @ frame
    return [*cut, entering]


def _widened(layers: list[Array], width: int) -> list[Array]:
    """The layers with further hidden units: middle layers let them through, the ends hardly use them."""
    generator, rank = np.random.default_rng(0), len(layers[0])
    wide = []
    for j, layer in enumerate(layers):
        shape = len(layer) if j == len(layers) - 1 else width, width if j else layer.shape[1]
        wider = 1e-3 * np.sqrt(np.mean(layer**2)) * generator.standard_normal(shape)
        wider[: len(layer), : layer.shape[1]] += layer
        if 0 < j < len(layers) - 1:
            spare = np.arange(rank, width)
            wider[spare, spare] += 0.5 * np.linalg.norm(layer, 2)
        wide.append(wider)
    return wide
